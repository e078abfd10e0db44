"""Whatever comes in, what comes out is an answer or one documented, one-line error; inputs are only read.

Each case takes a valid call and spoils up to two of its arguments.
"""

import contextlib
import io
import shutil
import warnings

import numpy as np
import pytest
from conftest import exit_code
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import resgrad as rg
from resgrad import experiment
from resgrad.runs import protocol

D, ARCH, SCALAR = 3, "modresnet", "li"
DOCUMENTED = (ValueError, TypeError, RuntimeError)  # the last where a solver of `gradient_flow` gives up
QUIET = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck), "derandomize": True}
TEACHER = rg.Network(ARCH, rg.draw(ARCH, "normal", D, rng=0), D)
THETA = rg.draw(ARCH, "normal", D, rng=1)
X = np.random.default_rng(2).standard_normal((7, D))
LOSSES = {
    "empirical": rg.EmpiricalLoss(ARCH, X, TEACHER(X)),
    "online": rg.OnlineLoss(ARCH, TEACHER),
    "population": rg.PopulationLoss(ARCH, TEACHER),
}
RECORD = rg.ARCHITECTURES[ARCH]
W1, W2, *_ = RECORD.unflatten(THETA, D)
SGD = rg.SGD(1e-3)
ABOUT = {"covariance": np.diag([1.0, 2.0, 0.5]), "noise": 0.1}  # inputs and labels

CALLS = {  # name: (function, valid arguments)
    "Architecture": (
        rg.Architecture,
        {"name": "n", "formula": "f", "source": "s", "identity": 1, "skip": 0.5, "readout": "sum"},
    ),
    "size": (RECORD.size, {"d": D, "width": 2}),
    "shapes": (RECORD.shapes, {"d": D, "width": 2}),
    "flatten": (RECORD.flatten, {"W1": W1, "W2": W2}),
    "unflatten": (RECORD.unflatten, {"theta": THETA, "d": D}),
    "Network": (rg.Network, {"arch": ARCH, "theta": THETA, "d": D}),
    "__call__": (TEACHER, {"X": X}),
    "EmpiricalLoss": (rg.EmpiricalLoss, {"arch": ARCH, "X": X, "Y": TEACHER(X)}),
    "scalar EmpiricalLoss": (rg.EmpiricalLoss, {"arch": SCALAR, "X": X, "Y": X[:, 0]}),
    "OnlineLoss": (rg.OnlineLoss, {"arch": ARCH, "teacher": TEACHER, "dtype": "float32"} | ABOUT),
    "PopulationLoss": (rg.PopulationLoss, {"arch": ARCH, "teacher": TEACHER} | ABOUT),
    "batch": (LOSSES["online"].batch, {"batch_size": 5, "rng": 0}),
    "preactivations": (LOSSES["empirical"].preactivations, {"theta": THETA}),
    "SGD": (rg.SGD, {"lr": 0.1}),
    "Nesterov": (rg.Nesterov, {"lr": 0.1, "momentum": 0.9}),
    "draw": (rg.draw, {"arch": ARCH, "kind": "normal", "d": D, "width": 2, "rng": 0}),
    "dataset": (rg.dataset, {"teacher": TEACHER, "n_samples": 5, "rng": 0, "dtype": "float32"} | ABOUT),
    "streams": (rg.streams, {"seed": 0, "run": 1}),
    "align": (rg.align, {"arch": ARCH, "theta": THETA, "theta_star": TEACHER.theta, "d": D}),
    "gradient_flow": (
        rg.gradient_flow,
        {
            "loss": LOSSES["population"],
            "theta0": THETA,
            "t_max": 1e-3,
            "t_eval": [0.0, 1e-3],
            "rtol": 1e-3,
            "atol": 1e-3,
        },
    ),
    "spectrum": (rg.spectrum, {"loss": LOSSES["population"], "theta": THETA, "tolerance": 1e-9}),
    "one_point": (rg.one_point, {"loss": LOSSES["population"], "thetas": THETA[None]}),
    "resolve": (protocol.resolve, {"arch": ARCH, "preset": "notebook", "d": 4, "lr": 0.1, "steps": 7, "seed": 3}),
}
for kind, loss in LOSSES.items():
    CALLS |= {f"{kind} {name}": (getattr(loss, name), {"theta": THETA}) for name in ("value", "grad", "value_and_grad")}
    batch = None if kind == "population" else 5
    CALLS[f"{kind} train"] = (
        rg.train,
        {
            "loss": loss,
            "theta0": THETA,
            "optimizer": SGD,
            "n_steps": 3,
            "batch_size": batch,
            "seed": 0,
            "record_every": 2,
        },
    )
    CALLS[f"{kind} check_gradient"] = rg.check_gradient, {"loss": loss, "theta": THETA, "seed": 0}
