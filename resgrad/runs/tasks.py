"""A census as a task: its checked configuration, and the work, any part of which any worker can do.

This module imports the numerical code, so the command line imports it only once there is work.
"""

import dataclasses
import hashlib
import shlex

import numpy as np

from .. import architectures, blas, checks, draws, inputs, optimizers
from ..minima import basins
from . import files, protocol
from .tally import FAILED, Config, without_digest

NETWORK = "network"  # the name of a teacher that was given as a `Network`
STEPS = 100_000, 10_000  # most first-order steps: without and with gradient flow after them


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """Some runs of a census, with all that a worker on any machine needs to know."""

    config: Config
    arch: architectures.Architecture
    teacher: architectures.Network | None  # None: drawn anew in each run
    numbers: tuple
    covariance: np.ndarray | str | None = None

    def teacher_of(self, streams):
        """The teacher of the run with these streams."""
        config = self.config
        if self.teacher is not None:
            return self.teacher
        theta_star = draws.draw(self.arch, config.teacher, config.d, config.teacher_width, streams.teacher)
        return architectures.Network(self.arch, theta_star, config.d)

    def loss(self, streams):
        """The expected loss of the run with these streams."""
        return protocol.expected(self.config, self.arch, self.teacher_of(streams), self.covariance)

    def start(self, streams):
        """Where the student of the run with these streams starts."""
        return draws.draw(self.arch, self.config.init, self.config.d, self.config.width, streams.init)


def prepare(arch, d, runs=1000, seed=0, *, width=None, teacher=None, teacher_width=None, init=None,
            data="population", optimizer=None, lr=None, momentum=None, batch_size=None, samples=None,
            steps=None, loss="relu", rows="free", mu=None, lam=None, covariance=None, noise=0.0):  # fmt: skip
    """The `Task` of a whole census, every argument checked; see `resgrad.census` for what they mean."""
    arch = architectures.resolve(arch)
    control = arch.readout == "fixed" and not (arch.identity or arch.bias)  # vanilla, vanilla-free and even
    if isinstance(optimizer, tuple(optimizers.OPTIMIZERS.values())):
        if (lr, momentum) != (None, None):
            raise ValueError(f"optimizer is {optimizer}, but lr or momentum is given, too")
        lr, momentum, optimizer = optimizer.lr, optimizer.momentum, type(optimizer).__name__.lower()
    elif optimizer is None:
        optimizer = "sgd" if control and not momentum else "nesterov"
    init = init or ("normal" if control else "fan-in")
    if not draws.known(init):  # nor is a file
        raise checks.suggest(init, "init", draws.DRAWS)
    steps = STEPS[data == "population" and loss == "relu"] if steps is None else steps
    given = {"width": width, "momentum": momentum, "batch_size": batch_size, "samples": samples, "mu": mu, "lam": lam}
    base = protocol.resolve(
        arch, d=d, data=data, steps=steps, seed=seed, optimizer=optimizer, lr=1.0 if lr is None else lr,
        init=init, loss=loss, rows=rows, noise=noise,
        **{name: value for name, value in given.items() if value is not None},
    )  # fmt: skip
    teacher = ("identity" if control else base.teacher) if teacher is None else teacher
    teacher, network, units = _teacher(teacher, teacher_width, base.d)
    fields = {field.name: getattr(base, field.name, None) for field in dataclasses.fields(Config)}
    matrix = inputs.load(covariance, base.d)
    fields |= {"teacher": teacher, "teacher_width": units, "runs": checks.integer(runs, "runs")}
    fields |= {"covariance": inputs.label(covariance, matrix)}
    without = {"lr": lr is None, "batch_size": data == "population", "samples": data != "dataset"}
    fields |= {name: None for name in without if without[name]}
    if loss != "relu" and matrix is not None:
        raise ValueError(f"covariance is {fields['covariance']}, but loss {loss} is for inputs N(0, I)")
    task, streams = Task(Config(**fields), arch, network, tuple(range(runs)), matrix), draws.streams(base.seed)
    task.loss(streams), task.start(streams)  # raises now what a run would raise
    return task


