"""Networks with biases: Owen's T, the exact loss, gradient and Hessian, held against fifty digits.

The oracle conditions on the first pre-activation, so that every expectation over two units is an integral over one
variable, of functions that know neither Owen's T nor (B1)-(B5).
"""

import functools
import itertools

import mpmath
import numpy as np
import pytest
from conftest import slow
from mpmath import mpf

import resgrad as rg
from resgrad.kernels import biased, population_gradient, population_hessian, population_value_plain

mpmath.mp.dps = 50
EPS = np.finfo(float).eps
TERM = 1e-13  # of the largest term of a sum: terms good to a few EPS, times |h k| of what they are differences of
CENTERED = 1e-14  # of the scale: the same formulas, summed in another order
NORMAL = 1e-15  # two integrals of Owen's, each good to 3e-16, and two distribution functions
DIGITS = 1e-10  # of the loss near a teacher, of which eight digits are promised
PROMISED = 1e-8
NOTHING = np.zeros((4, 0)), np.zeros((0, 1)), np.zeros((4, 1))  # a teacher of no units, and no linear part
REACH = 12  # the normal density is 1e-32 there
STEP = mpf(10) ** -10  # of a difference quotient: its error is STEP^2, that of the quadrature 1e-31 / STEP


# ------------------------------------------------------------------------------------ the oracle


@functools.cache
def rule(size=20):
    """Nodes and weights of Gauss and Legendre on [-1, 1], to fifty digits."""
    guess, nodes = np.polynomial.legendre.leggauss(size)[0], []
    for x in guess:
        x = mpf(float(x))
        for _ in range(4):  # Newton: 14, 28, 56 digits
            p, before = mpmath.legendre(size, x), mpmath.legendre(size - 1, x)
            slope = size * (before - x * p) / (1 - x * x)
            x -= p / slope
        before = mpmath.legendre(size - 1, x)
        nodes.append((x, 2 * (1 - x * x) / (size * before) ** 2))
    return nodes


def density(x):
    return mpmath.npdf(x)


def below(x):
    return mpmath.ncdf(x)


def integrate(functions, points):
    """Integrals of all entries of ``functions(x)`` over [points[0], points[-1]], panel by panel."""
    total = None
    for low, high in itertools.pairwise(points):
        half, middle = (high - low) / 2, (high + low) / 2
        for node, weight in rule():
            values = [half * weight * value for value in functions(middle + half * node)]
            total = values if total is None else [a + b for a, b in zip(total, values)]
    return total


@functools.cache
def moments(h, k, rho, q):
    """E[1 1' z], E[1 1' z z'] and E[1 relu'], E[relu relu'] for X + h, rho X + q Y + k and z in (X, Y).

    In the order E[relu relu'], E[1 relu' X], E[1 relu' Y], E[1 relu'], E[1 1' X X], E[1 1' X Y], E[1 1' Y Y],
    E[1 1' X], E[1 1' Y], E[1 1'].
    """

    def inner(X):
        mu, active = k + rho * X, density(X)
        if q:
            P, p = below(mu / q), density(mu / q)
            relu, relu_Y, Y, YY = mu * P + q * p, q * P, p, P - mu / q * p
        else:
            P = mpf(mu > 0)
            relu, relu_Y, Y, YY = mu * P, 0, 0, P
        values = (X + h) * relu, relu * X, relu_Y, relu, P * X * X, X * Y, YY, P * X, Y, P
        return [active * value for value in values]

    low = max(-h, mpf(-REACH))
    if low >= REACH:
        return [mpf(0)] * 10
    points = {low, mpf(REACH)} | {mpf(x) for x in range(-REACH, REACH, 2) if x > low}
    if rho:
        turn = -k / rho
        points |= {x for n in range(-REACH, REACH + 1, 2) if low < (x := turn + n * q / abs(rho)) < REACH}
    return integrate(inner, sorted(points))


def dot(u, v):
    return mpmath.fsum(a * b for a, b in zip(u, v))


