"""Proofs about critical points: the enclosures against fifty digits, theorems known otherwise, and planted lies."""

import dataclasses
import math

import mpmath
import numpy as np
import pytest
from conftest import RECORDS, slow
from mpmath import mpf

import resgrad as rg
from resgrad.minima import balls, proofs

flint = pytest.importorskip("flint")
NAMES = [name for name, arch in RECORDS.items() if not arch.bias]
every_name = pytest.mark.parametrize("name", NAMES)


def task(name, d, width=None, kind="normal", seed=0):
    """(loss, theta*) of a teacher of the student's own kind."""
    arch = RECORDS[name]
    theta_star = rg.draw(arch, kind, d, width, rng=seed)
    if arch.trains_skip:  # a draw has the plain skip
        theta_star[-d * arch.outputs(d) :] += np.random.default_rng(seed).standard_normal(d * arch.outputs(d))
    return rg.PopulationLoss(arch, rg.Network(arch, theta_star, d)), theta_star


def image(name, theta, d, rng):
    """Another point of theta's orbit."""
    arch, k = RECORDS[name], RECORDS[name].width(theta.size, d)
    scales = None if arch.readout == "fixed" else np.exp(rng.uniform(-0.5, 0.5, k))
    return rg.transform(arch, theta, d, rng.permutation(k), scales)


# ------------------------------------------------------------------------ fifty digits, from another formula


def network(arch, theta, d):
    """([(u_j, a_j)], C, slopes) in mpf."""
    W1, W2, C, _ = arch.unflatten(theta, d)
    units = []
    for j in range(W1.shape[1]):
        u = [mpf(1) * W1[i, j] + mpf(arch.identity) * (i == j) for i in range(d)]
        rows = [mpf(1)] if W2 is None else [mpf(1) * w for w in W2[j]]
        units.append((u, [mpmath.fsum(rows)] if arch.readout == "sum" else rows))
    C = arch.skip_map(d) if C is None else C
    return units, [[mpf(1) * e for e in row] for row in C], arch.slopes


def exact_loss(arch, theta, teacher):
    """E|F - F*|^2 with E[s(u'x) t(v'x)] from the four half-spaces, each slope at its own."""
    units, C, (p, n) = network(arch, theta, teacher.d)
    stars, C_star, (p_star, n_star) = network(teacher.arch, teacher.theta, teacher.d)
    terms = [(u, a, p, n) for u, a in units] + [(u, [-e for e in a], p_star, n_star) for u, a in stars]
    D = [[e - f for e, f in zip(row, star)] for row, star in zip(C, C_star)]
    total = mpmath.fsum(e * e for row in D for e in row)
    for i, (u, a, p, n) in enumerate(terms):
        total += mpf(p + n) * mpmath.fsum(z * e * q for z, row in zip(u, D) for e, q in zip(row, a))
        for v, b, q, o in terms[: i + 1]:
            length = mpmath.norm(u) * mpmath.norm(v)
            c = min(mpf(1), max(mpf(-1), mpmath.fdot(u, v) / length))
            R, R_minus = ((mpmath.sqrt(1 - x * x) + mpmath.acos(-x) * x) / (2 * mpmath.pi) for x in (c, -c))
            both = length * ((mpf(p) * q + mpf(n) * o) * R - (mpf(p) * o + mpf(n) * q) * R_minus)
            total += mpmath.fdot(a, b) * both * (1 if v is u else 2)
    return total


def coordinates(arch, d, k):
    """Columns that lead from x to theta, up to the unseen part of W2."""
    shapes, columns = arch.shapes(d, k), []
    size = sum(math.prod(shape) for shape in shapes.values())
    place = np.arange(size)
    W1, W2, C, _ = arch.unflatten(place, d)
    for group in (W1.T[:, :, None], [] if W2 is None else W2[:, None] if arch.readout == "sum" else W2[:, :, None]):
        for entry in [entry for unit in group for entry in unit]:
            columns.append(np.isin(place, entry) / math.sqrt(len(entry)))
    return np.array(columns + ([] if C is None else list(np.eye(size)[C.ravel()])))


def ball(value, radius=0.0):
    return flint.arb(mpmath.nstr(value, 50), radius)


