"""The checker on losses that others write: deep networks with many kinks, scales and domains of their own."""

import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from test_gradcheck import shared_differences

from resgrad.gradcheck import check_gradient, check_hessian

# ------------------------------------------------------------------------- networks with many kinks

ACTIVATIONS = {
    "relu": (lambda z: np.maximum(z, 0), lambda z: z > 0),
    "leaky": (lambda z: np.maximum(z, z / 8), lambda z: np.where(z > 0, 1, 0.125)),
    "abs": (np.abs, np.sign),
    "max-pool": (lambda z: np.maximum(z[:, ::2], z[:, 1::2]), None),  # of pairs of units
}
ENDS = {
    "square": lambda z, y: ((z - y) ** 2, 2 * (z - y)),
    "l1": lambda z, y: (np.abs(z - y), np.sign(z - y)),
    "hinge": lambda z, y: (np.maximum(1 - z * np.sign(y), 0), -np.sign(y) * (z * np.sign(y) < 1)),
}
KINDS = 3 * len(ACTIVATIONS) * len(ENDS)  # depths, activations, ends: seeds in a row go through all of them
MISTAKES = ["factor 2", "1e-3 of all", "1e-3 of one", "layer missing", "layer transposed", "activation dropped"]


class Foreign:
    """A network of 1 to 3 hidden layers, theta -> (value, gradient), in plain NumPy.  Its kind goes by the seed."""

    def __init__(self, seed, most=10_000, n=None, weights=None, widths=None, dtype=np.float64):
        rng = np.random.default_rng(seed)
        self.activation = list(ACTIVATIONS)[seed // 3 % 4]
        self.end = ENDS[list(ENDS)[seed // 12 % 3]]
        n, weights = n or int(most ** rng.uniform()), weights or 10 ** rng.uniform(-4, 1)
        widths = widths or [*rng.integers(2, 5, 2 + seed % 3), 1]
        units = [w * (1 + (self.activation == "max-pool" and w > 1)) for w in widths[1:]]
        self.blocks = list(zip(widths, units))
        self.X, self.Y = (rng.standard_normal((n, k)).astype(dtype) for k in (widths[0], 1))
        self.X[:, 0] = 1 if seed // KINDS % 2 else self.X[:, 0]  # then with a bias
        self.theta = (weights * rng.standard_normal(sum(a * b for a, b in self.blocks))).astype(dtype)

    def __call__(self, theta, mistake=None):
        ends, (act, slope) = np.cumsum([a * b for a, b in self.blocks]), ACTIVATIONS[self.activation]
        layers = [w.reshape(shape) for w, shape in zip(np.split(theta, ends[:-1]), self.blocks)]
        inputs, sums = [self.X], []
        for W in layers:
            sums.append(inputs[-1] @ W)
            inputs.append(act(sums[-1]))
        values, G = self.end(sums[-1], self.Y)
        grads = [inputs[-2].T @ (G := G / len(G))]
        for W, x, z in zip(layers[:0:-1], inputs[-3::-1], sums[-2::-1]):
            G = G @ W.T
            if slope is None:
                first = z[:, ::2] >= z[:, 1::2]
                G = np.stack([G * first, G * ~first], axis=2).reshape(z.shape)
            elif mistake != "activation dropped":
                G = G * slope(z)
            grads.insert(0, x.T @ G)
        if mistake == "layer missing":
            grads[0] = 0 * grads[0]
        if mistake == "layer transposed":
            grads[0] = grads[0].reshape(grads[0].shape[::-1]).T
        grad = np.concatenate([g.ravel() for g in grads]).astype(theta.dtype)
        if mistake == "1e-3 of one":
            grad[np.argmax(np.abs(grad))] *= 1 + 1e-3
        return np.mean(values), grad * {"factor 2": 2, "1e-3 of all": 1 + 1e-3}.get(mistake, 1)


def verdicts(seeds, mistakes=MISTAKES, entries=None, **size):
    """How often which verdict was given: of the right gradients, and with each mistake that changes them."""
    counts = {mistake: Counter() for mistake in (None, *mistakes)}
    for seed in seeds:
        net = Foreign(seed, **size)
        right = net(net.theta)[1]
        least = (0.99e-3 if right.dtype == np.float64 else 0.05) * np.max(np.abs(right))  # above the tolerance
        with shared_differences():
            for mistake in counts:
                change = np.max(np.abs(net(net.theta, mistake)[1] - right))
                if mistake and not change > least:
                    continue
                report = check_gradient(lambda t: net(t, mistake), net.theta, entries=entries)
                counts[mistake][report.verdict] += 1
                assert report.verdict != ("ok" if mistake else "wrong"), f"{seed}, {mistake}: {report}"
    for mistake, count in counts.items():
        print(f"{mistake or 'right':<20}", *(f"{name} {count[name] / count.total():.1%}" for name in count))
    return counts


def test_no_right_gradient_of_a_foreign_network_is_rejected():
    """Of a fair share of them nobody can tell: kinks too dense, or slopes below the rounding of the values."""
    counts = verdicts(range(KINDS), most=300)
    assert counts[None]["ok"] > 0.5 * counts[None].total()
    for mistake in MISTAKES:
        assert counts[mistake]["wrong"] > 0.8 * counts[mistake].total(), mistake


@pytest.mark.slow
def test_no_right_gradient_of_many_foreign_networks_is_rejected():
    counts = verdicts(range(KINDS, 6 * KINDS), most=1000)
    assert counts[None]["ok"] > 0.4 * counts[None].total()
    for mistake in MISTAKES:
        assert counts[mistake]["wrong"] > 0.8 * counts[mistake].total(), mistake


@pytest.mark.slow
def test_no_right_gradient_of_many_foreign_networks_in_float32_is_rejected():
    verdicts(range(KINDS, 3 * KINDS), ["factor 2", "layer missing"], most=1000, dtype=np.float32)


def test_no_right_gradient_of_a_foreign_network_in_float32_is_rejected():
    verdicts(range(KINDS), ["factor 2"], entries=5, most=300, dtype=np.float32)


@pytest.mark.parametrize("weights", [0.002, 0.01, 0.1])
def test_kinks_denser_than_the_shortest_step(weights):
    """With 1,000 samples the slope turns all the time; the least of many error estimates is then far too small."""
    seeds = [0, 1, KINDS]  # relu, square
    counts = verdicts(seeds, ["factor 2"], n=1000, weights=weights, widths=[4, 5, 5, 1])
    assert counts["factor 2"]["wrong"] == len(seeds)


@pytest.mark.parametrize("seed", [137, 236, 240])
def test_kinks_are_no_reason_for_a_taylor_remainder_of_first_order(seed):
    net = Foreign(seed, most=300)
    assert check_gradient(net, net.theta, smooth=True, entries=1).verdict != "wrong"


def test_a_gradient_that_is_a_step_function_is_no_float32():
    """It grows in proportion to theta over many kinks, and stays where it is between two of them."""
    rng = np.random.default_rng(2)
    X, y, points = rng.standard_normal((20_000, 20)), rng.standard_normal(20_000), rng.standard_normal((7, 20))

    def loss(t):
        misses = X @ t - y
        return np.abs(misses).mean(), X.T @ np.sign(misses) / y.size

    for seed in (3, 6):
        assert check_gradient(loss, points[seed], entries=1, seed=seed).verdict != "wrong"


def test_a_gradient_that_is_the_same_beyond_a_ramp_is_no_stale_buffer():
    def loss(t):
        return np.clip(1e3 * t - 1001, 0, 1).sum(), 1e3 * ((t > 1.001) & (t < 1.002))

    for seed in range(20):
        assert check_gradient(loss, np.array([1.0, 5.0]), seed=seed).verdict != "wrong"


# --------------------------------------------------------------------- scales of their own, and domains


def arccos(t):
    return math.acos(t[0]) + t[1], np.array([-1 / math.sqrt((1 - t[0]) * (1 + t[0])), 1.0])


def bounded(low, high):
    """t0^2 + 3 t1 where t0 lies within bounds."""

    def loss(t):
        if not low <= t[0] <= high:
            raise RuntimeError
        return t[0] ** 2 + 3 * t[1], np.array([2 * t[0], 3.0])

    return loss


WITH_DOMAIN = [
    (lambda t: (t[0] ** 2 + np.log(t[1]), np.array([2 * t[0], 1 / t[1]])), [1, 1e-5], "ok"),
    (lambda t: (t[0] ** 2 + math.log(t[1]), np.array([2 * t[0], 1 / t[1]])), [1, 1e-5], "ok"),
    (lambda t: (t[0] ** 2 + math.log(t[1]), np.array([2 * t[0], 1 / t[1]])), [1, 1e-300], "ok"),
    (lambda t: (t[0] ** 2 + float(t[1]) ** 0.5, np.array([2 * t[0], 0.5 * t[1] ** -0.5])), [1, 1e-5], "ok"),
    (lambda t: (t[0] + math.sqrt(t[1]), np.array([1, 0.5 * t[1] ** -0.5])), [1, 1e-300], "cannot tell"),  # 1 + 1e-150
    (lambda t: (math.sqrt(t[0]), 0.5 * t**-0.5), [1e-300], "ok"),
    (lambda t: (1 / float(t[0]) + t[1], np.array([-(t[0] ** -2), 1])), [1e-3, 1], "ok"),
    (lambda t: (math.exp(t[0]) + math.exp(t[1]), np.exp(t)), [709.0, 708.5], "ok"),
    (lambda t: (np.log(t).sum(), 1 / t), 10.0 ** np.arange(-12, 6, 2), "ok"),
    (lambda t: (t[0] ** 2 + (1e8 * t[1]) ** 2, np.array([2 * t[0], 2e16 * t[1]])), [1, 1e-8], "ok"),
    (lambda t: ((t - 1) @ (t - 1), 2 * t - 2), [3, 1e-300], "ok"),
    (lambda t: (math.log(1e-20 + abs(t[0])) + t[1] ** 2, np.array([1 / (1e-20 + t[0]), 2 * t[1]])), [1e-22, 1], "ok"),
    (lambda t: ((t / 1e200) @ (t / 1e200), t / 1e200 * 2e-200), [1e200, -2e200], "ok"),
    (lambda t: ((t * 1e200) @ (t * 1e200), t * 1e200 * 2e200), [1e-200, -2e-200], "ok"),
    (arccos, [1 - 1e-4, 1], "ok"),
    (arccos, [1 - 1e-6, 1], "cannot tell"),
    (lambda t: (float(t[0]) ** 1.5 + t[1], np.array([1.5 * float(t[0]) ** 0.5, 1])), [0, 1], "cannot tell"),
    (bounded(0, 9), [0, 1], "ok"),  # on the border: from one side
    (bounded(-9, 1), [1, 1], "ok"),
    (bounded(1 - 1e-4, 1 + 1e-9), [1, 1], "ok"),
    (bounded(1, 1), [1, 1], "cannot tell"),  # no way to move
]


@pytest.mark.parametrize("loss, theta, verdict", WITH_DOMAIN)
def test_a_loss_with_a_domain(loss, theta, verdict):
    theta = np.array(theta, dtype=float)
    with shared_differences():
        report = check_gradient(loss, theta)
        assert report.verdict == verdict and not report.problems, report
        for i in np.flatnonzero(loss(theta)[1]):
            for factor in (0, 1 + 1e-3, 2):
                factors = np.where(np.arange(theta.size) == i, factor, 1)
                planted = check_gradient(lambda t: (loss(t)[0], factors * loss(t)[1]), theta)
                assert planted.verdict == "wrong" or planted.verdict == verdict == "cannot tell", planted


@pytest.mark.parametrize("error", [ValueError, TypeError, OverflowError, KeyError])
def test_whatever_a_loss_raises_away_from_theta_is_outside_its_domain(error):
    def far():
        raise error

    outside(far)


NO_ANSWER = [np.nan, None, "no", (), (np.nan, np.ones(2)), (np.inf, np.ones(2)), (1j, np.ones(2)), ("no", np.ones(2))]
NO_ANSWER += [(None, None), (1.0, None), (1.0, np.nan), (1.0, np.ones(3)), (np.ones(2), np.ones(2)), (1.0, 2.0, 3.0)]


@pytest.mark.parametrize("answer", NO_ANSWER, ids=str)
def test_whatever_a_loss_answers_away_from_theta_is_outside_its_domain(answer):
    outside(lambda: answer)
    report = check_gradient(lambda t: answer, np.ones(2))
    assert report.verdict == "wrong" and report.problems


def outside(far):
    """Checks t't where a loss answers as ``far`` does for a t0 above 1, which theta lies just below."""

    def loss(t, factor=1):
        return (t @ t, 2 * factor * t) if t[0] <= 1 + 1e-9 else far()

    theta = np.array([1, 3.0])
    assert check_gradient(loss, theta).ok
    assert check_gradient(lambda t: loss(t, 1 + 1e-3), theta).verdict == "wrong"


class Sampled:
    """A sampled loss with a Hessian, of which one part raises."""

    def __init__(self, part, error=ZeroDivisionError):
        self.part, self.error = part, error

    def answer(self, part, value):
        if part == self.part:
            raise self.error("on purpose")
        return value

    def value_and_grad(self, t):
        return self.answer("value_and_grad", (t @ t, 2 * t))

    def value(self, t):
        return self.answer("value", t @ t)

    def grad(self, t):
        return self.answer("grad", 2 * t)

    def hessian(self, t):
        return self.answer("hessian", 2 * np.eye(t.size))

    def values(self, t):
        return self.answer("values", np.array([t @ t]))

    def preactivations(self, t):
        return self.answer("preactivations", np.ones((1, 1)))


@pytest.mark.parametrize("part", ["value_and_grad", "value", "values", "preactivations", "grad", "hessian"])
def test_what_a_loss_raises_at_theta_is_reported(part):
    check = check_hessian if part in ("grad", "hessian") else check_gradient
    report = check(Sampled(part), np.ones(2))
    assert report.verdict == "wrong" and "raises ZeroDivisionError: on purpose" in report.problems[0]
    with pytest.raises(KeyboardInterrupt):
        check(Sampled(part, KeyboardInterrupt), np.ones(2))


def test_a_hessian_of_a_loss_with_a_domain():
    def grad(t):
        return np.array([1 / x if x > 0 else math.log(x) for x in t])

    theta = np.array([1, 1e-5])
    assert check_hessian(SimpleNamespace(grad=grad, hessian=lambda t: np.diag(-(t**-2))), theta).ok
    wrong = SimpleNamespace(grad=grad, hessian=lambda t: np.diag([-1.001, -1e10]))
    assert check_hessian(wrong, theta).failures[0].position == (0, 0)


if __name__ == "__main__":  # two hours: 2,160 networks of up to 10,000 samples, all entries
    verdicts(range(60 * KINDS))
