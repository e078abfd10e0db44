"""Every constant that decides a verdict, moved tenfold, fails one of these.

Those with tests of their own elsewhere: NULL, CRITICAL, GLOBAL, NEAR and SLOPE in ``test_verdicts``; HANDOVER, REACH,
AGREE, SAME and STEP in ``test_census``; those of proofs in ``test_proofs``.  The ranges of floats (HUGE, TINY,
BEYOND) and the widths of bounds (SAFE, BITS) have none.
"""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import resgrad as rg
from resgrad import draws
from resgrad.minima import alignment, basins, landscape, symmetry
from resgrad.runs import tasks


def function(value, grad, hessian):
    """Anybody's, of one array; all three are told what it is."""
    return SimpleNamespace(value=lambda x: float(value(x)), grad=grad, hessian=hessian, short=lambda x: False)


def quadratic(curvatures):
    """With its minimum at 1."""
    c = np.array(curvatures)
    return function(lambda x: c @ (x - 1) ** 2 / 2, lambda x: c * (x - 1), lambda x: np.diag(c))


def powers(cubic, quartic):
    """``cubic`` |x - 1|^3 + ``quartic`` (x - 1)^4, in one dimension."""
    return function(
        lambda x: cubic * abs(x[0] - 1) ** 3 + quartic * (x[0] - 1) ** 4,
        lambda x: 3 * cubic * (x - 1) * abs(x - 1) + 4 * quartic * (x - 1) ** 3,
        lambda x: np.diag(6 * cubic * abs(x - 1) + 12 * quartic * (x - 1) ** 2),
    )


# ------------------------------------------------------------------------------- critical points


def kind(loss, start, max_steps=0):
    """(verdict, number of zero eigenvalues)."""
    end = rg.polish(loss, start, max_steps)
    return end.verdict, end.nullity


def along_a_flat_direction():
    """Where rounding makes a curvature of -5e-13, Newton's method does not go along."""
    return rg.polish(quadratic([1, 1, 1, 1, -5e-13]), [1, 1, 1, 1, 1.1], 0).theta[4]


def curvature_within_rounding():
    """Of 5e-4, at a point so far out that its neighbors have another one."""
    far, soft, change = 1e6, 5e-4, 1e9
    loss = function(
        lambda x: 1 + (x[0] - far) ** 2 / 2 + soft * (x[1] - 1) ** 2 / 2 + change * (x[1] - 1) ** 4,
        lambda x: np.array([x[0] - far, soft * (x[1] - 1) + 4 * change * (x[1] - 1) ** 3]),
        lambda x: np.diag([1.0, soft + 12 * change * (x[1] - 1) ** 2]),
    )
    return kind(loss, [far, 1.0], 1000)


def almost_quadratic():
    """|x|^2.4: Newton's method ends at a curvature of 5e-5, which each step changes by a third."""
    q = 2.4
    loss = function(
        lambda x: abs(x[0] - 1) ** q,
        lambda x: q * np.sign(x - 1) * abs(x - 1) ** (q - 1),
        lambda x: np.diag(q * (q - 1) * abs(x - 1) ** (q - 2)),
    )
    return kind(loss, [2.0], 1000)


def lowered():
    """Whether descent lowers a loss of 1 + 2e-8 among wells that are 5e-8 deep."""
    size = 1.5e-4
    loss = function(
        lambda x: 1 + size**2 * (0.03 * ((x[0] - 1) / size) ** 2 + 1 - np.cos((x[0] - 1) / size)),
        lambda x: size * (0.06 * (x - 1) / size + np.sin((x - 1) / size)),
        lambda x: np.diag(0.06 + np.cos((x - 1) / size)),
    )
    start = np.array([1 + 1.52 * size])
    return loss.value(rg.polish(loss, start).theta) < loss.value(start)


def steps_where_a_value_has_eight_digits(least):
    loss = function(lambda x: np.round((least + x @ x / 2) / 8e-9) * 8e-9, lambda x: x, lambda x: np.eye(1))
    return landscape._descend(loss, np.array([8e-5]), 1e-6, 1000)[1]


def symmetry_explains(off):
    """The zero eigenvalues next to a minimum, whose null space is 4.5 ``off`` from the orbit's directions."""
    theta = np.array([1.0, 0, 0, 1, 1, 0, 0, 1])
    loss = rg.PopulationLoss("resnet", rg.Network("resnet", theta, 2))
    return rg.spectrum(loss, theta + off * np.array([1, 2, -1, 0.5, 3, 1, 2, -1]), 1e-5).explained


