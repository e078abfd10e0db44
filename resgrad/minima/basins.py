"""From a start to the minimum in whose basin it lies, and which minima are the same up to symmetry."""

from typing import NamedTuple

import numpy as np

from .. import losses, optimizers, training
from . import landscape, symmetry
from .symmetry import EPS

LOOK = 200  # first-order steps between two looks at the gradient
WAIT = 1.2  # a point that was not accepted is looked at again after this many times the steps made so far
HANDOVER = 1e-4  # of the largest gradient norm so far: below it Newton's method may take over
REACH = 3.0  # first Newton steps to the minimum: 1 where the loss is quadratic, 2 where it is cubic
STEP = 0.5  # of 1 / curvature: the step size unless given.  On a quadratic loss 2 is the limit
FAR = 1e60  # size of an entry of theta: the run has diverged, and the gradient is about to overflow
NONE = [0.0] * 4
SAME = 1e-7  # relative: minima of one family agree to 1e-10, the most similar families seen differ by 1e-3
SMALL = float(np.finfo(np.float64).tiny)  # the smallest number that is not taken for 0 where subnormal numbers are


class Basin(NamedTuple):
    """Where a run ended.  See `descend`."""

    outcome: str  # "global", "spurious", "saddle" or "unconverged"
    loss: float
    grad_norm: float
    min_eigenvalue: float  # of the Hessian
    invariants: list  # see `_invariants`; zeros unless spurious
    steps: int  # first-order steps
    theta: np.ndarray  # shape (n,)
    message: str = ""  # of a run of a census that an error ended: see `runs.tasks.work`


def descend(exact: losses.PopulationLoss, loss: losses.PopulationLoss | losses.EmpiricalLoss | losses.OnlineLoss,
            theta0: np.ndarray, n_steps: int, lr: float | None = None, momentum: float = 0.0,
            batch_size: int | None = None, rng: np.random.Generator | None = None) -> Basin:  # fmt: skip
    """Train on ``loss`` from ``theta0``, (n,), until the basin is certain; polish on ``exact``, and classify.

    The default of ``lr`` is (1 - momentum / 2) `STEP` over the largest curvature at theta0 and, if the teacher has
    the student's architecture, at the teacher.  ``rng`` draws the batches.

    Training goes on until |grad| is at most `HANDOVER` of its largest value and the basin is certain, or for
    ``n_steps``.  The basin is certain if Newton's method arrives at a minimum that is at most `REACH` of its first
    steps away, and if the loss is convex on the way: across the orbit of symmetries, no curvature is below -2 |g|.
    So Newton's method decides nothing near a saddle, where the gradient is small but the loss is not convex, and
    nothing on a long slope, where it would take short cuts.

    >>> import resgrad as rg
    >>> loss = rg.PopulationLoss("vanilla", rg.Network("vanilla", np.eye(10).ravel(), d=10))
    >>> found = descend(loss, loss, rg.draw("vanilla", "normal", d=10, rng=6), 10_000, lr=0.05)
    >>> found.outcome, round(found.loss / 2, 10), round(found.min_eigenvalue / 2, 6)
    ('spurious', 0.0187021946, 0.031964)
    """
    if lr is None:
        points = [theta0, exact.teacher.theta] if exact.teacher.arch == exact.arch else [theta0]
        curvature = max(float(np.linalg.eigvalsh(exact.hessian(theta))[-1]) for theta in points)
        lr = (1 - momentum / 2) * STEP / curvature if curvature > SMALL else STEP
    width = loss.arch.width(theta0.size, loss.d)
    advance = training.advancer(loss, optimizers.Nesterov(lr, momentum), batch_size, width)
    state, look, peak = training.State.start(loss, theta0, rng), 0, np.linalg.norm(exact.grad(theta0))
    while True:
        advance(state, min(LOOK, n_steps - state.step))
        theta, last = state.theta(loss), state.step >= n_steps
        if not np.abs(theta).max() < FAR:
            return Basin("unconverged", np.inf, np.inf, np.nan, NONE, state.step, theta)
        norm = float(np.linalg.norm(exact.grad(theta)))
        peak = max(peak, norm)
        still = norm <= HANDOVER * peak
        if last or (still and state.step >= look):
            point = _polish(exact, theta, min(norm, HANDOVER * peak), last and still)
            if point is not None:
                zero = point.loss <= EPS * exact.value(theta0)  # needed where the teacher is zero
                outcome = "global" if zero else point.verdict.split()[0]
                keys = _invariants(exact, point) if outcome == "spurious" else NONE
                found = point.loss, point.grad_norm, point.min_eigenvalue, keys, state.step, point.theta
                return Basin(outcome, *found)
            look = WAIT * state.step
        if last:
            smallest = float(np.linalg.eigvalsh(exact.hessian(theta))[0])
            return Basin("unconverged", exact.value(theta), norm, smallest, NONE, state.step, theta)


