"""The minima and the way to them: polishing, the spectrum of the Hessian, one-point convexity.

Imports ``symmetry``, ``losses``, ``architectures``, ``checks``.  Everything here is exact: it runs
on `PopulationLoss`, whose gradient and Hessian are closed forms.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from .. import architectures, checks, losses
from . import symmetry

EPS = symmetry.EPS
NULL = 1e-11  # of the largest eigenvalue.  Measured: null ones < 1e-15, others mostly > 1e-5, though
# two nearly parallel teacher units make one of 1e-9
CRITICAL = 1e-13  # gradient norm of a critical point, unless its rounding error is larger
GLOBAL = 1e-12  # of the loss of a student with all units dead.  Polished global minima have 1e-28, degenerate
# ones (extra units) down to 1e-13, spurious ones > 1e-6
ZERO = 1e-24  # a loss that is none even where a silent student has none, as for a zero teacher
NOISE = 1e-8  # of the loss: a smaller decrease is told from the gradients, as `PopulationLoss.value` keeps 9 digits
NEAR = 1e-6  # |g|, relative to `_scale`, at which the nearest critical point is meant, not one downhill
SLOPE = 1e-6  # of the loss, |g| |theta| at a critical point: rounding a large theta may hide a steep slope
KINK = 1e-100  # of the largest entry: for a unit with so short a u the Hessian, like 1 / |u|, soon overflows
SHIFT = 1e-12  # of |H|: far above the rounding of null eigenvalues, below all others


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigenvalues of the Hessian and its null space, next to what the symmetries predict."""

    eigenvalues: np.ndarray  # (n,), ascending
    tolerance: float  # those of at most this size count as zero
    nullity: int  # number of zero ones
    index: int  # number of negative ones
    predicted: int  # dimension of the symmetry orbit, see `symmetry.tangent`
    null_space: np.ndarray  # (n, nullity)
    angles: np.ndarray  # principal ones between null space and orbit's tangent space, descending

    @property
    def explained(self):
        """Whether the null space is the tangent space of the symmetry orbit (angles < 1e-6)."""
        return self.nullity == self.predicted and bool((self.angles < 1e-6).all())

    def __str__(self):
        sizes = np.abs(self.eigenvalues)
        zero, other = sizes[sizes <= self.tolerance], sizes[sizes > self.tolerance]
        angle = f"; largest angle {self.angles.max():.1e}" if self.angles.size else ""
        return (
            f"{sizes.size} eigenvalues: {self.nullity} zero ({self.predicted} by symmetry), {self.index} negative; "
            f"zero means at most {self.tolerance:.1e} (largest zero one {zero.max(initial=0.0):.1e}, "
            f"smallest other {other.min(initial=np.inf):.1e}){angle}"
        )


def spectrum(loss, theta, tolerance=NULL):
    """Eigenvalues of the exact Hessian at ``theta``, and whether symmetry explains the zero ones.

    Parameters
    ----------
    loss : PopulationLoss
    theta : array_like, shape (n,)
    tolerance : float
        An eigenvalue is zero when it is at most this fraction of the largest in size.

    Returns
    -------
    Spectrum

    Raises
    ------
    ValueError, TypeError
        When theta does not fit or is not finite, or the loss has no Hessian.

    Notes
    -----
    The loss is constant on the symmetry orbit, so that at a critical point the Hessian vanishes on
    its tangent space.  For a generic teacher of the student's width it vanishes nowhere else:
    nullity 0 (``fixed``), k d (``sum``), k (``vector``).

    The eigenvalues are those at theta itself: rescaling a unit changes them, but for the zero ones.  Scales
    c of 1e3 spread them by c^4, and small ones pass for zero: take ``symmetry.balanced(arch, theta, d)``
    first, or `polish`, which does the like.  At a unit with u = 0 the loss has a kink and the Hessian is
    that of the other units.

    Examples
    --------
    >>> import resgrad as rg
    >>> from resgrad.minima import landscape
    >>> theta_star = rg.draw("resnet", "uniform", d=4, rng=0)
    >>> loss = rg.PopulationLoss("resnet", rg.Network("resnet", theta_star, d=4))
    >>> found = landscape.spectrum(loss, theta_star)
    >>> found.nullity, found.predicted, found.explained
    (4, 4, True)
    """
    from scipy.linalg import eigh, subspace_angles

    _require_hessian(loss)
    tolerance = checks.real(tolerance, "tolerance", 0.0, 1.0)
    eigenvalues, vectors = eigh(loss.hessian(theta), driver="evd", check_finite=False)
    cut, nullity, index = _signature(eigenvalues, tolerance)
    null = vectors[:, np.abs(eigenvalues) <= cut]
    tangent = symmetry.tangent(loss.arch, theta, loss.d)
    angles = subspace_angles(null, tangent) if null.size and tangent.size else np.empty(0)
    return Spectrum(eigenvalues, cut, nullity, index, tangent.shape[1], null, angles)


