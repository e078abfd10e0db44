"""The records, and the networks they stand for."""

import copy
import dataclasses
import math
import pickle

import naive
import numpy as np
import pytest
from conftest import ARCHS, RECORDS, every_arch, every_dtype, every_record, point, relative_error, samples

import resgrad as rg
from resgrad import architectures

TWIN = {np.float64: 1e-13, np.float32: 2e-6}  # sums of some ten terms of order 1: ten roundings or so
SIZES = [(1, 1), (1, 3), (3, 1), (3, 2), (3, 3), (3, 5)]  # (d, k)

TABLE = """
    li               1   0   fixed    1    0    False
    resnet           0   1   vector   1    0    False
    two-weight       1   0   sum      1    0    False
    modresnet        1   1   vector   1    0    False
    vanilla          0   0   fixed    1    0    False
    resnet-sum       0   1   sum      1    0    False
    modresnet-sum    1   1   sum      1    0    False
    vanilla-free     0   0   fixed    1    0    True
    li-free          1   0   fixed    1    0    True
    two-weight-free  1   0   sum      1    0    True
    resnet-free      0   1   vector   1    0    True
    modresnet-free   1   1   vector   1    0    True
    even             0   0   fixed    0.5  -0.5 False
    li-bias          1   0   fixed    1    0    False
"""


def test_the_architectures_are_these_numbers():
    rows = [line.split() for line in TABLE.split("\n") if line.strip()]
    wanted = [(row[0], *map(float, row[1:3]), row[3], tuple(map(float, row[4:6])), row[6] == "True") for row in rows]
    got = [
        (arch.name, arch.identity, arch.skip, arch.readout, arch.slopes, arch.trains_skip)
        for arch in rg.ARCHITECTURES.values()
    ]
    assert got == wanted and [arch.name for arch in rg.ARCHITECTURES.values() if arch.bias] == ["li-bias"]
    assert all(name == arch.name for name, arch in rg.ARCHITECTURES.items())


def test_every_architecture_has_a_twin():
    assert set(naive.TWINS) == set(RECORDS) > set(rg.ARCHITECTURES)


@pytest.mark.parametrize(
    "field, value, error, message",
    [
        ("readout", "vectr", ValueError, "readout is 'vectr', .*did you mean 'vector'"),
        ("identity", np.nan, ValueError, "identity is nan, but must lie"),
        ("identity", "1", TypeError, "identity is '1', but must be a real number"),
        ("skip", np.inf, ValueError, "skip is inf, but must lie"),
        ("skip", -np.inf, ValueError, "skip is -inf, but must lie"),
        ("skip", True, TypeError, "skip is True, but must be a real number"),
        ("name", "", TypeError, "name is '', but must be a non-empty string"),
        ("formula", None, TypeError, "formula is None, but must be a non-empty string"),
        ("slopes", (1, 0, 0), TypeError, r"slopes is \(1, 0, 0\), but must be two real numbers"),
        ("slopes", 1.0, TypeError, "slopes is 1.0, but must be two real numbers"),
        ("slopes", (1, "0"), TypeError, "but must be two real numbers"),
        ("slopes", (1, np.nan), TypeError, "but must be two real numbers"),
        ("slopes", (0.5, 0.5), ValueError, r"slopes is \(0.5, 0.5\), but must be two different numbers"),
        ("trains_skip", 1, TypeError, "trains_skip is 1, but must be True or False"),
        ("bias", None, TypeError, "bias is None, but must be True or False"),
    ],
)
def test_a_record_checks_itself(field, value, error, message):
    with pytest.raises(error, match=message):
        dataclasses.replace(rg.ARCHITECTURES["li"], **{field: value})


def test_a_record_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        rg.ARCHITECTURES["li"].identity = 0.0


def test_slopes_are_floats_whatever_pair_they_come_as():
    arch = dataclasses.replace(rg.ARCHITECTURES["li"], slopes=[np.float32(1), 0])
    assert arch == rg.ARCHITECTURES["li"] and type(arch.slopes) is tuple and set(map(type, arch.slopes)) == {float}


@every_record
@pytest.mark.parametrize("d, k", SIZES)
def test_size_counts_the_parameters(arch, d, k):
    arch = RECORDS[arch]
    m = d if arch.readout == "vector" else 1
    trained = {"W1": True, "W2": arch.readout != "fixed", "C": arch.trains_skip, "b": arch.bias}
    wanted = {"W1": (d, k), "W2": (k, d), "C": (d, m), "b": (k,)}
    assert arch.shapes(d, k) == {name: shape for name, shape in wanted.items() if trained[name]}
    assert arch.size(d, k) == d * k * (1 + trained["W2"]) + d * m * trained["C"] + k * trained["b"]
    assert arch.size(d) == arch.size(d, d) and arch.width(arch.size(d, k), d) == k