class Two:
    """Two units (w, b) and (v, c), lists of d + 1 numbers each, and every expectation over them."""

    def __init__(self, first, second):
        (*w, b), (*v, c) = first, second
        self.s, self.t = mpmath.sqrt(dot(w, w)), mpmath.sqrt(dot(v, v))
        self.w, v = [x / self.s for x in w], [x / self.t for x in v]
        rho = dot(self.w, v)
        across = [x - rho * y for x, y in zip(v, self.w)]
        q = mpmath.sqrt(dot(across, across))
        if q < mpf(10) ** -40:  # what fifty digits make of 0
            q, rho = mpf(0), mpmath.sign(rho)
        self.m = [x / q if q else mpf(0) for x in across]
        self.values = moments(b / self.s, c / self.t, rho, q)

    def product(self):
        """E[relu relu']."""
        return self.s * self.t * self.values[0]

    def slope(self):
        """E[1 relu' x~]."""
        _, X, Y, one, *_ = self.values
        return [self.t * (X * a + Y * b) for a, b in zip(self.w, self.m)] + [self.t * one]

    def both(self):
        """E[1 1' x~ x~']."""
        XX, XY, YY, X, Y, one = self.values[4:]
        d = len(self.w)
        rows = [
            [
                one * (i == j)
                + (XX - one) * self.w[i] * self.w[j]
                + (YY - one) * self.m[i] * self.m[j]
                + XY * (self.w[i] * self.m[j] + self.m[i] * self.w[j])
                for j in range(d)
            ]
            for i in range(d)
        ]
        mean = [X * a + Y * b for a, b in zip(self.w, self.m)]
        return [row + [x] for row, x in zip(rows, mean)] + [[*mean, one]]


@functools.cache
def two(first, second):
    return Two(first, second)


def exactly(array):
    """The rows of an array as tuples of mpf."""
    return [tuple(x if isinstance(x, mpf) else mpf(float(x)) for x in row) for row in array]


def loss_terms(U, A, U_star, A_star, D):
    """The terms of the expected squared error of the relu network student - teacher; U and D end in the bias row."""
    Z, Q = exactly(U.T) + exactly(U_star.T), exactly(np.vstack([A, -A_star]))
    columns = exactly(D.T)
    terms = [dot(column, column) for column in columns]
    for z, q in zip(Z, Q):
        for o, column in enumerate(columns):  # E[relu (g.x + e)] = g.w P(h) + e E[relu]
            *g, e = column
            s = mpmath.sqrt(dot(z[:-1], z[:-1]))
            h = z[-1] / s
            mean = s * (h * below(h) + density(h))
            terms += [2 * q[o] * dot(g, z[:-1]) * below(h), 2 * q[o] * e * mean]
        terms += [dot(q, r) * two(z, y).product() for y, r in zip(Z, Q)]
    return terms


def gradient_terms(U, A, U_star, A_star, D):
    """For every entry of (U, A, C) its terms, each row-major."""
    Z, Q = exactly(U.T) + exactly(U_star.T), exactly(np.vstack([A, -A_star]))
    k, rows, m = A.shape[0], *D.shape
    linear = exactly(D)
    dU = [[[] for _ in range(k)] for _ in range(rows)]
    dA, dC = [[[] for _ in range(m)] for _ in range(k)], [[[2 * x] for x in row] for row in linear]
    first = []
    for z, q in zip(Z, Q):
        s = mpmath.sqrt(dot(z[:-1], z[:-1]))
        h = z[-1] / s
        first.append([below(h) * x for x in z[:-1]] + [s * (h * below(h) + density(h))])
        for i, o in itertools.product(range(rows), range(m)):
            dC[i][o].append(2 * first[-1][i] * q[o])
    for j in range(k):
        u, a = Z[j], Q[j]
        s = mpmath.sqrt(dot(u[:-1], u[:-1]))
        w, h = [x / s for x in u[:-1]], u[-1] / s
        for o in range(m):
            column = [row[o] for row in linear]
            dA[j][o].append(2 * dot(first[j], column))
            along = dot(w, column)
            for i in range(rows - 1):
                dU[i][j] += [2 * a[o] * below(h) * column[i], 2 * a[o] * density(h) * (column[-1] - h * along) * w[i]]
            dU[-1][j] += [2 * a[o] * density(h) * along, 2 * a[o] * below(h) * column[-1]]
        for z, q in zip(Z, Q):
            pair = two(u, z)
            slope = pair.slope()
            for i in range(rows):
                dU[i][j].append(2 * dot(a, q) * slope[i])
            for o in range(m):
                dA[j][o].append(2 * pair.product() * q[o])
    return [entry for block in (dU, dA, dC) for row in block for entry in row]