def _signature(eigenvalues, tolerance=NULL):
    """(what counts as zero, how many do, how many are negative)."""
    cut = float(tolerance * np.abs(eigenvalues).max())
    return cut, int((np.abs(eigenvalues) <= cut).sum()), int((eigenvalues < -cut).sum())


def _require_hessian(loss):
    if not isinstance(loss, losses.PopulationLoss):
        raise TypeError(f"loss is {checks.shown(loss)}, but must be a PopulationLoss: it has a Hessian")


@dataclass(frozen=True, eq=False)
class Polished:
    """A critical point; see `polish`.  Gradient and Hessian are those at `symmetry.gauge` of theta."""

    theta: np.ndarray  # (n,)
    loss: float
    grad_norm: float
    verdict: str  # "global minimum", "spurious minimum", "saddle" or "unconverged"
    index: int  # numbers of negative and
    nullity: int  # of zero eigenvalues of the Hessian, as in `spectrum`
    eigenvalues: np.ndarray  # (n,), ascending
    iterations: int  # second-order steps

    @property
    def min_eigenvalue(self):
        """The smallest one; 0 to rounding where symmetry makes the Hessian singular."""
        return float(self.eigenvalues[0])

    def __str__(self):
        return (
            f"{self.verdict} after {self.iterations} steps: loss {self.loss:.6e}, |grad| {self.grad_norm:.1e}, "
            f"{self.index} negative and {self.nullity} zero eigenvalues, smallest {self.min_eigenvalue:.6g}"
        )


def polish(loss, theta, max_steps=1000):
    """Go to a critical point, to the last digit, and tell what it is.

    Parameters
    ----------
    loss : PopulationLoss
    theta : array_like, shape (n,)
        Any point.  While |grad| is above `NEAR`, relatively, every step lowers the loss; below it
        Newton's method takes the critical point at hand, which may be a saddle.
    max_steps : int
        Of descent; 0 for Newton's method alone.

    Returns
    -------
    Polished

    Raises
    ------
    ValueError, TypeError
        When theta does not fit or is not finite, or the loss has no Hessian.

    Notes
    -----
    Descent steps are damped Newton steps with H's eigenvalues replaced by their sizes (Dauphin et
    al. 2014).  Then (H + mu I) step = -g with mu = max(2 |g|, `SHIFT` |H|): along a symmetry orbit
    H = O(|g|), so that H + mu I is positive definite near a minimum, and convergence to a manifold
    of minima stays fast (Li, Fukushima, Qi & Yamashita 2004).  If it is not definite, g is divided
    by each eigenvalue above mu.  SciPy's ``trust-exact`` takes ten times as long, and its "hard
    case" moves along the orbit by a trust radius.

    All of it happens at the representative `symmetry.gauge` of theta's orbit, so that neither the way nor
    the verdict depends on how units are scaled, and the result is scaled back: it is near where theta is.

    "global minimum": the loss is at most `GLOBAL` of a silent student's, or `ZERO`.  "unconverged": |g| is
    above `CRITICAL` and above what rounding theta does to it, EPS times the norm of |H| |theta| taken
    entry by entry, or is a slope all the same, |g| |theta| above `SLOPE` of the loss; or a unit has u = 0
    (`KINK`), where the loss has a kink and no gradient to vanish.  "saddle": an eigenvalue is below -`NULL`
    times the largest.  "spurious minimum": a local minimum of positive loss, which for a student narrower
    than its teacher may be the best there is.  It is one to second order: zero eigenvalues that symmetry
    does not explain may hide a degenerate saddle.
    What stays unconverged are mostly degenerate valleys, of students with too many units or of teachers
    near zero, and descents into a kink.

    Examples
    --------
    The most frequent spurious minimum of Safran & Shamir (2018) at k = 10 (their loss has a 1/2):

    >>> import numpy as np, resgrad as rg
    >>> from resgrad.minima import landscape
    >>> loss = rg.PopulationLoss("vanilla", rg.Network("vanilla", np.eye(10).ravel(), d=10))
    >>> run = rg.train(loss, rg.draw("vanilla", "normal", d=10, rng=6), rg.SGD(0.05), 2000)
    >>> point = landscape.polish(loss, run.theta)
    >>> point.verdict, f"{point.loss / 2:.10f}", f"{point.min_eigenvalue / 2:.6f}"
    ('spurious minimum', '0.0187021946', '0.031964')
    """
    _require_hessian(loss)
    theta, max_steps = loss._theta(theta), checks.integer(max_steps, "max_steps", 0)
    steps, (theta, back) = 0, symmetry.gauge(loss.arch, theta, loss.d)
    for near in (NEAR, 1e-4 * NEAR, 1e-8 * NEAR):  # farther down where Newton's method fails: flat stretches
        theta, more = _descend(loss, theta, near, max_steps - steps)
        theta, norm, hessian, last = _newton(loss, symmetry.gauge(loss.arch, theta, loss.d)[0])
        steps += more + last
        if _is_critical(loss, theta, norm, hessian) or steps >= max_steps:
            break
    point = _judge(loss, symmetry.gauge(loss.arch, theta, loss.d)[0], steps)
    return replace(point, theta=symmetry.transform(loss.arch, point.theta, loss.d, **back)) if back else point