@every_record
@every_dtype
@pytest.mark.parametrize("d, k", SIZES)
def test_flatten_undoes_unflatten(arch, dtype, d, k):
    theta = point(arch, d, k, dtype=dtype)
    blocks = RECORDS[arch].unflatten(theta, d)
    again = RECORDS[arch].flatten(*blocks)
    assert again.dtype == dtype and again.tobytes() == theta.tobytes()
    assert again.tobytes() == RECORDS[arch].flatten(**blocks._asdict()).tobytes()
    assert not np.shares_memory(again, theta)


@every_record
def test_unflatten_gives_views_in_row_major_order(arch):
    """W1, W2, C, b, one after the other, and None for what is not there."""
    record = RECORDS[arch]
    theta = np.arange(float(record.size(3, 2)))
    blocks, start = record.unflatten(theta, 3), 0
    assert blocks._fields == ("W1", "W2", "C", "b")
    for name, block in blocks._asdict().items():
        shape = record.shapes(3, 2).get(name)
        assert (block is None) == (shape is None)
        if shape:
            stop = start + math.prod(shape)
            assert np.array_equal(block, theta[start:stop].reshape(shape)) and np.shares_memory(block, theta)
            start = stop
    assert start == theta.size


@every_record
def test_canonical_is_what_the_formulas_say(arch):
    """(U, A, C), copies, where C is skip I or skip 1 until it is trained."""
    record, theta = RECORDS[arch], point(arch, 3, 2)
    W1, W2, C, b = record.unflatten(theta, 3)
    U, A, linear = record.canonical(theta, 3)
    assert np.array_equal(U[:3], W1 + record.identity * np.eye(3, 2))
    assert np.array_equal(U[3:], [b] if record.bias else np.empty((0, 2)))
    wanted = {"fixed": lambda: np.ones((2, 1)), "sum": lambda: W2 @ np.ones((3, 1)), "vector": lambda: W2}
    assert relative_error(A, wanted[record.readout]()) < TWIN[np.float64]
    start = record.skip * (np.eye(3) if record.readout == "vector" else np.ones((3, 1)))
    assert np.array_equal(linear, C if record.trains_skip else start) and np.array_equal(record.skip_map(3), start)
    assert not any(np.shares_memory(part, theta) for part in (U, A, linear))


@every_record
@every_dtype
def test_what_the_loops_move_is_theta(arch, dtype):
    """`parameters` undoes `coordinates`, also when these have moved; what they do not hold stays."""
    record, theta0 = RECORDS[arch], point(arch, 3, 2, dtype=dtype)
    w = record.coordinates(theta0, 3)
    assert w.dtype == dtype and record.parameters(w, theta0, 3).tobytes() == theta0.tobytes()
    parts = record.split(w, 3)
    assert [part.shape for part in parts] == [
        (3 + record.bias, 2),
        (2, record.outputs(3)),
        (3 * record.trains_skip, record.outputs(3)),
    ]
    assert all(np.shares_memory(part, w) for part in parts if part.size)
    moved = w + dtype(0.5) * point("resnet", w.size, 1, seed=1, dtype=dtype)[: w.size]
    if not record.trains_readout:
        record.split(moved, 3)[1][:] = 1
    theta = record.parameters(moved, theta0, 3)
    assert theta.dtype == dtype and relative_error(record.coordinates(theta, 3), moved) < TWIN[dtype]
    if record.readout == "sum":
        unseen = [W2 - W2.mean(axis=1, keepdims=True) for W2 in (record.unflatten(x, 3).W2 for x in (theta, theta0))]
        assert np.max(np.abs(unseen[0] - unseen[1])) < TWIN[dtype]


@every_record
def test_the_gradient_pulls_back_by_the_transposed_jacobian(arch):
    """<pull_back(P, R, S), theta> = <P, dU> + <R, dA> + <S, dC> for the linear part of theta -> (U, A, C)."""
    record, theta, rng = RECORDS[arch], point(arch, 3, 2), np.random.default_rng(1)
    moves = [part - origin for part, origin in zip(record.canonical(theta, 3), record.canonical(0 * theta, 3))]
    slopes = [rng.standard_normal(move.shape) for move in moves]
    wanted = sum(np.sum(slope * move) for slope, move in zip(slopes, moves))
    assert np.isclose(record.pull_back(*slopes) @ theta, wanted, rtol=1e-14)
    assert record.trains_skip == bool(moves[2].any())


