"""Proofs about critical points of the exact expected loss: `certify`, on the enclosures of `balls`.

Symmetry.  Rescaling a unit does not change the loss.  So where the read-out is trained, the proof is about

    f(x) = loss(x) + sigma |T'(x - x_0)|^2 / 2,                                                                  (1)

the columns of T being t_j = (u_j, -a_j) / |(u_j, a_j)| at x_0, in the coordinates x of `balls`.  The loss is constant
along orbits, so a critical point of f has J(x)'T T'(x - x_0) = 0, J the tangents of the orbit at x.  J'T is diagonal,
and positive where no unit has moved by more than a quarter of its length.  So T'(x - x_0) = 0 there, and the gradient
of the loss is 0, too.

Spectrum.  Floating point finds Q and L with H Q = Q L, nearly, for the midpoint H of an enclosure.  With bounds
e >= |Q'Q - I| and E >= |H Q - Q L|, W = Q (Q'Q)^(-1/2) is orthogonal, and any symmetric H + P has

    |H + P - W L W'| <= 2 e |L| / (1 - e) + E / (1 - e)^(1/2) + |P| =: b,                                         (2)

so that its eigenvalues are those of L up to b (Weyl).  |.| is the 2-norm.  The first two terms: with S = (Q'Q)^(1/2),
H = (Q L + R) Q^-1 = W S L S^-1 W' + R Q^-1 and |S - I| <= e.

Existence.  Let l > 0 be the smallest size of an eigenvalue in L, g the gradient at x_0, and b the bound (2) for all H
on the ball |x - x_0| <= r.  There the map x -> x - W L^-1 W' grad f(x) has a derivative of size at most b / l, and it
moves x_0 by at most |g| / l.  If

    |g| / l + (b / l) r < r,                                                                                     (3)

it contracts the ball into itself (Krawczyk's test, in the 2-norm): f has exactly one critical point in the ball, and it
is at most |g| / (l - b) from x_0.

Modulo symmetry.  A point within r / 3 of x_0 can be rescaled, unit by unit, until T'(x - x_0) = 0, without leaving the
ball.  For a unit v at distance e from v_0, d/dt t_j'v is at least 3 |v_0| / 4 and |dv/dt| at most 5 |v_0| / 4 while
|v - v_0| <= |v_0| / 4, where v = (c u, a / c), c = exp t.  So its way is at most 5 e / 3.  Hence all critical points of
the loss within r / 3 lie on one orbit.
"""

import math
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Context
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import linalg

from .. import checks, losses, tables
from ..kernels.nearby import linear_sum_assignment
from . import balls
from .balls import Box, NotProved, Numbers
from .symmetry import EPS

REACH = 1e-8  # of the longest unit: the largest radius.  Polished points are 1e-16 to 1e-11 from the critical one
AGREE = 1e-8  # of the largest entry: error allowed in `loss.hessian`.  Rounding: 1e-14, near parallel units 1e-9
WIDER = 0.25  # of l: the b that the final radius aims at.  As b is not quite linear in r, it may become larger
SAFE = 1 + 1e-6  # more than the rounding error of a sum of fewer than 1e9 positive floats


