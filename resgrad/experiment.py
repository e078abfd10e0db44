"""``python -m resgrad.experiment --arch li``: one run from the command line to a directory of files.

The code that trains, aligns and draws is imported when a run starts, so that ``--help`` need not wait for it.
"""

import gc
import signal

if __name__ == "__main__":
    gc.set_threshold(100_000)  # imports and Numba make many objects, and looking through them takes time
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback; from the first step on `_Watch` answers Ctrl-C

import contextlib
import dataclasses
import functools
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from . import __version__, architectures, optimizers
from .draws import DRAWS
from .runs import command, files
from .runs.protocol import PRESETS, Config, prepare, resolve, rows, simulate, table

RUN_FILES = ("run.json", "checkpoint.npz", "history.csv", "weights.npz", "figure.png", "report.html")
SAVE_EVERY = 3.0  # seconds between checkpoints
NOISY = 40_000  # parameters up to which the noise of a gradient takes seconds
VERIFY = 2.0  # seconds that --verify spends on making a run again


def save_checkpoint(path, config, teacher, state, records, seconds, covariance=None):
    """Write all that a run needs to go on, bit for bit, except the data, which are drawn again.

    ``covariance`` is given if it came from a file, since the file may change.
    """
    header = vars(state) | {"config": dataclasses.asdict(config), "seconds": seconds}
    header["rng"] = state.rng.bit_generator.state
    arrays = {name: header.pop(name) for name, value in vars(state).items() if isinstance(value, np.ndarray)}
    arrays |= {"records": np.array(records, dtype=np.float64), "theta_star": teacher.theta}
    if covariance is not None:
        arrays["covariance"] = covariance
    files.write_archive(path, "checkpoint", arrays, **header)


def load_checkpoint(path):
    """(config, theta_star, state, records, seconds, covariance or None) of a checkpoint.

    Raises FileError when it lacks anything.
    """
    from . import training

    arrays, header = files.read_archive(path, "checkpoint")
    try:
        rng = np.random.default_rng(0)
        rng.bit_generator.state = header["rng"]
        found = arrays | header | {"rng": rng, "window_loss": files.number(header["window_loss"])}
        state = training.State(**{field.name: found[field.name] for field in dataclasses.fields(training.State)})
        records = [(int(row[0]), *map(float, row[1:])) for row in arrays["records"]]
        config, seconds, covariance = Config(**header["config"]), float(header["seconds"]), arrays.get("covariance")
        return config, arrays["theta_star"], state, records, seconds, covariance
    except (KeyError, TypeError, ValueError) as error:
        raise files.FileError(f"{path} is not a checkpoint that this resgrad reads: {error!r}") from None


def run(config: Config, out: str | Path, problem: tuple | None = None, *, resume: tuple | None = None,
        plot: bool = True, report: bool = False, certify: bool = False, quiet: bool = False,
        replace: bool = False) -> dict:  # fmt: skip
    """Train as ``config`` says, leave the files in the directory ``out``, and return what ``run.json`` holds.

    ``problem`` is what `prepare` makes of ``config``; ``resume`` is (state, records, seconds) of a checkpoint.
    ``plot`` and ``report`` ask for ``figure.png`` and ``report.html``, ``certify`` for a proof about the polished end.
    With ``replace``, the files of another run in ``out`` are removed once there is something to save.

    Raises OSError when ``out`` cannot be written; it says where the files are instead.
    """
    from .runs import plots
    from .runs.report import page

    started, out = time.perf_counter() - (resume[2] if resume else 0.0), Path(out)
    problem = problem or prepare(config)
    _, _, teacher, exact = problem
    with command.compilation(quiet) as compiling, _Watch(config, problem, out, started, quiet, replace) as watch:
        trajectory, _ = simulate(config, problem, progress=watch, resume=resume[:2] if resume else None)
        if trajectory.stop_reason != "finished":  # save at once: who interrupts may not wait for the summary
            with contextlib.suppress(OSError):  # `files.rescue` tries again
                watch.save(out)
        history, theta = table(trajectory), trajectory.theta
        seconds = time.perf_counter() - started, compiling.seconds
        summary = _summary(config, trajectory, exact, *(round(number, 3) for number in seconds))
        final = {"theta": theta, "theta_star": teacher.theta}
        if certify and trajectory.stop_reason == "finished":
            end, summary["result"]["proof"] = _prove(exact, theta)
            final |= end

        def leave(directory):
            watch.save(directory)
            files.write(directory / "history.csv", "\n".join(rows(history)) + "\n")
            files.write_archive(directory / "weights.npz", "weights", final, arch=config.arch, d=config.d)
            files.write_json(directory / "run.json", summary)
            if plot:
                plots.leave(directory / "figure.png", plots.run_figure, history, teacher.arch, config.d)
            if report:
                plots.leave(directory / "report.html", page, summary, history, theta, exact)

        files.rescue(out, leave)
    return summary


