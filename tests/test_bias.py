"""Networks with hidden biases through the package: the exact loss in theta, training, symmetries, command lines."""

import dataclasses

import naive
import numpy as np
import pytest
import test_biased
from conftest import RECORDS, point, relative_error, run, same_outputs

import resgrad as rg
from resgrad import training

GENERIC = 1e-12  # the twin's quadrature, and sums of some ten terms
DIFFERENCE = 1e-7  # a central difference with step 1e-5
CENTERED = 1e-13  # two kernels for one sum
DIGITS = 1e-8  # of the loss near a teacher
SIGMAS = 5.0
PAIRS = [
    ("li-bias", "li-bias"),
    ("li-bias", "li"),
    ("li", "li-bias"),
    ("li-bias", "resnet-sum"),
    ("two-weight-free", "li-bias"),
    ("leaky", "li-bias"),
    ("li-bias", "even"),
    ("all", "all"),
    ("all", "modresnet"),
    ("modresnet-free", "all"),
]
every_pair = pytest.mark.parametrize("student, teacher", PAIRS)


def pair(student, teacher, d=3, k=4, k_star=2, seed=0, **about):
    """(loss, theta, the names of both)."""
    theta, theta_star = point(student, d, k, seed), point(teacher, d, k_star, seed + 100)
    loss = rg.PopulationLoss(RECORDS[student], rg.Network(RECORDS[teacher], theta_star, d), **about)
    return loss, theta, (student, theta, teacher, theta_star, d)


def test_the_pairs_fit():
    assert all(same_outputs(*names) for names in PAIRS)


@every_pair
@pytest.mark.parametrize("d, k, k_star", [(3, 3, 2), (4, 2, 3), (1, 2, 2)])
def test_value_and_gradient_are_those_of_the_twin(student, teacher, d, k, k_star):
    loss, theta, names = pair(student, teacher, d, k, k_star)
    assert abs(loss.value(theta) / naive.population_loss(*names) - 1) < GENERIC
    assert relative_error(loss.grad(theta), naive.population_gradient(*names)) < GENERIC


@every_pair
def test_the_hessian_is_how_the_gradient_changes(student, teacher):
    loss, theta, _ = pair(student, teacher)
    H, h = loss.hessian(theta), 1e-5
    columns = [(loss.grad(theta + h * e) - loss.grad(theta - h * e)) / (2 * h) for e in np.eye(theta.size)]
    assert np.array_equal(H, H.T) and relative_error(H, np.array(columns)) < DIFFERENCE


@pytest.mark.parametrize("arch", ["li-bias", "all"])
def test_biases_of_zero_are_none(arch):
    record = RECORDS[arch]
    plain = dataclasses.replace(record, bias=False)
    rng, size = np.random.default_rng(0), plain.size(3)
    theta, star = rng.standard_normal((2, size)) / 2
    exact_loss = rg.PopulationLoss(plain, rg.Network(plain, star, 3))
    with_b, star_b = np.append(theta, np.zeros(3)), np.append(star, np.zeros(3))
    for teacher in (rg.Network(plain, star, 3), rg.Network(record, star_b, 3)):
        loss = rg.PopulationLoss(record, teacher)
        assert abs(loss.value(with_b) / exact_loss.value(theta) - 1) < CENTERED
        assert relative_error(loss.grad(with_b)[:size], exact_loss.grad(theta)) < CENTERED
        assert relative_error(loss.hessian(with_b)[:size, :size], exact_loss.hessian(theta)) < CENTERED


@every_pair
def test_samples_agree(student, teacher):
    loss, theta, _ = pair(student, teacher)
    X, Y = rg.dataset(loss.teacher, 200_000, rng=1)
    sampled = rg.EmpiricalLoss(loss.arch, X, Y)
    values = sampled.values(theta)
    assert abs(values.mean() - loss.value(theta)) < SIGMAS * values.std() / len(X) ** 0.5
    scale = np.linalg.norm(loss.grad(theta))
    assert np.linalg.norm(sampled.grad(theta) - loss.grad(theta)) < 0.05 * scale


