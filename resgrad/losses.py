"""The three losses: they check arguments and call the kernels.

All are E|F(x) - y|^2, summed over outputs, without a factor 1/2: over a data set (`EmpiricalLoss`), over fresh Gaussian
samples (`OnlineLoss`), or exactly (`PopulationLoss`).
"""

import dataclasses
import functools

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from . import architectures, blas, checks, draws, inputs, kernels, residual
from .architectures import Architecture, Network
from .kernels import biased, digits

BATCH = 200  # samples of a step unless given: the post's


class _Loss:
    """Base of all losses: they have ``arch``, ``d`` and ``value_and_grad``."""

    dtype = np.dtype(np.float64)  # of the arithmetic

    def _theta(self, theta):
        """theta as a finite vector of the loss's dtype."""
        theta = checks.array(theta, "theta", dtype=self.dtype)
        self.arch.unflatten(theta, self.d)
        return theta

    def value(self, theta: ArrayLike) -> float:
        """The loss at ``theta``, a float."""
        return self.value_and_grad(theta)[0]

    def grad(self, theta: ArrayLike) -> np.ndarray:
        """The gradient at ``theta``, shape (n,)."""
        return self.value_and_grad(theta)[1]

    def shapes(self, theta: ArrayLike) -> dict[str, tuple[int, ...]]:
        """Shapes of the parameter blocks of ``theta``, by name."""
        return self.arch.shapes(self.d, self.arch.unflatten(theta, self.d).W1.shape[1])

    def _weights(self, theta):
        """(U, A, C) as the kernels take them: C has no rows where it is not trained."""
        U, A, C = self.arch.canonical(checks.array(theta, "theta", dtype=self.dtype), self.d)
        return U, A, C if self.arch.trains_skip else C[:0]


class EmpiricalLoss(_Loss):
    """Mean squared error over a data set.

    Parameters
    ----------
    arch : Architecture or str
    X : array_like, shape (N, d)
        A row for each sample.  The arithmetic is float32 for float32 arrays, float64 for all others.
    Y : array_like, shape (N,) or (N, d)
        Targets: (N,) for scalar outputs, (N, d) for the ``vector`` read-out.

    Raises
    ------
    ValueError, TypeError
        When shapes do not fit or entries are not finite.

    Examples
    --------
    >>> import numpy as np, resgrad as rg
    >>> X = np.array([[1.0, 0.0], [0.0, 2.0]])
    >>> loss = rg.EmpiricalLoss("li", X, Y=[1.0, 0.0])
    >>> loss.value_and_grad(np.zeros(4))
    (2.0, array([0., 0., 0., 4.]))
    """

    @blas.one_thread()
    def __init__(self, arch: Architecture | str, X: ArrayLike, Y: ArrayLike):
        self.arch = architectures.resolve(arch)
        X = checks.array(X, "X", ("N", "d"), dtype=None)
        self.d, self.dtype = X.shape[1], X.dtype
        if X.size == 0:
            raise ValueError(f"X has shape {X.shape}, but must hold at least one sample and one entry")
        vector = self.arch.readout == "vector"
        Y = checks.array(Y, "Y", X.shape if vector else X.shape[:1], dtype=X.dtype)
        labels = Y.reshape(len(X), -1)
        if not self.arch.trains_skip:
            labels = labels - X @ self.arch.skip_map(self.d).astype(X.dtype)
        self.rows = np.hstack([architectures.with_ones(X) if self.arch.bias else X, labels])  # [x, y - C'x]

    def value_and_grad(self, theta: ArrayLike) -> tuple[float, np.ndarray]:
        """(value, gradient) at ``theta``: a float and an array of shape (n,)."""
        value, *gradient = self._evaluate(theta)
        return value, self.arch.pull_back(*gradient)

    def value(self, theta: ArrayLike) -> float:
        """The loss at ``theta``, a float, by the forward pass alone."""
        return self._evaluate(theta, backward=False)[0]

    def _evaluate(self, theta, backward=True):
        X, T = np.hsplit(self.rows, [self.d + self.arch.bias])
        value, *gradient = kernels.sampled_gradient(*self._weights(theta), X, T, self.arch.slopes, backward)
        return float(value), *gradient

    def values(self, theta: ArrayLike) -> np.ndarray:
        """Every sample's squared error, shape (N,); the loss is their mean."""
        X, T = np.hsplit(self.rows, [self.d + self.arch.bias])
        R = kernels.forward(*self._weights(theta), X, self.arch.slopes) - T
        return np.sum(R * R, axis=1)

    def preactivations(self, theta: ArrayLike) -> np.ndarray:
        """U'x + b for every sample, shape (N, k): where one changes sign the loss has a kink."""
        U, _, _ = self._weights(theta)
        return self.rows[:, : len(U)] @ U


