"""Distances modulo symmetry: against exact symmetries, against brute force, and what training conserves."""

import itertools

import hypothesis.strategies as st
import numpy as np
import pytest
from conftest import ARCHS, TRAINED_READOUT, every_arch, every_sum, point, samples
from hypothesis import given, settings
from scipy import optimize

import resgrad as rg
from resgrad.minima import alignment, symmetry

EPS = np.finfo(float).eps
ROUNDING = 100 * EPS  # of |theta|: a handful of roundings in every entry
VECTOR = [name for name, arch in rg.ARCHITECTURES.items() if arch.readout == "vector"]
FREE = [name for name, arch in rg.ARCHITECTURES.items() if arch.trains_skip]
REVERSIBLE = [*FREE, "even"]


def convertible(source, target):
    """Whether every function of ``source`` is one of ``target``, but for what units can make up for."""
    a, b = rg.ARCHITECTURES[source], rg.ARCHITECTURES[target]
    skip = b.trains_skip or (a.skip == b.skip and not a.trains_skip)
    same = (a.readout, a.slopes) == (b.readout, b.slopes) and (b.bias or not a.bias)
    return source != target and same and skip


WAYS = [pair for pair in itertools.permutations(ARCHS, 2) if convertible(*pair)]
TWINS = [(a, b) for a, b in WAYS if convertible(b, a)]
networks = {
    "arch": st.sampled_from(ARCHS),
    "d": st.integers(1, 6),
    "k": st.integers(1, 7),
    "seed": st.integers(0, 2**32 - 1),
}
random_networks = given(**networks)


def symmetric(arch, theta, d, rng, log_scale=6):
    """(a random symmetric image of theta, its permutation, its scales, the reversed units)."""
    arch = rg.ARCHITECTURES[arch]
    k = arch.width(theta.size, d)
    permutation, scales = rng.permutation(k), np.ones(k)
    options = {}
    if arch.trains_readout:
        scales = options["scales"] = 10 ** rng.uniform(-log_scale, log_scale, k)
    if arch.readout == "sum":
        options["unseen"] = rng.normal(size=(k, d))
    turned = np.flatnonzero(rng.random(k) < 0.5) if arch.name in REVERSIBLE else np.empty(0, int)
    if arch.name in REVERSIBLE:
        options["reverse"] = turned
    return rg.transform(arch, theta, d, permutation, **options), permutation, scales, turned


def pieces(arch, theta, d):
    """Units (k, d) and read-outs (k, m) as rows, the latter with the length that W2 gives them."""
    U, A, _ = rg.ARCHITECTURES[arch].canonical(theta, d)
    return U.T, A / (d**0.5 if rg.ARCHITECTURES[arch].readout == "sum" else 1)


def from_units(arch, U, W2=None, C=None):
    """theta from the columns of U, W2, and C, which is zero unless given."""
    record, (d, k) = rg.ARCHITECTURES[arch], U.shape
    blocks = {"W1": U - record.identity * np.eye(d, k), "W2": W2}
    blocks["C"] = np.zeros((d, record.outputs(d))) if C is None else C
    blocks["b"] = np.zeros(k)
    return record.flatten(**{name: blocks[name] for name in record.shapes(d, k)})


# ------------------------------------------------------------------------------ exact symmetries


@random_networks
@settings(max_examples=150, deadline=None)
def test_a_symmetric_image_is_at_distance_zero(arch, d, k, seed):
    theta_star, rng = point(arch, d, k, seed), np.random.default_rng(seed)
    theta, permutation, scales, turned = symmetric(arch, theta_star, d, rng)
    size = np.linalg.norm(theta) + np.linalg.norm(theta_star) + 1
    al = rg.align(arch, theta, theta_star, d)
    assert al.distance <= ROUNDING * size
    np.testing.assert_array_equal(al.permutation, permutation)
    np.testing.assert_allclose(al.scales, scales, rtol=1e-9)
    np.testing.assert_allclose(al.teacher, theta, atol=ROUNDING * size)
    assert al.reversed == tuple(turned.tolist()) and ("reversed" in str(al)) == (turned.size > 0)
    assert al.units_moved == (permutation != np.arange(k)).sum()
    assert al.extra == al.missing == al.dead == al.dead_star == ()


