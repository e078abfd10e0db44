"""The distance of a student from its teacher modulo the symmetries, and which unit does the work of which.

`align` measures how far the student is from the nearest image of the teacher, min_g |theta - g theta*|.  This is 0
where the two agree up to symmetry, never more than |theta - theta*|, and continuous in theta.  (The distance of the
two balanced forms would not do: it can exceed the raw distance, and does not see where on its orbit the student is.)

The minimum over permutations is an assignment problem.  Its cost[j, l] is the squared distance of student unit
(u, a) to the orbit of teacher unit (u*, a*).  Let phi be the angle between u and u*, psi the angle between a and a*,
and b = (|u*||a*|)^(1/2), which is the norm of u* and of a* when they are balanced.  Then

    min_c |u - c u*|^2 + |a - a* / c|^2                                                          (1)
        = |u|^2 sin^2 phi + |a|^2 sin^2 psi + b^2 min_t [(t - p)^2 + (1 / t - q)^2],
      p = |u| cos phi / b,     q = |a| cos psi / b,     c = t (|a*| / |u*|)^(1/2).

The last term is the distance from the point (p, q) to the hyperbola (t, 1 / t), where t^4 - p t^3 + q t - 1 = 0.
For ``sum``, a is the component of the row of W2 along 1 / d^(1/2).  For ``fixed``, c = 1.

The nearest image depends on where on its orbit the student is.  Which unit does the work of which should not.  So
`Alignment.permutation` minimizes the distance of the two balanced forms, sum_j |u_j - u*_l|^2 + |a_j - a*_l|^2 with
|u| = |a| throughout.  Near the teacher's orbit the two matchings agree; where the second has ties, the first decides.

A dead unit (u = 0 or a = 0) has every dead unit in its orbit, and the distance to that orbit is min(|u|, |a|).  The
narrower network is padded with zero units (u = 0 and a = 0), whose squared distance to a live orbit is 2|u*||a*|.

Where the skip C is trained, units can be reversed as well, and C pays for all of them together: with S the teacher's
reversed units, |C - C* - sum_S (p + n) u* a*'|^2 is added to the sum of costs.  For any y, with g = C - C* as a vector
and g_l the gain of C by unit l,

    |g - sum_S g_l|^2 >= 2 y.g - |y|^2 - sum_S 2 y.g_l,    equal for y = g - sum_S g_l.                       (2)

The right side has a price for each reversed unit.  So one assignment, in which each pair faces as is cheaper, minimizes
it plus the sum of costs over all matchings and all S: that is a lower bound, and its S a candidate.  `_cheapest` is a
branch and bound with it.  It takes y from shares x of reversed units, g - sum x_l g_l, which it improves by the method
of Frank & Wolfe, and decides next the unit that is least sure.

Two coincidences are no symmetries of this kind, and are named but not projected out.  Parallel units can share their a
(`Alignment.parallel`).  Where C is fixed, any set S of units with sum_S a_j u_j' = 0 can be reversed
(`Alignment.flipped`): in ``vanilla`` U = [[1, 0, -1], [0, 1, -1]] and -U are one function.  A generic teacher has no
such set.
"""

import heapq
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from .. import tables
from ..architectures import Architecture
from ..kernels.nearby import linear_sum_assignment
from .symmetry import EPS, Units, directions, lengths

PARALLEL = 1e-6  # |u^ - v^|: between such units the loss sees a difference of 1e-12
HUGE = 1e70  # its fourth power is a float
TIE = 1e-9  # relative difference of two matchings that are equally good
NODES = 2000  # of the search for reversed units; near a copy of the teacher it takes one
LOOKS = 4  # bounds by (2) in each
UNSURE = 1e-3  # of a unit whose share is 0 or 1; it is decided last
BEYOND = 1e300  # what is no number in units of length: such a unit is not reversed
NEAREST, WORK = 0, 2  # the costs of `_orbit_costs` that decide about the image, and about who does whose work
TINY = 1e-150  # the squares of TINY and of 1 / TINY are normal floats


