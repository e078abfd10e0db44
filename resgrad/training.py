"""Teachers, starts and data from one seed; the training loop; what a run leaves behind.

Imports ``architectures``, ``losses``, ``optimizers``, ``kernels``, ``checks``, ``threads``.
"""

import copy
import time
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from . import architectures, checks, kernels, losses, optimizers, threads

BATCH = 200  # the post's
DIVERGED = 1e12  # a loss this many times the first one will not come back
STIFF, EXPLICIT = ("BDF", "Radau", "LSODA"), ("RK45", "RK23", "DOP853")  # methods of `gradient_flow`
WORTH = 2e6  # multiplications that take longer than telling another thread of half of them
PATIENCE = 0.2  # seconds in compiled code between looks at progress and interruptions


class Streams(NamedTuple):
    """One independent generator per purpose, so that no result depends on what else was drawn."""

    teacher: np.random.Generator
    init: np.random.Generator
    data: np.random.Generator
    batches: np.random.Generator


def streams(seed, run=0):
    """The `Streams` of run number ``run`` under ``seed``, both integers >= 0.

    Raises
    ------
    ValueError, TypeError
        For other seeds and numbers.

    Examples
    --------
    >>> streams(0).data.integers(100, size=3).tolist() == streams(0).data.integers(100, size=3).tolist()
    True
    """
    seed, run = checks.integer(seed, "seed", 0, np.inf), checks.integer(run, "run", 0)
    children = np.random.SeedSequence(seed, spawn_key=(run,)).spawn(len(Streams._fields))
    return Streams(*map(np.random.default_rng, children))


# What a matrix of shape (rows, columns) is drawn as; d is the input dimension.
DRAWS = {
    "uniform": lambda rng, shape, d: rng.random(shape),  # the post's teachers
    "fan-in": lambda rng, shape, d: rng.uniform(-(d**-0.5), d**-0.5, shape),  # the post's starts
    "normal": lambda rng, shape, d: rng.normal(0, d**-0.5, shape),
    "small": lambda rng, shape, d: rng.normal(0, 0.1 * d**-0.5, shape),
    "spectral": lambda rng, shape, d: rng.normal(0, 0.3 * d**-0.5, shape),  # Li & Yuan's: |W|_2 about 0.6
    "phases": lambda rng, shape, d: _two_phase_start(rng, shape),
    "zero": lambda rng, shape, d: np.zeros(shape),
    "identity": lambda rng, shape, d: np.eye(*shape),
}


def _two_phase_start(rng, shape):
    """A W from which <-grad L, -W> starts negative in ``li`` with W* = 0, and turns positive.

    W = alpha M + beta I with |W|_F = 5, trace -0.65 |W|_F^2 (of a square W), M antisymmetric with equal
    singular values and M 1 = 0.
    """
    d, size = shape[0], 25.0
    if shape[0] != shape[1]:
        raise ValueError(f"phases needs a square W1, but width gives it the shape {shape}")
    basis, _ = np.linalg.qr(np.column_stack([np.ones(d), rng.standard_normal((d, d - 1))]))
    pairs, beta = (d - 1) // 2, -0.65 * size / d
    half = basis[:, 1 : 2 * pairs + 1 : 2] @ basis[:, 2 : 2 * pairs + 1 : 2].T  # orthogonal to 1
    alpha = np.sqrt(max(size - beta**2 * d, 0) / max(2 * pairs, 1))
    return alpha * (half - half.T) + beta * np.eye(d)


def draw(arch, kind, d, width=None, rng=None):
    """Parameters drawn from a named distribution: a teacher or a start.

    Parameters
    ----------
    arch : Architecture or str
    kind : {"uniform", "fan-in", "normal", "small", "spectral", "phases", "zero", "identity"}
        Entries of W1, then of W2: U[0, 1), U(-1/sqrt(d), 1/sqrt(d)), N(0, 1/d), N(0, 0.01/d),
        N(0, 0.09/d), Li & Yuan's two-phase start (square W1 only), zeros, or the identity matrix.
    d : int
    width : int, optional
        d unless given.
    rng : numpy.random.Generator or int

    Returns
    -------
    ndarray, shape (n,)

    Raises
    ------
    ValueError, TypeError
        For an unknown kind, or arguments out of range.

    Examples
    --------
    >>> import resgrad as rg
    >>> rg.draw("two-weight", "identity", d=2)
    array([1., 0., 0., 1., 1., 0., 0., 1.])
    """
    arch, rng = architectures.resolve(arch), checks.generator(rng)
    if kind not in DRAWS:
        raise checks.suggest(kind, "kind", list(DRAWS))
    return arch.flatten(*(DRAWS[kind](rng, shape, d) for shape in arch.shapes(d, width).values()))


