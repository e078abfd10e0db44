"""From a start to the minimum in whose basin it lies, and which minima are the same up to symmetry."""

from typing import NamedTuple

import numpy as np

from .. import blas, flow, losses, optimizers, training
from . import landscape, symmetry
from .problem import Problem
from .symmetry import EPS

LOOK = 200  # first-order steps between two looks at the gradient
WAIT = 1.2  # a point that was not accepted is looked at again after this many times the steps made so far
POWERS = range(3, 13)  # times at which the flow is looked at, as powers of 10, in units of 1 / curvature
EFFORT = 5000  # gradients that the flow of a run may take.  Most take a few hundred
SHORT = 1e-6  # of the units' length: the flow leads a unit with so short a u to u = 0, in finite time
RTOL = 1e-6  # of the flow, relative to the size of theta, too.  Its valleys attract, so that errors do not add up
HANDOVER = 1e-4  # of the largest gradient norm so far: below it Newton's method may take over
REACH = 3.0  # first Newton steps to the minimum: 1 where the loss is quadratic, 2 where it is cubic
DESCENT = 30  # steps of `polish` where Newton's method alone does not arrive.  Later points need none
STEP = 0.5  # of 1 / curvature: the step size unless given.  On a quadratic loss 2 is the limit
AGREE = 0.05  # exponents of |g| in two decades of t that differ by no more are one.  They are 2, 1.5, 1.33 ...
FASTER = 2.5  # powers of 10 in a decade of t: |g| that falls by more follows no power, as these are 2 at most
FAR = 1e38  # size of an entry of theta: the run has diverged, and eighth powers of it are about to overflow
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
    exponent: float = np.nan  # p where the loss falls like t^-p, inf where it falls faster; else nan


def descend(exact: losses.PopulationLoss, loss: losses.PopulationLoss | losses.EmpiricalLoss | losses.OnlineLoss,
            theta0: np.ndarray, n_steps: int, lr: float | None = None, momentum: float = 0.0,
            batch_size: int | None = None, rng: np.random.Generator | None = None) -> Basin:  # fmt: skip
    """Train on ``loss`` from ``theta0``, (n,), until the basin is certain; polish on ``exact``, and classify.

    The default of ``lr`` is (1 - momentum / 2) `STEP` over the largest curvature at theta0 and, if the teacher has
    the student's architecture, at the teacher.  ``rng`` draws the batches.

    Training goes on until |grad| is at most `HANDOVER` of its largest value and the basin is certain, or for
    ``n_steps``.  Where ``loss`` is the expected one, it then goes on along gradient flow, d theta / dt = -grad, which
    first-order steps follow as long as they are short; a stiff solver makes one step there of millions of theirs.
    The flow is looked at at growing times, the `POWERS` of 10 over the curvature.

    So the basin is that of the steps, as far as they go.  How often the flow from ``theta0`` itself (n_steps = 0,
    `RTOL` 1e-8) ends elsewhere was measured for d = 5: for ``vanilla`` in none of 1,000 runs; for ``li`` with normal
    teachers in 25 of 1,000 (1.7 to 3.7 %), because of the census's momentum of 0.9, without it in none of 150; for
    ``two-weight`` with normal teachers in 41 of 394 (8 to 14 %).  To go on to 1e-8 of the largest gradient, where a
    run is certain before, changed the end of none of 1,550 of ``vanilla`` and ``li``.

    The basin is certain if Newton's method arrives at a minimum that is at most `REACH` of its first
    steps away, and if the loss is convex on the way: across the orbit of symmetries, no curvature is below -2 |g|.
    So Newton's method decides nothing near a saddle, where the gradient is small but the loss is not convex, and
    nothing on a long slope, where it would take short cuts.  A saddle is where a run ends that has arrived there, or
    that is next to it in the end.

    At a degenerate minimum the loss grows like |x|^q, q > 2, and falls like t^-p, p = q / (q - 2): for ever, but to
    the minimum that Newton's method finds.  Such a minimum counts as what it is, and p is its ``exponent``.

    >>> import resgrad as rg
    >>> loss = rg.PopulationLoss("vanilla", rg.Network("vanilla", np.eye(10).ravel(), d=10))
    >>> found = descend(loss, loss, rg.draw("vanilla", "normal", d=10, rng=6), 10_000, lr=0.05)
    >>> found.outcome, round(found.loss / 2, 10), round(found.min_eigenvalue / 2, 6)
    ('spurious', 0.0187021946, 0.031964)
    """
    points = [theta0, exact.teacher.theta] if exact.teacher.arch == exact.arch else [theta0]
    curvature = max(float(np.linalg.eigvalsh(exact.hessian(theta))[-1]) for theta in points)
    curvature = curvature if curvature > SMALL else 1.0
    if lr is None:
        lr = (1 - momentum / 2) * STEP / curvature
    width, flows = loss.arch.width(theta0.size, loss.d), isinstance(loss, losses.PopulationLoss)
    advance = training.advancer(loss, optimizers.Nesterov(lr, momentum), batch_size, width)
    state, look, peak = training.State.start(loss, theta0, rng), 0, np.linalg.norm(exact.grad(theta0))
    while True:
        advance(state, min(LOOK, n_steps - state.step))
        theta, last = state.theta(loss), state.step >= n_steps
        if not np.abs(theta).max() < FAR:
            return Basin("unconverged", np.inf, np.inf, np.nan, NONE, state.step, theta)
        norm = float(np.linalg.norm(exact.grad(theta)))
        peak = max(peak, norm)
        if last or (norm <= HANDOVER * peak and state.step >= look):
            point = _polish(exact, theta, HANDOVER * peak, last)
            if point is not None and not (flows and point.verdict == "saddle" and _apart(point.theta, theta)):
                return _basin(exact, theta0, theta, point, state.step, curvature)
            look = WAIT * state.step
        if last:
            break
    time, across = 0.0, _Across(exact, theta)
    for power in POWERS if flows else ():
        try:
            theta = _flow(across, theta, 10.0**power / curvature - time, RTOL)
        except RuntimeError:
            theta = across.problem.without(across.last, across.short)
            if theta is across.last:
                break
            scaled = across.problem.gauge(across.last)[0]  # where u is not short, but a is
            point = _polish(exact, scaled, np.inf, False)
            if point is not None and across.may_end(point.theta):  # else dead, and without a gradient, from now on
                return _basin(exact, theta0, scaled, point, state.step, curvature)
        time = 10.0**power / curvature
        point = _polish(exact, theta, HANDOVER * peak, power == POWERS[-1])
        if point is not None:
            return _basin(exact, theta0, theta, point, state.step, curvature)
    norm = float(np.linalg.norm(exact.grad(theta)))
    smallest = float(np.linalg.eigvalsh(exact.hessian(theta))[0])
    return Basin("unconverged", exact.value(theta), norm, smallest, NONE, state.step, theta)