def _teacher(teacher, width, d):
    """(name, `Network` or None where every run draws its own, number of units) of a teacher."""
    units = d if width is None else checks.integer(width, "teacher_width")
    if draws.known(teacher):
        return teacher, None, units
    if isinstance(teacher, architectures.Network):
        name, network = NETWORK, teacher
    elif isinstance(teacher, str) and teacher.endswith(".npz"):
        arrays, header = files.read_archive(teacher, "weights")
        name, network = teacher, architectures.Network(header["arch"], arrays["theta"], header["d"])
    else:
        raise checks.suggest(teacher, "teacher", [*draws.DRAWS, "the path of a weights.npz"])
    if network.d != d:
        raise ValueError(f"d is {d}, but the teacher has d={network.d}")
    if width is not None and units != network.width:
        raise ValueError(f"teacher_width is {units}, but the teacher has {network.width} units")
    arch = network.arch
    content = arch.identity, arch.skip, arch.readout, d, network.theta.tobytes()
    more = arch.slopes, arch.trains_skip, arch.bias
    content += more * (more != ((1.0, 0.0), False, False))
    digest = hashlib.sha256(repr(content).encode()).hexdigest()[:16]
    return f"{name}, sha256 {digest}", network, network.width


def command_line(task):
    """A command that makes this census, or None if an object in it has no name on a command line.

    >>> command_line(prepare("vanilla", 6, runs=20, lr=0.05))
    'python -m resgrad.census --arch vanilla --d 6 --lr 0.05 --runs 20'
    """
    arch, config = task.arch, vars(task.config)
    named = {name: without_digest(config[name]) for name in ("teacher", "covariance")}
    known = architectures.ARCHITECTURES.get(arch.name) == arch
    if not known or named["teacher"] == NETWORK or named["covariance"] == inputs.MATRIX:
        return None
    usual = vars(prepare(arch.name, config["d"], data=config["data"], loss=config["loss"]).config)
    usual |= {"arch": None, "d": None, "data": "population", "loss": "relu"}
    given = {name: value for name, value in (config | named).items() if value not in (None, usual[name])}
    options = (f"--{name.replace('_', '-')} {shlex.quote(str(value))}" for name, value in given.items())
    return " ".join(["python -m resgrad.census", *options])


def check_proofs(task):
    """Refuse a task for which there are no proofs."""
    from ..minima import balls

    if task.covariance is not None:
        raise ValueError(f"covariance is {task.config.covariance}, but proofs are for inputs N(0, I)")
    teacher = task.loss(draws.streams(task.config.seed)).teacher
    for arch, width in ((task.arch, task.config.width), (teacher.arch, teacher.width)):
        balls.require(arch, task.config.d, width)


def proof(task, run, theta):
    """The entries of census.json about a proof for the spurious minimum at which this ``run`` ended."""
    from ..minima import proofs

    found = proofs.certify(task.loss(draws.streams(task.config.seed, run)), theta)
    proved = found.kind == "strict minimum" and found.loss[0] > 0
    why = found.why or f"it is a {found.kind}" * (not proved)
    intervals = {"loss_interval": found.loss, "min_eigenvalue_interval": found.min_eigenvalue}
    return {"proved": proved, "why": why} | {name: list(ends) if proved else None for name, ends in intervals.items()}


@blas.one_thread(helped=False)
def work(task):
    """[(run, Basin)] of a task.  A run that raises an error has failed, with its message; the others go on."""
    config, found = task.config, []
    for run in task.numbers:
        streams = draws.streams(config.seed, run)
        try:
            exact = task.loss(streams)
            loss = protocol.loss_of(config, task.arch, exact.teacher, streams.data, covariance=task.covariance)
            how = (config.steps, config.lr, config.momentum, config.batch_size, streams.batches)
            basin = basins.descend(exact, loss, task.start(streams), *how)
        except Exception as error:
            theta = np.full(task.arch.size(config.d, config.width), np.nan)
            basin = basins.Basin(FAILED, np.nan, np.nan, np.nan, basins.NONE, 0, theta, checks.reason(error))
        found.append((run, basin))
    return found
