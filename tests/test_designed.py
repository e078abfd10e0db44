"""Losses by design: against the expected loss, quadrature, tensors, sums over samples, and what theory knows."""

import itertools
import json

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
from conftest import RECORDS, left, point, relative_error, run, same_outputs, slow

import resgrad as rg
from resgrad import census, duals, experiment, gelee_ma
from resgrad.gelee_ma import OfStudent, recovery_error
from resgrad.runs import protocol

GENERIC = 1e-13  # sums of some ten terms, each good to a few rounding errors
Z_SCORE = 5.0  # of 1e3 numbers a normal one passes it in 6e-4 of all test suites
every_kernel = pytest.mark.parametrize("kernel", duals.DUALS)
either = pytest.mark.parametrize("unit_rows", [False, True])


def kernel_loss(arch, kernel="hermite24", d=3, teacher=None, width_star=2, **options):
    """(a loss, a generic point): the student has another width than the teacher."""
    teacher = rg.Network(RECORDS[teacher or arch], point(teacher or arch, d, width_star, seed=7), d)
    return rg.KernelLoss(RECORDS[arch], teacher, kernel, **options), point(arch, d, 4)


def orthonormal(d, strengths=1.0):
    """The teacher sum_i a_i relu(x_i)."""
    return rg.Network("vanilla", np.diag(np.broadcast_to(strengths, d)).astype(float).ravel(), d)


# ------------------------------------------------------------------------------- other activations


@pytest.mark.parametrize("arch", [name for name, arch in RECORDS.items() if arch.slopes == (1, 0) and not arch.bias])
@pytest.mark.parametrize("teacher", ["vanilla", "resnet", "modresnet-sum"])
def test_relus_kernel_is_the_expected_loss(arch, teacher):
    if not same_outputs(arch, teacher):
        teacher = "resnet"
    loss, theta = kernel_loss(arch, "relu", teacher=teacher)
    exact = rg.PopulationLoss(loss.arch, loss.teacher)
    assert relative_error(loss.value(theta), exact.value(theta)) < GENERIC
    assert relative_error(loss.grad(theta), exact.grad(theta)) < GENERIC
    assert relative_error(loss.hessian(theta), exact.hessian(theta)) < GENERIC


def test_the_even_kernel_is_the_expected_loss_of_the_even_record():
    loss, theta = kernel_loss("vanilla", "even")
    exact = rg.PopulationLoss("even", rg.Network("even", loss.teacher.theta, 3))
    for name in ("value", "grad", "hessian"):
        assert relative_error(getattr(loss, name)(theta), getattr(exact, name)(theta)) < GENERIC


@pytest.mark.parametrize("arch", ["two-weight", "modresnet-free", *slow("li", "resnet", "vanilla-free")])
@every_kernel
@either
def test_gradient_and_hessian_are_derivatives(arch, kernel, unit_rows):
    loss, theta = kernel_loss(arch, kernel, unit_rows=unit_rows)
    assert rg.check_gradient(loss, theta).ok
    assert rg.check_hessian(loss, theta).ok
    assert rg.check_gradient(loss.batch(20, rng=0).value_and_grad, theta).ok


@every_kernel
def test_a_kernel_is_the_expected_product_of_two_activations(kernel):
    """By Gauss-Hermite quadrature in the plane; exact for polynomials, and slow where f has a kink."""
    dual, (nodes, weights) = duals.DUALS[kernel], np.polynomial.hermite_e.hermegauss(200)
    x, y = np.meshgrid(nodes, nodes)
    weights = np.outer(weights, weights) / (2 * np.pi)
    for phi in (0.3, 1.2, 2.0, 3.0):
        c = np.cos(phi)
        f, g = dual.activation(x)[0], dual.activation(c * x + np.sin(phi) * y)[0]
        _, K, K1, K2 = (part.item() for part in dual.at(np.array([[1.0, 0.0]]), np.array([[c, np.sin(phi)]])))
        kink = 3e-3 if kernel in ("relu", "even") else 1e-12
        assert abs(np.sum(weights * f * g) - K) < kink
        series = np.polynomial.Polynomial(dual.squares(3000))
        for n, value in enumerate((K, K1, K2)):
            assert abs(series.deriv(n)(c) - value) < 1e-9 * max(1, abs(value))


