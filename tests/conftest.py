"""What the tests share: the variants to run over, generic points and data, a relative error, processes."""

import contextlib
import gc
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

import resgrad as rg
from resgrad import experiment, kernels, training

gc.set_threshold(100_000)  # Numba makes many objects: to look through them each 700 takes a tenth of the time

ARCHS = list(rg.ARCHITECTURES)
RECORDS = rg.ARCHITECTURES | {  # and three of a user's own: a linear part that differs by a matrix, other slopes, all
    "half": rg.Architecture("half", "W2' relu((W1 + I/2)' x) + x/2", "tests", identity=0.5, skip=0.5, readout="vector"),
    "leaky": rg.Architecture("leaky", "sum(W2' s(W1' x)) + c' x", "tests", 0, 0.5, "sum", (1, 0.25), trains_skip=True),
    "all": rg.Architecture("all", "W2' s((W1 + I/2)' x + b) + C' x", "tests", 0.5, 1, "vector", (1, 0.25), True, True),
}
# What is slow because each shape compiles a loop of its own runs over these.  The code of a loop depends on the number
# of outputs (1 or d), and has branches for a trained skip and for slopes that are not relu's, which stand side by side:
# "modresnet-free" and "leaky" take each of them, the others none.  "li" keeps its A.  What else the numbers of a record
# say is done to theta before and after, by `coordinates` and `parameters`; tests of these run over all records.
LOOPS = ["li", "two-weight", "modresnet", "modresnet-free", "leaky"]
TRAINED_READOUT = [name for name, arch in rg.ARCHITECTURES.items() if arch.trains_readout]
SUM = [name for name, arch in rg.ARCHITECTURES.items() if arch.readout == "sum"]
CENTERED = [name for name, arch in rg.ARCHITECTURES.items() if not arch.bias]  # whose formulas are (7)-(20)
compiled = pytest.mark.skipif(kernels.PLAIN, reason="NUMBA_DISABLE_JIT is set")


def slow(*values):
    """Values of a parameter, or tuples of several, for the slow tests: they repeat what others show, or take long."""
    return [pytest.param(*(v if isinstance(v, tuple) else (v,)), marks=pytest.mark.slow) for v in values]


def every(names, again=("modresnet-sum", "li-free")):
    """A test of all these records: a new one enrols itself.  Slow are two, each pair of whose numbers others have."""
    return pytest.mark.parametrize("arch", [name if name not in again else slow(name)[0] for name in names])


every_arch, every_centered, every_record = every(ARCHS), every(CENTERED), every(RECORDS)
every_sum = every(SUM, again=["two-weight-free"])  # which compiles loops of its own
every_loop = pytest.mark.parametrize("arch", LOOPS)
every_dtype = pytest.mark.parametrize("dtype", [np.float64, np.float32])
float32_slow = pytest.mark.parametrize("dtype", [np.float64, *slow(np.float32)])


def point(arch, d, width=None, seed=0, dtype=np.float64):
    """A generic theta: normal entries of standard deviation 1 / sqrt(d)."""
    size = RECORDS[arch].size(d, width)
    return (np.random.default_rng([seed, d, size]).standard_normal(size) / np.sqrt(d)).astype(dtype)


def samples(arch, count, d, seed=0, dtype=np.float64):
    """(X, Y): Gaussian inputs, and targets that no network of this size fits."""
    rng = np.random.default_rng([seed, count, d])
    shape = (count, d) if RECORDS[arch].readout == "vector" else (count,)
    return rng.standard_normal((count, d)).astype(dtype), rng.standard_normal(shape).astype(dtype)


def relative_error(got, wanted):
    """The largest error of an array, relative to its largest entry; 0 where the two are equal."""
    error = np.max(np.abs(got - wanted))
    return error and error / np.max(np.abs(wanted))


def same_outputs(student, teacher):
    """Whether a student of one architecture can learn from a teacher of the other."""
    readouts = {RECORDS[student].readout, RECORDS[teacher].readout}
    return readouts == {"vector"} or "vector" not in readouts


def run(out, *arguments):
    """The exit code of a run in this process, which says and draws nothing."""
    return experiment.main(["--out", str(out), "--quiet", "--no-plot", *map(str, arguments)])


def left(out):
    """What a run left behind that is the same for the same run: the bytes of its numbers."""
    return [(out / name).read_bytes() for name in ("weights.npz", "history.csv")]


def exit_code(main, line):
    """What a command line returns or exits with."""
    try:
        return main(line)
    except SystemExit as stop:
        return stop.code


LAUNCH = """
import os, signal, sys
signal.signal(signal.SIGINT, getattr(signal, sys.argv[1]))
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
os.execvp(sys.argv[2], sys.argv[2:])
"""


@contextlib.contextmanager
def child(*line, sigint="SIG_DFL", **options):
    """A process of its own for a command line.  Every test that needs a process takes it from here.

    It hears Ctrl-C, or not, as ``sigint`` says, even where those who run the tests ignore it (nohup, ``&``, cron).
    When the block ends, however it ends, the process and all that it has started are killed; on Linux it also dies
    with the tests.
    """
    line = list(map(str, line))
    if os.name == "posix":
        line = [sys.executable, "-c", LAUNCH, sigint, *line]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(line, text=True, start_new_session=True, **pipes | options)
    with process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL) if os.name == "posix" else process.kill()


def finish(process, timeout=120):
    """(exit code, stdout, stderr) of a process, when it has ended."""
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def command(*line, timeout=120, **options):
    """(exit code, stdout, stderr) of a command line."""
    with child(*line, **options) as process:
        return finish(process, timeout)


def output(*line, **options):
    """(stdout, stderr) of a command line that must succeed."""
    code, *told = command(*line, **options)
    assert code == 0, told
    return told


@pytest.fixture
def start():
    """`child`, until the test ends."""
    with contextlib.ExitStack() as stack:
        yield lambda *line, **options: stack.enter_context(child(*line, **options))


@pytest.fixture
def refusal(capsys):
    """A function that gives a command line bad input: the one line it says, with exit code 2."""

    def refuse(main, line):
        code, printed = exit_code(main, line), capsys.readouterr()
        assert (code, printed.out) == (2, "")
        assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
        return printed.err

    return refuse


@pytest.fixture
def stepwise(monkeypatch):
    """Makes `train` look up, and call ``progress``, after every single step."""
    monkeypatch.setattr(training, "PATIENCE", 0.0)
