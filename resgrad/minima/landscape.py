"""Critical points of a loss: the way to them (`polish`) and their Hessian (`spectrum`).

Both take any object with ``value``, ``grad`` and ``hessian``.  One that has ``arch`` and ``d``, too, such as
`PopulationLoss`, is known to have the symmetries of its network.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import linalg

from .. import blas, checks, tables
from . import symmetry
from .problem import Problem, architecture
from .symmetry import EPS

# All of these are in the units of `Problem`.
NULL = 1e-11  # of the largest eigenvalue.  Zero ones are below 1e-15, others mostly above 1e-5, of parallel units 1e-9
CRITICAL = 1e-13  # gradient norm of a critical point, unless its rounding error is larger
NOISE = 1e-8  # of the loss: a smaller decrease is computed from the gradients, as `PopulationLoss.value` has 9 digits
NEAR = 1e-6  # |g| relative to `gradient_scale`: below it Newton's method goes to the nearest critical point
SLOPE = 1e-6  # of the loss, |g| |theta| at a critical point: rounding a large theta may hide a steep slope
SHIFT = 1e-12  # of |H|: far above the rounding of zero eigenvalues, below all others
SOFT = 1e-4  # of the largest eigenvalue or 1: `_signature` makes sure of those below.  Degenerate ones end below 1e-6
SYMMETRIC = 1e-6  # of the largest entry: so far a user's Hessian may be from its transpose; differences leave 1e-8
_eigh = partial(linalg.eigh, driver="evd", check_finite=False)


@dataclass(frozen=True, eq=False)
class Spectrum:
    """The result of `spectrum`.  ``str()`` of it is one sentence."""

    eigenvalues: np.ndarray  # (n,), ascending
    tolerance: float  # in the units of `Problem`: eigenvalues of at most this size count as zero
    nullity: int  # number of zero eigenvalues
    index: int  # number of negative eigenvalues
    predicted: int  # dimension of the symmetry orbit; see `symmetry.tangent`
    null_space: np.ndarray  # (n, nullity)
    angles: np.ndarray  # principal angles between null space and tangent space of the orbit, descending
    explained: bool  # whether these two are the same space: all angles are below 1e-6

    def __str__(self):
        sizes = np.sort(np.abs(self.eigenvalues))
        zero, other = np.split(sizes, [self.nullity])
        angle = f"; largest angle {self.angles.max():.1e}" if self.angles.size else ""
        return (
            f"{sizes.size} eigenvalues: {self.nullity} zero ({self.predicted} by symmetry), {self.index} negative; "
            f"largest zero one {zero.max(initial=0.0):.1e}, smallest other {other.min(initial=np.inf):.1e}{angle}"
        )

    def _repr_html_(self):
        rows = {"eigenvalues": f"{self.eigenvalues.size:,}", "smallest": f"{self.eigenvalues[0]:.6g}"}
        rows |= {"largest": f"{self.eigenvalues[-1]:.6g}", "negative": self.index, "zero": self.nullity}
        rows |= {"zero by symmetry": self.predicted, "symmetry explains them": "yes" if self.explained else "no"}
        return tables.table([("Spectrum", ""), *rows.items()])


def spectrum(loss: Any, theta: ArrayLike, tolerance: float = NULL) -> Spectrum:
    """Eigenvalues of the exact Hessian at ``theta``, and whether symmetry explains the zero ones.

    The loss is constant on the symmetry orbit.  So at a critical point the Hessian is 0 on the tangent space of the
    orbit.  For a generic teacher of the student's width it is 0 nowhere else: nullity 0 (``fixed``), k d (``sum``),
    k (``vector``).

    Rescaling a unit changes the other eigenvalues: scales c of 1e3 spread them by c^4.  But it does not change how
    many are zero or negative (Sylvester's law of inertia), and they are counted where the units are best scaled, at
    `symmetry.gauge` of theta.  At a unit with u = 0 the loss has a kink, and the Hessian is that of the other units.

    Parameters
    ----------
    loss : PopulationLoss
        Or any object with ``value``, ``grad`` and ``hessian``; without ``arch`` and ``d`` no symmetry is predicted.
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
    problem = Problem(loss, theta)
    at, back = problem.gauge(theta)
    view, tangent = problem.at(at), problem.tangent(theta)
    eigenvalues, vectors = _eigh(view.hessian(at / view.scale))
    cut = float(tolerance * np.abs(eigenvalues).max())
    zero = np.abs(eigenvalues) <= cut
    null = vectors[:, zero] * view.scale[:, None]
    if back:  # what leads back to theta is affine
        home = symmetry.transform(loss.arch, at, loss.d, **back)
        for column in null.T:
            column[:] = symmetry.transform(loss.arch, at + column, loss.d, **back) - home
    null = np.linalg.qr(null)[0]
    angles = linalg.subspace_angles(null, tangent) if null.size and tangent.size else np.empty(0)
    explained = null.shape[1] == tangent.shape[1] and bool((angles < 1e-6).all())
    index, raw = int((eigenvalues < -cut).sum()), _eigh(loss.hessian(theta), eigvals_only=True)
    return Spectrum(raw, cut, null.shape[1], index, tangent.shape[1], null, angles, explained)


def _checked(loss, theta):
    """``theta``, checked, and what a user's own loss returns there; TypeError if it has no Hessian."""
    if not all(callable(getattr(loss, name, None)) for name in ("value", "grad", "hessian")):
        raise TypeError(f"loss is {checks.shown(loss)}, but must have value, grad and hessian, as PopulationLoss does")
    theta = checks.array(theta, "theta", ("n",))
    if (arch := architecture(loss)) is not None:
        arch.unflatten(theta, loss.d)
        return theta
    if not theta.size:
        raise ValueError("theta has no entries, but must have one or more")
    for name, shape in (("value", ()), ("grad", theta.shape), ("hessian", 2 * theta.shape)):
        result = checks.array(getattr(loss, name)(theta.copy()), f"loss.{name}(theta)", shape)
    if (off := np.abs(result - result.T).max()) > SYMMETRIC * np.abs(result).max():
        raise ValueError(f"loss.hessian(theta) differs from its transpose by {off:.1e}, but must be symmetric")
    return theta


@dataclass(frozen=True, eq=False)
class Polished:
    """The result of `polish`.  Gradient and Hessian are those at `symmetry.gauge` of theta."""

    theta: np.ndarray  # (n,)
    loss: float
    grad_norm: float
    verdict: str  # "global minimum", "spurious minimum", "minimum", "saddle" or "unconverged"
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


@blas.one_thread()  # its matrices gain nothing from a second one, and no bit may depend on it
def polish(loss: Any, theta: ArrayLike, max_steps: int = 1000) -> Polished:
    """Find the critical point near ``theta``, to the last digit, and its kind.

    * "global minimum": the loss is at most `problem.GLOBAL` of that of a student with all units dead; where that is 0,
      as for a zero teacher, of the size of the student at ``theta``.
    * "unconverged": |g| is above `CRITICAL`, and above its rounding error (EPS times `gradient_scale`) or
      |g| |theta| above `SLOPE` of the loss.
    * "saddle": an eigenvalue is below -`NULL` times the largest, and below the curvature that the remaining gradient
      causes along the orbit, where the Hessian would otherwise be 0.  Or the loss falls when a unit with u = 0 grows.
    * "spurious minimum": a minimum of positive loss, to second order: zero eigenvalues that symmetry does not explain
      may hide a degenerate saddle, or a slope below rounding, as next to units 1e-5 rad from parallel.  For a student
      narrower than its teacher it may be the best there is.
    * "minimum": the same for a loss without ``arch``, whose smallest value is not known.

    All of these are judged in the units of `Problem`: at a critical point the verdict is the same for all symmetric
    points and all units.  From other points the way there is the same, too, but for reversals of units: with trained
    read-outs C then moves by u a', so that steps straight in one copy are bent in the other.

    Parameters
    ----------
    loss : PopulationLoss
        Or any object with ``value``, ``grad`` and ``hessian``; without ``arch`` and ``d`` no symmetry is predicted.
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
    `symmetry.gauge` of theta's orbit, so that neither the path nor the verdict depends on how units are scaled, and
    the result is scaled back to be near theta.

    Near a degenerate minimum, where the loss grows like |x|^q, q > 2, an eigenvalue is small, but not zero.  It counts
    as zero if a Newton step changes it by more than a quarter (the change is 0 for q = 2, at least a half for q > 2).

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
    problem, steps = Problem(loss, theta), 0
    theta, back = problem.gauge(theta)
    for near in (NEAR, 1e-4 * NEAR, 1e-8 * NEAR):  # where Newton's method fails, on flat stretches, descend farther
        view = problem.at(theta)
        x, more = _descend(view, theta / view.scale, near, max_steps - steps)
        theta = problem.gauge(view.theta(x))[0]
        view = problem.at(theta)
        x, last = _newton(view, theta / view.scale)
        theta, steps = view.theta(x), steps + more + last
        if _is_critical(view, x, view.grad(x), view.hessian(x)) or steps >= max_steps:
            break
    theta = problem.gauge(theta)[0]
    verdict, index, nullity = _judge(problem, theta)
    stuck = verdict in ("unconverged", "spurious minimum")  # at a kink: from one side its gradient never vanishes, or
    if stuck and problem.arch is not None and not problem.arch.trains_readout:  # it does, and the loss falls beyond
        short = problem.without(theta, EPS**0.5 * problem.at(theta).scale[0])
        if short is not theta:
            view = problem.at(short)
            short = view.theta(_newton(view, short / view.scale)[0])
            if "minimum" in (found := _judge(problem, short))[0] or found[0] == "saddle" and verdict != "unconverged":
                theta, (verdict, index, nullity) = short, found
    value, norm = loss.value(theta), float(np.linalg.norm(loss.grad(theta)))
    eigenvalues = _eigh(loss.hessian(theta), eigvals_only=True)
    if back:
        theta = symmetry.transform(loss.arch, theta, loss.d, **back)
    return Polished(theta, float(value), norm, verdict, index, nullity, eigenvalues, float(eigenvalues[0]), steps)


def _judge(problem, theta):
    """(verdict, number of negative and of zero eigenvalues) at ``theta``, which is in the gauge."""
    view = problem.at(theta)
    x = theta / view.scale
    g, hessian = view.grad(x), view.hessian(x)
    index, nullity = _signature(view, x, g, hessian)
    if problem.loss.value(theta) <= problem.zero:
        return "global minimum", index, nullity
    if not _is_critical(view, x, g, hessian):
        return "unconverged", index, nullity
    if index or _grows(problem, theta):
        return "saddle", index, nullity
    return "minimum" if problem.arch is None else "spurious minimum", index, nullity


def _signature(view, x, g, hessian):
    """(number of negative eigenvalues, number of zero ones) of the Hessian at x, as `polish` counts them."""
    (values, vectors), orbit = _eigh(hessian), view.tangent(x)
    top = np.abs(values).max()
    cut = max(NULL * top, 2 * np.linalg.norm(hessian @ orbit))  # the last is 0 where g = 0
    zero = np.abs(values) <= cut
    error = np.maximum(np.abs(vectors.T @ g), EPS * gradient_scale(x, hessian))
    for i in np.flatnonzero(~zero & (np.abs(values) <= SOFT * max(top, 1.0))):
        v = vectors[:, i]
        step = np.copysign(min(error[i] / np.abs(values[i]), np.linalg.norm(x)), values[i] * (v @ g))
        zero[i] = abs(v @ view.hessian(x - step * v) @ v - values[i]) > np.abs(values[i]) / 4
    return int((~zero & (values < 0)).sum()), int(zero.sum())


def _grows(problem, theta):
    """Whether the loss falls when a unit with u = 0 gets a short u.  There relu'(0) = 0 hides the slope.

    In that unit's u the loss is h(u) = a'c(u) to first order, and h is homogeneous.  Where a = 0, too, any c will do:
    a can turn against it, and c vanishes only with the loss.  Otherwise h's smallest value on the sphere is looked for
    from every axis.  It is 0, to rounding, toward a unit that does the work of u already.
    """
    for j in np.flatnonzero(problem.lengths(theta) == 0):
        units, steepest = symmetry.Units.of(problem.arch, theta, problem.d), 0.0
        least = EPS**0.5 * problem.least
        if not units.a[j].any():
            return True
        every = np.eye(units.u.shape[1])  # a bias is one more entry of u
        for direction in np.vstack([every, -every]):
            for _ in range(40):
                units.u[j] = least * direction
                blocks = problem.arch.unflatten(problem.loss.grad(units.theta()), problem.d)
                slope = blocks.W1[:, j] if blocks.b is None else np.append(blocks.W1[:, j], blocks.b[j])
                if (height := slope @ direction) < -least * np.linalg.norm(units.a[j]):
                    return True
                steepest = max(steepest, np.linalg.norm(slope)) or 1.0
                direction = direction - (slope - height * direction) / steepest
                direction /= np.linalg.norm(direction)
    return False


def _descend(view, x, near, max_steps):
    """(x, steps) after damped Newton steps with |eigenvalues|, until |g| is ``near`` 0."""
    value, g, damping = view.value(x), view.grad(x), None
    for taken in range(max_steps):
        hessian = view.hessian(x)
        if np.linalg.norm(g) <= max(near * gradient_scale(x, hessian), CRITICAL) or view.short(x):
            return x, taken
        values, vectors = _eigh(hessian)
        sizes, slope = np.abs(values), vectors.T @ g
        damping = sizes.max() if damping is None else damping
        while damping < sizes.max() / EPS:
            step = slope / (sizes + damping)
            new = x - vectors @ step
            new_value, new_g, hoped = view.value(new), view.grad(new), step @ (slope - values * step / 2)
            fallen = value - new_value if hoped > NOISE * abs(value) else (g + new_g) @ (x - new) / 2
            if fallen >= hoped / 4:
                break
            damping = 4 * max(damping, SHIFT * sizes.max())
        else:
            return x, taken  # no step lowers the loss: rounding, or a kink
        if fallen > 3 / 4 * hoped:
            damping /= 4
        x, value, g = new, new_value, new_g
    return x, max_steps


def _newton(view, x, max_steps=50):
    """(x, steps) after Newton steps, each of which lowers |g|."""
    g, hessian, shift, taken = view.grad(x), view.hessian(x), SHIFT, 0
    norm = np.linalg.norm(g)
    while taken < max_steps and norm > EPS and shift <= 1e-5 and not view.short(x):
        orbit = view.tangent(x)
        across = g - orbit @ (orbit.T @ g)  # g without rounding errors along the orbit, which a step would magnify
        mu = max(2 * norm, shift * np.linalg.norm(hessian))
        step = shifted_step(hessian, across, mu)
        if step is None:  # not near a minimum: see the notes of `polish`
            values, vectors = _eigh(hessian)
            least = mu if orbit.size else shift * np.abs(values).max()
            step = vectors @ (vectors.T @ across / np.where(np.abs(values) > least, values, np.inf))
        new = x - step
        new_g = view.grad(new)
        new_norm = np.linalg.norm(new_g)
        if not new_norm < norm / 2:  # rounding errors along another null direction: shift it more
            if norm <= CRITICAL:
                break
            shift *= 1e3
        if new_norm < norm:
            x, g, norm, hessian = new, new_g, new_norm, view.hessian(new)
        taken += 1
    return x, taken


def shifted_step(hessian, g, mu):
    """(H + mu I)^-1 g, or None where H + mu I is not positive definite."""
    shifted = hessian.copy()
    shifted[np.diag_indices(g.size)] += mu
    try:
        return linalg.cho_solve(linalg.cho_factor(shifted, overwrite_a=True, check_finite=False), g)
    except linalg.LinAlgError:
        return None


def gradient_scale(x, hessian):
    """The scale of |g|: a relative error e in every parameter changes g by up to e times this."""
    return np.linalg.norm(np.abs(hessian) @ np.abs(x))


def _is_critical(view, x, g, hessian):
    norm, rounding = np.linalg.norm(g), EPS * gradient_scale(x, hessian)
    return norm <= CRITICAL or (norm <= rounding and norm * np.linalg.norm(x) <= SLOPE * abs(view.value(x)))