def _descend(loss, theta, near, max_steps):
    """Damped Newton steps with |eigenvalues| until |g| is ``near`` 0; (theta, steps)."""
    from scipy.linalg import eigh

    (value, g), damping = loss.value_and_grad(theta), None
    for taken in range(max_steps):
        hessian = loss.hessian(theta)
        if np.linalg.norm(g) <= near * _scale(theta, hessian) or _at_kink(loss, theta):
            return theta, taken
        values, vectors = eigh(hessian, driver="evd", check_finite=False)
        sizes, slope = np.abs(values), vectors.T @ g
        damping = sizes.max() if damping is None else damping
        while damping < sizes.max() / EPS:
            step = slope / (sizes + damping)
            new = theta - vectors @ step
            (new_value, new_g), hoped = loss.value_and_grad(new), step @ (slope - values * step / 2)
            fallen = value - new_value if hoped > NOISE * value else (g + new_g) @ (theta - new) / 2
            if fallen >= hoped / 4:
                break
            damping = 4 * max(damping, SHIFT * sizes.max())
        else:
            return theta, taken  # no way down left: rounding, or a kink
        if fallen > 3 / 4 * hoped:
            damping /= 4
        theta, value, g = new, new_value, new_g
    return theta, max_steps


def _newton(loss, theta, max_steps=50):
    """(theta, |g|, H, steps) after Newton steps that each lower |g|."""
    g, hessian, shift = loss.grad(theta), loss.hessian(theta), SHIFT
    norm = np.linalg.norm(g)
    for taken in range(max_steps):
        if norm <= EPS or shift > 1e-5 or _at_kink(loss, theta):
            return theta, norm, hessian, taken
        orbit = symmetry.tangent(loss.arch, theta, loss.d)
        across = g - orbit @ (orbit.T @ g)  # g but for rounding, which a step would magnify
        new = theta - _newton_step(hessian, across, max(2 * norm, shift * np.linalg.norm(hessian)))
        new_g = loss.grad(new)
        new_norm = np.linalg.norm(new_g)
        if not new_norm < norm / 2:  # rounding along another null direction: shift that more
            if norm <= CRITICAL:
                return theta, norm, hessian, taken
            shift *= 1e3
        if new_norm < norm:
            theta, g, norm, hessian = new, new_g, new_norm, loss.hessian(new)
    return theta, norm, hessian, max_steps