def gradient(*network):
    return [mpmath.fsum(terms) for terms in gradient_terms(*network)]


def hessian(U, A, U_star, A_star, D):
    """Central differences of the exact gradient."""
    blocks = [np.array(exactly(block), object) for block in (U, A, D)]
    columns = []
    for block in blocks:
        for index in np.ndindex(block.shape):
            kept, sides = block[index], []
            for sign in (1, -1):
                block[index] = kept + sign * STEP
                sides.append(gradient(blocks[0], blocks[1], U_star, A_star, blocks[2]))
            block[index] = kept
            columns.append([float((plus - minus) / (2 * STEP)) for plus, minus in zip(*sides)])
    return np.array(columns)


# ------------------------------------------------------------------------------------ two normal variables

SIZES = [0.0, 1e-12, 0.3, -1.7, 3.0, -6.0, 12.0, -25.0, 40.0, -40.0]
ANGLES = [0.0, 1e-12, 1e-8, 1e-4, 0.3, 1.0, np.pi / 2, 2.0, 2.8, np.pi - 1e-4, np.pi - 1e-8, np.pi]


def bivariate(h, k, rho):
    """P[X < h, Y < k] of two standard normal variables of correlation rho, as the expectations of pairs have it."""
    h, k = np.clip([h, k], -biased.FAR, biased.FAR)
    minus, plus = np.sqrt(2 * (1 - rho)), np.sqrt(2 * (1 + rho))
    return biased._both(h, k, minus, plus, *biased._conditional(h, k, minus, plus)[1:])


def chosen(count, seed):
    """(angle, h, k), among them k = h, -h, and a little off."""
    rng, cases = np.random.default_rng(seed), []
    for _ in range(count):
        h, near = rng.choice(SIZES), rng.choice([0.0, 1e-12, 1e-8, -1e-8, 1e-4])
        k = rng.choice([rng.choice(SIZES), h + near, -h + near, h * (1 + near), rng.normal()])
        cases.append((float(rng.choice(ANGLES)), float(h), float(k)))
    return cases


def orthant(h, k, rho):
    """P[X < h, Y < k] to fifty digits."""
    h, k, rho = mpf(h), mpf(k), mpf(rho)
    q = mpmath.sqrt((1 - rho) * (1 + rho))
    return moments(h, k, rho, q)[-1]


@pytest.mark.parametrize("h, k", [(0.0, 0.0), (0.3, -1.7), (3.0, 3.0), (-6.0, 5.0), (40.0, -0.5), (0.0, -2.0)])
def test_two_normal_variables_to_the_last_digits(h, k):
    for rho in (-1.0, -0.999999, -0.6, 0.0, 1e-9, 0.5, 1 - 1e-12, 1.0):
        assert abs(bivariate(h, k, rho) - orthant(h, k, rho)) < NORMAL


