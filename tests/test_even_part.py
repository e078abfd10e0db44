"""What minimizing over a trained skip leaves: the claims of the docstring of `resgrad.minima`, one by one."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import point, relative_error, slow
from scipy import linalg, optimize

import resgrad as rg
from resgrad.minima import basins, problem
from resgrad.runs import tasks

PI = np.pi
ZERO = 1e-12  # of the loss at a global minimum; the others here have more than 1e-4
FREE = [name for name, arch in rg.ARCHITECTURES.items() if arch.trains_skip]
LINES = np.radians([0, 130, 260])  # three units in the plane


def identity_loss(arch, d):
    arch = rg.ARCHITECTURES[arch]
    theta_star = arch.flatten(np.eye(d), C=np.zeros((d, 1)) if arch.trains_skip else None)
    return rg.PopulationLoss(arch, rg.Network(arch, theta_star, d)), theta_star


def plane(arch, angles, k=None, weights=1.0):
    """A loss in the plane, whose teacher has these angles."""
    W1 = weights * np.array([np.cos(angles), np.sin(angles)])
    arch = rg.ARCHITECTURES[arch]
    return rg.PopulationLoss(
        arch, rg.Network(arch, arch.flatten(W1, C=np.zeros((2, 1)) if arch.trains_skip else None), 2)
    )


# ----------------------------------------------------------------------------- what the skip leaves


@pytest.mark.parametrize("name", FREE)
@pytest.mark.parametrize("k", [2, 5])
def test_minimizing_over_the_skip_leaves_the_even_part(name, k):
    d = 3
    arch = rg.ARCHITECTURES[name]
    even = replace(arch, name="even part", slopes=(0.5, -0.5), trains_skip=False)
    theta, theta_star = point(name, d, k, seed=1), point(name, d, seed=2)
    loss = rg.PopulationLoss(arch, rg.Network(arch, theta_star, d))
    (U, A, _), (U_star, A_star, C_star) = (arch.canonical(at, d) for at in (theta, theta_star))
    n, m = arch.size(d, k) - C_star.size, C_star.size
    best = np.r_[theta[:n], (C_star - (U @ A - U_star @ A_star) / 2).ravel()]
    rest = rg.PopulationLoss(even, rg.Network(even, theta_star[: arch.size(d) - m], d))
    assert relative_error(loss.value(best), rest.value(theta[:n])) < 1e-13
    grad, hessian = loss.grad(best), loss.hessian(best)
    assert relative_error(grad[:n], rest.grad(theta[:n])) < 1e-13
    assert np.abs(grad[n:]).max() < 1e-14
    np.testing.assert_array_equal(hessian[n:, n:], 2 * np.eye(m))
    schur = hessian[:n, :n] - hessian[:n, n:] @ hessian[n:, :n] / 2
    assert relative_error(schur, rest.hessian(theta[:n])) < 1e-13
    signs = [
        np.sign(linalg.eigvalsh(H)).sum() for H in (hessian, linalg.block_diag(rest.hessian(theta[:n]), np.eye(m)))
    ]
    assert arch.trains_readout or signs[0] == signs[1]
    moved = best + np.r_[np.zeros(n), np.full(m, 0.1)]
    assert loss.value(moved) - loss.value(best) == pytest.approx(0.01 * m, rel=1e-10)


# ----------------------------------------------------------------------------- near the teacher


@pytest.mark.parametrize("k", [3, 4, 7, 12])
def test_the_spectra_at_the_identity_are_the_closed_forms(k):
    b, c = 1 / 2 + k / 4 + k / (2 * PI), (1 + (k - 1) / PI) * (k / 2 + 1 / PI) - (k - 1) / 4
    root, other = np.sqrt(b * b - c), np.sqrt(k * k / 16 - (PI - 1) / PI**2)
    low, high = 1 / 2 - 1 / PI, 1 / 2 + 1 / PI
    expected = {
        "even": {low: (k - 1) * (k + 2) // 2, high: k * (k - 1) // 2, 1 / 2 + (k - 1) / PI: 1},
        "vanilla": {low: k * (k - 1) // 2, high: k * (k - 3) // 2, b - root: 1, b + root: 1}
        | {1 / 2 + k / 4 + sign * other: k - 1 for sign in (-1, 1)},
    }
    hessians = {}
    for name, spectrum in expected.items():
        loss, theta_star = identity_loss(name, k)
        hessians[name] = loss.hessian(theta_star)
        wanted = np.sort(np.repeat(list(spectrum), list(spectrum.values())))
        np.testing.assert_allclose(np.linalg.eigvalsh(hessians[name]), wanted, rtol=0, atol=1e-13 * k)
    Y = np.random.default_rng(k).standard_normal((k, k))
    image = Y / 2 + (Y.T + np.trace(Y) * np.eye(k) - 2 * np.diag(np.diag(Y))) / PI
    np.testing.assert_allclose(hessians["even"] @ Y.ravel(), image.ravel(), atol=1e-13)
    image += Y.sum(axis=1, keepdims=True) / 2
    np.testing.assert_allclose(hessians["vanilla"] @ Y.ravel(), image.ravel(), atol=1e-13)
    loss, theta_star = identity_loss("vanilla-free", k)
    determinants = [np.linalg.slogdet(H)[1] for H in (loss.hessian(theta_star), hessians["even"])]
    assert determinants[0] - determinants[1] == pytest.approx(k * np.log(2), rel=1e-12)


def test_the_best_skip_has_the_one_point_convexity_of_the_even_part_with_less_size():
    regions = {
        name: rg.convexity_region([1.0, 3.0], 5, 200, rng=0, arch=name) for name in ("vanilla", "vanilla-free", "even")
    }
    free, even = regions["vanilla-free"], regions["even"]
    np.testing.assert_array_equal(free.fraction, even.fraction)
    assert (0 < free.median).all() and (free.median < even.median).all() and (free.smallest > even.smallest).all()
    assert (regions["vanilla"].fraction > 0.95).all() and (even.fraction < 0.8).all()
    np.testing.assert_allclose(even.smallest[0], even.smallest[1], rtol=1e-10)  # homogeneous: gamma is without effect


def smallest_delta(loss, theta_star, radius, starts):
    """The smallest delta found at this distance from the teacher, and its direction, by descent from the starts."""

    def delta(z):
        size = np.linalg.norm(z)
        gap = z * radius / size
        grad = loss.grad(theta_star + gap)
        slope = grad + loss.hessian(theta_star + gap) @ gap
        return grad @ gap / radius**2, (slope - (slope @ z) * z / size**2) / (radius * size)

    ends = [optimize.minimize(delta, z / np.linalg.norm(z), jac=True, method="L-BFGS-B") for z in starts]
    best = min(ends, key=lambda end: end.fun)
    return best.fun, best.x / np.linalg.norm(best.x)


def test_without_the_odd_part_one_point_convexity_ends_nearer_to_the_teacher():
    starts = np.random.default_rng(0).standard_normal((2, 4))
    for name, radius, toward in (
        ("even", 0.8715, [-0.3, 0.6, -0.6, -0.3]),
        ("vanilla", 0.9985, [-0.5, 0.5, 0.5, -0.5]),
    ):
        loss, theta_star = identity_loss(name, 2)
        for step in (-1e-3, 1e-3):
            assert smallest_delta(loss, theta_star, radius + step, [*starts, np.array(toward)])[0] * step < 0


# ----------------------------------------------------------------------------- dead units


@pytest.mark.parametrize("name", ["even", "vanilla", "vanilla-free"])
def test_a_dead_unit_can_grow_wherever_the_others_are_at_rest(name):
    d, k = 4, 3
    theta_star = point(name, d, k, seed=5)
    arch = rg.ARCHITECTURES[name]
    loss = rg.PopulationLoss(arch, rg.Network(arch, theta_star, d))
    for seed in range(4):
        at_rest = rg.polish(loss, point(name, d, k - 1, seed=seed)).theta
        W1, _, C, _ = arch.unflatten(at_rest, d)
        value, units = loss.value(at_rest), arch.canonical(theta_star, d)[0].T
        assert value > 1e-4
        slopes = [
            (loss.value(arch.flatten(np.c_[W1, 1e-7 * sign * u], C=C)) - value) / 2e-7
            for u in units
            for sign in (1, -1)
        ]
        if name != "vanilla-free":
            assert sum(slopes[::2]) == pytest.approx(-value, rel=1e-5)
        assert min(slopes) < 0


# ----------------------------------------------------------------------------- the plane: angles of lines


def K(t, order=0):
    """The kernel on the circle of lines, or a derivative of it."""
    t = np.mod(t, PI)
    s, c, left = np.sin(t), np.cos(t), PI / 2 - t
    return (s + left * c, -left * s, s - left * c)[order]


def potential(at, alpha, w, beta, w_star, order=0):
    """V, or a derivative of it."""
    return K(np.subtract.outer(at, alpha), order) @ w - K(np.subtract.outer(at, beta), order) @ w_star


def weights(alpha, beta, w_star):
    """The student's weights for which V = 0 at its lines: the best ones for its angles."""
    return linalg.lstsq(K(np.subtract.outer(alpha, alpha)), K(np.subtract.outer(alpha, beta)) @ w_star)[0]


