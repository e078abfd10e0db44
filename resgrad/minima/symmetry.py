"""What the loss cannot tell apart: permutations, rescalings, the unseen part; distance modulo them.

Imports ``architectures`` and ``checks``.  A network is its units (u_j, a_j), the columns of U and
the rows of A (see ``kernels``).  Its function sum_j a_j relu(u_j'x) + C'x does not change when

* units are permuted: every read-out.  In parameters: W1 -> (W1 + identity E) P - identity E;
* a unit is rescaled, u -> c u and a -> a / c with c > 0: ``sum`` and ``vector``;
* rows that sum to 0, the *unseen part*, are added to W2: ``sum``, which sees only W2 1.

These maps form a group.  `align` measures how far the student is from the nearest image of the
teacher, min_g |theta - g theta*|: 0 where the two agree up to symmetry, never more than
|theta - theta*|, continuous in theta.  (The distance of the two balanced forms, |u_j| = |a_j|, can
exceed the raw one, and is blind to where on its orbit the student is.)

Over permutations it is an assignment.  cost[j, l] is the squared distance of student unit j to the
orbit of teacher unit l, that is, to all (u, a) with the rank-one map u* (x) a* and its orientation
((-u, -a) has the same map, but relu tells them apart).  With phi and psi the angles between u and
u*, a and a*, and b = (|u*||a*|)^(1/2), the norm of u* and of a* when they are balanced,

    min_c |u - c u*|^2 + |a - a* / c|^2                                                          (1)
        = |u|^2 sin^2 phi + |a|^2 sin^2 psi + b^2 min_t [(t - p)^2 + (1 / t - q)^2],
      p = |u| cos phi / b,     q = |a| cos psi / b,     c = t (|a*| / |u*|)^(1/2):

the distance from the point (p, q) to the hyperbola (t, 1 / t), where t^4 - p t^3 + q t - 1 = 0.
It is attained for every student, also for u = 0 or a = 0.  For ``sum``, a is the component of the
row of W2 along 1 / d^(1/2).  For ``fixed``, c = 1.

The distance, and the teacher at it, depend on where on its orbit the student is.  Which unit does the
work of which does not: `Alignment.permutation` minimizes the distance of the two balanced forms, sum_j
|u_j - u*_l|^2 + |a_j - a*_l|^2 with |u| = |a| throughout, a function of the rank-one maps and their
orientations alone.  Near the teacher's orbit the two matchings agree, and where the second has ties the
first decides.

A dead unit (u = 0 or a = 0) has for its orbit every dead unit, at distance min(|u|, |a|).  The
narrower network is padded by zero units (u = 0, a = 0): as the teacher's they are dead, as the
student's they have squared distance 2|u*||a*| from a live orbit.

Not every coincidence is a symmetry of this kind.  Parallel units can share their a (`Alignment.parallel`);
and, as relu(z) = relu(-z) + z, any set S of units with sum_S a_j u_j' = 0 can be turned around, u -> -u:
for ``vanilla``, U = [[1, 0, -1], [0, 1, -1]] and -U are one function.  No generic teacher has such a set.
`align` does not project this out, it names the pairs (`Alignment.flipped`).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from .. import architectures, checks

EPS = float(np.finfo(np.float64).eps)
DEAD = 1e-8  # of the largest |u||a|: a unit below it is named dead and does not count as moved
PARALLEL = 1e-6  # |u^ - v^|: between such units the loss sees a difference of 1e-12
HUGE = 1e70  # its fourth power is a float
TIE = 1e-9  # relative difference of two matchings that are as good
TINY = 1e-150  # 1 / TINY squared is a float, too


class _Units(NamedTuple):
    """A network's units, one a row, in coordinates where parameter distance is Euclidean."""

    u: np.ndarray  # (k, d)
    a: np.ndarray  # (k, m)
    unseen: np.ndarray  # (k, d) for "sum", else (k, 0)

    @classmethod
    def of(cls, arch, theta, d, name="theta"):
        theta = checks.array(theta, name, ("n",))
        try:
            U, A = arch.canonical(theta, d)
        except ValueError as error:
            raise ValueError(str(error).replace("theta", name, 1)) from None
        u, none = np.ascontiguousarray(U.T), np.empty((U.shape[1], 0))
        if arch.identity:
            u[:d][np.abs(u[:d]).max(axis=1) <= 4 * EPS * abs(arch.identity)] = 0.0  # W1 = -E to rounding
        if arch.readout != "sum":
            return cls(u, A, none)
        W2 = arch.unflatten(theta, d)[1]
        unseen = W2 - A / d
        A[np.abs(A) <= 4 * EPS * np.abs(W2).sum(axis=1, keepdims=True)] = 0.0  # likewise
        return cls(u, A / d**0.5, unseen)

    def theta(self, arch):
        k, d = self.u.shape
        W1 = self.u.T - arch.identity * np.eye(d, k)
        if arch.readout == "fixed":
            return arch.flatten(W1)
        return arch.flatten(W1, self.a / d**0.5 + self.unseen if arch.readout == "sum" else self.a)

    def padded(self, width):
        """With zero units up to ``width``."""
        zeros = (np.zeros((width - len(x), x.shape[1])) for x in self)
        return _Units(*map(np.concatenate, zip(self, zeros)))

    def strength(self):
        """(|u||a|)^(1/2) of each unit."""
        return np.sqrt(_norm(self.u)) * np.sqrt(_norm(self.a))

    def dead(self, tolerance=DEAD):
        strength = self.strength()
        return strength <= tolerance**0.5 * strength.max()


