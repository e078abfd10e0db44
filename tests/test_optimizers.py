"""The optimizers make the steps they say, and no others."""

import dataclasses

import numpy as np
import pytest
from conftest import RECORDS, every_arch, every_loop, point, samples

import resgrad as rg
from resgrad import optimizers, training

# A step on the quadratic below rounds a handful of products; the factors below do not grow them.
ROUNDING = 1e-14

CASES = {"sgd": rg.SGD(0.01), "nesterov": rg.Nesterov(0.01, momentum=0.9)}


def test_every_optimizer_has_a_case():
    assert set(CASES) == set(rg.OPTIMIZERS)


def losses(arch):
    """One of each kind, for d = 3."""
    record = RECORDS[arch]
    teacher = rg.Network(record, point(arch, 3, 2, seed=1), 3)
    return rg.EmpiricalLoss(record, *samples(arch, 23, 3)), *(
        kind(record, teacher) for kind in (rg.OnlineLoss, rg.PopulationLoss)
    )


@every_loop
@pytest.mark.parametrize("kind", [0, 1, 2], ids=["empirical", "online", "population"])
def test_nesterov_without_momentum_is_sgd_bit_for_bit(arch, kind):
    loss, batch = losses(arch)[kind], None if kind == 2 else 5
    plain, nesterov = (
        rg.train(loss, point(arch, 3, 4), optimizer, 30, batch, seed=2)
        for optimizer in (rg.SGD(0.01), rg.Nesterov(0.01, momentum=0))
    )
    assert plain.theta.tobytes() == nesterov.theta.tobytes()
    assert plain.loss.tobytes() == nesterov.loss.tobytes()


# vanilla with d = k = 1, positive inputs and w > 0 is linear: L(w) = mean (w x - y)^2, an exact
# quadratic with curvature 2 mean x^2 and minimum mean(x y) / mean(x^2).
X = np.array([[0.5], [1.0], [1.5], [2.0]])
Y = np.array([2.0, 2.5, 6.0, 7.0])
CURVATURE = 2 * np.mean(X**2)
MINIMUM = np.mean(X[:, 0] * Y) / np.mean(X**2)


def iterates(optimizer, start, n_steps):
    """w(0), w(1), ..., w(n_steps)."""
    run = rg.train(
        rg.EmpiricalLoss("vanilla", X, Y),
        [start],
        optimizer,
        n_steps,
        record_every=1,
        observe={"w": lambda theta: theta[0]},
    )
    assert run.observed["w"].min() > 0  # never left the linear piece
    return run.observed["w"]


@pytest.mark.parametrize("lr", [0.01, 0.1, 1 / CURVATURE, 0.3, 0.6])
def test_gradient_descent_contracts_by_one_minus_lr_times_curvature(lr):
    w = iterates(rg.SGD(lr), MINIMUM + 0.25, 12)
    wanted = MINIMUM + 0.25 * (1 - lr * CURVATURE) ** np.arange(13)
    assert np.max(np.abs(w - wanted)) < ROUNDING * MINIMUM * 12


@pytest.mark.parametrize("lr, momentum", [(0.01, 0.5), (0.05, 0.9), (0.2, 0.3)])
def test_nesterov_is_the_recursion_in_its_docstring(lr, momentum):
    """As in PyTorch: v <- mu v + g; w <- w - lr (g + mu v)."""
    w, v, wanted = MINIMUM + 0.25, 0.0, []
    for _ in range(13):
        wanted.append(w)
        g = CURVATURE * (w - MINIMUM)
        v = momentum * v + g
        w = w - lr * (g + momentum * v)
    got = iterates(rg.Nesterov(lr, momentum), MINIMUM + 0.25, 12)
    assert np.max(np.abs(got - wanted)) < ROUNDING * MINIMUM * 12