@dataclass(frozen=True)
class Certificate:
    """The result of `certify`.  ``str()`` of it is a short report.

    If nothing is proved the radius is 0, the intervals are (0, inf) and (-inf, inf), and ``why`` is the reason.
    """

    proved: bool
    kind: str  # "strict minimum", "teacher" or "saddle"; "" where nothing is proved
    radius: float  # within it, in theta, there is exactly one critical point modulo the symmetries
    loss: tuple[float, float]  # an interval that contains the loss there
    min_eigenvalue: tuple[float, float]  # and one for the Hessian's smallest eigenvalue, without zeros by symmetry
    why: str

    def theorem(self, where: str = "theta") -> str:
        """What is proved of the point called ``where``, or why nothing is, as a part of a sentence."""
        if not self.proved:
            return f"nothing is proved of {where.rstrip(',')}: {self.why}"
        kind = {"teacher": "the teacher", "saddle": "a saddle"}.get(self.kind, f"a {self.kind}")
        loss = "" if self.kind == "teacher" else f" with loss in {list(self.loss)}"
        return (
            f"within {Context(2, ROUND_FLOOR).create_decimal(self.radius):e} of {where} there is exactly one critical "
            f"point of the expected loss modulo the symmetries, and it is {kind}{loss}"
        )

    def __str__(self):
        return self.theorem() + (f"\n  smallest eigenvalue in {list(self.min_eigenvalue)}" if self.proved else "")

    def _repr_html_(self):
        rows = {"proved": "no", "why not": self.why}
        if self.proved:
            at_least = f"{Context(2, ROUND_FLOOR).create_decimal(self.radius):e}"
            rows = {"proved": "yes", "kind": self.kind, "radius": at_least, "loss": list(self.loss)}
            rows |= {"smallest eigenvalue": list(self.min_eigenvalue)}
        return tables.table([("Certificate", ""), *rows.items()])


def certify(loss: Any, theta: ArrayLike) -> Certificate:
    """Prove that next to ``theta`` there is exactly one critical point, modulo symmetry, and of which kind it is.

    * "strict minimum": all eigenvalues of the Hessian are positive, except the zeros that symmetries cause.
    * "saddle": of all others none is 0, and at least one is negative.
    * "teacher": the critical point is an image of the teacher under the symmetries.

    Parameters
    ----------
    loss : PopulationLoss or KernelLoss
        The latter without ``unit_rows``.
    theta : array_like, shape (n,)
        A critical point to rounding, as `polish` returns it.  It is not improved: the theorem is about theta itself.

    Returns
    -------
    Certificate
        A theorem about the float64 numbers in theta and in the teacher, which are taken as exact.

    Raises
    ------
    ImportError
        When python-flint is missing.
    ValueError, TypeError
        When theta does not fit or is not finite, or the networks have biases.

    Notes
    -----
    The proof is in the docstring of this module.  It relies on python-flint, on products of integers below 2^53 in
    floating point, and on IEEE rounding.  ``loss.hessian`` is only compared with the enclosure; if they disagree,
    nothing is proved.  For ``sum``, distances leave aside the unseen part of W2, which is free.

    Examples
    --------
    >>> import numpy as np, resgrad as rg
    >>> loss = rg.PopulationLoss("vanilla", rg.Network("vanilla", np.eye(4).ravel(), d=4))
    >>> proof = rg.certify(loss, np.eye(4).ravel())
    >>> proof.kind, proof.loss, [round(end / 2, 12) for end in proof.min_eigenvalue]  # 1/4 - 1/(2 pi)
    ('teacher', (0.0, 0.0), [0.090845056908, 0.090845056908])
    >>> rg.certify(loss, np.eye(4).ravel() + 1e-6).proved
    False
    """
    if getattr(loss, "covariance", None) is not None:
        raise ValueError("loss has a covariance, but proofs are for inputs N(0, I)")
    if not (isinstance(loss, losses.PopulationLoss) or hasattr(loss, "dual")) or getattr(loss, "unit_rows", False):
        raise TypeError(f"loss is {checks.shown(loss)}, but must be a PopulationLoss, or a KernelLoss with free rows")
    theta = loss._theta(theta)
    for arch, width in ((loss.arch, loss.arch.width(theta.size, loss.d)), (loss.teacher.arch, loss.teacher.width)):
        balls.require(arch, loss.d, width)
    with balls.precision():
        numbers = Numbers.of(loss, theta)
        try:
            return _prove(numbers, loss.hessian(theta), loss.arch.outputs(loss.d) * balls.arb(loss.noise) ** 2)
        except NotProved as reason:
            return Certificate(False, "", 0.0, (0.0, math.inf), (-math.inf, math.inf), str(reason))


