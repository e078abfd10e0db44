"""The records, and the networks they stand for."""

import copy
import dataclasses
import pickle

import naive
import numpy as np
import pytest
from conftest import ARCHS, RECORDS, every_arch, every_dtype, point, relative_error, samples

import resgrad as rg
from resgrad import architectures

TWIN = {np.float64: 1e-13, np.float32: 2e-6}  # sums of some ten terms of order 1: ten roundings or so
SIZES = [(1, 1), (1, 3), (3, 1), (3, 2), (3, 3), (3, 5)]  # (d, k)

TABLE = """
    li               1   0   fixed
    resnet           0   1   vector
    two-weight       1   0   sum
    modresnet        1   1   vector
    vanilla          0   0   fixed
    resnet-sum       0   1   sum
    modresnet-sum    1   1   sum
"""


def test_the_seven_architectures_are_these_numbers():
    rows = [line.split() for line in TABLE.split("\n") if line.strip()]
    wanted = {name: (float(identity), float(skip), readout) for name, identity, skip, readout in rows}
    got = {arch.name: (arch.identity, arch.skip, arch.readout) for arch in rg.ARCHITECTURES.values()}
    assert got == wanted
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
        ("skip", True, TypeError, "skip is True, but must be a real number"),
        ("name", "", TypeError, "name is '', but must be a non-empty string"),
        ("formula", None, TypeError, "formula is None, but must be a non-empty string"),
    ],
)
def test_a_record_checks_itself(field, value, error, message):
    with pytest.raises(error, match=message):
        dataclasses.replace(rg.ARCHITECTURES["li"], **{field: value})


def test_a_record_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        rg.ARCHITECTURES["li"].identity = 0.0


@every_arch
@pytest.mark.parametrize("d, k", SIZES)
def test_size_counts_the_parameters(arch, d, k):
    arch = rg.ARCHITECTURES[arch]
    shapes = arch.shapes(d, k)
    assert shapes["W1"] == (d, k) and shapes.get("W2", (k, d)) == (k, d)
    assert arch.size(d, k) == (d * k if arch.readout == "fixed" else 2 * d * k)
    assert arch.size(d) == arch.size(d, d)


@every_arch
@every_dtype
@pytest.mark.parametrize("d, k", SIZES)
def test_flatten_undoes_unflatten(arch, dtype, d, k):
    theta = point(arch, d, k, dtype=dtype)
    again = rg.ARCHITECTURES[arch].flatten(*rg.ARCHITECTURES[arch].unflatten(theta, d))
    assert again.dtype == dtype and again.tobytes() == theta.tobytes()
    assert not np.shares_memory(again, theta)


@every_arch
def test_unflatten_gives_views_in_row_major_order(arch):
    theta = np.arange(float(rg.ARCHITECTURES[arch].size(3, 2)))
    W1, W2, *_ = rg.ARCHITECTURES[arch].unflatten(theta, 3)
    assert np.array_equal(W1, [[0, 1], [2, 3], [4, 5]]) and np.shares_memory(W1, theta)
    if rg.ARCHITECTURES[arch].readout == "fixed":
        assert W2 is None
    else:
        assert np.array_equal(W2, [[6, 7, 8], [9, 10, 11]]) and np.shares_memory(W2, theta)


@every_arch
def test_the_gradient_pulls_back_by_the_transposed_jacobian(arch):
    """<pull_back(P, R), theta> = <P, dU> + <R, dA> for the linear part of theta -> (U, A)."""
    record, theta, rng = rg.ARCHITECTURES[arch], point(arch, 3, 2), np.random.default_rng(1)
    (U, A), (U0, A0) = record.canonical(theta, 3), record.canonical(np.zeros_like(theta), 3)
    P, R = rng.standard_normal(U.shape), rng.standard_normal(A.shape)
    assert np.isclose(record.pull_back(P, R) @ theta, np.sum(P * (U - U0)) + np.sum(R * (A - A0)), rtol=1e-14)


@every_arch
@every_dtype
@pytest.mark.parametrize("d, k", SIZES)
def test_a_network_equals_its_twin(arch, dtype, d, k):
    theta, (X, Y) = point(arch, d, k, dtype=dtype), samples(arch, 7, d, dtype=dtype)
    F = rg.Network(arch, theta, d)(X)
    assert F.dtype == dtype and F.shape == Y.shape
    assert relative_error(F, naive.predict(arch, theta, X)) < TWIN[dtype]


@every_arch
def test_a_network_is_the_sum_over_its_canonical_units(arch):
    net = rg.Network(arch, point(arch, 3, 5), 3)
    (U, A, C), X = net.canonical(), samples(arch, 7, 3)[0]
    F = np.maximum(X @ U, 0) @ A + X @ C
    assert relative_error(net(X), F.reshape(net(X).shape)) < TWIN[np.float64]


@every_arch
def test_a_network_is_read_only_and_its_own(arch):
    theta = point(arch, 3)
    before = theta.copy()
    net = rg.Network(arch, theta, 3)
    theta[:] = 0
    assert np.array_equal(net.theta, before) and net.width == 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        net.theta = before
    for array in (net.theta, net.W1, net.W2):
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
    assert one_line(message) and f"arch is {name!r}" in message and f"did you mean {near!r}?" in message
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
    assert same(list(made.arch.unflatten(made.theta, 3)), [made.W1, made.W2])
    for array in (made.theta, made.W1, made.W2):
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