for kind in ("online", "population"):
    CALLS[f"{kind} hessian"] = LOSSES[kind].hessian, {"theta": THETA}
OVERFLOWS = {"one_point"}  # distances of entries beyond 1e154 are not floats: NumPy warns

JUNK = st.sampled_from([  # no number that is valid, but takes hours or all of the memory
    None, True, "", "li", "x\ny", b"5", 0, -1, 1.5, float("nan"), float("inf"), 1e308, 5e-324, 1j, 10**30, -(10**30),
    [], {}, (), [[1, 2], [3]], ["a"], object(), len, int, np.float32(2), np.int8(-3), np.datetime64("2020-01-01"),
    np.array(3), np.array([]), np.array(None), np.ma.masked_array([1.0, 2.0], [True, False]), TEACHER, LOSSES["online"],
    SGD, RECORD, np.random.default_rng(0),
])  # fmt: skip
SPOIL = {
    "float32": lambda a: a.astype(np.float32),
    "float16": lambda a: a.astype(np.float16),
    "longdouble": lambda a: a.astype(np.longdouble),
    "int": lambda a: (10 * a).astype(np.int32),
    "bool": lambda a: a > 0,
    "complex": lambda a: a.astype(complex),
    "object": lambda a: a.astype(object),
    "object with None": lambda a: np.where(np.arange(a.size).reshape(a.shape) == 1, None, a),
    "text": lambda a: a.astype(str),
    "big-endian": lambda a: a.astype(">f8"),
    "strided": lambda a: np.repeat(a, 2, axis=0)[::2],
    "reversed": lambda a: np.ascontiguousarray(a[::-1])[::-1],
    "Fortran": np.asfortranarray,
    "unaligned": lambda a: np.frombuffer(b"\0" + a.tobytes(), np.uint8)[1:].view(a.dtype).reshape(a.shape),
    "list": lambda a: a.tolist(),
    "flat": np.ravel,
    "column": lambda a: a[:, None],
    "transposed": np.transpose,
    "short": lambda a: a[:-1],
    "empty": lambda a: a[:0],
    "scalar": lambda a: a.flat[0],
    "nan": lambda a: np.where(np.arange(a.size).reshape(a.shape) == 1, np.nan, a),
    "inf": lambda a: np.where(np.arange(a.size).reshape(a.shape) == 1, np.inf, a),
    "zero": np.zeros_like,
    "twins": np.ones_like,
    "huge": lambda a: a * 1e30,
    "overflowing": lambda a: a * 1e300,  # its square is no float
    "subnormal": lambda a: a * 1e-310,
}  # fmt: skip


def spoiled(value, beyond):
    """A strategy of what may stand in for a valid argument."""
    if isinstance(value, np.ndarray):
        return (
            st.sampled_from([SPOIL[name] for name in SPOIL if name != "overflowing" or beyond]).map(
                lambda spoil: spoil(value.copy())
            )
            | JUNK
        )
    return JUNK


@st.composite
def calls(draw):
    """(function, arguments), up to two of them spoiled."""
    name = draw(st.sampled_from(list(CALLS)))
    function, arguments = CALLS[name][0], dict(CALLS[name][1])
    for key in draw(st.lists(st.sampled_from(list(arguments)), max_size=2, unique=True)):
        arguments[key] = draw(spoiled(arguments[key], name not in OVERFLOWS))
    return function, arguments


@pytest.mark.parametrize(
    "masked", [np.ma.masked_array([[1.0, 2.0]], [[True, False]]), np.ma.masked, [np.ma.masked_array([1.0, 2.0], True)]]
)
def test_a_masked_array_is_refused_by_name(masked):
    """Its mask would be lost, and with it what is hidden would be used."""
    with pytest.raises(TypeError, match="X is a masked array, but must be"):
        rg.EmpiricalLoss("li", masked, [1.0])
    with pytest.raises(TypeError, match="theta is a masked array, but must be"):
        rg.Network("li", masked, 1)
    for entry in rg.ARCHITECTURES["li"].unflatten, rg.ARCHITECTURES["li"].canonical:
        with pytest.raises(TypeError, match="theta is a masked array, but must be"):
            entry(masked, 1)
    for name in "permutation", "reverse", "scales", "unseen":
        with pytest.raises(TypeError, match=f"{name} is a masked array, but must be"):
            rg.transform("two-weight-free", np.ones(3), 1, **{name: masked})
    with pytest.raises(TypeError, match="lr is masked"):
        rg.SGD(np.ma.masked)