def _basin(exact, theta0, theta, point, steps, curvature):
    """The `Basin` of a run from ``theta0`` that at ``theta`` is certain to end at ``point``."""
    zero = point.loss <= EPS * exact.value(theta0)  # needed where the teacher is zero
    outcome = "global" if zero else point.verdict.split()[0]
    degenerate = point.nullity > symmetry.tangent(exact.arch, point.theta, exact.d).shape[1]
    keys = _invariants(point, degenerate) if outcome == "spurious" else NONE
    exponent = np.nan if outcome == "saddle" else _exponent(exact, theta, curvature) if degenerate else np.inf
    found = point.loss, point.grad_norm, point.min_eigenvalue, keys, steps, point.theta
    return Basin(outcome, *found, exponent=exponent)


def _apart(one, other):
    """Whether two points differ by more than rounding."""
    return np.linalg.norm(one - other) > EPS**0.5 * np.linalg.norm(other)


class _Across:
    """A loss for `gradient_flow` whose gradient has no rounding errors along the orbit, which long steps magnify.

    RuntimeError where a unit dies, since the flow has a kink there, or where the flow takes too long.
    """

    def __init__(self, exact, theta):
        self.exact, self.left, self.value, self.hessian = exact, EFFORT, exact.value, exact.hessian
        self.problem = Problem(exact, theta)
        self.short = SHORT * self.problem.at(theta).scale[0]

    def grad(self, theta):
        length = self.problem.lengths(theta)
        self.left, self.last = self.left - 1, theta
        if self.left < 0 or ((length > 0) & (length <= self.short)).any():
            raise RuntimeError
        g, orbit = self.exact.grad(theta), self.problem.tangent(theta)
        return g - orbit @ (orbit.T @ g)

    def may_end(self, theta):
        """Whether the units that are short where the flow stopped, and live in ``theta``, can have come there.

        The flow conserves |u|^2 - |a|^2.  If this is negative, a cannot pass 0, on whichever side of 0 the solver is.
        """
        stopped, there = (symmetry.Units.of(self.exact.arch, x, self.exact.d) for x in (self.last, theta))
        u, a = symmetry.lengths(stopped.u), symmetry.lengths(stopped.a)
        live = there.strength() ** 2 > symmetry.DEAD * self.problem.least
        return not ((u <= self.short) & (u < a) & live).any()