def critical_lines(beta, w_star, alpha, margin=1e-3):
    """(alpha, w, loss) of a critical point near ``alpha`` with lines at least ``margin`` apart, or None."""
    found = optimize.root(lambda a: potential(a, a, weights(a, beta, w_star), beta, w_star, 1), alpha, tol=1e-13)
    alpha = np.sort(np.mod(found.x, PI))
    w = weights(alpha, beta, w_star)
    loss = -potential(beta, alpha, w, beta, w_star) @ w_star / (2 * PI)
    apart = np.diff(np.r_[alpha, alpha[0] + PI]).min() > margin
    proper = found.success and apart and (w > 0).all() and loss > 1e-8 * w_star.sum() ** 2
    return (alpha, w, loss) if proper else None


def curvature(alpha, w, beta, w_star):
    """The smallest eigenvalue of M y = x N y, where y' (M - N) y is the Hessian in y = w dalpha with the best dw."""
    G, D, S = (K(np.subtract.outer(alpha, alpha), order) for order in range(3))
    return linalg.eigvalsh(-S + D @ linalg.solve(G, D), np.diag(-potential(alpha, alpha, w, beta, w_star, 2) / w))[0]


def lines(rng, k):
    """A teacher, angles and weights, and a start whose lines are between the teacher's."""
    beta, w_star = np.sort(rng.uniform(0, PI, k)), np.exp(rng.standard_normal(k))
    return beta, w_star, beta + rng.uniform(0.05, 0.95, k) * np.diff(np.r_[beta, beta[0] + PI])


