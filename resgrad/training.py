"""The training loop: its state, its records and its result."""

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from . import anyloss, blas, checks, kernels, optimizers, tables
from .draws import streams
from .losses import BATCH, EmpiricalLoss, OnlineLoss, PopulationLoss
from .optimizers import SGD, Nesterov

DIVERGED = 1e12  # a loss this many times the first one will not come back
AHEAD = 2**20  # numbers in the batches that are drawn ahead of the compiled loop
WORTH = 2e6  # with more multiplications than these, a call gains from a second thread
PATIENCE = 0.2  # seconds in compiled code between looks at progress and interruptions


def fused(loss):
    """Whether ``loss`` has a compiled training loop: exact descent with biases or a covariance has none."""
    return isinstance(loss, (EmpiricalLoss, OnlineLoss, PopulationLoss)) and getattr(loss, "plain", True)


@dataclass
class State:
    """Everything a run needs to go on, bit for bit.

    Training moves ``w``, the `Architecture.coordinates` of theta; without a compiled loop theta itself.
    """

    theta0: np.ndarray
    w: np.ndarray
    v: np.ndarray  # velocities
    rng: np.random.Generator
    order: np.ndarray  # this epoch's permutation of the data set; empty without a data set
    position: int = 0  # how many of its samples have been used
    step: int = 0
    window_loss: float = 0.0  # sum of the batch losses since the last record
    window_steps: int = 0

    @classmethod
    def start(cls, loss, theta0, rng):
        """Step 0 at ``theta0``."""
        if fused(loss):
            theta0 = loss._theta(theta0).copy()
        else:
            theta0 = anyloss.retraction(loss)(checks.array(theta0, "theta0", ("n",)).copy())
        w = _coordinates(loss, theta0)
        return cls(theta0, w, np.zeros_like(w), rng, np.empty(0, np.int64))

    def theta(self, loss):
        """The parameters now."""
        return loss.arch.parameters(self.w, self.theta0, loss.d) if fused(loss) else self.w.copy()


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The result of a run.

    Attributes
    ----------
    theta : ndarray, shape (n,)
        Parameters at the end.
    steps : ndarray of int, shape (records,)
        The step of each record; the first is 0.
    loss : ndarray, shape (records,)
        With batches: the mean of the batch losses since the previous record (at step 0 the loss there).  Without: the
        value of the loss at that step.
    observed : dict of str to ndarray
        The values of the functions in ``observe``, one row for each record.
    stop_reason : str
        "finished", "diverged at step ..." or "interrupted at step ...".
    """

    theta: np.ndarray
    steps: np.ndarray
    loss: np.ndarray
    stop_reason: str
    observed: dict = field(default_factory=dict)

    def _repr_html_(self):
        clock = "step" if self.steps.dtype.kind == "i" else "time"
        ends = [(clock, self.steps), ("loss", self.loss), *self.observed.items()]
        rows = [(name, tables.cell(values[0]), tables.cell(values[-1])) for name, values in ends]
        return tables.table([("Trajectory", "start", "end"), *rows], f"{len(self.steps)} records; {self.stop_reason}")


def permutation(size, rng):
    """``rng.permutation(size)``, bit for bit; for large data sets in little more than half the time.

    >>> ours, theirs = permutation(20_000, np.random.default_rng(0)), np.random.default_rng(0).permutation(20_000)
    >>> np.array_equal(ours, theirs)
    True
    """
    if size < 10_000 or kernels.PLAIN:
        return rng.permutation(size)
    order, last = np.arange(size), size - 1
    while last > 0:  # draw as many numbers as are surely used
        last = kernels.shuffle(order, last, rng.integers(2**32, size=last, dtype=np.uint32))
    return order


def next_record(step, record_every=None):
    """The step of the next record: a multiple of ``record_every``; by default every 2 % of the way.

    It depends on ``step`` alone, so that a longer run begins with the records of a shorter one.

    >>> next_record(7), next_record(1000), next_record(1000, record_every=300)
    (8, 1020, 1200)
    """
    if record_every is None:
        return step + max(1, step // 50)
    return (step // record_every + 1) * record_every


@blas.one_thread()
def train(
    loss: Any, theta0: ArrayLike, optimizer: SGD | Nesterov, n_steps: int,
    batch_size: int | None = None, seed: int | np.random.Generator = 0, record_every: int | None = None, *,
    observe: Mapping[str, Callable] | None = None, progress: Callable[[State, list], None] | None = None,
    resume: tuple[State, list] | None = None,
) -> Trajectory:  # fmt: skip
    """Train from ``theta0``.  The result depends on the arguments alone, not on the number of threads.

    Parameters
    ----------
    loss : EmpiricalLoss, OnlineLoss or PopulationLoss, or any object with ``value_and_grad(theta)``
        A data set is shuffled for every epoch, whose last batch may be short.  `OnlineLoss` draws fresh samples at
        every step.  `PopulationLoss` means exact gradient descent.  For others see Notes.
    theta0 : array_like, shape (n,)
    optimizer : SGD or Nesterov
    n_steps : int
    batch_size : int, optional
        Default: the whole data set, unshuffled (`EmpiricalLoss`), or 200 (`OnlineLoss`), or no batches (others).
    seed : int or numpy.random.Generator
        For the batches; an integer stands for ``streams(seed).batches``.
    record_every : int, optional
        Steps between two records; default: a fiftieth of the steps made so far.
    observe : dict of str to callable, optional
        Functions of theta to record besides the loss; each gets its own copy of theta.
    progress : callable, optional
        Called as ``progress(state, records)`` a few times a second and after the last step: for progress
        bars and checkpoints.  Training changes both in place: keep a copy of both together (`copy.deepcopy`).
        `KeyboardInterrupt`, from it or from the keyboard, ends the run.
    resume : tuple (State, records), optional
        Copies of what ``progress`` was given.  The run goes on as if it had never stopped; ``theta0`` and ``seed`` are
        not used.

    Returns
    -------
    Trajectory
        Also when the loss explodes: ``stop_reason`` then says at which step.

    Raises
    ------
    ValueError, TypeError
        For arguments out of range, or a start whose loss is not finite, before any step.

    Notes
    -----
    Any other loss is trained in a Python loop, on theta, in float64.  Each step calls ``loss.value_and_grad(theta)``
    or, where a ``batch_size`` is given, that of ``loss.batch(batch_size, rng)``, a loss on fresh samples from a
    Generator.  A ``loss.retract(theta)``, if there is one, projects theta onto a constraint at the start and after each
    step.  An exception of such a loss ends the run, unless theta is so large that the run counts as diverged.

    Examples
    --------
    >>> import numpy as np, resgrad as rg
    >>> teacher = rg.Network("li", rg.draw("li", "small", d=5, rng=0), d=5)
    >>> loss = rg.PopulationLoss("li", teacher)
    >>> run = rg.train(loss, np.zeros(25), rg.Nesterov(0.1, 0.9), n_steps=2000)
    >>> bool(run.loss[-1] < 1e-25), run.stop_reason
    (True, 'finished')

    >>> class Bowl:
    ...     def value_and_grad(self, theta):
    ...         return theta @ theta, 2 * theta
    >>> rg.train(Bowl(), [1.0, -2.0], rg.SGD(0.25), n_steps=4, record_every=2).loss
    array([5.        , 0.3125    , 0.01953125])
    """
    if not isinstance(optimizer, tuple(optimizers.OPTIMIZERS.values())):
        raise TypeError(f"optimizer is {checks.shown(optimizer)}, but must be rg.SGD or rg.Nesterov")
    if not hasattr(loss, "value_and_grad"):
        raise TypeError(f"loss is {checks.shown(loss)}, but must have value_and_grad")
    n_steps = checks.integer(n_steps, "n_steps")
    if record_every is not None:
        record_every = checks.integer(record_every, "record_every")
    observe = observe or {}
    if resume is None:
        rng = seed if isinstance(seed, np.random.Generator) else streams(seed).batches
        state, records = State.start(loss, theta0, rng), []
    else:
        state, records = _resumable(loss, observe, *resume)
    compiled = fused(loss)
    advance = advancer(loss, optimizer, batch_size, loss.shapes(state.theta0)["W1"][1] if compiled else None)
    exact = batch_size is None and not isinstance(loss, OnlineLoss)  # whether a step sees the whole loss
    exact |= batch_size is not None and isinstance(loss, EmpiricalLoss) and batch_size >= len(loss.rows)
    value_of = loss.value if compiled else lambda theta: anyloss.evaluated(loss, theta)[0]

    def record(value, theta):
        records.append((state.step, value, *(function(theta.copy()) for function in observe.values())))

    if not records:
        if not np.isfinite(first := value_of(state.theta0)):
            raise ValueError(f"theta0 has the loss {first}, but must have a finite one")
        record(first, state.theta0)
    elif state.window_steps and records[-1][0] == state.step:
        records.pop()  # of the last step of a shorter run, in the middle of a window
    stop_reason, pace, ceiling = "finished", 16, DIVERGED * max(1.0, records[0][1])
    try:
        while records[-1][0] < n_steps:
            due = next_record(records[-1][0], record_every)
            while state.step < min(due, n_steps):
                tick, count = time.perf_counter(), min(pace, min(due, n_steps) - state.step)
                _all_or_nothing(advance, state, count)
                elapsed = max(time.perf_counter() - tick, 1e-9)  # a coarse clock may stand still
                pace = 1 + int(count * min(16, PATIENCE / elapsed))
                if progress is not None:
                    progress(state, records)
            theta = state.theta(loss) if exact or observe else None
            finite = np.isfinite(state.w).all()
            value = value_of(theta) if exact and finite else state.window_loss / state.window_steps
            if not (finite and value < ceiling):
                stop_reason = f"diverged at step {state.step}"
                break
            record(value, theta)
            if state.step == due:
                state.window_loss, state.window_steps = 0.0, 0
    except KeyboardInterrupt:
        stop_reason = f"interrupted at step {state.step}"
    return trajectory(state.theta(loss), records, stop_reason, observe)


def _resumable(loss, observe, state, records):
    """(state, records) to go on from; raises ValueError where they do not fit."""
    size = len(getattr(loss, "rows", ()))
    try:
        w, dtype = _coordinates(loss, state.theta0), loss.dtype if fused(loss) else np.float64
        fits = w.shape == state.w.shape and state.w.dtype == dtype
    except ValueError:
        fits = False
    if not fits:
        of = f"{loss.arch.name} with d={loss.d}" if fused(loss) else "the loss"
        raise ValueError(
            f"resume holds a run with theta of shape {state.theta0.shape}, but {of} has another shape or dtype"
        )
    if state.order.size not in (0, size):
        raise ValueError(f"resume holds a run on {state.order.size} samples, but the loss has {size}")
    if not records or any(len(record) != 2 + len(observe) for record in records):
        raise ValueError(f"resume holds records that do not fit the {len(observe)} functions to observe")
    if records[-1][0] < state.step and not state.window_steps or records[-1][0] > state.step:
        raise ValueError("resume holds a state and records of two moments, but must hold copies of one")
    return state, list(records)


def curvature(loss, theta, iterations=30):
    """The largest curvature of a loss at ``theta``, of either sign: power iteration on differences of gradients.

    >>> import numpy as np, resgrad as rg
    >>> loss = rg.PopulationLoss("vanilla", rg.Network("vanilla", np.eye(4).ravel(), d=4))
    >>> theta = rg.draw("vanilla", "normal", d=4, rng=0)
    >>> bool(np.isclose(curvature(loss, theta), np.linalg.eigvalsh(loss.hessian(theta))[-1], rtol=0.01))
    True
    """
    theta = loss._theta(theta)
    h, size = 1e-5 * max(1.0, np.abs(theta).max()), 0.0
    way = np.random.default_rng(0).standard_normal(theta.size)
    for _ in range(iterations):
        way /= np.linalg.norm(way)
        way = (loss.grad(theta + h * way) - loss.grad(theta - h * way)) / (2 * h)
        size = np.linalg.norm(way)
        if not 0 < size < np.inf:
            break
    return float(size)


def _all_or_nothing(advance, state, n):
    """``advance(state, n)``; if Ctrl-C or an error interrupts it, ``state`` is what it was before."""
    kept, drawn = vars(state) | {"w": state.w.copy(), "v": state.v.copy()}, state.rng.bit_generator.state
    try:
        advance(state, n)
    except BaseException:
        vars(state).update(kept)  # other arrays: a late helper may still write into the old ones
        state.rng.bit_generator.state = drawn
        raise


def _coordinates(loss, theta):
    """The vector that training moves."""
    return loss.arch.coordinates(theta, loss.d) if fused(loss) else theta.copy()


def advancer(loss, optimizer, batch_size, width=None):
    """The function ``advance(state, n)`` that makes n steps in place.  One thread at a time may call it."""
    if batch_size is not None:
        batch_size = checks.integer(batch_size, "batch_size")
    if not fused(loss):
        return anyloss.advancer(loss, optimizer, batch_size)
    d, m = loss.d + loss.arch.bias, loss.arch.outputs(loss.d)
    labeled = isinstance(loss, EmpiricalLoss) or getattr(loss, "ahead", False)  # the loop needs no teacher
    k_star, nobody = 0 if labeled else loss.units_star[0].shape[1], (np.zeros((1, 1), loss.dtype),) * 3
    of_arch = loss.d if loss.arch.trains_skip else 0, loss.arch.slopes
    with np.errstate(over="ignore"):  # with an infinite step size the run diverges at once, and says so
        rates = optimizer.lr, optimizer.lr * loss.arch.readout_rate(loss.d), optimizer.lr, optimizer.momentum
        rates = tuple(map(loss.dtype.type, rates))
    if isinstance(loss, PopulationLoss):
        loop, make_scratch, parts = kernels.population_loop(d, width, width + k_star, m, *of_arch)
    else:
        loop, make_scratch, parts = kernels.sampled_loop(d, width, m, k_star, *of_arch)
    scratch = []  # the memory that threads share; allocated at the first call

    def advance(state, n, work, *sizes):
        """n steps, with the help of other threads."""
        # A late helper must keep the arrays of its own call, also if ``state`` gets others.
        weights = state.w, state.v
        if not scratch:
            scratch.append(make_scratch(*sizes))
            work(0, np.zeros((1, 16), np.int64), scratch[0], weights, 0)  # compile, before several threads would
        cost = (sizes[0] if sizes else width + k_star) * d * width  # of a step
        helped = n * cost > WORTH
        total = kernels.together(lambda thread, marks: work(thread, marks, scratch[0], weights, n), parts, helped)
        state.step += n
        state.window_steps += n
        return total

    def exact(state, n):
        def work(thread, marks, scratch, weights, n):
            loop(thread, marks, scratch, loss.units_star, *weights, rates, n)

        advance(state, n, work)

    def sampled(state, n, batch, rows, teacher, order, position):
        rngs = [state.rng] * parts
        if not labeled:  # every thread draws all samples, from the same state
            rngs[1:] = (copy.deepcopy(state.rng) for _ in rngs[1:])
        data, total = (rows, order, position), state.window_loss

        def work(thread, marks, scratch, weights, n):
            return loop(thread, marks, scratch, *data, rngs[thread], teacher, *weights, rates, batch, n, total)

        state.window_loss = advance(state, n, work, batch, loss.dtype)

    def online(state, n):
        rows = np.empty((0, 0), loss.dtype)
        sampled(state, n, batch_size or BATCH, rows, loss.units_star, state.order, state.position)

    def ahead(state, n):
        batch = batch_size or BATCH
        while n:
            count = min(n, 1 + AHEAD // (batch * (d + m)))
            rows = np.concatenate([loss.batch(batch, state.rng).rows for _ in range(count)])
            sampled(state, count, batch, rows, nobody, np.arange(len(rows)), 0)
            n -= count

    def epochs(state, n):
        size = len(loss.rows)
        batch = min(batch_size or size, size)
        while n:
            if state.position >= state.order.size:
                state.order = permutation(size, state.rng) if batch < size else np.arange(size)
                state.position = 0
            count = min(n, -(-(size - state.position) // batch))
            sampled(state, count, batch, loss.rows, nobody, state.order, state.position)
            state.position += count * batch
            n -= count

    if isinstance(loss, EmpiricalLoss):
        return epochs
    if isinstance(loss, OnlineLoss):
        return ahead if loss.ahead else online
    if batch_size is not None:
        raise ValueError(f"batch_size is {batch_size}, but PopulationLoss draws no batches")
    return exact


def trajectory(theta, records, stop_reason, observe):
    """The `Trajectory` of a list of records (step, loss, observed ...)."""
    steps, values, *rest = zip(*records)
    observed = {name: np.array(column) for name, column in zip(observe, rest)}
    return Trajectory(theta, np.array(steps), np.array(values, dtype=np.float64), stop_reason, observed)
