"""The exact expected loss, gradient and Hessian, held against fifty digits, sampling and quadrature."""

import dataclasses

import exact
import naive
import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
from conftest import CENTERED, RECORDS, every_centered, point, relative_error, same_outputs, samples, slow

import resgrad as rg
from resgrad import kernels
from resgrad.kernels import digits, policy

EPS = np.finfo(float).eps
GENERIC = 1e-13  # sums of some ten terms, each good to a few EPS
NEAR = 1e-11  # the contract where units are nearly parallel; the measured figure is 1e-15
ALONE = 80 * EPS  # of one pair's own terms: products good to a few EPS leave EPS / (2 * 0.03) each where they give way
DIFFERENCE = 1e-7  # a central difference with step 1e-5 of a gradient good to 1e-16: 1e-10 + 1e-11, and a margin
PAIR = 2.0**-103  # of a pair of floats, which has 2**-106: eight times that, and less is measured
LOSS = [(1e-20, 1e-8), (1e-28, 1e-3)]  # relative error allowed down to this level of the scale
LEVELS = [1e-2, 1e-4, 3e-5, 3e-6, 1e-8, 1e-12, 1e-16, 1e-20, 1e-24, 1e-28]

MIXED = [
    ("li", "vanilla"),
    ("li", "resnet-sum"),
    ("two-weight", "modresnet-sum"),
    ("vanilla", "two-weight"),
    ("modresnet-sum", "li"),
    ("resnet-sum", "modresnet-sum"),
    ("resnet", "modresnet"),
    ("modresnet", "resnet"),
    ("half", "resnet"),
    ("modresnet", "half"),
    ("vanilla-free", "vanilla"),  # a trained skip on one side alone
    ("modresnet-sum", "vanilla-free"),
    ("two-weight-free", "leaky"),
    ("modresnet-free", "half"),
    ("resnet", "modresnet-free"),
    ("vanilla", "even"),  # a teacher in other slopes
    ("even", "two-weight"),
    ("leaky", "even"),
    ("leaky", "leaky"),
    ("li-free", "even"),
]
every_pair = pytest.mark.parametrize("student, teacher", [(arch, arch) for arch in CENTERED] + MIXED)


class Pair:
    """A student at theta, a teacher, and all that is known exactly about them."""

    def __init__(self, student, theta, teacher, theta_star, d):
        self.arch, self.theta, self.d = RECORDS[student], theta, d
        self.names = (student, theta, teacher, theta_star, d)
        self.teacher = rg.Network(RECORDS[teacher], theta_star, d)
        self.loss = rg.PopulationLoss(self.arch, self.teacher)

    @classmethod
    def generic(cls, student, teacher, d=3, width=None, width_star=None, seed=0):
        return cls(student, point(student, d, width, seed), teacher, point(teacher, d, width_star, seed + 100), d)

    def gradient_error(self):
        return exact.gradient_error(self.loss.grad(self.theta), *self.names)

    def hessian_error(self):
        return relative_error(self.loss.hessian(self.theta), exact.hessian(*self.names))

    def value_error(self):
        """(relative error of the loss, its level): the level is relative to E|F*|^2."""
        wanted, scale = exact.loss(*self.names), exact.scale(*self.names[2:])
        return float(abs(self.loss.value(self.theta) / wanted - 1)), float(wanted / scale)


def with_units(student, U, a=None):
    """theta of a student whose units are the columns of U, read out with weights of about ``a``."""
    arch = RECORDS[student]
    d, k = U.shape
    W2 = point("resnet", d, k, seed=5)[: k * d].reshape(k, d) + 0.1
    return of_units(arch, U, W2 * (np.ones(k) if a is None else a)[:, None])


def of_units(arch, U, W2, C=None):
    """theta from the columns of U, W2 and C where there are such, the latter generic unless given."""
    d, k = U.shape
    blocks = {"W1": U - arch.identity * np.eye(d, k), "W2": W2, "C": C}
    if C is None:
        blocks["C"] = point("resnet", d, d, seed=6)[: d * arch.outputs(d)].reshape(d, -1)
    return arch.flatten(**{name: blocks[name] for name in arch.shapes(d, k)})


def test_the_mixed_pairs_fit():
    assert all(same_outputs(*pair) for pair in MIXED)


# ------------------------------------------------------------------------------------ gradient


@every_pair
@pytest.mark.parametrize("d, width, width_star", [(3, 3, 3), (3, 2, 5), (2, 4, 1), (5, 5, 5), (1, 1, 1), (1, 3, 2)])
def test_gradient_to_the_last_digits(student, teacher, d, width, width_star):
    assert Pair.generic(student, teacher, d, width, width_star).gradient_error() < GENERIC


@every_centered
@pytest.mark.parametrize("among", ["students", "student and teacher"])
@pytest.mark.parametrize("sign", [1, -1], ids=["parallel", "antiparallel"])
@pytest.mark.parametrize("offset", [1e-4, 1e-8, 1e-12, 0.0])
def test_gradient_of_nearly_parallel_units(arch, among, sign, offset):
    """Two units at an angle of ``offset`` or pi - ``offset``."""
    rng = np.random.default_rng(7)
    U, U_star = rng.standard_normal((3, 3)), rng.standard_normal((3, 3))
    across = np.cross(U[:, 0], U[:, 1])
    across *= np.linalg.norm(U[:, 0]) / np.linalg.norm(across)
    nearly = 0.5 * sign * (U[:, 0] + offset * across)
    (U if among == "students" else U_star)[:, 2] = nearly
    pair = Pair(arch, with_units(arch, U), arch, with_units(arch, U_star), 3)
    assert pair.gradient_error() < NEAR
    error, level = pair.value_error()
    assert level > 1e-4 and error < LOSS[0][1]