def test_the_loss_on_the_circle_of_lines_is_the_population_loss():
    rng = np.random.default_rng(0)
    (alpha, beta), w, w_star = rng.uniform(0, 2 * PI, (2, 4)), *rng.uniform(0.5, 2, (2, 4))
    value = potential(alpha, alpha, w, beta, w_star) @ w - potential(beta, alpha, w, beta, w_star) @ w_star
    loss = plane("even", beta, weights=w_star)
    grad = loss.grad((w * [np.cos(alpha), np.sin(alpha)]).ravel()).reshape(2, 4)
    assert loss.value((w * [np.cos(alpha), np.sin(alpha)]).ravel()) == pytest.approx(value / (2 * PI), rel=1e-13)
    along, across = potential(alpha, alpha, w, beta, w_star), w * potential(alpha, alpha, w, beta, w_star, 1)
    np.testing.assert_allclose((grad * [np.cos(alpha), np.sin(alpha)]).sum(axis=0), along / PI, atol=1e-14)
    np.testing.assert_allclose((grad * [-w * np.sin(alpha), w * np.cos(alpha)]).sum(axis=0), across / PI, atol=1e-14)
    for order in (0, 1):  # the derivatives, and D^2 + 1 of K
        t, h = np.linspace(0.1, 3, 20), 1e-6
        np.testing.assert_allclose((K(t + h, order) - K(t - h, order)) / (2 * h), K(t, order + 1), atol=1e-9)
    np.testing.assert_allclose(K(t, 2) + K(t), 2 * np.abs(np.sin(t)), atol=1e-15)


