"""``python -m resgrad.experiment --arch li``: one run from the command line, to a directory of files.

Imports every other room, but only once a run starts: ``--help`` costs nothing.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from . import __version__, architectures, checks, files, optimizers

RUN_FILES = ("run.json", "checkpoint.npz", "history.csv", "weights.npz", "figure.png")
SAVE_EVERY = 3.0  # seconds between checkpoints
ZERO = 1e-10  # a loss this far below where it started counts as zero: ten orders of magnitude


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides a run's bytes.  `resolve` fills in what was left out."""

    arch: str
    preset: str
    d: int
    width: int
    data: str
    optimizer: str
    lr: float
    momentum: float
    batch_size: int
    samples: int
    steps: int
    teacher: str
    init: str
    dtype: str
    seed: int
    record_every: int | None = None


DATA = ("dataset", "online", "population")
DTYPES = ("float64", "float32")
BASE = {
    "d": 10, "data": "dataset", "optimizer": "nesterov", "momentum": 0.9, "batch_size": 200,
    "samples": 100_000, "steps": 20_000, "teacher": "normal", "init": "small", "dtype": "float64", "seed": 0,
}  # fmt: skip

# lr stands for d = width = 10 and falls with the larger of them as the largest curvature grows: d for normal teachers, whose
# units have length about 1, and d^2 or d^3 for uniform ones, whose units grow with d.
DEFAULT = {
    "li": {"lr": 0.02},
    "resnet": {"lr": 0.02, "steps": 40_000},
    "two-weight": {"lr": 1e-3, "steps": 40_000, "teacher": "uniform"},
    "modresnet": {"lr": 5e-3, "steps": 40_000, "teacher": "uniform"},
    "vanilla": {"lr": 0.01, "init": "fan-in"},
    "resnet-sum": {"lr": 1e-3, "steps": 100_000, "teacher": "uniform", "init": "fan-in"},
    "modresnet-sum": {"lr": 1e-3, "steps": 40_000, "teacher": "uniform"},
}

# The post's notebooks: every output summed, 100 epochs of 500 batches, logged every 250 batches.
_NOTEBOOK = {"teacher": "uniform", "init": "fan-in", "steps": 50_000, "record_every": 250}
_SGD = {"optimizer": "sgd", "lr": 1e-4, "momentum": 0.0}
_NESTEROV = {"lr": 1e-3, "momentum": 0.01}
NOTEBOOK = {
    "li": _NOTEBOOK | _SGD | {"d": 5},
    "vanilla": _NOTEBOOK | _SGD | {"d": 5},
    "resnet": _NOTEBOOK | _SGD | {"arch": "resnet-sum", "d": 1, "teacher": "normal"},
    "resnet-sum": _NOTEBOOK | _SGD | {"d": 1, "teacher": "normal"},
    "two-weight": _NOTEBOOK | _NESTEROV,
    "modresnet": _NOTEBOOK | _NESTEROV | {"arch": "modresnet-sum"},
    "modresnet-sum": _NOTEBOOK | _NESTEROV,
}
# Li & Yuan (2017), section 5: |W*|_2 about 0.6, and the start whose gradient first points away.
_LI_YUAN = _SGD | {"d": 100, "lr": 1e-3, "teacher": "spectral", "init": "zero", "steps": 60_000, "record_every": 1000}
_PHASES = _SGD | {
    "d": 1500, "data": "online", "teacher": "zero", "init": "phases", "batch_size": 300, "steps": 300,
    "record_every": 10, "dtype": "float32",
}  # fmt: skip
LI_YUAN = dict.fromkeys(("li", "vanilla"), _LI_YUAN) | {"vanilla": _LI_YUAN | {"init": "spectral"}}
PRESETS = {
    "default": DEFAULT, "notebook": NOTEBOOK, "li-yuan": LI_YUAN, "li-yuan-phases": {"li": _PHASES},
}  # fmt: skip