def _newton_step(hessian, g, mu):
    """H^-1 g, regularized by ``mu``; see the notes of `polish`."""
    from scipy.linalg import eigh

    step = shifted_step(hessian, g, mu)
    if step is None:  # not near a minimum
        values, vectors = eigh(hessian, driver="evd", check_finite=False)
        step = vectors @ (vectors.T @ g / np.where(np.abs(values) > mu, values, np.inf))
    return step


def shifted_step(hessian, g, mu):
    """(H + mu I)^-1 g; None where H + mu I is not positive definite."""
    from scipy.linalg import LinAlgError, cho_factor, cho_solve

    shifted = hessian.copy()
    shifted[np.diag_indices(g.size)] += mu
    try:
        return cho_solve(cho_factor(shifted, overwrite_a=True, check_finite=False), g)
    except LinAlgError:
        return None


def _scale(theta, hessian):
    """What |g| is measured by: a relative error e in every parameter moves g by up to e times this."""
    return np.linalg.norm(np.abs(hessian) @ np.abs(theta))


def _is_critical(loss, theta, norm, hessian):
    slope, rounding = norm * np.linalg.norm(theta), EPS * _scale(theta, hessian)
    return norm <= CRITICAL or (norm <= rounding and slope <= SLOPE * loss.value(theta))


def _at_kink(loss, theta):
    return np.abs(loss.arch.canonical(theta, loss.d)[0]).max(axis=0).min() <= KINK * np.abs(theta).max()


def _judge(loss, theta, steps):
    norm, hessian = np.linalg.norm(loss.grad(theta)), loss.hessian(theta)
    eigenvalues = np.linalg.eigvalsh(hessian)
    _, nullity, index = _signature(eigenvalues)
    value, (W1, W2) = loss.value(theta), loss.arch.unflatten(theta, loss.d)
    silent = loss.arch.flatten(-loss.arch.identity * np.eye(*W1.shape), None if W2 is None else 0 * W2)
    if value <= max(GLOBAL * loss.value(silent), ZERO):
        verdict = "global minimum"
    elif _at_kink(loss, theta) or not _is_critical(loss, theta, norm, hessian):
        verdict = "unconverged"
    else:
        verdict = "saddle" if index else "spurious minimum"
    return Polished(theta, value, float(norm), verdict, index, nullity, eigenvalues, steps)


class OnePoint(NamedTuple):
    """One-point convexity at a sequence of points, arrays (records,); see `one_point`."""

    inner: np.ndarray  # <-grad L, theta* - theta>
    distance: np.ndarray  # |theta* - theta|
    delta: np.ndarray  # inner / distance^2; nan where the distance is rounding
    potential: np.ndarray  # sum_i (|u*_i| - |u_i|)


def potential(arch, theta, theta_star, d):
    """Li & Yuan's potential g = sum_i (|e_i + w*_i| - |e_i + w_i|): the units' lengths, a float."""
    arch = architectures.resolve(arch)
    U_star, U = (arch.canonical(np.asarray(at, dtype=np.float64), d)[0] for at in (theta_star, theta))
    return float(np.linalg.norm(U_star, axis=0).sum() - np.linalg.norm(U, axis=0).sum())