@pytest.mark.parametrize("size", [5e-324, 1e-310, 1e-200, -5e-324])
def test_two_units_with_hardly_a_bias_have_none(size):
    """1e-310 and its like are what is left of biases that training makes 0: differences of them are no numbers."""
    for angle in ANGLES:
        w, v = placed(angle, 0.0, 0.0)
        none = biased.biased_hessian(np.column_stack([w, v]), np.ones((2, 1)), *NOTHING)
        w[-1], v[-1] = size, size / 2
        some = biased.biased_hessian(np.column_stack([w, v]), np.ones((2, 1)), *NOTHING)
        assert np.max(np.abs(some - none)) < NORMAL * np.max(np.abs(none))


def test_two_normal_variables_at_the_ends():
    for h, k in itertools.product(SIZES, SIZES):
        assert abs(bivariate(h, k, 1.0) - biased.below(min(h, k))) < NORMAL
        assert abs(bivariate(h, k, -1.0) - max(0.0, biased.below(h) - biased.below(-k))) < NORMAL
        assert abs(bivariate(h, k, 0.0) - biased.below(h) * biased.below(k)) < NORMAL
        for rho in (-0.9, 0.3):
            assert abs(bivariate(h, k, rho) - bivariate(k, h, rho)) < NORMAL
            apart = bivariate(h, k, rho) + bivariate(-h, k, -rho)
            assert abs(apart - biased.below(k)) < NORMAL


# ------------------------------------------------------------------------------------ two units


def placed(angle, h, k):
    """Two units in three dimensions at this angle; lengths 1.4 and 0.9, biases h and k times them."""
    rng = np.random.default_rng(3)
    w, across = rng.standard_normal((2, 3))
    across -= w * (w @ across) / (w @ w)
    across *= np.linalg.norm(w) / np.linalg.norm(across)
    v = {0.0: w, np.pi: -w}.get(angle, np.cos(angle) * w + np.sin(angle) * across)
    w, v = 1.4 * w / np.linalg.norm(w), 0.9 * v / np.linalg.norm(v)
    if angle in (0.0, np.pi):
        v = w * (0.5 if angle == 0.0 else -0.5)
    return np.append(w, h * np.linalg.norm(w)), np.append(v, k * np.linalg.norm(v))


def hold_two(angle, h, k):
    """The expectations over two units, through networks in which nothing else is left."""
    w, v = placed(angle, h, k)
    pair = Two(exactly([w])[0], exactly([v])[0])
    units, read_out = np.column_stack([w, v]), np.array([[1.0, 0.0], [0.0, 1.0]])
    nothing, none = np.zeros((4, 0)), np.zeros((0, 2))
    one = units, np.array([[1.0], [1.0]]), nothing, np.zeros((0, 1)), np.zeros((4, 1))
    size_w, size_v = (np.linalg.norm(u[:3]) * (1 + abs(x)) for u, x in ((w, h), (v, k)))
    H = biased.biased_hessian(units, read_out, nothing, none, np.zeros((4, 2)))
    at_A = units.size
    assert abs(H[at_A, at_A + 2] / 2 - pair.product()) < TERM * size_w * size_v
    assert abs(H[at_A + 1, at_A + 3] - H[at_A, at_A + 2]) == 0
    H = biased.biased_hessian(*one)
    slope, both = H[:at_A:2, at_A + 1] / 2, H[:at_A:2, 1:at_A:2] / 2
    assert max(abs(a - b) for a, b in zip(slope, pair.slope())) < TERM * size_v
    wanted = np.array(pair.both(), object)
    assert np.max(np.abs(both - wanted)) < TERM


@pytest.mark.parametrize("angle, h, k", chosen(25, seed=0))
def test_two_units(angle, h, k):
    hold_two(angle, h, k)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 21))
def test_two_units_anywhere(seed):
    for angle, h, k in chosen(40, seed):
        hold_two(angle, h, k)


# ------------------------------------------------------------------------------------ networks


def network(d, k, k_star, m, seed=0, size=1.0):
    """(U, A, U_star, A_star, D) at a generic point, biases of about ``size`` times the units."""
    rng = np.random.default_rng([seed, d, k, m])
    U, U_star, D = (rng.standard_normal((d + 1, n)) for n in (k, k_star, m))
    for block in (U, U_star, D):
        block[-1] *= size
    return U, rng.standard_normal((k, m)), U_star, rng.standard_normal((k_star, m)), D


