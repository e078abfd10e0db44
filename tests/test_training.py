"""Runs are deterministic, resume bit for bit, stop cleanly, and keep what the theory says they keep."""

import copy
import dataclasses

import numpy as np
import pytest
from conftest import (
    RECORDS,
    TRAINED_READOUT,
    every_arch,
    every_centered,
    every_loop,
    every_sum,
    point,
    relative_error,
    samples,
    slow,
)

import resgrad as rg
from resgrad import kernels, training

D, WIDTH, BATCH = 3, 4, 5
N_SAMPLES = 23  # five batches an epoch, the last of 3 samples
ROUNDING = 1e-13  # sums of some ten terms, taken in another order
KINDS = ["empirical", "online", "population"]
OPTIMIZER = rg.Nesterov(0.01, 0.9)

every_fused_kind = pytest.mark.parametrize("kind", KINDS)
every_kind = pytest.mark.parametrize("kind", [*KINDS, "plain", "plain batches"])


class Foreign:
    """The expected loss and its batches as a user's own: all that a plain loop asks for, and nothing else."""

    def __init__(self, arch, teacher):
        self.value_and_grad = rg.PopulationLoss(arch, teacher).value_and_grad
        self.batch = rg.OnlineLoss(arch, teacher).batch


def problem(kind, arch="two-weight"):
    """(loss, batch size) of one kind."""
    record = RECORDS[arch]
    teacher = rg.Network(record, point(arch, D, 2, seed=1), D)
    return {
        "empirical": lambda: (rg.EmpiricalLoss(record, *samples(arch, N_SAMPLES, D)), BATCH),
        "online": lambda: (rg.OnlineLoss(record, teacher), BATCH),
        "population": lambda: (rg.PopulationLoss(record, teacher), None),
        "plain": lambda: (Foreign(record, teacher), None),
        "plain batches": lambda: (Foreign(record, teacher), BATCH),
    }[kind]()


def run(kind, n_steps, *, arch="two-weight", seed=0, optimizer=OPTIMIZER, **options):
    loss, batch_size = problem(kind, arch)
    return rg.train(loss, point(arch, D, WIDTH), optimizer, n_steps, batch_size, seed, **options)


def assert_same_bytes(one, other):
    assert one.theta.tobytes() == other.theta.tobytes()
    assert one.steps.tolist() == other.steps.tolist()
    assert one.loss.tobytes() == other.loss.tobytes()
    assert one.stop_reason == other.stop_reason
    assert one.observed.keys() == other.observed.keys()
    assert all(one.observed[name].tobytes() == other.observed[name].tobytes() for name in one.observed)


# ------------------------------------------------------------------------------ what a run leaves


@every_kind
def test_a_trajectory_holds_what_it_says(kind):
    loss, _ = problem(kind)
    theta0, before = point("two-weight", D, WIDTH), point("two-weight", D, WIDTH)
    result = run(kind, 60, observe={"norm": np.linalg.norm, "theta": lambda theta: theta.copy()})
    assert isinstance(result, rg.Trajectory) and result.stop_reason == "finished"
    assert result.theta.shape == theta0.shape and result.theta.dtype == np.float64
    assert result.steps.dtype.kind == "i" and result.loss.dtype == np.float64
    assert result.steps[0] == 0 and result.steps[-1] == 60 and result.steps.shape == result.loss.shape
    assert result.loss[0] == loss.value_and_grad(theta0)[0]
    assert np.array_equal(result.observed["theta"][0], theta0) and np.array_equal(theta0, before)
    assert np.array_equal(result.observed["theta"][-1], result.theta)
    assert np.array_equal(result.observed["norm"], [np.linalg.norm(theta) for theta in result.observed["theta"]])
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.theta = theta0


def test_population_records_are_the_loss_at_that_step():
    loss, _ = problem("population")
    result = run("population", 30, record_every=7, observe={"theta": lambda theta: theta.copy()})
    assert result.loss.tolist() == [loss.value(theta) for theta in result.observed["theta"]]


@every_kind
@pytest.mark.parametrize(
    "record_every, n_steps, wanted",
    [(1, 4, [0, 1, 2, 3, 4]), (7, 20, [0, 7, 14, 20]), (7, 21, [0, 7, 14, 21]), (50, 20, [0, 20]), (20, 20, [0, 20])],
)
def test_records_are_multiples_and_the_end(kind, record_every, n_steps, wanted):
    assert run(kind, n_steps, record_every=record_every).steps.tolist() == wanted