def one_point(loss, thetas, theta_star=None, aligned=None):
    """How strongly the gradient points to the teacher along a trajectory.

    Parameters
    ----------
    loss : PopulationLoss, EmpiricalLoss or OnlineLoss
    thetas : array_like, shape (records, n) or (n,)
    theta_star : array_like, shape (n*,), optional
        Default: the loss's teacher, if its architecture is the student's up to `identity`.
    aligned : bool, optional
        Measure to the nearest symmetric teacher, `symmetry.align`, anew at every point.  Default:
        wherever the architecture's zero-loss students differ from the teacher by a symmetry, that
        is everywhere but in ``li``, whose identity pins the units down.

    Returns
    -------
    OnePoint

    Raises
    ------
    ValueError, TypeError
        When something does not fit, or there is no teacher.

    Notes
    -----
    Li & Yuan (2017): L is delta-one-point strongly convex at W if <-grad L(W), W* - W> >= delta
    |W* - W|^2; their potential g = sum_i (|e_i + w*_i| - |e_i + w_i|), w_i the columns of W,
    falls while the inner product is still negative.

    Examples
    --------
    >>> import numpy as np, resgrad as rg
    >>> from resgrad.minima import landscape
    >>> loss = rg.PopulationLoss("li", rg.Network("li", rg.draw("li", "small", d=5, rng=0), d=5))
    >>> run = rg.train(loss, np.zeros(25), rg.SGD(0.05), 100, observe={"theta": np.copy})
    >>> convexity = landscape.one_point(loss, run.observed["theta"])
    >>> bool((convexity.delta > 0).all())
    True
    """
    if theta_star is None:
        if not hasattr(loss, "teacher"):
            raise ValueError("theta_star is missing, and the loss has no teacher")
        theta_star = symmetry.convert(loss.teacher.theta, loss.d, loss.teacher.arch, loss.arch)
    thetas = np.atleast_2d(checks.array(thetas, "thetas"))
    if not len(thetas):
        raise ValueError(f"thetas has shape {thetas.shape}, but must hold at least one point")
    if aligned is None:
        aligned = loss.arch.trains_readout or not loss.arch.identity
    theta_star = checks.array(theta_star, "theta_star", ("n",) if aligned else thetas.shape[1:])
    rows = []
    for theta in thetas:
        target = symmetry.align(loss.arch, theta, theta_star, loss.d).teacher if aligned else theta_star
        gap, grad = target - theta, loss.grad(theta).astype(np.float64)
        rows.append((-grad @ gap, np.linalg.norm(gap), potential(loss.arch, theta, target, loss.d)))
    inner, distance, g = np.array(rows).T
    noise = 100 * EPS * (1 + np.linalg.norm(thetas, axis=1))
    delta = np.where(distance > noise, inner / np.maximum(distance, noise) ** 2, np.nan)
    return OnePoint(inner, distance, delta, g)


class Region(NamedTuple):
    """One-point convexity against the size of the weights, arrays of shape (len(gammas),)."""

    gamma: np.ndarray
    fraction: np.ndarray  # with delta > 0, of the pairs with W* != W
    smallest: np.ndarray  # delta over these pairs
    median: np.ndarray


def convexity_region(gammas, d, n_pairs=200, rng=None, arch="li"):
    """How far from 0 the loss stays one-point convex, over random W* and W of spectral norm gamma.

    Parameters
    ----------
    gammas : array_like, shape (g,)
        Spectral norms, > 0.
    d : int
    n_pairs : int
        Pairs (W*, W) with Gaussian directions, the same for every gamma; those with W* = W, which d = 1
        has, are left out.
    rng : numpy.random.Generator or int
    arch : Architecture or str
        With a ``fixed`` read-out.

    Returns
    -------
    Region

    Raises
    ------
    ValueError, TypeError
        For arguments out of range.

    Examples
    --------
    >>> from resgrad.minima import landscape
    >>> region = landscape.convexity_region([0.5, 8.0], d=5, n_pairs=50, rng=0)
    >>> float(region.fraction[0]), bool(region.fraction[1] < 1)
    (1.0, True)
    """
    arch, d = architectures.resolve(arch), checks.integer(d, "d")
    gammas, n_pairs = checks.array(gammas, "gammas", ("n",)), checks.integer(n_pairs, "n_pairs")
    rng = checks.generator(rng)
    if arch.trains_readout:
        raise ValueError(f"arch is {arch.name}, but the region is defined for a fixed read-out")
    if not (gammas > 0).all():
        raise ValueError(f"gammas is {checks.shown(gammas.tolist())}, but must be positive")
    pairs = rng.standard_normal((n_pairs, 2, d, d))
    pairs /= np.linalg.norm(pairs, 2, axis=(2, 3), keepdims=True)
    pairs = pairs[np.abs(pairs[:, 0] - pairs[:, 1]).max(axis=(1, 2)) > 1e3 * EPS]
    if not len(pairs):
        raise ValueError(f"n_pairs is {n_pairs}, but must be larger: W* = W in every pair")
    delta = np.empty((gammas.size, len(pairs)))
    for i, gamma in enumerate(gammas):
        for j, (W, W_star) in enumerate(gamma * pairs):
            loss = losses.PopulationLoss(arch, architectures.Network(arch, W_star.ravel(), d))
            delta[i, j] = one_point(loss, W.ravel(), aligned=False).delta[0]
    return Region(gammas, (delta > 0).mean(axis=1), delta.min(axis=1), np.median(delta, axis=1))
