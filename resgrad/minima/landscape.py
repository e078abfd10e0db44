"""Critical points of the exact expected loss: the way to them (`polish`) and their Hessian (`spectrum`)."""

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike
from scipy import linalg

from .. import checks, losses
from . import symmetry
from .symmetry import EPS

NULL = 1e-11  # of the largest eigenvalue.  Zero ones are below 1e-15, others mostly above 1e-5, of parallel units 1e-9
CRITICAL = 1e-13  # gradient norm of a critical point, unless its rounding error is larger
GLOBAL = 1e-12  # of the loss of a student with all units dead.  Global minima have up to 1e-13, spurious ones > 1e-6
ZERO = 1e-24  # a loss this small is zero even where a student with all units dead has no more, as for a zero teacher
NOISE = 1e-8  # of the loss: a smaller decrease is computed from the gradients, as `PopulationLoss.value` has 9 digits
NEAR = 1e-6  # |g| relative to `gradient_scale`: below it Newton's method goes to the nearest critical point
SLOPE = 1e-6  # of the loss, |g| |theta| at a critical point: rounding a large theta may hide a steep slope
KINK = 1e-100  # of the largest entry: the Hessian grows like 1 / |u|, and soon overflows for a unit with so short a u
SHIFT = 1e-12  # of |H|: far above the rounding of zero eigenvalues, below all others
_eigh = partial(linalg.eigh, driver="evd", check_finite=False)


@dataclass(frozen=True, eq=False)
class Spectrum:
    """What `spectrum` finds.  ``str()`` of it is one sentence."""

    eigenvalues: np.ndarray  # (n,), ascending
    tolerance: float  # those of at most this size count as zero
    nullity: int  # number of zero ones
    index: int  # number of negative ones
    predicted: int  # dimension of the symmetry orbit; see `symmetry.tangent`
    null_space: np.ndarray  # (n, nullity)
    angles: np.ndarray  # principal angles between null space and tangent space of the orbit, descending
    explained: bool  # whether these two are the same space: all angles are below 1e-6

    def __str__(self):
        sizes = np.abs(self.eigenvalues)
        zero, other = sizes[sizes <= self.tolerance], sizes[sizes > self.tolerance]
        angle = f"; largest angle {self.angles.max():.1e}" if self.angles.size else ""
        return (
            f"{sizes.size} eigenvalues: {self.nullity} zero ({self.predicted} by symmetry), {self.index} negative; "
            f"zero means at most {self.tolerance:.1e} (largest zero one {zero.max(initial=0.0):.1e}, "
            f"smallest other {other.min(initial=np.inf):.1e}){angle}"
        )


def spectrum(loss: losses.PopulationLoss, theta: ArrayLike, tolerance: float = NULL) -> Spectrum:
    """Eigenvalues of the exact Hessian at ``theta``, and whether symmetry explains the zero ones.

    The loss is constant on the symmetry orbit.  So at a critical point the Hessian is 0 on the tangent space of the
    orbit.  For a generic teacher of the student's width it is 0 nowhere else: nullity 0 (``fixed``), k d (``sum``),
    k (``vector``).

    Rescaling a unit changes the other eigenvalues.  Scales c of 1e3 spread them by c^4, and small ones are then taken
    for zero: apply ``symmetry.balanced`` first, or `polish`, which does something similar.  At a unit with u = 0 the
    loss has a kink, and the Hessian is that of the other units.

    Parameters
    ----------
    loss : PopulationLoss
    theta : array_like, shape (n,)
    tolerance : float
        An eigenvalue is zero when it is at most this fraction of the largest in size.

    Raises
    ------
    ValueError, TypeError
        When theta does not fit or is not finite, or the loss has no Hessian.

    Examples
    --------
    >>> import resgrad as rg
    >>> theta_star = rg.draw("resnet", "uniform", d=4, rng=0)
    >>> loss = rg.PopulationLoss("resnet", rg.Network("resnet", theta_star, d=4))
    >>> found = rg.spectrum(loss, theta_star)
    >>> found.nullity, found.predicted, found.explained
    (4, 4, True)
    """
    theta, tolerance = _checked(loss, theta), checks.real(tolerance, "tolerance", 0.0, 1.0)
    eigenvalues, vectors = _eigh(loss.hessian(theta))
    cut, nullity, index = _signature(eigenvalues, tolerance)
    null, tangent = vectors[:, np.abs(eigenvalues) <= cut], symmetry.tangent(loss.arch, theta, loss.d)
    angles = linalg.subspace_angles(null, tangent) if null.size and tangent.size else np.empty(0)
    explained = nullity == tangent.shape[1] and bool((angles < 1e-6).all())
    return Spectrum(eigenvalues, cut, nullity, index, tangent.shape[1], null, angles, explained)