@dataclass(frozen=True, eq=False)
class Alignment:
    """A student and its teacher compared modulo symmetry.  ``str()`` of it is a short report.

    Units are named by their indices.  ``dead`` ones contribute nothing: u = 0 or a = 0, within `DEAD`.  ``parallel``
    are pairs of live units with the same direction u, of which the loss sees only the sum of their |u_j| a_j, and
    ``flipped`` pairs of a live student unit and a live teacher unit with opposite directions.  Where units can be
    reversed, opposite directions count as the same.
    """

    arch: Architecture
    distance: float  # modulo symmetry
    raw_distance: float  # |theta - theta*|, the narrower network padded with zero units
    permutation: np.ndarray  # (k,): student unit j does the work of teacher unit permutation[j]; -1: of none
    scales: np.ndarray  # (k,): u_j faces scales[j] u*, a_j faces a* / scales[j]; 1 where there is no choice
    unidentifiable: float  # |V - V*|, V = W2 (I - 1 1'/d) the part that ``sum`` cannot see, as in ``teacher``
    teacher: np.ndarray  # (n,): the nearest image of the teacher, to compare with theta entry by entry
    missing: tuple  # teacher units that nothing is matched to
    reversed: tuple  # student units that face their teacher unit turned around, where that is a symmetry
    units: tuple  # the `symmetry.Units` of student and teacher

    extra = cached_property(lambda self: tuple(np.flatnonzero(self.permutation < 0).tolist()))  # matched to nothing
    dead = cached_property(lambda self: tuple(np.flatnonzero(self.units[0].dead()).tolist()))
    dead_star = cached_property(lambda self: tuple(np.flatnonzero(self.units[1].dead()).tolist()))
    parallel = cached_property(lambda self: self._along(0, 0))
    parallel_star = cached_property(lambda self: self._along(1, 1))
    flipped = cached_property(lambda self: () if self.units[0].reversible else self._along(0, 1, -1))

    def _along(self, one, other, sign=1):
        """Pairs of live units where the first's direction is ``sign`` times the second's, each pair once.

        Where units can be reversed, a direction has no sign.
        """
        dead, signs = (self.dead, self.dead_star), (1, -1) if self.units[0].reversible else (sign,)
        close = np.min([_chords(self.units[one].u, x * self.units[other].u) for x in signs], axis=0) < PARALLEL**2
        pairs = np.argwhere(np.triu(close, 1) if one == other else close).tolist()
        return tuple((i, j) for i, j in pairs if i not in dead[one] and j not in dead[other])

    @cached_property
    def order(self):
        """The student units in the order of the teacher units whose work they do, those of none last: (k,)."""
        return np.argsort(np.where(self.permutation < 0, len(self.units[1].u), self.permutation), kind="stable")

    @cached_property
    def overlaps(self):
        """The cosine of student unit ``order[i]``, turned if it is ``reversed``, and teacher unit l: (k, k*)."""
        student, teacher = (directions(units.u) for units in self.units)
        turned = np.isin(self.order, self.reversed)[:, None]
        return np.where(turned, -1.0, 1.0) * (student[self.order] @ teacher.T)

    @cached_property
    def units_moved(self):
        """Number of live units matched to a live unit in another place."""
        pairs = enumerate(self.permutation.tolist())
        return sum(l not in (j, -1, *self.dead_star) and j not in self.dead for j, l in pairs)

    def _rows(self):
        """(title, {what: text}) of the report."""
        k, k_star = (len(units.u) for units in self.units)
        rows = {"raw distance": f"{self.raw_distance:.3e}", "modulo symmetry": f"{self.distance:.3e}"}
        rows |= {"units moved": f"{self.units_moved} of {k}", "permutation": " ".join(map(str, self.permutation))}
        if self.arch.readout != "fixed":
            rows["scales"] = f"{self.scales.min():.4g} to {self.scales.max():.4g}"
        if self.arch.readout == "sum":
            rows["unseen part of W2"] = f"{self.unidentifiable:.3e}"
        for name in ("reversed", "dead", "dead_star", "extra", "missing", "parallel", "parallel_star", "flipped"):
            if units := getattr(self, name):
                rows[name.replace("_star", " in teacher")] = " ".join(map(str, units))
        return f"{self.arch.name}: {k} student units, {k_star} teacher units", rows

    def __str__(self):
        title, rows = self._rows()
        return "\n".join([title, *(f"  {name:<20}{text}" for name, text in rows.items())])

    def _repr_html_(self):
        title, rows = self._rows()
        return tables.table([("Alignment", ""), *rows.items()], title)