@random_networks
@settings(max_examples=80, deadline=None)
def test_a_symmetric_image_is_the_same_function(arch, d, k, seed):
    theta_star, rng = point(arch, d, k, seed), np.random.default_rng(seed)
    theta, *_ = symmetric(arch, theta_star, d, rng, log_scale=2)
    X = rng.normal(size=(20, d))
    wanted, got = rg.Network(arch, theta_star, d)(X), rg.Network(arch, theta, d)(X)
    np.testing.assert_allclose(got, wanted, atol=1e-11 * (1 + np.abs(wanted).max()))


@given(**networks, dead=st.integers(0, 3), twins=st.booleans())
@settings(max_examples=150, deadline=None)
def test_dead_and_duplicated_units_are_symmetries_too(arch, d, k, seed, dead, twins):
    rng = np.random.default_rng(seed)
    U, W2 = rng.normal(size=(d, k)), rng.normal(size=(k, d))
    if twins:
        U[:, -1], W2[-1] = U[:, 0], W2[0]
    gone = rng.permutation(k)[:dead]
    for j in gone:
        if arch in TRAINED_READOUT and rng.random() < 0.5:
            W2[j] = 0.0
        else:
            U[:, j] = 0.0
    theta_star = from_units(arch, U, W2)
    theta, *_ = symmetric(arch, theta_star, d, rng, log_scale=3)
    al = rg.align(arch, theta, theta_star, d)
    size = np.linalg.norm(theta) + np.linalg.norm(theta_star) + 1
    assert al.distance <= ROUNDING * size
    np.testing.assert_allclose(al.teacher, theta, atol=ROUNDING * size)
    if len(gone) < k:  # else "dead" has no live unit to be measured by
        assert set(al.dead_star) == set(gone.tolist())
        assert len(al.dead) == len(al.dead_star)
    assert all(np.isfinite(x).all() for x in (al.scales, al.teacher, al.raw_distance, al.unidentifiable))
    assert str(al).startswith(arch)


@every_arch
def test_dead_units_may_be_any_dead_units_and_do_not_move(arch):
    """A dead unit keeps nothing of its other half: (0, a) and (0, b) are the same function."""
    rng = np.random.default_rng(0)
    U, W2 = rng.normal(size=(4, 4)), rng.normal(size=(4, 4))
    U[:, :2] = 0.0
    other = W2.copy()
    other[:2] = rng.normal(size=(2, 4))
    al = rg.align(arch, from_units(arch, U, other), from_units(arch, U, W2), 4)
    assert al.distance <= ROUNDING * 10
    assert al.dead == al.dead_star == (0, 1)
    assert al.units_moved == 0


# ------------------------------------------------------------------------- the minimum, exactly


def hyperbola(p, q):
    """min over t > 0 of (t - p)^2 + (1/t - q)^2, from all roots of the quartic."""
    t = np.roots([1.0, -p, 0.0, q, -1.0])
    t = t[(np.abs(t.imag) < 1e-5 * np.abs(t)) & (t.real > 0)].real
    return ((t - p) ** 2 + (1 / t - q) ** 2).min()


def brute_force(arch, theta, theta_star, d):
    """The distance modulo symmetry over all sets of reversed units."""
    record = rg.ARCHITECTURES[arch]
    if arch not in REVERSIBLE:
        return over_permutations(arch, theta, theta_star, d)
    C, distances = record.unflatten(theta, d).C, []
    U, A, C_star = record.canonical(theta_star, d)
    _, W2, *_ = record.unflatten(theta_star, d)
    for signs in itertools.product([1, -1], repeat=U.shape[1]):
        turned = np.array(signs) < 0
        gap = 0.0 if C is None else C - C_star - sum(record.slopes) * U[:, turned] @ A[turned]
        image = from_units(arch, U * signs, W2)
        distances.append(np.hypot(over_permutations(arch, theta, image, d), np.linalg.norm(gap)))
    return min(distances)


def over_permutations(arch, theta, theta_star, d):
    """The distance of U and W2 alone over all permutations, one pair of units at a time."""
    (us, as_), (ut, at) = pieces(arch, theta, d), pieces(arch, theta_star, d)
    k, k_star, fixed = len(us), len(ut), arch not in TRAINED_READOUT

    def pair(j, l):
        if j >= k:
            u, a = ut[l], at[l]
            return u @ u if fixed else 2 * np.sqrt((u @ u) * (a @ a))
        u, a = us[j], as_[j]
        if l >= k_star:
            return u @ u if fixed else min(u @ u, a @ a)
        if fixed:
            return ((u - ut[l]) ** 2).sum()
        x, w = np.linalg.norm(ut[l]), np.linalg.norm(at[l])
        b, along_u, along_a = np.sqrt(x * w), u @ ut[l] / x, a @ at[l] / w
        return u @ u - along_u**2 + a @ a - along_a**2 + b * b * hyperbola(along_u / b, along_a / b)

    cost = np.array([[pair(j, l) for l in range(max(k, k_star))] for j in range(max(k, k_star))])
    return min(cost[range(len(p)), p].sum() for p in itertools.permutations(range(len(cost)))) ** 0.5