class _TeacherLoss(_Loss):
    """Base of the losses with a teacher network: its units, the inputs' covariance and the labels' noise."""

    @blas.one_thread()
    def __init__(self, arch: Architecture | str, teacher: Network, covariance=None, noise: float = 0.0):
        self.arch = architectures.resolve(arch)
        if not isinstance(teacher, Network):
            raise TypeError(f"teacher is {checks.shown(teacher)}, but must be a resgrad.Network")
        self.teacher, self.d = teacher, teacher.d
        if self.arch.readout != "vector" == teacher.arch.readout:  # a scalar student learns the sum of the outputs
            blocks = teacher.arch.unflatten(teacher.theta, self.d)._asdict()
            if teacher.arch.trains_skip:
                blocks["C"] = blocks["C"].sum(axis=1, keepdims=True)
            summed = dataclasses.replace(teacher.arch, readout="sum")
            self.teacher = teacher = Network(summed, summed.flatten(**blocks), self.d)
        if self.arch.readout == "vector" != teacher.arch.readout:
            raise ValueError(f"teacher {teacher.arch.name} has 1 output, but {self.arch.name} has {self.d}")
        self.factor, self.noise = inputs.factor(covariance, self.d), inputs.deviation(noise)
        self.covariance = covariance if isinstance(covariance, (str, type(None))) else np.array(covariance)
        self.biased = self.arch.bias or teacher.arch.bias
        self.floor = self.arch.outputs(self.d) * self.noise**2  # the share of the labels' noise in the expected loss
        U_star, A_star, C_star = teacher.canonical()
        U_star, A_star, C_star = self._in_slopes(self._bordered(U_star), A_star, self._bordered(C_star))
        self.units_star = (np.ascontiguousarray(U_star), A_star, self._own_skip() - C_star)

    def _own_skip(self):
        """C of the student, 0 where it is trained."""
        return 0.0 if self.arch.trains_skip else self._bordered(self.arch.skip_map(self.d))

    def _gap(self, C):
        """D = C - C* of student and teacher, for the student's C in `_weights`."""
        return self.units_star[2] + C if len(C) else self.units_star[2]

    def _bordered(self, rows):
        """U or C with a row for the biases, of zeros if need be, where one of the two networks has biases."""
        missing = self.d + self.biased - len(rows)
        return np.concatenate([rows, np.zeros((missing, rows.shape[1]))]) if missing > 0 else rows

    def _in_slopes(self, U, A, C):
        """The teacher with the student's activation s: its own is n* z + (p* - n*) (s(z) - n z) / (p - n)."""
        (p, n), (p_star, n_star) = self.arch.slopes, self.teacher.arch.slopes
        if (p, n) == (p_star, n_star):
            return U, A, C
        ratio = (p_star - n_star) / (p - n)
        return U, ratio * A, C + (n_star - n * ratio) * (U @ A)