def resolve(arch, preset="default", **given):
    """The `Config` of a run: what is given, else what the preset says, else the defaults.

    Parameters
    ----------
    arch : str
        A name in ``resgrad.ARCHITECTURES``.
    preset : {"default", "notebook", "li-yuan", "li-yuan-phases"}
    **given
        Fields of `Config`; None means not given.

    Raises
    ------
    ValueError, TypeError
        Naming the field, what it got and what it wants.

    Examples
    --------
    >>> from resgrad.experiment import resolve
    >>> resolve("modresnet", "notebook").arch
    'modresnet-sum'
    >>> resolve("li", d=20).lr
    0.01
    """
    name = architectures.resolve(arch).name
    if preset not in PRESETS:
        raise checks.suggest(preset, "preset", list(PRESETS))
    if name not in PRESETS[preset]:
        raise ValueError(f"preset {preset} is for {' and '.join(PRESETS[preset])}, but arch is {name}")
    given = {key: value for key, value in given.items() if value is not None}
    if given.get("optimizer") == "sgd":
        given.setdefault("momentum", 0.0)
    config = {"arch": name, "preset": preset} | BASE | PRESETS[preset][name] | given
    unused = {"population": ("batch_size", "samples"), "online": ("samples",)}.get(config["data"], ())
    for field in unused:
        if field in given:
            raise ValueError(f"{field} is {given[field]}, but {config['data']} data has none")
    d = config["d"] = checks.integer(config["d"], "d")
    config["width"] = checks.integer(config.get("width", d), "width")
    if preset == "default" and "lr" not in given:
        power = 1 if config["teacher"] != "uniform" else 2 if name == "modresnet" else 3
        size = max(d, config["width"])
        config["lr"] = float(f"{config['lr'] * (10 / size) ** power:.2g}")
    for field in ("batch_size", "samples", "steps"):
        config[field] = checks.integer(config[field], field)
    config["seed"] = checks.integer(config["seed"], "seed", 0)
    if config.get("record_every") is not None:
        config["record_every"] = checks.integer(config["record_every"], "record_every")
    for field, known in (("data", DATA), ("optimizer", list(optimizers.OPTIMIZERS)), ("dtype", DTYPES)):
        if config[field] not in known:
            raise checks.suggest(config[field], field, known)
    config["lr"] = checks.real(config["lr"], "lr", above=0)
    config["momentum"] = checks.real(config["momentum"], "momentum", 0, 1)
    if config["optimizer"] == "sgd" and config["momentum"]:
        raise ValueError(f"momentum is {config['momentum']:g}, but sgd has none; use --optimizer nesterov")
    return Config(**config)


def prepare(config):
    """(loss, theta0, teacher) of a run; the same seed gives the same three for every ``data``."""
    from . import losses, training

    streams = training.streams(config.seed)
    theta_star = _parameters(config, "teacher", streams.teacher)
    theta0 = _parameters(config, "init", streams.init)
    teacher = architectures.Network(config.arch, theta_star, config.d)
    dtype = np.dtype(config.dtype)
    if config.data == "dataset":
        loss = losses.EmpiricalLoss(
            config.arch, *training.dataset(teacher, config.samples, streams.data, dtype)
        )
    elif config.data == "online":
        loss = losses.OnlineLoss(config.arch, teacher, dtype)
    elif dtype != np.float64:
        raise ValueError(f"dtype is {config.dtype}, but population data needs float64")
    else:
        loss = losses.PopulationLoss(config.arch, teacher)
    return loss, theta0, teacher


def _parameters(config, role, rng):
    """Teacher or start: drawn, or read from the ``theta`` of a weights file."""
    from . import training

    kind, arch = getattr(config, role), architectures.resolve(config.arch)
    if kind in training.DRAWS:
        return training.draw(arch, kind, config.d, config.width, rng)
    if not kind.endswith(".npz"):
        raise checks.suggest(kind, role, [*training.DRAWS, "the path of a weights.npz"])
    arrays, header = files.read_archive(kind, "weights")
    theta = checks.array(arrays["theta"], role)
    found, needed = (header["arch"], header["d"]), (arch.name, config.d)
    if found != needed or theta.size != arch.size(config.d, config.width):
        raise ValueError(
            f"{role} {kind} holds {header['arch']} with d={header['d']} and {theta.size} parameters, but "
            f"{arch.name} with d={config.d} and {arch.size(config.d, config.width)} is needed"
        )
    return theta