# ------------------------------------------------------------------------------------ the flow


def wiggles(count):
    """How a flow across so many waves ends.  A wave takes about 100 gradients."""
    loss = function(
        lambda x: -x[0] - np.sin(2 * np.pi * x[0]) / (4 * np.pi),
        lambda x: -1 - np.cos(2 * np.pi * x) / 2,
        lambda x: np.pi * np.diag(np.sin(2 * np.pi * x)),
    )
    start = np.array([1.0])
    try:
        return round(float(basins._flow(basins._Across(loss, start), start, count / 0.75**0.5, basins.RTOL)[0]) - 1)
    except RuntimeError:
        return "takes too long"


def between_two_minima():
    """Next to where the basins of the two images of a teacher meet: those units that come first face the first."""
    loss = rg.PopulationLoss("vanilla", rg.Network("vanilla", np.eye(2).ravel(), 2))
    one, two = (rg.draw("vanilla", "normal", 2, rng=seed) for seed in (0, 100))
    return basins.descend(loss, loss, one + 0.0674517 * (two - one), 0).theta.round(6).tolist()


def far_out(arch, size):
    loss = rg.PopulationLoss(arch, rg.Network(arch, np.ones(1 + (arch == "resnet")), 1))
    return basins.descend(loss, loss, size * loss.teacher.theta, 1).outcome


def exponent(loss, start):
    """p, as if the largest curvature were 1."""
    power = basins._exponent(loss, np.array(start), 1.0)
    return "uncertain" if np.isnan(power) else round(power, 1)


def tiny_unit():
    """One that grows."""
    loss = rg.PopulationLoss("vanilla", rg.Network("vanilla", np.eye(2).ravel(), 2))
    return basins.descend(loss, loss, np.array([0.6, 3e-6, 0.7, -3e-6]), 0).outcome


# ------------------------------------------------------------------------------------ symmetries


def almost_zero(W1):
    return not symmetry.Units.of("li", [W1], 1).u.any()


def unseen(total):
    """Whether a row of W2 that sums to so little is a zero read-out."""
    return not symmetry.Units.of("resnet-sum", [1.0, 0, 0, 1, 1, total - 1, 0, 1], 2).a[0].any()


def dead(strength):
    return rg.align("resnet", [1.0, 0, 0, strength, 1, 0, 0, 1], [1.0, 0, 0, 1, 1, 0, 0, 1], 2).dead


def parallel(angle):
    return rg.align("vanilla", [1.0, 1, 0, angle], [1.0, 0, 0, 1], 2).parallel


def tied(gap):
    """Which unit does whose work, if the matching that is nearest is not the best one, by so much."""

    def rows(one, two):
        return np.array([[np.cos(t), np.sin(t)] for t in (one, two)])

    units = symmetry.Units.of("resnet", np.zeros(8), 2)
    teacher = replace(units, u=rows(0.3, -0.3), a=rows(0.3, -0.3)).theta()
    student = replace(units, u=3 * rows(0.3, -0.3), a=rows(-0.3 - gap, 0.3 + gap) / 3).theta()
    return rg.align("resnet", student, teacher, 2).permutation.tolist()


def reversed_units():
    """A search that has to look at 178 sets of them; with fewer it ends at 2.72."""
    one, two = (rg.draw("vanilla-free", "normal", 3, 10, rng=[2, seed]) for seed in (0, 1))
    return round(alignment.distance("vanilla-free", one, two, 3), 4)


def off_the_teacher(size):
    """Whether there is a direction to the teacher."""
    loss = rg.PopulationLoss("li", rg.Network("li", [0.0], 1))
    return bool(np.isfinite(rg.one_point(loss, [size]).delta[0]))