def _flow(across, theta, time, rtol):
    """Where gradient flow leads from ``theta`` in ``time``; RuntimeError if that takes too long."""
    size = float(np.abs(theta).max()) or 1.0
    return flow.gradient_flow(across, theta, time, t_eval=[time], rtol=rtol, atol=1e-3 * rtol * size).theta


def _exponent(exact, theta, curvature):
    """p where from ``theta`` on the loss falls like t^-p, inf where it falls faster, nan where that is not certain."""
    across, norms, time = _Across(exact, theta), [], 0.0
    view = across.problem.at(theta)
    for n in POWERS:
        try:
            theta, time = _flow(across, theta, 10.0**n / curvature - time, 0.1 * RTOL), 10.0**n / curvature
        except RuntimeError:
            break
        norms.append(np.linalg.norm(view.grad(theta / view.scale)))
        if norms[-1] <= landscape.CRITICAL:
            return np.inf if len(norms) < 2 or norms[-2] > 10**FASTER * norms[-1] else np.nan
        if (power := _power(norms)) is not None:
            return power
    return np.nan


def _power(norms):
    """p where |g| at times that grow tenfold falls like t^-(p + 1)/2, since the loss falls by |g|^2 a time; or None."""
    if len(norms) < 3:
        return None
    before, now = np.log10(norms[-3] / norms[-2]), np.log10(norms[-2] / norms[-1])
    return float(2 * now - 1) if now > 1 and abs(now - before) <= AGREE else None


@blas.one_thread()
def destination(exact: losses.PopulationLoss, theta: np.ndarray) -> landscape.Polished | None:
    """The critical point that descent from ``theta`` leads to, or None where that is not certain, as in `descend`."""
    small = HANDOVER * landscape.gradient_scale(theta, exact.hessian(theta))  # the largest gradient so far is unknown
    return _polish(exact, theta, small, True)


def _polish(exact, theta, small, last):
    """The minimum in whose basin ``theta`` lies, or if the run ends at ``last`` the saddle next to it, if certain.

    A saddle may be next to it where the gradient is at most ``small``, which bounds the curvatures, too.
    """
    norm = float(np.linalg.norm(exact.grad(theta)))
    view, settled = Problem(exact, theta).at(theta), last and norm <= small
    x = theta / view.scale
    slack = min(1.0, small / norm) * np.linalg.norm(view.grad(x)) if norm > 0 else 0.0
    reach = _newton_length(view, x, slack)
    if reach is None and not settled:
        return None
    point = landscape.polish(exact, theta, max_steps=0)
    if point.verdict == "unconverged":
        point = landscape.polish(exact, theta, max_steps=DESCENT)
    if point.verdict == "saddle" and settled:
        return point
    if reach is None or point.verdict in ("saddle", "unconverged"):
        return None
    way = point.theta / view.scale - x
    sure = np.linalg.norm(way) <= REACH * reach + EPS**0.5 * np.linalg.norm(x)  # the last term is for rounding
    stops = (x + part * way for part in (0.25, 0.5, 0.75))
    return point if sure and all(_newton_length(view, stop, slack) is not None for stop in stops) else None


def _newton_length(view, x, slack):
    """Length of the Newton step across the orbit of x, or None if a curvature across it is below -2 ``slack``."""
    hessian, orbit = view.hessian(x), view.tangent(x)
    size = np.abs(hessian).max()
    hessian += size * (orbit @ orbit.T)
    step = landscape.shifted_step(hessian, view.grad(x), max(2 * slack, landscape.SHIFT * size, SMALL))
    return None if step is None else float(np.linalg.norm(step))


def _invariants(point, degenerate):
    """What symmetric minima share: [log loss, smallest and mean by the largest eigenvalue, log of this].

    The eigenvalues are those at `symmetry.gauge`, since rescaling changes them.
    """
    values, log_loss, top = point.eigenvalues, float(np.log(point.loss)), point.eigenvalues[-1]
    if degenerate:
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
