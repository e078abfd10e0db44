"""What `polish` says of a point: the same in any units, after any symmetry, and of anybody's function."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.optimize
from conftest import TRAINED_READOUT, every_arch, point, slow

import resgrad as rg
from resgrad.minima import landscape, problem, symmetry
from resgrad.runs.protocol import resolve, simulate


class Function:
    """Anybody's: value, gradient and Hessian of a function of an array."""

    def __init__(self, value, grad, hessian):
        self.value, self.grad, self.hessian = value, grad, hessian


def separable(value, grad, curvature, center):
    """Sum of a function of every coordinate, around ``center``."""
    return Function(
        lambda x: float(np.sum(value(x - center))), lambda x: grad(x - center), lambda x: np.diag(curvature(x - center))
    )


def quadratic(curvatures, center):
    c = np.array(curvatures)
    return separable(lambda x: c * x * x / 2, lambda x: c * x, lambda x: c + 0 * x, center)


def in_units(arch, s, theta, d):
    """(architecture, parameters) of a network that is theta's in units in which every u and a is s times as large."""
    arch, degree = rg.ARCHITECTURES[arch], 1 + rg.ARCHITECTURES[arch].trains_readout
    record = dataclasses.replace(arch, identity=s * arch.identity, skip=s**degree * arch.skip)
    blocks, parts = arch.shapes(d, arch.width(theta.size, d)), []
    sizes = np.cumsum([np.prod(shape) for shape in blocks.values()])[:-1]
    for name, part in zip(blocks, np.split(theta, sizes)):
        parts.append((s**degree if name == "C" else s) * part)
    return record, np.concatenate(parts)


def students(arch, d, k):
    """Starts near which little is generic: none, a dead unit, units of one direction, units of no length."""
    units = symmetry.Units.of(arch, rg.draw(arch, "normal", d, k, rng=[d, k, 7]), d)
    fixed = not rg.ARCHITECTURES[arch].trains_readout
    yield "generic", units.theta()
    u, a = units.u.copy(), units.a.copy()
    if fixed:
        u[-1] = 0.0
    else:
        a[-1] = 0.0
    yield "dead", dataclasses.replace(units, u=u, a=a).theta()
    u = units.u.copy()
    u[-1] = 0.5 * u[0]
    yield "split", dataclasses.replace(units, u=u).theta()
    u, a = units.u.copy(), units.a.copy()
    u[-1] = 0.0
    yield "zero", dataclasses.replace(units, u=u, a=a if fixed else 0 * a).theta()


def told(end):
    """Of extra units the nullity is left out below: it changes along the manifold of global minima."""
    return end.verdict, end.index, end.nullity


# ----------------------------------------------------------------------------- symmetries and units


@every_arch
@pytest.mark.parametrize(("d", "k", "k_star"), [(1, 1, 1), (3, 2, 3), (3, 4, 3), *slow((1, 2, 1), (2, 2, 2))])
@pytest.mark.parametrize("s", [1e-6, 1e6, *slow(1e-3, 1e3)])
def test_a_verdict_does_not_depend_on_the_units(arch, d, k, k_star, s):
    theta_star, degree = rg.draw(arch, "uniform", d, k_star, rng=d + k), 2 + 2 * rg.ARCHITECTURES[arch].trains_readout
    loss = rg.PopulationLoss(arch, rg.Network(arch, theta_star, d))
    record, star = in_units(arch, s, theta_star, d)
    other = rg.PopulationLoss(record, rg.Network(record, star, d))
    for kind, theta in students(arch, d, k):
        one = rg.polish(loss, theta)
        two = rg.polish(other, in_units(arch, s, theta, d)[1])
        assert told(two)[: 2 + (k <= k_star)] == told(one)[: 2 + (k <= k_star)], kind
        assert two.loss / s**degree == pytest.approx(one.loss, rel=1e-6, abs=problem.Problem(loss, theta).zero)


@every_arch
@pytest.mark.parametrize(("d", "k", "k_star"), [(3, 2, 3), (3, 4, 3), *slow((1, 2, 1), (2, 2, 2))])
def test_a_verdict_does_not_depend_on_the_place_in_the_orbit(arch, d, k, k_star):
    loss = rg.PopulationLoss(arch, rg.Network(arch, rg.draw(arch, "uniform", d, k_star, rng=d + k), d))
    rng, trained = np.random.default_rng(k), rg.ARCHITECTURES[arch].trains_readout
    for kind, theta in students(arch, d, k):
        one = rg.polish(loss, theta)
        for _ in range(3):
            scales = 10 ** rng.uniform(-2, 2, k) if trained else None
            unseen = rng.normal(size=(k, d)) if rg.ARCHITECTURES[arch].readout == "sum" else None
            two = rg.polish(loss, rg.transform(arch, theta, d, rng.permutation(k), scales, unseen))
            assert told(two)[: 2 + (k <= k_star)] == told(one)[: 2 + (k <= k_star)], kind
            assert two.loss == pytest.approx(one.loss, rel=1e-6, abs=problem.Problem(loss, theta).zero)


