"""Every gradient of the package, against differences of its loss; the README names this file."""

import numpy as np
import pytest
from conftest import ARCHS, every_arch, same_outputs, slow

import resgrad as rg
from resgrad.gradcheck import check_gradient, check_hessian

D, SAMPLES = 4, 20
HESSIAN_RTOL = 1e-9  # Richardson differences of the exact gradient


def setting(arch, seed, d=D, n=SAMPLES):
    """(theta, teacher, data) at random."""
    rng = np.random.default_rng(seed)
    teacher = rg.Network(arch, rg.draw(arch, "normal", d, rng=rng), d)
    return rg.draw(arch, "normal", d, rng=rng), teacher, rg.dataset(teacher, n, rng)


def onto_kink(arch, theta, x, unit=0):
    """The point nearest to theta where a pre-activation vanishes on sample x."""
    theta = theta.copy()
    W1 = rg.ARCHITECTURES[arch].unflatten(theta, x.size)[0]
    for _ in range(2):
        U = rg.ARCHITECTURES[arch].canonical(theta, x.size)[0]
        W1[:, unit] -= (x @ U[: x.size, unit] + U[x.size :, unit].sum()) / (x @ x) * x
    return theta


@pytest.mark.parametrize("seed", range(3))
@every_arch
def test_empirical(arch, seed):
    theta, teacher, data = setting(arch, seed)
    loss = rg.EmpiricalLoss(arch, *data)
    for at in (theta, teacher.theta):
        report = check_gradient(loss, at)
        assert report.ok and report.max_rel_error < 1e-11, report


@pytest.mark.parametrize("seed", range(3))
@every_arch
def test_empirical_at_kinks(arch, seed):
    theta, _, (X, Y) = setting(arch, seed)
    loss = rg.EmpiricalLoss(arch, X, Y)
    kink = onto_kink(arch, onto_kink(arch, theta, X[0]), X[1], unit=1)
    report = check_gradient(loss, kink)
    assert report.ok and len(report.kinks) == 2 * (D + loss.arch.bias), report
    for near in (1e-14, 1e-11, 1e-6):
        report = check_gradient(loss, kink + near * theta)
        assert report.ok and report.max_rel_error < 1e-9, report


@every_arch
def test_online_batch(arch):
    theta, teacher, _ = setting(arch, 7)
    loss = rg.OnlineLoss(arch, teacher).batch(SAMPLES, rng=8)
    for at in (theta, onto_kink(arch, theta, loss.rows[3, :D]), teacher.theta):
        report = check_gradient(loss, at)
        assert report.ok and report.max_rel_error < 1e-9, report


@pytest.mark.parametrize("seed", [0, *slow(1)])
@every_arch
def test_population(arch, seed):
    theta, teacher, (X, _) = setting(arch, seed)
    loss = rg.PopulationLoss(arch, teacher)
    for at in (theta, onto_kink(arch, theta, X[0]), teacher.theta, teacher.theta + 1e-4 * theta):
        far = np.linalg.norm(at - teacher.theta) > 0.1  # near the minimum slopes are small, and their errors not
        dear = rg.ARCHITECTURES[arch].bias and not far  # four Hessians a value; Taylor remainders see every entry
        report = check_gradient(loss, at, entries=2 if dear else None)
        assert report.ok and report.max_rel_error < (1e-9 if far else 1e-6), report
        assert report.taylor_slopes == pytest.approx((2, 2, 2), abs=0.1)


@pytest.mark.parametrize("size", [1e-3, 1e-9, *slow(1e-5, 1e-7)])
@every_arch
def test_population_with_one_small_unit(arch, size):
    """The gradient turns within the unit's length: a difference may miss that, and must know that it may."""
    theta, teacher, _ = setting(arch, 13, d=2)
    U = rg.ARCHITECTURES[arch].canonical(theta, 2)[0]
    W1 = rg.ARCHITECTURES[arch].unflatten(theta, 2)[0]
    W1[:, 0] += (size / np.linalg.norm(U[:2, 0]) - 1) * U[:2, 0]
    loss = rg.PopulationLoss(arch, teacher)
    for report in (check_gradient(loss, theta), check_hessian(loss, theta)):
        assert not report.failures and not report.problems, report


@every_arch
def test_expected_gradient_of_the_online_loss(arch):
    theta, teacher, _ = setting(arch, 11)
    report = check_gradient(rg.OnlineLoss(arch, teacher), theta, smooth=True)
    assert report.ok and report.taylor_slopes, report