def observers(config, teacher):
    """What is recorded besides the loss: functions of theta, by the columns of ``history.csv``."""
    from . import landscape, losses, symmetry

    population, theta_star = losses.PopulationLoss(config.arch, teacher), teacher.theta
    columns = {
        "population_loss": population.value,
        "distance": lambda theta: float(np.linalg.norm(theta - theta_star)),
        "aligned_distance": lambda theta: symmetry.align(config.arch, theta, theta_star, config.d).distance,
    }
    if config.preset.startswith("li-yuan"):  # the paper's quantities
        columns["inner_product"] = lambda theta: float(population.grad(theta) @ (theta - theta_star))
        columns["potential"] = lambda theta: landscape.potential(config.arch, theta, theta_star, config.d)
    return columns


def table(trajectory):
    """The columns of ``history.csv``, by name."""
    return {"step": trajectory.steps, "loss": trajectory.loss} | trajectory.observed


# --------------------------------------------------------------------------------- checkpoints


def save_checkpoint(path, config, teacher, state, records, seconds):
    """Everything that `load_checkpoint` needs to go on, bit for bit; the data are drawn again."""
    arrays = {name: getattr(state, name) for name in ("theta0", "U", "A", "VU", "VA", "order")}
    arrays["records"] = np.array(records, dtype=np.float64)
    arrays["theta_star"] = teacher.theta
    numbers = {name: getattr(state, name) for name in ("position", "step", "window_loss", "window_steps")}
    files.write_archive(
        path, "checkpoint", arrays,
        config=dataclasses.asdict(config), rng=state.rng.bit_generator.state, seconds=seconds, **numbers,
    )  # fmt: skip


def load_checkpoint(path):
    """(config, theta_star, state, records, seconds) of a checkpoint.

    Raises
    ------
    FileError
        When the file is not a whole checkpoint.
    """
    from . import training

    arrays, header = files.read_archive(path, "checkpoint")
    records = [(int(row[0]), *map(float, row[1:])) for row in arrays.pop("records")]
    rng = np.random.default_rng(0)
    rng.bit_generator.state = header["rng"]
    numbers = {name: header[name] for name in ("position", "step", "window_loss", "window_steps")}
    theta_star = arrays.pop("theta_star")
    state = training.State(rng=rng, **arrays, **numbers)
    return Config(**header["config"]), theta_star, state, records, header["seconds"]


# ----------------------------------------------------------------------------------- one run


def simulate(config, problem=None, *, progress=None, resume=None):
    """(trajectory, teacher) of the run that ``config`` describes; writes nothing.

    Parameters
    ----------
    config : Config
    problem : tuple, optional
        What `prepare` makes of ``config``.
    progress, resume : optional
        As in `resgrad.train`.

    Examples
    --------
    >>> from resgrad.experiment import resolve, simulate
    >>> trajectory, teacher = simulate(resolve("li", d=4, samples=500, steps=2000))
    >>> bool(trajectory.observed["distance"][-1] < 1e-6)
    True
    """
    from . import training

    loss, theta0, teacher = problem or prepare(config)
    momentum = (config.momentum,) if config.optimizer == "nesterov" else ()
    optimizer = optimizers.OPTIMIZERS[config.optimizer](config.lr, *momentum)
    batch_size = None if config.data == "population" else config.batch_size
    trajectory = training.train(
        loss, theta0, optimizer, config.steps, batch_size, config.seed, config.record_every,
        observe=observers(config, teacher), progress=progress, resume=resume,
    )  # fmt: skip
    return trajectory, teacher


def run(config, out, problem=None, *, resume=None, plot=True, quiet=False):
    """Train as ``config`` says and leave the files in ``out``.

    Parameters
    ----------
    config : Config
    out : path
        An existing directory.
    problem : tuple, optional
        What `prepare` makes of ``config``.
    resume : tuple, optional
        (state, records, seconds) of a checkpoint.
    plot, quiet : bool

    Returns
    -------
    dict
        What ``run.json`` holds.
    """
    *resume, before = resume or (0.0,)
    started, problem = time.perf_counter() - before, problem or prepare(config)
    with _Watch(config, problem[2], Path(out) / "checkpoint.npz", started, quiet) as watch:
        trajectory, teacher = simulate(config, problem, progress=watch, resume=resume or None)
        seconds = time.perf_counter() - started
        watch.save()
    return _write(config, out, trajectory, teacher, seconds, plot)


