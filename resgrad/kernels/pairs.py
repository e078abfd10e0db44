"""Lengths, directions and angles of units: what (7)-(18) are made of."""

import math

import numpy as np

from .policy import jit


@jit
def normalize(units, d, start, rows, columns, norm):
    """Lengths of the units, rows of ``units``, and their directions: as rows, and as columns, from ``start`` on.

    A zero unit has direction 0.  Where a square could over- or underflow, the scale is taken out first.
    """
    for j in range(len(units)):
        total, scale, l = 0.0, 1.0, start + j
        for i in range(d):
            total += units[j, i] * units[j, i]
        if not 1e-280 < total < 1e280:
            scale = np.max(np.abs(units[j, :d])) or 1.0
            total = np.sum((units[j, :d] / scale) ** 2)
        length = math.sqrt(total)
        inverse = 1.0 / length if length > 0.0 else 0.0
        norm[l] = scale * length
        for i in range(d):
            rows[l, i] = columns[i, l] = (units[j, i] if scale == 1.0 else units[j, i] / scale) * inverse
        if d == 1 and length > 0.0:  # to the last bit: (15) divides by the norm what it leaves of s
            rows[l, 0] = columns[0, l] = math.copysign(1.0, units[j, 0])


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