class _Watch(contextlib.ExitStack):
    """The ``progress`` of `train`: it moves the progress bar, saves checkpoints, and answers Ctrl-C and SIGTERM."""

    def __init__(self, config, problem, out, started, quiet, replace):
        super().__init__()
        self.config, self.out, self.started, self.replace = config, out, started, replace
        self.teacher, given = problem[2], getattr(problem[3], "covariance", None)
        self.covariance = None if isinstance(given, str) else given
        self.saved, self.stop, self.latest = time.perf_counter(), False, None
        self.bar = self.enter_context(command.progress_bar(quiet, total=config.steps, unit=" steps", delay=1))

    def __call__(self, state, records):
        if self.latest is None:  # from now on there is something to save
            self.enter_context(command.answering(self.ask, signal.SIGINT, signal.SIGTERM))
        self.latest = (state, records)
        self.bar.update(state.step - self.bar.n)
        self.bar.set_postfix_str(f"loss {records[-1][1]:.2e}", refresh=False)
        if self.stop:
            raise KeyboardInterrupt
        if time.perf_counter() - self.saved > SAVE_EVERY:
            try:
                self.save(self.out)
            except OSError as error:  # a full disk may have space again at the end; if not, `files.rescue` helps
                self.bar.set_postfix_str(f"not saved: {error.strerror}")
            self.saved = time.perf_counter()

    def ask(self, number, frame):
        if self.stop:  # asked twice: stop at once
            raise KeyboardInterrupt
        self.stop = True

    def save(self, directory):
        """Write the checkpoint, unless the weights are no longer finite: then the last one stays."""
        for name in RUN_FILES if self.replace else ():
            (directory / name).unlink(missing_ok=True)
        self.replace = False
        if self.latest is not None and np.isfinite(self.latest[0].w).all():
            about = *self.latest, time.perf_counter() - self.started, self.covariance
            save_checkpoint(directory / "checkpoint.npz", self.config, self.teacher, *about)


def _summary(config, trajectory, exact, seconds, compile_seconds):
    """The content of run.json.  Of a resumed run ``seconds`` counts all parts, ``compile_seconds`` the last one."""
    import numba
    import scipy

    from .kernels import threads
    from .minima import alignment
    from .runs import report

    history = table(trajectory)
    result = {"steps": int(trajectory.steps[-1]), "seconds": seconds, "compile_seconds": compile_seconds}
    for name in report.QUANTITIES:
        if name in history:
            result |= {f"{name}_initial": history[name][0], f"{name}_final": history[name][-1]}
    if "inner_product" in history:
        away = np.append(np.flatnonzero(history["inner_product"] <= 0), -1).max()  # the last record that points away
        result["toward_from"] = None if away + 1 == len(history["step"]) else int(history["step"][away + 1])
    result["units_permuted"] = None
    if np.isfinite(trajectory.theta).all() and config.loss == "relu":
        found = alignment.align(config.arch, trajectory.theta, exact.teacher.theta, config.d)
        result["units_permuted"] = int(found.units_moved)
        if found.units[0].reversible:
            result["units_reversed"] = len(found.reversed)
        caught = trajectory.stop_reason == "finished" and not report.is_zero(result)
        if caught and (end := report.destination(exact, trajectory.theta)):
            apart = float(np.linalg.norm(end.theta - trajectory.theta))
            result |= {"polished_verdict": end.verdict, "polished_loss": end.loss, "polished_distance": apart}
    versions = {"resgrad": __version__, "python": sys.version.split()[0]}
    versions |= {package.__name__: package.__version__ for package in (np, scipy, numba)}
    summary = {"config": dataclasses.asdict(config), "versions": versions, "threads": threads.allowed()}
    return summary | {"stop_reason": trajectory.stop_reason, "result": result}