def _prove(numbers, own, floor):
    """The steps of the proof; ``own`` is `loss.hessian` at theta, ``floor`` the label noise's share of the loss."""
    point, tangents = Box(numbers), [balls.size(tangent) for tangent in numbers.tangents()]
    lengths = [float(length) for length in point.lengths[: numbers.k]]
    if not min(lengths) > EPS * max(lengths):
        raise NotProved(f"unit {np.argmin(lengths)} may vanish, where the loss has a kink")
    middle, sigma = _center(numbers, point, own, tangents)
    values, vectors = linalg.eigh(middle)
    g, sizes, error = balls.size(point.gradient()), np.abs(values), _spectral_error(middle, values, vectors)
    least, reach = balls.arb(sizes.min()), REACH * max(lengths)
    if not least > EPS * sigma:
        raise NotProved(f"the Hessian has an eigenvalue within {EPS * sigma:.0e} of 0 that no symmetry explains")
    far, orbit = float((g / least).upper()), 3 if tangents else 1
    if not far < reach:
        raise NotProved(f"a critical point may be {far:.0e} away, more than {reach:.0e}: polish theta first")

    def bound(radius):
        """b of (2) on the ball of this radius, or None where (3) does not hold."""
        b = balls.arb(error + _deviation(Box(numbers, radius).hessian(sigma), middle))
        short = any(not 4 * balls.arb(radius) < length for length in tangents)
        return None if short or not (g / least + b / least * radius < radius) else b

    radius = max(3 * orbit * far, EPS * max(lengths))
    b = wider = bound(radius)
    if b is None:
        raise NotProved(
            f"within {radius:.0e} the Hessian varies too much for its eigenvalue {sizes.min():.1e} next to 0"
        )
    near = g / (least - b)  # the critical point is at most so far away
    while (wide := min(reach, radius * float((WIDER * least - error) / (wider - error)))) > 2 * radius:
        if (wider := bound(wide)) is None:
            break
        radius = wide
    radius = float(np.nextafter(radius / orbit, 0.0))
    if not near < radius:
        raise NotProved(f"the critical point may be {float(near.upper()):.0e} away, and its orbit {radius:.0e}")
    turn = max((4 * sigma * near / length for length in tangents), key=float, default=0)  # T there instead of at x_0
    smallest, distance = balls.arb(values[0]) + balls.arb(0, 1) * (b + turn), _from_teacher(numbers)
    if distance is not None and distance < radius:
        return Certificate(True, "teacher", radius, balls.interval(floor), balls.interval(smallest), "")
    change = (balls.arb(sizes.max()) + b + sigma) * near * near / 2
    low, high = balls.interval(floor + point.loss() + balls.arb(0, 1) * change)
    kind = "saddle" if values[0] < 0 else "strict minimum"
    return Certificate(True, kind, radius, (max(0.0, low), high), balls.interval(smallest), "")


def _center(numbers, point, own, tangents):
    """(midpoints of the Hessian of (1), rounded; sigma), if ``own`` is the Hessian of the loss without (1)."""
    upper = np.triu([[float(e.mid()) for e in row] for row in point.hessian()])
    middle = upper + np.triu(upper, 1).T
    _audit(numbers, own, middle)
    sigma = 2 * float(np.abs(middle).sum(axis=1).max())  # above all eigenvalues
    for j, (tangent, length) in enumerate(zip(numbers.tangents(), tangents)):
        unit = np.array([float(e / length) for e in tangent])
        middle[np.ix_(numbers.rows(j), numbers.rows(j))] += sigma * np.outer(unit, unit)
    return middle, sigma


def _spectral_error(H, values, Q):
    """The first two terms of (2)."""
    e, E = _distance(Q.T, Q, np.eye(len(Q))), _distance(H, Q, Q * values)
    if not e < 0.5:
        raise NotProved("the eigenvectors of the Hessian are not orthogonal to rounding")
    return SAFE * (2 * e * np.abs(values).max() / (1 - e) + E / (1 - e) ** 0.5)


