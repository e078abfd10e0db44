"""The three losses: validated fronts of the kernels.

All are E|F(x) - y|^2, summed over outputs, without a factor 1/2: over a data set (`EmpiricalLoss`),
over fresh Gaussian samples (`OnlineLoss`), exactly (`PopulationLoss`).
"""

import dataclasses
import functools

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from . import architectures, blas, checks, kernels
from .architectures import Architecture, Network


class _Loss:
    """What the losses share: the architecture, the check of theta, and value and grad from one call.

    Attributes: ``arch``, ``d``, ``dtype`` (of the arithmetic).
    """

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
        """(U, A, C) as the kernels want them: C has no rows where it is not trained."""
        U, A, C = self.arch.canonical(self._theta(theta), self.d)
        return U, A, C if self.arch.trains_skip else C[:0]


class EmpiricalLoss(_Loss):
    """Mean squared error over a data set.

    Parameters
    ----------
    arch : Architecture or str
    X : array_like, shape (N, d)
        One sample a row.  float32 arrays are computed with in float32, all others in float64.
    Y : array_like, shape (N,) or (N, d)
        Targets: (N,) for scalar outputs, (N, d) for the ``vector`` read-out.

    Raises
    ------
    ValueError, TypeError
        When shapes do not fit or entries are not finite.

    Notes
    -----
    relu'(0) = 0, as in every framework.

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
    """What the two losses with a teacher network share."""

    def __init__(self, arch: Architecture | str, teacher: Network):
        self.arch = architectures.resolve(arch)
        if not isinstance(teacher, Network):
            raise TypeError(f"teacher is {checks.shown(teacher)}, but must be a resgrad.Network")
        for role, biased in (("arch", self.arch), ("teacher", teacher.arch)):
            if biased.bias:
                raise ValueError(f"{role} is {biased.name}, which has biases, but only EmpiricalLoss knows them")
        self.teacher, self.d = teacher, teacher.d
        if self.arch.readout != "vector" == teacher.arch.readout:  # a scalar student learns their sum
            blocks = teacher.arch.unflatten(teacher.theta, self.d)._asdict()
            if teacher.arch.trains_skip:
                blocks["C"] = blocks["C"].sum(axis=1, keepdims=True)
            summed = dataclasses.replace(teacher.arch, readout="sum")
            self.teacher = teacher = Network(summed, summed.flatten(**blocks), self.d)
        if self.arch.readout == "vector" != teacher.arch.readout:
            raise ValueError(f"teacher {teacher.arch.name} has 1 output, but {self.arch.name} has {self.d}")
        U_star, A_star, C_star = self._in_slopes(*teacher.canonical())
        own = 0.0 if self.arch.trains_skip else self.arch.skip_map(self.d)
        self.units_star = (np.ascontiguousarray(U_star), A_star, own - C_star)

    def _in_slopes(self, U, A, C):
        """The teacher with the student's activation s: its own is n* z + (p* - n*) (s(z) - n z) / (p - n)."""
        (p, n), (p_star, n_star) = self.arch.slopes, self.teacher.arch.slopes
        if (p, n) == (p_star, n_star):
            return U, A, C
        ratio = (p_star - n_star) / (p - n)
        return U, ratio * A, C + (n_star - n * ratio) * (U @ A)