@pytest.mark.parametrize("lr, momentum", [(0.01, 0.5), (0.05, 0.9), (0.2, 0.3)])
def test_nesterov_follows_sutskevers_lookahead_point(lr, momentum):
    """y <- y + u, u <- mu u - lr g(y + mu u): its theta = y + mu u are our iterates."""
    y, u, wanted = MINIMUM + 0.25, 0.0, []
    for _ in range(13):
        wanted.append(y + momentum * u)
        u = momentum * u - lr * CURVATURE * (y + momentum * u - MINIMUM)
        y = y + u
    got = iterates(rg.Nesterov(lr, momentum), MINIMUM + 0.25, 12)
    assert np.max(np.abs(got - wanted)) < ROUNDING * MINIMUM * 12


@pytest.mark.parametrize("name", list(rg.OPTIMIZERS))
def test_an_optimizer_is_a_frozen_record(name):
    assert isinstance(CASES[name], rg.OPTIMIZERS[name])
    assert eval(repr(CASES[name]), vars(optimizers)) == CASES[name]
    with pytest.raises(dataclasses.FrozenInstanceError):
        CASES[name].lr = 1.0


@pytest.mark.parametrize("name", list(rg.OPTIMIZERS))
@pytest.mark.parametrize("lr", [0, -0.1, np.nan, np.inf])
def test_a_rate_must_be_positive_and_finite(name, lr):
    with pytest.raises(ValueError, match=f"^lr is {lr}, but must be a finite number above 0$"):
        dataclasses.replace(CASES[name], lr=lr)


@pytest.mark.parametrize("lr", ["0.1", None, True, 1j, [0.1, 0.2]])
def test_a_rate_must_be_a_number(lr):
    with pytest.raises(TypeError, match="^lr is .*, but must be a real number$"):
        rg.SGD(lr)


@pytest.mark.parametrize("momentum", [1, 1.5, -1e-9, np.nan, np.inf])
def test_a_momentum_lies_in_zero_one(momentum):
    with pytest.raises(ValueError, match=rf"^momentum is {momentum}, but must lie in \[0, 1\)$"):
        rg.Nesterov(0.1, momentum)


# ------------------------------------------------------------------------- the largest stable step


@pytest.mark.parametrize("momentum", [0.0, 0.01, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("curvature", [0.03, 1.0, 70.0])
def test_the_largest_step_is_where_the_recursion_stops_contracting(momentum, curvature):
    def radius(lr):
        """Of (theta, v) -> the next, from v <- momentum v + g; theta <- theta - lr (g + momentum v)."""
        step = [[1 - lr * curvature * (1 + momentum), -lr * momentum**2], [curvature, momentum]]
        return np.abs(np.linalg.eigvals(step)).max()

    limit = optimizers.largest_lr(curvature, momentum)
    assert abs(radius(limit) - 1) < 1e-12
    assert radius(0.9 * limit) < 1 < radius(1.1 * limit)


@pytest.mark.parametrize("arch", ["li", "resnet"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_nine_tenths_of_the_largest_step_train_and_eleven_do_not(arch, momentum):
    teacher = rg.Network(arch, point(arch, 4, seed=1), 4)
    loss = rg.PopulationLoss(arch, teacher)
    limit = optimizers.largest_lr(training.curvature(loss, teacher.theta), momentum)
    start = teacher.theta + 1e-5 * point(arch, 4, seed=2)
    below, above = (rg.train(loss, start, rg.Nesterov(part * limit, momentum), 400) for part in (0.9, 1.1))
    assert below.loss[-1] < 0.1 * below.loss[0] and above.loss[-1] > 100 * above.loss[0]


@every_arch
@pytest.mark.parametrize("seed", range(3))
def test_the_curvature_is_the_largest_eigenvalue_of_the_hessian(arch, seed):
    loss = rg.PopulationLoss(arch, rg.Network(arch, point(arch, 5, seed=7), 5))
    theta = point(arch, 5, seed=seed)
    wanted = np.abs(np.linalg.eigvalsh(loss.hessian(theta))).max()
    size = training.curvature(loss, theta)
    assert 0.95 * wanted < size < (1 + 1e-6) * wanted  # after thirty iterations; eigenvalues lie close together