def _signature(eigenvalues, tolerance=NULL):
    """(largest size that counts as zero, number of zero eigenvalues, number of negative ones)."""
    cut = float(tolerance * np.abs(eigenvalues).max())
    return cut, int((np.abs(eigenvalues) <= cut).sum()), int((eigenvalues < -cut).sum())


def _checked(loss, theta):
    """``theta``, checked, of a loss that has a Hessian."""
    if not isinstance(loss, losses.PopulationLoss):
        raise TypeError(f"loss is {checks.shown(loss)}, but must be a PopulationLoss: it has a Hessian")
    return loss._theta(theta)


@dataclass(frozen=True, eq=False)
class Polished:
    """What `polish` finds.  Gradient and Hessian are those at `symmetry.gauge` of theta."""

    theta: np.ndarray  # (n,)
    loss: float
    grad_norm: float
    verdict: str  # "global minimum", "spurious minimum", "saddle" or "unconverged"
    index: int  # number of negative eigenvalues of the Hessian, and
    nullity: int  # number of zero ones, as in `spectrum`
    eigenvalues: np.ndarray  # (n,), ascending
    min_eigenvalue: float  # 0 to rounding where symmetry makes the Hessian singular
    iterations: int  # second-order steps

    def __str__(self):
        return (
            f"{self.verdict} after {self.iterations} steps: loss {self.loss:.6e}, |grad| {self.grad_norm:.1e}, "
            f"{self.index} negative and {self.nullity} zero eigenvalues, smallest {self.min_eigenvalue:.6g}"
        )


def polish(loss: losses.PopulationLoss, theta: ArrayLike, max_steps: int = 1000) -> Polished:
    """Go to a critical point, to the last digit, and say of which kind it is.

    * "global minimum": the loss is at most `GLOBAL` of that of a student with all units dead, or at most `ZERO`.
    * "unconverged": |g| is above `CRITICAL`, and above what rounding theta does to it (EPS times `gradient_scale`) or
      |g| |theta| above `SLOPE` of the loss.  Or a unit has u = 0 (`KINK`): there no gradient could vanish.
    * "saddle": an eigenvalue is below -`NULL` times the largest.
    * "spurious minimum": a minimum of positive loss, to second order: zero eigenvalues that symmetry does not explain
      may hide a degenerate saddle.  For a student narrower than its teacher it may be the best there is.

    Parameters
    ----------
    loss : PopulationLoss
    theta : array_like, shape (n,)
        Any point.  While |grad| is above `NEAR`, relatively, every step lowers the loss.  Below it Newton's method
        goes to the critical point nearby, which may be a saddle.
    max_steps : int
        Descent steps at most; 0 for Newton's method alone.

    Raises
    ------
    ValueError, TypeError
        When theta does not fit or is not finite, or the loss has no Hessian.

    Notes
    -----
    Descent steps are damped Newton steps in which H's eigenvalues are replaced by their sizes (Dauphin et al. 2014).
    Then (H + mu I) step = -g with mu = max(2 |g|, `SHIFT` |H|).  Along a symmetry orbit H = O(|g|).  So H + mu I is
    positive definite near a minimum, and convergence to a manifold of minima stays fast (Li, Fukushima, Qi &
    Yamashita 2004).  If it is not definite, g is divided by each eigenvalue above mu.  SciPy's ``trust-exact`` takes
    ten times as long, and its "hard case" moves along the orbit by a trust radius.  All steps are made at the point
    `symmetry.gauge` of theta's orbit, so that neither the way nor the verdict depends on how units are scaled, and
    the result is scaled back to be near theta.

    Examples
    --------
    The most frequent spurious minimum of Safran & Shamir (2018) at k = 10 (their loss has a 1/2):

    >>> import numpy as np, resgrad as rg
    >>> loss = rg.PopulationLoss("vanilla", rg.Network("vanilla", np.eye(10).ravel(), d=10))
    >>> run = rg.train(loss, rg.draw("vanilla", "normal", d=10, rng=6), rg.SGD(0.05), 2000)
    >>> point = rg.polish(loss, run.theta)
    >>> point.verdict, f"{point.loss / 2:.10f}", f"{point.min_eigenvalue / 2:.6f}"
    ('spurious minimum', '0.0187021946', '0.031964')
    """
    theta, max_steps = _checked(loss, theta), checks.integer(max_steps, "max_steps", 0)
    steps, (theta, back) = 0, symmetry.gauge(loss.arch, theta, loss.d)
    for near in (NEAR, 1e-4 * NEAR, 1e-8 * NEAR):  # where Newton's method fails, on flat stretches, descend farther
        theta, more = _descend(loss, theta, near, max_steps - steps)
        theta, norm, hessian, last = _newton(loss, symmetry.gauge(loss.arch, theta, loss.d)[0])
        steps += more + last
        if _is_critical(loss, theta, norm, hessian) or steps >= max_steps:
            break
    theta = symmetry.gauge(loss.arch, theta, loss.d)[0]
    value, norm, hessian = loss.value(theta), np.linalg.norm(loss.grad(theta)), loss.hessian(theta)
    eigenvalues = np.linalg.eigvalsh(hessian)
    _, nullity, index = _signature(eigenvalues)
    silent = symmetry.Units.of(loss.arch, theta, loss.d).each(np.zeros_like).theta()
    if value <= max(GLOBAL * loss.value(silent), ZERO):
        verdict = "global minimum"
    elif _at_kink(loss, theta) or not _is_critical(loss, theta, norm, hessian):
        verdict = "unconverged"
    else:
        verdict = "saddle" if index else "spurious minimum"
    if back:
        theta = symmetry.transform(loss.arch, theta, loss.d, **back)
    return Polished(theta, value, float(norm), verdict, index, nullity, eigenvalues, float(eigenvalues[0]), steps)


