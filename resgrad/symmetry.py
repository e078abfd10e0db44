"""What the loss cannot tell apart: permutations, rescalings, the unseen part; distance modulo them.

Imports ``architectures`` and ``checks``.  A network is its units (u_j, a_j), the columns of U and
the rows of A (see ``kernels``).  Its function sum_j a_j relu(u_j'x) + C'x does not change when

* units are permuted: every read-out.  In parameters: W1 -> (W1 + identity E) P - identity E;
* a unit is rescaled, u -> c u and a -> a / c with c > 0: ``sum`` and ``vector``;
* rows that sum to 0, the *unseen part*, are added to W2: ``sum``, which sees only W2 1.

These maps form a group.  `align` measures how far the student is from the nearest image of the
teacher, min_g |theta - g theta*|.  It is 0 where the two agree up to symmetry, never more than
|theta - theta*|, and continuous in theta.  (The distance of the two balanced forms, |u_j| = |a_j|,
can exceed the raw one, and is blind to where on its orbit the student is.)

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

A dead unit (u = 0 or a = 0) has for its orbit every dead unit, at distance min(|u|, |a|).  A
student wider than its teacher is compared with a teacher padded by dead units; a narrower student
is padded by zero units (u = 0, a = 0), at squared distance 2|u*||a*| from a live orbit.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from . import architectures, checks

EPS = float(np.finfo(np.float64).eps)
DEAD = 1e-8  # of the largest |u||a|: a unit below it is named dead and does not count as moved
PARALLEL = 1e-6  # |u^ - v^|: between such units the loss sees a difference of 1e-12
HUGE = 1e70  # its fourth power is a float


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

    def dead(self, tolerance):
        strength = _norm(self.u) * _norm(self.a)
        return strength <= tolerance * strength.max()


def _norm(rows):
    return np.sqrt(np.einsum("ij,ij->i", rows, rows))


def _indices(mask):
    return tuple(map(int, np.flatnonzero(mask)))


@dataclass(frozen=True, eq=False)
class Alignment:
    """A student and its teacher compared modulo symmetry; ``str()`` of it is a short report.

    Attributes
    ----------
    arch : Architecture
    distance : float
        min_g |theta - g theta*| over the symmetries g.
    raw_distance : float
        |theta - theta*|.  If the widths differ, the narrower network is padded by zero units.
    permutation : ndarray of int, shape (k,)
        Student unit j is matched to teacher unit ``permutation[j]``; -1: to nothing.
    scales : ndarray, shape (k,)
        u_j is compared with ``scales[j]`` u*, a_j with a* / ``scales[j]``.  1 for ``fixed`` and
        for units matched to nothing or to a dead unit.
    unidentifiable : float
        Size of what was projected out: |V - V*|, V = W2 (I - 1 1'/d) the unseen part, teacher's
        rows permuted as matched.  Training never changes V.  0 unless the read-out is ``sum``.
    teacher : ndarray, shape (n,)
        The nearest symmetric teacher, in student coordinates, to compare with theta entry by
        entry.  A unit matched to nothing faces the nearest dead unit.
    units_moved : int
        Live units matched to a live unit in another place.
    dead, dead_star : tuple of int
        Units of student and teacher that contribute nothing (u = 0 or a = 0, within `DEAD`).
    extra, missing : tuple of int
        Student units matched to nothing, and teacher units that nothing is matched to.
    parallel, parallel_star : tuple of pairs of int
        Live units of one network with the same direction u.  Only the sum of |u_j| a_j over them
        is seen; how it is split among them is free, and is not projected out.
    """

    arch: architectures.Architecture
    distance: float
    raw_distance: float
    permutation: np.ndarray
    scales: np.ndarray
    unidentifiable: float
    teacher: np.ndarray
    missing: tuple
    units: tuple  # the _Units of student and teacher

    extra = cached_property(lambda self: _indices(self.permutation < 0))
    dead = cached_property(lambda self: _indices(self.units[0].dead(DEAD)))
    dead_star = cached_property(lambda self: _indices(self.units[1].dead(DEAD)))
    parallel = cached_property(lambda self: _parallel(self.units[0].u, self.dead))
    parallel_star = cached_property(lambda self: _parallel(self.units[1].u, self.dead_star))

    @cached_property
    def units_moved(self):
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
        for name in ("dead", "dead_star", "extra", "missing", "parallel", "parallel_star"):
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
    >>> from resgrad import symmetry
    >>> theta_star = rg.draw("resnet", "normal", d=3, rng=0)
    >>> theta = symmetry.transform("resnet", theta_star, 3, [2, 0, 1], scales=[0.5, 1.0, 4.0])
    >>> al = symmetry.align("resnet", theta, theta_star, d=3)
    >>> bool(al.raw_distance > 1), bool(al.distance < 1e-14)
    (True, True)
    >>> al.permutation, al.scales.round(12), al.units_moved
    (array([2, 0, 1]), array([0.5, 1. , 4. ]), 3)
    """
    arch, d = architectures.resolve(arch), checks.integer(d, "d")
    s, t = _Units.of(arch, theta, d), _Units.of(arch, theta_star, d, "theta_star")
    permutation, missing, scales, image, squared = _nearest(s, t, arch.readout == "fixed")
    if len(s.u) == len(t.u):
        raw = np.linalg.norm(np.subtract(theta, theta_star, dtype=np.float64))
    else:
        raw = _padded_distance(s, t, arch.readout == "fixed")
    unidentifiable = 0.0
    if arch.readout == "sum":
        V_star = np.where(permutation[:, None] < 0, 0.0, t.unseen[permutation])
        unidentifiable = np.hypot(np.linalg.norm(s.unseen - V_star), np.linalg.norm(t.unseen[missing]))
    return Alignment(
        arch=arch,
        distance=float(min(squared**0.5, raw)),  # the identity is a symmetry
        raw_distance=float(raw),
        permutation=permutation,
        scales=scales,
        unidentifiable=float(unidentifiable),
        teacher=image.theta(arch),
        missing=tuple(sorted(map(int, missing))),
        units=(s, t),
    )


def _padded_distance(s, t, fixed):
    """|theta - theta*|, the narrower network padded by zero units (fixed: u = 0 alone)."""
    k, wider = min(len(s.u), len(t.u)), max(s, t, key=lambda units: len(units.u))
    parts = [(x[:k] - y[:k]).ravel() for x, y in zip(s, t)]
    parts += [x[k:].ravel() for x in (wider.u, wider.unseen, *([] if fixed else [wider.a]))]
    return np.linalg.norm(np.concatenate(parts))


def _parallel(u, dead):
    live = np.setdiff1d(np.arange(len(u)), dead)
    directions = u[live] / _norm(u[live])[:, None]
    near = np.triu(_chords(directions, directions) < PARALLEL**2, 1)
    return tuple((int(live[i]), int(live[j])) for i, j in zip(*np.nonzero(near)))


def _nearest(s, t, fixed):
    """(permutation, missing, scales, image, squared distance) of the nearest image of ``t``."""
    from scipy.optimize import linear_sum_assignment

    k, k_star, dead = len(s.u), len(t.u), t.dead(EPS**2)
    cost, c = _orbit_costs(s, t, dead, fixed)
    match = linear_sum_assignment(cost)[1]
    permutation, missing = np.where(match < k_star, match, -1)[:k], match[k:]
    lone = (permutation < 0) | dead[permutation]
    pairs = np.flatnonzero(~lone), permutation[~lone]
    u, a, scales = s.u.copy(), s.a.copy(), np.ones(k)
    scales[pairs[0]] = c[pairs]
    u[pairs[0]] = c[pairs][:, None] * t.u[pairs[1]]
    a[pairs[0]] = t.a[pairs[1]] / c[pairs][:, None]
    if lone.any():  # they face the nearest dead unit
        by_u = _norm(s.u) <= (np.inf if fixed else _norm(s.a))
        u[lone & by_u] = 0.0
        a[lone & ~by_u] = 0.0
    squared = ((s.u - u) ** 2).sum() + ((s.a - a) ** 2).sum() + cost[range(k, len(cost)), missing].sum()
    return permutation, missing, scales, s._replace(u=u, a=a), squared


def _orbit_costs(s, t, dead, fixed):
    """Squared distance (1) of each student unit to each teacher unit's orbit, and the scales c.

    The costs are padded to a square: by columns, the distances to a dead unit, for absent teacher
    units; by rows, those of a zero unit, for absent student units.
    """
    x, w, y, v = map(_norm, (s.u, s.a, t.u, t.a))
    chord_u = _chords(s.u / np.where(x, x, 1.0)[:, None], t.u / np.where(y, y, 1.0)[:, None])
    if fixed:
        cost = (x[:, None] - y) ** 2 + x[:, None] * y * chord_u  # the law of cosines
        c, alone, absent = np.ones(cost.shape), x**2, y**2
    else:
        y, v = np.where(dead, 1.0, y), np.where(dead, 1.0, v)
        b, x, w = np.sqrt(y * v), x[:, None], w[:, None]
        chord_a = _chords(s.a / np.where(w, w, 1.0), t.a / v[:, None])
        along_u, along_a = x * (1 - chord_u / 2), w * (1 - chord_a / 2)
        nearest = _project_on_hyperbola(along_u / b, along_a / b)
        cost = x * x * chord_u * (1 - chord_u / 4) + (b * nearest - along_u) ** 2
        cost += w * w * chord_a * (1 - chord_a / 4) + (b / nearest - along_a) ** 2
        c, alone, absent = nearest * np.sqrt(v / y), np.minimum(x, w)[:, 0] ** 2, 2 * y * v
    cost[:, dead] = alone[:, None]
    absent[dead] = 0.0
    k, k_star = cost.shape
    if k != k_star:
        square = np.zeros((max(k, k_star), max(k, k_star)))
        square[:k, :k_star], square[:k, k_star:], square[k:, :k_star] = cost, alone[:, None], absent
        cost = square
    return cost, c


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
    return np.where(gap[0] <= gap[1], t[0], t[1])


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
    x, w = _norm(units.u), _norm(units.a)
    live = (x > 0) & (w > 0)
    c = np.sqrt(np.where(live, w, 1.0) / np.where(live, x, 1.0))[:, None]
    u, a = np.where(live[:, None], units.u * c, 0.0), np.where(live[:, None], units.a / c, 0.0)
    return _Units(u, a, np.zeros_like(units.unseen)).theta(arch)


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
    columns = []
    for j in np.flatnonzero(np.hypot(_norm(units.u), _norm(units.a))):
        dW1, dW2 = np.zeros((d, k)), np.zeros((k, d))
        dW1[:, j], dW2[j] = units.u[j], -units.a[j] / (d**0.5 if arch.readout == "sum" else 1.0)
        column = arch.flatten(dW1, dW2)
        columns.append(column / np.linalg.norm(column))
    basis = np.array(columns).reshape(-1, 2 * d * k).T
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