def align(arch: Architecture | str, theta: ArrayLike, theta_star: ArrayLike, d: int) -> Alignment:
    """Compare a student with its teacher modulo the symmetries of the architecture.

    The distance is the exact minimum over the symmetry group, by (1) in the docstring of this module.  It takes
    O((k + k*)^3) time.  Where units can be reversed it takes that once near the teacher, and some hundreds of times far
    from it; should more than `NODES` sets of units be left to look at, the distance is that of the best set seen.

    Parameters
    ----------
    arch : Architecture or str
        Of both.
    theta, theta_star : array_like, shapes (n,) and (n*,)
        Student and teacher.  Their widths may differ.
    d : int
        Input dimension.

    Raises
    ------
    ValueError, TypeError
        When theta or theta_star does not fit the architecture or is not finite.

    Examples
    --------
    >>> import resgrad as rg
    >>> theta_star = rg.draw("resnet", "normal", d=3, rng=0)
    >>> theta = rg.transform("resnet", theta_star, 3, [2, 0, 1], scales=[0.5, 1.0, 4.0])
    >>> al = rg.align("resnet", theta, theta_star, d=3)
    >>> bool(al.raw_distance > 1), bool(al.distance < 1e-14)
    (True, True)
    >>> al.permutation, al.scales.round(12), al.units_moved
    (array([2, 0, 1]), array([0.5, 1. , 4. ]), 3)
    """
    near = _Nearest(arch, theta, theta_star, d)
    (k, k_star), s, (match, turned, c) = (len(x.u) for x in near.units), near.s, near.work()
    return Alignment(
        arch=s.arch, distance=near.distance, raw_distance=near.raw,
        permutation=np.where(match < k_star, match, -1)[:k], scales=c[np.arange(len(match)), match][:k],
        unidentifiable=_norm(s.unseen - near.t.unseen[near.order]),
        teacher=near.image.each(lambda rows: rows[:k]).theta(), missing=tuple(sorted(match[k:].tolist())),
        units=near.units,
        reversed=tuple(np.flatnonzero((turned & ~near.dead)[match][:k]).tolist()),
    )  # fmt: skip


def distance(arch: Architecture | str, theta: ArrayLike, theta_star: ArrayLike, d: int) -> float:
    """`Alignment.distance` alone, in half the time where units can be reversed and rescaled.

    >>> distance("li-free", [1.0, 3.0], [1.0, 3.0], d=1)
    0.0
    """
    return _Nearest(arch, theta, theta_star, d).distance


class _Nearest:
    """The image of a teacher that is nearest to a student, both padded to the same width."""

    def __init__(self, arch, theta, theta_star, d):
        self.units = Units.of(arch, theta, d), Units.of(arch, theta_star, d, "theta_star")
        (k, k_star), width = (len(x.u) for x in self.units), max(len(x.u) for x in self.units)
        self.s, self.original = s, original = tuple(_padded(x, width) for x in self.units)
        self.turned = _reversals(s, original) if s.reversible else np.zeros(width, bool)
        self.t, self.dead = t, dead = original.turned(self.turned), _dead(s, original)
        cost, c, self.costs = _orbit_costs(s, t, dead)
        rows, order = _, self.order = linear_sum_assignment(cost)
        self.c = c = np.where(dead, 1.0, c)
        lone, scales = dead[order], c[rows, order][:, None]
        u, a = scales * t.u[order], t.a[order] / scales
        by_u = (s.arch.readout == "fixed") | (lengths(s.u) <= lengths(s.a))
        u[lone], a[lone] = s.u[lone], s.a[lone]  # opposite a dead unit of the teacher is the nearest dead unit
        u[lone & by_u], a[lone & ~by_u] = 0.0, 0.0
        self.image = replace(s, u=u, a=a, skip=t.skip)
        self.raw = _distance(s, original)
        if k == k_star:
            self.raw = _norm(np.subtract(theta, theta_star, dtype=np.float64))
        self.distance = min(_distance(s, self.image), self.raw)  # the identity is a symmetry

    def work(self):
        """Who does whose work: the teacher unit of each student unit, which are turned, and the scales (k, k)."""
        s, original, turned, t, c, costs = self.s, self.original, self.turned, self.t, self.c, self.costs
        if s.reversible and s.arch.readout != "fixed":
            turned = _reversals(s, original, WORK)
            t = original.turned(turned)
            _, c, costs = _orbit_costs(s, t, self.dead)
        rows, match = linear_sum_assignment(costs)
        skips = (_norm(s.skip - x.skip) / _unit(s, original) for x in (self.t, t))
        pairs = zip((self.costs, costs), (self.order, match), skips)
        first, second = (x[rows, order].sum() + skip**2 for x, order, skip in pairs)
        if first <= (1 + TIE) * second + TIE**2 * self.costs.max():
            return self.order, self.turned, self.c
        return match, turned, np.where(self.dead, 1.0, c)