def beside(v, angles, rng):
    """Unit vectors at these angles from the unit vector v, as columns."""
    across = rng.standard_normal((v.size, angles.size))
    across -= np.outer(v, v @ across)
    return np.cos(angles) * v[:, None] + np.sin(angles) * across / np.linalg.norm(across, axis=0)


@pytest.mark.parametrize("student, teacher", MIXED)
def test_gradient_of_a_wide_network(student, teacher):
    """Every other unit has one nearly along or against it, at 1e-2 to 1e-8; one is dead, one lies in the teacher."""
    d, rng, pairs = 3, np.random.default_rng(7), policy.EXACT_NARROW // 2
    U, angles = rng.standard_normal((d, 2 * pairs + 1)), np.logspace(-2, -8, pairs)
    for j in range(pairs):
        v = U[:, j] / np.linalg.norm(U[:, j])
        U[:, pairs + j] = (-1) ** j * rng.exponential() * beside(v, angles[j : j + 1], rng)[:, 0]
    U_star = U[:, [-1, 1]] * [2.0, -1.0]
    U[:, 0] = 0.0
    assert Pair(student, with_units(student, U), teacher, with_units(teacher, U_star), d).gradient_error() < GENERIC


@pytest.mark.parametrize("width", [5, policy.EXACT_NARROW + 1], ids=["narrow", "wide"])
@pytest.mark.parametrize("sign", [1, -1], ids=["parallel", "antiparallel"])
def test_gradient_keeps_the_digits_of_a_pair_at_every_angle(sign, width):
    """Short units beside a long one, or against it: all that pulls at them is s u^ + (pi - phi) v^."""
    d, rng = 10, np.random.default_rng(6)
    v, angles = rng.standard_normal(d), np.logspace(-1, -8, width)
    angles[::2] = np.logspace(-1, -2, angles[::2].size)  # where products give way to sums
    short = sign * 1e-20 * beside(v / np.linalg.norm(v), angles, rng)
    assert Pair("vanilla", short.ravel(), "vanilla", v, d).gradient_error() < ALONE


@every_centered
@pytest.mark.parametrize("size", [1e-100, 1e-30, 1e-8, 1e8, 1e30, 1e100])
def test_gradient_of_units_of_any_length(arch, size):
    """No square over- or underflows; the errors are relative to each unit's own terms."""
    U = np.random.default_rng(7).standard_normal((3, 3))
    U[1, 1] = U[2, 2] = 0.0  # so that W1 = U - I holds a tiny unit, too
    theta = with_units(arch, U * [1.0, size, np.sqrt(size)], np.array([1.0, 1 / size, size**-0.5]))
    pair = Pair(arch, theta, arch, point(arch, 3, seed=100), 3)
    assert pair.gradient_error() < GENERIC
    assert pair.value_error()[0] < LOSS[0][1]


@pytest.mark.parametrize("slopes", [(0.0, 1.0), (0.0, -0.5), (1.0, -1.0), (2.0, 0.0)])
def test_a_unit_that_is_zero_has_the_lower_slope(slopes):
    """s'(0) = n: its gradient is n dloss/dC a, with the gradient that a skip would have."""
    arch = rg.Architecture("sloped", "W2' s(W1' x)", "tests", 0, 0, "vector", slopes)
    teacher, theta = rg.Network(arch, np.random.default_rng(0).standard_normal(12), 3), np.arange(1.0, 13.0)
    theta[[0, 2, 4]] = 0.0
    free = rg.PopulationLoss(dataclasses.replace(arch, trains_skip=True), teacher)
    dC = free.arch.unflatten(free.grad(np.append(theta, np.zeros(9))), 3).C
    dW1 = arch.unflatten(rg.PopulationLoss(arch, teacher).grad(theta), 3).W1
    assert relative_error(dW1[:, 0] + 1.0, slopes[1] * (dC @ theta[6:9]) + 1.0) < GENERIC


@every_centered
@pytest.mark.parametrize("size", [1e-300, 1e-150, 1e-142, 1e142, 1e150])
def test_gradient_of_units_whose_squares_leave_the_floats(arch, size):
    """Or lose digits there; the other units' terms are what they were."""
    U = np.random.default_rng(7).standard_normal((3, 3)) * [1.0, size, 1.0]
    U[1, 1] = 0.0  # so that W1 = U - I holds a tiny unit, too
    pair = Pair(arch, with_units(arch, U), arch, point(arch, 3, seed=100), 3)
    assert pair.gradient_error() < GENERIC
    assert pair.value_error()[0] < LOSS[0][1]