@every_name
@pytest.mark.parametrize(
    "where, radius",
    [
        *(("generic", 0.0), ("teacher", 1e-3), ("parallel", 1e-3)),
        *slow(*(("generic", r) for r in (1e-9, 1e-3)), *((w, r) for w in ("teacher", "parallel") for r in (0.0, 1e-9))),
    ],
)
def test_the_enclosures_hold_what_they_enclose(name, radius, where):
    """At the teacher its units and the student's can be parallel in the box.  Teachers may have other slopes."""
    arch, d, rng = RECORDS[name], 2, np.random.default_rng(1)
    loss, theta = task(name, d)
    if where == "parallel":  # within 1e-4: two of the student's units
        W1 = arch.unflatten(theta, d).W1
        W1[:, 1] = W1[:, 0] + arch.identity * np.array([1, -1]) + 1e-4 * rng.standard_normal(d)
    if where == "generic":
        theta = theta + 0.3 * rng.standard_normal(theta.size)
        if arch.readout != "vector":
            loss = rg.PopulationLoss(arch, rg.Network("even", rg.draw("even", "normal", d, 3, rng=2), d))
    columns = coordinates(arch, d, 2)
    with mpmath.workdps(50), balls.precision():
        box = balls.Box(balls.Numbers.of(loss, theta), radius)
        moves = [mpf(radius) * mpf(t) for t in rng.uniform(-1, 1, len(columns))]
        basis = [[mpf(bool(e)) / mpmath.sqrt(np.count_nonzero(column)) for e in column] for column in columns]
        center = [mpf(t) for t in theta.tolist()]

        def value(x):
            moved = [t + mpmath.fsum(m * column[i] for m, column in zip(x, basis)) for i, t in enumerate(center)]
            return exact_loss(arch, np.array(moved, dtype=object), loss.teacher)

        def along(i, h, x=moves):
            return [e + h * (o == i) for o, e in enumerate(x)]

        assert box.loss().contains(ball(value(moves)))
        h = mpf(10) ** -14
        for i, enclosed in enumerate(box.gradient()):
            slope = (value(along(i, h)) - value(along(i, -h))) / (2 * h)
            assert enclosed.overlaps(ball(slope, 1e-16 if where != "generic" and radius == 0 else 1e-22))
        if where != "generic" and radius == 0:
            return  # the second derivative has a kink there
        rows = box.hessian()
        entries = [(i, e) for i in range(len(columns)) for e in range(i, len(columns))]
        for i, e in rng.permutation(entries)[:30].tolist():
            corners = [value(along(e, s * h, along(i, r * h))) for r in (1, -1) for s in (1, -1)]
            bend = (corners[0] - corners[1] - corners[2] + corners[3]) / (4 * h * h)
            assert rows[i][e].overlaps(ball(bend, 1e-15)), (i, e)


@pytest.mark.parametrize("kernel", ["relu", "even", "hermite24", "hermite2", "hermite4"])
@pytest.mark.parametrize("name", ["vanilla", "two-weight-free", "resnet"])
def test_other_activations_are_enclosed(name, kernel):
    theta_star = task(name, 3)[1]
    loss = rg.KernelLoss(name, rg.Network(name, theta_star, 3), kernel)
    theta = theta_star + 0.2 * np.random.default_rng(0).standard_normal(theta_star.size)
    with balls.precision():
        box = balls.Box(balls.Numbers.of(loss, theta))
        assert abs(float(box.loss()) - loss.value(theta)) < 1e-13
        norms = float(balls.size(box.gradient())), np.linalg.norm(loss.value_and_grad(theta)[1])
        assert norms[0] == pytest.approx(norms[1], rel=1e-12)
    assert "polish theta first" in rg.certify(loss, theta).why  # its Hessian, too, is enclosed
    proof = rg.certify(loss, theta_star)  # c^2 sees no rotation of a matrix W W'
    assert proof.kind == ("" if kernel == "hermite2" and name != "resnet" else "teacher"), proof
    with pytest.raises(TypeError, match="a KernelLoss with free rows"):
        rg.certify(rg.KernelLoss(name, loss.teacher, kernel, unit_rows=True), theta_star)


