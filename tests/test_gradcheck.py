"""The checker itself: what it must reject, what it says about it, and its command line."""

import contextlib
import math

import numpy as np
import pytest
from conftest import ARCHS, every_arch, every_centered, slow

import resgrad as rg
from resgrad.draws import streams
from resgrad.gradcheck import __main__, check_gradient, check_hessian, differences

points = pytest.mark.parametrize("points", [8, *slow(40)])


# ------------------------------------------------------------------------------ planted errors


def chain_rule(arch, X, Y, theta, mistake=None):
    """The sampled gradient in plain NumPy, with one mistake."""
    d, (p, n) = X.shape[1], arch.slopes
    W1, W2, C, _ = arch.unflatten(theta, d)
    U = W1 + (0 if mistake == "identity forgotten" else arch.identity) * np.eye(*W1.shape)
    A = np.ones((W1.shape[1], 1))
    if W2 is not None:
        A = W2 if arch.readout == "vector" else W2.sum(axis=1, keepdims=True)
    Z = X @ U
    slope = np.where(Z > 0, p, n)
    H = Z if mistake == "relu dropped" else Z * slope
    C = arch.skip_map(d) if C is None else C
    R = H @ A + (0 if mistake == "skip missing" else X @ C) - Y.reshape(len(X), -1)
    if mistake in ("relu dropped", "step dropped"):
        slope = np.ones_like(Z)
    if mistake == "W2 transposed":
        A = W2.T if arch.readout == "vector" else W2.sum(axis=0)[:, None]
    scale = 2 / len(X)
    return arch.pull_back(scale * X.T @ ((R @ A.T) * slope), scale * H.T @ R, scale * X.T @ R)


class Planted:
    """A right loss with a wrong gradient."""

    def __init__(self, loss, mistake, X, Y):
        self.loss, self.mistake, self.X, self.Y = loss, mistake, X, Y
        self.shapes, self.value = loss.shapes, loss.value
        self.values, self.preactivations = loss.values, loss.preactivations
        self.kept, self.calls = None, 0

    def value_and_grad(self, theta):
        value, grad = self.loss.value_and_grad(theta)
        arch, mistake, X, Y = self.loss.arch, self.mistake, self.X, self.Y
        self.calls += 1
        if mistake == "factor 2":
            return value, 2 * grad
        if mistake == "wrong sign":
            return value, -grad
        if mistake == "one wrong entry":
            grad[np.argmax(np.abs(grad))] *= 1 + 1e-4
            return value, grad
        if mistake == "first sample only":
            return value, chain_rule(arch, X[:1], Y[:1], theta)
        if mistake == "float32 gradient":
            single = rg.EmpiricalLoss(arch, X.astype(np.float32), Y.astype(np.float32))
            return value, single.grad(theta).astype(float)
        if mistake == "W2 stored transposed":
            blocks = arch.unflatten(grad, X.shape[1])
            return value, arch.flatten(*blocks._replace(W2=blocks.W2.T))
        if mistake == "shared buffer":
            self.kept = grad if self.kept is None else self.kept
            self.kept[:] = grad
            return value, self.kept
        if mistake == "one call late":
            self.kept, grad = grad, grad if self.kept is None else self.kept
            return value, grad
        if mistake == "never cleared":
            self.kept = grad if self.kept is None else self.kept + grad
            return value, self.kept
        if mistake == "first call only":
            self.kept = grad if self.kept is None else self.kept
            return value, self.kept.copy()
        return value, chain_rule(arch, X, Y, theta, mistake)


EVERYWHERE = ["factor 2", "wrong sign", "one wrong entry", "first sample only", "float32 gradient"]
EVERYWHERE += ["relu dropped", "step dropped"]
STALE = ["shared buffer", "one call late", "never cleared", "first call only"]


def mistakes(arch):
    """Those that can occur in an architecture."""
    found = list(EVERYWHERE)
    found += ["W2 transposed", "W2 stored transposed"] if arch.trains_readout else []
    found += ["skip missing"] if arch.skip or arch.trains_skip else []
    found += ["identity forgotten"] if arch.identity else []
    return found


