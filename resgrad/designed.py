"""Losses that are designed: with another activation (`KernelLoss`), and Ge, Lee & Ma's (`GeLeeMaLoss`).

"Learning one-hidden-layer neural networks with landscape design" (arXiv 1711.00501) keeps a relu teacher's labels
and changes the loss that the student descends.  `hermite_spectrum` says in which degrees a loss sits.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from . import checks, duals, losses
from .architectures import Architecture, Network
from .kernels.policy import quiet

BATCH = 200  # samples, unless said otherwise


class KernelLoss(losses._TeacherLoss):
    """Exact expected loss for x ~ N(0, I) of networks with another activation: value, gradient and Hessian.

    Parameters
    ----------
    arch : Architecture or str
        The student's.  Its units are |u| f(u^'x) instead of relu(u'x), and so are the teacher's.
    teacher : Network
        As for `PopulationLoss`.
    kernel : {"relu", "even", "hermite24", "hermite2", "hermite4"}
        E[f(u'x) f(v'x)] as a function of c, the cosine of u and v.  ``relu`` is `PopulationLoss`, ``even`` has
        f = |t| / 2, ``hermite24`` relu's parts of degrees 2 and 4 in Hermite polynomials (the f' of Ge, Lee & Ma);
        ``hermite2`` and ``hermite4`` are c^2 and c^4.
    unit_rows : bool
        Whether each unit counts by its direction u^ alone.  The gradient then has no part along u, and `train`
        sets |u| = 1 after each step, by `retract`.

    Raises
    ------
    ValueError, TypeError
        For an unknown kernel, a student with other slopes than relu's or with biases, and as `PopulationLoss`.

    Notes
    -----
    Formulas (a)-(d) of ``resgrad.duals`` in (8)-(17) of ``resgrad.kernels``.  Rounding leaves about 1e-16 of
    E|F*|^2 where the loss is zero; `PopulationLoss` has more digits.

    Examples
    --------
    From this start, descent on relu's loss ends in a spurious minimum:

    >>> import numpy as np, resgrad as rg
    >>> loss = rg.KernelLoss("vanilla", rg.Network("vanilla", np.eye(10).ravel(), d=10), "hermite24", unit_rows=True)
    >>> run = rg.train(loss, rg.draw("vanilla", "normal", d=10, rng=6), rg.Nesterov(0.5, 0.9), 1000)
    >>> bool(run.loss[-1] < 1e-14)
    True
    >>> bool(rg.align("vanilla", abs(run.theta), np.eye(10).ravel(), d=10).distance < 1e-6)  # f(-t) = f(t)
    True
    """

    dtype = np.dtype(np.float64)

    def __init__(self, arch: Architecture | str, teacher: Network, kernel: str = "relu", unit_rows: bool = False):
        super().__init__(arch, teacher)
        self.kernel, self.dual = kernel, duals.DUALS[checks.choice(kernel, "kernel", duals.DUALS)]
        if not isinstance(unit_rows, bool):
            raise TypeError(f"unit_rows is {checks.shown(unit_rows)}, but must be True or False")
        if self.arch.slopes != (1, 0) or self.arch.bias or self.teacher.arch.bias:
            raise ValueError(f"arch is {self.arch.name}, but a kernel needs units relu(u'x) to replace")
        self.unit_rows = unit_rows
        self._constant = duals.teacher_constant(self.dual, *self.units_star[:2])

    def _network(self, theta):
        """(U, A, D = C - C*, |u|) as the formulas take them: with ``unit_rows`` U's columns are directions."""
        U, A, C = self.arch.canonical(self._theta(theta), self.d)
        D = self.units_star[2] + (C if self.arch.trains_skip else 0)
        norm = np.linalg.norm(U, axis=0) if self.unit_rows else np.ones(U.shape[1])
        norm = np.where(norm > 0, norm, 1.0)  # a unit with u = 0 has no direction, and adds nothing
        return U / norm, A, D, norm

    def _pull_back(self, U, norm, dU, dA, dC):
        """The gradient in theta."""
        if self.unit_rows:
            dU = (dU - U * np.sum(U * dU, axis=0)) / norm
        return losses._finite(self.arch.pull_back(dU, dA, dC), "gradient")

    def value_and_grad(self, theta: ArrayLike) -> tuple[float, np.ndarray]:
        """(value, gradient) at ``theta``, as ``scipy.optimize.minimize(..., jac=True)`` wants it."""
        U, A, D, norm = self._network(theta)
        value, *gradient = duals.dual_gradient(self.dual, U, A, *self.units_star[:2], D, self._constant)
        return max(float(value), 0.0), self._pull_back(U, norm, *gradient)

    def hessian(self, theta: ArrayLike) -> np.ndarray:
        """The exact Hessian at ``theta``, shape (n, n), symmetric."""
        U, A, D, norm = self._network(theta)
        full = duals.dual_hessian(self.dual, U, A, *self.units_star[:2], D)
        if self.unit_rows:
            dU = duals.dual_gradient(self.dual, U, A, *self.units_star[:2], D, self._constant)[1]
            full = _of_directions(full, U, dU, norm)
        return self._in_theta(losses._finite(full, "Hessian"), U.size, A.size)

    def _in_theta(self, full, units, outputs):
        """The Hessian in theta from the one in (U, A, C), whose first two blocks have these sizes."""
        sources = {"fixed": np.arange(0), "sum": np.repeat(np.arange(outputs), self.d), "vector": np.arange(outputs)}
        after = np.arange(units + outputs, len(full) if self.arch.trains_skip else 0)
        index = np.concatenate([np.arange(units), units + sources[self.arch.readout], after])  # (5)
        return full[np.ix_(index, index)]

    def retract(self, theta: ArrayLike) -> np.ndarray:
        """The same function with units of length 1, if ``unit_rows``: where `train` goes on after each step."""
        theta = self._theta(theta).copy()
        if self.unit_rows:
            W1 = self.arch.unflatten(theta, self.d).W1
            U = W1 + self.arch.identity * np.eye(*W1.shape)
            norm = np.linalg.norm(U, axis=0)
            W1 += U * (1 / np.where(norm > 0, norm, 1.0) - 1)
        return theta

    def batch(self, batch_size: int = BATCH, rng: np.random.Generator | int | None = None) -> "KernelBatch":
        """The loss on ``batch_size`` fresh samples, labeled by relu's teacher, from ``rng`` (a Generator or a seed)."""
        return KernelBatch(self, checks.integer(batch_size, "batch_size"), checks.generator(rng))