def _norm(rows):
    """The length of each row, also where its square is no float."""
    size = np.abs(rows).max(axis=1, initial=5e-324)
    rows = rows / size[:, None]
    return size * np.sqrt(np.einsum("ij,ij->i", rows, rows))


def _directions(rows):
    norm = _norm(rows)[:, None]
    return rows / np.where(norm, norm, 1.0)


def _indices(mask):
    return tuple(map(int, np.flatnonzero(mask)))


@dataclass(frozen=True, eq=False)
class Alignment:
    """A student and its teacher compared modulo symmetry; ``str()`` of it is a short report.

    ``extra`` are the student units matched to nothing, ``dead`` and ``dead_star`` the units of student
    and teacher that contribute nothing (u = 0 or a = 0, within `DEAD`), ``parallel`` and
    ``parallel_star`` the pairs of live units with one direction u.  Of these only the sum of |u_j| a_j is
    seen: how it is split among them is free, and is not projected out.  ``flipped`` are the pairs of a
    live student and a live teacher unit with opposite directions u.
    """

    arch: architectures.Architecture
    distance: float  # min_g |theta - g theta*| over the symmetries g
    raw_distance: float  # |theta - theta*|, the narrower network padded by zero units
    permutation: np.ndarray  # (k,): student unit j does the work of teacher unit permutation[j]; -1: of none
    scales: np.ndarray  # (k,): u_j faces scales[j] u*, a_j faces a* / scales[j]; 1 where there is no choice
    unidentifiable: float  # |V - V*|, V = W2 (I - 1 1'/d) the part that ``sum`` cannot see, as in ``teacher``
    teacher: np.ndarray  # (n,): the nearest symmetric teacher, to compare with theta entry by entry
    missing: tuple  # teacher units that nothing is matched to
    units: tuple  # the _Units of student and teacher

    extra = cached_property(lambda self: _indices(self.permutation < 0))
    dead = cached_property(lambda self: _indices(self.units[0].dead()))
    dead_star = cached_property(lambda self: _indices(self.units[1].dead()))
    parallel = cached_property(lambda self: self._along(0, 0))
    parallel_star = cached_property(lambda self: self._along(1, 1))
    flipped = cached_property(lambda self: self._along(0, 1, -1))

    def _along(self, one, other, sign=1):
        """Pairs of live units, the first's direction u being ``sign`` times the second's; of one network, each once."""
        dead = self.dead, self.dead_star
        first, second = (_directions(self.units[i].u) for i in (one, other))
        close = _chords(first, sign * second) < PARALLEL**2
        pairs = np.argwhere(np.triu(close, 1) if one == other else close).tolist()
        return tuple((i, j) for i, j in pairs if i not in dead[one] and j not in dead[other])

    @cached_property
    def units_moved(self):
        """Number of live units matched to a live unit in another place."""
        pairs = enumerate(self.permutation.tolist())
        return sum(l not in (j, -1, *self.dead_star) and j not in self.dead for j, l in pairs)

    def __str__(self):
        k, k_star = (len(units.u) for units in self.units)
        rows = {
            "raw distance": f"{self.raw_distance:.3e}",
            "modulo symmetry": f"{self.distance:.3e}",
            "units moved": f"{self.units_moved} of {k}",
            "permutation": " ".join(map(str, self.permutation)),
        }
        if self.arch.readout != "fixed":
            rows["scales"] = f"{self.scales.min():.4g} to {self.scales.max():.4g}"
        if self.arch.readout == "sum":
            rows["unseen part of W2"] = f"{self.unidentifiable:.3e}"
        for name in ("dead", "dead_star", "extra", "missing", "parallel", "parallel_star", "flipped"):
            if units := getattr(self, name):
                rows[name.replace("_star", " in teacher")] = " ".join(map(str, units))
        title = f"{self.arch.name}: {k} student units, {k_star} teacher units"
        return "\n".join([title, *(f"  {name:<20}{text}" for name, text in rows.items())])