@every_arch
def test_hessian(arch):
    theta, teacher, _ = setting(arch, 5)
    loss = rg.PopulationLoss(arch, teacher)
    for at in (theta, teacher.theta):
        report = check_hessian(loss, at, rtol=HESSIAN_RTOL)
        assert report.ok, report


@pytest.mark.parametrize("student", ARCHS)
@pytest.mark.parametrize("teacher", ["li", "resnet", "modresnet-sum"])
def test_mixed_pairs_of_unequal_width(student, teacher):
    if not same_outputs(student, teacher):
        pytest.skip("they differ in the number of outputs")
    rng = np.random.default_rng(2)
    theta = rg.draw(student, "normal", D, width=3, rng=rng)
    net = rg.Network(teacher, rg.draw(teacher, "normal", D, width=5, rng=rng), D)
    for loss in (rg.EmpiricalLoss(student, *rg.dataset(net, 9, rng)), rg.PopulationLoss(student, net)):
        assert check_gradient(loss, theta).ok


@every_arch
def test_units_that_are_off(arch):
    theta, _, data = setting(arch, 3)
    loss = rg.EmpiricalLoss(arch, *data)
    W1 = rg.ARCHITECTURES[arch].unflatten(theta, D)[0]
    for units in (slice(0, 1), slice(None)):
        W1[:, units] = -rg.ARCHITECTURES[arch].identity * np.eye(D)[:, units]
        assert check_gradient(loss, theta).ok
    assert check_gradient(loss, np.zeros_like(theta)).ok


@every_arch
def test_duplicate_and_antipodal_samples(arch):
    theta, teacher, (X, _) = setting(arch, 4)
    for X2 in (np.vstack([X, X, X]), np.vstack([X, -X])):
        loss = rg.EmpiricalLoss(arch, X2, teacher(X2))
        assert check_gradient(loss, theta).ok
        assert check_gradient(loss, onto_kink(arch, theta, X[0])).ok


@pytest.mark.parametrize("scale", [1e-8, 1e8, *slow(1e-4, 1e4)])
@every_arch
def test_tiny_and_huge_parameters(arch, scale):
    """On samples it decides; in expectation rounding may hide the answer, and it may say so."""
    theta, teacher, data = setting(arch, 6)
    assert check_gradient(rg.EmpiricalLoss(arch, *data), scale * theta).ok
    report = check_gradient(rg.PopulationLoss(arch, teacher), scale * theta)
    assert not report.failures and not report.problems, report
    assert report.ok or scale < 1


@pytest.mark.parametrize("init", ["small", "normal", "uniform"])
@every_arch
def test_many_samples(arch, init):
    """The more samples, the nearer the next kink of their mean: what a common step would trip over."""
    teacher = rg.Network(arch, rg.draw(arch, "uniform", 10, rng=1), 10)
    loss = rg.EmpiricalLoss(arch, *rg.dataset(teacher, 2000, 2))
    report = check_gradient(loss, rg.draw(arch, init, 10, rng=5), entries=20)
    assert report.ok and report.max_rel_error < 1e-11, report


@every_arch
def test_float32_that_says_so(arch):
    theta, teacher, (X, _) = setting(arch, 9)
    X = X.astype(np.float32)
    loss = rg.EmpiricalLoss(arch, X, teacher(X))
    for at in (theta, onto_kink(arch, theta, X[0].astype(float)), teacher.theta):
        report = check_gradient(loss, at)
        assert report.ok and report.rtol == 1e-4, report


@pytest.mark.parametrize("points", [160, *slow(2000)])
def test_no_right_gradient_is_rejected(points):
    """Random points on samples: anywhere, on a kink, at the teacher, and as a foreign callable."""
    undecided, worst = 0, 0.0
    for seed in range(points):
        arch = ARCHS[seed % len(ARCHS)]
        theta, teacher, (X, Y) = setting(arch, seed, d=2 + seed % 2, n=7 + seed % 14)
        loss = rg.EmpiricalLoss(arch, X, Y)
        kind = (seed // len(ARCHS)) % 4
        at = (theta, onto_kink(arch, theta, X[0]), teacher.theta, theta)[kind]
        report = check_gradient(loss.value_and_grad if kind == 3 else loss, at, seed=seed)
        undecided += not report.ok
        worst = max(worst, report.max_rel_error)
        assert report.ok or kind == 3 and report.verdict == "cannot tell", report
    assert undecided <= points // 1000 and worst < 1e-9  # a foreign loss does not tell where its kinks are