@given(**networks | {"k": st.integers(1, 4)}, k_star=st.integers(1, 4), log_scale=st.floats(-2, 2))
@settings(max_examples=100, deadline=None)
def test_the_distance_is_the_minimum_over_the_orbit(arch, d, k, k_star, seed, log_scale):
    theta = 10**log_scale * point(arch, d, k, seed)
    theta_star = point(arch, d, k_star, seed + 1)
    al = rg.align(arch, theta, theta_star, d)
    assert al.distance == pytest.approx(brute_force(arch, theta, theta_star, d), rel=1e-6, abs=1e-7)
    assert al.distance <= al.raw_distance
    assert (len(al.extra), len(al.missing)) == (max(k - k_star, 0), max(k_star - k, 0))
    if k >= k_star:
        to_image = np.linalg.norm(theta - al.teacher)
        assert to_image == pytest.approx(al.distance, rel=1e-12)
        X = np.random.default_rng(seed).normal(size=(9, d))
        wanted = rg.Network(arch, theta_star, d)(X)
        np.testing.assert_allclose(rg.Network(arch, al.teacher, d)(X), wanted, atol=1e-9 * (1 + np.abs(wanted).max()))


@given(st.integers(1, 8), st.integers(0, 4), st.floats(-0.5, 1), st.integers(0, 9999))
@settings(max_examples=150, deadline=None)
def test_no_set_of_reversed_units_costs_less(k, entries, log_gains, seed):
    """Against all 2^k sets, also where some units are decided."""
    rng = np.random.default_rng(seed)
    ahead, back, gains = rng.random((k, k)), rng.random((k, k)), 10**log_gains * rng.standard_normal((k, entries))
    gap, decided = rng.standard_normal(entries) * np.abs(gains).sum(axis=0) / 3, rng.choice([-1, -1, -1, 0, 1], k)

    def total(turned):
        cost = np.where(turned, back, ahead)
        return cost[optimize.linear_sum_assignment(cost)].sum() + np.sum((gap - turned @ gains) ** 2)

    allowed = (np.array(turned) for turned in itertools.product([False, True], repeat=k))
    best = min(total(turned) for turned in allowed if (turned == decided)[decided >= 0].all())
    found = alignment._cheapest(ahead, back, gains, gap, decided)
    assert (found == decided)[decided >= 0].all()
    assert total(found) == pytest.approx(best, rel=2 * alignment.TIE)


SIZES = st.builds(lambda sign, log: sign * 10**log, st.sampled_from([-1, 1]), st.floats(-60, 60))


@given(p=SIZES, q=SIZES)
@settings(max_examples=200, deadline=None)
def test_projection_on_the_hyperbola_is_global(p, q):
    t = float(alignment._project_on_hyperbola(np.array([p]), np.array([q]))[0])
    grid = np.exp(np.linspace(-150, 150, 15001))
    grid = np.concatenate([grid, t * np.linspace(0.9, 1.1, 21), [p] if p > 0 else [], [1 / q] if q > 0 else []])
    # in differences to p^2 + q^2, which would drown the rest
    gap, others = (x * x + 1 / x**2 - 2 * (x * p + q / x) for x in (t, grid))
    assert gap <= others.min() + 1e-13 * (1 + t * abs(p) + abs(q) / t)


@given(**networks, k_star=st.integers(1, 7), log_step=st.floats(-8, 1))
@settings(max_examples=100, deadline=None)
def test_the_distance_is_continuous(arch, d, k, k_star, seed, log_step):
    """A distance to a set changes by no more than the point moves."""
    theta, theta_star = point(arch, d, k, seed), point(arch, d, k_star, seed + 1)
    step = 10**log_step * point(arch, d, k, seed + 2)
    near, far = (rg.align(arch, x, theta_star, d).distance for x in (theta, theta + step))
    assert abs(far - near) <= np.linalg.norm(step) * (1 + 1e-9) + 1e-13