def degenerate(d=3, seed=0):
    """A student that holds units parallel and antiparallel to each other and to the teacher's, at h from 0 to 40."""
    U, A, U_star, A_star, D = network(d, 5, 3, 2, seed)
    U[:, 1] = 0.7 * U[:, 0]
    U[:, 2] = -U_star[:, 0] + 1e-9
    U[:-1, 3] = U_star[:-1, 1]
    U[-1, 3], U_star[-1, 2] = U_star[-1, 1] + 0.1, 40.0
    U[-1, 4] = 0.0
    return U, A, U_star, A_star, D


SHAPES = [(2, 2, 1, 1), (3, 1, 2, 2), (1, 2, 2, 1)]
NETWORKS = [network(*shape) for shape in SHAPES] + [network(2, 2, 1, 1, size=8.0), degenerate(2)]
quick = [*NETWORKS[1:4], *(pytest.param(case, marks=pytest.mark.slow) for case in (NETWORKS[0], NETWORKS[4]))]


@pytest.mark.parametrize("case", quick)
def test_loss_and_gradient_to_the_last_digits(case):
    terms = loss_terms(*case)
    assert abs(biased.biased_value(*case) - mpmath.fsum(terms)) < TERM * max(map(abs, terms))
    got = np.concatenate([block.ravel() for block in biased.biased_gradient(*case)])
    for entry, terms in zip(got, gradient_terms(*case)):
        assert abs(entry - mpmath.fsum(terms)) < TERM * max(map(abs, terms))


@pytest.mark.parametrize(
    "case", [network(1, 1, 1, 2), *(pytest.param(NETWORKS[n], marks=pytest.mark.slow) for n in (1, 2))]
)
def test_hessian_to_the_last_digits(case):
    wanted = hessian(*case)
    assert np.max(np.abs(biased.biased_hessian(*case) - wanted)) < TERM * np.max(np.abs(wanted))


SINGULAR = [NETWORKS[4], degenerate(5)]


@pytest.mark.parametrize("case", [*NETWORKS[:4], *SINGULAR, network(6, 9, 4, 3)], ids=lambda case: str(case[0].shape))
@pytest.mark.parametrize("slopes", [(1.0, 0.0), (0.5, -0.5), (1.0, 0.1)])
def test_hessian_is_how_the_gradient_changes(case, slopes):
    """Differences of step 1e-5 of a gradient that is right to 1e-15 of its terms."""
    U, A, U_star, A_star, D = case
    point = np.concatenate([block.ravel() for block in (U, A, D)])

    def slope(theta):
        cuts = np.split(theta, [U.size, U.size + A.size])
        student = [cut.reshape(block.shape) for cut, block in zip(cuts, (U, A, D))]
        blocks = biased.biased_gradient(student[0], student[1], U_star, A_star, student[2], slopes)
        return np.concatenate([block.ravel() for block in blocks])

    H, h = biased.biased_hessian(*case, slopes), 1e-5
    assert np.array_equal(H, H.T)
    along = np.random.default_rng(0).standard_normal((4, point.size))
    if any(case is singular for singular in SINGULAR):
        along[:, : U.size] = 0  # units within a step of each other: only the read-out and the linear part move
    for way in along:
        change = (slope(point + h * way) - slope(point - h * way)) / (2 * h)
        assert np.max(np.abs(change - H @ way)) < 1e-8 * np.max(np.abs(H))


