"""Lengths, directions and angles of units: what (7)-(18) are made of."""

import math

import numpy as np

from .policy import jit, quiet


@quiet
def directions(units):
    """(directions (k, d), lengths (k,)) of the rows of ``units``; a zero unit has direction 0.

    Where a square could over- or underflow, the scale is taken out first.

    >>> directions(np.array([[3.0, 4.0], [0.0, 0.0]]))
    (array([[0.6, 0.8],
           [0. , 0. ]]), array([5., 0.]))
    """
    total = _squares(units)
    large = np.abs(units).max(axis=1, initial=0.0)
    scale = np.where((total > 1e-280) & (total < 1e280) | (large == 0), 1.0, large)
    units = units / scale[:, None]
    length = np.sqrt(_squares(units))
    unit = units * np.where(length > 0, 1 / np.where(length > 0, length, 1.0), 0.0)[:, None]
    if units.shape[1] == 1:
        unit = np.sign(units)  # to the last bit: (15) divides by the norm what it leaves of s
    return unit, scale * length


def _squares(units):
    """The squared length of each row, summed from the first entry to the last."""
    total = np.zeros(len(units))
    for column in units.T:
        total += column * column
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
