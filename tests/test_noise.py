"""The noise of one sample's gradient in closed form, against quadrature, samples and training."""

import naive
import numpy as np
import pytest
from conftest import CENTERED, RECORDS, every_centered, point, same_outputs

import resgrad as rg
from resgrad import noise
from resgrad.kernels import moments

SUM = 1e-13  # of the largest term: some hundred of them, good to a few 1e-16 each
SIGMAS = 5.0  # of an average over samples
SHARE = (
    0.02  # of the floor, whose formula is of second order in lr; where noise of its own doubles it, 1.8 % is measured
)

PAIRS = [
    ("vanilla", "vanilla", 3, 3, 3, 0.0),
    ("vanilla", "li", 5, 2, 4, 0.3),
    ("li", "li", 4, 4, 4, 0.0),
    ("li", "resnet-sum", 3, 3, 2, 0.5),
    ("two-weight", "two-weight", 4, 3, 4, 0.0),
    ("two-weight", "modresnet-sum", 3, 5, 2, 0.2),
    ("resnet", "resnet", 3, 3, 3, 0.4),
    ("modresnet", "resnet", 2, 4, 1, 0.0),
    ("half", "modresnet", 3, 3, 3, 0.3),
    ("resnet-sum", "vanilla", 6, 2, 1, 0.1),
    ("modresnet-free", "resnet", 3, 2, 3, 0.2),
    ("two-weight-free", "even", 4, 4, 3, 0.0),
    ("even", "even", 3, 3, 3, 0.3),
]


def pair(student, teacher, d, k=None, k_star=None, sigma=0.0, seed=0):
    """(loss, theta) at a generic point."""
    star = rg.Network(RECORDS[teacher], point(teacher, d, k_star, seed + 100), d)
    return rg.PopulationLoss(RECORDS[student], star, noise=sigma), point(student, d, k, seed)


def gradients(loss, theta, X, errors):
    """The gradient for every row of X, (N, n), where the labels are the teacher's less ``errors``: by the twins."""
    name, Y = loss.arch.name, loss.teacher(X) - errors
    return np.array([naive.loss_and_gradient(name, theta, x[None], y[None])[1] for x, y in zip(X, Y)])


def squares(loss, theta, X, errors):
    """|g|^2 for every row of X."""
    U, A, _ = loss.arch.canonical(theta, loss.d)
    R = (rg.Network(loss.arch, theta, loss.d)(X) - loss.teacher(X) + errors).reshape(len(X), -1)
    z, (p, n), size, square = X @ U, loss.arch.slopes, np.sum(X * X, axis=1), np.sum(R * R, axis=1)
    rise, factor = np.where(z > 0, p, n), loss.arch.readout_rate(loss.d)
    of_units = size * np.sum(((R @ A.T) * rise) ** 2, axis=1)
    of_readout = np.sum((rise * z) ** 2, axis=1) * square
    return 4 * (of_units + factor * of_readout + loss.arch.trains_skip * size * square)


def errors_of(loss, count, rng):
    """Label noise."""
    return loss.noise * rng.standard_normal((count, loss.d) if loss.arch.readout == "vector" else count)


@pytest.mark.parametrize("case", PAIRS)
def test_the_squares_are_those_of_the_twins(case):
    loss, theta = pair(*case)
    rng = np.random.default_rng(0)
    X = rng.standard_normal((20, loss.d))
    errors = errors_of(loss, 20, rng)
    wanted = np.sum(gradients(loss, theta, X, errors) ** 2, axis=1)
    assert np.allclose(squares(loss, theta, X, errors), wanted, rtol=1e-12, atol=0)