@random_networks
@settings(max_examples=60, deadline=None)
def test_it_does_not_matter_which_symmetric_teacher(arch, d, k, seed):
    theta, theta_star = point(arch, d, k, seed), point(arch, d, k, seed + 1)
    image, *_ = symmetric(arch, theta_star, d, np.random.default_rng(seed), log_scale=2)
    first, second = (rg.align(arch, theta, x, d) for x in (theta_star, image))
    assert second.distance == pytest.approx(first.distance, rel=1e-9)
    np.testing.assert_allclose(second.teacher, first.teacher, atol=1e-9)


def work(arch, d, k, k_star, seed):
    """Who does whose work, in two representatives of one function."""
    theta, theta_star = point(arch, d, k, seed), point(arch, d, k_star, seed + 1)
    scales = 10 ** np.random.default_rng(seed).uniform(-3, 3, k) if arch in TRAINED_READOUT else None
    found = (rg.align(arch, x, theta_star, d) for x in (theta, rg.transform(arch, theta, d, scales=scales)))
    return [(al.permutation.tolist(), al.reversed, al.units_moved, al.extra, al.missing) for al in found]


SCALED = [name for name in REVERSIBLE if name in TRAINED_READOUT]


@given(  # with d = 1 there are ties
    **networks | {"d": st.integers(2, 6), "arch": st.sampled_from([name for name in ARCHS if name not in SCALED])},
    k_star=st.integers(1, 7),
)
@settings(max_examples=150, deadline=None)
def test_who_does_whose_work_depends_on_the_function_alone(arch, d, k, k_star, seed):
    first, second = work(arch, d, k, k_star, seed)
    assert first == second


def test_so_it_does_where_units_are_reversed_and_rescaled():
    for arch, seed in itertools.product(SCALED, range(20)):
        first, second = work(arch, 2, 2, 3, seed)
        assert first == second


def test_far_from_the_orbit_the_matching_stays_while_the_nearest_image_changes():
    a, b = [-2, 2, 1, -1, -3, 1, -1, 3.0], [-1, 1, -2, 0, -3, 2, -3, 2.0]
    scaled = rg.transform("two-weight", a, 2, scales=[100, 0.01])
    al, other = (rg.align("two-weight", x, b, 2) for x in (a, scaled))
    assert al.permutation.tolist() == other.permutation.tolist() and al.units_moved == other.units_moved
    assert other.distance == pytest.approx(np.linalg.norm(scaled - other.teacher))


def test_units_turned_around_are_named():
    """relu(z) = relu(-z) + z: units that sum to zero may all be turned around."""
    U = np.array([[1.0, 0.0, -1.0], [0.0, 1.0, -1.0]])
    there, back = from_units("vanilla", U), from_units("vanilla", -U)
    X = np.random.default_rng(0).normal(size=(20, 2))
    outputs = [rg.Network("vanilla", theta, 2)(X) for theta in (there, back)]
    np.testing.assert_allclose(*outputs, atol=1e-14)
    al = rg.align("vanilla", back, there, 2)
    assert al.flipped == ((0, 0), (1, 1), (2, 2)) and al.distance > 1 and "flipped" in str(al)
    assert rg.align("vanilla", there, there, 2).flipped == ()


# ----------------------------------------------------------------------------------- the report


def test_for_li_near_its_teacher_the_distances_agree():
    theta_star = 0.1 * point("li", 5)
    theta = theta_star + 1e-3 * point("li", 5, seed=1)
    al = rg.align("li", theta, theta_star, 5)
    assert al.distance == al.raw_distance == pytest.approx(np.linalg.norm(theta - theta_star), rel=1e-15)
    assert al.units_moved == 0


def test_permuting_units_of_an_identity_network_permutes_the_columns_of_U():
    W1 = np.arange(9.0).reshape(3, 3)
    theta = rg.transform("li", W1.ravel(), 3, [1, 2, 0])
    np.testing.assert_array_equal(theta.reshape(3, 3) + np.eye(3), (W1 + np.eye(3))[:, [1, 2, 0]])