@pytest.mark.parametrize("m, k_star", [(1, 1), (1, 3), (2, 2), (2, 4), (3, 3), (3, 4)])
def test_theorem_1_lines_interlace_and_the_potential_is_negative(m, k_star):
    rng, found, split = np.random.default_rng([m, k_star]), 0, 0
    for _ in range(60):
        beta, w_star, start = lines(rng, k_star)
        if not (critical := critical_lines(beta, w_star, np.sort(rng.choice(start, m, replace=False)))):
            continue
        alpha, w, _ = critical
        found += 1
        arcs = np.searchsorted(alpha, beta) % m
        assert set(arcs) == set(range(m))  # each arc between neighbors has a teacher's line
        assert potential(alpha, alpha, w, beta, w_star, 2).max() < 0
        grid = np.linspace(0, PI, 1001)
        gap = np.abs(np.sin(np.subtract.outer(grid, alpha))).min(axis=1)
        V = potential(grid, alpha, w, beta, w_star)
        assert (V < 1e-13 * w_star.sum()).all() and (V[gap > 0.1] < 0).all()
        bend = potential(alpha[0], alpha, w, beta, w_star, 2)
        turn = -bend / (8 * w[0])  # two halves of a unit turned apart: w bend turn^2 + 4/3 w^2 turn^3 + ...
        angles = np.r_[alpha, alpha[0]] + turn * np.r_[1, np.zeros(m - 1), -1]
        halves = np.r_[w[0] / 2, w[1:], w[0] / 2]
        change = (
            potential(angles, angles, halves, beta, w_star) @ halves
            - potential(beta, angles, halves, beta, w_star) @ w_star
        )
        if turn > 1e-4:
            assert 2 * PI * critical[2] - change > 0.9 * w[0] * turn**2 * (-bend - 4 / 3 * w[0] * turn) > 0
            split += 1
    assert found >= 10 and split >= 5


def test_theorem_1_a_fourth_unit_frees_the_even_part_and_not_vanilla():
    rng, spurious = np.random.default_rng(0), {}
    for name, fixed in (("vanilla", plane("vanilla", LINES)), ("even", plane("even", LINES))):
        ends = [rg.polish(fixed, rng.standard_normal(8)) for _ in range(12)]
        spurious[name] = [end for end in ends if end.verdict == "spurious minimum"]
    assert len(spurious["vanilla"]) >= 4 and not spurious["even"]
    worst = max(spurious["vanilla"], key=lambda end: end.min_eigenvalue)
    assert worst.loss == pytest.approx(9.4777e-4, rel=1e-4) and worst.min_eigenvalue == pytest.approx(
        7.290e-3, rel=1e-3
    )
    released = plane("vanilla-free", LINES)
    assert rg.polish(released, np.r_[worst.theta, 0, 0]).loss < problem.GLOBAL


def test_theorem_2_its_inequalities():
    t = np.linspace(0, PI / 4, 2001)[1:-1]
    f, F = K(t) + K(PI / 2 - t), -(K(t, 1) - K(PI / 2 - t, 1))
    np.testing.assert_allclose(F, (PI / 2 - t) * np.sin(t) - t * np.cos(t), atol=1e-15)
    assert (F > 0).all() and (np.diff(F, 2) < 0).all()
    assert f.min() > np.sqrt(2) * (1 + PI / 4) > 1.1 * PI / np.sqrt(2)
    assert (2 * F <= -np.sqrt(2) * K(2 * t, 1)).all() and (K(2 * t) < PI / 2).all()
    a, c = np.meshgrid(t[::20], t[::20])
    F, f = (lambda x: -(K(x, 1) - K(PI / 2 - x, 1))), (lambda x: K(x) + K(PI / 2 - x))
    assert ((PI / 2 + K(a + c)) * (F(a) + F(c)) < -0.9 * K(a + c, 1) * (f(a) + f(c))).all()