def frozen(arguments):
    """Makes the arrays read-only; returns a copy of their bytes."""
    arrays = [value for value in arguments.values() if isinstance(value, np.ndarray)]
    for array in arrays:
        array.flags.writeable = False
    return [(array, array.tobytes() if array.dtype != object else list(array.flat)) for array in arrays]


def check_call(function, arguments):
    before = frozen(arguments)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            function(**arguments)
    except DOCUMENTED as error:
        assert not isinstance(error, (Warning, RuntimeError)) or function is rg.gradient_flow
        assert str(error) and "\n" not in str(error)
    for array, content in before:
        now = array.tobytes() if array.dtype != object else list(array.flat)
        assert now == content or array.dtype == object


@settings(max_examples=150, **QUIET)
@given(calls())
def test_the_api_answers_or_refuses(call):
    check_call(*call)


@pytest.mark.slow
@settings(max_examples=6000, **QUIET)
@given(calls())
def test_the_api_answers_or_refuses_many_times(call):
    check_call(*call)


# ---------------------------------------------------------------------------------- the command line

NUMBERS = ["0", "-1", "1", "2.5", "nan", "inf", "-inf", "1e308", "5e-324", "1e-3", "", "x", "٣", "9" * 30, "--", "\0"]
WORDS = [
    "",
    "li",
    "L",
    "sgd",
    "uniform",
    "zero",
    "identity",
    "phases",
    "population",
    "online",
    "float32",
    "notebook",
    "li-yuan",
    "a\nb",
    "\udcff",
    "none.npz",
    "..",
    "/",
    "/dev/null",
    "-",
    "--",
]
OPTIONS = {  # option: what it may get besides junk
    "--arch": list(rg.ARCHITECTURES), "--preset": ["default"], "--d": ["4"], "--width": ["4"],
    "--data": list(protocol.DATA), "--optimizer": ["sgd", "nesterov"], "--lr": ["0.01", "100"],
    "--momentum": ["0", "0.5"], "--batch-size": ["7"], "--samples": ["20"], "--steps": ["9"],
    "--teacher": ["uniform"], "--init": ["small"], "--dtype": list(protocol.DTYPES), "--seed": ["1"],
    "--record-every": ["3"], "--resume": None, "--overwrite": None, "--verify": None, "--quiet": None, "--help": None,
    "--nonsense": None, "stray": None,
}  # fmt: skip
BASE = {"--arch": "li", "--d": "4", "--samples": "20", "--steps": "9", "--batch-size": "7"}
ENDLESS = {"--steps", "--d", "--width", "--samples", "--batch-size"}  # where a number may be valid, but take hours


@st.composite
def lines(draw):
    """A command line: a valid one with up to four options added, replaced or dropped."""
    options = dict(BASE)
    for name in draw(st.lists(st.sampled_from(list(OPTIONS)), max_size=4, unique=True)):
        good = OPTIONS[name]
        junk = [word for word in NUMBERS + WORDS if name not in ENDLESS or word not in ("1", "٣")]
        options[name] = None if good is None else draw(st.sampled_from(good) | st.sampled_from(junk))
        if draw(st.integers(0, 5)) == 0:
            del options[name]
    return [part for option in options.items() for part in option if part is not None]


def check_line(out, line, fresh):
    if fresh:
        shutil.rmtree(out, ignore_errors=True)
    told, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(error), warnings.catch_warnings():
        warnings.simplefilter("error")
        code = exit_code(experiment.main, ["--out", str(out), "--no-plot", *line])
    error = [text for text in error.getvalue().splitlines() if not text.startswith(("compiling", "nothing is saved"))]
    assert code in (0, 1, 2, 3)
    assert len(error) == (1 if code > 1 else 0) or "--verify" in line
    assert code < 2 or error[0].startswith("error: ")
    assert "Traceback" not in told.getvalue()


@settings(max_examples=25, **QUIET)
@given(line=lines(), fresh=st.booleans())
@example(line=[], fresh=True)
def test_the_command_line_answers_or_refuses(line, fresh, tmp_path_factory):
    check_line(tmp_path_factory.getbasetemp() / "fuzzed", line, fresh)


@pytest.mark.slow
@settings(max_examples=1000, **QUIET)
@given(line=lines(), fresh=st.booleans())
def test_the_command_line_answers_or_refuses_many_times(line, fresh, tmp_path_factory):
    check_line(tmp_path_factory.getbasetemp() / "fuzzed", line, fresh)