@pytest.mark.parametrize("size", [1e-3, 1e-6, 1e-10])
@pytest.mark.parametrize("arch", ["li-bias", "two"])
def test_the_loss_near_a_teacher_keeps_its_digits(arch, size):
    """Permuted and, where that is a symmetry, rescaled."""
    sums = rg.Architecture("two", "sum(W2' relu((W1 + I)' x + b))", "tests", 1, 0, "sum", bias=True)
    record, d, k = RECORDS.get(arch, sums), 2, 2
    rng = np.random.default_rng(3)
    star = rng.standard_normal(record.size(d, k)) / 2 + 0.1
    theta = rg.transform(record, star, d, [1, 0], [0.7, 1.9] if record.trains_readout else None)
    theta = theta + size * rng.standard_normal(theta.size)
    loss = rg.PopulationLoss(record, rg.Network(record, star, d))
    found = []
    for at in (theta, star):
        W1, W2, _, b = record.unflatten(at, d)
        U = np.array(test_biased.exactly(np.vstack([W1, b])), object)
        U[np.arange(k), np.arange(k)] += 1
        rows = np.ones((k, 1)) if W2 is None else W2
        found += [U, np.array([[sum(row)] for row in test_biased.exactly(rows)], object)]
    U, A, U_star, A_star = found
    wanted = sum(test_biased.loss_terms(U, A, U_star, A_star, np.zeros((d + 1, 1))))
    assert abs(loss.value(theta) / float(wanted) - 1) < DIGITS


def test_the_loss_at_its_teacher_is_zero():
    star = point("li-bias", 4)
    loss = rg.PopulationLoss("li-bias", rg.Network("li-bias", star, 4))
    assert loss.value(star) == 0.0 and np.abs(loss.grad(star)).max() < 1e-14


def test_exact_descent_is_that_of_the_twin():
    loss, theta, names = pair("li-bias", "li-bias")
    trained = rg.train(loss, theta, rg.Nesterov(0.05, 0.9), 10)
    wanted = naive.nesterov(
        lambda at, _: naive.population_gradient("li-bias", at, *names[2:]), theta, range(10), 0.05, 0.9
    )
    assert relative_error(trained.theta, wanted) < GENERIC
    assert not training.fused(loss) and trained.loss[-1] == loss.value(trained.theta)


def test_fresh_samples_train_biases_as_the_twin_does():
    loss, theta, _ = pair("all", "all")
    online, rng, batches = rg.OnlineLoss(loss.arch, loss.teacher), np.random.default_rng(2), np.random.default_rng(2)
    trained = rg.train(online, theta, rg.SGD(0.01), 7, batch_size=5, seed=rng)
    data = [rg.dataset(loss.teacher, 5, batches) for _ in range(7)]
    wanted = naive.sgd(lambda at, batch: naive.loss_and_gradient("all", at, *batch)[1], theta, data, 0.01)
    assert relative_error(trained.theta, wanted) < GENERIC


def test_a_run_from_fresh_samples_does_not_depend_on_how_it_is_cut():
    loss, theta, _ = pair("li-bias", "li")
    online = rg.OnlineLoss("li-bias", loss.teacher)
    ends = [rg.train(online, theta, rg.SGD(0.01), 50, 9, seed=1, record_every=n).theta for n in (1, 7, 50)]
    assert np.array_equal(ends[0], ends[1]) and np.array_equal(ends[0], ends[2])