class KernelBatch(losses._Loss):
    """Mean squared error over fresh samples with the labels of a relu teacher; its gradient is unbiased.

    The value is that of `KernelLoss` in expectation, plus what the labels have and f has not, a constant.  (Labels
    for ``hermite2`` and ``hermite4`` are scaled so that they have f's part.)
    """

    def __init__(self, loss, batch_size, rng):
        self.loss, self.arch, self.d, self.dtype = loss, loss.arch, loss.d, loss.dtype
        U_star, A_star, _ = loss.units_star
        self.X = rng.standard_normal((batch_size, loss.d))
        self.T = loss.dual.labels * (np.maximum(self.X @ U_star, 0) @ A_star)
        if loss.arch.trains_skip:  # else C would learn the labels' linear part, which f lacks
            self.T -= (1 - loss.dual.slope) * loss.dual.labels / 2 * (self.X @ (U_star @ A_star))

    @quiet
    def value_and_grad(self, theta: ArrayLike) -> tuple[float, np.ndarray]:
        """(value, gradient) at ``theta``."""
        U, A, D, norm = self.loss._network(theta)
        length = np.linalg.norm(U, axis=0)
        u = U / np.where(length, length, 1)
        t = self.X @ u
        f, slope = self.loss.dual.activation(t)
        r = (length * f) @ A + self.X @ D - self.T  # (2)
        back = 2 / len(self.X) * (r @ A.T)
        dU = self.X.T @ (back * slope) + u * np.sum(back * (f - t * slope), axis=0)  # |u| f(u^'x), differentiated
        dA, dC = (2 / len(self.X) * (part.T @ r) for part in (length * f, self.X))
        return float(np.mean(np.sum(r * r, axis=1))), self.loss._pull_back(U, norm, dU * (length > 0), dA, dC)


def _of_directions(full, U, dU, norm):
    """The Hessian of L(u_1 / |u_1|, ...) from the one of L and its gradient ``dU`` at the directions ``U``.

    With P = I - u^ u^', a block P H P / |u|^2 also gets -((u^.g) P + u^ (P g)' + (P g) u^') / |u|^2.
    """
    d, k = U.shape
    flat = (np.eye(d) - U.T[:, :, None] * U.T[:, None, :]) / norm[:, None, None]
    J = np.eye(len(full))
    square = J[: d * k, : d * k].reshape(d, k, d, k)
    along = np.sum(U * dU, axis=0) / norm
    across = np.einsum("jie,ej->ji", flat, dU) / norm[:, None]
    both = U.T[:, :, None] * across[:, None, :]
    bend = along[:, None, None] * flat + both + both.transpose(0, 2, 1)
    own = np.arange(k)
    square[:, own, :, own] = flat
    full = J.T @ full @ J
    corner = np.zeros((d, k, d, k))
    corner[:, own, :, own] = bend
    full[: d * k, : d * k] -= corner.reshape(d * k, d * k)
    return (full + full.T) / 2