def _padded(units, width):
    """The units and zero units, ``width`` in all.  A fixed read-out has a = 1 in all of them."""
    units = units.each(lambda rows: np.concatenate([rows, np.zeros((width - len(rows), rows.shape[1]))]))
    return replace(units, a=np.ones((width, 1))) if units.arch.readout == "fixed" else units


def _norm(array):
    return float(lengths(array.reshape(1, -1))[0])


def _distance(s, t):
    parts = s.u - t.u, s.a - t.a, s.unseen - t.unseen, s.skip - t.skip
    return _norm(np.concatenate([part.ravel() for part in parts]))


def _dead(s, t):
    """Which teacher units are dead, or so weak that p and q of (1) would be beyond 1e300."""
    return t.dead(EPS**2) | (t.strength() <= TINY**2 * max(np.abs(s.u).max(), np.abs(s.a).max()))


def _unit(s, t):
    """A unit of length in which the squares of all lengths, and of their products with `TINY`, are floats."""
    return max(TINY, max(lengths(rows).max() for rows in (s.u, s.a, t.u, t.a))) * TINY


@np.errstate(over="ignore")  # what overflows is beyond
def _reversals(s, t, which=NEAREST):
    """Which teacher units are reversed in the nearest image, boolean (k,); see the docstring of the module."""
    dead, unit = _dead(s, t), _unit(s, t)
    costs = np.stack([_orbit_costs(s, x, dead)[which] for x in (t, replace(t, u=-t.u))])
    gains = t.linear().reshape(dead.size, -1) / unit
    gap = np.clip((s.skip - t.skip).ravel() / unit, -BEYOND, BEYOND)
    beyond = np.abs(gains).max(axis=1, initial=0) > BEYOND
    gains[beyond] = 0.0
    size = max(costs.max() ** 0.5, np.abs(gains).max(initial=0), np.abs(gap).max(initial=0)) or 1.0
    return _cheapest(*costs / size / size, gains / size, gap / size, np.where(beyond, 0, -1))


def _cheapest(ahead, back, gains, gap, decided):
    """The set S of units l, boolean (k,), that costs least: for the best matching the sum of ``ahead``[j, l], or of
    ``back``[j, l] if l is in S, and |gap - sum_S gains_l|^2.  Units that are ``decided`` are in it (1) or not (0).
    """
    best, enough, chosen, made, length = np.inf, np.inf, decided > 0, 0, lengths(gains) + TINY
    heap = [(0.0, made, decided, np.zeros(len(gains)), ahead[linear_sum_assignment(ahead)].sum())]
    for _ in range(NODES):
        if not heap or heap[0][0] >= enough:
            break
        least, _, decided, x, paid = heapq.heappop(heap)
        stay, turn = np.where(decided > 0, np.inf, ahead), np.where(decided == 0, np.inf, back)
        for _ in range(LOOKS):
            y = gap - x @ gains
            price = -2 * (gains @ y)
            cost = np.minimum(stay, turn + price)
            match = rows, order = linear_sum_assignment(cost)
            turned = np.zeros(len(gains), bool)
            turned[order] = cost[match] < stay[match]
            least = max(least, cost[match].sum() + 2 * (y @ gap) - y @ y)  # (2)
            own, rest = np.where(turned[order], back[match], stay[match]).sum(), gap - turned @ gains
            if own + rest @ rest < best:
                best, chosen = own + rest @ rest, turned
                enough = best * (1 - TIE) - 2 * len(gains) * EPS * best**0.5  # the last term is for rounding in (2)
            if least >= enough:
                break
            step, saved = rest - y, paid - own
            part = min(max((saved / 2 - y @ step) / max(step @ step, TINY**2), 0.0), 1.0)
            x, paid = x + part * (turned - x), paid - part * saved
        open_ = decided < 0
        if open_.any() and least < enough:
            unsure = np.argmax(np.where(open_, (x * (1 - x) + UNSURE) * length, -1.0))
            for choice in (0, 1):
                child, start, made = decided.copy(), x.copy(), made + 1
                child[unsure] = start[unsure] = choice
                heapq.heappush(heap, (least, made, child, start, paid))
    return chosen


