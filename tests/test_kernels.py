"""The compiled loss, gradient and training loops are the naive ones, for every shape and batch."""

import itertools
import sys

import mpmath
import naive
import numpy as np
import pytest
import scipy.optimize
from conftest import (
    LOOPS,
    RECORDS,
    compiled,
    every_arch,
    every_centered,
    every_dtype,
    every_loop,
    every_record,
    float32_slow,
    output,
    point,
    relative_error,
    same_outputs,
    samples,
    slow,
)

import resgrad as rg
from resgrad import kernels, training
from resgrad.kernels import digits, hessian, loops, narrow, nearby, plain, policy, population, wide

# Sums of at most some hundred terms, in an order of the compiler's choosing: rounding errors of
# about sqrt(100) units in the last place, times a margin.
TWIN = {np.float64: 1e-13, np.float32: 2e-5}
# After a dozen steps; the steps are small, so errors add up and are not amplified.
STEPS = {np.float64: 1e-13, np.float32: 2e-5}

SMALL = {"d": 3, "width": 4}  # the narrow loop, compiled for this shape
SHARED = {"d": 3, "width": policy.LONELY + 1}  # likewise, in two parts
WIDE = {"d": 2, "width": policy.NARROW + 1}  # the loop for all shapes
TALL = {"d": 2 * policy.ROWS + 3, "width": 2 * policy.NARROW + 3}  # likewise, in several tiles, not all of them full
N_SAMPLES, BATCH, N_STEPS = 23, 5, 12  # the fifth batch of an epoch has 3 samples; three epochs
LR = 1e-2

SINGLE = ["modresnet", "leaky"]  # no branch of a loop and all of them, vector and scalar outputs
SHAPES = {"narrow": SMALL, "shared": SHARED, "wide": WIDE, "tall": TALL}


def every_job(*shapes):
    """Where each shape compiles a loop of its own, `SINGLE` stand for all, in float32 or in two parts."""
    jobs = []
    for arch, dtype, name in itertools.product(LOOPS, (np.float64, np.float32), shapes):
        single, double = arch in SINGLE, dtype is np.float64
        quick = {"narrow": single or double, "shared": single and double}.get(name, True)
        marks = [] if quick else [pytest.mark.slow]
        jobs.append(pytest.param(arch, dtype, SHAPES[name], id=f"{name}-{dtype.__name__}-{arch}", marks=marks))
    return pytest.mark.parametrize("arch, dtype, shape", jobs)


every_momentum = pytest.mark.parametrize("momentum", [0.0, 0.9])


def assert_equals_twin(arch, theta, X, Y):
    value, gradient = rg.EmpiricalLoss(RECORDS[arch], X, Y).value_and_grad(theta)
    naive_value, naive_gradient = naive.loss_and_gradient(arch, theta, X, Y)
    assert isinstance(value, float) and gradient.dtype == X.dtype and gradient.shape == theta.shape
    assert abs(value - naive_value) <= TWIN[X.dtype.type] * naive_value
    assert relative_error(gradient, naive_gradient) < TWIN[X.dtype.type]


# --------------------------------------------------------------------------- loss and gradient


@every_record
@every_dtype
@pytest.mark.parametrize("width", [2, 3, 5])
def test_loss_and_gradient_equal_the_twin_for_every_batch_size(arch, dtype, width):
    theta = point(arch, 3, width, dtype=dtype)
    for B in range(1, 34):
        assert_equals_twin(arch, theta, *samples(arch, B, 3, dtype=dtype))


@every_record
@every_dtype
@pytest.mark.parametrize("d, width", [(1, 1), (1, 4), (33, 2)])
def test_loss_and_gradient_equal_the_twin_in_thin_shapes(arch, dtype, d, width):
    assert_equals_twin(arch, point(arch, d, width, dtype=dtype), *samples(arch, 9, d, dtype=dtype))