class GeLeeMaLoss:
    """G(B) of Ge, Lee & Ma (2017), exact for x ~ N(0, I): value, gradient and Hessian.

    Parameters
    ----------
    teacher : Network
        Of one output, with units b*_i of positive strength a_i = |u_i| a*_i.  Their theorem is for orthonormal b*_i.
    mu, lam : float
        Positive.  For small mu and large lam all local minima are b_j = D_j b*_p(j), p a permutation,
        D_j^2 = lam / (lam - cR mu a_p(j)): then the loss is `floor`.

    Attributes
    ----------
    floor : float
        Its value at these minima.

    Raises
    ------
    ValueError, TypeError
        For another teacher, and mu and lam out of range.

    Notes
    -----
    theta is B (k, d), row-major; its rows b_j are the student's units.  With B_ji = b_j . b*_i, S_i = sum_j B_ji^2,
    n_j = |b_j|^2, cP = sqrt(6) |s_4|, cR = |s_4| / sqrt(24) and relu's coefficient s_4 = -1 / sqrt(48 pi),

        G = cP sum_i a_i (S_i^2 - sum_j B_ji^4) - cR mu sum_ij a_i B_ji^4 + lam sum_j (n_j - 1)^2
        dG/dB_ji = 4 cP a_i B_ji (S_i - B_ji^2) - 4 cR mu a_i B_ji^3 + 4 lam (n_j - 1) B_ji

    in the coordinates b*.  It is not a squared error, and may be negative.  `batch` has it from samples.

    Examples
    --------
    >>> import numpy as np, resgrad as rg
    >>> loss = rg.GeLeeMaLoss(rg.Network("vanilla", np.eye(10).ravel(), d=10), mu=0.1, lam=1.0)
    >>> run = rg.train(loss, rg.draw("vanilla", "normal", d=10, rng=6), rg.Nesterov(0.05, 0.9), 2000)
    >>> bool(run.loss[-1] - loss.floor < 1e-13)
    True
    >>> rg.designed.recovery_error(run.theta.reshape(10, 10), np.eye(10)) < 1e-7
    True
    """

    dtype = np.dtype(np.float64)
    cP, cR = math.sqrt(6) * abs(duals.S4), abs(duals.S4) / math.sqrt(24)

    def __init__(self, teacher: Network, mu: float = 0.1, lam: float = 1.0):
        if not isinstance(teacher, Network):
            raise TypeError(f"teacher is {checks.shown(teacher)}, but must be a resgrad.Network")
        self.teacher, self.d = teacher, teacher.d
        self.mu, self.lam = checks.real(mu, "mu", above=0), checks.real(lam, "lam", above=0)
        U, A, _ = teacher.canonical()
        length = np.linalg.norm(U, axis=0)
        if A.shape[1] > 1 or teacher.arch.bias or teacher.arch.slopes != (1, 0) or not (A[:, 0] * length > 0).all():
            raise ValueError(f"teacher {teacher.arch.name} must have one output, a_i > 0 and units relu(u'x), u != 0")
        self.rows_star, self.strength = (U / length).T, A[:, 0] * length  # b*_i (k*, d) and a_i
        part = self.cR * self.mu * self.strength
        self.floor = float(-np.sum(self.lam * part / (self.lam - part)))

    def _theta(self, theta):
        """theta as a finite vector."""
        theta = checks.array(theta, "theta", ("n",))
        if theta.size == 0 or theta.size % self.d:
            raise ValueError(f"theta has shape {theta.shape}, but B with d={self.d} needs a multiple of {self.d}")
        return theta

    def _rows(self, theta):
        return self._theta(theta).reshape(-1, self.d)

    def shapes(self, theta: ArrayLike) -> dict[str, tuple[int, int]]:
        """``{"B": (k, d)}``."""
        return {"B": self._rows(theta).shape}

    def value(self, theta: ArrayLike) -> float:
        """G at ``theta``, a float."""
        return self.value_and_grad(theta)[0]

    def grad(self, theta: ArrayLike) -> np.ndarray:
        """The gradient at ``theta``, shape (n,)."""
        return self.value_and_grad(theta)[1]

    @quiet
    def value_and_grad(self, theta: ArrayLike) -> tuple[float, np.ndarray]:
        """(value, gradient) at ``theta``."""
        B, a = self._rows(theta), self.strength
        inner = B @ self.rows_star.T  # B_ji
        square = inner * inner
        S, n = square.sum(axis=0), np.sum(B * B, axis=1) - 1
        value = self.cP * a @ (S * S) - (self.cP + self.cR * self.mu) * np.sum(square * square @ a)
        dinner = 4 * a * inner * (self.cP * S - (self.cP + self.cR * self.mu) * square)
        gradient = dinner @ self.rows_star + 4 * self.lam * n[:, None] * B
        return float(value + self.lam * n @ n), losses._finite(gradient.ravel(), "gradient")

    @quiet
    def hessian(self, theta: ArrayLike) -> np.ndarray:
        """The exact Hessian at ``theta``, shape (n, n)."""
        B, a = self._rows(theta), self.strength
        inner, own = B @ self.rows_star.T, np.arange(len(B))
        S, n = np.sum(inner * inner, axis=0), np.sum(B * B, axis=1) - 1
        pairs = 8 * self.cP * a * inner[:, None, :] * inner[None, :, :]
        pairs[own, own] = 4 * a * (self.cP * S - (self.cP + 3 * self.cR * self.mu) * inner**2)
        blocks = np.einsum("jli,ix,iy->jxly", pairs, self.rows_star, self.rows_star, optimize=True)
        rest = n[:, None, None] * np.eye(self.d) + 2 * B[:, :, None] * B[:, None, :]
        blocks[own, :, own, :] += 4 * self.lam * rest
        return losses._finite(blocks.reshape(B.size, B.size), "Hessian")

    def batch(self, batch_size: int = BATCH, rng: np.random.Generator | int | None = None) -> "GeLeeMaBatch":
        """G from ``batch_size`` fresh samples, unbiased, from ``rng`` (a Generator or a seed)."""
        return GeLeeMaBatch(self, checks.integer(batch_size, "batch_size"), checks.generator(rng))