def test_records_thin_out_like_a_geometric_series():
    steps = run("population", 3000).steps
    assert np.array_equal(np.diff(steps[:-1]), np.maximum(1, steps[:-2] // 50))
    assert steps[-1] == 3000 and steps[-1] - steps[-2] <= steps[-2] // 50


@every_kind
def test_a_longer_run_begins_with_the_records_of_a_shorter_one(kind):
    short, long = run(kind, 150), run(kind, 400)
    assert short.steps[-1] in long.steps
    assert long.steps[: len(short.steps)].tolist() == short.steps.tolist()
    assert long.loss[: len(short.loss)].tobytes() == short.loss.tobytes()


# --------------------------------------------------------------------------------- determinism


@every_loop
@every_kind
def test_the_same_arguments_give_the_same_bytes(arch, kind):
    assert_same_bytes(run(kind, 40, arch=arch, seed=3), run(kind, 40, arch=arch, seed=3))


@pytest.mark.parametrize("kind", ["empirical", "online"])
def test_another_seed_gives_other_batches(kind):
    assert not np.array_equal(run(kind, 3, seed=0).theta, run(kind, 3, seed=1).theta)


@every_kind
def test_the_pace_of_looking_up_changes_nothing(kind, monkeypatch):
    """The compiled loops are called in pieces whose length depends on the clock."""
    usual = run(kind, 50, record_every=20)
    monkeypatch.setattr(training, "PATIENCE", 0.0)
    assert_same_bytes(run(kind, 50, record_every=20), usual)


def test_a_generator_stands_for_its_seed():
    loss, batch_size = problem("online")
    arguments = (loss, point("two-weight", D, WIDTH), OPTIMIZER, 10, batch_size)
    assert_same_bytes(rg.train(*arguments, seed=5), rg.train(*arguments, seed=rg.streams(5).batches))


def test_the_whole_data_set_is_one_unshuffled_batch():
    loss, _ = problem("empirical")
    theta0 = point("two-weight", D, WIDTH)
    results = [
        rg.train(loss, theta0, OPTIMIZER, 10, batch_size, seed)
        for batch_size, seed in ((None, 0), (None, 1), (N_SAMPLES, 2), (1000, 3))
    ]
    for other in results[1:]:
        assert_same_bytes(other, results[0])
    assert results[0].loss[-1] == loss.value(results[0].theta)  # nothing is drawn: the value at that step


# -------------------------------------------------------------------------------------- resume


class Keeper:
    """A ``progress`` that keeps a copy of everything it is shown, and the last thing itself."""

    def __init__(self):
        self.kept, self.last = [], None

    def __call__(self, state, records):
        self.kept.append(copy.deepcopy((state, records)))
        self.last = (state, records)


OBSERVE = {"theta": lambda theta: theta.copy()}


@every_kind
@pytest.mark.parametrize("record_every", [None, 1, 4, 5])
def test_a_run_resumes_from_wherever_it_was_saved(kind, record_every, stepwise):
    """Every state that ``progress`` sees, the one of the last step included, leads to the same end."""
    keeper, options = Keeper(), {"record_every": record_every, "observe": OBSERVE}
    whole = run(kind, 13, progress=keeper, **options)
    assert [state.step for state, _ in keeper.kept][-8:] == list(range(6, 14))
    for saved in keeper.kept:
        assert_same_bytes(run(kind, 13, resume=saved, **options), whole)


@every_kind
@pytest.mark.parametrize("record_every", [None, 4, 5])
@pytest.mark.parametrize("n_steps", [10, 12])
def test_a_finished_run_can_be_extended(kind, record_every, n_steps):
    """Both from what ``progress`` saw last and from the finished run, whose last window may be open."""
    keeper, options = Keeper(), {"record_every": record_every, "observe": OBSERVE}
    finished = run(kind, n_steps, progress=keeper, **options)
    whole = run(kind, 31, **options)
    for saved in (keeper.kept[-1], keeper.last):
        assert_same_bytes(run(kind, n_steps, resume=copy.deepcopy(saved), **options), finished)
        assert_same_bytes(run(kind, 31, resume=saved, **options), whole)


@every_kind
@pytest.mark.parametrize("arch", ["vanilla", "modresnet", "modresnet-free", "leaky"])
def test_other_architectures_resume_too(kind, arch, stepwise):
    keeper = Keeper()
    whole = run(kind, 13, arch=arch, progress=keeper)
    assert_same_bytes(run(kind, 13, arch=arch, resume=keeper.kept[6]), whole)


@every_fused_kind
@pytest.mark.parametrize("arch", ["modresnet", *slow("two-weight")])
def test_a_run_of_float32_resumes(kind, arch, stepwise):
    keeper = Keeper()
    teacher = rg.Network(arch, point(arch, D, 2, seed=1), D)
    loss = {
        "empirical": rg.EmpiricalLoss(arch, *samples(arch, N_SAMPLES, D, dtype=np.float32)),
        "online": rg.OnlineLoss(arch, teacher, np.float32),
        "population": rg.PopulationLoss(arch, teacher),
    }[kind]
    batch_size = None if kind == "population" else BATCH
    arguments = (loss, point(arch, D, WIDTH, dtype=np.float32), OPTIMIZER, 13, batch_size)
    whole = rg.train(*arguments, progress=keeper)
    assert_same_bytes(rg.train(*arguments, resume=keeper.kept[6]), whole)


# ------------------------------------------------------------------------------ epochs, streams


@pytest.mark.parametrize("batch_size", [1, 4, 5, 13])
def test_every_epoch_visits_each_sample_once(batch_size):
    """At theta = 0 of `vanilla` nothing moves, and y_i = 2^i writes its visits into digit i to base 4."""
    size, epochs = 13, 6
    X, Y = np.random.default_rng(0).standard_normal((size, D)), 2.0 ** np.arange(size)
    per_epoch = -(-size // batch_size)
    result = rg.train(
        rg.EmpiricalLoss("vanilla", X, Y),
        np.zeros(D * WIDTH),
        rg.SGD(1.0),
        epochs * per_epoch,
        batch_size,
        seed=1,
        record_every=1,
    )
    lengths = [min(batch_size, size - i * batch_size) for i in range(per_epoch)]
    totals = np.rint(result.loss[1:].reshape(epochs, per_epoch) * lengths).astype(int)
    visits = (totals[:, :, None] // 4 ** np.arange(size)) % 4  # (epoch, batch, sample)
    assert np.all(visits.sum(axis=1) == 1)
    assert np.all(visits.sum(axis=2) == lengths)
    orders = {tuple(epoch.argmax(axis=0)) for epoch in visits}  # in which batch each sample comes
    assert len(orders) == (1 if batch_size == size else epochs)


def test_the_streams_are_independent():
    """What one purpose draws changes nothing for the others."""
    fresh, used = rg.streams(7), rg.streams(7)
    used.data.standard_normal(1000)
    used.teacher.random(3)
    assert np.array_equal(fresh.batches.permutation(50), used.batches.permutation(50))
    assert np.array_equal(fresh.init.random(9), used.init.random(9))


@pytest.mark.parametrize("bits", ["PCG64", "MT19937", "Philox", "SFC64", "PCG64DXSM"])
@pytest.mark.parametrize("size", [1, 2, 9999, 10_000, 16_384, 16_385, 70_000])
def test_a_permutation_is_numpys(bits, size):
    """So are the numbers that the generator gives next; half of a number may be left over from before."""
    for seed in range(3):
        ours, theirs = (np.random.Generator(getattr(np.random, bits)(seed)) for _ in range(2))
        for _drawn in range(2):
            assert np.array_equal(training.permutation(size, ours), theirs.permutation(size))
            assert ours.integers(2**32, dtype=np.uint32) == theirs.integers(2**32, dtype=np.uint32)


def test_streams_differ_by_purpose_run_and_seed():
    first = [stream.random() for seed, number in ((0, 0), (0, 1), (1, 0)) for stream in rg.streams(seed, number)]
    assert len(set(first)) == 12
    assert [s.random() for s in rg.streams(3)] == [s.random() for s in rg.streams(3, run=0)]


def test_more_data_changes_neither_teacher_nor_start_nor_batches():
    starts, orders = [], []
    for n_samples in (50, 200):
        streams = rg.streams(3)
        teacher = rg.Network("li", rg.draw("li", "uniform", D, rng=streams.teacher), D)
        X, Y = rg.dataset(teacher, n_samples, streams.data)
        starts.append((teacher.theta, rg.draw("li", "fan-in", D, rng=streams.init), X[:50], Y[:50]))
        orders.append(streams.batches.permutation(50))
    for one, other in zip(*starts):
        assert np.array_equal(one, other)
    assert np.array_equal(*orders)


@every_loop
def test_one_seed_is_one_teacher_and_one_start_for_every_source_of_data(arch):
    record, teachers, starts = RECORDS[arch], [], []
    for kind in KINDS:
        streams = rg.streams(11)
        theta_star = rg.draw(record, "uniform", D, 2, streams.teacher)
        teacher = rg.Network(record, theta_star, D)
        if kind == "empirical":
            loss, batch_size = rg.EmpiricalLoss(record, *rg.dataset(teacher, N_SAMPLES, streams.data)), BATCH
        elif kind == "online":
            loss, batch_size = rg.OnlineLoss(record, teacher), BATCH
        else:
            loss, batch_size = rg.PopulationLoss(record, teacher), None
        theta0 = rg.draw(record, "fan-in", D, WIDTH, streams.init)
        result = rg.train(loss, theta0, rg.SGD(1e-3), 1, batch_size, streams.batches, observe=OBSERVE)
        teachers.append(theta_star)
        starts.append(result.observed["theta"][0])
    assert all(np.array_equal(teachers[0], other) for other in teachers)
    assert all(np.array_equal(starts[0], other) for other in starts)


@every_arch
@pytest.mark.parametrize(
    "kind, low, high, deviation",
    [
        ("uniform", 0, 1, 12**-0.5),
        ("fan-in", -(100**-0.5), 100**-0.5, (3 * 100) ** -0.5),
        ("normal", -np.inf, np.inf, 0.1),
        ("small", -np.inf, np.inf, 0.01),
        ("zero", 0, 0, 0.0),
    ],
)
def test_draws_have_the_distribution_they_name(arch, kind, low, high, deviation):
    """W1 and W2; a trained skip starts where a fixed one is."""
    record, theta = rg.ARCHITECTURES[arch], rg.draw(arch, kind, d=100, rng=0)
    assert theta.size == record.size(100)
    W1, W2, C, _ = record.unflatten(theta, 100)
    assert C is None or np.array_equal(C, record.skip_map(100))
    entries = np.concatenate([block.ravel() for block in (W1, W2) if block is not None])
    assert low <= entries.min() <= entries.max() <= high
    center = 0.5 if kind == "uniform" else 0.0
    noise = 5 * deviation / np.sqrt(entries.size)  # five standard errors; the deviation's is no larger
    assert abs(entries.mean() - center) <= noise and abs(entries.std() - deviation) <= noise


@pytest.mark.parametrize("arch", [name for name, a in rg.ARCHITECTURES.items() if a.trains_skip])
def test_two_kinds_draw_the_units_and_what_is_added_to_the_skip(arch):
    """The units are those of the first kind alone, from the same stream."""
    record = rg.ARCHITECTURES[arch]
    one, both, other = (
        record.unflatten(rg.draw(arch, kind, 30, 4, rng=0), 30) for kind in ("normal", "normal+small", "normal+uniform")
    )
    for name in ("W1", "W2"):
        assert all(np.array_equal(getattr(one, name), getattr(drawn, name)) for drawn in (both, other))
    added, uniform = (drawn.C - record.skip_map(30) for drawn in (both, other))
    size = 0.1 / np.sqrt(30)
    assert abs(added.std() - size) < 5 * size / np.sqrt(2 * added.size) and len(np.unique(added)) == added.size
    assert 0 <= uniform.min() < uniform.max() < 1 and uniform.std() > 0.1


@every_arch
def test_the_identity_draw_is_the_identity(arch):
    W1, W2, *_ = rg.ARCHITECTURES[arch].unflatten(rg.draw(arch, "identity", 3, 2), 3)
    assert np.array_equal(W1, np.eye(3, 2)) and (W2 is None or np.array_equal(W2, np.eye(2, 3)))


@every_arch
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_data_set_is_gaussian_inputs_and_the_teachers_outputs(arch, dtype):
    teacher = rg.Network(arch, point(arch, D), D)
    X, Y = rg.dataset(teacher, 20_000, 3, dtype)
    assert X.dtype == Y.dtype == dtype and np.array_equal(Y, teacher(X))
    assert np.max(np.abs(np.cov(X.T) - np.eye(D))) < 5 * np.sqrt(2 / 20_000)  # five standard errors
    assert np.array_equal(X[:7], rg.dataset(teacher, 7, 3, dtype)[0])


# -------------------------------------------------------------------------------- how runs stop


@every_loop
@every_kind
@pytest.mark.parametrize("optimizer", [rg.SGD(1e3), rg.Nesterov(1e3, 0.9)], ids=["sgd", "nesterov"])
def test_divergence_is_said_and_not_recorded(arch, kind, optimizer):
    result = run(kind, 5000, arch=arch, optimizer=optimizer, observe=OBSERVE)
    words, step = result.stop_reason.rsplit(" ", 1)
    assert words == "diverged at step" and result.steps[-1] < int(step) <= 5000
    assert np.isfinite(result.loss).all() and np.isfinite(result.observed["theta"]).all()
    assert len(result.steps) == len(result.loss) == len(result.observed["theta"])


@every_kind
def test_an_interruption_keeps_what_there_is(kind, stepwise):
    def interrupt(state, records):
        if state.step == 7:
            raise KeyboardInterrupt

    stopped, whole = run(kind, 20, progress=interrupt, record_every=3), run(kind, 7, record_every=3)
    assert stopped.stop_reason == "interrupted at step 7"
    assert stopped.theta.tobytes() == whole.theta.tobytes()
    assert stopped.steps.tolist() == [0, 3, 6] and stopped.loss.tobytes() == whole.loss[:3].tobytes()


@every_fused_kind
def test_ctrl_c_amid_compiled_steps_undoes_them(kind, monkeypatch):
    """Python raises it where compiled code returns: the weights have moved, and nothing says so yet."""
    together, calls, live = kernels.together, [], []

    def interrupted(*call):
        calls.append(together(*call))
        if len(calls) == 8:
            raise KeyboardInterrupt
        return calls[-1]

    with monkeypatch.context() as patch:
        patch.setattr(kernels, "together", interrupted)
        stopped = run(kind, 40, progress=lambda *both: live.__setitem__(slice(None), both))
    assert stopped.stop_reason == "interrupted at step 7"
    assert stopped.theta.tobytes() == run(kind, 7).theta.tobytes()
    assert_same_bytes(run(kind, 40, resume=live), run(kind, 40))


@pytest.mark.parametrize("kind", ["plain", "plain batches"])
def test_an_error_amid_plain_steps_undoes_them(kind):
    """Whatever the loss raises: the caller has the last state that was whole, and what it raised."""
    loss, batch_size = problem(kind)
    name, live, calls = "value_and_grad" if kind == "plain" else "batch", [], []
    answer = getattr(loss, name)

    def fails(*given):
        calls.append(given)
        if len(calls) == 30:
            raise ValueError("out of paper")
        return answer(*given)

    setattr(loss, name, fails)
    arguments = (point("two-weight", D, WIDTH), OPTIMIZER, 100, batch_size)
    with pytest.raises(ValueError, match="^out of paper$"):
        rg.train(loss, *arguments, progress=lambda *both: live.__setitem__(slice(None), both))
    assert 0 < live[0].step < 30
    assert_same_bytes(rg.train(problem(kind)[0], *arguments, resume=live), run(kind, 100))


def test_a_clock_that_stands_still_changes_nothing(monkeypatch):
    wanted = run("empirical", 400)
    monkeypatch.setattr(training.time, "perf_counter", lambda: 1.0)
    assert_same_bytes(run("empirical", 400), wanted)


@every_kind
def test_what_is_observed_may_be_written_to(kind):
    """Also at step 0, and by one function before another looks."""

    def spoil(theta):
        theta[:] = np.nan
        return 0.0

    spoiled = run(kind, 9, record_every=3, observe={"spoil": spoil, "theta": np.copy})
    wanted = run(kind, 9, record_every=3, observe={"theta": np.copy})
    assert spoiled.theta.tobytes() == wanted.theta.tobytes()
    assert spoiled.observed["theta"].tobytes() == wanted.observed["theta"].tobytes()


def test_what_a_flow_is_asked_may_be_written_to():
    def spoil(theta):
        theta[:] = np.nan
        return 0.0

    loss, _ = problem("population")
    theta0 = point("two-weight", D, WIDTH)
    flows = [rg.gradient_flow(loss, theta0, 1.0, observe=observe) for observe in ({"spoil": spoil}, None)]
    assert flows[0].theta.tobytes() == flows[1].theta.tobytes()


@every_loop
@pytest.mark.parametrize("plain, fused", [("plain", "population"), ("plain batches", "online")])
def test_a_plain_loop_makes_the_steps_of_the_fused_one(arch, plain, fused):
    """On the same samples, too; to rounding, which 40 steps have not yet magnified."""
    one, other = (run(kind, 40, arch=arch, observe=OBSERVE) for kind in (plain, fused))
    assert one.steps.tolist() == other.steps.tolist() and one.stop_reason == other.stop_reason
    assert relative_error(one.observed["theta"], other.observed["theta"]) < 1e-12
    assert relative_error(one.loss, other.loss) < 1e-12


def test_a_loss_may_keep_its_points_on_a_constraint():
    class Circle:
        def value_and_grad(self, theta):
            assert abs(theta @ theta - 1) < 1e-15
            return theta[0], np.array([1.0, 0.0])

        def retract(self, theta):
            return theta / np.linalg.norm(theta)

    result = rg.train(Circle(), [3.0, 4.0], rg.SGD(0.1), 300, observe=OBSERVE)
    assert result.observed["theta"][0].tolist() == [0.6, 0.8]
    np.testing.assert_allclose(result.theta, [-1, 0], atol=1e-9)


def test_other_exceptions_of_progress_are_not_swallowed():
    def fail(state, records):
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        run("online", 20, progress=fail)


# --------------------------------------------------------------------------- numbers at the edges


@every_kind
def test_a_start_whose_loss_is_no_float_is_refused(kind):
    loss, batch_size = problem(kind)
    with pytest.raises(ValueError, match="^theta0 has the loss (inf|nan), but must have a finite one$"):
        rg.train(loss, 1e200 * point("two-weight", D, WIDTH), OPTIMIZER, 3, batch_size)


@every_loop
@every_kind
@pytest.mark.parametrize("size", [5e-324, 1e-310, 1e-200])
def test_parameters_as_small_as_floats_go_are_zeros(arch, kind, size):
    """Here every term they add is below the last digit of what it is added to, or is itself zero."""
    loss, batch_size = problem(kind, arch)
    results = [
        rg.train(loss, start * np.ones(RECORDS[arch].size(D, WIDTH)), rg.SGD(1e-3), 5, batch_size)
        for start in (0.0, size)
    ]
    zero, tiny = (result.loss[0] for result in results)
    assert abs(tiny - zero) <= ROUNDING * zero and np.isfinite(results[1].theta).all()


@every_loop
@every_kind
def test_twin_units_stay_twins(arch, kind):
    """Units that begin equal get equal gradients."""
    loss, batch_size = problem(kind, arch)
    record, theta0 = RECORDS[arch], point(arch, D, WIDTH)
    W1, W2, *_ = record.unflatten(theta0, D)
    E = record.identity * np.eye(D, WIDTH)
    W1[:, 3] = (W1 + E)[:, 1] - E[:, 3]
    if W2 is not None:
        W2[3] = W2[1]
    result = rg.train(loss, theta0, rg.Nesterov(1e-3, 0.9), 200, batch_size)
    U, A, _ = record.canonical(result.theta, D)
    assert relative_error(U[:, 3], U[:, 1]) < 1e-12 and relative_error(A[3], A[1]) < 1e-12
    assert result.loss[-1] < result.loss[0] and np.linalg.norm(result.theta - theta0) > 1e-3


# ---------------------------------------------------------------------- what the theory conserves


@every_sum
@every_kind
def test_a_summed_readout_never_moves_what_it_does_not_see(arch, kind):
    """All columns of W2 get one gradient, so their differences stay what they were."""
    theta0, record = point(arch, D, WIDTH), rg.ARCHITECTURES[arch]
    move = record.unflatten(run(kind, 200, arch=arch).theta - theta0, D)[1]
    assert np.max(np.abs(move)) > 0.01
    assert np.max(np.abs(move - move[:, :1])) < ROUNDING


def gradients(arch, theta, d):
    """The sampled and the expected gradient at theta."""
    teacher = rg.Network(arch, point(arch, d, 2, seed=1), d)
    return rg.EmpiricalLoss(arch, *samples(arch, 40, d)).grad(theta), rg.PopulationLoss(arch, teacher).grad(theta)


@every_centered
def test_permuting_the_units_permutes_the_gradient(arch):
    d, k, order, record = 3, 4, [2, 0, 3, 1], rg.ARCHITECTURES[arch]
    theta = np.round(point(arch, d, k) * 64) / 64  # dyadic: adding and taking off the identity is exact
    E = record.identity * np.eye(d, k)

    def permute(blocks, E):
        rows = None if blocks.W2 is None else blocks.W2[order]
        return record.flatten(**blocks._replace(W1=(blocks.W1 + E)[:, order] - E, W2=rows)._asdict())

    permuted = permute(record.unflatten(theta, d), E)
    for before, after in zip(gradients(arch, theta, d), gradients(arch, permuted, d)):
        assert relative_error(after, permute(record.unflatten(before, d), 0 * E)) < ROUNDING


@pytest.mark.parametrize("arch", TRAINED_READOUT)
def test_input_and_output_of_a_unit_pull_equally(arch):
    """u_j . dL/du_j = a_j . dL/da_j, for rescaling u_j -> c u_j, a_j -> a_j / c changes nothing."""
    d, k, record = 3, 4, rg.ARCHITECTURES[arch]
    theta = point(arch, d, k)
    U, A, _ = record.canonical(theta, d)
    for gradient in gradients(arch, theta, d):
        dU, dW2, *_ = record.unflatten(gradient, d)
        dA = dW2[:, :1] if record.readout == "sum" else dW2
        inward, outward = np.sum(U * dU, axis=0), np.sum(A * dA, axis=1)
        assert relative_error(inward, outward) < ROUNDING


def test_the_population_loss_of_vanilla_does_not_see_rotations():
    d = 4
    theta, star = point("vanilla", d, 3), point("vanilla", d, 2, seed=1)
    R = np.linalg.qr(np.random.default_rng(0).standard_normal((d, d)))[0]

    def turn(theta):
        return (R @ theta.reshape(d, -1)).ravel()

    loss = rg.PopulationLoss("vanilla", rg.Network("vanilla", star, d))
    turned = rg.PopulationLoss("vanilla", rg.Network("vanilla", turn(star), d))
    assert abs(turned.value(turn(theta)) / loss.value(theta) - 1) < ROUNDING
    assert relative_error(turned.grad(turn(theta)), turn(loss.grad(theta))) < ROUNDING


# --------------------------------------------------------------------------------------- errors

GOOD = {
    "loss": rg.PopulationLoss("li", rg.Network("li", np.zeros(4), 2)),
    "theta0": np.ones(4),
    "optimizer": rg.SGD(0.1),
    "n_steps": 1,
}
TEACHER = rg.Network("vanilla", np.eye(2).ravel(), 2)


class Bare:
    """A loss whose gradient has not the shape of theta."""

    def value_and_grad(self, theta):
        return 0.0, np.zeros(2)


SAMPLED = rg.EmpiricalLoss("li", np.ones((3, 2)), np.ones(3))


@pytest.mark.parametrize(
    "bad, error, message",
    [
        ({"n_steps": 0}, ValueError, "^n_steps is 0, but must be at least 1$"),
        ({"n_steps": 2.5}, TypeError, "^n_steps is 2.5, but must be an integer$"),
        ({"n_steps": 1e3}, TypeError, "^n_steps is 1000.0, but must be an integer$"),
        ({"record_every": 0}, ValueError, "^record_every is 0, but must be at least 1$"),
        ({"loss": SAMPLED, "batch_size": 0}, ValueError, "^batch_size is 0, but must be at least 1$"),
        ({"loss": SAMPLED, "batch_size": "5"}, TypeError, "^batch_size is '5', but must be an integer$"),
        ({"batch_size": 5}, ValueError, "^batch_size is 5, but PopulationLoss draws no batches$"),
        ({"optimizer": "sgd"}, TypeError, "^optimizer is 'sgd', but must be rg.SGD or rg.Nesterov$"),
        ({"optimizer": rg.SGD}, TypeError, "^optimizer is <class .*SGD'>, but must be rg.SGD or rg.Nesterov$"),
        ({"loss": "mse"}, TypeError, "^loss is 'mse', but must have value_and_grad$"),
        ({"loss": Foreign("li", GOOD["loss"].teacher), "theta0": [np.nan]}, ValueError, "^theta0 holds nan at index"),
        ({"loss": rg.GeLeeMaLoss(TEACHER), "theta0": np.ones(3)}, ValueError, r"^theta has shape \(3,\), but B with"),
        ({"loss": Bare(), "batch_size": 5}, ValueError, r"^batch_size is 5, but <.*> has no batch\(batch_size, rng\)$"),
        ({"loss": Bare()}, ValueError, r"^loss has a gradient of shape \(2,\), but theta has shape \(4,\)$"),
        ({"seed": -1}, ValueError, "^seed is -1, but must be at least 0$"),
        ({"seed": "zero"}, TypeError, "^seed is 'zero', but must be an integer$"),
        ({"theta0": np.ones(5)}, ValueError, r"^theta has shape \(5,\), but li with d=2 needs \(4,\)"),
        ({"theta0": [1, 2, np.nan, 3]}, ValueError, r"^theta holds nan at index \(2,\), but must be finite$"),
    ],
)
def test_train_says_what_does_not_fit(bad, error, message):
    with pytest.raises(error, match=message):
        rg.train(**(GOOD | bad))


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: rg.draw("li", "unifrm", 3), ValueError, "^kind is 'unifrm', .*did you mean 'uniform'"),
        (lambda: rg.draw("li-free", "normal+smal", 3), ValueError, "^kind is 'normal[+]smal', but must be one of"),
        (
            lambda: rg.draw("li", "normal+small", 3),
            ValueError,
            "^kind is normal[+]small, but li trains no skip, and wants one kind only$",
        ),
        (lambda: rg.draw("li", "zero", 0), ValueError, "^d is 0, but must be at least 1$"),
        (lambda: rg.draw("li", "zero", 3, width=0), ValueError, "^width is 0, but must be at least 1$"),
        (
            lambda: rg.dataset(rg.Network("li", np.zeros(4), 2), 0),
            ValueError,
            "^n_samples is 0, but must be at least 1$",
        ),
        (lambda: rg.streams(1.5), TypeError, "^seed is 1.5, but must be an integer$"),
        (lambda: rg.streams(0, -1), ValueError, "^run is -1, but must be at least 0$"),
        (
            lambda: rg.gradient_flow(GOOD["loss"], np.ones(4), 0.0),
            ValueError,
            "^t_max is 0.0, but must be a finite number above 0$",
        ),
        (lambda: rg.gradient_flow(GOOD["loss"], [np.inf] * 4, 1.0), ValueError, "^theta0 holds inf at index"),
    ],
)
def test_teachers_data_and_flows_say_what_does_not_fit(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_resume_that_does_not_fit_is_refused():
    loss, _ = problem("empirical")
    theta0, kept = point("two-weight", D, WIDTH), []
    rg.train(loss, theta0, OPTIMIZER, 3, 5, progress=lambda *saved: kept.append(copy.deepcopy(saved)))
    fewer = rg.EmpiricalLoss(loss.arch, *(part[:7] for part in samples("two-weight", N_SAMPLES, D)))
    other = rg.EmpiricalLoss("li", np.zeros((7, D)), np.zeros(7))
    for bad, saved, options in (
        (fewer, kept[-1], {}),
        (other, kept[-1], {}),
        (loss, kept[-1], {"observe": {"norm": np.linalg.norm}}),
        (loss, (kept[-1][0], []), {}),
    ):
        with pytest.raises(ValueError, match="^resume holds"):
            rg.train(bad, theta0, OPTIMIZER, 30, 5, resume=saved, **options)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"method": "bdf"}, "did you mean|must be one of"),
        ({"t_max": -1}, "^t_max is -1"),
        ({"t_eval": []}, "^t_eval"),
        ({"t_eval": [0.5]}, "^t_eval must increase"),
        ({"rtol": -1}, "^rtol is -1"),
        ({"theta0": np.zeros((2, 2))}, "^theta0 has shape"),
    ],
)
def test_gradient_flow_says_what_does_not_fit(bad, message):
    loss = rg.PopulationLoss("li", rg.Network("li", np.full(4, 0.1), 2))
    with pytest.raises(ValueError, match=message):
        rg.gradient_flow(**({"loss": loss, "theta0": np.zeros(4), "t_max": 1.0} | bad))
    with pytest.raises(ValueError, match="has no hessian"):
        rg.gradient_flow(rg.EmpiricalLoss("li", np.eye(2), np.ones(2)), np.zeros(4), 1.0)