@threads.one_thread()
def dataset(teacher, n_samples, rng=None, dtype=np.float64):
    """Gaussian samples and a teacher's outputs at them.

    Parameters
    ----------
    teacher : Network
    n_samples : int
    rng : numpy.random.Generator or int
    dtype : {float64, float32}

    Returns
    -------
    X : ndarray, shape (n_samples, d)
    Y : ndarray, shape (n_samples,) or (n_samples, d)

    Raises
    ------
    ValueError, TypeError
        For arguments out of range.

    Examples
    --------
    >>> import numpy as np, resgrad as rg
    >>> X, Y = rg.dataset(rg.Network("li", np.zeros(9), d=3), 5, rng=0)
    >>> X.shape, Y.shape
    ((5, 3), (5,))
    """
    if not isinstance(teacher, architectures.Network):
        raise TypeError(f"teacher is {checks.shown(teacher)}, but must be a resgrad.Network")
    dtype, shape = checks.floating(dtype), (checks.integer(n_samples, "n_samples"), teacher.d)
    X = checks.generator(rng).standard_normal(shape).astype(dtype, copy=False)
    return X, teacher(X)


@dataclass
class State:
    """Everything a run needs to go on, bit for bit.  Canonical coordinates: see ``kernels``, (5)."""

    theta0: np.ndarray
    U: np.ndarray
    A: np.ndarray
    VU: np.ndarray
    VA: np.ndarray
    rng: np.random.Generator
    order: np.ndarray  # this epoch's permutation of the data set; empty where there is none
    position: int = 0  # samples of it already used
    step: int = 0
    window_loss: float = 0.0  # sum of the batch losses since the last record
    window_steps: int = 0

    @classmethod
    def start(cls, loss, theta0, rng):
        """Step 0 at ``theta0``."""
        theta0 = loss._theta(theta0).copy()
        U, A = loss.arch.canonical(theta0, loss.d)
        order = np.empty(0, np.int64)
        return cls(theta0, U, A, np.zeros_like(U), np.zeros_like(A), rng, order)

    def theta(self, loss):
        """The parameters now: theta0 plus what (U, A) have moved; W2's unseen part stays (5)."""
        U0, A0 = loss.arch.canonical(self.theta0, loss.d)
        W1, W2 = loss.arch.unflatten(self.theta0, loss.d)
        if W2 is None:
            return loss.arch.flatten(W1 + (self.U - U0))
        share = W2.dtype.type(loss.d if loss.arch.readout == "sum" else 1)
        return loss.arch.flatten(W1 + (self.U - U0), W2 + (self.A - A0) / share)


@dataclass(frozen=True, eq=False)
class Trajectory:
    """What a run leaves behind.

    Attributes
    ----------
    theta : ndarray, shape (n,)
        Parameters at the end.
    steps : ndarray of int, shape (records,)
        Steps at which was recorded, from 0 on.
    loss : ndarray, shape (records,)
        Where batches are drawn: the mean of the batch losses since the record before (at step 0
        the loss there).  Where each step sees the whole loss: its value at that step.
    observed : dict of str to ndarray
        What ``observe`` asked for, one row a record.
    stop_reason : str
        "finished", "diverged at step ..." or "interrupted at step ...".
    """

    theta: np.ndarray
    steps: np.ndarray
    loss: np.ndarray
    stop_reason: str
    observed: dict = field(default_factory=dict)


def permutation(size, rng):
    """``rng.permutation(size)``, bit for bit; for large data sets in little more than half the time.

    >>> ours, theirs = permutation(20_000, np.random.default_rng(0)), np.random.default_rng(0).permutation(20_000)
    >>> np.array_equal(ours, theirs)
    True
    """
    if size < 10_000:
        return rng.permutation(size)
    order, last = np.arange(size), size - 1
    while last > 0:  # as many as are sure to be used
        last = kernels.shuffle(order, last, rng.integers(2**32, size=last, dtype=np.uint32))
    return order