def test_units_that_may_be_parallel_are_enclosed():
    """Along an axis, where s m m' and s m n' are all that some entries have."""
    axis, rng, radius = np.array([[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]]), np.random.default_rng(0), 1e-3
    loss = rg.PopulationLoss("vanilla", rg.Network("vanilla", 2 * axis[:, :1].ravel(), 3))
    with balls.precision():
        upper = balls.Box(balls.Numbers.of(loss, axis.ravel()), radius).hessian()
        low, high = (np.array([[float(getattr(e, end)()) for e in row] for row in upper]) for end in ("lower", "upper"))
    order = np.arange(6).reshape(3, 2).T.ravel()  # x has one unit after the other
    for _ in range(50):
        hessian = loss.hessian(axis.ravel() + rng.uniform(-radius, radius, 6))[np.ix_(order, order)]
        inside = (low - 1e-12 <= hessian) & (hessian <= high + 1e-12)
        assert np.triu(~inside).sum() == 0


def test_the_critical_point_is_where_the_proof_says():
    arch, d = RECORDS["vanilla"], 2
    teacher = rg.Network("vanilla", rg.draw("vanilla", "normal", d, 3, rng=4), d)
    loss = rg.PopulationLoss("vanilla", teacher)
    theta = rg.polish(loss, rg.draw("vanilla", "normal", d, 2, rng=5)).theta
    proof = rg.certify(loss, theta)
    assert proof.kind == "strict minimum"
    with mpmath.workdps(50):
        h = mpf(10) ** -20

        def gradient(x):
            moved = [[e + s * h * (o == i) for o, e in enumerate(x)] for i in range(4) for s in (1, -1)]
            values = [exact_loss(arch, np.array(point, dtype=object), teacher) for point in moved]
            return [(values[2 * i] - values[2 * i + 1]) / (2 * h) for i in range(4)]

        x, inverse = [mpf(t) for t in theta.tolist()], np.linalg.inv(loss.hessian(theta))
        for _ in range(4):
            x = [e - step for e, step in zip(x, inverse @ gradient(x))]
        assert max(map(abs, gradient(x))) < 1e-27
        assert 0 < mpmath.norm([e - t for e, t in zip(x, theta.tolist())]) < proof.radius < 1e-7
        assert proof.loss[0] <= exact_loss(arch, np.array(x, dtype=object), teacher) <= proof.loss[1]
        assert proof.loss[1] - proof.loss[0] < 1e-15 * proof.loss[1]
        columns = [
            gradient([e + s * mpf(10) ** -12 * (o == i) for o, e in enumerate(x)]) for i in range(4) for s in (1, -1)
        ]
        hessian = mpmath.matrix(
            [[(p - m) * mpf(10) ** 12 / 2 for p, m in zip(*columns[2 * i : 2 * i + 2])] for i in range(4)]
        )
        smallest = mpmath.eigsy((hessian + hessian.T) / 2, eigvals_only=True)[0]
        low, high = proof.min_eigenvalue
        assert low <= smallest <= high and high - low < 1e-8 * smallest


# -------------------------------------------------------------------------------- theorems known otherwise


@every_name
@pytest.mark.parametrize("d", [1, 2, 5])
def test_the_teacher_is_certified_and_so_are_its_images(name, d):
    loss, theta_star = task(name, d)
    for theta in (theta_star, image(name, theta_star, d, np.random.default_rng(d))):
        proof = rg.certify(loss, theta)
        assert (proof.proved, proof.kind, proof.loss, proof.why) == (True, "teacher", (0.0, 0.0), "")
        longest = np.linalg.norm(RECORDS[name].canonical(theta, d)[0], axis=0).max()
        limit = proofs.REACH * longest / (3 if RECORDS[name].trains_readout else 1)
        assert 1e-11 < proof.radius < limit * (1 + 1e-12) and proof.min_eigenvalue[0] > 0


@pytest.mark.parametrize("name", ["vanilla-free", "two-weight-free", "resnet-free", "even", "leaky"])
def test_the_teacher_with_reversed_units_is_certified(name):
    d, arch = 3, RECORDS[name]
    loss, theta_star = task(name, d)
    U, A, C = arch.canonical(theta_star, d)
    U[:, 1], C = -U[:, 1], C + sum(arch.slopes) * np.outer(U[:, 1], A[1])
    blocks = {"W1": U - arch.identity * np.eye(d), "C": C, "W2": arch.unflatten(theta_star, d).W2}
    theta = arch.flatten(**{block: blocks[block] for block in arch.shapes(d)})
    proof = rg.certify(loss, theta)
    assert proof.kind == "teacher" and np.linalg.norm(theta - theta_star) > 1e-3


