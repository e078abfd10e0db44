"""``rg.census`` and ``python -m resgrad.census``: which minima gradient descent ends in, and how often.

Imports ``journal``, ``protocol``, ``optimizers``, ``architectures``, ``command``, ``files`` and ``checks``; ``basins``,
``losses``, ``training``, ``threads`` and ``plots`` only once a census starts: ``--help`` costs nothing.
"""

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback, while all is imported

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import importlib
import logging
import os
import shlex
import sys
import time
import types
from pathlib import Path

import numpy as np

from . import __version__, architectures, checks, optimizers
from .runs import command, files, journal, protocol
from .runs.journal import OUTCOMES

COLUMNS = ("outcome", "loss", "grad_norm", "min_eigenvalue", "steps", "theta")

# Safran & Shamir (2018): exact gradient descent; their step 0.1 is 0.05 here, where the loss has no 1/2.
SAFRAN_SHAMIR = {
    "arch": "vanilla", "teacher": "identity", "init": "normal", "data": "population", "optimizer": "sgd",
    "momentum": 0.0, "lr": 0.05,
}  # fmt: skip
PUBLISHED = {(8, 8): 0.126, (10, 10): 0.346, (12, 12): 0.585, (8, 9): 0.001}  # (k, width): spurious share
PUBLISHED_RUNS = 1000


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides a census.  `census` fills in what was left out."""

    arch: str
    d: int
    width: int
    teacher: str
    teacher_width: int
    init: str
    data: str
    optimizer: str
    lr: float | None
    momentum: float
    batch_size: int | None  # None: as with ``samples``, the data have none
    samples: int | None
    steps: int
    runs: int
    seed: int


def prepare(arch, d, runs=1000, seed=0, *, width=None, teacher=None, teacher_width=None, init=None,
            data="population", optimizer=None, lr=None, momentum=None, batch_size=None, samples=None,
            steps=100_000):  # fmt: skip
    """The `tasks.Task` of a whole census, every argument checked; see `census`."""
    from . import draws
    from .runs import tasks

    arch = architectures.resolve(arch)
    control = arch == architectures.ARCHITECTURES["vanilla"]
    if isinstance(optimizer, tuple(optimizers.OPTIMIZERS.values())):
        if (lr, momentum) != (None, None):
            raise ValueError(f"optimizer is {optimizer}, but lr or momentum is given, too")
        lr, momentum, optimizer = optimizer.lr, optimizer.momentum, type(optimizer).__name__.lower()
    elif optimizer is None:
        optimizer = "sgd" if control and not momentum else "nesterov"
    init = checks.choice(init or ("normal" if control else "fan-in"), "init", draws.DRAWS)
    base = protocol.resolve(
        arch, d=checks.integer(d, "d"), width=width, init=init, data=checks.choice(data, "data", protocol.DATA),
        optimizer=optimizer, lr=1.0 if lr is None else lr, momentum=momentum, batch_size=batch_size,
        samples=samples, steps=checks.integer(steps, "steps"), seed=seed,
    )  # fmt: skip
    teacher = ("identity" if control else base.teacher) if teacher is None else teacher
    teacher, network, units = _teacher(teacher, teacher_width, base.d)
    fields = {field.name: getattr(base, field.name, None) for field in dataclasses.fields(Config)} | {
        "arch": arch.name, "teacher": teacher, "teacher_width": units,
        "lr": None if lr is None else base.lr, "runs": checks.integer(runs, "runs"),
        "batch_size": None if data == "population" else base.batch_size,
        "samples": base.samples if data == "dataset" else None,
    }  # fmt: skip
    task, streams = tasks.Task(Config(**fields), arch, network, tuple(range(runs))), draws.streams(base.seed)
    task.loss(streams), task.start(streams)  # whether they can be made
    return task


def _teacher(teacher, width, d):
    """(what it is called, `Network` or None where every run draws its own, number of units)."""
    from . import draws

    units = d if width is None else checks.integer(width, "teacher_width")
    if isinstance(teacher, str) and teacher in draws.DRAWS:
        return teacher, None, units
    if isinstance(teacher, architectures.Network):
        name, network = "network", teacher
    elif isinstance(teacher, str) and teacher.endswith(".npz"):
        arrays, header = files.read_archive(teacher, "weights")
        name, network = teacher, architectures.Network(header["arch"], arrays["theta"], header["d"])
    else:
        raise checks.suggest(teacher, "teacher", [*draws.DRAWS, "the path of a weights.npz"])
    if network.d != d:
        raise ValueError(f"d is {d}, but the teacher has d={network.d}")
    if width is not None and units != network.width:
        raise ValueError(f"teacher_width is {units}, but the teacher has {network.width} units")
    content = network.arch.identity, network.arch.skip, network.arch.readout, d, network.theta.tobytes()
    digest = hashlib.sha256(repr(content).encode()).hexdigest()[:16]
    return f"{name}, sha256 {digest}", network, network.width


# ---------------------------------------------------------------------------------------- the work


def _results(task, missing, executor, workers):
    """(run, Basin) of the ``missing`` runs, as they come."""
    from . import draws, losses
    from .runs import tasks

    yield from tasks.work(dataclasses.replace(task, numbers=tuple(missing[:1])))  # compiles before workers start
    teacher, missing = task.loss(draws.streams(task.config.seed)).teacher, missing[1:]
    losses.PopulationLoss(teacher.arch, teacher).value(teacher.theta)  # so does the precise loss
    if own := executor is None:
        executor = concurrent.futures.ThreadPoolExecutor(workers or os.cpu_count())
    size, futures = 1 if own else max(1, min(32, len(missing) // 64)), []
    try:
        for first in range(0, len(missing), size):
            part = dataclasses.replace(task, numbers=tuple(missing[first : first + size]))
            futures.append(executor.submit(tasks.work, part))  # a keyword might be dask's own
        for future in concurrent.futures.as_completed(futures):
            yield from future.result()
    except Exception as error:  # of the work or of who does it: every executor has its own
        if own:
            raise
        raise concurrent.futures.BrokenExecutor(f"executor failed: {checks.shown(error)}") from error
    finally:
        for future in futures:
            future.cancel()
        if own:
            executor.shutdown()


@dataclasses.dataclass(frozen=True, eq=False)
class Census:
    """What a census found; ``str()`` of it is the table that the command prints.

    Attributes
    ----------
    config : Config
    counts : dict
        "runs", and how many of them ended as "global", "spurious", "saddle", "unconverged".
    families : list of dict
        Spurious minima, the most frequent first: ``count``, ``loss``, ``min_eigenvalue`` of the Hessian,
        and ``run``, the first run that found it.
    outcome, loss, grad_norm, min_eigenvalue, steps : ndarray, shape (runs,)
        See `basins.Basin`.
    family : ndarray of int, shape (runs,)
        Index into ``families``; -1 where the run found no spurious minimum.
    theta : ndarray, shape (runs, n)
    """

    config: Config
    counts: dict
    families: list
    family: np.ndarray
    outcome: np.ndarray
    loss: np.ndarray
    grad_norm: np.ndarray
    min_eigenvalue: np.ndarray
    steps: np.ndarray
    theta: np.ndarray

    @classmethod
    def of(cls, config, found):
        """From a list of `basins.Basin`, in the order of the runs."""
        from .minima import basins

        columns = {name: np.array([getattr(basin, name) for basin in found]) for name in COLUMNS}
        counts = {"runs": len(found)} | {name: int((columns["outcome"] == name).sum()) for name in OUTCOMES}
        runs = np.flatnonzero(columns["outcome"] == "spurious")
        label = basins.group(np.array([found[run].invariants for run in runs]).reshape(-1, 4))
        members = sorted((runs[label == n] for n in set(label.tolist())), key=lambda m: (-m.size, m[0]))
        family, families = np.full(len(found), -1), []
        for n, member in enumerate(members):
            family[member], first = n, found[member[0]]
            numbers = {"loss": first.loss, "min_eigenvalue": first.min_eigenvalue}
            families.append({"count": member.size, **numbers, "run": int(member[0])})
        return cls(config, counts, families, family, **columns)

    def share(self, outcome):
        """(share, low, high) of an outcome, with its 95 % Wilson interval."""
        from scipy.stats import binomtest

        count, runs = self.counts[outcome], self.counts["runs"]
        return count / runs, *map(float, binomtest(count, runs).proportion_ci(method="wilson"))

    def published(self):
        """(published share of spurious minima, z of the measured one); None for other settings."""
        config = dataclasses.asdict(self.config)
        share = PUBLISHED.get((config["d"], config["width"]))
        if share is None or config != config | SAFRAN_SHAMIR | {"teacher_width": config["d"]}:
            return None
        runs, own = config["runs"], self.counts["spurious"]
        pooled = (own + share * PUBLISHED_RUNS) / (runs + PUBLISHED_RUNS)
        return share, (own / runs - share) / (pooled * (1 - pooled) * (1 / runs + 1 / PUBLISHED_RUNS)) ** 0.5

    def __str__(self):
        config = self.config
        title = f"{config.arch}, d = {config.d}, width {config.width}; teacher: {config.teacher}"
        head = f"{'':20}{'runs':>7}{'share':>10}{'95 % interval':>18}"
        lines = [f"{title}, width {config.teacher_width}", "", head]
        for name, label in OUTCOMES.items():
            share, low, high = (100 * p for p in self.share(name))
            lines.append(f"{label:20}{self.counts[name]:7,}{share:8.1f} %{f'{low:.1f} - {high:.1f} %':>18}")
        if published := self.published():
            lines += ["", "spurious, as published by Safran & Shamir (2018): {:.1%}; z = {:+.2f}".format(*published)]
        if self.families:
            lines += ["", f"{'family':>6}{'runs':>8}{'loss':>17}{'smallest eigenvalue':>22}{'first run':>12}"]
        for n, family in enumerate(self.families[:12]):
            lines.append("{:6}{count:8}{loss:17.10f}{min_eigenvalue:22.6g}{run:12}".format(n, **family))
        return "\n".join(lines + [f"   and {len(self.families) - 12} more"] * (len(self.families) > 12))


def census(arch, d, runs=1000, seed=0, *, executor=None, workers=None, out=None, resume=False, quiet=False, **given):
    """Train from many starts, polish every end, and count what was found.

    Parameters
    ----------
    arch : Architecture or str
    d : int
    runs, seed : int
        Run i draws its teacher, start and data from ``streams(seed, run=i)``.
    executor : concurrent.futures.Executor, optional
        Where the work goes; never shut down.  When it fails: BrokenExecutor, and what is done is in ``out``.
        ``dask.distributed.Client(...).get_executor()`` and ``mpi4py.futures.MPIPoolExecutor()`` are such.
        Default: ``workers`` threads, one per core.
    workers : int, optional
    out : path, optional
        Directory for ``runs.jsonl``, written one line per run as they end, ``census.json``,
        ``census.npz`` and ``figure.png``.  A run whose line is deleted is made again.
    resume : bool
        Make only the runs that ``out`` lacks.  ``runs`` may have grown, and a teacher's file moved; nothing
        else may differ.
    quiet : bool
        No progress bar; there is one on a terminal only.
    **given
        ``width``, ``teacher_width`` (both d); ``teacher``: a kind of `draw`, drawn anew in each run, a
        `Network`, or the path of a weights.npz, of any architecture; ``init``: a kind of `draw`;
        ``data``: "population", "online" or "dataset", with ``batch_size`` and ``samples``;
        ``optimizer``: a record, or a name with ``lr`` (default: see `basins.descend`) and ``momentum``;
        ``steps``, at most (100,000).

    Returns
    -------
    Census
        The same, bit for bit, for any executor and in any order, on machines of one kind.

    Raises
    ------
    ValueError, TypeError
        For bad input, before any run.
    OSError
        When ``out`` cannot be written; it says where the runs are instead.

    Notes
    -----
    A run stops when Newton's method is certain of the basin that first order is in, which `basins.descend`
    defines, or after ``steps``; there is no tolerance to choose.  The basins are those of first-order descent.

    A family is all spurious minima with one loss and one Hessian spectrum (`basins.group`), which the
    symmetries of units and of coordinates keep.  Where each run draws a teacher of its own, losses differ from
    run to run, and a family has one member.  A student with fewer units than its teacher cannot reach zero in
    general: its best fit, too, counts as spurious.

    Examples
    --------
    >>> import resgrad as rg
    >>> found = rg.census("vanilla", d=6, runs=20, seed=2)
    >>> found.counts["global"] + found.counts["spurious"]
    20
    """
    from . import blas

    task = prepare(arch, d, runs, seed, **given)
    workers = None if workers is None else checks.integer(workers, "workers")
    if not (executor is None or hasattr(executor, "submit")):
        raise TypeError(f"executor is {checks.shown(executor)}, but must be a concurrent.futures.Executor")
    if out == "" or not isinstance(out, (str, os.PathLike, type(None))):
        raise TypeError(f"out is {checks.shown(out)}, but must be a directory")
    if resume and out is None:
        raise ValueError("resume is given without out, but must know the directory: --out DIR")
    with contextlib.ExitStack() as stack:
        if out is not None:
            out = Path(out)
            stack.enter_context(files.claim(out))
        made = journal.Journal(task, out, resume)
        stack.enter_context(blas.one_thread())
        bar = stack.enter_context(command.progress_bar(quiet, total=runs, initial=len(made.done), unit=" runs"))
        if missing := [run for run in task.numbers if run not in made.done]:
            for run, basin in _results(task, missing, executor, workers):
                made.add(run, basin)
                bar.update()
        found = Census.of(task.config, [made.done[run] for run in task.numbers])
        if out is not None:
            files.rescue(out, functools.partial(_write, found, made))
    return found


# ---------------------------------------------------------------------------------------- the files


def _write(found, made, out):
    """The files of a census's directory."""
    from .runs import plots

    if not (out / journal.NAME).exists():
        made.save(out)
    shares = {name: dict(zip(("share", "low", "high"), found.share(name))) for name in OUTCOMES}
    content = {"config": dataclasses.asdict(found.config), "version": __version__, **found.counts}
    files.write_json(out / "census.json", content | {"families": found.families, "shares": shares})
    files.write_archive(out / "census.npz", "census", {name: getattr(found, name) for name in (*COLUMNS, "family")})
    files.write(out / "figure.png", plots.census_figure(found, OUTCOMES))