@every_kernel
def test_a_kernels_activation_has_the_derivative_and_the_labels_that_it_says(kernel):
    dual, t = duals.DUALS[kernel], np.array([-1.7, -0.4, 0.3, 2.1])
    f, slope = dual.activation(t)
    h = 1e-6
    np.testing.assert_allclose((dual.activation(t + h)[0] - dual.activation(t - h)[0]) / (2 * h), slope, atol=1e-8)
    hermite = {1: lambda x: x, 2: lambda x: (x**2 - 1) / 2**0.5, 4: lambda x: (x**4 - 6 * x**2 + 3) / 24**0.5}
    for k, h_k in hermite.items():

        def part(g):
            sides = ((-np.inf, 0), (0, np.inf))
            return sum(scipy.integrate.quad(lambda x: g(x) * h_k(x) * np.exp(-x * x / 2), *side)[0] for side in sides)

        own = part(lambda x: dual.activation(x)[0]) / (2 * np.pi) ** 0.5
        label = dual.labels * part(lambda x: max(x, 0.0)) / (2 * np.pi) ** 0.5
        assert own**2 == pytest.approx(dual.squares(4)[k], abs=1e-9)
        assert own == pytest.approx(0, abs=1e-9) or own == pytest.approx(label, rel=1e-9)
        if k == 1:
            assert 2 * own == pytest.approx(dual.slope, abs=1e-9)


@every_kernel
@either
@pytest.mark.parametrize("arch", ["vanilla", "resnet-free"])
def test_a_batch_has_the_gradient_of_the_loss_on_average(kernel, unit_rows, arch):
    loss, theta = kernel_loss(arch, kernel, unit_rows=unit_rows)
    grads = np.array([loss.batch(500, rng=seed).value_and_grad(theta)[1] for seed in range(60)])
    error = grads.std(axis=0, ddof=1) / len(grads) ** 0.5
    assert (np.abs(grads.mean(axis=0) - loss.grad(theta)) <= Z_SCORE * error + 1e-14).all()


@every_kernel
@pytest.mark.parametrize("arch", ["li", "modresnet"])
def test_with_unit_rows_lengths_do_not_count(kernel, arch):
    loss, theta = kernel_loss(arch, kernel, unit_rows=True)
    unit = loss.retract(theta)
    U, A, _ = loss.arch.canonical(unit, 3)
    np.testing.assert_allclose(np.linalg.norm(U, axis=0), 1, rtol=1e-15)
    np.testing.assert_array_equal(A, loss.arch.canonical(theta, 3)[1])
    assert loss.value(unit) == pytest.approx(loss.value(theta), rel=1e-13)
    free = rg.KernelLoss(loss.arch, loss.teacher, kernel)
    assert free.value(unit) == pytest.approx(loss.value(unit), rel=1e-13)
    dU = loss.grad(unit)[: U.size].reshape(U.shape)
    assert np.abs(np.sum(U * dU, axis=0)).max() < 1e-13 * np.abs(dU).max()
    tangent = free.grad(unit)[: U.size].reshape(U.shape)
    np.testing.assert_allclose(tangent - U * np.sum(U * tangent, axis=0), dU, atol=1e-13)
    np.testing.assert_array_equal(free.retract(theta), theta)