def test_theorem_2_its_list_of_critical_points():
    loss, _ = identity_loss("even", 2)
    turned = (PI**2 - 8) / (4 * PI * (PI + 2))
    single = [(PI + 2 - (2 / PI) * f**2) / (2 * PI) for f in (1 + PI / 2, np.sqrt(2) * (1 + PI / 4))]
    seen = set()
    rng = np.random.default_rng(0)
    for _ in range(200):
        end = rg.polish(loss, rng.standard_normal(4), max_steps=0)  # Newton's method alone finds saddles, too
        if end.verdict == "unconverged":
            continue
        if end.loss < problem.GLOBAL:
            seen.add("teacher")
            continue
        W = end.theta.reshape(2, 2)
        kind = int(np.argmin(np.abs(np.array([turned, *single]) - end.loss)))
        assert end.loss == pytest.approx([turned, *single][kind], rel=1e-9)
        assert end.verdict == "saddle" or min(np.linalg.norm(W, axis=0)) < 1e-8
        seen.add(kind)
    assert {"teacher", 0} <= seen
    w, t = np.sqrt(2) * (1 + PI / 4) / (1 + PI / 2), 1e-3
    at = lambda a: loss.value(w * np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]).ravel())  # noqa: E731
    second = (at(PI / 4 + t) + at(PI / 4 - t) - 2 * at(PI / 4)) / t**2
    assert 2 * PI * second / 2 == pytest.approx(-4 * w * (1 - PI / 4) / np.sqrt(2), rel=1e-5)


@pytest.mark.parametrize("k, teachers", [(2, 60), (3, 60), *slow((4, 1500))])
def test_searches_with_the_teachers_width_find_saddles_alone(k, teachers):
    rng, found, largest = np.random.default_rng(k), 0, 0.0
    for _ in range(teachers):
        beta, w_star, start = lines(rng, k)
        if critical := critical_lines(beta, w_star, start):
            found, largest = found + 1, max(largest, curvature(*critical[:2], beta, w_star))
    assert found > teachers / 12 and largest < 0.9  # below 1: a direction of negative curvature


def test_trained_readouts_keep_two_units_of_opposite_sign_on_one_line():
    even = replace(rg.ARCHITECTURES["two-weight"], name="even part", identity=0, slopes=(0.5, -0.5))
    free = replace(rg.ARCHITECTURES["two-weight-free"], name="free", identity=0)
    at = lambda arch, U, a, **C: arch.flatten(U, np.repeat(np.divide(a, 2)[:, None], 2, axis=1), **C)  # noqa: E731
    U, a = np.array([[1.3 + 2 / PI, -0.3], [0.0, 0.0]]), np.array([1.0, -1.0])
    skip = 0.5 * (1 - U @ a)[:, None]
    theta, theta_free = at(even, U, a), at(free, U, a, C=skip)
    loss = rg.PopulationLoss(even, rg.Network(even, at(even, np.eye(2), np.ones(2)), 2))
    loss_free = rg.PopulationLoss(free, rg.Network(free, at(free, np.eye(2), np.ones(2), C=np.zeros((2, 1))), 2))
    for here, point_ in ((loss, theta), (loss_free, theta_free)):
        assert here.value(point_) == pytest.approx((PI**2 - 4) / (4 * PI**2), rel=1e-13)
        assert np.abs(here.grad(point_)).max() < 1e-15
        assert np.linalg.eigvalsh(here.hessian(point_)).min() > -1e-14
    rng = np.random.default_rng(0)
    for _ in range(500):
        near = at(even, U + 0.03 * rng.standard_normal((2, 2)), a + 0.03 * rng.standard_normal(2))
        assert loss.value(near) >= loss.value(theta)
    a = np.abs(a)  # with weights of one sign the same point is a saddle
    U[0] = np.array([0.7, 0.3]) * (1 + 2 / PI)
    assert np.linalg.eigvalsh(loss.hessian(at(even, U, a))).min() < -1e-2