# -------------------------------------------------------------------------------- the command line


def _parser():
    parser = command.Parser(
        prog="python -m resgrad.census",
        description="Train from many starts, count the minima; files go to a fresh directory in runs/.",
    )
    add = parser.add_argument
    add("--arch", metavar="NAME", help=", ".join(architectures.ARCHITECTURES))
    add("--preset", help="safran-shamir: the protocol of their paper, with --k")
    add("--k", type=int, help="dimension and teacher units of the preset")
    add("--d", type=int, help="input dimension (10)")
    add("--width", type=int, help="units of the student (d)")
    add("--teacher", help=f"{protocol.DRAWS} (drawn anew in each run; for vanilla: identity), or a weights.npz")
    add("--teacher-width", type=int, metavar="WIDTH", help="units of the teacher (d)")
    add("--init", help="where the student starts: as for --teacher, but no file (fan-in; for vanilla: normal)")
    add("--data", help="population: the exact expected loss (default), online, or dataset")
    add("--optimizer", help="nesterov (for vanilla: sgd) or sgd")
    add("--lr", type=float, help="step size (from the largest curvature)")
    add("--momentum", type=float, help="in [0, 1) (0.9)")
    add("--batch-size", type=int, help="samples a step (200); not for population")
    add("--samples", type=int, help="size of a data set (100000)")
    add("--steps", type=int, help="first-order steps at most (100000)")
    add("--runs", type=int, help="number of starts (1000)")
    add("--seed", type=int, help="of everything random (0)")
    add("--workers", type=int, help="threads (one per core)")
    add("--scheduler", metavar="ADDRESS", help="of a dask cluster that does the work instead")
    add("--out", metavar="DIR", help="directory (default: a fresh one under runs/)")
    add("--resume", action="store_true", help="make only the runs that are missing in --out")
    add("--quiet", action="store_true", help="no progress, no summary")
    return parser