@either
def test_a_zero_unit_takes_no_part(unit_rows):
    loss, theta = kernel_loss("resnet-free", "relu", unit_rows=unit_rows)
    U, A, C = loss.arch.canonical(theta, 3)
    U[:, 1] = 0
    theta = loss.retract(loss.arch.flatten(U, A, C))
    exact = rg.PopulationLoss(loss.arch, loss.teacher)
    if unit_rows:
        assert loss.value(theta) == pytest.approx(exact.value(theta), rel=1e-12)
        assert not loss.arch.unflatten(loss.grad(theta), 3).W1[:, 1].any()
        return
    assert relative_error(loss.grad(theta), exact.grad(theta)) < GENERIC
    assert relative_error(loss.hessian(theta), exact.hessian(theta)) < GENERIC


@every_kernel
def test_parallel_and_opposite_units_are_no_exception(kernel):
    loss, _ = kernel_loss("vanilla", kernel, width_star=2)
    u = loss.teacher.W1[:, 0]
    theta = np.column_stack([u, -2 * u, u]).ravel()
    near = theta + 1e-9 * np.random.default_rng(0).standard_normal(theta.size)
    assert np.isfinite(loss.hessian(theta)).all()
    np.testing.assert_allclose(loss.grad(near), loss.grad(theta), atol=1e-7)
    np.testing.assert_allclose(loss.hessian(near), loss.hessian(theta), atol=1e-6)


# ------------------------------------------------------------------------------------------- degrees


def tensor_power(z, k):
    """z (x) ... (x) z, k factors."""
    power = np.ones(())
    for _ in range(k):
        power = np.multiply.outer(power, z)
    return power


@pytest.mark.parametrize("arch", ["vanilla", "two-weight", "resnet", "modresnet-free"])
def test_the_parts_of_a_loss_are_norms_of_tensors(arch):
    """E|F - F*|^2 = sum_k s_k^2 |sum_l |z_l| q_l (x) z_l^(x)k|^2, each tensor made in full."""
    loss, theta = kernel_loss(arch, "relu")
    found = rg.hermite_spectrum(rg.PopulationLoss(loss.arch, loss.teacher), theta, 6)
    U, A, C = loss.arch.canonical(theta, 3)
    U_star, A_star, C_star = loss.teacher.canonical()
    Z, Q = np.hstack([U, U_star]).T, np.vstack([A, -A_star])
    for k, square in {0: 1 / (2 * np.pi), 1: 1 / 4, 2: 1 / (4 * np.pi), 3: 0, 4: 1 / (48 * np.pi), 5: 0,
                      6: 1 / (160 * np.pi)}.items():  # fmt: skip
        norms = np.linalg.norm(Z, axis=1)
        tensor = sum(np.multiply.outer(q * r, tensor_power(z / r, k)) for z, r, q in zip(Z, norms, Q))
        if k == 1:
            tensor = tensor + 2 * (C - C_star).T
        assert found.parts[k] == pytest.approx(square * np.sum(tensor**2), rel=1e-12, abs=1e-30)
    assert found.parts.sum() + found.rest == pytest.approx(loss.value(theta), rel=1e-12)


@pytest.mark.parametrize("d", range(1, 7))
@pytest.mark.parametrize("arch", ["vanilla", "resnet", "two-weight-free", "modresnet"])
def test_the_expected_loss_is_the_sum_of_its_parts(arch, d, degrees=3000):
    """Without K: what is above a degree is every unit's own part, known in full, and pairs, of which c^k is left."""
    loss, theta = kernel_loss(arch, "relu", d=d, width_star=d + 1)
    exact = rg.PopulationLoss(loss.arch, loss.teacher)
    parts = rg.hermite_spectrum(exact, theta, degrees).parts
    above = 1 / 2 - duals.DUALS["relu"].squares(degrees).sum()  # E relu(z)^2 = 1/2
    U, A, _ = loss.arch.canonical(theta, d)
    U_star, A_star, _ = loss.teacher.canonical()
    Z, Q = np.hstack([U, U_star]), np.vstack([A, -A_star])
    r = np.linalg.norm(Z, axis=0)
    c, weight = (Z / r).T @ (Z / r), (Q @ Q.T) * np.outer(r, r)
    same = np.abs(c) > 1 - 1e-12  # parallel and opposite units, as all are where d = 1; even degrees are left
    remainder = above * np.sum(np.abs(weight[~same]) * np.abs(c[~same]) ** (degrees + 2))
    total = parts.sum() + above * weight[same].sum()
    assert remainder < 1e-5 * total
    assert abs(total - exact.value(theta)) <= remainder + 1e-12 * total