def _descend(loss, theta, near, max_steps):
    """(theta, steps) after damped Newton steps with |eigenvalues|, until |g| is ``near`` 0."""
    (value, g), damping = loss.value_and_grad(theta), None
    for taken in range(max_steps):
        hessian = loss.hessian(theta)
        if np.linalg.norm(g) <= near * gradient_scale(theta, hessian) or _at_kink(loss, theta):
            return theta, taken
        values, vectors = _eigh(hessian)
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
            return theta, taken  # no step lowers the loss: rounding, or a kink
        if fallen > 3 / 4 * hoped:
            damping /= 4
        theta, value, g = new, new_value, new_g
    return theta, max_steps


def _newton(loss, theta, max_steps=50):
    """(theta, |g|, H, steps) after Newton steps, each of which lowers |g|."""
    g, hessian, shift, taken = loss.grad(theta), loss.hessian(theta), SHIFT, 0
    norm = np.linalg.norm(g)
    while taken < max_steps and norm > EPS and shift <= 1e-5 and not _at_kink(loss, theta):
        orbit = symmetry.tangent(loss.arch, theta, loss.d)
        across = g - orbit @ (orbit.T @ g)  # g without rounding errors along the orbit, which a step would magnify
        mu = max(2 * norm, shift * np.linalg.norm(hessian))
        step = shifted_step(hessian, across, mu)
        if step is None:  # not near a minimum: see the notes of `polish`
            values, vectors = _eigh(hessian)
            step = vectors @ (vectors.T @ across / np.where(np.abs(values) > mu, values, np.inf))
        new = theta - step
        new_g = loss.grad(new)
        new_norm = np.linalg.norm(new_g)
        if not new_norm < norm / 2:  # rounding errors along another null direction: shift it more
            if norm <= CRITICAL:
                break
            shift *= 1e3
        if new_norm < norm:
            theta, g, norm, hessian = new, new_g, new_norm, loss.hessian(new)
        taken += 1
    return theta, norm, hessian, taken


def shifted_step(hessian, g, mu):
    """(H + mu I)^-1 g, or None where H + mu I is not positive definite."""
    shifted = hessian.copy()
    shifted[np.diag_indices(g.size)] += mu
    try:
        return linalg.cho_solve(linalg.cho_factor(shifted, overwrite_a=True, check_finite=False), g)
    except linalg.LinAlgError:
        return None


def gradient_scale(theta, hessian):
    """What |g| is compared with: a relative error e in every parameter changes g by up to e times this."""
    return np.linalg.norm(np.abs(hessian) @ np.abs(theta))


def _is_critical(loss, theta, norm, hessian):
    slope, rounding = norm * np.linalg.norm(theta), EPS * gradient_scale(theta, hessian)
    return norm <= CRITICAL or (norm <= rounding and slope <= SLOPE * loss.value(theta))


def _at_kink(loss, theta):
    """Whether a unit has u = 0, up to `KINK`."""
    return np.abs(loss.arch.canonical(theta, loss.d)[0]).max(axis=0).min() <= KINK * np.abs(theta).max()