@pytest.mark.parametrize("arch, size", [("vanilla", 1e151), ("vanilla", 1e152), ("two-weight", 1e75)])
def test_a_loss_whose_precise_terms_overflow_has_the_digits_of_plain_summation(arch, size):
    star = rg.Network(arch, size * point(arch, 3), 3)
    loss = rg.PopulationLoss(arch, star)
    assert 0 <= loss.value(star.theta * (1 + 1e-9)) < 1e-12 * loss.value(0.5 * star.theta) < np.inf


@pytest.mark.parametrize("arch", ["vanilla", "resnet", "resnet-sum"])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("size", [1e-100, 1e100])
def test_gradient_of_nearly_parallel_units_of_any_length(arch, sign, size):
    U = np.random.default_rng(7).standard_normal((3, 3))
    U[:, 1] = sign * size * (U[:, 0] + 1e-8 * U[:, 2])
    theta = with_units(arch, U, np.array([1.0, 1 / size, 1.0]))
    assert Pair(arch, theta, arch, point(arch, 3, seed=100), 3).gradient_error() < NEAR


def difference_quotient(loss, theta, entries, h=1e-5):
    """The columns of the Hessian for these entries of theta, from the gradient."""
    steps = h * np.eye(theta.size)[entries]
    return np.array([(loss.grad(theta + step) - loss.grad(theta - step)) / (2 * h) for step in steps]).T


@every_pair
@pytest.mark.parametrize("dead_star", [False, True])
def test_a_zero_unit_gets_zero_and_disturbs_nobody(student, teacher, dead_star):
    """s'(0) = n, relu'(0) = 0: it has no curvature of its own, and the others see nothing of it."""
    record, d, alive = RECORDS[student], 3, [0, 2]
    U, W2 = np.random.default_rng(7).standard_normal((d, 3)), np.random.default_rng(8).standard_normal((3, d))
    U[:, 1] = 0.0
    theta, rest = (of_units(record, U[:, j], W2[j]) for j in ([0, 1, 2], alive))
    star = with_units(teacher, U[:, [1, 0]] if dead_star else 2 * U[:, alive])
    pair, without = Pair(student, theta, teacher, star, d), Pair(student, rest, teacher, star, d)
    index = record.unflatten(np.arange(theta.size), d)
    keep = [index.W1[:, alive], *([index.W2[alive]] if record.trains_readout else [])]
    keep = np.concatenate([block.ravel() for block in keep + [index.C] * record.trains_skip])
    gradient, hessian = pair.loss.grad(theta), pair.loss.hessian(theta)
    assert pair.gradient_error() < GENERIC
    assert relative_error(gradient[keep], without.loss.grad(rest)) < GENERIC
    assert relative_error(hessian[np.ix_(keep, keep)], without.loss.hessian(rest)) < GENERIC
    assert np.array_equal(hessian, hessian.T)
    if record.slopes[1] == 0:
        assert not np.delete(gradient, keep).any() and not np.delete(hessian, keep, axis=0).any()


EVERY = [(arch, arch) for arch in RECORDS if not RECORDS[arch].bias] + [("leaky", "even"), ("even", "li")]


@pytest.mark.parametrize("student, teacher", EVERY)
@pytest.mark.parametrize("dead", [[1], [0, 2]])
def test_hessian_beside_zero_units(student, teacher, dead):
    """How the gradient, theirs included, changes with everything but themselves."""
    record, d = RECORDS[student], 3
    U, W2 = np.random.default_rng(7).standard_normal((d, 4)), np.random.default_rng(8).standard_normal((4, d))
    U[:, dead] = 0.0
    pair = Pair(student, of_units(record, U, W2), teacher, point(teacher, d, 2), d)
    moving = np.delete(np.arange(pair.theta.size), record.unflatten(np.arange(pair.theta.size), d).W1[:, dead].ravel())
    hessian, quotient = pair.loss.hessian(pair.theta), difference_quotient(pair.loss, pair.theta, moving)
    assert relative_error(hessian[:, moving], quotient) < DIFFERENCE and np.array_equal(hessian, hessian.T)


@every_centered
def test_a_student_of_zeros_against_a_teacher_of_zeros(arch):
    theta = with_units(arch, np.zeros((2, 2)))
    pair, hessian = (
        Pair(arch, theta, arch, theta, 2),
        rg.PopulationLoss(arch, rg.Network(arch, theta, 2)).hessian(theta),
    )
    assert pair.loss.value(theta) == 0.0 and not pair.loss.grad(theta).any()
    if pair.arch.trains_skip:
        skip = pair.arch.unflatten(np.arange(theta.size), 2).C.ravel()
        hessian[skip, skip] -= 2.0
    assert not hessian.any() or arch == "even"  # where s'(0) is not 0


@every_pair
def test_gradient_equals_the_naive_double_loop(student, teacher):
    pair = Pair.generic(student, teacher, 4, 3, 2)
    assert relative_error(pair.loss.grad(pair.theta), naive.population_gradient(*pair.names)) < GENERIC
    assert abs(pair.loss.value(pair.theta) / naive.population_loss(*pair.names) - 1) < GENERIC