class _Watch:
    """What happens between windows: the progress bar, checkpoints, Ctrl-C and SIGTERM."""

    def __init__(self, config, teacher, path, started, quiet):
        self.config, self.teacher, self.path = config, teacher, path
        self.started, self.quiet = started, quiet
        self.saved, self.stop, self.latest = time.perf_counter(), False, None

    def __enter__(self):
        from tqdm import tqdm

        hidden = self.quiet or not sys.stderr.isatty()
        self.bar = tqdm(
            total=self.config.steps, unit=" steps", delay=1, disable=hidden, leave=False,
            file=sys.stderr, dynamic_ncols=True,
        )  # fmt: skip
        self.handlers = {}
        with contextlib.suppress(ValueError):  # signals belong to the main thread
            for number in (signal.SIGINT, signal.SIGTERM):
                self.handlers[number] = signal.signal(number, self._ask)
        return self

    def _ask(self, number, frame):
        if self.stop:  # the second time, at once
            raise KeyboardInterrupt
        self.stop = True

    def __call__(self, state, records):
        self.latest = (state, records)
        self.bar.update(state.step - self.bar.n)
        self.bar.set_postfix_str(f"loss {records[-1][1]:.2e}", refresh=False)
        if self.stop:
            raise KeyboardInterrupt
        if time.perf_counter() - self.saved > SAVE_EVERY:
            self.save()

    def save(self):
        """Write the checkpoint; a run that ended in numbers that are not finite keeps its last good one."""
        if self.latest is None or not all(np.isfinite(w).all() for w in (self.latest[0].U, self.latest[0].A)):
            return
        seconds = time.perf_counter() - self.started
        save_checkpoint(self.path, self.config, self.teacher, *self.latest, seconds)
        self.saved = time.perf_counter()

    def __exit__(self, *error):
        self.bar.close()
        for number, handler in self.handlers.items():
            signal.signal(number, handler)


def _write(config, out, trajectory, teacher, seconds, plot):
    """The four files of a run directory; returns what run.json holds."""
    from . import plots, symmetry

    out, theta_star = Path(out), teacher.theta
    history = table(trajectory)
    rows = zip(*(column.tolist() for column in history.values()))
    lines = [",".join(history), *(",".join(map(repr, row)) for row in rows)]
    files.write(out / "history.csv", "\n".join(lines) + "\n")
    final = {"theta": trajectory.theta, "theta_star": theta_star}
    files.write_archive(out / "weights.npz", "weights", final, arch=config.arch, d=config.d)
    result = {"steps": int(trajectory.steps[-1]), "seconds": round(seconds, 3)}
    for name in [name for name in QUANTITIES if name in history]:
        result |= {f"{name}_initial": history[name][0], f"{name}_final": history[name][-1]}
    result["aligned_distance_final"] = history["aligned_distance"][-1]
    result["units_permuted"] = None
    if np.isfinite(trajectory.theta).all():
        alignment = symmetry.align(config.arch, trajectory.theta, theta_star, config.d)
        result["units_permuted"] = int(alignment.units_moved)
    import numba
    import scipy

    summary = {
        "config": dataclasses.asdict(config),
        "versions": {
            "resgrad": __version__, "python": sys.version.split()[0], "numpy": np.__version__,
            "scipy": scipy.__version__, "numba": numba.__version__,
        },
        "threads": int(os.environ.get("OPENBLAS_NUM_THREADS") or os.cpu_count()),
        "stop_reason": trajectory.stop_reason,
        "result": result,
    }  # fmt: skip
    files.write_json(out / "run.json", summary)
    if plot:
        title = f"{config.arch}: {architectures.resolve(config.arch).formula}, d = {config.d}"
        color = plots.COLORS.get(config.arch, plots.INK)
        files.write(out / "figure.png", plots.run_figure(history, title, color))
    return summary


# ------------------------------------------------------------------------------ the command line


QUANTITIES = {  # of ``history.csv`` that the summary shows at start and end; two for li-yuan* alone
    "loss": "loss",
    "population_loss": "expected loss",
    "inner_product": "<-grad L, W* - W>",
    "potential": "potential g",
    "distance": "distance from the teacher",
}