def align(arch, theta, theta_star, d):
    """Compare a student with its teacher modulo the symmetries of the architecture.

    Parameters
    ----------
    arch : Architecture or str
        Of both.
    theta, theta_star : array_like, shapes (n,) and (n*,)
        Student and teacher; their widths may differ.
    d : int
        Input dimension.

    Returns
    -------
    Alignment

    Raises
    ------
    ValueError, TypeError
        When theta or theta_star does not fit the architecture or is not finite.

    Notes
    -----
    The distance is the exact minimum over the symmetry group; the module's docstring says why and
    derives it, (1).  O((k + k*)^3) time.

    Examples
    --------
    >>> import resgrad as rg
    >>> from resgrad.minima import symmetry
    >>> theta_star = rg.draw("resnet", "normal", d=3, rng=0)
    >>> theta = symmetry.transform("resnet", theta_star, 3, [2, 0, 1], scales=[0.5, 1.0, 4.0])
    >>> al = symmetry.align("resnet", theta, theta_star, d=3)
    >>> bool(al.raw_distance > 1), bool(al.distance < 1e-14)
    (True, True)
    >>> al.permutation, al.scales.round(12), al.units_moved
    (array([2, 0, 1]), array([0.5, 1. , 4. ]), 3)
    """
    arch, d = architectures.resolve(arch), checks.integer(d, "d")
    units = _Units.of(arch, theta, d), _Units.of(arch, theta_star, d, "theta_star")
    k, k_star = (len(x.u) for x in units)
    s, t = (x.padded(max(k, k_star)) for x in units)
    if fixed := arch.readout == "fixed":
        s, t = (x._replace(a=np.ones((len(x.u), 1))) for x in (s, t))
    match, scales, image, order = _nearest(s, t, fixed)
    raw = _distance([theta], [theta_star]) if k == k_star else _distance(s, t)
    return Alignment(
        arch=arch,
        distance=min(_distance(s, image), raw),  # the identity is a symmetry
        raw_distance=raw,
        permutation=np.where(match < k_star, match, -1)[:k],
        scales=scales[:k],
        unidentifiable=_distance([s.unseen], [t.unseen[order]]),
        teacher=_Units(*(x[:k] for x in image)).theta(arch),
        missing=tuple(sorted(map(int, match[k:]))),
        units=units,
    )


def _distance(arrays, others):
    gaps = [np.subtract(x, y, dtype=np.float64).ravel() for x, y in zip(arrays, others)]
    return float(_norm(np.concatenate(gaps)[None])[0])


def _nearest(s, t, fixed):
    """(match, scales, image, order): unit ``match[j]`` of ``t`` does the work of unit j of ``s``, and
    ``order[j]`` faces it in the nearest ``image`` of ``t``."""
    from scipy.optimize import linear_sum_assignment

    dead = t.dead(EPS**2)
    cost, c, work = _orbit_costs(s, t, dead, fixed)
    rows, order = linear_sum_assignment(cost)
    match = order if fixed else linear_sum_assignment(work)[1]
    if work[rows, order].sum() <= (1 + TIE) * work[rows, match].sum() + TIE**2 * work.max():
        match = order
    c = np.where(dead, 1.0, c)
    lone, scales = dead[order], c[rows, order][:, None]
    u, a = scales * t.u[order], t.a[order] / scales
    if lone.any():  # they face the nearest dead unit
        by_u = fixed | (_norm(s.u) <= _norm(s.a))
        u[lone], a[lone] = s.u[lone], s.a[lone]
        u[lone & by_u] = 0.0
        a[lone & ~by_u] = 0.0
    return match, c[rows, match], s._replace(u=u, a=a), order