def _distance(A, B, C):
    """A bound on |A B - C|, Frobenius, where every entry of C may be off by a rounding error (Ozaki et al. 2012).

    A1 B1 has sums of integers below 2^53, times a power of 2: they are exact, in any order.  The rest is small, and so
    is its rounding error (Higham 2002, 3.13).
    """
    n, norm = len(A), np.linalg.norm
    bits = (53 - n.bit_length()) // 2
    (A1, A2), (B1, B2) = _split(A, bits), _split(B, bits)
    high, rest = A1 @ B1 - C, A1 @ B2 + A2 @ B
    rounding = norm(high) + norm(C) + 2 * norm(rest) + n * (norm(A1) * norm(B2) + norm(A2) * norm(B))
    return SAFE * float(norm(high + rest) + EPS * rounding)


def _split(A, bits):
    """A = A1 + A2, exactly, where A1 holds integers of ``bits`` bits times a power of 2."""
    unit = 2.0 ** (np.frexp(np.abs(A).max())[1] - bits)
    A1 = np.rint(A / unit) * unit
    return A1, A - A1


def _deviation(upper, middle):
    """A bound on |H - middle| for all symmetric H whose ``upper`` half is given: the largest sum of sizes in a row."""
    off = np.zeros(middle.shape)
    for i, (row, center) in enumerate(zip(upper, middle.tolist())):
        off[i, i:] = [float((ball - e).abs_upper()) for ball, e in zip(row[i:], center[i:])]
    return SAFE * float((off + np.triu(off, 1).T).sum(axis=1).max())


def _audit(numbers, own, middle):
    """Refuse a loss whose ``own`` Hessian disagrees with the enclosure: they belong to two functions."""
    k, d, m = numbers.k, numbers.d, numbers.m
    places, weight = [np.arange(k * d).reshape(k, d).T.ravel()], np.ones(len(own))
    if numbers.root:
        rows = np.arange(k * d, k * (d + m)).reshape(k, m)
        places.append(np.broadcast_to(rows, (k, d)).ravel())
        weight[k * d : 2 * k * d] = 1 / float(numbers.root)
    place = np.concatenate([*places, np.arange(numbers.start_C, numbers.n)])  # where an entry of theta is in x
    expected = middle[np.ix_(place, place)] * np.outer(weight, weight)
    off = np.abs(own - expected)
    if not off.max() <= AGREE * np.abs(expected).max():
        i, e = np.unravel_index(np.argmax(off), off.shape)
        of = f"{off.max():.0e} off in entry ({i}, {e})"
        raise NotProved(f"loss.hessian is {of}: it is not that of this loss, or a unit is nearly dead")


def _from_teacher(numbers):
    """A bound on the distance from x_0 to an image of the teacher, the nearest if one is near; or None."""
    p, odd = numbers, numbers.coupling[1]
    if len(p.units_star) != p.k:
        return None
    (u, strength), (v, strength_star) = (_directions(units) for units in (p.units, p.units_star))
    signs = (1, -1) if p.trains_skip or odd == 0 else (1,)  # C compensates a reversed unit, or need not
    angles = np.array([2 - 2 * sign * (u @ v.T) for sign in signs]) * np.sum(strength_star**2, axis=1)
    cost = angles.min(axis=0) + np.sum((strength[:, None] - strength_star) ** 2, axis=2)
    apart, C = [], p.C_star
    for j, l in zip(*linear_sum_assignment(cost)):
        (u, a), (v, b), sign = p.units[j], p.units_star[l], signs[int(np.argmin(angles[:, j, l]))]
        c = balls.arb(float(balls.size(u)) / float(balls.size(v))) if p.root else b[0]
        if not c > 0:
            return None
        apart += [e - sign * c * f for e, f in zip(u, v)]
        apart += [(e - f / c) / p.root for e, f in zip(a, b)] if p.root else []
        if sign < 0:
            C = [[e + odd * z * q for e, q in zip(row, b)] for row, z in zip(C, v)]
    skip = [e - f for row, image in zip(p.C, C) for e, f in zip(row, image)]
    return balls.size(apart + skip) if p.trains_skip or all(e == 0 for e in skip) else None


def _directions(units):
    """(u_j / |u_j|, |u_j| a_j) of units, as rows of floats."""
    u, a = (np.array([[float(e) for e in unit[part]] for unit in units]) for part in (0, 1))
    length = np.linalg.norm(u, axis=1, keepdims=True)
    return u / length, length * a
