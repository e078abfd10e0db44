"""Lengths, directions and angles of units, the ingredients of (7)-(18)."""

import math

import numpy as np

from .policy import jit, quiet


@jit
def _largest(unit, d):
    """The largest of |entries|, or 1 where it is 0; NaN where one is NaN."""
    largest = 0.0
    for i in range(d):
        if abs(unit[i]) > largest or unit[i] != unit[i]:
            largest = abs(unit[i])
    return largest or 1.0


@jit
def normalize(units, d, rows, columns, norm):
    """Directions of the first d entries of the rows of ``units`` into ``rows`` and ``columns``, lengths into ``norm``.

    Where a square could over- or underflow, the unit is divided by its largest entry first.
    """
    for j in range(len(units)):
        total, scale = 0.0, 1.0
        for i in range(d):
            total += units[j, i] * units[j, i]
        if not 1e-280 < total < 1e280:
            total, scale = 0.0, _largest(units[j], d)
            for i in range(d):
                total += (units[j, i] / scale) ** 2
        length = math.sqrt(total)
        inverse = 1.0 / length if length > 0.0 else 0.0
        norm[j] = scale * length
        for i in range(d):
            rows[j, i] = columns[i, j] = (units[j, i] if scale == 1.0 else units[j, i] / scale) * inverse
        if d == 1 and length > 0.0:  # exactly +-1, as (15) divides s by the norm
            rows[j, 0] = columns[0, j] = math.copysign(1.0, units[j, 0])


@quiet
def directions(units):
    """(directions (k, d), lengths (k,)) of the rows of ``units``; a zero unit has direction 0.

    >>> directions(np.array([[3.0, 4.0], [0.0, 0.0]]))
    (array([[0.6, 0.8],
           [0. , 0. ]]), array([5., 0.]))
    """
    units = np.array(units, np.float64)  # one layout: `normalize` is compiled once
    unit, norm = np.empty_like(units), np.empty(len(units))
    normalize(units, units.shape[1], unit, np.empty((units.shape[1], len(units))), norm)
    return unit, norm


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