def destination(exact: losses.PopulationLoss, theta: np.ndarray) -> landscape.Polished | None:
    """The critical point that descent from ``theta`` leads to, or None where that is not certain, as in `descend`."""
    norm = float(np.linalg.norm(exact.grad(theta)))
    small = HANDOVER * landscape.gradient_scale(theta, exact.hessian(theta))  # the largest gradient so far is unknown
    return _polish(exact, theta, min(norm, small), norm <= small)


def _polish(exact, theta, slack, settled):
    """The minimum in whose basin ``theta`` lies, or if the run has ``settled`` the saddle next to it, if certain."""
    reach = _newton_length(exact, theta, slack)
    if reach is None and not settled:
        return None
    point = landscape.polish(exact, theta, max_steps=0)
    if point.verdict == "unconverged":
        point = landscape.polish(exact, theta)
    if point.verdict == "saddle" and settled:
        return point
    if reach is None or point.verdict in ("saddle", "unconverged"):
        return None
    way = point.theta - theta
    sure = np.linalg.norm(way) <= REACH * reach + 1e-9 * np.linalg.norm(theta)  # the last term is for rounding
    stops = (theta + part * way for part in (0.25, 0.5, 0.75))
    return point if sure and all(_newton_length(exact, stop, slack) is not None for stop in stops) else None


def _newton_length(exact, theta, slack):
    """Length of the Newton step across the orbit of theta, or None if a curvature across it is below -2 ``slack``."""
    hessian, orbit = exact.hessian(theta), symmetry.tangent(exact.arch, theta, exact.d)
    size = np.abs(hessian).max()
    hessian += size * (orbit @ orbit.T)
    step = landscape.shifted_step(hessian, exact.grad(theta), max(2 * slack, landscape.SHIFT * size, SMALL))
    return None if step is None else float(np.linalg.norm(step))


def _invariants(exact, point):
    """What symmetric minima share: [log loss, smallest and mean by the largest eigenvalue, log of this].

    The eigenvalues are those at `symmetry.gauge`, since rescaling changes them.
    """
    values, log_loss, top = point.eigenvalues, float(np.log(point.loss)), point.eigenvalues[-1]
    if point.nullity > symmetry.tangent(exact.arch, point.theta, exact.d).shape[1]:
        return [log_loss, 0.0, 0.0, 0.0]  # eigenvalues vary along a manifold of minima larger than an orbit
    return [log_loss, float(values[0] / top), float(values.mean() / top), float(np.log(top))]


def group(keys):
    """Labels of the rows of ``keys`` (n, c).  Rows that agree to `SAME` in every column have the same label.

    If two rows agree with a third, all three have one label: rounding cannot divide a family, nor does order count.

    >>> group(np.array([[1.0, 3.0], [2.0, 3.0], [1.0 + 1e-9, 3.0], [1.0, 4.0]]))
    array([0, 2, 0, 1])
    """
    label = np.zeros(len(keys), dtype=int)
    for column in np.transpose(keys):
        order = np.lexsort((column, label))
        apart = (np.diff(column[order]) > SAME) | (np.diff(label[order]) > 0)
        label[order] = np.concatenate([[0], np.cumsum(apart)])
    return label