class PopulationLoss(_TeacherLoss):
    """Exact expected loss for Gaussian inputs: value, gradient and Hessian in closed form, float64.

    Parameters
    ----------
    arch : Architecture or str
        The student's.
    teacher : Network
        Any architecture, any width.  A student with one output learns the sum of a teacher's outputs.
    covariance : array_like (d, d) or str, optional
        S of the inputs x ~ N(0, S): a symmetric positive definite matrix, or "power:ALPHA", which is diagonal with
        eigenvalues i^-ALPHA scaled to trace d.  Default: the identity.
    noise : float, optional
        Standard deviation sigma of Gaussian noise on each label.  It adds m sigma^2 to the loss of m outputs.

    Raises
    ------
    ValueError, TypeError
        When the teacher has one output and the student d; for an invalid covariance or noise; from ``grad`` and
        ``hessian`` where they overflow.

    Notes
    -----
    Formulas (7)-(18) of ``resgrad.kernels``, after Cho & Saul (2009).  The gradient costs O((k + k*) k d).  The value
    is never negative and keeps its digits down to 1e-28 of its scale: where plain summation would leave fewer than 9 of
    them, it is summed in double-double arithmetic, which takes about 2 microseconds for each of the (k + k*)^2 / 2
    pairs of units.  With more than 512 units in all that would take minutes, and is not done: values below 1e-14 of the
    scale are then noise.

    With hidden biases, of the student or the teacher, the formulas are (B1)-(B6) of ``resgrad.kernels.biased``, and
    the value is accurate to 1e-13 of its largest term.  Near a teacher of the student's width, each unit within 0.3 of
    the teacher's size, it keeps 8 digits down to 1e-20 of its scale: there it is an integral of the Hessian along the
    segment from the teacher, for students of up to 2,000 parameters.

    Correlated inputs are x = L z with S = L L' and z ~ N(0, I): the formulas hold for L'U and L'C, and gradients are
    multiplied by L.

    The loss is smooth except where a unit vanishes: there it has a corner, and by relu'(0) = 0 the gradient and the
    Hessian of that unit are 0.  Where units are parallel or antiparallel (s = 0) all three are continuous.

    Examples
    --------
    >>> import numpy as np, scipy.optimize, resgrad as rg
    >>> teacher = rg.Network("vanilla", np.eye(3).ravel(), d=3)
    >>> loss = rg.PopulationLoss("vanilla", teacher)
    >>> theta0 = np.random.default_rng(1).normal(size=9)
    >>> fit = scipy.optimize.minimize(loss.value_and_grad, theta0, jac=True, method="L-BFGS-B")
    >>> bool(fit.fun < 1e-8)
    True
    >>> fit = scipy.optimize.minimize(
    ...     loss.value_and_grad, theta0, jac=True, hess=loss.hessian, method="trust-exact")
    >>> bool(fit.fun < 1e-8)
    True
    """

    digits, widest = 1e9, 512  # precision that plain summation must have; most units for double-double

    @blas.one_thread()
    def __init__(self, arch: Architecture | str, teacher: Network, covariance: ArrayLike | str | None = None,
                 noise: float = 0.0):  # fmt: skip
        super().__init__(arch, teacher, covariance, noise)
        U_star, A_star, D = self.units_star
        self.units_star = self._white(U_star), A_star, self._white(D)
        self.plain = not self.biased and self.factor is None  # the formulas hold for theta's own U and C

    @kernels.quiet
    def _white(self, rows):
        """U or C for z, where x = L z, with a row for biases where there are any; a C without rows stays so."""
        if self.factor is not None and len(rows):
            rows = np.concatenate([self.factor.T @ rows[: self.d], rows[self.d :]])
        return self._bordered(rows) if len(rows) else rows

    def _weights(self, theta):
        U, A, C = weights = super()._weights(theta)
        return weights if self.plain else (self._white(U), A, self._white(C))

    @kernels.quiet
    def _pull_back(self, dU, dA, dC):
        """The gradient in theta from the one in `_weights`."""
        if self.plain:
            return self.arch.pull_back(dU, dA, dC)
        dU, dC = dU[: self.d + self.arch.bias], dC[: self.d]
        if self.factor is not None:
            dU, dC = np.concatenate([self.factor @ dU[: self.d], dU[self.d :]]), self.factor[:, : len(dC)] @ dC
        return self.arch.pull_back(dU, dA, dC)

    def value(self, theta: ArrayLike) -> float:
        """The expected loss at ``theta``, a float, never negative."""
        return self.excess(theta) + self.floor

    def excess(self, theta: ArrayLike) -> float:
        """The expected loss at ``theta`` without the labels' noise: E|F - F*|^2, to its last digits."""
        Z, Q, D = network = self._residual_network(checks.array(theta, "theta"))
        if self.biased:
            return residual.biased_excess(*network, self.teacher.width, self.arch.slopes, self.arch.readout == "fixed")
        first = (array[..., 0].copy() for array in (Z, Q, D))
        plain, noise = kernels.population_value_plain(*first, self.arch.slopes)
        if not np.isfinite(noise):
            return np.inf  # the loss, or a product in it, overflows
        if plain > self.digits * noise or len(Z) > self.widest:
            return float(plain)
        precise = float(kernels.population_value(Z, Q, D, self.arch.slopes))
        return precise if np.isfinite(precise) else float(plain)  # double-double products overflow first

    def _residual_network(self, theta):
        """Z (K, d, 2), Q (K, m, 2) and D (d, m, 2) of student minus teacher, in double-double.

        W1 + I, the sum over W2 and C - C* are exact: near the teacher their rounding error would be larger than the
        distance from it.
        """
        blocks = self.arch.unflatten(theta, self.d)
        U, A = residual.exact_canonical(self.arch, blocks, self.d + self.biased)
        U_star, A_star, D = self._exact_teacher
        if self.arch.trains_skip:
            D = self._linear(residual.plus(D, self._bordered(blocks.C)))
        return np.concatenate([self._for_z(U), U_star]), np.concatenate([A, -A_star]), D

    def _for_z(self, rows):
        """Columns of U or C, the rows of (k, d, 2), for z."""
        return rows if self.factor is None else digits.transformed(self.factor, np.ascontiguousarray(rows))

    def _linear(self, D):
        """A linear part (d, m, 2), for z."""
        return np.ascontiguousarray(self._for_z(D.transpose(1, 0, 2)).transpose(1, 0, 2))

    @functools.cached_property
    def _exact_teacher(self):
        """The teacher's U (k*, d, 2), A (k*, m, 2) and D of (18) for z; D without C, and for x, where C is trained."""
        teacher = self.teacher.arch
        U, A = residual.exact_canonical(teacher, self.teacher, self.d + self.biased)
        D = np.stack(kernels.two_sum(self._own_skip(), -self._bordered(self.teacher.canonical()[2])), axis=-1)
        if self.arch.slopes != teacher.slopes:
            A, D = residual.in_slopes(U, A, D, teacher.slopes, self.arch.slopes)
        return self._for_z(U), A, D if self.arch.trains_skip else self._linear(D)

    def value_and_grad(self, theta: ArrayLike) -> tuple[float, np.ndarray]:
        """(value, gradient) at ``theta``, as ``scipy.optimize.minimize(..., jac=True)`` takes it."""
        return self.value(theta), self.grad(theta)

    def grad(self, theta: ArrayLike) -> np.ndarray:
        """The exact gradient at ``theta``, shape (n,); (10), (11) and (19), with biases (B2)."""
        U, A, C = weights = self._weights(theta)
        if self.biased:
            gradient = biased.biased_gradient(U, A, *self.units_star[:2], self._gap(C), self.arch.slopes)
        else:
            gradient = tuple(map(np.empty_like, weights))
            kernels.population_gradient(*weights, *self.units_star, self.arch.slopes, *gradient)
        return _finite(self._pull_back(*gradient), "gradient")

    def hessian(self, theta: ArrayLike) -> np.ndarray:
        """The exact Hessian at ``theta``, shape (n, n), symmetric; (14)-(17) and (20), with biases (B3)-(B5)."""
        U, A, C = weights = self._weights(theta)
        if self.biased:
            full = biased.biased_hessian(U, A, *self.units_star[:2], self._gap(C), self.arch.slopes)
        else:
            full = kernels.population_hessian(*weights, *self.units_star, self.arch.slopes)
        full = _finite(full, "Hessian")
        if self.factor is not None:
            full = self._from_white(full, U, A)
        return self.arch.pull_back_hessian(full, self.d, U.shape)

    @kernels.quiet
    def _from_white(self, full, U, A):
        """The Hessian in U and C from the one in `_white` U and C."""
        (k, m), d = A.shape, self.d
        starts = [(0, k), (U.size + A.size, m)][: 2 if len(full) > U.size + A.size else 1]
        for _ in range(2):
            full = full.T.copy()
            for start, columns in starts:
                rows = full[start : start + d * columns]
                rows[:] = (self.factor @ rows.reshape(d, -1)).reshape(rows.shape)
        return (full + full.T) / 2