@every_pair
def test_the_fifty_digit_gradient_is_the_derivative_of_the_fifty_digit_loss(student, teacher):
    """The reference against itself: a difference quotient of (8) gives (10) and (11)."""
    names = Pair.generic(student, teacher, 2, 2, 2).names
    direction = [exact.mpf(float(e)) for e in point(student, 2, seed=9)]
    theta = exact.parameters(names[1])
    sides = [
        exact.loss(student, [t + sign * exact.STEP * e for t, e in zip(theta, direction)], *names[2:])
        for sign in (1, -1)
    ]
    slope = exact.dot(exact.gradient(*names)[0], direction)
    assert abs((sides[0] - sides[1]) / (2 * exact.STEP) / slope - 1) < 1e-25


# ---------------------------------------------------------------------------------------- loss


def assert_digits(pair):
    error, level = pair.value_error()
    assert level > 0.5e-28
    allowed = LOSS[0][1] if level > 0.99 * LOSS[0][0] else LOSS[1][1]
    assert pair.loss.value(pair.theta) > 0 and error < allowed, f"error {error:.1e} at level {level:.1e}"


def global_minima(arch, star, d, rng):
    """The teacher, and its images under the symmetries: permuted, rescaled and reversed units (up to rounding)."""
    record = RECORDS[arch]
    W1, W2, C, _ = record.unflatten(star, d)
    U, A, _ = record.canonical(star, d)
    c, order = np.exp(rng.standard_normal(d)), rng.permutation(d)
    yield star
    yield of_units(record, U[:, order], W2 if W2 is None else W2[order], C)
    if record.trains_readout:
        yield of_units(record, U * c, W2 / c[:, None], C)
    if record.trains_skip or sum(record.slopes) == 0:  # s(z) = s(-z) + (p + n) z
        turned = [0, d - 1]
        gain = sum(record.slopes) * (U[:, turned] @ A[turned])
        sign = np.where(np.isin(np.arange(d), turned), -1, 1)
        yield of_units(record, U * sign, W2, None if C is None else C + gain)


@every_centered
@pytest.mark.parametrize("d", [3, *slow(5)])
def test_the_loss_keeps_its_digits_on_the_way_down(arch, d):
    """Toward every kind of global minimum, from 1e-2 to 1e-28 of E|F*|^2; never negative, also there."""
    rng, star = np.random.default_rng(d), point(arch, d, seed=100)
    for minimum in global_minima(arch, star, d, rng):
        direction = rng.standard_normal(star.size)
        at = Pair(arch, minimum, arch, star, d)
        assert 0 <= at.loss.value(minimum) < 1e-30 * exact.scale(arch, star, d)
        curvature = 1e8 * Pair(arch, minimum + 1e-4 * direction, arch, star, d).value_error()[1]
        for level in LEVELS:
            assert_digits(Pair(arch, minimum + np.sqrt(1.01 * level / curvature) * direction, arch, star, d))


@pytest.mark.parametrize(
    "student, teacher",
    [
        ("vanilla", "li"),
        ("li", "vanilla"),
        ("resnet", "modresnet"),
        ("modresnet", "resnet"),
        ("resnet-sum", "modresnet-sum"),
        ("modresnet-sum", "resnet-sum"),
        ("li-free", "vanilla-free"),
        ("modresnet-free", "resnet-free"),
    ],
)
def test_the_loss_keeps_its_digits_across_architectures(student, teacher):
    """The identity only shifts the parameters: the same function is a minimum of the other, too."""
    d, star = 3, point(teacher, 3, seed=100)
    shift = rg.ARCHITECTURES[teacher].identity - rg.ARCHITECTURES[student].identity
    minimum, direction = star.copy(), point(student, d, seed=9)
    minimum[: d * d] += shift * np.eye(d).ravel()
    curvature = 1e8 * Pair(student, minimum + 1e-4 * direction, teacher, star, d).value_error()[1]
    for level in LEVELS:
        assert_digits(Pair(student, minimum + np.sqrt(1.01 * level / curvature) * direction, teacher, star, d))


@pytest.mark.parametrize(
    "student, teacher",
    [("vanilla-free", "even"), ("li-free", "even"), ("two-weight-free", "leaky"), ("leaky", "two-weight-free")],
)
def test_the_loss_keeps_its_digits_near_a_teacher_of_other_slopes(student, teacher):
    """s*(z) = n* z + r (s(z) - n z): the minimum has r A* and C* + (n* - n r) U* A*, which rounding moves."""
    d, (here, there) = 3, (RECORDS[student], RECORDS[teacher])
    star = point(teacher, d, seed=100)
    U, A, C = there.canonical(star, d)
    ratio = (there.slopes[0] - there.slopes[1]) / (here.slopes[0] - here.slopes[1])
    shift = there.slopes[1] - here.slopes[1] * ratio
    minimum = of_units(here, U, np.tile(ratio * A / d, (1, d)), C + shift * U @ A)
    direction = point(student, d, seed=9)
    curvature = 1e8 * Pair(student, minimum + 1e-4 * direction, teacher, star, d).value_error()[1]
    for level in LEVELS:
        assert_digits(Pair(student, minimum + np.sqrt(1.01 * level / curvature) * direction, teacher, star, d))