@pytest.mark.parametrize("d, k, k_star, m", [(3, 3, 3, 1), (5, 4, 2, 5), (1, 2, 3, 1), (10, 10, 10, 10)])
@pytest.mark.parametrize("slopes", [(1.0, 0.0), (0.5, -0.5), (1.0, 0.1)])
def test_without_biases_it_is_the_other_kernel(d, k, k_star, m, slopes):
    U, A, U_star, A_star, D = case = network(d, k, k_star, m, size=0.0)
    U[:-1, 0] = -2 * U_star[:-1, 0]
    if slopes == (1.0, 0.0):
        U[:-1, -1] = 0.0  # a dead unit
    C = np.random.default_rng(1).standard_normal((d, m))
    inner = U[:-1].copy(), A, C, U_star[:-1].copy(), A_star, D[:-1] - C, slopes
    gradient = tuple(map(np.empty_like, inner[:3]))
    population_gradient(*inner, *gradient)
    dU, dA, dC = biased.biased_gradient(*case, slopes)
    for got, wanted in zip((dU[:-1], dA, dC[:-1]), gradient):
        assert np.max(np.abs(got - wanted)) < CENTERED * np.max(np.abs(wanted))
    wanted = population_hessian(*inner)
    at_A, at_C = U.size, U.size + A.size
    index = np.r_[: d * k, at_A:at_C, at_C : at_C + d * m]
    H = biased.biased_hessian(*case, slopes)[np.ix_(index, index)]
    assert np.max(np.abs(H - wanted)) < CENTERED * np.max(np.abs(wanted))
    Z, Q = np.hstack([U[:-1], U_star[:-1]]).T.copy(), np.vstack([A, -A_star])
    value, _ = population_value_plain(Z, Q, D[:-1].copy(), slopes)
    scale, _ = population_value_plain(Z, np.abs(Q), np.abs(D[:-1]), (1.0, 0.0))
    assert abs(biased.biased_value(*case, slopes) - value) < CENTERED * scale


@pytest.mark.parametrize("slopes", [(0.5, -0.5), (1.0, 0.1), (0.3, 2.0)])
def test_another_activation_is_a_relu_network_of_twice_the_width(slopes):
    """s(z) = p relu(z) - n relu(-z)."""
    p, n = slopes
    U, A, U_star, A_star, D = case = network(3, 3, 2, 2)
    twice = (
        np.hstack([U, -U]),
        np.vstack([p * A, -n * A]),
        np.hstack([U_star, -U_star]),
        np.vstack([p * A_star, -n * A_star]),
        D,
    )
    assert abs(biased.biased_value(*case, slopes) / biased.biased_value(*twice) - 1) < TERM
    dU, dA, dC = biased.biased_gradient(*twice)
    for got, wanted in zip(biased.biased_gradient(*case, slopes), (dU[:, :3] - dU[:, 3:], p * dA[:3] - n * dA[3:], dC)):
        assert np.max(np.abs(got - wanted)) < TERM * np.max(np.abs(wanted))
    chain = np.zeros((2 * (U.size + A.size) + D.size, U.size + A.size + D.size))
    eye = np.eye(3)
    chain[: 2 * U.size, : U.size] = np.kron(np.eye(4), np.vstack([eye, -eye]))
    chain[2 * U.size : -D.size, U.size : -D.size] = np.kron(np.vstack([p * eye, -n * eye]), np.eye(2))
    chain[-D.size :, -D.size :] = np.eye(D.size)
    wanted = chain.T @ biased.biased_hessian(*twice) @ chain
    assert np.max(np.abs(biased.biased_hessian(*case, slopes) - wanted)) < TERM * np.max(np.abs(wanted))


@pytest.mark.parametrize("case", [degenerate(2), degenerate(5), degenerate(1)], ids=["2", "5", "1"])
def test_where_units_are_parallel_the_hessian_takes_its_limit(case):
    """It is continuous there, with slopes of a few times its size."""
    there, rng = biased.biased_hessian(*case), np.random.default_rng(0)
    for size in (1e-7, 1e-9, 1e-12, 1e-15):
        near = biased.biased_hessian(case[0] + size * rng.standard_normal(case[0].shape), *case[1:])
        assert np.max(np.abs(near - there)) < (1e3 * size + TERM) * np.max(np.abs(there))