def _orbit_costs(s, t, dead):
    """The squared distance (1) of each student unit to each teacher unit's orbit, the scale c of the nearest point of
    the orbit, and the squared distance of the balanced units: three (k, k).
    """
    chord_u, (x, w, y, v), unit = _chords(s.u, t.u), map(lengths, (s.u, s.a, t.u, t.a)), _unit(s, t)
    x, w, y, v = x[:, None] / unit, w[:, None] / unit, y / unit, v / unit
    if s.arch.readout == "fixed":
        cost = (x - y) ** 2 + x * y * chord_u  # the law of cosines
        c, alone, work = np.ones(cost.shape), x**2, cost
    else:
        chord_a = _chords(s.a, t.a)
        s_b, t_b = np.sqrt(x) * np.sqrt(w), np.sqrt(y) * np.sqrt(v)
        work = 2 * (s_b - t_b) ** 2 + s_b * t_b * (chord_u + chord_a)
        y, v = np.where(dead, 1.0, y), np.where(dead, 1.0, v)
        b, along_u, along_a = np.sqrt(y) * np.sqrt(v), x * (1 - chord_u / 2), w * (1 - chord_a / 2)
        nearest = _project_on_hyperbola(along_u / b, along_a / b)
        cost = x * x * chord_u * (1 - chord_u / 4) + (b * nearest - along_u) ** 2
        cost += w * w * chord_a * (1 - chord_a / 4) + (b / nearest - along_a) ** 2
        c, alone = nearest * (np.sqrt(v) / np.sqrt(y)), np.minimum(x, w) ** 2
    return np.where(dead, alone, cost), c, work


def _chords(rows, others):
    """|r - o|^2 for all pairs of the rows' directions, to full relative accuracy near 0."""
    rows, others = directions(rows), directions(others)
    chords = 2.0 - 2.0 * (rows @ others.T)
    close = np.nonzero(chords < 1e-3)  # the difference has lost digits there
    difference = rows[close[0]] - others[close[1]]
    chords[close] = np.einsum("ij,ij->i", difference, difference)
    return chords


def _project_on_hyperbola(p, q):
    """t > 0 that minimizes (t - p)^2 + (1 / t - q)^2, for arrays p and q of one shape.

    The stationary points are the positive roots of f(t) = t^4 - p t^3 + q t - 1, one or three, and of three the
    smallest and the largest are minima.  Newton's method starts from an upper bound, within a small factor, and falls
    monotonically to the largest root wherever this is at least p / 2, because f is convex there.  With p and q
    exchanged it finds 1 / t for the smallest root.  One of the two is the global minimum: the better one is right.
    """
    P = np.clip(np.array([p, q]), -HUGE, HUGE)
    Q = P[::-1]
    falling, rising = np.maximum(-P, 1e-30), np.maximum(-Q, 0.0)
    t = np.minimum(np.cbrt(1 + rising), np.maximum(np.cbrt(2 / falling), np.sqrt(2 * rising / falling)))
    t = np.minimum(t + np.maximum(P, 0.0), np.maximum(2 * P, 2 / np.maximum(Q, 1e-30)))
    floor, P3 = np.maximum(P / 2, 1e-300), 3 * P
    for _ in range(100):
        square = t * t
        slope = square * (4 * t - P3) + Q
        step = (square * t * (t - P) + Q * t - 1) / np.where(slope > 0, slope, np.inf)
        last, t = t, np.maximum(t - np.maximum(step, 0.0), floor)
        if (last - t <= 1e-8 * t).all():
            break
    t[1] = 1 / t[1]
    gap = (t - P[0]) ** 2 + (1 / t - P[1]) ** 2
    t = np.where(gap[0] <= gap[1], t[0], t[1])
    far = np.where(p > q, p, 1 / np.maximum(q, 1.0))  # there the hyperbola is its asymptote
    return np.where(np.maximum(p, q) < HUGE, t, far)