def test_the_loss_keeps_its_digits_where_units_make_up_for_the_skip():
    """1'x = relu(1'x) - relu(-1'x): two more units of the teacher, and the linear part differs where the loss is 0."""
    d, one = 3, np.ones((3, 1))
    student, teacher = rg.ARCHITECTURES["resnet-sum"], rg.ARCHITECTURES["two-weight"]
    minimum, direction = point(student.name, d, seed=100), point(student.name, d, seed=9)
    W1, W2, *_ = student.unflatten(minimum, d)
    star = teacher.flatten(np.hstack([W1, one, -one]) - np.eye(d, 5), np.vstack([W2, one.T / d, -one.T / d]))
    curvature = 1e8 * Pair(student.name, minimum + 1e-4 * direction, teacher.name, star, d).value_error()[1]
    for level in LEVELS:
        theta = minimum + np.sqrt(1.01 * level / curvature) * direction
        assert_digits(Pair(student.name, theta, teacher.name, star, d))


@every_centered
def test_a_converging_run_goes_down_cleanly(arch):
    """Newton's method reaches rounding; all along its way the loss is that of fifty digits."""
    star = point(arch, 3, seed=100)
    pair = Pair(arch, star + 0.02 * point(arch, 3, seed=1), arch, star, 3)
    levels = []
    for _ in range(12):
        _error, level = pair.value_error() if exact.loss(*pair.names) else (0.0, 0.0)
        levels.append(level)
        if level < 1e-28:
            break
        assert_digits(pair)
        step = np.linalg.lstsq(pair.loss.hessian(pair.theta), pair.loss.grad(pair.theta), rcond=1e-6)[0]
        pair = Pair(arch, pair.theta - step, arch, star, 3)
    assert levels[0] > 1e-6 and levels[-1] < 1e-28 and pair.loss.value(pair.theta) >= 0


@every_pair
@pytest.mark.parametrize("d", [1, 3])
def test_loss_of_generic_pairs(student, teacher, d):
    error, level = Pair.generic(student, teacher, d, 3, 2).value_error()
    assert level > 1e-5 and error < 1e-11  # summed plainly above 1e-5 of its scale: 10 EPS / 1e-5 at worst


def pair_error(pair, wanted):
    """The relative error of an unevaluated sum hi + lo."""
    error = abs(exact.mpf(float(pair[0])) + exact.mpf(float(pair[1])) - wanted)
    return float(error / abs(wanted) if wanted else error)


def test_arithmetic_of_pairs_keeps_all_their_digits():
    """Sums also where the leading parts cancel, wholly or nearly so."""
    rng = np.random.default_rng(0)
    for size in 2.0 ** rng.integers(-40, 40, 400):
        x, y = (kernels.two_sum(s, 2.0**-54 * s * rng.uniform(-1, 1)) for s in rng.standard_normal(2) * [1.0, size])
        like = [(-part * x[0], 0.3 * x[1]) for part in (1.0, 1 - 2.0 ** -rng.integers(10, 52))]
        X, Y = (exact.mpf(float(hi)) + exact.mpf(float(lo)) for hi, lo in (x, y))
        for z in (y, *like):
            assert pair_error(digits._add(x, z), X + exact.mpf(float(z[0])) + exact.mpf(float(z[1]))) < PAIR
        assert pair_error(digits.two_product(x[0], y[0]), exact.mpf(float(x[0])) * exact.mpf(float(y[0]))) == 0
        assert pair_error(digits._multiply(x, y), X * Y) < PAIR
        assert pair_error(digits._divide(x, y), X / Y) < PAIR
        x, X = (x, X) if X > 0 else ((-x[0], -x[1]), -X)
        assert pair_error(digits._square_root(x), exact.mpmath.sqrt(X)) < PAIR
    assert digits._square_root((-1e-33, 0.0)) == digits._square_root((0.0, 0.0)) == (0.0, 0.0)
    for t in np.linspace(-np.pi / 4, np.pi / 4, 30):
        for first, function in enumerate((exact.mpmath.cos, exact.mpmath.sin)):
            assert pair_error(digits._taylor((t, 0.0), first), function(exact.mpf(float(t)))) < PAIR


def test_the_even_part_has_thirty_digits():
    """s + arcsin|c| |c|, the one transcendental function in (18), in double-double arithmetic."""
    for c in np.concatenate([np.linspace(-1, 1, 41), 1 - np.logspace(-16, -1, 16), np.logspace(-16, -1, 16)]):
        exact_c = exact.mpf(float(c))
        wanted = exact.mpmath.sqrt(1 - exact_c**2) + exact_c * exact.mpmath.asin(exact_c)
        assert pair_error(digits._even_part((c, 0.0)), wanted) < PAIR


@every_centered
def test_a_float32_teacher_is_taken_as_it_is(arch):
    star = point(arch, 3, seed=100, dtype=np.float32)
    pair = Pair(arch, star.astype(float), arch, star, 3)
    assert pair.loss.value(pair.theta) < 1e-30 and pair.loss.dtype == np.float64


# ------------------------------------------------------------------------------------- Hessian


@every_pair
def test_hessian_is_exact_and_symmetric(student, teacher):
    pair = Pair.generic(student, teacher, 3, 3, 2)
    hessian = pair.loss.hessian(pair.theta)
    assert np.array_equal(hessian, hessian.T)
    assert relative_error(hessian, exact.hessian(*pair.names)) < GENERIC