def _request(given, preset=None, k=None):
    """The arguments of `census` from those of the command line."""
    if preset is None:
        if k is not None:
            raise ValueError(f"k is {k}, but only a preset has it; the dimension is --d")
        if "arch" not in given:
            raise ValueError("arch is missing, but must be given: --arch NAME")
        return {"d": 10} | given
    checks.choice(preset, "preset", ["safran-shamir"])
    if k is None:
        raise ValueError(f"k is missing, but preset {preset} needs it: --k NUMBER")
    fixed = SAFRAN_SHAMIR | {"d": checks.integer(k, "k"), "teacher_width": k}
    for key in fixed:
        if given.get(key, fixed[key]) != fixed[key]:
            raise ValueError(f"{key} is {given[key]}, but preset {preset} has {fixed[key]}")
    return given | fixed


def _saved(path):
    """The arguments of `census` that began this ``runs.jsonl``."""
    config = journal.read(path)[0]["config"]
    config["teacher"] = config["teacher"].rpartition(", sha256 ")[0] or config["teacher"]
    return {key: value for key, value in config.items() if value is not None}


def _connect(address, stack):
    """The executor of the dask cluster at ``address``."""
    try:
        from dask.distributed import Client
    except ImportError:
        raise ValueError("scheduler is given, but dask is missing: pip install 'resgrad[cluster]'") from None
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # a lost scheduler is told in one line
    try:
        return stack.enter_context(Client(address, timeout=10)).get_executor()
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"scheduler is {address}, but does not answer: {checks.shown(error)}") from None