def _check_proof(config):
    """Refuse a run for which there is no proof."""
    from .minima import balls

    if config.loss != "relu":
        raise ValueError(f"loss is {config.loss}, but a proof is about relu")
    if config.covariance is not None:
        raise ValueError(f"covariance is {config.covariance}, but a proof is about inputs N(0, I)")
    balls.require(architectures.resolve(config.arch), config.d, config.width)


def _prove(exact, theta):
    """({name: polished end}, the proof for run.json), without the former if the proof is about the end of the run."""
    from .minima import landscape, proofs
    from .runs import report

    moved, proof, end = 0.0, proofs.certify(exact, theta), {}
    if not proof.proved:
        end["theta_polished"] = polished = landscape.polish(exact, theta).theta
        proof, moved = proofs.certify(exact, polished), float(np.linalg.norm(polished - theta))
    return end, dataclasses.asdict(proof) | {"polish_moved": moved, "theorem": report.theorem(proof, moved)}


def _parser():
    parser = command.Parser(
        "experiment",
        "Train one student on one teacher; files go to a fresh directory in runs/.",
        "--arch modresnet --report",
        "--arch vanilla-free --teacher identity --data population",
    )
    parser.share(
        arch=", ".join(architectures.ARCHITECTURES),
        preset=", ".join(PRESETS),
        teacher=f"{', '.join(DRAWS)}, or a weights.npz (normal or uniform, by architecture)",
        init="where the student starts: as for --teacher (small or fan-in, by architecture)",
        data="dataset (default), online: fresh samples, population: the exact expected loss",
        optimizer="nesterov (default) or sgd",
        lr="step size (by architecture and size)",
        steps="number of steps (by architecture)",
    )
    parser.add_argument("--dtype", help="float64 (default) or float32")
    parser.add_argument("--record-every", type=int, metavar="STEPS", help="default: every 2%% of the way")
    parser.add_argument("--no-plot", action="store_false", dest="plot", help="no figure.png")
    parser.add_argument("--report", action="store_true", help="add report.html, the run on one page")
    parser.add_argument("--certify", action="store_true", help="prove what the end is next to (needs resgrad[proofs])")
    again = parser.add_mutually_exclusive_group()
    mode = functools.partial(again.add_argument, action="store_const", dest="mode")
    mode("--resume", const="resume", help="go on from the checkpoint in --out")
    mode("--overwrite", const="overwrite", help="replace the run in --out")
    mode("--verify", const="verify", help="make its beginning again: does this machine give the same bytes?")
    return parser


@command.guarded
def main(argv=None):
    """The command line; returns the exit code."""
    given = _parser().given(argv)
    out, mode, quiet = (given.pop(name, None) for name in ("out", "mode", "quiet"))
    extras = {name: given.pop(name) for name in ("plot", "report", "certify")}
    if mode in ("resume", "verify") and out is None:
        raise ValueError(f"{mode} is given without out, but must know the run's directory: --out DIR")
    if mode == "resume" and not out.is_dir() and "arch" not in given:
        raise ValueError(f"out is {out}, which holds no run to resume")
    if mode == "verify":
        with command.compilation(quiet):
            same, told = verify(out, **given)
        if not quiet:
            command.say(told)
        return 0 if same else 1
    begun = mode == "resume" and (out / "checkpoint.npz").exists()
    if not begun:  # bad input is told before anything is written
        if "arch" not in given:
            raise ValueError("arch is missing, but must be given: --arch NAME")
        config, checkpoint = resolve(**given), None
        problem = prepare(config)
        if extras["certify"]:
            _check_proof(config)
    out = out or files.fresh("runs", config.arch)
    with files.claim(out):
        if begun:
            config, problem, *checkpoint = _saved(out, given)
        elif mode == "resume" and (out / "run.json").exists():
            raise ValueError(f"out is {out}, whose run has lost its checkpoint.npz; use --overwrite or another --out")
        elif mode != "overwrite" and any((out / name).exists() for name in RUN_FILES[:2]):
            raise ValueError(f"out is {out}, which holds a run; use --resume, --overwrite or another --out")
        elif mode == "resume" and not quiet:
            command.tell(f"nothing is saved in {out} yet: starting from the beginning")
        summary = run(config, out, problem, resume=checkpoint, quiet=quiet, replace=mode == "overwrite", **extras)
    if not quiet:
        from .runs.report import describe

        command.say(describe(summary, out))
    reason = summary["stop_reason"]
    if reason.startswith("diverged"):
        command.tell("error", f"{reason}; {_advice(config, problem)}")
        return 3
    if reason.startswith("interrupted"):
        command.tell(f"{reason}; go on with --resume --out {shlex.quote(str(out))}")
        return 130
    return 0


