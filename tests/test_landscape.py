"""Critical points and their spectra, against theorems and published numbers; one-point convexity."""

from types import SimpleNamespace

import numpy as np
import pytest
from conftest import TRAINED_READOUT, every_arch, point, samples, slow

import resgrad as rg
from resgrad.minima import symmetry

PI = np.pi
FIXED = [name for name, arch in rg.ARCHITECTURES.items() if arch.readout == "fixed" and not arch.bias]


def task(arch, d, kind="uniform", seed=0):
    """(loss, theta*): a teacher of the student's own shape."""
    theta_star = rg.draw(arch, kind, d, rng=seed)
    return rg.PopulationLoss(arch, rg.Network(arch, theta_star, d)), theta_star


def orbit_dimension(arch, d):
    return {"fixed": 0, "vector": d, "sum": d * d}[rg.ARCHITECTURES[arch].readout]


# ------------------------------------------------------------------------------------ the minima


@every_arch
@pytest.mark.parametrize("d", [3, 5])
def test_the_null_space_at_the_teacher_is_the_tangent_space_of_its_orbit(arch, d):
    loss, theta_star = task(arch, d)
    found = rg.spectrum(loss, theta_star)
    assert found.nullity == found.predicted == orbit_dimension(arch, d)
    assert found.index == 0 and found.explained
    assert found.angles.size == found.nullity and (found.angles < 1e-10).all()
    np.testing.assert_allclose(loss.hessian(theta_star) @ found.null_space, 0, atol=1e-10)
    # the cut is in a gap that is orders wide: any tolerance in it gives the same answer
    sizes = np.sort(np.abs(found.eigenvalues)) / np.abs(found.eigenvalues).max()
    assert sizes[: found.nullity].max(initial=0) < 1e-13 and sizes[found.nullity :].min() > 1e-7


# of a teacher and a start that reach zero loss; the post's distributions, and 0 unless given
SEEDS = {"resnet-sum": 1}


@every_arch
def test_the_answer_zero_loss_students_equal_the_teacher_up_to_symmetry(arch):
    loss, theta_star = task(arch, 4, seed=SEEDS.get(arch, 0))
    theta0 = rg.draw(arch, "fan-in", 4, rng=100 + SEEDS.get(arch, 0))
    end = rg.polish(loss, theta0)
    assert (end.verdict, end.index, end.nullity) == ("global minimum", 0, orbit_dimension(arch, 4))
    assert end.grad_norm <= 1e-13 and end.loss < 1e-25
    assert rg.spectrum(loss, end.theta).explained
    al = rg.align(arch, end.theta, theta_star, 4)
    assert al.distance < 1e-11
    if rg.ARCHITECTURES[arch].trains_readout:
        assert al.raw_distance > 0.5
    np.testing.assert_allclose(al.teacher, end.theta, atol=1e-11)


@pytest.mark.parametrize("arch", TRAINED_READOUT)
@pytest.mark.parametrize("scale", [1e-3, 0.1, 10.0, 1e3])
def test_the_null_space_is_found_at_any_scale_from_the_balanced_form(arch, scale):
    """At theta itself only within the documented range of scales: the spectrum's spread grows by its c^4."""
    loss, theta_star = task(arch, 4)
    theta = rg.transform(arch, theta_star, 4, scales=[scale, 1.0, 1.0, 1.0])
    assert rg.spectrum(loss, symmetry.balanced(arch, theta, 4)).explained
    assert rg.polish(loss, theta).nullity == orbit_dimension(arch, 4)
    assert rg.spectrum(loss, theta).explained or not 0.1 <= scale <= 10