def next_record(step, record_every=None):
    """The step of the next record: a multiple of ``record_every``; by default every 2 % of the way.

    It depends on nothing but ``step``, so that a longer run begins with the records of a shorter one.

    >>> next_record(7), next_record(1000), next_record(1000, record_every=300)
    (8, 1020, 1200)
    """
    if record_every is None:
        return step + max(1, step // 50)
    return (step // record_every + 1) * record_every


@threads.one_thread()
def train(
    loss,
    theta0,
    optimizer,
    n_steps,
    batch_size=None,
    seed=0,
    record_every=None,
    *,
    observe=None,
    progress=None,
    resume=None,
):
    """Train from ``theta0``; deterministic in its arguments, whatever the threads (`threads.one_thread`).

    Parameters
    ----------
    loss : EmpiricalLoss, OnlineLoss or PopulationLoss
        A data set is shuffled at every epoch, whose last batch may be short; `OnlineLoss` draws
        fresh samples at every step; `PopulationLoss` is exact gradient descent.
    theta0 : array_like, shape (n,)
    optimizer : SGD or Nesterov
    n_steps : int
    batch_size : int, optional
        Default: the whole data set, unshuffled (`EmpiricalLoss`), or 200 (`OnlineLoss`).
    seed : int or numpy.random.Generator
        Of the batches; an integer stands for ``streams(seed).batches``.
    record_every : int, optional
        Steps between two records; default: a fiftieth of the steps made so far.
    observe : dict of str to callable, optional
        Functions of theta to record besides the loss.
    progress : callable, optional
        Called as ``progress(state, records)`` a few times a second and after the last step: for progress
        bars and checkpoints.  Both are live: copy them together (`copy.deepcopy`) to keep them.
        `KeyboardInterrupt`, from it or from the keyboard, ends the run.
    resume : tuple (State, records), optional
        Copies of what was passed to ``progress``; the run goes on as if it had never stopped, and
        ``theta0`` and ``seed`` are not used.

    Returns
    -------
    Trajectory
        Also when the loss explodes: ``stop_reason`` then says at which step.

    Raises
    ------
    ValueError, TypeError
        For arguments out of range, or a start whose loss is not finite, before any step.

    Examples
    --------
    >>> import numpy as np, resgrad as rg
    >>> teacher = rg.Network("li", rg.draw("li", "small", d=5, rng=0), d=5)
    >>> loss = rg.PopulationLoss("li", teacher)
    >>> run = rg.train(loss, np.zeros(25), rg.Nesterov(0.1, 0.9), n_steps=2000)
    >>> bool(run.loss[-1] < 1e-25), run.stop_reason
    (True, 'finished')
    """
    if not isinstance(optimizer, tuple(optimizers.OPTIMIZERS.values())):
        raise TypeError(f"optimizer is {checks.shown(optimizer)}, but must be rg.SGD or rg.Nesterov")
    if not isinstance(loss, (losses.EmpiricalLoss, losses.OnlineLoss, losses.PopulationLoss)):
        raise TypeError(f"loss is {checks.shown(loss)}, but must be one of resgrad's losses")
    n_steps = checks.integer(n_steps, "n_steps")
    if record_every is not None:
        record_every = checks.integer(record_every, "record_every")
    observe = observe or {}
    if resume is None:
        rng = seed if isinstance(seed, np.random.Generator) else streams(seed).batches
        state, records = State.start(loss, theta0, rng), []
    else:
        state, records = _resumable(loss, observe, *resume)
    advance = advancer(loss, optimizer, batch_size, state.U.shape[1])
    sampled = isinstance(loss, losses.EmpiricalLoss) and (batch_size or len(loss.rows)) < len(loss.rows)
    exact = not (sampled or isinstance(loss, losses.OnlineLoss))

    def record(value, theta):
        records.append((state.step, value, *(function(theta) for function in observe.values())))

    if not records:
        if not np.isfinite(first := loss.value(state.theta0)):
            raise ValueError(f"theta0 has the loss {first}, but must have a finite one")
        record(first, state.theta0)
    elif state.window_steps and records[-1][0] == state.step:
        records.pop()  # the last record of a shorter run; its window is still open
    stop_reason, pace, ceiling = "finished", 16, DIVERGED * max(1.0, records[0][1])
    try:
        while records[-1][0] < n_steps:
            due = next_record(records[-1][0], record_every)
            while state.step < min(due, n_steps):
                tick, count = time.perf_counter(), min(pace, min(due, n_steps) - state.step)
                _all_or_nothing(advance, state, count)
                pace = 1 + int(count * PATIENCE / (time.perf_counter() - tick))
                if progress is not None:
                    progress(state, records)
            theta = state.theta(loss) if exact or observe else None
            finite = np.isfinite(state.U).all() and np.isfinite(state.A).all()
            value = loss.value(theta) if exact and finite else state.window_loss / state.window_steps
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
    """(state, records) to go on from, or the reason why they do not fit."""
    d, m, size = loss.d, loss.arch.outputs(loss.d), len(getattr(loss, "rows", ()))
    if state.U.shape[0] != d or state.A.shape != (state.U.shape[1], m) or state.U.dtype != loss.dtype:
        raise ValueError(
            f"resume holds a run of shape {state.U.shape}, {state.A.shape}, but {loss.arch.name} "
            f"with d={d} has another shape or dtype"
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
    """``advance(state, n)``; where Ctrl-C or an error comes amid, ``state`` is again what it was before."""
    kept = vars(state).copy()
    weights = {name: kept[name].copy() for name in ("U", "A", "VU", "VA")}
    drawn = state.rng.bit_generator.state
    try:
        advance(state, n)
    except BaseException:
        vars(state).update(kept)
        state.rng.bit_generator.state = drawn
        for name, values in weights.items():
            kept[name][:] = values
        raise


def advancer(loss, optimizer, batch_size, width):
    """``advance(state, n)``: n steps of the fused kernel that fits the loss, in place; changes nothing else.

    One thread at a time may call it.
    """
    if batch_size is not None:
        batch_size = checks.integer(batch_size, "batch_size")
    d, m = loss.d, loss.arch.outputs(loss.d)
    lr, momentum = optimizer.lr, optimizer.momentum
    with np.errstate(over="ignore"):  # a step size of infinity diverges at once, and is told so
        rates = tuple(map(loss.dtype.type, (lr, lr * loss.arch.readout_rate(d), momentum)))

    shared = []  # what two threads have in common; made at the first call

    fresh = isinstance(loss, losses.OnlineLoss)
    if isinstance(loss, losses.PopulationLoss):
        loop, room, parts = kernels.population_loop(d, width, width + loss.units_star[0].shape[1], m)
    else:
        loop, room, parts = kernels.sampled_loop(d, width, m, loss.units_star[0].shape[1] if fresh else 0)

    def advance(state, n, work, *sizes):
        """n steps, with the help of another thread."""
        if not shared:
            shared.append(room(*sizes))
            work(0, parts, np.zeros((parts, 16), np.int64), 0)  # two threads must not compile at one time
        cost = (sizes[0] if sizes else width + loss.units_star[0].shape[1]) * d * width  # of a step
        total = threads.together(work, parts, n * cost > WORTH)
        state.step += n
        state.window_steps += n
        return total

    def exact(state, n):
        weights = state.U, state.A, state.VU, state.VA  # those of now: a late helper must see no others

        def work(first, last, marks, n_steps=n):
            loop(first, last, marks, shared[0], loss.units_star, *weights, rates, n_steps)

        advance(state, n, work)

    def sampled(state, n, batch, rows, teacher):
        rngs = state.rng, copy.deepcopy(state.rng) if fresh and parts > 1 else state.rng
        data, total = (rows, state.order, state.position), state.window_loss
        weights = state.U, state.A, state.VU, state.VA  # those of now: a late helper must see no others

        def work(first, last, marks, n_steps=n):
            return loop(
                first, last, marks, shared[0], *data, rngs[first], teacher, *weights, rates, batch, n_steps, total
            )

        state.window_loss = advance(state, n, work, batch, loss.dtype)

    def online(state, n):
        sampled(state, n, batch_size or BATCH, np.empty((0, 0), loss.dtype), loss.units_star)

    def epochs(state, n):
        size = len(loss.rows)
        batch = min(batch_size or size, size)
        while n:
            if state.position >= state.order.size:
                state.order = permutation(size, state.rng) if batch < size else np.arange(size)
                state.position = 0
            count = min(n, -(-(size - state.position) // batch))
            sampled(state, count, batch, loss.rows, (state.U, state.A, state.U))
            state.position += count * batch
            n -= count

    if isinstance(loss, losses.EmpiricalLoss):
        return epochs
    if isinstance(loss, losses.OnlineLoss):
        return online
    if batch_size is not None:
        raise ValueError(f"batch_size is {batch_size}, but PopulationLoss draws no batches")
    return exact


def trajectory(theta, records, stop_reason, observe):
    """The `Trajectory` of a list of records (step, loss, observed ...)."""
    steps, values, *rest = zip(*records)
    observed = {name: np.array(column) for name, column in zip(observe, rest)}
    return Trajectory(theta, np.array(steps), np.array(values, dtype=np.float64), stop_reason, observed)


@threads.one_thread()
def gradient_flow(loss, theta0, t_max, *, method="BDF", t_eval=None, rtol=1e-8, atol=1e-10, observe=None):
    """Follow d theta / dt = -grad L(theta), the limit of SGD for small steps (t = lr * steps).

    Parameters
    ----------
    loss : PopulationLoss
        Or any object with ``value``, ``grad`` and, for the stiff methods, ``hessian``.
    theta0 : array_like, shape (n,)
    t_max : float
    method : {"BDF", "Radau", "LSODA", "RK45", "RK23", "DOP853"}
        Of `scipy.integrate.solve_ivp`.  The first three are stiff and get the exact Hessian as their
        Jacobian; the others are explicit.
    t_eval : array_like, optional
        Increasing times to record, up to ``t_max``; the solver's own steps unless given.
    rtol, atol : float
        Tolerances of a step, at least 1e-13 and above 0.
    observe : dict of str to callable, optional
        As in `train`.

    Returns
    -------
    Trajectory
        Its ``steps`` are times.

    Raises
    ------
    ValueError, TypeError
        For arguments out of range.
    RuntimeError
        When the solver gives up.

    Examples
    --------
    >>> import numpy as np, resgrad as rg
    >>> teacher = rg.Network("li", rg.draw("li", "small", d=3, rng=0), d=3)
    >>> flow = rg.gradient_flow(rg.PopulationLoss("li", teacher), np.zeros(9), t_max=60)
    >>> bool(flow.loss[-1] < 1e-6 * flow.loss[0])
    True
    """
    from scipy.integrate import solve_ivp

    theta0 = checks.array(theta0, "theta0", ("n",))
    t_max = checks.real(t_max, "t_max", above=0)
    if method not in STIFF + EXPLICIT:
        raise checks.suggest(method, "method", STIFF + EXPLICIT)
    if method in STIFF and not hasattr(loss, "hessian"):
        raise ValueError(f"method is {method!r}, but the loss has no hessian: use one of {', '.join(EXPLICIT)}")
    if t_eval is not None:
        t_eval = checks.array(t_eval, "t_eval", ("n",))
        if not (t_eval.size and t_eval[0] >= 0 and t_eval[-1] == t_max and (np.diff(t_eval) > 0).all()):
            raise ValueError("t_eval must increase within [0, t_max] and end there")
    rtol, atol = checks.real(rtol, "rtol", 1e-13), checks.real(atol, "atol", above=0)
    stiff = {"jac": lambda t, theta: -loss.hessian(theta)} if method in STIFF else {}
    flow = solve_ivp(
        lambda t, theta: -loss.grad(theta),
        (0.0, t_max),
        theta0,
        method=method,
        t_eval=t_eval,
        rtol=rtol,
        atol=atol,
        **stiff,
    )
    if flow.status < 0:
        raise RuntimeError(f"{method} stopped at t={flow.t[-1]:g}: {flow.message}")
    observe = observe or {}
    records = [
        (t, loss.value(theta), *(function(theta) for function in observe.values()))
        for t, theta in zip(flow.t, flow.y.T)
    ]
    return trajectory(flow.y[:, -1].copy(), records, "finished", observe)