def test_parallel_extra_and_missing_units_are_named():
    U = np.array([[1.0, 0.0, 3.0, 1.0], [2.0, 1.0, 6.0, 0.0]])
    wide, narrow = from_units("vanilla", U), from_units("vanilla", U[:, :2])
    al = rg.align("vanilla", wide, narrow, 2)
    assert al.parallel == ((0, 2),)
    assert al.parallel_star == al.missing == ()
    assert al.extra == tuple(np.flatnonzero(al.permutation < 0)) and len(al.extra) == 2
    assert "parallel            (0, 2)" in str(al)
    back = rg.align("vanilla", narrow, wide, 2)
    assert len(back.missing) == 2 and back.distance == pytest.approx(al.distance)
    assert back.raw_distance == al.raw_distance == pytest.approx(np.linalg.norm(U[:, 2:]))
    assert back.parallel_star == ((0, 2),) and "missing" in str(back)


@every_arch
def test_a_wider_student_with_dead_extra_units_is_the_teacher(arch):
    rng = np.random.default_rng(3)
    U, W2 = rng.normal(size=(3, 5)), rng.normal(size=(5, 3))
    theta_star = from_units(arch, U[:, :3], W2[:3])
    U[:, 3:] = 0.0
    theta, permutation, *_ = symmetric(arch, from_units(arch, U, W2), 3, rng, log_scale=2)
    al = rg.align(arch, theta, theta_star, 3)
    assert al.distance <= ROUNDING * np.linalg.norm(theta)
    np.testing.assert_array_equal(al.permutation, np.where(permutation < 3, permutation, -1))
    assert al.dead == al.extra and len(al.extra) == 2


def test_the_unseen_part_is_what_was_projected_out():
    theta_star = point("two-weight", 4, seed=5)
    V = np.random.default_rng(0).normal(size=(4, 4))
    theta = rg.transform("two-weight", theta_star, 4, unseen=V)
    al = rg.align("two-weight", theta, theta_star, 4)
    V -= V.mean(axis=1, keepdims=True)
    assert al.unidentifiable == pytest.approx(np.linalg.norm(V))
    assert al.raw_distance == pytest.approx(np.linalg.norm(V)) and al.distance < 1e-14


@every_arch
@pytest.mark.parametrize("size", [1e-200, 1e-60, 1e60, 1e200])
def test_extreme_sizes_stay_finite(arch, size):
    theta_star = point(arch, 4)
    for student in (0 * theta_star, size * theta_star, -size * theta_star):
        for pair in ((student, theta_star), (theta_star, student), (student, size * theta_star[::-1])):
            al = rg.align(arch, *pair, 4)
            assert np.isfinite([al.distance, *al.scales, *al.teacher]).all() and al.distance <= al.raw_distance


@pytest.mark.parametrize("arch", TRAINED_READOUT)
def test_a_teacher_whose_units_are_nothing_beside_the_student(arch):
    """The nearest image of a dead teacher: the student without its shorter halves."""
    theta = rg.draw(arch, "normal", 3, rng=0)
    al, dead = (rg.align(arch, theta, size * theta, 3) for size in (1e-310, 0.0))
    if not rg.ARCHITECTURES[arch].identity:  # else its units are those of the identity
        assert al.distance == dead.distance < dead.raw_distance
    assert np.isfinite([al.distance, *al.scales, *al.teacher]).all()


def test_the_gauge_leaves_a_unit_alone_whose_scale_would_be_zero():
    theta = np.array([1e-310, 1e20, 1.0, 1e20])
    form, back = symmetry.gauge(rg.ARCHITECTURES["resnet"], theta, 1)
    np.testing.assert_allclose(rg.transform("resnet", form, 1, **back), theta)
    assert back["scales"][0] == 1 != back["scales"][1]