class OnlineLoss(_TeacherLoss):
    """Fresh Gaussian samples at every training step, labeled by a teacher.

    Parameters
    ----------
    arch : Architecture or str
        The student's.
    teacher : Network
        As for `PopulationLoss`.
    dtype : {float64, float32}
        The arithmetic of training.
    covariance, noise : optional
        As for `PopulationLoss`.

    Raises
    ------
    ValueError, TypeError
        When the teacher has one output and the student d, or for another dtype, covariance or noise.

    Notes
    -----
    Such training descends the expected loss: ``value``, ``grad`` and ``hessian`` are those of `PopulationLoss`.
    `batch` is the loss on one batch, as training sees it.

    Examples
    --------
    >>> import numpy as np, resgrad as rg
    >>> loss = rg.OnlineLoss("li", rg.Network("li", np.full(4, 0.1), d=2))
    >>> run = rg.train(loss, np.zeros(4), rg.SGD(0.1), n_steps=2000, batch_size=8, seed=1)
    >>> np.round(run.theta, 6)
    array([0.1, 0.1, 0.1, 0.1])
    """

    def __init__(self, arch: Architecture | str, teacher: Network, dtype: DTypeLike = np.float64, *,
                 covariance: ArrayLike | str | None = None, noise: float = 0.0):  # fmt: skip
        super().__init__(arch, teacher, covariance, noise)
        self.dtype = checks.floating(dtype)
        self.units_star = tuple(np.ascontiguousarray(a, self.dtype) for a in self.units_star)
        self.population = PopulationLoss(self.arch, teacher, covariance, noise)
        self.ahead = self.biased or self.factor is not None or self.noise > 0  # the compiled loop does not draw these

    def value(self, theta: ArrayLike) -> float:
        """The expected loss at ``theta``, a float."""
        return self.population.value(theta)

    def value_and_grad(self, theta: ArrayLike) -> tuple[float, np.ndarray]:
        """Expected (value, gradient) at ``theta``."""
        return self.population.value_and_grad(theta)

    def hessian(self, theta: ArrayLike) -> np.ndarray:
        """The expected loss's exact Hessian at ``theta``, shape (n, n)."""
        return self.population.hessian(theta)

    @blas.one_thread()
    def batch(self, batch_size: int = BATCH, rng: np.random.Generator | int | None = None) -> EmpiricalLoss:
        """An `EmpiricalLoss` on ``batch_size`` fresh samples from ``rng`` (a Generator or a seed)."""
        size, rng = checks.integer(batch_size, "batch_size"), checks.generator(rng)
        return EmpiricalLoss(self.arch, *draws.sampled(self.teacher, size, rng, self.dtype, self.factor, self.noise))


def _finite(array, name):
    """An expected derivative; ValueError where it is not finite."""
    if not np.isfinite(array).all():
        raise ValueError(f"theta is so large, or a unit so small, that the {name} there is beyond 1e308")
    return array