@every_record
@every_dtype
@pytest.mark.parametrize("d, k", SIZES)
def test_a_network_equals_its_twin(arch, dtype, d, k):
    theta, (X, Y) = point(arch, d, k, dtype=dtype), samples(arch, 7, d, dtype=dtype)
    F = rg.Network(RECORDS[arch], theta, d)(X)
    assert F.dtype == dtype and F.shape == Y.shape
    assert relative_error(F, naive.predict(arch, theta, X)) < TWIN[dtype]


@every_record
def test_a_network_is_the_sum_over_its_canonical_units(arch):
    net = rg.Network(RECORDS[arch], point(arch, 3, 5), 3)
    (U, A, C), X, (p, n) = net.canonical(), samples(arch, 7, 3)[0], RECORDS[arch].slopes
    z = X @ U[:3] + U[3:].sum(axis=0)  # the biases
    F = (p * np.maximum(z, 0) - n * np.maximum(-z, 0)) @ A + X @ C
    assert relative_error(net(X), F.reshape(net(X).shape)) < TWIN[np.float64]


@every_arch
def test_a_network_is_read_only_and_its_own(arch):
    theta = point(arch, 3)
    before = theta.copy()
    net = rg.Network(arch, theta, 3)
    theta[:] = 0
    assert np.array_equal(net.theta, before) and net.width == 3
    given = {"W1": net.W1, "W2": net.W2, "C": net.C, "b": net.b}
    assert [name for name, block in given.items() if block is not None] == list(rg.ARCHITECTURES[arch].shapes(3))
    with pytest.raises(dataclasses.FrozenInstanceError):
        net.theta = before
    for array in (net.theta, *given.values()):
        if array is not None:
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 1.0


def test_records_and_names_are_interchangeable():
    record = rg.ARCHITECTURES["resnet"]
    assert architectures.resolve("resnet") is record is architectures.resolve(record)
    assert rg.Network(record, np.zeros(8), 2).arch is rg.Network("resnet", np.zeros(8), 2).arch


def one_line(message):
    return "\n" not in message and len(message) < 200


@pytest.mark.parametrize(
    "name, near", [("modresnt", "modresnet"), ("LI", "li"), ("two_weight", "two-weight"), ("Vanila", "vanilla")]
)
def test_an_unknown_architecture_suggests_the_nearest(name, near):
    with pytest.raises(ValueError) as error:
        rg.Network(name, np.zeros(8), 2)
    message = str(error.value)
    assert f"arch is {name!r}" in message and f"did you mean {near!r}?" in message
    assert one_line(message.replace(", ".join(ARCHS), "..."))
    assert all(known in message for known in ARCHS)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (
            lambda: rg.Network("resnet", np.zeros(99), 10),
            ValueError,
            "theta has shape (99,), but resnet with d=10 needs (200,)",
        ),
        (
            lambda: rg.Network("li", np.zeros((2, 2)), 2),
            ValueError,
            "theta has shape (2, 2), but li with d=2 needs (4,)",
        ),
        (lambda: rg.Network("li", [], 2), ValueError, "theta has shape (0,), but li with d=2 needs (4,)"),
        (lambda: rg.Network("li", [0, 1, np.nan, 3], 2), ValueError, "theta holds nan at index (2,)"),
        (lambda: rg.Network("li", [0, -np.inf, 2, 3], 2), ValueError, "theta holds -inf at index (1,)"),
        (lambda: rg.Network("li", ["a"] * 4, 2), TypeError, "theta is ['a', 'a', 'a', 'a'], but must be an array"),
        (lambda: rg.Network("li", np.zeros(4, complex), 2), TypeError, "but must be an array of real numbers"),
        (lambda: rg.Network("li", np.zeros(4), 0), ValueError, "d is 0, but must be at least 1"),
        (lambda: rg.Network("li", np.zeros(4), 2.0), TypeError, "d is 2.0, but must be an integer"),
        (lambda: rg.Network("li", np.zeros(4), True), TypeError, "d is True, but must be an integer"),
        (lambda: rg.Network(3, np.zeros(4), 2), ValueError, "arch is 3, but must be one of li, "),
        (
            lambda: rg.Network("li", np.zeros(4), 2)(np.zeros(2)),
            ValueError,
            "X has shape (2,), but must have shape (B, 2)",
        ),
        (lambda: rg.Network("li", np.zeros(4), 2)(np.full((3, 2), np.inf)), ValueError, "X holds inf at index (0, 0)"),
        (
            lambda: rg.ARCHITECTURES["resnet"].flatten(np.zeros((2, 3))),
            ValueError,
            "W2 is missing, but resnet needs one of shape (3, 2)",
        ),
        (
            lambda: rg.ARCHITECTURES["resnet"].flatten(np.zeros((2, 3)), np.zeros((2, 3))),
            ValueError,
            "W2 has shape (2, 3), but must have shape (3, 2)",
        ),
        (
            lambda: rg.ARCHITECTURES["li"].flatten(np.zeros((2, 2)), np.zeros((2, 2))),
            ValueError,
            "W2 is given, but li has a fixed read-out and no W2",
        ),
        (lambda: rg.ARCHITECTURES["li"].size(3, -1), ValueError, "width is -1, but must be at least 1"),
        (
            lambda: rg.ARCHITECTURES["li-free"].flatten(np.zeros((2, 3))),
            ValueError,
            "C is missing, but li-free needs one of shape (2, 1)",
        ),
        (
            lambda: rg.ARCHITECTURES["resnet-free"].flatten(np.zeros((2, 3)), np.zeros((3, 2)), np.zeros((2, 1))),
            ValueError,
            "C has shape (2, 1), but must have shape (2, 2)",
        ),
        (
            lambda: rg.ARCHITECTURES["li"].flatten(np.zeros((2, 2)), C=np.zeros((2, 1))),
            ValueError,
            "C is given, but li has a fixed skip and no C",
        ),
        (
            lambda: rg.ARCHITECTURES["li-free"].flatten(np.zeros((2, 2)), C=np.zeros((2, 1)), b=np.zeros(2)),
            ValueError,
            "b is given, but li-free has no biases and no b",
        ),
        (
            lambda: rg.Network("resnet-free", np.zeros(4), 2),  # C alone, and no unit
            ValueError,
            "theta has shape (4,), but resnet-free with d=2 needs (12,), or 4 more or less for each unit",
        ),
        (
            lambda: rg.Network("li-free", np.zeros(10), 3),
            ValueError,
            "theta has shape (10,), but li-free with d=3 needs (12,), or 3 more or less for each unit",
        ),
    ],
)
def test_an_error_says_in_one_line_what_it_got_and_wants(make, error, message):
    with pytest.raises(error) as caught:
        make()
    assert message in str(caught.value) and one_line(str(caught.value))