def test_hessian_at_the_orthogonal_teacher_has_safran_and_shamirs_eigenvalues():
    """In their convention, with a factor 1/2 in the loss: 1/4 -+ 1/(2 pi)."""
    k = 7
    found = rg.spectrum(*task("vanilla", k, "identity"))
    for value, multiplicity in (0.25 - 1 / (2 * PI), k * (k - 1) // 2), (0.25 + 1 / (2 * PI), k * (k - 3) // 2):
        assert (np.abs(found.eigenvalues / 2 - value) < 1e-13).sum() == multiplicity
    assert found.nullity == found.index == 0


def test_safran_and_shamirs_most_frequent_spurious_minimum():
    """Gradient descent with step 0.1 on half the loss, k = 10: their Table."""
    loss, _ = task("vanilla", 10, "identity")
    run = rg.train(loss, rg.draw("vanilla", "normal", 10, rng=6), rg.SGD(0.05), 6000)
    end = rg.polish(loss, run.theta)
    assert (end.verdict, end.index, end.nullity) == ("spurious minimum", 0, 0)
    assert end.loss / 2 == pytest.approx(0.0187021946, abs=5e-11)
    assert end.min_eigenvalue / 2 == pytest.approx(0.031964, abs=5e-7)
    assert end.grad_norm <= 1e-13 and end.iterations <= 4
    assert "spurious minimum" in str(end) and "0 negative and 0 zero" in str(end)


# -------------------------------------------------------------------------------------- polishing


@every_arch
@pytest.mark.parametrize("size", [1e-9, 1e-5, 1e-3])
def test_polish_returns_to_the_minimum_next_to_it(arch, size):
    loss, theta_star = task(arch, 4, seed=1)
    end = rg.polish(loss, theta_star + size * point(arch, 4))
    assert end.verdict == "global minimum" and end.grad_norm <= 1e-13
    assert rg.align(arch, end.theta, theta_star, 4).distance < 1e-11
    assert np.linalg.norm(end.theta - theta_star) < 10 * size  # it does not wander along the orbit
    at = symmetry.gauge(loss.arch, end.theta, 4)[0]
    np.testing.assert_allclose(end.eigenvalues, np.linalg.eigvalsh(loss.hessian(at)), rtol=1e-9, atol=1e-13)


@every_arch
def test_polish_arrives_from_anywhere(arch):
    """A critical point: |g| <= 1e-13, or what rounding every entry of theta does to it."""
    for seed in range(6):
        loss, _ = task(arch, 2 + seed, "normal", seed)
        start = 10 ** (seed / 2 - 2) * point(arch, 2 + seed, seed=seed)
        end = rg.polish(loss, start)
        assert end.verdict in ("global minimum", "spurious minimum")
        at = symmetry.gauge(loss.arch, end.theta, loss.d)[0]
        rounding = np.finfo(float).eps * np.linalg.norm(np.abs(loss.hessian(at)) @ np.abs(at))
        assert max(end.grad_norm, np.linalg.norm(loss.grad(at))) <= max(1e-13, rounding)
        assert end.loss <= loss.value(start) and end.index == 0


@pytest.mark.parametrize("seed", [6, 21])
def test_polish_is_not_drawn_into_the_kink(seed):
    """Where units may vanish as a whole, descent leads to u = 0, and the Hessian grows like 1 / |u|."""
    rng = np.random.default_rng(seed)
    loss = rg.PopulationLoss("resnet", rg.Network("resnet", rg.draw("resnet", "small", 2, rng=rng), 2))
    end = rg.polish(loss, rg.draw("resnet", "normal", 2, 1, rng))
    assert (end.verdict, end.nullity) == ("spurious minimum", 1) and np.linalg.norm(end.theta[:2]) > 0.1


@pytest.mark.parametrize("arch", TRAINED_READOUT)
@pytest.mark.parametrize("seed", range(4))
def test_polish_depends_on_the_function_alone(arch, seed):
    """The same verdict, loss and spectrum from every representative, and the image of the same point."""
    loss, _ = task(arch, 4, "normal", seed)
    start, scales = rg.draw(arch, "normal", 4, rng=100 + seed), np.array([1e3, 1.0, 1e-4, 30.0])
    end, other = (rg.polish(loss, x) for x in (start, rg.transform(arch, start, 4, scales=scales)))
    assert (other.verdict, other.index, other.nullity) == (end.verdict, end.index, end.nullity)
    assert other.loss == pytest.approx(end.loss, rel=1e-6, abs=1e-24)
    np.testing.assert_allclose(other.eigenvalues, end.eigenvalues, rtol=1e-4, atol=1e-6 * end.eigenvalues[-1])
    image = rg.transform(arch, end.theta, 4, scales=scales)
    np.testing.assert_allclose(other.theta, image, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("arch", TRAINED_READOUT)
@pytest.mark.parametrize("size", [1, 1e4, 1e30, *slow(1e3, 1e8)])
def test_from_afar_a_slope_is_never_taken_for_a_minimum(arch, size):
    for seed in range(3):
        loss, _ = task(arch, 4, "normal", seed + 2)
        end = rg.polish(loss, size * rg.draw(arch, "normal", 4, rng=102 + seed), max_steps=300)
        if "minimum" in end.verdict:
            length = np.linalg.norm(symmetry.gauge(loss.arch, end.theta, 4)[0])
            assert end.grad_norm * length <= max(1e-6 * end.loss, 1e-11) and end.min_eigenvalue > -1e-9


@every_arch
@pytest.mark.parametrize("size", [0.1, 1.0, 10.0])
def test_nothing_is_spurious_about_a_zero_teacher(arch, size):
    loss, _ = task(arch, 3, "zero")
    start = size * rg.draw(arch, "normal", 3, rng=3)
    end = rg.polish(loss, start)
    assert end.verdict == "global minimum" and end.loss <= 1e-24 * loss.value(start)


def test_polish_without_descent_takes_the_nearest_critical_point():
    loss, saddle = symmetric_saddle(2)
    start = saddle + 1e-3 * point("vanilla", 2)
    assert rg.polish(loss, start).verdict == "global minimum"
    assert rg.polish(loss, start, max_steps=0).verdict == "saddle"


def symmetric_saddle(d):
    """Equal students stay equal, and descend to a saddle."""
    loss, _ = task("vanilla", d, "identity")
    return loss, rg.train(loss, np.full(d * d, 0.9 / d), rg.SGD(0.02), 1000).theta


@pytest.mark.parametrize("d", [2, 4])
def test_polish_finds_a_saddle_next_to_it_and_its_index(d):
    loss, saddle = symmetric_saddle(d)
    end = rg.polish(loss, saddle + 1e-7 * point("vanilla", d))
    assert (end.verdict, end.grad_norm <= 1e-13) == ("saddle", True)
    np.testing.assert_allclose(end.theta, saddle, atol=1e-6)
    assert end.index == (np.linalg.eigvalsh(loss.hessian(saddle)) < -1e-6).sum() == (d - 1) ** 2
    assert end.min_eigenvalue < -1


def test_polish_from_farther_off_leaves_the_saddle_downhill():
    loss, saddle = symmetric_saddle(4)
    end = rg.polish(loss, saddle + 1e-2 * point("vanilla", 4))
    assert end.verdict == "global minimum" and end.loss < loss.value(saddle)


def test_polish_with_extra_units_reaches_a_degenerate_minimum():
    teacher = rg.Network("vanilla", np.eye(4).ravel(), 4)
    loss = rg.PopulationLoss("vanilla", teacher)
    end = rg.polish(loss, rg.draw("vanilla", "normal", 4, width=5, rng=0))
    assert end.verdict == "global minimum" and end.nullity > 0 and end.grad_norm <= 1e-13


@every_arch
def test_a_kink_is_no_minimum(arch):
    """relu'(0) = 0 makes the gradient vanish at zero units, where the loss falls when they grow."""
    loss, _ = task(arch, 3)
    theta = np.zeros(loss.arch.size(3))
    W1, _, C, _ = loss.arch.unflatten(theta, 3)
    W1 -= loss.arch.identity * np.eye(3)
    if C is not None:  # the best one
        C -= loss.arch.unflatten(loss.grad(theta), 3).C / 2
    assert np.linalg.norm(loss.grad(theta)) < 1e-15
    assert rg.polish(loss, theta).verdict == "saddle"


def test_polish_says_when_it_ran_out_of_steps():
    loss, _ = task("resnet", 4)
    end = rg.polish(loss, rg.draw("resnet", "fan-in", 4, rng=3), max_steps=2)
    assert end.verdict == "unconverged" and end.grad_norm > 1e-13


@pytest.mark.parametrize("function", [rg.polish, rg.spectrum])
def test_a_hessian_is_required(function):
    X, Y = samples("li", 10, 3)
    with pytest.raises(TypeError, match="loss is .*, but must have value, grad and hessian"):
        function(rg.EmpiricalLoss("li", X, Y), np.zeros(9))
    with pytest.raises(ValueError, match=r"theta has shape \(8,\)"):
        function(task("li", 3)[0], np.zeros(8))


# --------------------------------------------------------------------------- one-point convexity


def test_one_point_for_li_is_li_and_yuans():
    loss, theta_star = task("li", 4, "small")
    thetas = np.array([point("li", 4, seed=s) for s in range(5)])
    found = rg.one_point(loss, thetas)
    for i, theta in enumerate(thetas):
        W, W_star = theta.reshape(4, 4), theta_star.reshape(4, 4)
        grad = loss.grad(theta).reshape(4, 4)
        inner = np.sum(-grad * (W_star - W))
        g = sum(
            np.linalg.norm(np.eye(4)[:, j] + W_star[:, j]) - np.linalg.norm(np.eye(4)[:, j] + W[:, j]) for j in range(4)
        )
        assert found.inner[i] == pytest.approx(inner, rel=1e-12)
        assert found.distance[i] == pytest.approx(np.linalg.norm(W_star - W), rel=1e-12)
        assert found.delta[i] == pytest.approx(inner / np.linalg.norm(W_star - W) ** 2, rel=1e-12)
        assert found.potential[i] == pytest.approx(g, rel=1e-12)
    single = rg.one_point(loss, thetas[2])
    assert single.delta.shape == (1,) and single.delta[0] == found.delta[2]


@every_arch
def test_near_the_teacher_delta_is_a_rayleigh_quotient_of_the_hessian(arch):
    """grad = H (theta - theta*) to first order, also from a symmetric image of the teacher."""
    loss, theta_star = task(arch, 3)
    image = rg.transform(arch, theta_star, 3, None if arch.startswith("li") else [1, 2, 0])
    theta = image + 1e-6 * point(arch, 3)
    found = rg.one_point(loss, theta)
    gap = rg.align(arch, theta, theta_star, 3).teacher - theta
    eigenvalues = np.linalg.eigvalsh(loss.hessian(image))
    assert found.delta[0] == pytest.approx(gap @ loss.hessian(image) @ gap / (gap @ gap), rel=1e-3)
    smallest = eigenvalues[orbit_dimension(arch, 3)]  # the gap is orthogonal to the orbit
    assert 0.9 * smallest < found.delta[0] < 1.1 * eigenvalues[-1]


def test_one_point_along_a_trajectory():
    loss, theta_star = task("li", 5, "small")
    run = rg.train(loss, np.zeros(25), rg.SGD(0.05), 200, observe={"theta": np.copy})
    found = rg.one_point(loss, run.observed["theta"])
    assert found.inner.shape == run.loss.shape
    assert (found.delta > 0).all() and (np.diff(found.distance) < 0).all()
    data = rg.EmpiricalLoss("li", *rg.dataset(loss.teacher, 20_000, rng=1))
    sampled = rg.one_point(data, run.observed["theta"][:20], theta_star)
    np.testing.assert_allclose(sampled.inner, found.inner[:20], rtol=0.1)


@every_arch
def test_at_the_teacher_delta_is_undefined_and_the_rest_zero(arch):
    loss, theta_star = task(arch, 3)
    found = rg.one_point(loss, theta_star)
    np.testing.assert_allclose([found.inner[0], found.distance[0], found.potential[0]], 0, atol=1e-14)
    assert np.isnan(found.delta[0])


def test_one_point_takes_a_teacher_of_another_identity():
    loss, _ = task("modresnet", 3)
    other = rg.PopulationLoss("resnet", loss.teacher)
    theta = point("modresnet", 3)
    as_resnet = rg.convert(theta, 3, "modresnet", "resnet")
    np.testing.assert_allclose(rg.one_point(other, as_resnet), rg.one_point(loss, theta), rtol=1e-9)


def test_one_point_refuses():
    with pytest.raises(ValueError, match=r"thetas has shape \(0, 9\), but must hold at least one point"):
        rg.one_point(task("li", 3)[0], np.zeros((0, 9)))
    X, Y = samples("li", 10, 3)
    with pytest.raises(ValueError, match="theta_star is missing, and the loss has no teacher"):
        rg.one_point(rg.EmpiricalLoss("li", X, Y), np.zeros(9))
    with pytest.raises(ValueError, match=r"theta_star has shape \(4,\), but must have shape \(9,\)"):
        rg.one_point(rg.EmpiricalLoss("li", X, Y), np.zeros(9), np.zeros(4))


@pytest.mark.parametrize("arch", FIXED)
def test_convexity_region_counts_what_it_says(arch):
    gammas = [0.3, 5.0]
    region = rg.convexity_region(gammas, 4, n_pairs=30, rng=0, arch=arch)
    pairs = np.random.default_rng(0).standard_normal((30, 2, 4, 4))
    for i, gamma in enumerate(gammas):
        deltas = []
        for W, W_star in pairs:
            W, W_star = (gamma * x / np.linalg.svd(x)[1][0] for x in (W, W_star))
            theta, theta_star = W.ravel(), W_star.ravel()
            if rg.ARCHITECTURES[arch].trains_skip:
                theta, theta_star = np.r_[theta, (W_star - W).sum(axis=1) / 2], np.r_[theta_star, np.zeros(4)]
            loss = rg.PopulationLoss(arch, rg.Network(arch, theta_star, 4))
            grad, gap = loss.grad(theta), theta_star - theta
            assert np.abs(grad[16:]).max(initial=0) < 1e-14 * gamma  # the best skip
            deltas.append(-grad @ gap / np.sum(gap**2))
        assert region.fraction[i] == (np.array(deltas) > 0).mean()
        assert region.smallest[i] == pytest.approx(min(deltas))
        assert region.median[i] == pytest.approx(np.median(deltas))
    if arch == "li":
        assert region.fraction[0] == 1 and region.smallest[1] < 0


def test_convexity_region_with_biases_of_zero_is_that_without():
    with_b, plain = (rg.convexity_region([0.3, 5.0], 4, n_pairs=10, rng=0, arch=arch) for arch in ("li-bias", "li"))
    np.testing.assert_allclose(with_b, plain, rtol=1e-10)


def test_convexity_region_leaves_out_pairs_that_coincide():
    """d = 1, W, W* = -1 or 1: u = 0 and 2, where the gradient at u = 0 is 0 and at 2 is 2."""
    region = rg.convexity_region([1.0], 1, 50, 0)
    signs = np.sign(np.random.default_rng(0).standard_normal((50, 2)))
    apart = signs[signs[:, 0] != signs[:, 1]]
    assert region.fraction[0] == (apart[:, 0] == 1).mean() and region.smallest[0] == region.median[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0], 3, 5, 0, "resnet"), "arch is resnet, but the region is defined for a fixed read-out"),
        (([1.0, 0.0], 3), r"gammas is \[1.0, 0.0\], but must be positive"),
        (([1.0], 1, 1, 1), "n_pairs is 1, but must be larger"),
        (([1.0], 0), "d is 0, but must be at least 1"),
    ],
)
def test_convexity_region_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        rg.convexity_region(*arguments)