def describe(summary, out):
    """The summary of a run, for people."""
    config, result = summary["config"], summary["result"]
    arch = architectures.resolve(config["arch"])
    number = "{:>12.4g}".format
    momentum = f", momentum {config['momentum']:g}" if config["optimizer"] == "nesterov" else ""
    source = {
        "dataset": f"{config['samples']:,} samples in batches of {config['batch_size']}",
        "online": f"fresh batches of {config['batch_size']}",
        "population": "the exact expected loss",
    }[config["data"]]
    lines = [
        f"{arch.name}: F(x) = {arch.formula}, d = {config['d']}, width {config['width']}",
        f"{result['steps']:,} steps of {config['optimizer']} (lr {config['lr']:g}{momentum}) on {source}, "
        f"{config['dtype']}, seed {config['seed']}: {result['seconds']:.2f} s",
        "",
        f"{'':32}{'start':>12}{'end':>12}",
    ]
    for name, label in QUANTITIES.items():
        if f"{name}_initial" in result:
            lines.append(f"{label:32}{number(result[name + '_initial'])}{number(result[name + '_final'])}")
    lines.append(f"{'distance modulo symmetry':32}{'':12}{number(result['aligned_distance_final'])}")
    lines += ["", verdict(summary), f"Files: {out}{os.sep}"]
    return "\n".join(lines)


SYMMETRY = {
    "fixed": "a permutation of its units",
    "vector": "rescaling and permuting its units",
    "sum": "rescaling and permuting its units, and the part of W2 that the sum cannot see",
}


def verdict(summary):
    """What happened, in words."""
    result = summary["result"]
    if summary["stop_reason"].startswith("diverged"):
        return f"The run {summary['stop_reason']}: nothing can be said of it but that the step size is too large."
    if result["population_loss_final"] > max(ZERO * result["population_loss_initial"], 1e-24):
        return (
            f"The expected loss is {result['population_loss_final']:.3g}, not zero: the run was too short, or "
            "it is caught in a spurious minimum."
        )
    moved = result["units_permuted"] or "none"
    close = 1e-6 if summary["config"]["dtype"] == "float64" else 1e-4
    if result["distance_final"] < close * max(result["distance_initial"], 1):
        return f"Loss zero, and the student is the teacher itself (units permuted: {moved})."
    readout = architectures.resolve(summary["config"]["arch"]).readout
    if result["aligned_distance_final"] > 1e-3 * result["distance_final"]:
        return (
            f"Loss zero, but the student is {result['distance_final']:.3g} away from the teacher, and "
            f"{result['aligned_distance_final']:.2g} modulo\n{SYMMETRY[readout]}: not yet converged, or "
            "units share what one unit of the teacher does."
        )
    return (
        f"Loss zero, but the student is not the teacher: they are {result['distance_final']:.3g} apart.\n"
        f"They agree up to {SYMMETRY[readout]}:\n"
        f"modulo these they are {result['aligned_distance_final']:.2g} apart (units permuted: {moved})."
    )


class Parser(argparse.ArgumentParser):
    """Errors in one line, exit code 2."""

    def error(self, message):
        self.exit(2, f"error: {message}\n")


def _parser():
    parser = Parser(
        prog="python -m resgrad.experiment",
        description="Train one student on one teacher; files go to a fresh directory under runs/.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--arch", required=True, metavar="NAME", help=", ".join(architectures.ARCHITECTURES))
    add("--preset", default="default", help=", ".join(PRESETS))
    add("--d", type=int, help="input dimension (10)")
    add("--width", type=int, help="hidden units (d)")
    add("--data", help="dataset (default), online: fresh samples, population: the exact expected loss")
    add("--optimizer", help="nesterov (default) or sgd")
    add("--lr", type=float, help="step size (by architecture and size)")
    add("--momentum", type=float, help="in [0, 1) (0.9)")
    add("--batch-size", type=int, help="samples a step (200)")
    add("--samples", type=int, help="size of the data set (100000)")
    add("--steps", type=int, help="number of steps (by architecture)")
    draws = "uniform, fan-in, normal, small, spectral, phases, zero, identity"  # training.DRAWS
    add("--teacher", help=f"{draws}, or a weights.npz (normal; uniform for two-weight and modresnet*)")
    add("--init", help="where the student starts: as for --teacher (small)")
    add("--dtype", help="float64 (default) or float32")
    add("--seed", type=int, help="of everything random (0)")
    add("--record-every", type=int, metavar="STEPS", help="default: every 2%% of the way")
    add("--out", metavar="DIR", help="run directory (default: a fresh one under runs/)")
    add("--resume", action="store_true", help="go on from the checkpoint in --out")
    add("--overwrite", action="store_true", help="replace the run in --out")
    add("--no-plot", action="store_true", help="no figure.png")
    add("--quiet", action="store_true", help="no progress, no summary")
    return parser


