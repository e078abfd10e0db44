"""Lengths, directions and angles of units, the ingredients of (7)-(18)."""

import math

import numpy as np

from .policy import jit, quiet


@quiet
@jit
def directions(units):
    """(directions (k, d), lengths (k,)) of the rows of ``units``; a zero unit has direction 0.

    Where a square could over- or underflow, the unit is divided by its largest entry first.

    >>> directions(np.array([[3.0, 4.0], [0.0, 0.0]]))
    (array([[0.6, 0.8],
           [0. , 0. ]]), array([5., 0.]))
    """
    unit, norm = np.empty_like(units, np.float64), np.empty(len(units))
    for l in range(len(units)):
        total, scale = _square(units[l], 1.0), 1.0
        if not 1e-280 < total < 1e280:
            scale = np.max(np.abs(units[l])) or 1.0
            total = _square(units[l], scale)
        length = math.sqrt(total)
        norm[l] = scale * length
        for i in range(units.shape[1]):
            unit[l, i] = units[l, i] / scale * (1.0 / length if length > 0.0 else 0.0)
        if units.shape[1] == 1:
            unit[l, 0] = np.sign(units[l, 0] / scale) + 0.0  # no -0; exactly +-1, as (15) divides s by the norm
    return unit, norm


@jit
def _square(unit, scale):
    """The squared length, in this scale, summed from the first entry to the last."""
    total = 0.0
    for x in unit:
        total += (x / scale) * (x / scale)
    return total


@jit
def angle(u, v):
    """(c, s, pi - phi) of two unit vectors, to the last digit at every angle.

    From |u - v| and |u + v|, that is 2 sin(phi / 2) and 2 cos(phi / 2): arccos(c) would lose half
    the digits near 0 and pi, and (12) needs them.
    """
    minus, plus = 0.0, 0.0
    for i in range(u.size):
        minus += (u[i] - v[i]) * (u[i] - v[i])
        plus += (u[i] + v[i]) * (u[i] + v[i])
    minus, plus = math.sqrt(minus), math.sqrt(plus)
    return 0.25 * (plus - minus) * (plus + minus), 0.5 * minus * plus, 2.0 * math.atan2(plus, minus)
