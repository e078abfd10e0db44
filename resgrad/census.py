"""``rg.census`` and ``python -m resgrad.census``: which minima gradient descent ends in, and how often.

The numerical code is imported once a census starts, so that ``--help`` need not wait for it.
"""

from __future__ import annotations

import gc
import signal

if __name__ == "__main__":
    gc.set_threshold(100_000)  # imports and Numba make many objects, and looking through them takes time
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback during the imports

import concurrent.futures
import contextlib
import dataclasses
import functools
import logging
import os
import shlex
import sys
import time
import types
from pathlib import Path
from typing import Any

from . import __version__, architectures, checks
from .draws import DRAWS
from .runs import command, files, journal
from .runs.tally import COLUMNS, FAILED, OUTCOMES, SAFRAN_SHAMIR, Census, without_digest


def _results(task, missing, executor, workers):
    """Make the ``missing`` runs; yields (run, Basin) in the order in which they end."""
    from . import blas, draws, losses
    from .runs import tasks

    ends = []  # of runs made before the workers start: they compile everything, which two threads may not at one time
    while missing and not any(basin.outcome != FAILED for _, basin in ends):
        ends, missing = tasks.work(dataclasses.replace(task, numbers=(missing[0],))), missing[1:]
        yield from ends
    teacher = task.loss(draws.streams(task.config.seed)).teacher
    losses.PopulationLoss(teacher.arch, teacher).value(teacher.theta)  # compiles the double-double sum, too
    if own := executor is None:
        executor = concurrent.futures.ThreadPoolExecutor(workers or blas.processors())
    size, futures = 1 if own else max(1, min(32, len(missing) // 64)), []
    try:
        for first in range(0, len(missing), size):
            part = dataclasses.replace(task, numbers=tuple(missing[first : first + size]))
            futures.append(executor.submit(tasks.work, part))  # no keywords: dask has some of its own
        for future in concurrent.futures.as_completed(futures):
            yield from future.result()
    except Exception as error:  # of the executor, not of a run: see `tasks.work`
        if own:
            raise
        raise concurrent.futures.BrokenExecutor(f"executor failed: {checks.shown(error)}") from error
    finally:
        for future in futures:
            future.cancel()
        if own:
            executor.shutdown()


def census(arch: architectures.Architecture | str, d: int, runs: int = 1000, seed: int = 0, *,
           executor: concurrent.futures.Executor | None = None, workers: int | None = None,
           out: str | os.PathLike | None = None, resume: bool = False, certify: bool = False, report: bool = False,
           quiet: bool = False, **given: Any) -> Census:  # fmt: skip
    """Train from many starts, find the critical point at the end of each run, and count their kinds.

    Parameters
    ----------
    arch : Architecture or str
    d : int
    runs, seed : int
        Run i draws its teacher, start and data from ``streams(seed, run=i)``.
    executor : concurrent.futures.Executor, optional
        It does the work, and is not shut down.  If it fails, BrokenExecutor is raised; finished runs are in ``out``.
        Examples are ``dask.distributed.Client(...).get_executor()`` and ``mpi4py.futures.MPIPoolExecutor()``.
        Default: ``workers`` threads, one for each processor that this process may use.  Gradient flow holds Python's
        lock: where most runs need it, processes (ProcessPoolExecutor) take half the time of threads.
    workers : int, optional
    out : path, optional
        Directory for ``census.json``, ``census.npz``, ``figure.png`` and ``runs.jsonl``, to which each run adds a
        line when it ends.  Delete a line to make its run again.
    resume : bool
        Make only the runs that ``out`` lacks, and those that failed.  ``runs`` may have grown, and a teacher's
        file moved; nothing else may differ.
    certify : bool
        Prove the kind of each family of spurious minima, at the run that found it first (`resgrad.certify`).
    report : bool
        Write the census on one page, ``report.html`` in ``out``.  An existing page is always renewed.
    quiet : bool
        No progress bar; there is one on a terminal only.
    **given
        ``width``, ``teacher_width`` (both d); ``teacher``: a kind of `draw`, drawn anew in each run, a
        `Network`, or the path of a weights.npz, of any architecture; ``init``: a kind of `draw`;
        ``data``: "population", "online" or "dataset", with ``batch_size`` and ``samples``;
        ``optimizer``: a record, or a name with ``lr`` (default: see `basins.descend`) and ``momentum``;
        ``steps``, at most: 10,000 for the expected loss, after which gradient flow takes over, else 100,000;
        ``covariance`` of the inputs, as for `PopulationLoss` or the path of a .npy file; ``noise``, the standard
        deviation of noise on each label, whose share the reported losses leave out;
        ``loss``: "relu", "even", "hermite24" or "ge-lee-ma" (see `resgrad.designed`), with ``rows``, "free" or
        "unit", and ``mu`` and ``lam``.

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
    A run stops when Newton's method shows for certain in which basin it is (`basins.descend`).  There is no tolerance
    to choose.  If ``steps`` are not enough, as in a long valley, a run on the expected loss goes on along gradient
    flow, the limit of small steps, with a stiff solver.  Steps of half of 1 / curvature follow the flow closely, but
    next to a saddle the two may part: ``steps=1`` makes a census of gradient flow itself, to compare.

    Where the loss falls for ever, but like a power of time, the minimum is degenerate.  It counts like any other, and
    `Census.exponent` has the power.

    A family is all spurious minima with the same loss and the same Hessian spectrum (`basins.group`), which the
    symmetries do not change.  If each run draws a teacher of its own, losses differ from run to run, and a family has
    one member.  A student with fewer units than its teacher cannot reach zero in general; its best fit counts as
    spurious, too.

    A run that raises an error counts as "failed", and `Census.failures` has its message.  The other runs go on.

    Examples
    --------
    >>> import resgrad as rg
    >>> found = rg.census("vanilla", d=6, runs=20, seed=2)
    >>> found.counts["global"] + found.counts["spurious"]
    20
    """
    from .runs import tasks

    task = tasks.prepare(arch, d, runs, seed, **given)
    workers = None if workers is None else checks.integer(workers, "workers")
    if not (executor is None or hasattr(executor, "submit")):
        raise TypeError(f"executor is {checks.shown(executor)}, but must be a concurrent.futures.Executor")
    if out == "" or not isinstance(out, (str, os.PathLike, type(None))):
        raise TypeError(f"out is {checks.shown(out)}, but must be a directory")
    for name, asked in (("resume", resume), ("report", report)):
        if asked and out is None:
            raise ValueError(f"{name} is given without out, but must know the directory: --out DIR")
    if certify:
        tasks.check_proofs(task)
    return _make(task, executor, workers, None if out is None else Path(out), resume, quiet, certify, report)


def _make(task, executor, workers, out, resume, quiet, certify, report):
    """`census`, its arguments checked."""
    from . import blas
    from .runs import plots, tasks

    with contextlib.ExitStack() as stack:
        if out is not None:
            stack.enter_context(files.claim(out))
        made = journal.Journal(task, out, resume)
        stack.enter_context(blas.one_thread())
        bar = command.progress_bar(quiet, total=len(task.numbers), initial=len(made.done), unit=" runs")
        stack.enter_context(bar)
        if missing := [run for run in task.numbers if run not in made.done]:
            for run, basin in _results(task, missing, executor, workers):
                made.add(run, basin)
                bar.update()
        found = Census.of(task.config, [made.done[run] for run in task.numbers])
        for family in found.families if certify else ():
            family |= tasks.proof(task, family["run"], found.theta[family["run"]])

        def leave(directory):
            if not (directory / journal.NAME).exists():
                made.save(directory)
            shares = {name: dict(zip(("share", "low", "high"), found.share(name))) for name in OUTCOMES}
            content = {"config": dataclasses.asdict(found.config), "version": __version__, **found.counts}
            content |= {"degenerate": found.degenerate, "families": found.families, "shares": shares}
            content |= {"failures": found.failures} if found.failures else {}
            files.write_json(directory / "census.json", content)
            arrays = {name: getattr(found, name) for name in (*COLUMNS, "family")}
            files.write_archive(directory / "census.npz", "census", arrays)
            if len(found.failures) < found.counts["runs"]:  # else there is no loss to show
                plots.leave(directory / "figure.png", plots.census_figure, found, OUTCOMES)
            if report or (directory / "report.html").exists():
                from .runs import census_report

                plots.leave(directory / "report.html", census_report.page, task, found)

        if out is not None:
            files.rescue(out, leave)
    return found


def _parser():
    parser = command.Parser(
        "census",
        "Train from many starts, count minima; files go to a fresh directory in runs/.",
        "--arch two-weight --d 5 --runs 100",
        "--preset safran-shamir --k 8 --runs 100",
    )
    parser.share(
        arch=", ".join(architectures.ARCHITECTURES),
        preset="safran-shamir: the protocol of their paper, with --k",
        teacher=f"{', '.join(DRAWS)} (drawn anew in each run; for vanilla: identity), or a weights.npz",
        init="where the student starts: as for --teacher, but no file (fan-in; for vanilla: normal)",
        data="population: the exact expected loss (default), online, or dataset",
        optimizer="nesterov (for vanilla: sgd) or sgd",
        lr="step size (from the largest curvature)",
        steps="first-order steps at most (100000; for population 10000, then gradient flow)",
    )
    parser.add_argument("--k", type=int, help="dimension and teacher units of the preset")
    parser.add_argument("--teacher-width", type=int, metavar="WIDTH", help="units of the teacher (d)")
    parser.add_argument("--runs", type=int, help="number of starts (1000)")
    parser.add_argument("--workers", type=int, help="threads (one per processor)")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="of a dask cluster that does the work instead")
    flag = functools.partial(parser.add_argument, action="store_true")
    flag("--certify", help="prove the families of spurious minima (needs resgrad[proofs])")
    flag("--report", help="add report.html, the census on one page")
    flag("--resume", help="make only the runs that are missing in --out")
    return parser


def _request(out, given):
    """The arguments of `census` from those of the command line and, with ``resume``, the journal in ``out``."""
    if given.pop("resume"):
        if out is None:
            raise ValueError("resume is given without out, but must know the directory: --out DIR")
        if (out / journal.NAME).exists() or not {"arch", "preset"} & set(given):
            config = journal.read(out / journal.NAME)[0]["config"]
            config |= {key: without_digest(config.get(key)) for key in ("teacher", "covariance")}
            given = {key: value for key, value in config.items() if value is not None} | given
    preset, k = given.pop("preset", None), given.pop("k", None)
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
    given, started = _parser().given(argv), time.perf_counter()
    out, workers, scheduler = (given.pop(name, None) for name in ("out", "workers", "scheduler"))
    quiet, certify, report, resume = given.pop("quiet"), given.pop("certify"), given.pop("report"), given["resume"]
    if workers is not None:
        checks.integer(workers, "workers")
    request = _request(out, given)
    from .runs import tasks

    task = tasks.prepare(**request)
    if certify:
        tasks.check_proofs(task)
    with contextlib.ExitStack() as stack:
        executor = None if scheduler is None else _connect(scheduler, stack)
        out = out or files.fresh("runs", f"census-{task.config.arch}")
        again = f"--resume --out {shlex.quote(str(out))}"
        below = "\n" if command.terminal() and not quiet else ""  # the bar
        stack.enter_context(command.farewell(f"{below}interrupted; go on with {again}"))
        compiling = stack.enter_context(command.compilation(quiet))
        try:
            found = _make(task, executor, workers, out, resume, quiet, certify, report)
        except concurrent.futures.BrokenExecutor as error:
            raise OSError(f"{error}; go on with {again}") from None
    if not quiet:
        took = f"{time.perf_counter() - started:.1f} s{command.of_which(compiling.seconds)}"
        command.say(f"{found}\n\n{took}; files: {out}{os.sep}")
    if found.failures:
        run, message = next(iter(found.failures.items()))
        count = f"{len(found.failures):,} of {found.counts['runs']:,}"
        command.tell("error", f"{count} runs failed, the first of them run {run}: {message}; try again with {again}")
        return 1
    return 0


class _Module(types.ModuleType):
    """This module, made callable, since ``resgrad.census`` is its name and the function's."""

    __call__ = staticmethod(census)


sys.modules[__name__].__class__ = _Module

if __name__ == "__main__":
    sys.exit(main())