class PopulationLoss(_TeacherLoss):
    """Exact expected loss for x ~ N(0, I): value, gradient and Hessian in closed form, float64.

    Parameters
    ----------
    arch : Architecture or str
        The student's.
    teacher : Network
        Any architecture, any width.  A student with one output learns the sum of a teacher's outputs.

    Raises
    ------
    ValueError, TypeError
        When the teacher has one output and the student d; from ``grad`` and ``hessian``, where they overflow.

    Notes
    -----
    Formulas (7)-(18) of ``resgrad.kernels``, after Cho & Saul (2009).  The gradient costs
    O((k + k*) k d).  The value is never negative and keeps its digits down to 1e-28 of its scale:
    where plain summation would leave less than 9 of them, it is done in double-double arithmetic,
    which costs about 2 microseconds for each of the (k + k*)^2 / 2 pairs of units.  Beyond 512 units in
    all that would take minutes, and is not done: the floor of the loss is then about 1e-14.

    The loss is smooth except where a unit vanishes: there it has a corner, and by relu'(0) = 0 the
    gradient and the Hessian of that unit are 0.  At parallel and antiparallel units (s = 0) all three
    are continuous and take their limits.

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

    dtype = np.dtype(np.float64)
    digits, widest = 1e9, 512  # what plain summation must leave; the most units for more than that

    def value(self, theta: ArrayLike) -> float:
        """The expected loss at ``theta``, a float, never negative."""
        Z, Q, D = self._residual_network(self._theta(theta))
        first = (array[..., 0].copy() for array in (Z, Q, D))
        plain, noise = kernels.population_value_plain(*first, self.arch.slopes)
        if not np.isfinite(noise):
            return np.inf  # the loss, or a product in it, is beyond 1e308
        if plain > self.digits * noise or len(Z) > self.widest:
            return float(plain)
        return float(kernels.population_value(Z, Q, D, self.arch.slopes))

    def _residual_network(self, theta):
        """Z (K, d, 2), Q (K, m, 2) and D (d, m, 2) of student minus teacher, in double-double.

        W1 + I, the sum over W2 and C - C* are kept exact: rounding them would move the point by more than
        its distance from the teacher.
        """
        blocks = self.arch.unflatten(theta, self.d)
        U, A = _exact_canonical(self.arch, blocks)
        U_star, A_star = self._exact_star
        D = self.units_star[2]
        D = kernels.two_sum(D, blocks.C) if self.arch.trains_skip else (D, np.zeros_like(D))
        return np.concatenate([U, U_star]), np.concatenate([A, -A_star]), np.stack(D, axis=-1)

    @functools.cached_property
    def _exact_star(self):
        U, A = _exact_canonical(self.teacher.arch, self.teacher)
        if self.arch.slopes != self.teacher.arch.slopes:
            A = np.stack([self.units_star[1], np.zeros_like(self.units_star[1])], axis=-1)
        return U, A

    def value_and_grad(self, theta: ArrayLike) -> tuple[float, np.ndarray]:
        """(value, gradient) at ``theta``, as ``scipy.optimize.minimize(..., jac=True)`` wants it."""
        return self.value(theta), self.grad(theta)

    def grad(self, theta: ArrayLike) -> np.ndarray:
        """The exact gradient at ``theta``, shape (n,); (10), (11) and (19)."""
        weights = self._weights(theta)
        gradient = tuple(map(np.empty_like, weights))
        kernels.population_gradient(*weights, *self.units_star, self.arch.slopes, *gradient)
        return _finite(self.arch.pull_back(*gradient), "gradient")

    def hessian(self, theta: ArrayLike) -> np.ndarray:
        """The exact Hessian at ``theta``, shape (n, n), symmetric; (14)-(17) and (20)."""
        weights = self._weights(theta)
        full = _finite(kernels.population_hessian(*weights, *self.units_star, self.arch.slopes), "Hessian")
        return self.arch.pull_back_hessian(full, *weights[0].shape)


class OnlineLoss(_TeacherLoss):
    """Fresh N(0, I) samples at every training step, labeled by a teacher.

    Parameters
    ----------
    arch : Architecture or str
        The student's.
    teacher : Network
        As for `PopulationLoss`.
    dtype : {float64, float32}
        Of the training arithmetic.

    Raises
    ------
    ValueError, TypeError
        When the teacher has one output and the student d, or for another dtype.

    Notes
    -----
    What such training descends is the expected loss, so ``value`` and ``grad`` are those of
    `PopulationLoss`, exactly; `batch` is one batch of what the training sees.

    Examples
    --------
    >>> import numpy as np, resgrad as rg
    >>> loss = rg.OnlineLoss("li", rg.Network("li", np.full(4, 0.1), d=2))
    >>> run = rg.train(loss, np.zeros(4), rg.SGD(0.1), n_steps=2000, batch_size=8, seed=1)
    >>> np.round(run.theta, 6)
    array([0.1, 0.1, 0.1, 0.1])
    """

    def __init__(self, arch: Architecture | str, teacher: Network, dtype: DTypeLike = np.float64):
        super().__init__(arch, teacher)
        self.dtype = checks.floating(dtype)
        self.units_star = tuple(np.ascontiguousarray(a, self.dtype) for a in self.units_star)
        self.population = PopulationLoss(self.arch, teacher)

    def value(self, theta: ArrayLike) -> float:
        """The expected loss at ``theta``, a float."""
        return self.population.value(theta)

    def value_and_grad(self, theta: ArrayLike) -> tuple[float, np.ndarray]:
        """Expected (value, gradient) at ``theta``."""
        return self.population.value_and_grad(theta)

    def hessian(self, theta: ArrayLike) -> np.ndarray:
        """The expected loss's exact Hessian at ``theta``, shape (n, n)."""
        return self.population.hessian(theta)

    def batch(self, batch_size: int = 200, rng: np.random.Generator | int | None = None) -> EmpiricalLoss:
        """An `EmpiricalLoss` on ``batch_size`` fresh samples from ``rng`` (a Generator or a seed)."""
        size = checks.integer(batch_size, "batch_size"), self.d
        X = checks.generator(rng).standard_normal(size).astype(self.dtype)
        return EmpiricalLoss(self.arch, X, self.teacher(X))


def _finite(array, name):
    """An expected derivative, unless it over- or underflows."""
    if not np.isfinite(array).all():
        raise ValueError(f"theta is so large, or a unit so small, that the {name} there is beyond 1e308")
    return array


def _exact_canonical(arch, blocks):
    """Rows of U' (k, d, 2) and A (k, m, 2) as unevaluated sums hi + lo, free of rounding."""
    W1, W2 = blocks.W1, blocks.W2
    shift = arch.identity * np.eye(*W1.shape)
    U = np.stack(kernels.two_sum(W1.astype(np.float64), shift), axis=-1).transpose(1, 0, 2)
    if arch.readout == "fixed":
        A = np.ones((W1.shape[1], 1))
    else:
        A = W2.astype(np.float64)
    A = np.stack([A, np.zeros_like(A)], axis=-1)
    if arch.readout == "sum":
        hi, lo = A[:, :1, 0], A[:, :1, 1]
        for o in range(1, A.shape[1]):
            hi, error = kernels.two_sum(hi, A[:, o : o + 1, 0])
            lo = lo + error
        A = np.stack(kernels.two_sum(hi, lo), axis=-1)
    return np.ascontiguousarray(U), np.ascontiguousarray(A)