@command.guarded
def main(argv=None):
    """The command line; returns the exit code."""
    given = {key: value for key, value in vars(_parser().parse_args(argv)).items() if value is not None}
    scheduler, out, quiet = given.pop("scheduler", None), given.pop("out", None), given["quiet"]
    started = time.perf_counter()
    if given["resume"] and not out:
        raise ValueError("resume is given without out, but must know the directory: --out DIR")
    if "workers" in given:
        checks.integer(given["workers"], "workers")
    if given["resume"]:
        path = Path(out) / journal.NAME
        if path.exists() or not {"arch", "preset"} & set(given):
            given = _saved(path) | given
    request = _request(given, given.pop("preset", None), given.pop("k", None))
    config = prepare(**{k: v for k, v in request.items() if k not in ("workers", "resume", "quiet")}).config
    with contextlib.ExitStack() as stack:
        executor = None if scheduler is None else _connect(scheduler, stack)
        if out is None and not given["resume"]:
            out = files.fresh("runs", f"census-{config.arch}")
        if not quiet:
            command.announce_compilation()
        again = f"go on with --resume --out {shlex.quote(str(out))}"
        below = "\n" if command.terminal() and not quiet else ""  # the bar
        with command.farewell(f"{below}interrupted; {again}"):
            try:
                found = census(**request, executor=executor, out=out)
            except concurrent.futures.BrokenExecutor as error:
                raise OSError(f"{error}; {again}") from None
    if not quiet:
        command.say(f"{found}\n\n{time.perf_counter() - started:.1f} s; files: {out}{os.sep}")
    return 0


class _Module(types.ModuleType):
    """The module, callable: ``resgrad.census`` is its name, and that of the function."""

    __call__ = staticmethod(census)


sys.modules[__name__].__class__ = _Module

if __name__ == "__main__":
    # not __main__.main: workers look up what they are sent by the name of its module
    sys.exit(importlib.import_module("resgrad.census").main())