def test_rescaling_a_unit_with_its_bias_changes_nothing():
    """u.dL/du + b dL/db = a.dL/da for every unit."""
    for case in NETWORKS:
        dU, dA, _ = biased.biased_gradient(*case)
        gap = np.sum(case[0] * dU, axis=0) - np.sum(case[1] * dA, axis=1)
        assert np.max(np.abs(gap)) < TERM * max(np.max(np.abs(case[0] * dU)), np.max(np.abs(case[1] * dA)))


def test_samples_agree():
    U, A, U_star, A_star, D = case = network(3, 2, 2, 1)
    X = np.random.default_rng(0).standard_normal((400_000, 4))
    X[:, -1] = 1.0  # a bias is the weight of an input that is always 1
    values = np.square(np.maximum(X @ U, 0) @ A - np.maximum(X @ U_star, 0) @ A_star + X @ D)[:, 0]
    assert abs(values.mean() - biased.biased_value(*case)) < 5 * values.std() / np.sqrt(len(X))


def test_units_without_weights():
    """relu(b) where there is a bias, and by relu'(0) = 0 nothing at all where there is none."""
    U, A, U_star, A_star, D = network(3, 3, 2, 1)
    U[:-1] = 0.0
    U[-1] = 2.0, -1.0, 0.0
    constant = D.copy()
    constant[-1] += 2.0 * A[0]
    nothing = np.zeros((4, 0)), np.zeros((0, 1))
    wanted = biased.biased_value(*nothing, U_star, A_star, constant)
    assert abs(biased.biased_value(U, A, U_star, A_star, D) / wanted - 1) < TERM
    (dU, dA, dC), H = (f(U, A, U_star, A_star, D) for f in (biased.biased_gradient, biased.biased_hessian))
    assert np.all(dU[:, 1:] == 0) and np.all(dA[1:] == 0) and np.all(dU[:, 0] != 0)
    assert np.allclose(dU[:, 0], A[0, 0] * dC[:, 0], rtol=TERM, atol=0)  # the unit is linear there
    index = np.arange(4) * 3
    assert not H[index + 1].any() and not H[index + 2].any() and np.isfinite(H).all()
    small = U.copy()
    small[:-1, 0] = 1e-200
    assert abs(biased.biased_value(small, A, U_star, A_star, D) / wanted - 1) < TERM
    assert np.max(np.abs(biased.biased_hessian(small, A, U_star, A_star, D) - H)) < TERM * np.max(np.abs(H))


@pytest.mark.parametrize("size", [0.02, 1e-3, 1e-4, 1e-7, 1e-200, 0.0])
def test_a_unit_far_from_its_kink_is_linear_to_the_others(size):
    """relu(w.x + b) is w.x + b where b is many |w|: the others have the derivatives that they have with it in C."""
    U, A, U_star, A_star, D = network(3, 3, 2, 2)
    U[:-1, 0], U[-1, 0] = size * np.array([0.6, 0.0, -0.8]), 1.7
    others, linear = slice(1, None), D + np.outer(U[:, 0], A[0])
    every, rest = (U, A, U_star, A_star, D), (U[:, others].copy(), A[others].copy(), U_star, A_star, linear)
    assert biased.biased_value(*every) == pytest.approx(biased.biased_value(*rest), rel=TERM)
    (dU, dA, dC), wanted = biased.biased_gradient(*every), biased.biased_gradient(*rest)
    for found, one in zip((dU[:, others], dA[others], dC), wanted):
        assert np.max(np.abs(found - one)) < TERM * np.max(np.abs(one))
    kept = np.concatenate([np.arange(12).reshape(4, 3)[:, others].ravel(), 12 + np.arange(2, 6), 18 + np.arange(8)])
    found, one = biased.biased_hessian(*every)[np.ix_(kept, kept)], biased.biased_hessian(*rest)
    assert np.max(np.abs(found - one)) < TERM * np.max(np.abs(one))