# --------------------------------------------------------------------------- pickles and copies

COPIES = {"pickle": lambda x: pickle.loads(pickle.dumps(x)), "copy": copy.copy, "deepcopy": copy.deepcopy}
every_copy = pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)


def records():
    """One of each frozen record that holds arrays."""
    theta, star = point("two-weight", 3), point("two-weight", 3, seed=1)
    loss = rg.PopulationLoss("two-weight", rg.Network("two-weight", star, 3))
    return [
        rg.train(loss, theta, rg.SGD(1e-2), 3, observe={"theta": np.copy}),
        rg.align("two-weight", theta, star, 3),
        rg.polish(loss, theta),
        rg.spectrum(loss, star),
        rg.check_gradient(loss, theta),
        rg.census("vanilla", d=3, runs=2),
    ]


def same(one, other):
    """Whether two records hold the same, arrays to the last bit and read-only where they were."""
    if isinstance(one, np.ndarray):
        return one.tobytes() == other.tobytes() and (one.dtype, one.flags.writeable) == (
            other.dtype,
            other.flags.writeable,
        )
    if isinstance(one, (tuple, list)):
        return type(one) is type(other) and all(map(same, one, other)) and len(one) == len(other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if dataclasses.is_dataclass(one):
        fields = dataclasses.fields(one)
        return type(one) is type(other) and all(same(getattr(one, f.name), getattr(other, f.name)) for f in fields)
    return one == other or one != one


@every_copy
@every_arch
def test_a_copied_network_is_read_only_and_one_piece(make, arch):
    network = rg.Network(arch, point(arch, 3), 3)
    made = make(network)
    assert type(made) is rg.Network and same([made.theta, made.d, made.width], [network.theta, 3, 3])
    assert same(list(made.arch.unflatten(made.theta, 3)), [made.W1, made.W2, made.C, made.b])
    for array in (made.theta, made.W1, made.W2, made.C):
        assert array is None or (not array.flags.writeable and np.shares_memory(array, made.theta))
    with pytest.raises(ValueError, match="read-only"):
        made.theta[:] = 0
    exact, theta = rg.PopulationLoss(arch, network), point(arch, 3, seed=1)
    for loss in (make(exact), rg.PopulationLoss(arch, made)):
        assert same(loss.value_and_grad(theta), exact.value_and_grad(theta))


@every_copy
def test_every_record_survives_being_copied(make):
    for record in records():
        assert same(make(record), record)