@pytest.mark.parametrize("arch", VECTOR)
@pytest.mark.parametrize("power", [-520, -250, 250, 520])
def test_an_orbit_is_recognized_at_any_scale(arch, power):
    theta_star, scales = point(arch, 4), 2.0 ** np.array([0, power, power // 2, 1])
    theta = rg.transform(arch, theta_star, 4, [2, 0, 3, 1], scales)
    al = rg.align(arch, theta, theta_star, 4)
    assert al.permutation.tolist() == [2, 0, 3, 1]
    assert al.distance <= ROUNDING * np.abs(theta).max() and al.raw_distance > 1e-2 * np.abs(theta).max()
    if not rg.ARCHITECTURES[arch].identity:  # which drowns what is far smaller
        np.testing.assert_allclose(al.scales, scales, rtol=1e-9)
        np.testing.assert_allclose(al.teacher, theta, rtol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("resnt", np.zeros(4), np.zeros(4), 2), ValueError, "did you mean 'resnet'"),
        (("li", np.zeros(3), np.zeros(4), 2), ValueError, r"^theta has shape \(3,\), but li with d=2 needs \(4,\)"),
        (("li", np.zeros(4), np.zeros(5), 2), ValueError, r"^theta_star has shape \(5,\), but li with d=2 needs"),
        (("li", np.zeros(4), [0, 0, 0, np.nan], 2), ValueError, "theta_star holds nan at index"),
        (("li", np.zeros((2, 2)), np.zeros(4), 2), ValueError, "theta has shape"),
        (("li", np.zeros(4), np.zeros(4), 2.0), TypeError, "d is 2.0, but must be an integer"),
    ],
)
def test_align_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        rg.align(*arguments)


@pytest.mark.parametrize(
    ("arch", "options", "message"),
    [
        ("resnet", {"permutation": [0, 0]}, r"permutation is \[0, 0\], but must permute 0 ... 1"),
        ("resnet", {"scales": [1.0, -1.0]}, "must be positive"),
        ("li", {"scales": [1.0, 1.0]}, "read-out is fixed"),
        ("resnet", {"unseen": np.zeros((2, 2))}, "resnet sees all of its parameters"),
        ("resnet", {"reverse": [0]}, "reverse is given, but resnet has no skip that makes up for it"),
        ("even", {"reverse": [2]}, r"reverse is \[2\], but must be a list of units from 0 to 1"),
        ("even", {"reverse": [-1]}, "must be a list of units"),
        ("even", {"reverse": [0.0]}, "must be a list of units"),
        ("even", {"reverse": 0}, "must be a list of units"),
    ],
)
def test_transform_refuses(arch, options, message):
    with pytest.raises(ValueError, match=message):
        rg.transform(arch, point(arch, 2), 2, **options)


# --------------------------------------------------------------------------------- reversed units


@pytest.mark.parametrize("arch", REVERSIBLE)
def test_reversing_twice_is_nothing(arch):
    """And the skip takes (p + n) u a' of each unit, no more."""
    record, theta = rg.ARCHITECTURES[arch], point(arch, 4)
    image = rg.transform(arch, theta, 4, reverse=[0, 2])
    (U, A, C), (V, B, E) = record.canonical(theta, 4), record.canonical(image, 4)
    np.testing.assert_allclose(V, U * [-1, 1, -1, 1], atol=4 * EPS)
    np.testing.assert_allclose(B, A, atol=4 * EPS)
    gain = sum(record.slopes) * (np.outer(U[:, 0], A[0]) + np.outer(U[:, 2], A[2]))
    np.testing.assert_allclose(E - C, gain, atol=16 * EPS)
    np.testing.assert_allclose(rg.transform(arch, image, 4, reverse=[0, 2]), theta, atol=16 * EPS)
    assert np.array_equal(rg.transform(arch, theta, 4, reverse=[]), rg.transform(arch, theta, 4))


@pytest.mark.parametrize("arch", REVERSIBLE)
def test_the_losses_do_not_see_reversals(arch):
    theta, X = point(arch, 4), samples(arch, 20, 4)[0]
    image = rg.transform(arch, theta, 4, reverse=[1, 2])
    teacher = rg.Network(arch, point(arch, 4, 3, seed=1), 4)
    for loss in rg.PopulationLoss(arch, teacher), rg.EmpiricalLoss(arch, X, teacher(X)):
        assert abs(loss.value(image) / loss.value(theta) - 1) < 1e-13
    there = rg.PopulationLoss(arch, rg.Network(arch, theta, 4))
    assert there.value(image) < 1e-28 and np.abs(there.grad(image)).max() < 1e-13
    assert rg.spectrum(there, image).nullity == rg.spectrum(there, theta).nullity


@pytest.mark.parametrize("arch", REVERSIBLE)
def test_the_dead_are_not_reversed(arch):
    """A unit that contributes nothing faces no direction."""
    rng = np.random.default_rng(0)
    U, W2 = rng.normal(size=(3, 3)), rng.normal(size=(3, 3))
    U[:, 1] = 0.0
    theta_star = from_units(arch, U, W2)
    al = rg.align(arch, rg.transform(arch, theta_star, 3, reverse=[0, 1]), theta_star, 3)
    assert al.reversed == (0,) and al.distance < ROUNDING * 10 and al.dead == (1,)