@every_kernel
@either
def test_the_parts_of_a_kernel_loss_are_in_its_degrees(kernel, unit_rows):
    loss, theta = kernel_loss("modresnet", kernel, unit_rows=unit_rows)
    found = rg.hermite_spectrum(loss, theta, 5)
    assert found.parts.sum() + found.rest == pytest.approx(loss.value(theta), rel=1e-12)
    if kernel.startswith("hermite"):
        assert set(np.flatnonzero(found.parts)) - {1} == set(map(int, kernel.removeprefix("hermite")))  # 1: the skip
        assert found.rest < 1e-14
    if kernel == "even":
        assert not found.parts[[3, 5]].any()


# ------------------------------------------------------------------------------------- Ge, Lee & Ma's G


def generic_g(d=3, k=4, mu=0.3, lam=0.7):
    teacher = rg.Network("two-weight", np.abs(point("two-weight", d, 2, seed=3)), d)
    return rg.GeLeeMaLoss(teacher, mu, lam), point("vanilla", d, k)


def phi(v, w, x):
    vv, ww, vw, vx, wx = v @ v, w @ w, v @ w, v @ x, w @ x
    return vv * ww / 2 + vw**2 - ww * vx**2 / 2 - vv * wx**2 / 2 - 2 * vx * wx * vw + vx**2 * wx**2 / 2


def phi1(v, x):
    return (v @ v) ** 2 / 8 - (v @ x) ** 2 * (v @ v) / 4 + (v @ x) ** 4 / 24


def test_g_is_the_formula_in_the_teachers_coordinates():
    loss, theta = generic_g()
    B, cP, cR = theta.reshape(4, 3), 0.199471140200716, 0.0166225950167264
    U, A, _ = loss.teacher.canonical()
    total = 0.7 * sum((b @ b - 1) ** 2 for b in B)
    for u, (a,) in zip(U.T, A):
        strength, inner = a * np.linalg.norm(u), B @ u / np.linalg.norm(u)
        total += cP * strength * sum(s**2 * t**2 for s, t in itertools.permutations(inner, 2))
        total -= cR * 0.3 * strength * sum(inner**4)
    assert loss.value(theta) == pytest.approx(total, rel=1e-12)


def test_gs_derivatives_are_derivatives():
    loss, theta = generic_g()
    assert rg.check_gradient(loss, theta).ok and rg.check_hessian(loss, theta).ok
    assert rg.check_gradient(loss.batch(20, rng=0).value_and_grad, theta).ok


@pytest.mark.parametrize("size", [1, 2, 7, 20])
def test_a_batch_of_g_is_the_sum_of_phi_and_phi1_over_its_samples(size, monkeypatch):
    """With what is left of each label, and in parts of three samples, too."""
    loss, theta = generic_g()
    batch, B, total = (
        loss.batch(size, rng=1),
        theta.reshape(4, 3),
        0.7 * sum((b @ b - 1) ** 2 for b in theta.reshape(4, 3)),
    )
    for x, y in zip(batch.X, higher_twin(batch.X, loss.teacher(batch.X))):
        total -= y / size * sum(phi(v, w, x) for v, w in itertools.permutations(B, 2))
        total += 0.3 * y / size * sum(phi1(b, x) for b in B)
    value, gradient = batch.value_and_grad(theta)
    assert value == pytest.approx(total, rel=1e-11)
    monkeypatch.setattr(gelee_ma, "ROWS", 3)
    again, other = loss.batch(size, rng=1).value_and_grad(theta)
    assert again == pytest.approx(value, rel=1e-12) and np.allclose(other, gradient, rtol=1e-11, atol=1e-11)