def _saved(out, given):
    """(config, problem, state, records, seconds) of the run in ``out``, which must agree with what is ``given``."""
    saved, theta_star, state, records, seconds, covariance = load_checkpoint(out / "checkpoint.npz")
    asked = resolve(**{"arch": saved.arch, "preset": saved.preset} | given)
    for key, now, then in ((key, getattr(asked, key), getattr(saved, key)) for key in given if key != "steps"):
        if now != then:
            raise ValueError(f"{key} is {now}, but the run in {out} has {then}; only steps may change")
    config = dataclasses.replace(saved, steps=given.get("steps", saved.steps))
    if config.steps < state.step:
        raise ValueError(f"steps is {config.steps}, but the run in {out} is at {state.step} already")
    problem = prepare(config, (theta_star, state.theta0, covariance))
    if not np.array_equal(theta_star, problem[2].theta):
        raise ValueError(f"teacher is {config.teacher}, but not the one that the run in {out} began with")
    return config, problem, state, records, seconds


def verify(out: str | Path, **given: Any) -> tuple[bool, str]:
    """Make the beginning of the run in ``out`` again, as its checkpoint says, and compare ``history.csv``.

    Returns whether this machine gives the same bytes, and a sentence that says so, or by how much it differs.
    Raises ValueError when ``out`` does not hold a run with the fields ``given``, or its files are damaged.
    """
    config, problem, *_ = _saved(Path(out), given)
    started, path = time.perf_counter(), Path(out) / "history.csv"
    if not path.exists():
        raise files.FileError(f"out is {out}, whose run has not ended: there is no history.csv to verify")

    def enough(state, records):
        if len(records) > 1 and time.perf_counter() - started > VERIFY:
            raise KeyboardInterrupt

    ours = rows(table(simulate(config, problem, progress=enough)[0]))
    try:
        theirs = path.read_text().splitlines()[: len(ours)]
        ours = ours[: len(theirs)]
        here, there = (np.array([row.split(",") for row in lines[1:]], np.float64) for lines in (ours, theirs))
        if theirs[:1] != ours[:1] or there.size == 0 or here.shape != there.shape:
            raise ValueError("its columns are not those of this run")
    except (OSError, ValueError) as error:
        raise files.FileError(f"{path} is not the history of a run that can be verified: {error}") from None
    span = f"the first {len(there) - 1} windows ({int(there[-1, 0]):,} steps) of the run in {out}"
    if theirs == ours:
        return True, f"This machine reproduces {span}, byte for byte."
    apart = np.abs(here - there) / np.maximum(np.maximum(np.abs(here), np.abs(there)), np.finfo(float).tiny)
    first = int(here[np.argmax(apart.any(axis=1)), 0])
    how = f"from step {first:,} on, values differ by up to {apart.max():.1e} of their size."
    return False, f"This machine does not reproduce {span}:\n{how}"


def _advice(config, problem):
    """A step size to try after one that diverged."""
    from . import training

    _, theta0, teacher, exact = problem
    points = (theta0, teacher.theta) if config.loss == "relu" else (theta0,)
    curvature = max(1e-300, *(training.curvature(exact, theta) for theta in points))
    limit = optimizers.largest_lr(curvature, config.momentum)
    at = "at the start and at the teacher" if len(points) > 1 else "at the start"
    where = f"on the expected loss, {at}, steps are stable up to {limit:.2g}"
    shrinks = _shrinking(config, theta0, exact)
    if shrinks < np.inf:
        where += f"; at the start, a step of SGD shrinks the distance from the teacher on average up to {shrinks:.2g}"
        limit = min(limit, shrinks) if shrinks > 0 else limit
    return f"try --lr {min(limit, config.lr) / 2:.2g} ({where})"


def _shrinking(config, theta0, exact):
    """`noise.largest_step` at the start; infinity where there are no batches, or no formula for their noise."""
    from . import noise
    from .minima import alignment

    formula = config.loss == "relu" and not exact.biased and exact.factor is None
    if config.data == "population" or not formula or theta0.size > NOISY:
        return np.inf
    image = alignment.align(config.arch, theta0, exact.teacher.theta, config.d).teacher
    return noise.largest_step(exact, theta0, image, config.batch_size)


if __name__ == "__main__":
    sys.exit(main())