def test_a_teacher_of_another_kind_is_certified_where_the_student_can_be_it():
    d = 3
    teacher = rg.Network("resnet", rg.draw("resnet", "normal", d, rng=0), d)
    loss = rg.PopulationLoss("modresnet", teacher)
    assert rg.certify(loss, rg.convert(teacher.theta, d, "resnet", "modresnet")).kind == "teacher"
    U, A, C = rg.Network("even", rg.draw("even", "normal", d, rng=0), d).canonical()
    student = RECORDS["vanilla-free"].flatten(W1=U, C=C - U @ A / 2)  # |z| / 2 = relu(z) - z / 2
    loss = rg.PopulationLoss("vanilla-free", rg.Network("even", U.ravel(), d))
    assert rg.certify(loss, student).kind == "teacher"


@pytest.mark.parametrize("k", [2, 5, 9])
def test_the_smallest_eigenvalue_at_the_orthogonal_teacher(k):
    """1/4 - 1/(2 pi) with Safran & Shamir's 1/2."""
    theta = np.eye(k).ravel()
    proof = rg.certify(rg.PopulationLoss("vanilla", rg.Network("vanilla", theta, k)), theta)
    low, high = proof.min_eigenvalue
    with mpmath.workdps(30):
        assert low < mpf(1) / 2 - 1 / mpmath.pi < high
    assert high - low < 1e-12


@pytest.fixture(scope="module")
def published():
    """(loss, polished end) of the most frequent spurious minimum of Safran & Shamir (2018) at k = 10."""
    loss = rg.PopulationLoss("vanilla", rg.Network("vanilla", np.eye(10).ravel(), d=10))
    run = rg.train(loss, rg.draw("vanilla", "normal", d=10, rng=6), rg.SGD(0.05), 2000)
    return loss, rg.polish(loss, run.theta).theta


def test_the_published_spurious_minimum_is_proved_to_be_one(published):
    proof = rg.certify(*published)
    assert proof.kind == "strict minimum" and proof.radius > 1e-9
    assert [f"{end / 2:.10f}" for end in proof.loss] == 2 * ["0.0187021946"]
    assert [f"{end / 2:.6f}" for end in proof.min_eigenvalue] == 2 * ["0.031964"]
    assert "critical point of the expected loss modulo the symmetries, and it is a strict minimum with" in str(proof)
    told = float(str(proof).split()[1])
    assert 0.9 * proof.radius < told <= proof.radius


def test_a_proof_knows_what_the_noise_of_labels_adds(published):
    plain, theta = published
    loss = rg.PopulationLoss("vanilla", plain.teacher, noise=0.3)
    for point, kind in ((theta, "strict minimum"), (loss.teacher.theta, "teacher")):
        proof, without = rg.certify(loss, point), rg.certify(plain, point)
        assert proof.kind == kind and proof.loss == pytest.approx((loss.value(point),) * 2, rel=1e-12)
        assert (proof.radius, proof.min_eigenvalue) == (without.radius, without.min_eigenvalue)


@pytest.mark.parametrize("s", [1e-6, 1e-3, 1e3, 1e6])
def test_a_proof_does_not_depend_on_the_unit_of_length(published, s):
    loss = rg.PopulationLoss("vanilla", rg.Network("vanilla", s * np.eye(10).ravel(), d=10))
    proof, plain = rg.certify(loss, rg.polish(loss, s * published[1]).theta), rg.certify(*published)
    assert proof.kind == "strict minimum"
    assert proof.radius == pytest.approx(s * plain.radius, rel=1e-3)
    assert proof.loss[0] == pytest.approx(s**2 * plain.loss[0], rel=1e-12)


# -------------------------------------------------------------------------------------------- planted lies


class Liar(rg.PopulationLoss):
    """A loss whose gradient is 0 everywhere, and whose Hessian has one wrong entry."""

    entry, off, slope = (0, 0), 0.0, None

    def grad(self, theta):
        return super().grad(theta) if self.slope is None else np.full(np.shape(theta), self.slope)

    def hessian(self, theta):
        hessian = super().hessian(theta)
        hessian[self.entry] += self.off * np.abs(hessian).max()
        return hessian