class GeLeeMaBatch:
    """G from samples x and the teacher's labels y alone, with

        G = -(E[y sum_{j != k} phi(b_j, b_k, x)] - mu E[y sum_j phi1(b_j, x)]) + lam sum_j (n_j - 1)^2
        phi(v, w, x) = |v|^2|w|^2/2 + (v.w)^2 - |w|^2 (v.x)^2/2 - |v|^2 (w.x)^2/2 - 2 (v.x)(w.x)(v.w) + (v.x)^2(w.x)^2/2
        phi1(v, x) = |v|^4/8 - |v|^2 (v.x)^2/4 + (v.x)^4/24.

    As phi(v, v, x) = 12 phi1(v, x), the sum over all pairs, in M = B'B, less 12 phi1 of each row, is the first sum:

        sum_jk phi(b_j, b_k, x) = (tr M - x'M x)^2 / 2 + tr M^2 - 2 x'M^2 x.
    """

    def __init__(self, loss, batch_size, rng):
        self.loss = loss
        self.X = rng.standard_normal((batch_size, loss.d))
        self.y = loss.teacher(self.X)

    @quiet
    def value_and_grad(self, theta: ArrayLike) -> tuple[float, np.ndarray]:
        """(value, gradient) at ``theta``."""
        B, X, y, loss = self.loss._rows(theta), self.X, self.y / len(self.y), self.loss
        M, n, T = B.T @ B, np.sum(B * B, axis=1), X @ B.T
        square, total = T * T, y.sum()
        gap = n.sum() - square.sum(axis=1)  # tr M - x'M x
        moment = (X.T * y) @ X
        pairs = y @ gap**2 / 2 + total * np.sum(M * M) - 2 * np.sum(M * (M @ moment))
        weight = y * gap
        dM = weight.sum() * np.eye(loss.d) - (X.T * weight) @ X + 2 * total * M - 2 * (M @ moment + moment @ M)
        second, fourth = y @ square, y @ (square * square)
        own = total * n**2 / 8 - n * second / 4 + fourth / 24
        cubes = (square * T * y[:, None]).T @ X
        down = (total * n / 2 - second / 2)[:, None] * B - n[:, None] / 2 * (B @ moment) + cubes / 6
        value = -(pairs - (12 + loss.mu) * own.sum()) + loss.lam * np.sum((n - 1) ** 2)
        gradient = -(2 * B @ dM - (12 + loss.mu) * down) + 4 * loss.lam * (n - 1)[:, None] * B
        return float(value), gradient.ravel()


