"""What the tests share: the variants to run over, generic points and data, a relative error."""

import numpy as np
import pytest

import resgrad as rg
from resgrad import experiment, training

ARCHS = list(rg.ARCHITECTURES)
RECORDS = rg.ARCHITECTURES | {  # and one of a user's own, whose linear part differs from the others' by a matrix
    "half": rg.Architecture("half", "W2' relu((W1 + I/2)' x) + x/2", "tests", identity=0.5, skip=0.5, readout="vector")
}
TRAINED_READOUT = [name for name, arch in rg.ARCHITECTURES.items() if arch.trains_readout]
every_arch = pytest.mark.parametrize("arch", ARCHS)  # a new architecture enrols itself
every_dtype = pytest.mark.parametrize("dtype", [np.float64, np.float32])


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
