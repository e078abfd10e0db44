"""Expected losses of networks with another activation, and the parts of a loss by Hermite degree.

Ge, Lee & Ma, "Learning one-hidden-layer neural networks with landscape design" (arXiv 1711.00501), keep a relu
teacher's labels and change the loss that the student descends.  This is their first loss; ``gelee_ma`` has the other.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from . import checks, duals, losses
from .architectures import Architecture, Network
from .kernels.policy import quiet


class KernelLoss(losses._TeacherLoss):
    """Exact expected loss for x ~ N(0, I) of networks with another activation: value, gradient and Hessian.

    Parameters
    ----------
    arch : Architecture or str
        The student's.  Its units are |u| f(u^'x) instead of relu(u'x), and so are the teacher's.
    teacher : Network
        As for `PopulationLoss`.
    kernel : {"relu", "even", "hermite24", "hermite2", "hermite4"}
        E[f(u'x) f(v'x)] as a function of c, the cosine of u and v.  ``relu`` is `PopulationLoss`.  ``even`` has
        f = |t| / 2.  ``hermite24`` has relu's parts of degrees 2 and 4 in Hermite polynomials (the f' of Ge, Lee & Ma).
        ``hermite2`` and ``hermite4`` are c^2 and c^4.
    unit_rows : bool
        Whether a unit is replaced by its direction u^.  The gradient is then orthogonal to u, and `train` sets
        |u| = 1 after each step, by `retract`.

    Raises
    ------
    ValueError, TypeError
        For an unknown kernel, a student with other slopes than relu's, biases in either, and as `PopulationLoss`.

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

    def __init__(self, arch: Architecture | str, teacher: Network, kernel: str = "relu", unit_rows: bool = False):
        super().__init__(arch, teacher)
        self.kernel, self.dual = kernel, duals.DUALS[checks.choice(kernel, "kernel", duals.DUALS)]
        if not isinstance(unit_rows, bool):
            raise TypeError(f"unit_rows is {checks.shown(unit_rows)}, but must be True or False")
        if self.arch.slopes != (1, 0) or self.biased:
            own = self.arch.slopes != (1, 0) or self.arch.bias
            told = f"arch is {self.arch.name}" if own else f"teacher is a {teacher.arch.name}"
            raise ValueError(f"{told}, but a kernel needs units relu(u'x) to replace")
        self.unit_rows = unit_rows
        self._constant = duals.teacher_constant(self.dual, *self.units_star[:2])

    def _network(self, theta):
        """(U, A, D = C - C*, |u|) for the formulas; with ``unit_rows`` U holds directions, else 1 stands for |u|."""
        U, A, C = self._weights(theta)
        norm = np.linalg.norm(U, axis=0) if self.unit_rows else np.ones(U.shape[1])
        norm = np.where(norm > 0, norm, 1.0)  # a unit with u = 0 adds nothing
        return U / norm, A, self._gap(C), norm

    def _pull_back(self, U, norm, dU, dA, dC):
        """The gradient in theta."""
        if self.unit_rows:
            dU = (dU - U * np.sum(U * dU, axis=0)) / norm
        return losses._finite(self.arch.pull_back(dU, dA, dC), "gradient")

    def value_and_grad(self, theta: ArrayLike) -> tuple[float, np.ndarray]:
        """(value, gradient) at ``theta``, as ``scipy.optimize.minimize(..., jac=True)`` takes it."""
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
        return self.arch.pull_back_hessian(losses._finite(full, "Hessian"), self.d, U.shape)

    def retract(self, theta: ArrayLike) -> np.ndarray:
        """theta with units of length 1, if ``unit_rows``: `train` goes on from there after each step."""
        theta = self._theta(theta).copy()
        if self.unit_rows:
            W1 = self.arch.unflatten(theta, self.d).W1
            U = W1 + self.arch.identity * np.eye(*W1.shape)
            norm = np.linalg.norm(U, axis=0)
            W1 += U * (1 / np.where(norm > 0, norm, 1.0) - 1)
        return theta

    def batch(self, batch_size: int = losses.BATCH, rng: np.random.Generator | int | None = None) -> "KernelBatch":
        """The loss on ``batch_size`` fresh samples, labeled by relu's teacher, from ``rng`` (a Generator or a seed)."""
        return KernelBatch(self, checks.integer(batch_size, "batch_size"), checks.generator(rng))


class KernelBatch(losses._Loss):
    """Mean squared error over fresh samples with the labels of a relu teacher; its gradient is unbiased.

    Its expectation is `KernelLoss` plus a constant, the part of the labels in degrees that f lacks.  (For ``hermite2``
    and ``hermite4`` the labels are scaled, so that they have f's coefficients.)
    """

    def __init__(self, loss, batch_size, rng):
        self.loss, self.arch, self.d = loss, loss.arch, loss.d
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
    """The Hessian of L(u_1 / |u_1|, ...) from the Hessian and the gradient ``dU`` of L at the directions ``U``.

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


class HermiteSpectrum(NamedTuple):
    """The parts of a loss by degree: see `hermite_spectrum`."""

    parts: np.ndarray  # (degrees + 1,), from degree 0 on
    rest: float  # the sum over all higher degrees


@quiet
def hermite_spectrum(
    loss: losses.PopulationLoss | losses.OnlineLoss | KernelLoss, theta: ArrayLike, degrees: int = 12
) -> HermiteSpectrum:
    """The parts of an expected loss by degree of the Hermite polynomials.

    Student minus teacher is a network with units Z, read-out Q and linear part D (``resgrad.kernels``), and

        loss = sum_k s_k^2 |sum_l |z_l| q_l (x) z_l^ (x) ... (x) z_l^|^2     (k factors z^; + D / s_1 for k = 1),

    since parts of different degrees are orthogonal.  (Ge, Lee & Ma 2017 state it for unit rows, from O'Donnell 2014.)

    Parameters
    ----------
    loss : PopulationLoss, OnlineLoss or KernelLoss
    theta : array_like, shape (n,)
    degrees : int
        The highest degree with a part of its own.

    Returns
    -------
    HermiteSpectrum
        ``parts`` (degrees + 1,) and ``rest``, whose sum is the loss without label noise, to about 1e-16 of E|F*|^2.
        Of correlated inputs x = L z the polynomials are those in z.

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
    elif isinstance(loss, losses.PopulationLoss) and not loss.biased:
        U, A, C = loss._weights(theta)
        D, dual = loss._gap(C), duals.DUALS["relu"]
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