def off_by_a_millionth(name, d, rng):
    loss, theta = task(name, d, seed=rng)
    theta = image(name, theta, d, rng)
    columns = coordinates(RECORDS[name], d, d)
    orbit = rg.minima.symmetry.tangent(RECORDS[name], theta, d)
    step = columns.T @ rng.standard_normal(len(columns))
    step -= orbit @ (orbit.T @ step)
    return loss, theta + 1e-6 * step / np.linalg.norm(step)


def no_critical_point(name, d, rng):
    loss, theta = task(name, d, seed=rng)
    loss = Liar(RECORDS[name], loss.teacher)
    loss.slope = 1e-17
    return loss, theta + 0.1 * rng.standard_normal(theta.size)


def degenerate_minimum(name, d, rng):
    """The teacher with a unit split in two, or with one that has no part in it (for d = 1 this may be strict)."""
    d = max(d, 2)
    arch, (loss, theta) = RECORDS[name], task(name, d, seed=rng)
    blocks, share = arch.unflatten(theta, d)._asdict(), rng.uniform(0.2, 0.8)
    u = blocks["W1"][:, -1:] + arch.identity * np.eye(d)[:, -1:]
    if arch.readout == "fixed":
        blocks["W1"] = np.hstack([blocks["W1"][:, :-1], share * u - arch.identity * np.eye(d)[:, -1:], (1 - share) * u])
    else:
        blocks["W1"] = np.hstack([blocks["W1"], u if rng.random() < 0.5 else rng.standard_normal((d, 1))])
        last = blocks["W2"][-1:]
        alike = np.array_equal(blocks["W1"][:, -1:], u)
        pair = [share * last, (1 - share) * last] if alike else [last, 0 * last]
        blocks["W2"] = np.vstack([blocks["W2"][:-1], *pair])
    return loss, arch.flatten(**{block: blocks[block] for block in arch.shapes(d)})


def wrong_hessian(name, d, rng):
    loss, theta = task(name, d, seed=rng)
    loss = Liar(RECORDS[name], loss.teacher)
    loss.entry = tuple(rng.integers(theta.size, size=2))
    loss.off = 10 ** rng.uniform(-7, 0) * rng.choice([-1, 1])
    return loss, theta


def another_teacher(name, d, rng):
    loss, theta = task(name, d, seed=rng)
    other = rg.Network(RECORDS[name], theta + 1e-5 * rng.standard_normal(theta.size), d)
    return rg.PopulationLoss(RECORDS[name], other), theta


LIES = [off_by_a_millionth, no_critical_point, degenerate_minimum, wrong_hessian, another_teacher]


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("trials", [28, *slow(160)])
def test_no_lie_is_proved(lie, trials):
    for trial in range(trials):
        rng = np.random.default_rng([trial, trials])
        proof = rg.certify(*lie(NAMES[trial % len(NAMES)], int(rng.integers(1, 4)), rng))
        assert not proof.proved and proof.why and (proof.kind, proof.radius) == ("", 0.0), trial
        assert str(proof) == f"nothing is proved of theta: {proof.why}"
        assert (proof.loss, proof.min_eigenvalue) == ((0.0, math.inf), (-math.inf, math.inf))


@pytest.mark.parametrize("trials", [40, *slow(200)])
def test_no_saddle_is_proved_to_be_a_minimum(trials):
    """Newton's method from random points leads to saddles."""
    proved = 0
    for trial in range(trials):
        name, rng = ("li-free", "even", "li", "resnet-free")[trial % 4], np.random.default_rng([trial, 7])
        loss, theta = task(name, int(rng.integers(2, 4)), seed=trial)
        theta = theta + rng.standard_normal(theta.size)
        for _ in range(60):
            values, vectors = np.linalg.eigh(loss.hessian(theta))
            slope = vectors.T @ loss.grad(theta)
            step = vectors @ np.divide(slope, values, where=abs(values) > 1e-9 * abs(values).max(), out=0 * values)
            theta = theta - step / max(1, np.linalg.norm(step) / (0.3 * np.linalg.norm(theta)))
        proof = rg.certify(loss, theta)
        if proof.proved and proof.kind != "teacher":
            assert (proof.kind == "saddle") == (values[0] < -1e-9) == (proof.min_eigenvalue[1] < 0)
            assert proof.loss[0] > 0
            proved += proof.kind == "saddle"
    assert proved >= trials // 10