@pytest.mark.parametrize("arch", ["li", "vanilla-free", "leaky", "even"])
@pytest.mark.parametrize("of", ["resnet", "modresnet-free"])
def test_a_scalar_student_learns_the_sum_of_a_vector_teacher(arch, of):
    teacher, student = rg.Network(of, point(of, D, WIDTH), D), RECORDS[arch]
    X = np.random.default_rng(0).standard_normal((200_000, D))
    theta = point(arch, D)
    exact = rg.PopulationLoss(student, teacher).value(theta)
    errors = (rg.Network(student, theta, D)(X) - teacher(X).sum(axis=1)) ** 2
    assert abs(errors.mean() - exact) < 5 * errors.std() / len(X) ** 0.5
    batch = rg.OnlineLoss(student, teacher).batch(50, rng=0)
    x = batch.rows[:, :D]
    wanted = (rg.Network(student, theta, D)(x) - teacher(x).sum(axis=1)) ** 2
    assert relative_error(batch.values(theta), wanted) < ROUNDING
    with pytest.raises(ValueError, match=f"{arch} has 1 output, but resnet has"):
        rg.PopulationLoss("resnet", rg.Network(student, theta, D))


def test_a_trained_skip_learns_what_other_slopes_add():
    """s(z) = n z + (p - n) relu(z): a relu student with a trained skip can be a teacher of other slopes."""
    p, n = RECORDS["leaky"].slopes
    star = point("leaky", D)
    W1, W2, C, _ = RECORDS["leaky"].unflatten(star, D)
    relu = rg.ARCHITECTURES["two-weight-free"]
    theta = relu.flatten(W1 - np.eye(D), (p - n) * W2, C + n * W1 @ W2.sum(axis=1, keepdims=True))
    loss = rg.PopulationLoss(relu, rg.Network(RECORDS["leaky"], star, D))
    assert loss.value(theta) < 1e-29 and np.abs(loss.grad(theta)).max() < 1e-14
    assert np.linalg.norm(loss.grad(theta + 0.1)) > 1e-2


@pytest.mark.parametrize("arch", ["modresnet-free", "leaky"])
@pytest.mark.parametrize("width", [WIDTH, *slow(70)], ids=["narrow", "wide"])
@pytest.mark.parametrize("kind", ["empirical", "online"])
def test_a_run_that_diverged_leaves_nothing_behind(arch, width, kind):
    """The next call of the same loop has the same memory, and finds no NaN in it."""
    (loss, batch_size), ends = problem(kind, arch), []
    for starts in ((1.0,), (1e200, 1.0)):
        advance = training.advancer(loss, OPTIMIZER, batch_size, width)
        for size in starts:
            state = training.State.start(loss, size * point(arch, D, width), np.random.default_rng(0))
            advance(state, 7)
            ends.append(state)
    assert not np.isfinite(ends[1].w).all()
    assert np.isfinite(ends[0].w).all() and ends[2].w.tobytes() == ends[0].w.tobytes()
    assert ends[2].v.tobytes() == ends[0].v.tobytes() and ends[2].window_loss == ends[0].window_loss