def higher_twin(X, y):
    """Labels less what the other samples say of their parts of degrees 0, 1, 2, where d^degree samples are there."""
    kernels = (
        lambda x, z: 1.0,
        lambda x, z: x @ z,
        lambda x, z: np.sum((np.outer(x, x) - np.eye(len(x))) * (np.outer(z, z) - np.eye(len(x)))) / 2,
    )
    for degree, kernel in enumerate(kernels):
        if len(y) >= X.shape[1] ** degree:
            said = [sum(y[j] * kernel(X[i], X[j]) for j in range(len(y)) if j != i) for i in range(len(y))]
            y = y - np.array(said) / max(len(y) - 1, 1)
    return y


@pytest.mark.parametrize("size", [1, 2, 3])
def test_labels_less_what_the_others_say_are_unbiased(size):
    """E[h4(x) y] = 24 for y = 10 + 3 x^2 + h4(x), for few samples, too.  A quadrature of all of them is exact."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(9)
    weights, total = weights / weights.sum(), 0.0
    for picked in itertools.product(range(9), repeat=size):
        x = nodes[list(picked)]
        h4 = np.polynomial.hermite_e.hermeval(x, [0, 0, 0, 0, 1])
        rest = gelee_ma.higher(x[:, None], 10 + 3 * x**2 + h4)
        total += np.prod(weights[list(picked)]) * np.mean(h4 * rest)
    assert total == pytest.approx(24, rel=1e-11)


def test_labels_of_low_degree_are_no_labels_to_g():
    """What is left of a label is its part of degree 4 and more: the noise of many samples falls by a factor of 10."""
    loss = rg.GeLeeMaLoss(orthonormal(10), 0.1, 1.0)
    batch, theta = loss.batch(20_000, rng=0), point("vanilla", 10)
    noise = [np.linalg.norm(batch.value_and_grad(theta)[1] - loss.grad(theta))]
    batch.y = loss.teacher(batch.X)
    noise.append(np.linalg.norm(batch.value_and_grad(theta)[1] - loss.grad(theta)))
    assert noise[1] > 10 * noise[0]


def test_a_batch_of_g_has_its_value_and_gradient_on_average():
    loss, theta = generic_g()
    found = [loss.batch(2000, rng=seed).value_and_grad(theta) for seed in range(300)]
    numbers = np.array([np.append(value, grad) for value, grad in found])
    error = numbers.std(axis=0, ddof=1) / len(numbers) ** 0.5
    exact = np.append(loss.value(theta), loss.grad(theta))
    assert (np.abs(numbers.mean(axis=0) - exact) <= Z_SCORE * error).all()
    assert (np.abs(exact) > 2 * Z_SCORE * error).sum() > 6  # a wrong constant, a factor 2 or a sign, would be seen


def test_g_of_a_student_is_g_less_its_floor():
    loss = rg.GeLeeMaLoss(orthonormal(3, [1.0, 2.0, 3.0]), 0.3, 0.7)
    student, theta = OfStudent(loss), point("vanilla", 3, 4)
    B = theta.reshape(3, 4).T.ravel()
    assert student.value(theta) == loss.value(B) - loss.floor
    assert rg.check_gradient(student, theta).ok and rg.check_hessian(student, theta).ok
    value, _ = student.batch(50, rng=1).value_and_grad(theta)
    assert value == loss.batch(50, rng=1).value_and_grad(B)[0] - loss.floor
    assert rg.polish(student, np.eye(3).ravel() + 0.01).verdict == "global minimum"


@pytest.mark.parametrize("mu, lam", [(0.1, 1.0), (0.01, 100.0), (0.5, 2.0)])
@pytest.mark.parametrize("strengths", [1.0, [1.0, 2.0, 4.0, 8.0, 3.0]])
def test_scaled_permutations_of_the_teacher_are_critical_and_minimal(mu, lam, strengths):
    loss, rng = rg.GeLeeMaLoss(orthonormal(5, strengths), mu, lam), np.random.default_rng(0)
    order, signs = rng.permutation(5), rng.choice([-1, 1], 5)
    strengths = np.broadcast_to(strengths, 5)
    D = np.sqrt(lam / (lam - loss.cR * mu * strengths[order]))
    theta = (np.diag(signs * D) @ np.eye(5)[order]).ravel()
    assert np.abs(loss.grad(theta)).max() < 1e-13 * lam
    assert loss.value(theta) == pytest.approx(loss.floor, rel=1e-12)
    assert np.linalg.eigvalsh(loss.hessian(theta))[0] > 0.9 * 4 * loss.cP * strengths.min()


def test_the_smallest_eigenvalue_there_tends_to_4_cP():
    gaps = []
    for mu in (1e-1, 1e-2, 1e-3):
        loss = rg.GeLeeMaLoss(orthonormal(6), mu, 1.0)
        D = (1 / (1 - loss.cR * mu)) ** 0.5
        gaps.append(abs(np.linalg.eigvalsh(loss.hessian(D * np.eye(6).ravel()))[0] - 4 * loss.cP))
    assert gaps[2] < 2e-4 and np.allclose(np.array(gaps[:2]) / gaps[1:], 10, rtol=0.05)  # linear in mu


def test_every_local_minimum_of_g_is_a_permutation_of_the_teacher_up_to_sign():
    loss = rg.GeLeeMaLoss(orthonormal(10), 0.1, 1.0)
    for seed in range(100):
        theta0 = rg.draw("vanilla", "normal", d=10, rng=seed)
        options = {"gtol": 1e-9, "ftol": 0}
        fit = scipy.optimize.minimize(loss.value_and_grad, theta0, jac=True, method="L-BFGS-B", options=options)
        assert recovery_error(fit.x.reshape(10, 10), np.eye(10)) < 1e-12
        assert fit.fun == pytest.approx(loss.floor, rel=1e-12)


# ---------------------------------------------------------------------------------- the command line


@pytest.mark.parametrize("line", ["--loss even", "--loss hermite24 --rows unit", "--loss ge-lee-ma --mu 0.2 --lam 2"])
@pytest.mark.parametrize("data", ["population", "online --batch-size 100"])
def test_a_run_on_a_designed_loss_leaves_its_files_and_goes_on(line, data, tmp_path):
    line = f"--arch vanilla --d 4 --teacher identity --lr 0.002 {line} --data {data}".split()
    assert run(tmp_path / "whole", *line, "--steps", 60) == run(tmp_path / "parts", *line, "--steps", 25) == 0
    assert run(tmp_path / "parts", *line, "--resume", "--steps", 60) == 0
    assert left(tmp_path / "whole") == left(tmp_path / "parts")
    assert run(tmp_path / "whole", "--verify") == 0
    summary = json.loads((tmp_path / "whole" / "run.json").read_text())
    assert summary["result"]["units_permuted"] is None and "distance_final" not in summary["result"]
    assert 0 <= summary["result"]["recovery_final"] <= summary["result"]["missed_final"] < 1
    config = protocol.Config(**summary["config"])
    again = experiment._parser().given(protocol.command_line(config).split()[3:])
    assert protocol.resolve(**{name: value for name, value in again.items() if name in vars(config)}) == config


def test_a_designed_run_finds_the_teacher_and_has_a_page(tmp_path, capsys):
    line = "--arch vanilla --d 5 --loss ge-lee-ma --teacher identity --lr 0.05 --steps 1000 --report"
    assert experiment.main([*line.split(), "--out", str(tmp_path)]) == 0
    assert "e(Q)" in capsys.readouterr().out and "e(Q)" in (tmp_path / "report.html").read_text()
    assert json.loads((tmp_path / "run.json").read_text())["result"]["recovery_final"] < 1e-6


@pytest.mark.parametrize("line", ["--loss even", "--loss hermite24 --rows unit", "--loss ge-lee-ma"])
def test_a_census_counts_what_a_designed_loss_finds(line, tmp_path):
    """All global, as their theorem says for ge-lee-ma; and it goes on where it was."""
    line = f"--arch vanilla --d 5 --quiet --out {tmp_path} {line}".split()
    assert census.main([*line, "--runs", "2"]) == census.main([*line, "--runs", "4", "--resume"]) == 0
    found = json.loads((tmp_path / "census.json").read_text())
    assert (found["runs"], found["global"], found["config"]["loss"]) == (4, 4, line[line.index("--loss") + 1])


def test_the_preset_is_their_simulation():
    found = {loss: protocol.resolve("vanilla", "ge-lee-ma", loss=loss) for loss in ("relu", "hermite24", "ge-lee-ma")}
    assert all((c.d, c.width, c.teacher, c.data) == (50, 50, "identity", "online") for c in found.values())
    assert [c.batch_size for c in found.values()] == [256, 8192, 262_144]
    assert [c.rows for c in found.values()] == ["free", "unit", "free"]


@pytest.mark.parametrize(
    "line, told",
    [
        ("--arch li --loss ge-lee-ma", "arch is li, but loss ge-lee-ma has the units of vanilla"),
        ("--arch even --loss even", "arch is even, but a kernel needs units relu(u'x) to replace"),
        ("--arch li --loss even --data dataset", "data is dataset, but loss even needs population or online data"),
        ("--arch li --loss evn", "loss is 'evn', but must be one of relu, even, hermite24, ge-lee-ma; did you mean"),
        ("--arch li --mu 1", "mu or lam is given, but only loss ge-lee-ma has them, not relu"),
        ("--arch li --rows unit", "rows is unit, but loss relu leaves them free"),
        ("--arch vanilla --loss ge-lee-ma --mu -1", "mu is -1.0, but must be a finite number above 0"),
    ],
)
def test_what_does_not_fit_on_the_command_line_is_said(line, told, tmp_path, monkeypatch, refusal):
    monkeypatch.chdir(tmp_path)
    assert told in refusal(experiment.main, line.split())
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------ what does not fit


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: rg.KernelLoss("li", orthonormal(2), "hermite42"), ValueError, "kernel is 'hermite42', but must be"),
        (lambda: rg.KernelLoss("li", orthonormal(2), unit_rows=1), TypeError, "unit_rows is 1, but must be True or"),
        (lambda: rg.KernelLoss("even", orthonormal(2)), ValueError, "arch is even, but a kernel needs"),
        (lambda: rg.KernelLoss("li", 1), TypeError, "teacher is 1, but must be"),
        (lambda: rg.GeLeeMaLoss(1), TypeError, "teacher is 1, but must be"),
        (lambda: rg.GeLeeMaLoss(orthonormal(2), mu=0), ValueError, "mu is 0, but must be a finite number above 0"),
        (
            lambda: rg.GeLeeMaLoss(orthonormal(2), 100.0, 1.0),
            ValueError,
            "lam is 1, but must be above 1.66226: below it",
        ),
        (lambda: rg.GeLeeMaLoss(orthonormal(2, 0.0)), ValueError, "teacher vanilla must have one output"),
        (lambda: rg.GeLeeMaLoss(orthonormal(2)).grad(np.zeros(3)), ValueError, "theta has shape (3,), but B with d=2"),
        (lambda: rg.hermite_spectrum(rg.GeLeeMaLoss(orthonormal(2)), np.zeros(4)), TypeError, "loss is <resgrad"),
    ],
)
def test_what_does_not_fit_is_said(make, error, message):
    with pytest.raises(error) as caught:
        make()
    assert str(caught.value).startswith(message)