def test_convexity_region_says_what_a_seed_is():
    with pytest.raises(TypeError, match="rng is 'x', but must be a seed or a numpy.random.Generator"):
        rg.convexity_region([1.0], 3, rng="x")


def anybodys(**parts):
    """|x|^2 as anybody's object, with other ``parts``."""
    whole = {"value": lambda x: float(x @ x), "grad": lambda x: 2 * x, "hessian": lambda x: 2 * np.eye(x.size)}
    return SimpleNamespace(**whole | parts)


@pytest.mark.parametrize("look", [rg.polish, rg.spectrum])
@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"value": lambda x: x}, r"loss.value\(theta\) has shape \(2,\), but must have shape \(\)"),
        ({"grad": lambda x: x[:1]}, r"loss.grad\(theta\) has shape \(1,\), but must have shape \(2,\)"),
        ({"hessian": lambda x: np.eye(3)}, r"loss.hessian\(theta\) has shape \(3, 3\), but must have shape \(2, 2\)"),
        ({"hessian": lambda x: np.full((2, 2), np.nan)}, r"loss.hessian\(theta\) holds nan at index \(0, 0\)"),
        ({"hessian": lambda x: np.array([[1.0, 2.0], [0.0, 1.0]])}, "differs from its transpose by 2.0e"),
    ],
)
def test_anybodys_loss_is_checked_where_it_is_looked_at(look, parts, told):
    with pytest.raises(ValueError, match=told):
        look(anybodys(**parts), [1.0, 0.0])


