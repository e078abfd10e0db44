"""The definition of a run: its `Config`, the defaults of every architecture, the published protocols; and making one.

The functions import the numerical code when they are called, so that ``--help`` need not wait for it.
"""

from __future__ import annotations

import dataclasses
import functools
import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import architectures, checks, draws, inputs, optimizers
from ..architectures import Architecture, Network
from . import files

if TYPE_CHECKING:
    from ..training import Trajectory


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that the bytes of a run depend on.  `resolve` fills in defaults."""

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
    loss: str = "relu"
    rows: str = "free"
    mu: float | None = None
    lam: float | None = None
    covariance: str | None = None
    noise: float = 0.0


LOSSES = ("relu", "even", "hermite24", "ge-lee-ma")  # the expected loss, and those of `resgrad.designed`
ROWS = ("free", "unit")  # whether a designed loss keeps its units at length 1
DATA = ("dataset", "online", "population")
DTYPES = ("float64", "float32")
BASE = {
    "d": 10, "data": "dataset", "optimizer": "nesterov", "momentum": 0.9, "batch_size": 200,
    "samples": 100_000, "steps": 20_000, "teacher": "normal", "init": "small", "dtype": "float64", "seed": 0,
}  # fmt: skip
LARGEST = 2**32  # parameters: in float64 each copy of them takes 32 GiB, and training needs several

# Each lr is the one for d = width = 10.  With the larger of d and width, the largest curvature grows, and lr falls:
# as d for normal teachers, whose units have length about 1; as d^2 or d^3 for uniform ones, whose units grow with d.
DEFAULT: dict[str, dict[str, Any]] = {
    "li": {"lr": 0.02},
    "resnet": {"lr": 0.02, "steps": 40_000},
    "two-weight": {"lr": 1e-3, "steps": 40_000, "teacher": "uniform"},
    "modresnet": {"lr": 5e-3, "steps": 40_000, "teacher": "uniform"},
    "vanilla": {"lr": 0.01, "init": "fan-in"},
    "resnet-sum": {"lr": 1e-3, "steps": 100_000, "teacher": "uniform", "init": "fan-in"},
    "modresnet-sum": {"lr": 1e-3, "steps": 40_000, "teacher": "uniform"},
}
DEFAULT |= {f"{name}-free": DEFAULT[name] for name in ("vanilla", "li", "two-weight", "resnet", "modresnet")}
DEFAULT |= {"even": DEFAULT["vanilla"], "li-bias": DEFAULT["li"]}
NEW = {"lr": 5e-3}  # for an architecture without an entry

# The post's notebooks: every output summed, 100 epochs of 500 batches, logged every 250 batches.
_NOTEBOOK = {"teacher": "uniform", "init": "fan-in", "steps": 50_000, "record_every": 250}
_SGD = {"optimizer": "sgd", "lr": 1e-4, "momentum": 0.0}
_ONE, _TWO = _NOTEBOOK | _SGD | {"d": 5}, _NOTEBOOK | {"lr": 1e-3, "momentum": 0.01}  # weight matrices
_LI = _ONE | {"arch": "li-bias", "teacher": "uniform+zero"}  # their layer had a bias, and the teacher none
_BLOCK = _NOTEBOOK | _SGD | {"arch": "resnet-sum", "d": 1, "teacher": "normal"}
NOTEBOOK = {
    "li": _LI, "li-bias": _LI, "vanilla": _ONE, "resnet": _BLOCK, "resnet-sum": _BLOCK, "two-weight": _TWO,
    "modresnet": _TWO | {"arch": "modresnet-sum"}, "modresnet-sum": _TWO,
}  # fmt: skip
# Li & Yuan (2017), section 5: |W*|_2 about 0.6, and the start whose gradient first points away.
_LI_YUAN = _SGD | {"d": 100, "lr": 1e-3, "teacher": "spectral", "init": "zero", "steps": 120_000, "record_every": 1000}
_PHASES = _SGD | {
    "d": 1500, "data": "online", "teacher": "zero", "init": "phases", "batch_size": 300, "steps": 300,
    "record_every": 10, "dtype": "float32",
}  # fmt: skip
LI_YUAN = {"li": _LI_YUAN, "vanilla": _LI_YUAN | {"init": "spectral"}}
# Ge, Lee & Ma (2017), section 6: an orthonormal teacher, fresh batches of a size that depends on the loss.
_DESIGN = {"d": 50, "data": "online", "teacher": "identity", "init": "normal"}
BY_LOSS = {  # further settings of the same, by loss
    "relu": {"batch_size": 256, "lr": 2e-3, "steps": 20_000},
    "even": {"batch_size": 8192, "lr": 2e-3, "steps": 30_000},
    "hermite24": {"batch_size": 8192, "lr": 2e-3, "steps": 30_000, "rows": "unit"},
    "ge-lee-ma": {"batch_size": 262_144, "lr": 2e-3, "steps": 2000},
}  # fmt: skip
PRESETS = {
    "default": DEFAULT,
    "notebook": NOTEBOOK,
    "li-yuan": LI_YUAN,
    "li-yuan-phases": {"li": _PHASES},
    "ge-lee-ma": {"vanilla": _DESIGN},
}


def resolve(arch: Architecture | str, preset: str = "default", **given: Any) -> Config:
    """The checked `Config` of a run: the values given, else those of the preset, else the defaults.

    Parameters
    ----------
    arch : Architecture or str
    preset : {"default", "notebook", "li-yuan", "li-yuan-phases", "ge-lee-ma"}
    **given
        Fields of `Config`.

    Raises
    ------
    ValueError, TypeError
        Naming the field, what it got and what it wants.

    Examples
    --------
    >>> from resgrad.runs.protocol import resolve
    >>> resolve("modresnet", "notebook").arch
    'modresnet-sum'
    >>> resolve("li", d=20).lr
    0.01
    """
    arch = architectures.resolve(arch)
    name = arch.name
    if checks.choice(preset, "preset", PRESETS) != "default" and name not in PRESETS[preset]:
        raise ValueError(f"preset {preset} is for {' and '.join(PRESETS[preset])}, but arch is {name}")
    config = {"arch": name, "preset": preset} | BASE | PRESETS[preset].get(name, NEW)
    config |= _of_loss(name, preset, **given) | given
    for field, known in (("data", DATA), ("optimizer", optimizers.OPTIMIZERS), ("dtype", DTYPES)):
        checks.choice(config[field], field, known)
    for field in {"population": ("batch_size", "samples"), "online": ("samples",)}.get(config["data"], ()):
        if field in given:
            raise ValueError(f"{field} is {checks.shown(given[field])}, but {config['data']} data has none")
    if (config["data"], config["dtype"]) == ("population", "float32"):
        raise ValueError("dtype is float32, but population data needs float64")
    for role in ("teacher", "init"):
        kind = config[role]
        if not (draws.known(kind) or isinstance(kind, str) and kind.endswith(".npz")):
            raise checks.suggest(kind, role, [*draws.DRAWS, "the path of a weights.npz"])
    if config.get("covariance") is not None and not inputs.known(config["covariance"]):
        wanted = "power:ALPHA or the path of a .npy file"
        raise ValueError(f"covariance is {checks.shown(config['covariance'])}, but must be {wanted}")
    config["noise"] = inputs.deviation(config.get("noise", 0.0))
    counts = ["d", "width", "batch_size", "samples", "steps"]
    for field in counts + ["record_every"] * (config.get("record_every") is not None):
        config[field] = checks.integer(config.get(field, config["d"]), field)  # the width is d unless given
    d, width = config["d"], config["width"]
    if arch.size(d, width) >= LARGEST:
        raise ValueError(f"width is {width}, but with d={d} must give fewer than 2^32 parameters")
    if preset == "default" and "lr" not in given:
        power = 1 if config["teacher"] != "uniform" else 2 if name.removesuffix("-free") == "modresnet" else 3
        config["lr"] = float(f"{config['lr'] * (10 / max(d, width)) ** power:.2g}")
    config["seed"] = checks.integer(config["seed"], "seed", 0, float("inf"))
    config["lr"] = checks.real(config["lr"], "lr", above=0)
    if config["optimizer"] == "sgd" and "momentum" not in given:
        config["momentum"] = 0.0
    config["momentum"] = checks.real(config["momentum"], "momentum", 0, 1)
    if config["optimizer"] == "sgd" and config["momentum"]:
        raise ValueError(f"momentum is {config['momentum']:g}, but sgd has none; use --optimizer nesterov")
    return Config(**config)


def _of_loss(name, preset, loss="relu", data=None, dtype="float64", rows="free", mu=None, lam=None,
             covariance=None, noise=0.0, **given):  # fmt: skip
    """The settings of a designed loss in a `Config`; checks that they fit."""
    checks.choice(loss, "loss", LOSSES), checks.choice(rows, "rows", ROWS)
    own = BY_LOSS[loss] if preset == "ge-lee-ma" else {}
    strength = {"mu": 0.1 if mu is None else mu, "lam": 1.0 if lam is None else lam}
    if loss == "ge-lee-ma":
        if name != "vanilla":
            raise ValueError(f"arch is {name}, but loss ge-lee-ma has the units of vanilla")
        own = own | {key: checks.real(value, key, above=0) for key, value in strength.items()}
    elif (mu, lam) != (None, None):
        raise ValueError(f"mu or lam is given, but only loss ge-lee-ma has them, not {loss}")
    if rows == "unit" and loss in ("relu", "ge-lee-ma"):
        raise ValueError(f"rows is unit, but loss {loss} leaves them free")
    if loss != "relu":
        if data == "dataset" or dtype != "float64":
            told = "data is dataset" if data == "dataset" else f"dtype is {dtype}"
            raise ValueError(f"{told}, but loss {loss} needs population or online data in float64")
        if covariance is not None or noise:
            told = f"noise is {checks.shown(noise)}" if noise else f"covariance is {checks.shown(covariance)}"
            raise ValueError(f"{told}, but loss {loss} is for inputs N(0, I) and exact labels")
        own = ({"data": "population"} if preset == "default" else {}) | own
    return own


def command_line(config: Config) -> str:
    """The shortest command that makes this run: it leaves out the defaults.

    >>> command_line(resolve("modresnet", d=5, seed=3))
    'python -m resgrad.experiment --arch modresnet --d 5 --seed 3'
    """
    given = {"arch": config.arch}
    for field, value in vars(config).items():
        if getattr(resolve(**given), field) != value:
            given[field] = value
    options = [f"--{field.replace('_', '-')} {shlex.quote(str(value))}" for field, value in given.items()]
    return " ".join(["python -m resgrad.experiment", *options])


def prepare(config: Config, saved: tuple = (None, None, None)) -> tuple:
    """(loss, theta0, teacher, exact) of a run; the last three are the same for every ``data``.

    ``exact`` is the expected loss, see `expected`.  ``saved`` is (theta_star, theta0, covariance) of a checkpoint,
    which replace those that were read from files.
    """
    streams = draws.streams(config.seed)
    theta_star = _parameters(config, "teacher", streams.teacher, saved[0])
    theta0, teacher = _parameters(config, "init", streams.init, saved[1]), Network(config.arch, theta_star, config.d)
    covariance = inputs.load(config.covariance, config.d) if saved[2] is None else saved[2]
    loss = loss_of(config, config.arch, teacher, streams.data, config.dtype, covariance)
    return loss, theta0, teacher, expected(config, config.arch, teacher, covariance, config.noise)


def loss_of(config, arch, teacher, rng, dtype="float64", covariance=None):
    """The loss that a run trains on: of a data set drawn from ``rng``, of fresh samples, or exact."""
    from .. import losses

    about = {"covariance": covariance, "noise": config.noise}
    if config.loss == "relu" and config.data == "dataset":
        return losses.EmpiricalLoss(arch, *draws.dataset(teacher, config.samples, rng, dtype, **about))
    if config.loss == "relu" and config.data == "online":
        return losses.OnlineLoss(arch, teacher, dtype, **about)
    return expected(config, arch, teacher, **about)


def expected(config, arch, teacher, covariance=None, noise=0.0):
    """The exact loss that a run descends, or samples."""
    from .. import designed, gelee_ma, losses

    if config.loss == "relu":
        return losses.PopulationLoss(arch, teacher, covariance, noise)
    if config.loss == "ge-lee-ma":
        return gelee_ma.OfStudent(gelee_ma.GeLeeMaLoss(teacher, config.mu, config.lam))
    return designed.KernelLoss(arch, teacher, config.loss, config.rows == "unit")


def _parameters(config, role, rng, saved):
    """The theta of the ``role`` "teacher" or "init": drawn, ``saved``, or read from a file."""
    kind, arch = getattr(config, role), architectures.resolve(config.arch)
    if draws.known(kind):
        return draws.draw(arch, kind, config.d, config.width, rng)
    if saved is not None:
        return saved
    arrays, header = files.read_archive(kind, "weights")
    theta = checks.array(arrays["theta"], role)
    found = header["arch"], header["d"], theta.size
    needed = arch.name, config.d, arch.size(config.d, config.width)
    if found != needed:
        told = "holds {} with d={} and {} parameters, but {} with d={} and {} is needed".format(*found, *needed)
        raise ValueError(f"{role} {kind} {told}")
    return theta


def simulate(
    config: Config, problem: tuple | None = None, *, progress: Callable | None = None, resume: tuple | None = None
) -> tuple[Trajectory, Network]:
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
    >>> from resgrad.runs.protocol import resolve, simulate
    >>> trajectory, teacher = simulate(resolve("li", d=4, samples=500, steps=2000))
    >>> bool(trajectory.observed["distance"][-1] < 1e-6)
    True
    """
    from .. import gelee_ma, training
    from ..minima import alignment, convexity

    loss, theta0, teacher, population = problem or prepare(config)
    theta_star, columns = teacher.theta, {"population_loss": population.value}
    if config.noise:
        columns["excess_loss"] = population.excess  # the population loss without the share of the labels' noise
    if config.loss == "relu":
        columns["distance"] = lambda theta: float(np.linalg.norm(theta - theta_star))
        columns["aligned_distance"] = lambda theta: alignment.distance(config.arch, theta, theta_star, config.d)
    if config.loss != "relu" or config.preset == "ge-lee-ma":
        units_star = teacher.canonical()[0].T
        for name, measure in (("recovery", gelee_ma.recovery_error), ("missed", gelee_ma.missed)):
            columns[name] = lambda theta, measure=measure: measure(
                loss.arch.canonical(theta, config.d)[0].T, units_star
            )
    if config.preset.startswith("li-yuan"):  # record the paper's quantities, too

        @functools.lru_cache(maxsize=1)  # three columns call it
        def found(theta):
            return convexity.one_point(population, np.frombuffer(theta), theta_star)

        def column(name, theta):
            return float(getattr(found(theta.astype(float).tobytes()), name.removesuffix("_product"))[0])

        columns |= {name: functools.partial(column, name) for name in ("inner_product", "delta", "potential")}
    optimizer = optimizers.Nesterov(config.lr, config.momentum)  # with momentum 0 it is SGD, bit for bit
    batch_size = None if config.data == "population" else config.batch_size
    trajectory = training.train(
        loss, theta0, optimizer, config.steps, batch_size, config.seed, config.record_every,
        observe=columns, progress=progress, resume=resume,
    )  # fmt: skip
    return trajectory, teacher


def table(trajectory: Trajectory) -> dict[str, np.ndarray]:
    """The columns of ``history.csv``, by name."""
    return {"step": trajectory.steps, "loss": trajectory.loss} | trajectory.observed


def rows(history: dict[str, np.ndarray]) -> list[str]:
    """The lines of ``history.csv``; every number reads back to the last bit."""
    return [",".join(history), *(",".join(map(repr, row)) for row in zip(*(c.tolist() for c in history.values())))]