@every_pair
@pytest.mark.parametrize("d, width", [(1, 1), (1, 2), (4, 2), (2, 4)])
def test_hessian_is_the_difference_quotient_of_the_gradient(student, teacher, d, width):
    pair = Pair.generic(student, teacher, d, width, 3)
    quotient = difference_quotient(pair.loss, pair.theta, np.arange(pair.theta.size))
    assert relative_error(pair.loss.hessian(pair.theta), quotient) < DIFFERENCE


@every_centered
@pytest.mark.parametrize("offset", [0.0, 1e-8, *slow(1e-12, 1e-4)])
@pytest.mark.parametrize("sign", [1, -1], ids=["parallel", "antiparallel"])
def test_hessian_of_nearly_parallel_units_takes_the_limit(arch, sign, offset):
    rng = np.random.default_rng(7)
    U, U_star = rng.standard_normal((3, 3)), rng.standard_normal((3, 2))
    U[:, 2] = 0.5 * sign * (U[:, 0] + offset * U[:, 1])
    U_star[:, 1] = 3 * sign * (U[:, 1] - offset * U[:, 0])
    pair = Pair(arch, with_units(arch, U), arch, with_units(arch, U_star), 3)
    hessian = pair.loss.hessian(pair.theta)
    assert np.array_equal(hessian, hessian.T)
    assert pair.hessian_error() < NEAR


@every_centered
@pytest.mark.parametrize("seed", range(3))
def test_nullity_at_the_teacher_is_the_dimension_of_the_minima(arch, seed):
    """Fixed: isolated minima.  Vector: d rescalings.  Sum: d more unseen directions for each of d - 1 columns.

    A trained skip and other slopes add none: reversals are isolated.
    """
    d = 3
    star = point(arch, d, seed=100 + seed)
    eigenvalues = np.linalg.eigvalsh(Pair(arch, star, arch, star, d).loss.hessian(star))
    nullity = {"fixed": 0, "vector": d, "sum": d * d}[RECORDS[arch].readout]
    flat = np.abs(eigenvalues) < 1e-13 * eigenvalues[-1]
    assert np.sum(flat) == nullity and eigenvalues[~flat].min() > 1e-5 * eigenvalues[-1]