def test_how_far_from_a_critical_point_a_proof_reaches():
    """`REACH` of the longest unit, which has length 1 here."""
    theta = np.eye(4).ravel()
    loss = rg.PopulationLoss("vanilla", rg.Network("vanilla", theta, 4))
    flat = np.linalg.eigh(loss.hessian(theta))[1][:, 0]
    assert rg.certify(loss, theta + 2e-9 * flat).kind == "teacher"
    assert "polish theta first" in rg.certify(loss, theta + 3e-8 * flat).why
    assert 0.9e-8 < rg.certify(loss, theta).radius <= 1e-8


def test_a_radius_is_a_quarter_of_what_the_hessian_allows():
    """`WIDER`, where `REACH` does not end it before: next to two units of the teacher that are nearly parallel."""
    theta = np.array([[1.0, 1.0, 0.0], [0.0, 0.01, 1.0], [0.0, 0.0, 1.0]]).ravel()
    loss = rg.PopulationLoss("vanilla", rg.Network("vanilla", theta, 3))
    proof = rg.certify(loss, theta)
    assert proof.kind == "teacher" and proof.radius < 0.9e-8
    order = np.arange(9).reshape(3, 3).T.ravel()  # x has one unit after the other
    with balls.precision():
        upper = balls.Box(balls.Numbers.of(loss, theta), proof.radius).hessian()
        change = proofs._deviation(upper, loss.hessian(theta)[np.ix_(order, order)])
    assert 0.1 < change / proof.min_eigenvalue[0] < 0.5


@pytest.mark.parametrize("off, right", [(5e-9, True), (5e-8, False)])
def test_how_far_off_the_hessian_may_be(off, right):
    theta = np.eye(4).ravel()
    loss = Liar("vanilla", rg.Network("vanilla", theta, 4))
    loss.off, loss.entry = off, (2, 3)
    proof = rg.certify(loss, theta)
    assert proof.proved == right
    assert right or "in entry (2, 3)" in proof.why


@pytest.mark.parametrize("size", [1, 3, 60])
def test_products_are_bounded_by_what_they_are(size):
    """Against the exact product, for matrices that floating point multiplies with errors."""
    rng = np.random.default_rng(size)
    A, B = (rng.standard_normal((size, size)) * 10 ** rng.uniform(-3, 3, (size, size)) for _ in range(2))
    C = A @ B
    with flint.ctx.workprec(2000):
        product = flint.arb_mat(A.tolist()) * flint.arb_mat(B.tolist()) - flint.arb_mat(C.tolist())
        true = float(balls.size(product.entries()))
    bound = proofs._distance(A, B, C)
    assert true <= bound <= true + 1e-15 * np.linalg.norm(C)


# ---------------------------------------------------------------------------------------------- bad input


def test_without_python_flint_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(balls, "flint", None)
    with pytest.raises(ImportError, match=r'pip install "resgrad\[proofs\]"') as told:
        rg.certify(*task("vanilla", 2))
    assert "\n" not in str(told.value)


def test_what_has_no_enclosure_is_refused():
    loss, theta = task("li", 2)
    with pytest.raises(TypeError, match="loss is .*, but must be a PopulationLoss, or"):
        rg.certify(rg.EmpiricalLoss("li", np.eye(2), [1.0, 2.0]), theta)
    with pytest.raises(ValueError, match="theta has shape"):
        rg.certify(loss, theta[:-1])
    biased = dataclasses.replace(RECORDS["li"], name="biased", bias=True)
    with pytest.raises(ValueError, match="biased has hidden biases"):
        balls.require(biased, 2, 2)
    with pytest.raises(ValueError, match="li with d=55 and width 55 has 3,025 coordinates, but proofs take 3,000"):
        rg.certify(*task("li", 55))


def test_a_unit_that_may_vanish_is_not_proved():
    loss, theta = task("vanilla", 2)
    assert "unit 0 may vanish" in rg.certify(loss, theta * [0, 1, 0, 1]).why