@pytest.mark.parametrize("rho", [-0.6, -0.1, 0.0, 0.3, 0.9])
@pytest.mark.parametrize("h, k", [(-7.3, 0.2), (-7.3, 2.5), (-5.0, -0.4), (-6.0, 1e-9), (-3.0, 3.0)])
def test_a_small_probability_keeps_its_digits(h, k, rho):
    """To 1e-12 of the smaller marginal, not of 1: a gradient of 1e-11 is a sum of such, and would jump by more."""
    with mpmath.workdps(40):
        h_, k_, r = map(mpmath.mpf, (h, k, rho))
        q = mpmath.sqrt(1 - r * r)
        points = [h_ - 30, h_ - 8, h_ - 2, h_ - 0.5, h_]
        wanted = mpmath.quad(lambda x: mpmath.npdf(x) * mpmath.ncdf((k_ - r * x) / q), points)
        least = float(mpmath.ncdf(min(h_, k_)))
    assert abs(bivariate(h, k, rho) - float(wanted)) < 10 * TERM * least


# ------------------------------------------------------------------------------------ near a teacher


@pytest.mark.parametrize("slopes", [(1.0, 0.0), (0.5, -0.5)])
@pytest.mark.parametrize("size", [1e-1, 1e-7, *slow(1e-3, 1e-10)])
def test_loss_and_gradient_near_a_teacher_keep_their_digits(size, slopes):
    (p, n), rng = slopes, np.random.default_rng(1)
    U, A, _, _, C = network(2, 1 if n else 2, 1, 1, seed=5)
    step = [size * rng.standard_normal(block.shape) for block in (U, A, C)]
    loss, *slope = biased.biased_near(U, A, C, step, slopes)
    U, A, dU, dA, dC = (np.array(exactly(block), object) for block in (U, A, *step))
    twice = [np.hstack([u, -u]) for u in (U + dU, U)] if n else [U + dU, U]
    read_out = [np.vstack([p * a, -n * a]) for a in (A + dA, A)] if n else [A + dA, A]
    case = twice[0], read_out[0], twice[1], read_out[1], dC
    wanted = mpmath.fsum(loss_terms(*case))
    assert abs(loss / wanted - 1) < DIGITS
    got, wanted = slope[2].ravel(), gradient(*case)[-dC.size :]
    assert max(abs(a - b) for a, b in zip(got, wanted)) < DIGITS * max(map(abs, wanted))
    if not n:
        got, wanted = np.concatenate([block.ravel() for block in slope]), gradient(*case)
        assert max(abs(a - b) for a, b in zip(got, wanted)) < DIGITS * max(map(abs, wanted))


def uneven(what):
    """(U, A, step): a path from a teacher on which the Hessian is anything but even."""
    way = np.array([[-0.6, 0.7], [0.6, -0.7], [-1.8, 1.8]])
    if what == "nearly parallel":
        return np.array([[1.0, 1.0], [0.0, 1e-5], [0.5, 0.500003]]), np.ones((2, 1)), 1e-5 * way
    if what == "weak":
        return np.array([[1.0, 1e-4], [-0.3, 1e-4], [0.2, -5e-5]]), np.ones((2, 1)), [1e-9, 2e-5] * way
    return np.array([[0.6], [0.8], [-7.0]]), np.ones((1, 1)), 0.1 * way[:, :1]


@pytest.mark.parametrize("what", ["nearly parallel", "weak", "nearly dead"])
def test_the_loss_keeps_its_digits_on_an_uneven_path(what):
    U, A, step = uneven(what)
    d, k = len(U) - 1, len(A)
    arch = rg.Architecture("biased", "1' relu(W1' x + b)", "tests", 0, 0, "fixed", bias=True)
    star = rg.Network(arch, U.ravel(), d)
    got = rg.PopulationLoss(arch, star).value(theta := (U + step).ravel())
    wanted = mpmath.fsum(loss_terms(theta.reshape(d + 1, k), A, U, A, np.zeros((d + 1, 1))))
    assert abs(got / wanted - 1) < PROMISED