def test_a_student_with_a_sign_too_many_ends_in_the_minimum_of_a_narrower_one_with_a_unit_split():
    arch, (teacher, init, *_) = rg.ARCHITECTURES["two-weight-free"], rg.streams(1, run=30)
    theta_star = rg.draw(arch, "normal", 3, rng=teacher)
    loss = rg.PopulationLoss(arch, rg.Network(arch, theta_star, 3))
    end = rg.polish(loss, rg.draw(arch, "normal", 3, rng=init))
    assert end.verdict == "spurious minimum" and end.nullity == 10  # 9 by symmetry
    U, A, C = arch.canonical(end.theta, 3)
    a, a_star = A[:, 0], arch.canonical(theta_star, 3)[1][:, 0]
    assert ((a > 0).sum(), (a_star > 0).sum()) == (2, 1)
    line = U[:, 1] / np.linalg.norm(U[:, 1])
    np.testing.assert_allclose(U[:, 2] / np.linalg.norm(U[:, 2]), line, atol=1e-7)
    weight = np.linalg.norm(U[:, 1:], axis=0) @ a[1:]

    def student(*parts):
        """Parameters with these parts of the weight on the shared line."""
        units, weights = np.c_[U[:, 0], np.outer(line, np.ones(len(parts)))], np.r_[a[0], np.multiply(weight, parts)]
        return arch.flatten(units - np.eye(*units.shape), np.repeat(weights[:, None], 3, axis=1) / 3, C=C)

    smallest = lambda theta: np.linalg.eigvalsh(loss.hessian(theta))[0]  # noqa: E731
    for part in (0.1, 0.5, 1.0):
        theta = student(part, 1 - part)
        assert loss.value(theta) == pytest.approx(end.loss, rel=1e-12) and smallest(theta) > -1e-13
    assert smallest(student(1.5, -0.5)) < -0.1
    narrow = rg.polish(loss, student(1.0))
    assert (narrow.verdict, narrow.nullity) == ("spurious minimum", 6)
    assert narrow.loss == pytest.approx(end.loss, rel=1e-12)


TURNED = {"normal": (85, 617, 661, 814), "small": (81, 843), "uniform": (704,)}  # runs with spurious minima


@pytest.mark.slow
@pytest.mark.parametrize(("teacher", "run"), [(kind, run) for kind, runs in TURNED.items() for run in runs])
def test_spurious_minima_of_resnet_have_units_turned_around(teacher, run):
    """One, and it is proved, or two that nearly agree, and it is not.  Descent goes on when one is reversed."""
    task = replace(tasks.prepare("resnet", 10, runs=1000, teacher=teacher), numbers=(run,))
    ((_, basin),) = tasks.work(task)
    assert basin.outcome == "spurious"
    loss = task.loss(rg.streams(0, run))
    U, U_star = (
        network.canonical()[0] / np.linalg.norm(network.canonical()[0], axis=0)
        for network in (rg.Network("resnet", basin.theta, 10), loss.teacher)
    )
    cosines = U.T @ U_star
    rows, columns = optimize.linear_sum_assignment(-np.abs(cosines))
    matched = cosines[rows, columns]
    turned = rows[matched < 0]
    assert (np.abs(matched) > 0.89).all() and (matched[matched < 0] < -0.92).all()
    if teacher == "uniform":
        assert len(turned) == 2 and U[:, turned[0]] @ U[:, turned[1]] > 0.99
    else:
        assert len(turned) == 1 and rg.certify(loss, basin.theta).kind == "strict minimum"
    reverse = basin.theta.copy()
    rg.ARCHITECTURES["resnet"].unflatten(reverse, 10).W1[:, turned[-1]] *= -1
    free = rg.PopulationLoss("resnet-free", loss.teacher)
    for exact, start in ((loss, reverse), (free, rg.convert(basin.theta, 10, "resnet", "resnet-free"))):
        assert basins.descend(exact, exact, start, 10_000, momentum=0.9).outcome == "global"