def recovery_error(B: np.ndarray, B_star: np.ndarray) -> float:
    """Ge, Lee & Ma's error e(Q) of rows ``B`` (k, d), given the teacher's ``B_star`` (k*, d); 0 where they agree.

    Q = B B*' for rows of length 1, and e(Q) = min(1 - min_i max_j |Q_ij|, 1 - min_j max_i |Q_ij|).

    >>> recovery_error(np.array([[0.0, -2.0], [1.0, 0.0]]), np.eye(2))
    0.0
    """
    unit, unit_star = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (B, B_star))
    Q = np.abs(unit @ unit_star.T)
    return float(1 - max(Q.max(axis=0).min(), Q.max(axis=1).min()))


class HermiteSpectrum(NamedTuple):
    """How much of a loss sits in each degree: see `hermite_spectrum`."""

    parts: np.ndarray  # (degrees + 1,), from degree 0 on
    rest: float  # in all higher degrees


@quiet
def hermite_spectrum(
    loss: losses.PopulationLoss | losses.OnlineLoss | KernelLoss, theta: ArrayLike, degrees: int = 12
) -> HermiteSpectrum:
    """How much of an expected loss sits in each degree of the Hermite polynomials.

    Student minus teacher is a network with units Z, read-out Q and linear part D (``resgrad.kernels``), and

        loss = sum_k s_k^2 |sum_l |z_l| q_l (x) z_l^ (x) ... (x) z_l^|^2     (k factors z^; + D / s_1 for k = 1),

    as the parts of different degree are orthogonal.  (Ge, Lee & Ma 2017 state it for unit rows, from O'Donnell 2014.)

    Parameters
    ----------
    loss : PopulationLoss, OnlineLoss or KernelLoss
    theta : array_like, shape (n,)
    degrees : int
        The highest one to be told apart.

    Returns
    -------
    HermiteSpectrum
        ``parts`` (degrees + 1,) and ``rest``, whose sum is the loss, to about 1e-16 of E|F*|^2.

    Raises
    ------
    ValueError, TypeError
        When theta does not fit, or for another loss.

    Examples
    --------
    >>> import numpy as np, resgrad as rg
    >>> loss = rg.PopulationLoss("vanilla", rg.Network("vanilla", np.eye(4).ravel(), d=4))
    >>> found = rg.hermite_spectrum(loss, -np.eye(4).ravel())  # relu(-z) and relu(z) differ in degree 1 alone
    >>> found.parts.round(12)[:5], round(found.rest, 12)
    (array([0., 4., 0., 0., 0.]), 0.0)
    """
    degrees = checks.integer(degrees, "degrees", 2)
    if isinstance(loss, losses.OnlineLoss):
        loss = loss.population
    if isinstance(loss, KernelLoss):
        (U, A, D, _), dual, scale, slope = loss._network(theta), loss.dual, 1.0, loss.dual.slope
    elif isinstance(loss, losses.PopulationLoss) and not (loss.arch.bias or loss.teacher.arch.bias):
        U, A, C = loss.arch.canonical(loss._theta(theta), loss.d)
        D, dual = loss.units_star[2] + (C if loss.arch.trains_skip else 0), duals.DUALS["relu"]
        scale, slope = (loss.arch.slopes[0] - loss.arch.slopes[1]) ** 2, sum(loss.arch.slopes)
    else:
        raise TypeError(f"loss is {checks.shown(loss)}, but must be an expected loss without biases")
    Z, Q = np.hstack([U, loss.units_star[0]]), np.vstack([A, -loss.units_star[1]])
    unit, length = duals.directions(Z.T)
    c, rest, _, _ = dual.at(unit, unit)
    weight, power, parts = scale * (Q @ Q.T) * np.outer(length, length), np.ones_like(c), np.zeros(degrees + 1)
    for k, square in enumerate(dual.squares(degrees)):
        parts[k] = max(square * np.sum(weight * power), 0.0)
        rest, power = rest - square * power, power * c
    parts[1] = np.sum((slope / 2 * (Z @ Q) + D) ** 2)
    return HermiteSpectrum(parts, max(float(np.sum(weight * rest)), 0.0))