@every_arch
@every_dtype
@pytest.mark.parametrize("extra", [0, 1, policy.BLOCK // 2])
def test_a_data_set_of_several_blocks_is_one_mean(arch, dtype, extra):
    assert_equals_twin(arch, point(arch, 3, dtype=dtype), *samples(arch, policy.BLOCK + extra, 3, dtype=dtype))


@every_record
def test_the_derivative_at_zero_is_the_lower_slope(arch):
    """relu'(0) = 0: a unit that is exactly zero gets no gradient in W1; dyadic numbers leave no room for rounding."""
    record = RECORDS[arch]
    W1 = np.array([[-1.0, 0.5, 0.0], [0.0, -1.25, 0.0], [0.0, 0.5, -1.0]]) + (1 - record.identity) * np.eye(3)
    W2 = np.array([[1.0, 0.5, -2.0], [0.25, 1.0, 1.0], [2.0, -1.0, 3.0]])  # units 0 and 2 are zero
    C = np.array([[1.0, 0.0, -0.5], [0.25, 1.0, 2.0], [-1.0, 0.5, 1.0]])[:, : record.outputs(3)]
    blocks = {"W1": W1, "W2": W2, "C": C, "b": np.zeros(3)}
    theta = record.flatten(**{name: blocks[name] for name in record.shapes(3)})
    X, Y = (np.round(part * 4) / 4 for part in samples(arch, 8, 3))
    gradient = rg.EmpiricalLoss(record, X, Y).grad(theta)
    dW1, dW2, *_ = record.unflatten(gradient, 3)
    assert np.array_equal(gradient, naive.loss_and_gradient(arch, theta, X, Y)[1])
    assert dW1[:, [0, 2]].any() == (record.slopes[1] != 0) and dW1[:, 1].any()
    assert dW2 is None or (not dW2[[0, 2]].any() and dW2[1].any())


@every_centered
def test_a_zero_sample_adds_nothing_to_the_gradient(arch):
    X, Y = samples(arch, 4, 3)
    X[2] = 0.0
    keep = [0, 1, 3]
    theta = point(arch, 3)
    whole, rest = (rg.EmpiricalLoss(arch, X[i], Y[i]).grad(theta) for i in (slice(None), keep))
    assert relative_error(4 * whole, 3 * rest) < TWIN[np.float64]


# ------------------------------------------------------------------------------ training loops


@every_job(*SHAPES)
@every_momentum
def test_training_on_a_data_set_is_naive_training_on_theta(arch, dtype, momentum, shape):
    X, Y = samples(arch, N_SAMPLES, shape["d"], dtype=dtype)
    theta0, lr = point(arch, **shape, dtype=dtype), LR / shape["width"]
    optimizer, losses = rg.Nesterov(lr, momentum), []
    run = rg.train(
        rg.EmpiricalLoss(RECORDS[arch], X, Y), theta0, optimizer, N_STEPS, BATCH, seed=3, record_every=N_STEPS
    )
    batches = itertools.islice(naive.epochs(N_SAMPLES, BATCH, rg.streams(3).batches), N_STEPS)

    def gradient(theta, rows):
        value, gradient = naive.loss_and_gradient(arch, theta, X[rows], Y[rows])
        losses.append(value)
        return gradient

    wanted = naive.nesterov(gradient, theta0, batches, lr, momentum)
    assert run.theta.dtype == dtype
    assert abs(run.loss[-1] / np.mean(losses) - 1) < STEPS[dtype]
    assert relative_error(run.theta - theta0, wanted - theta0) < 10 * STEPS[dtype]  # theta0 is O(10) steps
    assert relative_error(run.theta, wanted) < STEPS[dtype]


@every_job("narrow", "wide", "tall")  # fresh samples are one part
@every_momentum
def test_online_training_is_naive_training_on_the_same_samples(arch, dtype, momentum, shape):
    """The kernel's samples are NumPy's: one row of standard normals after the other."""
    teacher = rg.Network(RECORDS[arch], point(arch, shape["d"], 2, seed=1, dtype=dtype), shape["d"])
    theta0, lr = point(arch, **shape, dtype=dtype), LR / shape["width"]
    loss, optimizer, losses = rg.OnlineLoss(RECORDS[arch], teacher, dtype), rg.Nesterov(lr, momentum), []
    run = rg.train(loss, theta0, optimizer, N_STEPS, BATCH, seed=3, record_every=N_STEPS)
    batches = rg.streams(3).batches.standard_normal((N_STEPS, BATCH, shape["d"])).astype(dtype)

    def gradient(theta, X):
        value, gradient = naive.loss_and_gradient(arch, theta, X, naive.predict(arch, teacher.theta, X))
        losses.append(value)
        return gradient

    wanted = naive.nesterov(gradient, theta0, batches, lr, momentum)
    assert abs(run.loss[-1] / np.mean(losses) - 1) < STEPS[dtype]
    assert relative_error(run.theta - theta0, wanted - theta0) < 10 * STEPS[dtype]
    assert relative_error(run.theta, wanted) < STEPS[dtype]


@pytest.mark.parametrize(
    "student, teacher",
    [
        ("li", "resnet-sum"),
        ("modresnet-sum", "two-weight"),
        ("two-weight", "vanilla"),
        ("resnet", "modresnet"),
        ("half", "resnet"),
        ("modresnet-free", "resnet"),  # C is learned from a fixed skip,
        ("two-weight", "li-free"),  # a trained one is not,
        ("leaky", "even"),  # and other slopes are partly linear
        *slow(("vanilla-free", "modresnet-sum"), ("li-free", "even")),
    ],
)
@pytest.mark.parametrize("shape", [SMALL, WIDE, TALL], ids=["narrow", "wide", "tall"])
def test_online_training_with_another_architecture_as_teacher(student, teacher, shape):
    d = shape["d"]
    star = rg.Network(RECORDS[teacher], point(teacher, d, 2, seed=1), d)
    theta0, lr = point(student, **shape), LR / shape["width"]
    run = rg.train(rg.OnlineLoss(RECORDS[student], star), theta0, rg.SGD(lr), N_STEPS, BATCH, seed=4)
    batches = rg.streams(4).batches.standard_normal((N_STEPS, BATCH, d))

    def gradient(theta, X):
        return naive.loss_and_gradient(student, theta, X, naive.predict(teacher, star.theta, X))[1]

    wanted = naive.sgd(gradient, theta0, batches, lr)
    assert same_outputs(student, teacher)
    assert relative_error(run.theta, wanted) < STEPS[np.float64]


@float32_slow
@pytest.mark.parametrize("source", ["data set", "fresh samples"])
def test_narrow_steps_in_several_tiles_and_registers_are_naive(dtype, source):
    """Tiles overlap where they do not fit, as do registers; the second batch of an epoch has 4 samples."""
    d, batch, n_steps, lr = 14, N_SAMPLES - 4, 5, LR / 9
    teacher = rg.Network("resnet", point("resnet", d, 2, seed=1, dtype=dtype), d)
    theta0 = point("modresnet", d, 9, dtype=dtype)
    if source == "data set":
        X, Y = samples("modresnet", N_SAMPLES, d, dtype=dtype)
        loss, picked = rg.EmpiricalLoss("modresnet", X, Y), naive.epochs(N_SAMPLES, batch, rg.streams(3).batches)
        batches = [(X[rows], Y[rows]) for rows in itertools.islice(picked, n_steps)]
    else:
        loss, drawn = rg.OnlineLoss("modresnet", teacher, dtype), rg.streams(3).batches
        inputs = drawn.standard_normal((n_steps, batch, d)).astype(dtype)
        batches = [(X, naive.predict("resnet", teacher.theta, X)) for X in inputs]
    run = rg.train(loss, theta0, rg.SGD(lr), n_steps, batch, seed=3)
    wanted = naive.sgd(lambda theta, pair: naive.loss_and_gradient("modresnet", theta, *pair)[1], theta0, batches, lr)
    assert relative_error(run.theta - theta0, wanted - theta0) < 10 * STEPS[dtype]


@every_loop
def test_the_first_window_is_the_mean_of_its_batch_losses(arch):
    """Two epochs and a bit at theta(t): the recorded losses are those of the batches, before each step."""
    X, Y = samples(arch, N_SAMPLES, 3)
    theta0 = point(arch, **SMALL)
    run = rg.train(rg.EmpiricalLoss(RECORDS[arch], X, Y), theta0, rg.SGD(LR), N_STEPS, BATCH, seed=3, record_every=4)
    batches, theta, losses = naive.epochs(N_SAMPLES, BATCH, rg.streams(3).batches), theta0, []
    for _, rows in zip(range(N_STEPS), batches):
        value, gradient = naive.loss_and_gradient(arch, theta, X[rows], Y[rows])
        losses.append(value)
        theta = theta - LR * gradient
    start = naive.loss_and_gradient(arch, theta0, X, Y)[0]
    assert np.array_equal(run.steps, [0, 4, 8, 12])
    wanted = np.array([start, *np.mean(np.reshape(losses, (3, 4)), axis=1)])
    assert np.max(np.abs(run.loss / wanted - 1)) < TWIN[np.float64]


@compiled
@pytest.mark.parametrize(
    "arch, dtype, d, width",
    [
        *((arch, np.float64, 3, 4) for arch in LOOPS[1:]),
        *((arch, np.float32, 3, 4) for arch in SINGLE),
        *slow(*((arch, np.float32, 3, 4) for arch in LOOPS[1:] if arch not in SINGLE)),
        *slow(*itertools.product(LOOPS[1:], [np.float64, np.float32], [1], [1])),
    ],
)
@pytest.mark.parametrize("source", ["data set", "fresh samples"])
@pytest.mark.parametrize("batch", [1, BATCH, 17])
def test_the_loops_make_the_same_steps(arch, dtype, source, d, width, batch):
    """The wide loop takes any shape, so all can be compared on small ones; 17 samples fill two registers."""
    record, k_star = RECORDS[arch], 2 if source == "fresh samples" else 0
    m, skip, slopes = record.outputs(d), d * record.trains_skip, record.slopes
    X, Y = samples(arch, 40, d, dtype=dtype)
    rows = rg.EmpiricalLoss(record, X, Y).rows if source == "data set" else np.empty((0, 0), dtype)
    other = rg.ARCHITECTURES[
        "resnet" if record.readout == "vector" else "resnet-sum"
    ]  # whose skip differs from that of two-weight
    teacher = rg.OnlineLoss(record, rg.Network(other, point("resnet", d, 2, seed=1), d), dtype).units_star
    order = np.random.default_rng(0).permutation(40) if source == "data set" else np.empty(0, np.int64)
    rates, results = tuple(map(dtype, (0.01, 0.02, 0.03, 0.9))), []
    shape = d, width, m, k_star, skip, slopes
    small, large = narrow.narrow_loop(*shape), wide.wide_loop(d, width, m, k_star, skip)
    for loop, parts, scratch in (
        (plain.sampled_loop(*shape)[0], 1, None),
        (small, 1, narrow.narrow_scratch(1, d, width, k_star, m, skip, slopes, batch, dtype)),
        (small, 2, narrow.narrow_scratch(2, d, width, k_star, m, skip, slopes, batch, dtype)),
        (large, 1, wide.wide_scratch(1, d, width, k_star, m, skip, slopes, batch, dtype)),
        (large, 2, wide.wide_scratch(2, d, width, k_star, m, skip, slopes, batch, dtype)),
    ):
        if source == "fresh samples" and loop is small and parts == 2:
            continue  # both would have to draw
        w = record.coordinates(point(arch, d, width, dtype=dtype), d)
        v, marks, rng = np.zeros_like(w), np.zeros((1, 16), np.int64), np.random.default_rng(5)
        total = loop(0, marks, scratch, rows, order, 0, rng, teacher, w, v, rates, batch, 3, 1.5)
        blocks = record.split(w, d) + record.split(v, d)
        results.append([np.array([total]), *(part for part in blocks if part.size)])
    for result in results[1:]:
        for got, wanted in zip(result, results[0]):
            assert relative_error(got, wanted) < STEPS[dtype]


@pytest.mark.parametrize(
    "width, dtype, source",
    [
        *itertools.product([4, policy.NARROW + 1], [np.float64, np.float32], ["data set", "fresh samples"]),
        (policy.LONELY + 1, np.float64, "data set"),  # fresh samples are one part
        *slow((policy.LONELY + 1, np.float32, "data set")),
    ],
)
def test_a_step_on_several_blocks_is_one_gradient(dtype, source, width):
    """Of samples that do not fill the last block, nor its last register."""
    size, theta0 = 2 * policy.BLOCK + 51, point("modresnet", 3, width, dtype=dtype)
    teacher = rg.Network("modresnet", point("modresnet", 3, 2, seed=1, dtype=dtype), 3)
    if source == "data set":
        X, Y = samples("modresnet", size + 7, 3, dtype=dtype)
        picked = rg.streams(0).batches.permutation(size + 7)[:size]
        loss, data = rg.EmpiricalLoss("modresnet", X, Y), rg.EmpiricalLoss("modresnet", X[picked], Y[picked])
    else:
        X = rg.streams(0).batches.standard_normal((size, 3)).astype(dtype)
        loss, data = rg.OnlineLoss("modresnet", teacher, dtype), rg.EmpiricalLoss("modresnet", X, teacher(X))
    run = rg.train(loss, theta0, rg.SGD(0.01), 1, size)
    value, gradient = data.value_and_grad(theta0)
    assert relative_error(run.theta, theta0 - dtype(0.01) * gradient) < STEPS[dtype]
    assert abs(run.loss[-1] / value - 1) < STEPS[dtype]


BEFORE_A_WALL = """
import ctypes, mmap
import numpy as np, resgrad as rg
size = 16 * mmap.PAGESIZE
memory = mmap.mmap(-1, size + mmap.PAGESIZE)
wall = ctypes.addressof(ctypes.c_char.from_buffer(memory)) + size
assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(wall), ctypes.c_size_t(mmap.PAGESIZE), 0) == 0  # not to be read
for dtype in np.float64, np.float32:
    loss, ends = rg.EmpiricalLoss("modresnet", *np.random.default_rng(0).standard_normal((2, 23, 14)).astype(dtype)), []
    rows = loss.rows
    for loss.rows in rows, np.frombuffer(memory, dtype, rows.size, size - rows.nbytes).reshape(rows.shape):
        loss.rows[:] = rows
        runs = (rg.train(loss, rg.draw("modresnet", "small", 14, 9, 1), rg.SGD(1e-3), 6, batch) for batch in (1, 5, 23))
        ends.append([run.theta.tobytes() for run in runs])
    assert ends[0] == ends[1]
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mprotect")
def test_nothing_beyond_the_data_is_read():
    """Where it is not the last thing in memory nobody would notice; here it ends the process."""
    output(sys.executable, "-c", BEFORE_A_WALL)


@compiled
def test_only_wide_networks_take_the_wide_loops():
    """And these are compiled once for all shapes, as is the exact loop of all narrow ones with many units."""
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loops, "narrow_loop", lambda *shape: calls.append(("narrow", *shape[:2])))
        patch.setattr(population, "compiled_loop", lambda *shape: calls.append(("exact", *shape)))
        for limit, loop in ((policy.NARROW, kernels.sampled_loop), (policy.EXACT_NARROW, kernels.population_loop)):
            for d, k in ((limit, limit), (limit + 1, 1), (1, limit + 1)):
                loop(d, k, 2 * k, 1)
        kernels.population_loop(9, 5, REGISTERS * policy.REGISTER // 8, 3)
    wide_or_many = [("exact", True, 0), ("exact", False, 0), ("exact", False, 0)]
    assert calls == [("narrow", policy.NARROW, policy.NARROW), *wide_or_many, ("exact", True, REGISTERS)]
    assert narrow.compiled_loop(3, 4, 1, 0, 0, (1.0, 0.0)) is narrow.compiled_loop(3, 4, 1, 0, 0, (1.0, 0.0))
    assert population.compiled_loop(True, 1) is population.compiled_loop(True, 1)


# ------------------------------------------------------------------------------- no recompilation

REGISTERS = -(-6 // (policy.REGISTER // 8))  # for the 4 units of a student and the 2 of a teacher
COMPILED = [
    population.in_lanes,
    population.by_products,
    hessian._hessian,
    digits.population_value,
    digits._plain_sum,
    wide.compiled_loop,
    *(narrow.compiled_loop(3, 4, m, k_star, 0, plain.RELU) for m in (1, 3) for k_star in (0, 2)),
    *(narrow.compiled_loop(3, 4, 1, k_star, 3, (1.0, 0.25)) for k_star in (0, 2)),
    population.compiled_loop(True, REGISTERS),
]


@compiled
@pytest.mark.parametrize(
    "arch, dtype",
    [
        *(("li", np.float64), ("two-weight", np.float64), *itertools.product(SINGLE, [np.float64, np.float32])),
        *slow(("li", np.float32), ("two-weight", np.float32)),
    ],
)
def test_nothing_is_compiled_twice(arch, dtype):
    """Neither other layouts and flags of the inputs, nor optimizers, losses and read-outs, add a signature."""
    d, width, other = 3, 4, RECORDS[{"li": "vanilla"}.get(arch, arch)]
    X, Y = samples(arch, N_SAMPLES, d, dtype=dtype)
    theta = point(arch, d, width, dtype=dtype)
    teacher = rg.Network(RECORDS[arch], point(arch, d, 2, seed=1, dtype=dtype), d)

    def use(X, Y, theta, teacher, optimizer, batch_size, seed):
        losses = (rg.EmpiricalLoss(RECORDS[arch], X, Y), rg.OnlineLoss(RECORDS[arch], teacher, dtype))
        for loss in losses:
            rg.train(loss, theta, optimizer, 3, batch_size, seed=seed)
        exact = rg.PopulationLoss(RECORDS[arch], teacher)
        rg.train(exact, theta, optimizer, 3)
        exact.hessian(theta)
        exact.value(point(arch, d, width, seed=1))
        teacher(X)

    use(X, Y, theta, teacher, rg.SGD(0.01), 5, 0)
    before = [list(function.signatures) for function in COMPILED]
    frozen = X.copy(order="F")
    frozen.flags.writeable = False
    use(
        frozen,
        Y[::-1],
        theta[::-1],
        rg.Network(other, point(other.name, d, 2, seed=2), d),
        rg.Nesterov(1, 0.5),
        None,
        np.random.default_rng(0),
    )
    if dtype is np.float64:
        use(X.round().astype(int).tolist(), Y.tolist(), theta.astype(np.float32), teacher, rg.SGD(1), 7, 1)
    assert [list(function.signatures) for function in COMPILED] == before


def test_training_leaves_its_inputs_alone():
    X, Y = samples("li", N_SAMPLES, 3)
    theta0, loss = point("li", **SMALL), rg.EmpiricalLoss("li", X, Y)
    before = [a.copy() for a in (X, Y, theta0, loss.rows)]
    training.train(loss, theta0, rg.Nesterov(0.1, 0.9), N_STEPS, BATCH)
    assert all(np.array_equal(a, b) for a, b in zip(before, (X, Y, theta0, loss.rows)))


@compiled
@every_loop
@pytest.mark.parametrize("width, width_star", [(4, 2), (7, 6), (20, 16)])  # fills one register, two, more than four
def test_the_exact_loops_of_narrow_and_wide_networks_are_the_same(arch, width, width_star):
    record, ends, count = RECORDS[arch], [], -(-(width + width_star) // (policy.REGISTER // 8))
    loss, m = rg.PopulationLoss(record, rg.Network(record, point(arch, 3, width_star, seed=1), 3)), record.outputs(3)
    shapes = (True, count if count <= policy.UNROLLED else 0), (False, 0), (True, 0)
    twin = plain.population_loop(3, width, width + width_star, m, 3 * record.trains_skip, record.slopes)[0]
    for loop in (*(population.compiled_loop(*shape) for shape in shapes), twin):
        w = record.coordinates(point(arch, 3, width), 3)
        v, scratch = np.zeros_like(w), (np.empty((2, width, 3 + m)), 2, record.slopes)
        weights = (w, v) if loop is twin else [record.split(part, 3) for part in (w, v)]
        loop(0, np.zeros((1, 16), np.int64), scratch, loss.units_star, *weights, (0.01, 0.01, 0.01, 0.5), 20)
        ends.append(np.concatenate([w, v]))
    assert relative_error(ends[0], ends[1]) < 1e-14  # a few EPS: sums are in another order
    assert np.array_equal(ends[0], ends[2])
    assert relative_error(ends[0], ends[3]) < 1e-13  # angles by another formula


@every_record
@every_dtype
def test_the_gradients_are_the_plain_ones(arch, dtype):
    """On a data set and in expectation, of a wide network, too."""
    record = RECORDS[arch]
    for d, width in ((3, 4), (40, 35)):
        loss = rg.EmpiricalLoss(record, *samples(arch, 21, d, dtype=dtype))
        exact = rg.PopulationLoss(record, rg.Network(record, point(arch, d, 2, seed=1), d))
        theta = point(arch, d, width, dtype=dtype)
        weights = record.split(record.coordinates(theta, d), d)
        inputs, labels = np.hsplit(loss.rows, [d + record.bias])
        value, *gradient = plain.sampled_gradient(*weights, inputs, labels, record.slopes)
        assert abs(loss.value(theta) - value) <= TWIN[dtype] * value
        assert loss.value(theta) == loss.value_and_grad(theta)[0]  # to the last bit
        assert relative_error(loss.grad(theta), record.pull_back(*gradient)) < TWIN[dtype]
        if record.bias:  # in expectation it is no matter of these kernels
            continue
        weights = record.split(record.coordinates(theta.astype(float), d), d)
        wanted = record.pull_back(*plain.exact_gradient(*weights, *exact.units_star, record.slopes))
        assert relative_error(exact.grad(theta), wanted) < TWIN[np.float64]


def test_the_arcsine_polynomial_is_good_to_the_last_digit():
    z = np.concatenate([np.linspace(0, 0.5, 1001)[1:], 10.0 ** np.arange(-30, -3)])
    exact = np.array([float(mpmath.asin(mpmath.sqrt(x)) / mpmath.sqrt(x)) for x in z])
    got = np.polynomial.polynomial.polyval(z, population._ARCSIN)
    assert np.abs(got - exact).max() < 3 * np.finfo(float).eps


def test_the_matching_is_scipys():
    cost = np.random.default_rng(0).integers(9, size=(30, 40))  # many are equal
    found, wanted = (match(cost) for match in (nearby.linear_sum_assignment, scipy.optimize.linear_sum_assignment))
    np.testing.assert_array_equal(found, wanted)


def test_the_matching_is_found_without_the_package_around_it():
    found = output(sys.executable, "-c", "import sys, resgrad.kernels.nearby; print('scipy.optimize' in sys.modules)")
    assert found[0].strip() == "False"