@pytest.mark.parametrize("arch", ["li-bias", "all"])
def test_align_takes_a_bias_as_one_more_entry_of_its_unit(arch):
    record, star, d = RECORDS[arch], point(arch, 4, 3), 4
    scales = [0.5, 3.0, 1.0] if record.trains_readout else None
    theta = rg.transform(record, star, d, [2, 0, 1], scales)
    found = rg.align(record, theta, star, d)
    assert found.distance < 1e-14 < found.raw_distance and found.permutation.tolist() == [2, 0, 1]
    X = np.random.default_rng(0).standard_normal((9, d))
    assert relative_error(rg.Network(record, theta, d)(X), rg.Network(record, star, d)(X)) < 1e-14
    if scales:
        W1, W2, _, b = record.unflatten(theta, d)
        W1_star, W2_star, _, b_star = record.unflatten(star, d)
        assert np.allclose(b, b_star[[2, 0, 1]] * scales, rtol=1e-15)
        assert np.allclose(found.scales, scales, rtol=1e-12)


def test_the_null_directions_at_a_teacher_are_those_of_its_symmetries():
    star = point("all", 3, seed=4)
    loss = rg.PopulationLoss(RECORDS["all"], rg.Network(RECORDS["all"], star, 3))
    found = rg.spectrum(loss, star)
    assert (found.nullity, found.predicted, found.index) == (3, 3, 0) and found.explained


def test_polish_finds_the_teacher():
    star = point("li-bias", 4)
    loss = rg.PopulationLoss("li-bias", rg.Network("li-bias", star, 4))
    end = rg.polish(loss, star + 0.05 * point("li-bias", 4, seed=1))
    assert end.verdict == "global minimum" and np.linalg.norm(end.theta - star) < 1e-12


def test_a_census_counts_minima_with_biases():
    found = rg.census("li-bias", 3, runs=6, seed=1, teacher="small")
    assert found.counts["global"] + found.counts["spurious"] + found.counts["saddle"] == 6


@pytest.mark.parametrize("data", ["dataset", "online", "population"])
def test_a_run_with_biases_resumes_and_verifies(data, tmp_path):
    small = ["--arch", "li-bias", "--d", 3, "--width", 4, "--data", data] + ["--samples", 500] * (data == "dataset")
    assert run(tmp_path / "once", *small, "--steps", 300) == 0
    assert run(tmp_path / "twice", *small, "--steps", 120) == 0
    assert run(tmp_path / "twice", "--resume", "--steps", 300, "--report") == 0
    for name in ("weights.npz", "history.csv"):
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "twice" / name).read_bytes()
    assert run(tmp_path / "once", "--verify") == 0 and (tmp_path / "twice" / "report.html").exists()


def test_the_teacher_of_the_notebook_has_no_biases():
    W1, _, _, b = RECORDS["li-bias"].unflatten(rg.draw("li-bias", "uniform+zero", 5, rng=0), 5)
    assert np.array_equal(W1.ravel(), rg.draw("li", "uniform", 5, rng=0)) and not b.any()
    assert rg.draw("li-bias", "identity", 2).tolist() == [1, 0, 0, 1, 0, 0]
    start = RECORDS["li-bias"].unflatten(rg.draw("li-bias", "fan-in", 50, rng=0), 50).b
    assert 0.9 < np.abs(start).max() * 50**0.5 < 1


@pytest.mark.parametrize("what", ["noise", "proof", "kernel", "degrees"])
def test_what_biases_have_no_formula_for_is_refused_by_name(what):
    loss, theta, _ = pair("li-bias", "li", k=3, k_star=3)
    with pytest.raises((ValueError, TypeError), match="bias|kernel needs units"):
        {
            "noise": lambda: rg.gradient_noise(loss, theta),
            "proof": lambda: rg.certify(loss, theta),
            "kernel": lambda: rg.KernelLoss("li-bias", loss.teacher),
            "degrees": lambda: rg.hermite_spectrum(loss, theta),
        }[what]()


def test_a_kernel_says_whose_units_it_cannot_replace():
    star = rg.Network("li-bias", point("li-bias", 3), 3)
    with pytest.raises(ValueError, match="^teacher is a li-bias, but a kernel needs units"):
        rg.KernelLoss("li", star)