@contextlib.contextmanager
def shared_differences():
    """All checks in the block take the differences of the first: mistakes in a gradient leave the values alone."""

    def once(function):
        found = []

        def recall(*arguments):
            if not found:
                found.append(function(*arguments))
            return found[0]

        return recall

    with pytest.MonkeyPatch.context() as patch:
        for name in ("sample_slopes", "slopes", "rounding_noise"):
            patch.setattr(differences, name, once(getattr(differences, name)))
        yield


def setting(name, seed, d=2, n=9):
    """(theta, loss, X, Y): a student and a teacher of its kind, without the skip."""
    rng = np.random.default_rng(seed)
    arch = rg.ARCHITECTURES[name]
    theta, X = rg.draw(arch, "normal", d, rng=rng), rng.standard_normal((n, d))
    Y = rng.standard_normal((n, d) if arch.readout == "vector" else n)
    if arch.trains_skip:
        arch.unflatten(theta, d).C[:] += rng.standard_normal((d, arch.outputs(d)))  # which starts at a round number
    return theta, rg.EmpiricalLoss(arch, X, Y), X, Y


@every_centered
def test_the_chain_rule_without_a_mistake_is_right(arch):
    theta, loss, X, Y = setting(arch, 0)
    assert check_gradient(Planted(loss, None, X, Y), theta).ok


@points
@every_arch
def test_no_planted_error_is_accepted(arch, points):
    accepted = dict.fromkeys(mistakes(rg.ARCHITECTURES[arch]), 0)
    for seed in range(points):
        theta, loss, X, Y = setting(arch, seed)
        with shared_differences():
            for mistake in accepted:
                report = check_gradient(Planted(loss, mistake, X, Y), theta)
                accepted[mistake] += report.verdict != "wrong"
    assert not any(accepted.values()), accepted