CASES = [  # NODES may be larger: the search would only take longer.  So may SHORT be smaller: see below
    # constant, which tenfold value is wrong, case, its arguments, right answer
    ("SHIFT", "larger", kind, (quadratic([1, 1, 1, 1, 1.3e-11]), [1, 1, 1, 1, 1.1]), ("minimum", 0)),
    ("SHIFT", "smaller", along_a_flat_direction, (), 1.1),
    ("SOFT", "larger", curvature_within_rounding, (), ("minimum", 0)),
    ("SOFT", "smaller", almost_quadratic, (), ("minimum", 1)),
    ("NOISE", "larger", lowered, (), True),
    ("NOISE", "smaller", steps_where_a_value_has_eight_digits, (1.0,), 6),
    ("NOISE", "smaller", steps_where_a_value_has_eight_digits, (-1.0,), 6),
    ("angles of spectrum", "larger", symmetry_explains, (1e-6,), False),
    ("angles of spectrum", "smaller", symmetry_explains, (1e-7,), True),
    ("EFFORT", "larger", wiggles, (80,), "takes too long"),
    ("EFFORT", "smaller", wiggles, (10,), 10),
    ("RTOL", "larger", between_two_minima, (), [1.0, 0.0, 0.0, 1.0]),
    ("RTOL", "smaller", wiggles, (40,), 40),
    ("SHORT", "larger", tiny_unit, (), "global"),
    ("POWERS", "larger", exponent, (powers(1.0, 0.0), [2.0]), 3.0),
    ("POWERS", "smaller", exponent, (powers(1e-3, 0.1), [2.0]), "uncertain"),  # it is 2 for long, and 3 in the end
    ("FASTER", "larger", exponent, (quadratic([1, 0.01]), [2.0, 2.0]), np.inf),
    ("FASTER", "smaller", exponent, (powers(10.0, 0.0), [2.0]), "uncertain"),
    ("FAR", "larger", far_out, ("resnet", 9e38), "unconverged"),  # without an overflow, which is an error here
    ("FAR", "smaller", far_out, ("vanilla", 9e37), "global"),
    ("DEAD", "larger", dead, (3e-8,), ()),
    ("DEAD", "smaller", dead, (3e-9,), (1,)),
    ("PARALLEL", "larger", parallel, (3e-6,), ()),
    ("PARALLEL", "smaller", parallel, (3e-7,), ((0, 1),)),
    ("TIE", "larger", tied, (3e-9,), [1, 0]),
    ("TIE", "smaller", tied, (3e-10,), [0, 1]),
    ("NODES", "smaller", reversed_units, (), 2.6565),
    ("zero of Units", "larger", almost_zero, (-1 + 2e-15,), False),
    ("zero of Units", "smaller", almost_zero, (-1 + 4e-16,), True),
    ("zero of A", "larger", unseen, (1e-14,), False),
    ("zero of A", "smaller", unseen, (1e-15,), True),
    ("noise of one_point", "larger", off_the_teacher, (1e-13,), True),
    ("noise of one_point", "smaller", off_the_teacher, (1e-14,), False),
]


@pytest.mark.parametrize(
    ("name", "wrong", "case", "arguments", "right"), CASES, ids=lambda x: x if isinstance(x, str) else ""
)
def test_a_constant_is_neither_ten_times_larger_nor_smaller(name, wrong, case, arguments, right):
    assert case(*arguments) == right


def ends(arch, numbers, steps, **kinds):
    """(outcome, loss) of runs of a census."""
    task, found = tasks.prepare(arch, runs=100, teacher="normal", **kinds), []
    for number in numbers:
        streams = draws.streams(0, number)
        loss = task.loss(streams)
        found.append(basins.descend(loss, loss, task.start(streams), steps, momentum=task.config.momentum)[:2])
    return [(outcome, pytest.approx(loss, rel=1e-6, abs=1e-15)) for outcome, loss in found]


@pytest.fixture(scope="module")
def usual():
    return {steps: ends(*kinds, steps, d=d) for steps, (*kinds, d) in SOME.items()}


SOME = {0: ("resnet", (6, 15, 17), 1), 10_000: ("two-weight", range(4), 2)}  # in the first all units die


@pytest.mark.parametrize("factor", [10, 0.1])
@pytest.mark.parametrize("name", ["LOOK", "WAIT", "DESCENT", "SHORT", "EFFORT"])
def test_constants_that_decide_when_do_not_decide_what(usual, monkeypatch, name, factor):
    """One that is ten times larger or smaller takes more time.  Too small an EFFORT is told from one that is not."""
    value = getattr(basins, name)
    monkeypatch.setattr(basins, name, type(value)(value * factor))
    assert {steps: ends(*kinds, steps, d=d) for steps, (*kinds, d) in SOME.items()} == usual