def deviation(loss, theta, count, seed=0):
    """Standard errors between an average of |g - grad|^2 over samples and the exact one."""
    rng, total, total_square = np.random.default_rng(seed), 0.0, 0.0
    for size in [100_000] * (count // 100_000):
        values = squares(loss, theta, rng.standard_normal((size, loss.d)), errors_of(loss, size, rng))
        total, total_square = total + values.sum(), total_square + np.sum(values**2)
    mean, grad = total / count, loss.grad(theta)
    error = np.sqrt((total_square / count - mean**2) / count)
    return (mean - grad @ grad - rg.gradient_noise(loss, theta)) / error


@pytest.mark.parametrize("case", PAIRS)
def test_samples_agree(case):
    assert abs(deviation(*pair(*case), 200_000)) < SIGMAS


@pytest.mark.slow
@pytest.mark.parametrize("case", PAIRS)
def test_ten_million_samples_agree(case):
    assert abs(deviation(*pair(*case, seed=1), 10_000_000)) < SIGMAS


# ------------------------------------------------------------------------------------ two dimensions: exactly


def on_circle(function, units, degree):
    """E[f] for f homogeneous of this degree in two dimensions, smooth but where u.x = 0 for one of the ``units``."""
    angles = np.arctan2(units[0], -units[1])  # of a direction orthogonal to the unit
    breaks = np.unique(np.mod(np.concatenate([angles, angles + np.pi, [0.0]]), 2 * np.pi))
    nodes, weights = np.polynomial.legendre.leggauss(20)
    total = 0.0
    for low, high in zip(breaks, np.append(breaks[1:], 2 * np.pi)):
        phi = low + (high - low) * (nodes + 1) / 2
        total += (high - low) / 2 * weights @ function(np.column_stack([np.cos(phi), np.sin(phi)]))
    return total / (2 * np.pi) * {2: 2.0, 4: 8.0}[degree]


@pytest.mark.parametrize("student, teacher", [(arch, arch) for arch in CENTERED] + [case[:2] for case in PAIRS])
@pytest.mark.parametrize("parallel", [False, True])
def test_in_two_dimensions_it_is_an_integral_over_angles(student, teacher, parallel):
    loss, theta = pair(student, teacher, 2, 3, 2)
    W1 = loss.arch.unflatten(theta, 2)[0]
    E, U_star = loss.arch.identity * np.eye(2, 3), loss.teacher.canonical()[0]
    if parallel:
        W1[:, 0], W1[:, 1] = (-2 * U_star[:, 0], U_star[:, 1]) - E[:, :2].T
        W1[:, 2] = 0.5 * U_star[:, 0] + 1e-9 - E[:, 2]
    units = np.hstack([W1 + E, U_star])
    wanted = on_circle(lambda X: squares(loss, theta, X, np.zeros(1)), units, 4)
    gradient = loss.grad(theta)
    assert abs(rg.gradient_noise(loss, theta) + gradient @ gradient - wanted) < SUM * wanted


@pytest.mark.parametrize("slopes", [(1.0, 0.0), (0.5, -0.5), (1.0, 0.2), (-0.3, 1.0)])
@pytest.mark.parametrize("linear", [0.0, 1.0])
@pytest.mark.parametrize("m", [1, 2])
def test_every_block_with_other_slopes_and_a_linear_part(slopes, linear, m):
    rng, sigma, (p, n) = np.random.default_rng(0), 0.7, slopes
    U, A, V, B = (rng.standard_normal(shape) for shape in ((2, 3), (3, m), (2, 2), (2, m)))
    D = linear * rng.standard_normal((2, m))
    U[:, 0], U[:, 2] = -V[:, 0], 0.0  # antiparallel to the teacher's; dead, where s' = n

    def terms(X):
        """|g|^2 of each u_j, each a_j and C, without label noise, and what multiplies its variance."""
        z, y = X @ U, X @ V
        s, rise = np.where(z > 0, p, n) * z, np.where(z > 0, p, n)
        r, size = s @ A - np.where(y > 0, p, n) * y @ B + X @ D, np.sum(X * X, axis=1)[:, None]
        square = np.sum(r * r, axis=1)[:, None]
        clean = np.hstack([size * (rise * (r @ A.T)) ** 2, s**2 * square, size * square])
        return 4 * clean, 4 * np.hstack([size * rise**2 * np.sum(A * A, axis=1), m * s**2, m * size])

    units = np.hstack([U[:, :2], V])
    wanted = on_circle(lambda X: terms(X)[0], units, 4) + sigma**2 * on_circle(lambda X: terms(X)[1], units, 2)
    got = np.hstack(moments.squared_gradients(U, A, V, B, D, slopes, sigma))
    assert np.max(np.abs(got - wanted)) < SUM * np.max(wanted)


# ------------------------------------------------------------------------------------ what follows from it


@pytest.mark.parametrize(
    "case",
    [("vanilla", "vanilla", 3, 4, 2), ("two-weight", "two-weight", 3, 4, 2), ("modresnet", "resnet", 3, 4, 2)],
    ids=lambda case: case[0],
)
def test_one_step_of_sgd_changes_the_distance_as_expected(case):
    """1,000 first steps of `train` on fresh samples."""
    loss, theta = pair(*case)
    online = rg.OnlineLoss(loss.arch, loss.teacher)
    star, lr, batch = point(case[0], case[2], case[3], seed=100), 0.02, 3
    ends = np.array([rg.train(online, theta, rg.SGD(lr), 1, batch, seed).theta for seed in range(1_000)])
    changes = np.sum((ends - star) ** 2, axis=1) - np.sum((theta - star) ** 2)
    expected = rg.expected_change(online, theta, star, lr, batch)
    assert abs(changes.mean() - expected) < SIGMAS * changes.std() / np.sqrt(len(changes))
    assert changes.std() / np.sqrt(len(changes)) < abs(expected)  # the test could have failed


@every_centered
def test_the_largest_step_is_where_the_distance_stays(arch):
    loss, theta = pair(arch, arch, 3)
    star = theta + loss.grad(theta) * -0.1
    lr = rg.largest_step(loss, theta, star, 7)
    assert lr > 0 and abs(rg.expected_change(loss, theta, star, lr, 7)) < 1e-12 * np.sum((theta - star) ** 2)
    assert rg.expected_change(loss, theta, star, lr / 2, 7) < 0 < rg.expected_change(loss, theta, star, 2 * lr, 7)
    assert rg.largest_step(loss, theta, 2 * theta - star, 7) == 0.0
    assert rg.largest_step(loss, theta, star, 100) > lr
    loss.noise = 0.5
    assert rg.largest_step(loss, theta, star, 7) < lr


def test_noise_of_large_units():
    """The gradient of a fixed read-out is linear in units and labels."""
    loss, theta = pair("vanilla", "vanilla", 3)
    large = rg.PopulationLoss("vanilla", rg.Network("vanilla", 1e100 * loss.teacher.theta, 3))
    assert rg.gradient_noise(large, 1e100 * theta) == pytest.approx(1e200 * rg.gradient_noise(loss, theta), rel=1e-12)


def test_steps_of_any_length_have_an_expected_change():
    loss, theta = pair("vanilla", "vanilla", 3)
    assert rg.expected_change(loss, theta, loss.teacher.theta, 1e308, 2) == np.inf
    assert rg.noise_floor(loss, loss.teacher.theta, 1e308, 2) == np.inf


def test_large_batches_leave_the_gradient_alone():
    loss, theta = pair(*PAIRS[5])
    lr = rg.largest_step(loss, theta, theta - loss.grad(theta), 10**16)
    assert abs(lr - 2) < 1e-12


@every_centered
def test_at_the_teacher_all_noise_is_the_labels(arch):
    """V = 2 sigma^2 tr H there, by another route: the Hessian is 2 E[J J'] at zero loss."""
    loss, _ = pair(arch, arch, 4)
    star, scale = loss.teacher.theta, noise._squares(loss, point(arch, 4), 0.0)
    assert rg.gradient_noise(loss, star) < SUM * scale
    loss.noise = 0.3
    trace = 2 * 0.09 * np.trace(loss.hessian(star))
    assert abs(rg.gradient_noise(loss, star) - trace) < SUM * (trace + scale)


def settle(star, sigma, lr, batch, chains, steps, seed=0):
    """(mean, standard error) of the clean loss in many runs of SGD of a fixed read-out, from the teacher on."""
    rng, total = np.random.default_rng(seed), np.zeros(chains)
    U = np.repeat(star[None], chains, axis=0)
    for step in range(steps):
        X = rng.standard_normal((chains, batch, len(star)))
        z = X @ U
        r = np.maximum(z, 0).sum(axis=2) - np.maximum(X @ star, 0).sum(axis=2)
        total += np.mean(r * r, axis=1) * (step >= steps // 3)
        noisy = r + sigma * rng.standard_normal(r.shape)
        U -= 2 * lr / batch * X.transpose(0, 2, 1) @ (noisy[..., None] * (z > 0))
    total /= steps - steps // 3
    return total.mean(), total.std() / np.sqrt(chains)


@pytest.mark.parametrize("lr, batch", [(0.02, 1), (0.1, 4), (0.2, 20)])
def test_sgd_settles_at_the_floor(lr, batch):
    loss, star = pair("vanilla", "vanilla", 3, 2, 2)[0], point("vanilla", 3, 2, seed=100)
    loss.noise = 0.01
    floor = rg.noise_floor(loss, star, lr, batch)
    mean, error = settle(star.reshape(3, 2), 0.01, lr, batch, 200, 1_500)
    assert abs(mean - floor) < SIGMAS * error + SHARE * floor
    first = lr * 0.01**2 * np.trace(loss.hessian(star)) / (2 * batch)
    assert abs(mean - first) > SIGMAS * error + SHARE * first  # it takes the second order


@every_centered
def test_the_floor_grows_with_the_step_and_falls_with_the_batch(arch):
    loss, _ = pair(arch, arch, 3)
    star = loss.teacher.theta
    assert rg.noise_floor(loss, star, 1e-3, 10) == 0.0
    loss.noise = 0.1
    floors = [rg.noise_floor(loss, star, lr, batch) for lr, batch in ((1e-6, 10), (1e-3, 10), (2e-3, 10), (1e-3, 100))]
    first = 1e-6 * 0.01 * np.trace(loss.hessian(star)) / 20
    assert abs(floors[0] / first - 1) < 1e-3
    assert floors[2] > 2 * floors[1] > 20 * 2 * floors[3] / 2 * 0.99
    assert rg.noise_floor(loss, star, 1e3, 10) == np.inf


@pytest.mark.parametrize("d", [1, 3])
@pytest.mark.parametrize("batch", [1, 3, 10**9])
def test_the_floor_of_one_unit_is_exact(d, batch):
    """H = I there, and E[1 x x' S x x'] = s (d + 2) / 2 I for S = s I: a recursion for E|delta|^2 in one number."""
    loss, lr, sigma = pair("vanilla", "vanilla", d, 1, 1)[0], 0.1, 0.02
    loss.noise = sigma
    wanted = lr * sigma**2 * d / batch / (2 - lr * (1 + (2 * (d + 2) - 1) / batch))
    assert abs(rg.noise_floor(loss, loss.teacher.theta, lr, batch) / wanted - 1) < 10 * noise.NEAR


def test_the_floor_of_large_batches_is_that_of_additive_noise():
    loss, _ = pair("two-weight", "two-weight", 3)
    star, loss.noise, batch = loss.teacher.theta, 0.02, 10**12
    h = np.linalg.eigvalsh(loss.hessian(star))
    lr = 1.5 / h[-1]
    wanted = lr * 0.02**2 / batch * np.sum(h / (2 - lr * h))
    assert abs(rg.noise_floor(loss, star, lr, batch) / wanted - 1) < 1e-9


# ------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda loss, theta: rg.gradient_noise("li", theta), TypeError, "^loss is 'li', but must be an rg.Pop"),
        (lambda loss, theta: rg.gradient_noise(loss, 1e155 * theta), ValueError, "^theta is so large that the"),
        (lambda loss, theta: rg.largest_step(loss, 1e160 * theta, theta, 2), ValueError, "^theta is so large that the"),
        (lambda loss, theta: rg.gradient_noise(loss, theta[1:]), ValueError, r"^theta has shape \(8,\), but vanilla"),
        (
            lambda loss, theta: rg.expected_change(loss, theta, theta[1:], 0.1, 2),
            ValueError,
            r"^theta_star has shape \(8,\), but must have shape \(9,\)$",
        ),
        (lambda loss, theta: rg.expected_change(loss, theta, theta, 0.0, 2), ValueError, "^lr is 0.0, but must be"),
        (lambda loss, theta: rg.largest_step(loss, theta, theta, 0), ValueError, "^batch_size is 0, but must be at"),
        (lambda loss, theta: rg.noise_floor(loss, theta, 0.1, 2), ValueError, "^theta has the loss .*, but must be a"),
    ],
)
def test_noise_says_what_does_not_fit(make, error, message):
    with pytest.raises(error, match=message):
        make(*pair("vanilla", "vanilla", 3))


def test_the_pairs_fit():
    assert all(same_outputs(*case[:2]) for case in PAIRS)