@pytest.mark.parametrize("arch", TRAINED_READOUT)
def test_a_spectrum_counts_the_same_at_any_place_in_the_orbit(arch):
    theta_star = rg.draw(arch, "uniform", 3, rng=0)
    loss = rg.PopulationLoss(arch, rg.Network(arch, theta_star, 3))
    one = rg.spectrum(loss, theta_star)
    for scale in (1e-3, 1e3):
        two = rg.spectrum(loss, rg.transform(arch, theta_star, 3, scales=[scale, 1.0, 1.0]))
        assert (two.nullity, two.index) == (one.nullity, one.index)
        assert two.null_space.shape == one.null_space.shape


def test_what_the_rest_of_the_gradient_does_along_the_orbit_is_no_saddle():
    theta_star = rg.draw("resnet", "uniform", 3, rng=0)
    loss = rg.PopulationLoss("resnet", rg.Network("resnet", theta_star, 3))
    at = problem.Problem(loss, theta_star)
    negative = 0
    for seed in range(20):
        theta = at.gauge(theta_star + 1e-8 * point("resnet", 3, seed=seed))[0]
        view = at.at(theta)
        x = theta / view.scale
        values = np.linalg.eigvalsh(view.hessian(x))
        negative += values[0] < -landscape.NULL * values[-1]
        assert landscape._signature(view, x, view.grad(x), view.hessian(x)) == (0, 3)
    assert negative > 10


# ------------------------------------------------------------------------------- where units die


def test_where_all_units_die_a_minimum_is_no_saddle():
    """The loss is (a^2 u^2 + 1) / 2 for u < 0: a local minimum wherever a = 0."""
    loss = rg.PopulationLoss("resnet", rg.Network("resnet", [1.0, 1.0], 1))
    for start in ([-1.0, 0.5], [-1.0, 0.0], [-0.1, -3.0], [-1e-3, 5.0]):
        end = rg.polish(loss, start)
        assert told(end) == ("spurious minimum", 0, 1) and end.loss == pytest.approx(0.5, rel=1e-12)
        assert end.theta[0] < 0 and abs(end.theta[0] * end.theta[1]) < 1e-10
    end = rg.polish(loss, [-1.0, 0.5])
    assert np.linalg.norm(end.theta - [-1.0, 0.0]) < 0.5


@pytest.mark.parametrize("seed", range(4))
def test_the_notebooks_run_ends_in_no_saddle(seed):
    trajectory, teacher = simulate(resolve("resnet", "notebook", seed=seed, steps=5000))
    assert rg.polish(rg.PopulationLoss(teacher.arch, teacher), trajectory.theta).verdict != "saddle"


def test_no_run_in_one_dimension_ends_in_a_saddle():
    assert rg.census("resnet", 1, runs=200, quiet=True).counts["saddle"] == 0


def test_a_unit_of_no_length_is_judged_by_what_happens_when_it_grows():
    """u = 0: with a > 0 the loss falls where the unit grows toward the teacher's, with a < 0 it falls nowhere."""
    loss = rg.PopulationLoss("resnet", rg.Network("resnet", [1.0, 1.0], 1))
    verdicts = [rg.polish(loss, [0.0, a]).verdict for a in (1.0, 0.0, -1.0)]
    assert verdicts == ["saddle", "saddle", "spurious minimum"]


@pytest.mark.parametrize(
    ("arch", "d", "k_star", "seed", "verdict"),
    [
        ("resnet", 2, 3, 717872, "saddle"),  # the loss falls by 5e-3 |u| there, in a narrow cone
        ("modresnet-free", 4, 3, 310333, "saddle"),
        ("modresnet-free", 2, 2, 442783, "spurious minimum"),  # and here by nothing, next to the other unit
    ],
)
def test_every_direction_in_which_a_unit_may_grow_is_looked_at(arch, d, k_star, seed, verdict):
    rng = np.random.default_rng(seed)
    loss = rg.PopulationLoss(arch, rg.Network(arch, rg.draw(arch, "normal", d, k_star, rng=rng), d))
    units = symmetry.Units.of(arch, rg.draw(arch, "normal", d, 2, rng=rng), d)
    units.u[-1] = 0.0
    assert rg.polish(loss, units.theta()).verdict == verdict


@pytest.mark.parametrize("d", [1, 3])
@pytest.mark.parametrize("start", ["zero", "normal"])
def test_fixed_units_die_where_they_can_only_do_harm(d, start):
    """Nothing but no units is best if the teacher is negative.  At u = 0 the loss has a corner, and no slope."""
    teacher = rg.Network("resnet-sum", np.concatenate([np.eye(d).ravel(), -np.ones(d * d)]), d)
    loss = rg.PopulationLoss(dataclasses.replace(rg.ARCHITECTURES["vanilla"], skip=1.0), teacher)
    end = rg.polish(loss, rg.draw("vanilla", start, d, rng=0))
    assert told(end) == ("spurious minimum", 0, d * d) and not end.theta.any()


# ------------------------------------------------------------------------------ anybody's function