@pytest.mark.parametrize("k", [3, 4, 6, 9])
def test_spectrum_of_vanilla_at_the_identity(k):
    """Safran & Shamir's convention has a factor 1/2: 1/4 -+ 1/(2 pi), k (k - 1) / 2 and k (k - 3) / 2 times."""
    theta = np.eye(k).ravel()
    hessian = rg.PopulationLoss("vanilla", rg.Network("vanilla", theta, k)).hessian(theta) / 2
    eigenvalues = np.linalg.eigvalsh(hessian)
    rounding = 10 * EPS * eigenvalues[-1]
    count = [np.sum(np.abs(eigenvalues - (0.25 + sign / (2 * np.pi))) < rounding) for sign in (-1, 1)]
    assert count == [k * (k - 1) // 2, k * (k - 3) // 2] and eigenvalues[0] > 0.25 - 1 / (2 * np.pi) - rounding


# ------------------------------------------------------- other ways to compute the same integral


@every_centered
def test_value_and_gradient_agree_with_sampling(arch):
    """As z-scores; the standard errors are those of the means of 200 blocks of 2000 samples."""
    pair = Pair.generic(arch, arch)
    rng, blocks = np.random.default_rng(11), []
    for _ in range(200):
        X, Y = rg.dataset(pair.teacher, 2000, rng)
        value, gradient = rg.EmpiricalLoss(arch, X, Y).value_and_grad(pair.theta)
        blocks.append([value, *gradient])
    mean, error = np.mean(blocks, axis=0), np.std(blocks, axis=0, ddof=1) / np.sqrt(len(blocks))
    z = (mean - [pair.loss.value(pair.theta), *pair.loss.grad(pair.theta)]) / error
    assert np.max(np.abs(z)) < 5
    assert np.all(error < 0.01 * np.max(np.abs(mean)))  # so a wrong factor cannot hide


@every_pair
def test_value_and_gradient_agree_with_quadrature_in_the_plane(student, teacher):
    """In polar coordinates: E r^2 = 2, and over the angle Gauss' rule between the kinks is exact."""
    pair = Pair.generic(student, teacher, 2, 3, 2)
    units = [u for name, theta in (pair.names[:2], pair.names[2:4]) for u, _ in naive.units(name, theta, 2)[0]]
    kinks = np.sort(np.concatenate([np.arctan2(-u[0], u[1]) + np.array([0, np.pi]) for u in units]) % (2 * np.pi))
    nodes, weights = np.polynomial.legendre.leggauss(16)
    total = 0.0
    for start, end in zip(kinks, [*kinks[1:], kinks[0] + 2 * np.pi]):
        for angle, weight in zip(start + (end - start) * (nodes + 1) / 2, weights * (end - start) / 2):
            X = np.array([[np.cos(angle), np.sin(angle)]])
            Y = naive.predict(teacher, pair.teacher.theta, X)
            value, gradient = naive.loss_and_gradient(student, pair.theta, X, Y)
            total = total + weight / np.pi * np.array([value, *gradient])
    assert abs(pair.loss.value(pair.theta) / total[0] - 1) < GENERIC
    assert relative_error(pair.loss.grad(pair.theta), total[1:]) < GENERIC


# ------------------------------------------------------------------------------------ in motion


@every_pair
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_training_is_naive_gradient_descent(student, teacher, momentum):
    pair, lr, n_steps = Pair.generic(student, teacher, 3, 4, 2), 0.01, 20
    run = rg.train(pair.loss, pair.theta, rg.Nesterov(lr, momentum), n_steps)

    def gradient(theta, _):
        return naive.population_gradient(student, theta, *pair.names[2:])

    assert relative_error(run.theta, naive.nesterov(gradient, pair.theta, range(n_steps), lr, momentum)) < GENERIC
    assert run.loss[-1] == pair.loss.value(run.theta) and run.loss[0] == pair.loss.value(pair.theta)


@pytest.mark.parametrize("arch", [arch for arch in CENTERED if not rg.ARCHITECTURES[arch].trains_skip])
def test_gradient_flow_is_the_same_for_explicit_and_stiff_methods(arch):
    pair = Pair.generic(arch, arch, 2)
    times = np.linspace(0, 3, 7)
    flows = [
        rg.gradient_flow(
            pair.loss,
            pair.theta,
            3.0,
            method=method,
            t_eval=times,
            rtol=1e-9,
            atol=1e-11,
            observe={"theta": lambda theta: theta.copy()},
        )
        for method in ("DOP853", "Radau", "BDF")
    ]
    for flow in flows:
        assert np.array_equal(flow.steps, times) and flow.loss[0] == pair.loss.value(pair.theta)
        assert np.all(np.diff(flow.loss) < 0)
        assert relative_error(flow.observed["theta"], flows[0].observed["theta"]) < 1e-6  # 1000 times rtol
        assert np.array_equal(flow.theta, flow.observed["theta"][-1])


@pytest.mark.parametrize("method, stiff", [("BDF", True), ("Radau", True), ("RK45", False), ("DOP853", False)])
def test_gradient_flow_hands_the_exact_jacobian_to_stiff_methods(method, stiff, monkeypatch):
    """A wrong one would go unnoticed: the solver only takes more steps."""
    pair, seen, solve_ivp = Pair.generic("two-weight", "li", 2), {}, scipy.integrate.solve_ivp

    def spy(fun, *arguments, **options):
        seen.update(options, fun=fun)
        return solve_ivp(fun, *arguments, **options)

    monkeypatch.setattr(scipy.integrate, "solve_ivp", spy)
    rg.gradient_flow(pair.loss, pair.theta, 0.1, method=method)
    assert np.array_equal(seen["fun"](0.0, pair.theta), -pair.loss.grad(pair.theta))
    assert ("jac" in seen) == stiff
    if stiff:
        assert np.array_equal(seen["jac"](0.0, pair.theta), -pair.loss.hessian(pair.theta))


def test_gradient_flow_says_nothing_of_a_step_that_goes_too_far(monkeypatch):
    """The solver takes it back.  Warnings are errors here, and this solver overflows."""
    pair, solve_ivp = Pair.generic("li", "li", 2), scipy.integrate.solve_ivp

    def overflows(*arguments, **options):
        far = np.array([1e300]) * 1e300
        far - far
        return solve_ivp(*arguments, **options)

    monkeypatch.setattr(scipy.integrate, "solve_ivp", overflows)
    assert rg.gradient_flow(pair.loss, pair.theta, 0.1).steps[-1] == 0.1


def test_gradient_flow_is_the_limit_of_small_steps():
    """Halving lr halves the distance, t = lr * steps held fixed."""
    pair = Pair.generic("modresnet", "modresnet", 2)
    end = rg.gradient_flow(pair.loss, pair.theta, 1.0, method="DOP853").theta
    gap = [np.linalg.norm(rg.train(pair.loss, pair.theta, rg.SGD(1 / n), n).theta - end) for n in (2000, 4000)]
    assert abs(gap[0] / gap[1] - 2) < 0.01  # the next order in lr, 1/2000, times a constant


@every_centered
@pytest.mark.parametrize("method", ["L-BFGS-B", "trust-exact"])
def test_scipys_optimizers_take_the_loss_as_it_stands(arch, method):
    star = point(arch, 3, seed=100)
    pair = Pair(arch, star + 0.1 * point(arch, 3), arch, star, 3)
    extra = {"hess": pair.loss.hessian} if method == "trust-exact" else {}
    tight = {"ftol": 0.0, "gtol": 1e-10, "maxiter": 5000} if method == "L-BFGS-B" else {"gtol": 1e-10}
    fit = scipy.optimize.minimize(pair.loss.value_and_grad, pair.theta, jac=True, method=method, options=tight, **extra)
    assert fit.fun < 1e-18 * float(exact.scale(arch, star, 3))


# --------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "make, error, message",
    [
        (
            lambda: rg.PopulationLoss("li", np.zeros(4)),
            TypeError,
            r"^teacher is array\(.*\), but must be a resgrad.Network$",
        ),
        (
            lambda: rg.OnlineLoss("resnet", rg.Network("li", np.zeros(4), 2)),
            ValueError,
            r"^teacher li has 1 output, but resnet has 2$",
        ),
        (lambda: rg.PopulationLoss("lii", rg.Network("li", np.zeros(4), 2)), ValueError, "did you mean 'li'"),
        (
            lambda: rg.OnlineLoss("li", rg.Network("li", np.zeros(4), 2), "int8"),
            ValueError,
            "^dtype is 'int8', but must be float32 or float64$",
        ),
        (
            lambda: rg.PopulationLoss("li", rg.Network("li", np.zeros(4), 2)).value(np.zeros(5)),
            ValueError,
            r"^theta has shape \(5,\), but li with d=2 needs \(4,\)",
        ),
        (
            lambda: rg.PopulationLoss("li", rg.Network("li", np.zeros(4), 2)).grad([0, 0, np.inf, 0]),
            ValueError,
            r"^theta holds inf at index \(2,\), but must be finite$",
        ),
        (
            lambda: rg.EmpiricalLoss("li", np.zeros((3, 2)), np.zeros((3, 2))),
            ValueError,
            r"^Y has shape \(3, 2\), but must have shape \(3,\)$",
        ),
        (
            lambda: rg.EmpiricalLoss("resnet", np.zeros((3, 2)), np.zeros(3)),
            ValueError,
            r"^Y has shape \(3,\), but must have shape \(3, 2\)$",
        ),
        (
            lambda: rg.EmpiricalLoss("li", np.zeros((0, 2)), np.zeros(0)),
            ValueError,
            r"^X has shape \(0, 2\), but must hold at least one sample",
        ),
        (lambda: rg.EmpiricalLoss("li", np.zeros((2, 2)), [0.0, np.nan]), ValueError, r"^Y holds nan at index \(1,\)"),
    ],
)
def test_a_loss_says_what_does_not_fit(make, error, message):
    with pytest.raises(error, match=message):
        make()