@points
@every_arch
def test_no_stale_buffer_is_accepted(arch, points):
    for seed in range(points // 4):
        theta, loss, X, Y = setting(arch, seed)
        with shared_differences():
            for mistake in STALE:
                report = check_gradient(Planted(loss, mistake, X, Y), theta)
                assert report.verdict == "wrong", mistake
                assert any("buffer" in problem or "another" in problem for problem in report.problems), mistake


@every_arch
def test_no_planted_error_is_accepted_from_a_foreign_callable(arch):
    for seed in range(3):
        theta, loss, X, Y = setting(arch, seed)
        with shared_differences():
            for mistake in mistakes(loss.arch) + STALE:
                report = check_gradient(Planted(loss, mistake, X, Y).value_and_grad, theta)
                assert report.verdict == "wrong", f"{mistake}: {report}"


@pytest.mark.parametrize("points", [1, *slow(8)])
@every_arch
def test_no_planted_error_is_accepted_in_expectation(arch, points):
    rng = np.random.default_rng(1)
    other = {"li": "resnet-sum", "vanilla": "resnet-sum"}.get(arch, arch)  # a mixed pair, by the skip
    teacher = rg.Network(other, rg.draw(other, "normal", 3, rng=rng), 3)
    loss = rg.PopulationLoss(arch, teacher)
    forgot = rg.PopulationLoss(arch, teacher)
    forgot.units_star = (*forgot.units_star[:2], forgot.units_star[2] + 1)  # a skip that is not there
    for _ in range(points):
        theta = rg.draw(arch, "normal", 3, rng=rng)
        wrongs = {
            "factor": lambda t: 2 * loss.grad(t),
            "sign": lambda t: -loss.grad(t),
            "float32": lambda t: loss.grad(t).astype(np.float32).astype(float),
            "entry": lambda t: loss.grad(t) * (1 + 1e-4 * (np.arange(t.size) == np.argmax(np.abs(loss.grad(t))))),
        }
        if sum(loss.arch.slopes):  # else odd and even parts do not meet
            wrongs["skip"] = forgot.grad
        with shared_differences():
            for name, grad in wrongs.items():
                report = check_gradient(lambda t, grad=grad: (loss.value(t), grad(t)), theta, smooth=True)
                assert report.verdict == "wrong", f"{name}: {report}"
                if name in ("factor", "sign", "skip"):
                    assert max(report.taylor_slopes) < 1.2, report


@every_arch
def test_float32_hidden_in_value_and_gradient(arch):
    for seed in range(3):
        theta, _, X, Y = setting(arch, seed)
        single = rg.EmpiricalLoss(arch, X.astype(np.float32), Y.astype(np.float32))

        def hidden(t, single=single):
            value, grad = single.value_and_grad(t)
            return value, grad.astype(float)

        report = check_gradient(hidden, theta)
        assert report.verdict == "wrong" and "float32" in str(report)


@pytest.mark.parametrize("d", [30, *slow(100)])
def test_one_wrong_entry_among_thousands(d):
    theta, loss, X, Y = setting("li", 0, d=d, n=5)
    row, column = d // 2, d // 3

    def wrong(t):
        value, grad = loss.value_and_grad(t)
        grad[row * d + column] *= 1 + 1e-4
        return value, grad

    planted = Planted(loss, None, X, Y)
    planted.value_and_grad = wrong
    report = check_gradient(planted, theta)
    (failure,) = report.failures
    assert (failure.block, failure.index, failure.position) == ("W1", row * d + column, (row, column))
    assert failure.numeric == pytest.approx(loss.grad(theta)[row * d + column], rel=1e-9)
    assert report.blocks[0].checked == d * d and report.blocks[0].hint == "only this entry is wrong"


# ---------------------------------------------------------------------------------- the report


@pytest.mark.parametrize(
    "mistake, block, hint",
    [
        ("factor 2", 0, "analytic is 2 times numeric"),
        ("wrong sign", 1, "analytic has the opposite sign"),
        ("W2 stored transposed", 1, "analytic is the transpose of numeric"),
    ],
)
def test_hints(mistake, block, hint):
    theta, loss, X, Y = setting("modresnet", 1, d=3)
    report = check_gradient(Planted(loss, mistake, X, Y), theta)
    assert report.blocks[block].hint == hint and hint in str(report)


def test_hint_for_a_missing_block():
    report = check_gradient(
        lambda t: (t @ t, np.append(2 * t[:2], [0, 0])), np.arange(1.0, 5), shapes={"a": (2,), "b": (1, 2)}
    )
    assert [block.hint for block in report.blocks] == ["", "analytic is exactly zero"]
    assert [entry.position for entry in report.failures] == [(0, 1), (0, 0)]


def test_report_tells_where_and_what():
    theta, loss, X, Y = setting("resnet", 1, d=3)
    report = check_gradient(Planted(loss, "one wrong entry", X, Y), theta)
    text = str(report)
    assert not report.ok and len(report.failures) == 1 and report.max_rel_error > 1e-6
    for word in ("W1", "W2", "9 checked", "analytic: what the loss returned", "rtol 1e-09", "wrong"):
        assert word in text
    assert len(report.worst) == 5 and report.worst[0] == report.failures[0]


def test_kink_reports_both_sides_and_accepts_what_lies_between():
    def loss(slope):
        return lambda t: (abs(t[0]) + 2 * t[0] + t[1] ** 2, np.array([slope, 2 * t[1]]))

    theta = np.array([0.0, 0.7])
    for slope in (1.0, 2.0, 3.0):
        report = check_gradient(loss(slope), theta)
        entry = next(entry for entry in report.worst if entry.index == 0)
        assert report.ok and report.blocks[0].kinks == 1
        assert (entry.left, entry.right) == pytest.approx((1, 3), rel=1e-9)
    for slope in (-1.0, 4.5):
        report = check_gradient(loss(slope), theta)
        assert report.verdict == "wrong" and "kink: left 1, right 3" in str(report)


@every_centered
def test_at_a_sampled_kink_only_the_bracket_is_accepted(arch):
    theta, _, X, Y = setting(arch, 3)
    X[0] = [2.0, 0.0]  # then the first unit's pre-activation on it vanishes exactly
    theta[0] = -rg.ARCHITECTURES[arch].identity
    loss = rg.EmpiricalLoss(arch, X, Y)
    report = check_gradient(loss, theta)
    (kink,) = report.kinks
    low, high = sorted((kink.left, kink.right))
    assert report.ok and kink.index == 0 and report.blocks[0].kinks == 1
    for value, ok in ((low, True), ((low + high) / 2, True), (high, True), (low - 1e-6, False), (high + 1e-6, False)):
        planted = Planted(loss, None, X, Y)
        planted.value_and_grad = lambda t, g=value: (loss.value(t), np.append(g, loss.grad(t)[1:]))
        assert check_gradient(planted, theta).ok == ok


@every_centered
def test_at_a_kink_with_samples_on_either_side(arch):
    """One turns on to the left, one to the right; with relu'(0) = 0 neither counts."""
    theta, _, X, Y = setting(arch, 3)
    X[0], X[1] = [2.0, 0.0], [-1.0, 0.0]
    theta[0] = -rg.ARCHITECTURES[arch].identity
    loss = rg.EmpiricalLoss(arch, X, Y)
    right = loss.grad(theta)
    (kink,) = check_gradient(loss, theta).kinks
    assert check_gradient(loss, theta).ok
    for end, beyond in ((min, -1e-6), (max, 1e-6)):
        planted = Planted(loss, None, X, Y)
        value = end(kink.left, kink.right, right[0]) + beyond
        planted.value_and_grad = lambda t, g=value: (loss.value(t), np.append(g, loss.grad(t)[1:]))
        assert check_gradient(planted, theta).failures[0].index == 0


@every_centered
def test_a_factor_close_to_one_is_rejected_close_to_the_teacher(arch):
    theta, _, X, _ = setting(arch, 2)
    Y = rg.Network(arch, theta, 2)(X)
    loss = rg.EmpiricalLoss(arch, X, Y)
    at = theta + 1e-4 * np.random.default_rng(0).standard_normal(theta.size)
    planted = Planted(loss, None, X, Y)
    assert check_gradient(planted, at).ok and check_gradient(planted, theta).ok
    planted.value_and_grad = lambda t: (loss.value(t), (1 + 1e-6) * loss.grad(t))
    assert check_gradient(planted, at).failures


def test_values_that_are_not_what_the_value_is_the_mean_of():
    theta, loss, X, Y = setting("li", 0)
    planted = Planted(loss, None, X, Y)
    planted.values = lambda t: 2 * loss.values(t)
    assert "values(theta) have mean" in check_gradient(planted, theta).problems[0]


def test_tolerances_combine_as_in_isclose():
    theta = np.array([3.0, 0.5])

    def off(t):
        return t @ t, 2 * t + np.array([6e-3, 1.2e-3])

    assert check_gradient(off, theta, rtol=1.1e-3, atol=0).failures[0].index == 1
    assert check_gradient(off, theta, rtol=1e-3, atol=1.1e-3).ok
    assert not check_gradient(off, theta, rtol=1e-3, atol=0).ok


def test_relative_errors_are_safe_at_zero():
    for theta in (np.zeros(3), np.ones(3)):
        report = check_gradient(lambda t: (0.0, np.zeros(3)), theta)
        assert report.ok and report.max_rel_error == 0
    report = check_gradient(lambda t: (t @ t, 2 * t), np.zeros(3))
    assert report.ok and report.max_rel_error < 1e-9


def test_a_loss_that_rounding_makes_constant_is_none():
    theta = np.full(4, 1e-4, np.float32)
    for factor in (0, 1):
        report = check_gradient(lambda t, factor=factor: (1 + t.prod(), factor * t.prod() / t), theta)
        assert report.verdict == "cannot tell", report


def test_cannot_tell_is_neither_right_nor_wrong():
    rng = np.random.default_rng(0)
    report = check_gradient(lambda t: (t @ t + 1e-5 * np.sin(1e13 * t.sum()), 2 * t), rng.normal(size=4))
    assert report.verdict == "cannot tell" and report.unknown


@pytest.mark.parametrize(
    "loss, theta",
    [
        (lambda t: (np.exp(t).sum(), np.exp(t)), np.linspace(-3, 3, 7)),
        (lambda t: (np.exp(t).sum(), np.exp(t)), np.array([30.0, 1.0])),
        (lambda t: (np.sum(t**4 - t), 4 * t**3 - 1), np.array([1e3, 1e-3, 0.0, -5.0])),
        (lambda t: (np.log(t).sum(), 1 / t), np.array([0.01, 1.0, 50.0])),
        (lambda t: ((1 / t).sum(), -1 / t**2), np.ones(3)),
        (lambda t: (np.abs(t).sum(), np.sign(t)), np.array([0.3, -1e-5, 2.0])),
        (lambda t: (np.maximum(t, 0).sum(), (t > 0) * 1.0), np.array([0.0, 1.0, -1.0])),
        (lambda t: (3 * t[0] + t[1], np.array([3.0, 1.0])), np.array([0.3, -1.0])),
    ],
)
def test_functions_of_other_kinds(loss, theta):
    report = check_gradient(loss, theta)
    assert report.ok, report
    for factor in (-1, 1 + 1e-6, 2):
        report = check_gradient(lambda t: (loss(t)[0], factor * loss(t)[1]), theta)
        assert report.verdict == "wrong", report


def test_a_sample_of_the_entries():
    theta, loss, _, _ = setting("resnet", 0, d=5)
    report = check_gradient(loss, theta, entries=4)
    assert report.ok and [block.checked for block in report.blocks] == [4, 4]


def test_taylor_slope_is_one_for_a_wrong_gradient():
    rng = np.random.default_rng(0)
    loss = rg.PopulationLoss("li", rg.Network("li", rg.draw("li", "normal", 3, rng=rng), 3))
    theta = rg.draw("li", "normal", 3, rng=rng)
    wrong = check_gradient(lambda t: (loss.value(t), 1.01 * loss.grad(t)), theta, smooth=True)
    assert wrong.taylor_slopes == pytest.approx((1, 1, 1), abs=0.1)
    assert any("Taylor" in problem for problem in wrong.problems)


def test_hessian_errors_are_found():
    rng = np.random.default_rng(0)
    loss = rg.PopulationLoss("resnet", rg.Network("resnet", rg.draw("resnet", "normal", 2, rng=rng), 2))
    theta, right = rg.draw("resnet", "normal", 2, rng=rng), loss.hessian
    assert check_hessian(loss, theta).ok
    loss.hessian = lambda t: 2 * right(t)
    assert check_hessian(loss, theta).blocks[0].hint == "analytic is 2 times numeric"
    loss.hessian = lambda t: right(t) + np.triu(np.ones((8, 8)), 1)
    assert "hessian is not symmetric" in check_hessian(loss, theta).problems
    loss.hessian = lambda t: right(t)[:3]
    assert "has shape (3, 8)" in str(check_hessian(loss, theta))
    loss.hessian = lambda t: right(t) * np.where(np.eye(8), np.nan, 1)
    assert "hessian is nan (NaN or infinite) at (0, 0)" in str(check_hessian(loss, theta))
    with pytest.raises(TypeError, match="must have grad and hessian"):
        check_hessian(rg.EmpiricalLoss("li", [[1.0]], [1.0]), [1.0])


def test_a_hessian_needs_a_gradient_and_nothing_else():
    class Quadratic:
        def grad(self, theta):
            return 2 * theta

        def hessian(self, theta):
            return 2 * np.eye(theta.size)

    assert check_hessian(Quadratic(), np.ones(3)).ok


# ----------------------------------------------------------------------------------- bad input


NOISE = np.random.default_rng(0)


def in_place(t):
    t *= 2
    return t @ t, 2 * t


@pytest.mark.parametrize(
    "loss, words",
    [
        (lambda t: (t @ t, np.ones(3)), "gradient has shape (3,), but theta has shape (4,)"),
        (lambda t: (t @ t, 2.0 * t[:, None]), "gradient has shape (4, 1)"),
        (lambda t: (t, t), "value is"),
        (lambda t: (np.nan, t), "value is nan"),
        (lambda t: (t @ t, np.array([0, np.inf, 0, 0])), "gradient is inf (NaN or infinite) at index 1"),
        (lambda t: (t @ t, t * 1j), "dtype complex128"),
        (lambda t: t @ t, "must return (value, grad)"),
        (in_place, "changes theta in place"),
        (lambda t: (t @ t + NOISE.normal(), 2 * t), "another value"),
    ],
)
def test_a_broken_callable_is_named_as_such(loss, words):
    report = check_gradient(loss, np.arange(1.0, 5.0))
    assert report.verdict == "wrong" and words in str(report)


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        ({"loss": 3}, TypeError, "loss is 3"),
        ({"theta": [np.nan]}, ValueError, "theta holds nan"),
        ({"theta": np.eye(2)}, ValueError, "theta has shape (2, 2)"),
        ({"theta": []}, ValueError, "at least one entry"),
        ({"rtol": 0}, ValueError, "rtol is 0"),
        ({"atol": -1}, ValueError, "atol is -1"),
        ({"shapes": {"a": (3,)}}, ValueError, "shapes hold 3 entries"),
        ({"shapes": [(2,)]}, TypeError, "shapes is [(2,)]"),
        ({"shapes": {"a": 2}}, TypeError, "must map names to shapes"),
        ({"entries": 0}, ValueError, "entries is 0"),
        ({"seed": -1}, ValueError, "seed is -1"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, words):
    with pytest.raises(error) as caught:
        check_gradient(**({"loss": lambda t: (t @ t, 2 * t), "theta": np.ones(2)} | arguments))
    assert words in str(caught.value)


def spoilt(name, how):
    """A sampled loss of which one part is ``how`` of what it should be, but not at once."""
    theta, loss, X, Y = setting("modresnet", 0)
    part, calls = getattr(loss, name), []

    def late(t):
        calls.append(0)
        return how(t, part(t)) if len(calls) > 9 else part(t)

    planted = Planted(loss, None, X, Y)
    setattr(planted, name, late)
    return planted, theta


def double_theta(t, result):
    t *= 2
    return result


@pytest.mark.parametrize("name", ["values", "preactivations"])
@pytest.mark.parametrize(
    "how, words",
    [
        (double_theta, "changes theta in place"),
        (lambda t, result: result[:3], "shape (3"),
        (lambda t, result: np.nan * result, ""),
    ],
)
def test_what_breaks_late_is_no_traceback_and_not_accepted(name, how, words):
    report = check_gradient(*spoilt(name, how))
    assert not report.ok and words in str(report)


def test_what_breaks_late_in_a_foreign_callable():
    calls = []

    def loss(t):
        calls.append(0)
        return (t @ t, 2 * t) if len(calls) < 40 else (np.nan, 2 * t)

    assert check_gradient(loss, np.arange(1.0, 9.0)).verdict == "cannot tell"
    with_domain = check_gradient(lambda t: (math.log(t[0]), 1 / t), np.array([1e-3]))  # raises below 0
    assert with_domain.ok


@pytest.mark.parametrize("name", ["value", "gradient"])
@every_arch
def test_float32_inside_an_expected_loss(arch, name):
    rng = np.random.default_rng(3)
    loss = rg.PopulationLoss(arch, rg.Network(arch, rg.draw(arch, "normal", 3, rng=rng), 3))
    theta = rg.draw(arch, "normal", 3, rng=rng)
    assert check_gradient(loss, theta).ok
    if name == "value":
        value = loss.value
        loss.value_and_grad = lambda t: (np.float64(np.float32(value(t)) / 3), loss.grad(t) / 3)
    else:
        loss.value_and_grad = lambda t: (loss.value(t), np.float32(20 * loss.grad(t)) / np.float64(20))
    assert f"the {name} does not feel" in str(check_gradient(loss, theta))
    loss.value_and_grad = lambda t: (loss.value(t), loss.grad(np.float32(t).astype(float)))
    assert "the gradient does not feel" in str(check_gradient(loss, theta))


def test_theta_is_left_alone():
    theta, loss, _, _ = setting("li", 0)
    before = theta.copy()
    check_gradient(loss, theta)
    assert np.array_equal(theta, before)


# -------------------------------------------------------------------------------- command line


def test_command_line_prints_one_table(capsys):
    assert __main__.main(["--d", "3", "--seed", "1"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    counts = {"empirical": 3, "online": 2, "population": 2, "Hessian  ": 2, "correlated": 1, "its Hessian": 1}
    assert head.startswith("architecture") and len(rows) == sum(counts.values()) * len(ARCHS)
    for kind, count in counts.items():
        assert sum(f" {kind}" in row for row in rows) == count * len(ARCHS)


@pytest.mark.parametrize("d", ["1", "2"])
def test_command_line_in_few_dimensions(d):
    assert __main__.main(["--arch", "modresnet", "--d", d]) == 0


@pytest.mark.parametrize("seed", [0, *slow(*range(1, 10))])
def test_command_line_in_one_dimension(seed, capsys):
    assert __main__.main(["--d", "1", "--seed", str(seed)]) == 0
    lines = capsys.readouterr().out.partition("\n\n")[0].splitlines()
    doubtful = {tuple(line.split()[:2]) for line in lines if "cannot tell" in line}
    # A unit with u = 0 has a corner; next to a free skip relu'(0) = 0 lies outside of its two slopes.
    # A bias may turn a unit off but for the rarest inputs: a gradient of 1e-11 next to a loss of 1.
    allowed = {(arch, "population") for arch in ARCHS if arch.endswith("-free")}
    assert doubtful <= allowed | {("li-bias", "population"), ("li-bias", "correlated")}


def test_the_rounding_of_terms_that_cancel_is_no_slope():
    """The gradient is exactly 0 at the teacher and off by a constant 1e-16 next to it, which is no noise."""
    theta = rg.draw("vanilla", "normal", 1, rng=streams(0).teacher)
    loss = rg.PopulationLoss("vanilla", rg.Network("vanilla", theta, 1))
    for wrong in (1 + 1e-5, 4 / np.pi, -1):
        assert check_hessian(loss, theta).ok
        right, loss.hessian = loss.hessian, lambda t, factor=wrong: factor * np.eye(1)
        assert check_hessian(loss, theta).verdict == "wrong"
        loss.hessian = right


def test_command_line_fails_on_a_wrong_gradient(capsys, monkeypatch):
    right = rg.EmpiricalLoss.value_and_grad
    monkeypatch.setattr(rg.EmpiricalLoss, "value_and_grad", lambda s, t: (right(s, t)[0], 2 * right(s, t)[1]))
    assert __main__.main(["--arch", "li", "--d", "2"]) == 1
    assert "analytic is 2 times numeric" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argument, words",
    [
        (["--arch", "modresnt"], "did you mean 'modresnet'?"),
        (["--d", "0"], "--d is 0"),
        (["--d", "two"], "must be an integer"),
        (["--seed", "-1"], "--seed is -1"),
        (["--no-such"], "unrecognized"),
    ],
)
def test_command_line_refuses_in_one_line(argument, words, refusal):
    assert words in refusal(__main__.main, argument)