def test_anybodys_arch_need_not_be_an_architecture():
    assert rg.polish(anybodys(arch="resnet50"), [1.0, 0.0]).verdict == "minimum"
    with pytest.raises(ValueError, match="theta has no entries"):
        rg.polish(anybodys(), [])


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
def test_a_loss_without_a_minimum_has_none():
    falls = {"value": lambda x: -float(x @ x), "grad": lambda x: -2 * x, "hessian": lambda x: -2 * np.eye(x.size)}
    assert rg.polish(anybodys(**falls), [1.0, 0.0]).verdict == "unconverged"


@pytest.mark.parametrize(("teacher", "start"), [(0.5, -1.2), (0.5, -1.273), (-0.43234000554110225, -1.130096771890423)])
@pytest.mark.parametrize("scale", [1e-6, 1, 1e6])
def test_a_unit_that_dies_from_the_other_side_is_at_a_saddle(teacher, start, scale):
    """u falls to 0 from where it is silent; from 0 it can grow to where its teacher's unit is."""
    identity = rg.Architecture("one", "relu((W1 + I)' x)", "tests", 1, 0, "fixed")
    u_star, u = scale * (1 + teacher), scale * (1 + start)
    loss = rg.PopulationLoss(identity, rg.Network(identity, [u_star - 1], 1))
    assert rg.polish(loss, [u - 1]).verdict == "saddle"