@pytest.mark.parametrize("arch", REVERSIBLE)
def test_where_units_can_be_reversed_opposite_ones_are_parallel(arch):
    rng = np.random.default_rng(1)
    U, W2 = rng.normal(size=(3, 4)), rng.normal(size=(4, 3))
    U[:, 2] = -2.0 * U[:, 0]
    al = rg.align(arch, from_units(arch, U, W2), from_units(arch, -U, W2), 3)
    assert al.parallel == al.parallel_star == ((0, 2),) and al.flipped == ()


@pytest.mark.parametrize("arch", [name for name in ARCHS if name not in REVERSIBLE])
def test_without_a_trained_skip_nothing_is_reversed(arch):
    theta = point(arch, 3)
    U, A, _ = rg.ARCHITECTURES[arch].canonical(theta, 3)
    al = rg.align(arch, from_units(arch, -U[:3], rg.ARCHITECTURES[arch].unflatten(theta, 3).W2), theta, 3)
    assert al.reversed == () and al.distance > 0.1


# ------------------------------------------------------- the canonical form and the tangent space


@random_networks
@settings(max_examples=60, deadline=None)
def test_the_balanced_form_is_canonical_and_shortest(arch, d, k, seed):
    theta = point(arch, d, k, seed)
    image, permutation, _, turned = symmetric(arch, theta, d, np.random.default_rng(seed), log_scale=2)
    form = symmetry.balanced(arch, theta, d)
    permuted = rg.transform(arch, form, d, permutation, reverse=turned if arch in REVERSIBLE else None)
    np.testing.assert_allclose(symmetry.balanced(arch, image, d), permuted, atol=1e-9)
    U, A = pieces(arch, form, d)
    if arch in TRAINED_READOUT:
        np.testing.assert_allclose(np.linalg.norm(U, axis=1), np.linalg.norm(A, axis=1), rtol=1e-9)
        lengths = [np.hypot(*map(np.linalg.norm, pieces(arch, x, d))) for x in (form, theta)]
        assert lengths[0] <= lengths[1] * (1 + 1e-12)


@every_arch
@pytest.mark.parametrize(("d", "k"), [(4, 4), (3, 5), (5, 2), (1, 3)])
def test_no_gradient_along_the_orbit(arch, d, k):
    """Noether: the loss is constant along its symmetries, wherever one stands."""
    theta, d_sum = point(arch, d, k, seed=2), k * (d - 1)
    T = symmetry.tangent(arch, theta, d)
    readout = rg.ARCHITECTURES[arch].readout
    assert T.shape == (theta.size, {"fixed": 0, "vector": k, "sum": k + d_sum}[readout])
    np.testing.assert_allclose(T.T @ T, np.eye(T.shape[1]), atol=1e-14)
    grad = rg.EmpiricalLoss(arch, *samples(arch, 40, d)).grad(theta)
    np.testing.assert_allclose(T.T @ grad, 0, atol=1e-13 * (1 + np.linalg.norm(grad)))


@every_arch
@pytest.mark.parametrize("dead", [1, 3])
def test_a_unit_that_is_zero_has_no_direction_of_its_own(arch, dead):
    """Also where every unit is zero: the unseen directions alone are left."""
    record, rng = rg.ARCHITECTURES[arch], np.random.default_rng(0)
    U, W2 = rng.normal(size=(2, 3)), rng.normal(size=(3, 2))
    U[:, :dead], W2[:dead] = 0.0, 0.0
    if record.readout == "sum":
        W2[:dead] = [1.0, -1.0]  # its a is 0
    theta = from_units(arch, U, W2)
    T = symmetry.tangent(arch, theta, 2)
    assert T.shape == (theta.size, {"fixed": 0, "vector": 3 - dead, "sum": 3 - dead + 3}[record.readout])
    np.testing.assert_allclose(T.T @ T, np.eye(T.shape[1]), atol=1e-14)
    loss = rg.PopulationLoss(arch, rg.Network(arch, point(arch, 2), 2))
    assert rg.spectrum(loss, theta).predicted == T.shape[1]
    assert rg.polish(loss, theta).verdict == {1: "global minimum", 3: "saddle"}[dead]  # two units are enough


# ------------------------------------------------------------------- what training leaves alone