@pytest.mark.parametrize("s", [1e-6, 1.0, 1e6])
def test_what_a_stationary_point_is(s):
    """At any length and any value."""
    one = np.array([1.0, -2.0, 3.0])
    for curvatures, wanted in (
        ([1, 2, 3], ("minimum", 0, 0)),
        ([1, 2, -3], ("saddle", 1, 0)),
        ([1, 2, 0], ("minimum", 0, 1)),
    ):
        end = rg.polish(quadratic(s * np.array(curvatures), s * one), s * one * (1 + 1e-8), max_steps=0)
        assert told(end) == wanted
        found = rg.spectrum(quadratic(s * np.array(curvatures), s * one), s * one)
        assert (found.index, found.nullity, found.predicted) == (*wanted[1:], 0)
        assert found.explained == (found.nullity == 0) and str(found).endswith(f"{s * 1:.1e}")


@pytest.mark.parametrize("q", [3, 4, 6])
@pytest.mark.parametrize("center", [0.0, 1.0, 1e3])
def test_a_degenerate_minimum(q, center):
    """|x|^q: the curvature where Newton's method stops is not zero, but changes from step to step."""
    size = separable(
        lambda x: np.abs(x) ** q, lambda x: q * np.sign(x) * np.abs(x) ** (q - 1),
        lambda x: q * (q - 1) * np.abs(x) ** (q - 2), center,
    )  # fmt: skip
    assert told(rg.polish(size, [center + 1.0])) == ("minimum", 0, 1)


def test_rosenbrock():
    rosen = Function(scipy.optimize.rosen, scipy.optimize.rosen_der, scipy.optimize.rosen_hess)
    end = rg.polish(rosen, [-1.2, 1.0])
    assert told(end) == ("minimum", 0, 0) and np.abs(end.theta - 1).max() < 1e-12
    end = rg.polish(rosen, [-1.0, 1.0, 1.0, 1.0])  # next to a second minimum of the four-dimensional function
    assert told(end) == ("minimum", 0, 0) and end.loss == pytest.approx(3.7014286, abs=1e-6)


def test_what_has_no_hessian_is_refused():
    for loss in (None, scipy.optimize.rosen, SimpleNamespace(value=abs, grad=abs)):
        with pytest.raises(TypeError, match="loss is .*, but must have value, grad and hessian"):
            rg.polish(loss, [1.0])


# ---------------------------------------------------- each constant, moved tenfold, fails one of these


@pytest.mark.parametrize(("fraction", "verdict"), [(-3e-11, "saddle"), (-3e-12, "minimum")])
def test_how_small_a_curvature_is_zero(fraction, verdict):
    """NULL."""
    one = np.ones(2)
    assert rg.polish(quadratic([1.0, fraction], one), one).verdict == verdict


@pytest.mark.parametrize(("slope", "verdict"), [(3e-13, "unconverged"), (3e-14, "minimum")])
def test_how_small_a_gradient_is_zero(slope, verdict):
    """CRITICAL: this gradient is an odd multiple of a number, and never smaller."""
    steps = separable(lambda x: x * x / 2, lambda x: (2 * np.floor(x / slope / 2) + 1) * slope, np.ones_like, 1.0)
    assert rg.polish(steps, [0.5]).verdict == verdict


@pytest.mark.parametrize(("size", "verdict"), [(2e-6, "spurious minimum"), (4e-7, "global minimum")])
def test_how_small_a_loss_is_zero(size, verdict):
    """GLOBAL: a student with one unit cannot do what a tiny second one does."""
    loss = rg.PopulationLoss("vanilla", rg.Network("vanilla", np.diag([1.0, size]).ravel(), 2))
    end = rg.polish(loss, [1.0, 0.0])
    assert end.verdict == verdict
    assert 0.1e-12 < end.loss / loss.value([0.0, 0.0]) < 10e-12


@pytest.mark.parametrize(("off", "verdict"), [(3e-6, "minimum"), (3e-7, "saddle")])
def test_how_near_newtons_method_takes_over(off, verdict):
    """NEAR: a saddle between two minima."""
    well = Function(
        lambda x: (x[0] - 1) ** 2 - (x[1] - 1) ** 2 + (x[1] - 1) ** 4,
        lambda x: np.array([2 * (x[0] - 1), -2 * (x[1] - 1) + 4 * (x[1] - 1) ** 3]),
        lambda x: np.diag([2.0, -2 + 12 * (x[1] - 1) ** 2]),
    )
    assert rg.polish(well, [1.0, 1.0 + off * 2**0.5]).verdict == verdict


@pytest.mark.parametrize(("slope", "critical"), [(3e-12, False), (3e-13, True)])
def test_how_steep_a_slope_rounding_may_hide(slope, critical):
    """SLOPE: theta is so large that rounding it explains the gradient, and the loss is of size 1."""
    for loss in (1.0, -1.0):
        view = SimpleNamespace(value=lambda x: loss)
        assert landscape._is_critical(view, np.array([1e6]), np.array([slope]), np.array([[1e6]])) == critical