def _continue(out, config, given):
    """(config, theta_star, resume) for --resume; the command line must agree with the checkpoint."""
    saved, theta_star, *resume = load_checkpoint(out / "checkpoint.npz")
    for key in given:
        if key != "steps" and getattr(config, key) != getattr(saved, key):
            raise ValueError(
                f"{key} is {getattr(config, key)}, but the run in {out} has {getattr(saved, key)}; "
                "only steps may change"
            )
    steps = given.get("steps", saved.steps)
    if steps < resume[0].step:
        raise ValueError(f"steps is {steps}, but the run in {out} is at {resume[0].step} already")
    return dataclasses.replace(saved, steps=steps), theta_star, resume


def main(argv=None):
    """The command line; returns the exit code."""
    arguments = vars(_parser().parse_args(argv))
    out, resume, overwrite, no_plot, quiet = (
        arguments.pop(name) for name in ("out", "resume", "overwrite", "no_plot", "quiet")
    )
    given = {key: value for key, value in arguments.items() if value is not None}
    try:
        if resume and out is None:
            raise ValueError("resume is given without out, but must know the run's directory: --out DIR")
        if resume and overwrite:
            raise ValueError("resume and overwrite are both given, but only one can be meant")
        if out == "":
            raise ValueError("out is empty, but must be a directory")
        config = resolve(**given)
        prepare(dataclasses.replace(config, samples=1))  # bad input is told before anything is written
        if not quiet:
            _announce_compilation()
        out = files.fresh("runs", config.arch) if out is None else Path(out)
        with files.claim(out):
            config, theta_star, checkpoint = _open(out, config, given, resume, overwrite, quiet)
            problem = prepare(config)
            if theta_star is not None and not np.array_equal(theta_star, problem[2].theta):
                raise ValueError(f"teacher is {config.teacher}, but not the one that the run in {out} began with")
            if overwrite:
                for name in RUN_FILES:
                    (out / name).unlink(missing_ok=True)
            summary = run(config, out, problem, resume=checkpoint, plot=not no_plot, quiet=quiet)
    except (ValueError, TypeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (OSError, MemoryError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # before the first step, or the second Ctrl-C
        print("interrupted", file=sys.stderr)
        return 130
    if not quiet:
        try:
            print(describe(summary, out), flush=True)
        except OSError as error:  # the reader has gone, say; all files are written
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if not isinstance(error, BrokenPipeError):
                print(f"error: standard output: {error.strerror}", file=sys.stderr)
                return 1
    reason = summary["stop_reason"]
    if reason.startswith("diverged"):
        print(f"error: {reason}; try a smaller --lr than {config.lr:g}", file=sys.stderr)
        return 3
    if reason.startswith("interrupted"):
        print(f"{reason}; go on with --resume --out {out}", file=sys.stderr)
        return 130
    return 0


def _open(out, config, given, resume, overwrite, quiet):
    """(config, theta_star, checkpoint) of the run to make in ``out``: free, or meant to be used again."""
    if resume and (out / "checkpoint.npz").exists():
        return _continue(out, config, given)
    if resume and (out / "run.json").exists():
        raise ValueError(f"out is {out}, whose run has lost its checkpoint.npz; use --overwrite or another --out")
    if not overwrite and any((out / name).exists() for name in RUN_FILES[:2]):
        raise ValueError(f"out is {out}, which holds a run; use --resume, --overwrite or another --out")
    if resume and not quiet:
        print(f"nothing is saved in {out} yet: starting from the beginning", file=sys.stderr)
    return config, None, None


def _announce_compilation():
    """One line, once, when a kernel has to be compiled."""
    from numba.core import event

    class Listener(event.Listener):
        told = False

        def on_start(self, _):
            if not self.told:
                print("compiling kernels: this happens once, later runs find them in a cache", file=sys.stderr)
            self.told = True

        def on_end(self, _):
            pass

    event.register("numba:compile", Listener())


if __name__ == "__main__":
    sys.exit(main())