def _orbit_costs(s, t, dead, fixed):
    """Squared distance (1) of each student unit to each teacher unit's orbit, the scales c, and the squared
    distance of the balanced units.

    All in a unit of length that keeps the squares floats.
    """
    x, w, y, v = map(_norm, (s.u, s.a, t.u, t.a))
    chord_u = _chords(_directions(s.u), _directions(t.u))
    unit = max(TINY, np.max([x, w, y, v])) * TINY
    x, w, y, v = x[:, None] / unit, w[:, None] / unit, y / unit, v / unit
    if fixed:
        cost = (x - y) ** 2 + x * y * chord_u  # the law of cosines
        c, alone, work = np.ones(cost.shape), x**2, cost
    else:
        chord_a = _chords(_directions(s.a), _directions(t.a))
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
    """|r - o|^2 for all pairs of unit vectors, to full relative accuracy near 0."""
    chords = 2.0 - 2.0 * (rows @ others.T)
    close = np.nonzero(chords < 1e-3)  # where the difference has lost digits
    if close[0].size:
        difference = rows[close[0]] - others[close[1]]
        chords[close] = np.einsum("ij,ij->i", difference, difference)
    return chords


def _project_on_hyperbola(p, q):
    """t > 0 that minimizes (t - p)^2 + (1 / t - q)^2, for arrays p and q of one shape.

    Stationary are the positive roots of f(t) = t^4 - p t^3 + q t - 1: one, or three of which the
    smallest and the largest are minima.  From an upper bound (within a small factor), Newton's
    method falls monotonically to the largest root wherever that is at least p / 2, for f is convex
    there; with p and q exchanged it finds 1 / t for the smallest.  At least one of the two applies
    to the global minimum, and no t is better than that one, so the better of both is right.
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


def transform(arch, theta, d, permutation=None, scales=None, unseen=None):
    """The same function with other parameters, shape (n,): unit j becomes unit ``permutation[j]``,
    then u_j times ``scales[j]`` > 0 and a_j over it; ``unseen`` (k, d), less its row means, is
    added to W2.

    Raises ValueError where that is no symmetry of the architecture.

    >>> transform("resnet", [1.0, 2.0, 3.0, 4.0], 1, [1, 0], scales=[2.0, 0.5])
    array([4. , 0.5, 2. , 6. ])
    """
    arch, d = architectures.resolve(arch), checks.integer(d, "d")
    units = _Units.of(arch, theta, d)
    k = len(units.u)
    if permutation is not None:
        order = np.asarray(permutation)
        if order.shape != (k,) or sorted(order.tolist()) != list(range(k)):
            raise ValueError(f"permutation is {checks.shown(permutation)}, but must permute 0 ... {k - 1}")
        units = _Units(*(x[order] for x in units))
    if scales is not None:
        c = checks.array(scales, "scales", (k,))[:, None]
        if arch.readout == "fixed" or not (c > 0).all():
            wanted = "None: the read-out is fixed" if arch.readout == "fixed" else "positive"
            raise ValueError(f"scales is {checks.shown(scales)}, but must be {wanted}")
        units = units._replace(u=units.u * c, a=units.a / c)
    if unseen is not None:
        V = checks.array(unseen, "unseen", (k, d))
        if arch.readout != "sum":
            raise ValueError(f"unseen is given, but {arch.name} sees all of its parameters")
        units = units._replace(unseen=units.unseen + V - V.mean(axis=1, keepdims=True))
    return units.theta(arch)


def balanced(arch, theta, d):
    """The canonical form of ``theta``, shape (n,): |u_j| = |a_j| for every unit, no unseen part.

    The representative of least norm on the orbit of theta under rescaling and the unseen part,
    unique up to the order of the units.  For ``sum`` |a_j| is the norm of the row of W2.

    >>> balanced("resnet", [8.0, 2.0], d=1)
    array([4., 4.])
    """
    arch, d = architectures.resolve(arch), checks.integer(d, "d")
    units = _Units.of(arch, theta, d)
    if arch.readout == "fixed":
        return units.theta(arch)
    b = units.strength()[:, None]
    return _Units(b * _directions(units.u), b * _directions(units.a), 0 * units.unseen).theta(arch)


def gauge(arch, theta, d):
    """(a representative of theta's orbit, the options of `transform` that take it back to theta).

    It has |u_j|^2 - |a_j|^2 = max_l |u_l| |a_l| for every unit with u_j != 0, and no unseen part.  As
    gradient flow conserves the left side, an a_j can vanish or turn around there and u_j lives on;
    in `balanced` form they vanish together, and nothing passes.

    >>> gauge("resnet", [8.0, 3.0], d=1)[1]["scales"].round(6)
    array([1.28378])
    """
    arch, d = architectures.resolve(arch), checks.integer(d, "d")
    units = _Units.of(arch, theta, d)
    if arch.readout == "fixed":
        return theta, {}
    length, product = _norm(units.u), units.strength() ** 2
    half = product.max() / 2 or 0.5
    scales = np.where(length, length / np.sqrt(half + np.hypot(half, product)), 1.0)
    back = {"scales": scales, "unseen": units.unseen if arch.readout == "sum" else None}
    units = units._replace(u=units.u / scales[:, None], a=units.a * scales[:, None], unseen=0 * units.unseen)
    return units.theta(arch), back


def tangent(arch, theta, d):
    """Orthonormal basis, shape (n, r), of the tangent space of theta's symmetry orbit.

    A rescaling (u_j, -a_j) for each unit (``sum``, ``vector``) and d - 1 unseen directions for
    each row of W2 (``sum``): r = k (``vector``), k d (``sum``) or 0 (``fixed``), less one for each
    unit with u = 0 and a = 0.  At critical points these are null directions of the Hessian.

    >>> tangent("resnet", [0.6, 0.8], d=1)
    array([[ 0.6],
           [-0.8]])
    """
    arch, d = architectures.resolve(arch), checks.integer(d, "d")
    units = _Units.of(arch, theta, d)
    k = len(units.u)
    if arch.readout == "fixed":
        return np.zeros((units.u.size, 0))
    live = np.flatnonzero(np.hypot(_norm(units.u), _norm(units.a)))
    dW1, dW2 = np.zeros((live.size, d, k)), np.zeros((live.size, k, d))
    row, share = np.arange(live.size), d**0.5 if arch.readout == "sum" else 1.0
    dW1[row, :, live], dW2[row, live] = units.u[live], -units.a[live] / share
    basis = _directions(np.hstack([dW1.reshape(live.size, -1), dW2.reshape(live.size, -1)])).T
    if arch.readout == "vector":
        return basis
    across = np.linalg.qr(np.hstack([np.ones((d, 1)), np.eye(d, d - 1)]))[0][:, 1:]  # orthogonal to 1
    unseen = np.vstack([np.zeros((d * k, k * (d - 1))), np.kron(np.eye(k), across)])
    return np.hstack([basis, unseen])


def convert(theta, d, source, target):
    """Parameters of ``source`` as parameters of ``target``, for the same function.

    Architectures that differ only in their ``identity`` are reparametrizations of each other:
    W1 -> W1 + (source.identity - target.identity) E.  It is a translation, so it commutes with
    SGD: from equivalent starts both train along the same curve.

    >>> convert([1.5, 2.0], 1, "resnet", "modresnet")  # W1 = I + 0.5
    array([0.5, 2. ])
    """
    source, target = architectures.resolve(source), architectures.resolve(target)
    if (source.skip, source.readout) != (target.skip, target.readout):
        raise ValueError(f"{source.name} and {target.name} differ in more than their identity")
    W1, W2 = source.unflatten(checks.array(theta, "theta"), checks.integer(d, "d"))
    return target.flatten(W1 + (source.identity - target.identity) * np.eye(*W1.shape), W2)