@pytest.mark.parametrize("arch", TRAINED_READOUT)
def test_gradient_flow_keeps_the_imbalance_of_every_unit(arch):
    teacher = rg.Network(arch, point(arch, 3, seed=1), 3)
    loss, theta0 = rg.PopulationLoss(arch, teacher), point(arch, 3, 4, seed=2)

    def imbalance(theta):
        U, A = pieces(arch, theta, 3)
        return (U**2).sum(1) - (A**2).sum(1)  # for a sum |u_j|^2 - a_j^2 / d

    flow = rg.gradient_flow(
        loss, theta0, 5.0, method="DOP853", rtol=1e-11, atol=1e-12, observe={"imbalance": imbalance, "theta": np.copy}
    )
    kept = flow.observed["imbalance"]
    np.testing.assert_allclose(kept, np.broadcast_to(imbalance(theta0), kept.shape), atol=1e-8)
    assert flow.loss[-1] < 0.9 * flow.loss[0]
    assert np.linalg.norm(flow.theta - theta0) > 0.1  # while everything else moved


@every_sum
@pytest.mark.parametrize("optimizer", [rg.SGD(0.01), rg.Nesterov(0.003, 0.9)], ids=["sgd", "nesterov"])
@pytest.mark.parametrize("data", ["dataset", "online", "population"])
def test_no_training_moves_the_unseen_part(arch, optimizer, data):
    teacher, theta0 = rg.Network(arch, point(arch, 3, 2, seed=1), 3), point(arch, 3, 4, seed=2)
    loss = {
        "dataset": lambda: rg.EmpiricalLoss(arch, *samples(arch, 64, 3)),
        "online": lambda: rg.OnlineLoss(arch, teacher),
        "population": lambda: rg.PopulationLoss(arch, teacher),
    }[data]()
    run = rg.train(loss, theta0, optimizer, 500, **({} if data == "population" else {"batch_size": 16}))
    W2, W2_start = (loss.arch.unflatten(x, 3)[1] for x in (run.theta, theta0))
    unseen = [x - x.mean(axis=1, keepdims=True) for x in (W2, W2_start)]
    np.testing.assert_allclose(unseen[0], unseen[1], atol=20 * EPS)
    assert np.abs(W2 - W2_start).max() > 1e-2


# --------------------------------------------------- architectures that differ in their identity


@pytest.mark.parametrize(("source", "target"), WAYS)
def test_convert_keeps_the_function(source, target):
    theta = point(source, 4, 5)
    X, _ = samples(source, 60, 4)
    other = rg.Network(target, rg.convert(theta, 4, source, target), 4)
    np.testing.assert_allclose(other(X), rg.Network(source, theta, 4)(X), atol=1e-14)


@pytest.mark.parametrize(("source", "target"), TWINS)
def test_convert_keeps_the_training_curve(source, target):
    d = 3  # with 4 units: the shape for which other tests have compiled the loops
    theta = point(source, d, 4)
    other = rg.convert(theta, d, source, target)
    X, Y = samples(source, 60, d)
    np.testing.assert_allclose(rg.convert(other, d, target, source), theta, atol=4 * EPS)
    runs = [
        rg.train(rg.EmpiricalLoss(arch, X, Y), start, rg.Nesterov(0.003, 0.5), 300, batch_size=20, seed=7)
        for arch, start in ((source, theta), (target, other))
    ]
    np.testing.assert_allclose(runs[1].loss, runs[0].loss, rtol=1e-12)
    back = rg.convert(runs[1].theta, d, target, source)
    np.testing.assert_allclose(back, runs[0].theta, atol=1e-12)
    assert runs[0].loss[-1] < 0.9 * runs[0].loss[0]


def test_resnet_and_modresnet_are_among_the_convertible():
    assert {("resnet", "modresnet"), ("li", "vanilla"), ("resnet-free", "modresnet-free")} <= set(TWINS)
    assert set(WAYS) - set(TWINS) >= {
        ("resnet", "resnet-free"),
        ("vanilla", "li-free"),
        ("resnet-sum", "two-weight-free"),
    }


@pytest.mark.parametrize(
    ("source", "target"),
    [("resnet", "two-weight"), ("resnet-free", "resnet"), ("vanilla", "even"), ("two-weight", "resnet-sum")],
)
def test_convert_refuses_different_functions(source, target):
    with pytest.raises(ValueError, match=f"{source} and {target} differ in more than their identity"):
        rg.convert(point(source, 2), 2, source, target)