@every_centered
def test_a_batch_of_the_online_loss_is_a_sample_of_its_teacher(arch):
    loss = rg.OnlineLoss(arch, rg.Network(arch, point(arch, 3, seed=100), 3), np.float32)
    batch = loss.batch(7, 5)
    X, Y = rg.dataset(loss.teacher, 7, 5, np.float32)
    wanted = rg.EmpiricalLoss(arch, X, Y)
    assert np.array_equal(batch.rows, wanted.rows) and batch.dtype == np.float32
    theta = point(arch, 3)
    assert loss.value(theta) == rg.PopulationLoss(arch, loss.teacher).value(theta)
    assert np.array_equal(loss.grad(theta), loss.population.grad(theta))


def test_preactivations_are_the_inputs_of_the_relus():
    X, Y = samples("two-weight", 5, 3)
    theta = point("two-weight", 3, 2)
    wanted = [[u @ x for u, _ in naive.units("two-weight", theta, 3)[0]] for x in X]
    assert relative_error(rg.EmpiricalLoss("two-weight", X, Y).preactivations(theta), wanted) < GENERIC


@every_centered
def test_values_are_the_squared_errors_of_the_samples(arch):
    X, Y = samples(arch, 5, 3)
    theta = point(arch, 3)
    loss = rg.EmpiricalLoss(arch, X, Y)
    wanted = [naive.loss_and_gradient(arch, theta, x[None], y[None])[0] for x, y in zip(X, Y)]
    assert relative_error(loss.values(theta), wanted) < GENERIC
    assert relative_error(loss.values(theta).mean(), loss.value(theta)) < GENERIC


@pytest.mark.parametrize("arch", ["modresnet", "leaky"])
def test_plain_and_precise_summation_agree_where_both_are_accurate(arch):
    pair = Pair.generic(arch, arch, 5)
    Z, Q, D = pair.loss._residual_network(pair.theta)
    z, q, linear, slopes = Z[..., 0].copy(), Q[..., 0].copy(), D[..., 0].copy(), pair.arch.slopes
    plain, noise = kernels.population_value_plain(z, q, linear, slopes)
    assert abs(plain / kernels.population_value(Z, Q, D, slopes) - 1) < GENERIC
    small = kernels.population_value_plain(z, q * 2.0**-40, linear * 2.0**-40, slopes)
    assert small == (plain * 2.0**-80, noise * 2.0**-80)  # nothing there has a scale of its own


def test_plain_summation_is_never_negative_either(monkeypatch):
    """Networks of more than 512 units know no other."""
    monkeypatch.setattr(rg.PopulationLoss, "widest", 5)
    for seed in range(20):
        pair = Pair.generic("vanilla", "vanilla", 3, seed=seed)
        star = pair.teacher.theta
        assert 0 <= pair.loss.value(star) < 1e-14 * float(exact.scale(*pair.names[2:]))


@every_centered
@pytest.mark.parametrize("size", [2.0**-52, -(2.0**-52), 3.7e-10, -0.7])
def test_in_one_dimension_the_hessian_does_not_depend_on_how_small_a_unit_is(arch, size):
    """Units there are parallel or antiparallel: sin phi = 0, and W1 enters the gradient linearly."""
    record = rg.ARCHITECTURES[arch]
    teacher = rg.Network(arch, point(arch, 1, 1, seed=1), 1)
    one = np.ones((1, 1))
    loss = rg.PopulationLoss(arch, teacher)
    small, one = (loss.hessian(of_units(record, u * one, one, one))[0, 0] for u in (size, np.copysign(1.0, size)))
    assert abs(small - one) < 1e-14 * abs(one)
