"""One-sided derivatives along single parameters, from values alone, each with its uncertainty.

`sample_slopes`, for a mean over samples of which each is a piecewise quadratic function of the parameter,
as a ReLU network's squared error is.  While its one pre-activation that the parameter moves keeps its
sign, a sample's error is a parabola; that sign changes once, on one side, so that on the other side two
steps of any length give the derivative up to rounding,

    f'(0) = q(h) + (q(h) - q(2h)),    q(t) = (f(theta + t e_i) - f(theta)) / t.                   (1)

Every sample is thus taken on the side where it has no kink, all with the same large steps.  A sample
whose pre-activation is zero at theta has a derivative on either side.

`slopes`, for anything else: q is a smooth function of t > 0, and another one of t < 0.  t is halved again
and again, and q extrapolated to 0 on each side by Neville's scheme (Richardson's, for halved steps).
What an entry of that table still changes by, plus the rounding noise of f over t, estimates its error.
The entry of least error is kept, unless shorter steps contradict it: those may end before a kink that
longer ones jump over; much shorter ones are tried in the end.  These are not believed below what rounding
theta does to f: next to a zero of f the error of its terms may be the same all around, where neither the
size of f nor a measurement of its noise shows it.

Takes functions and arrays; imports nothing of resgrad.
"""

from typing import NamedTuple

import numpy as np

LEVELS, COLUMNS, ROWS = 40, 7, 5  # of Neville's table, at most; rows before an entry may be kept
AMPLIFIED = 6  # rounding, by Neville's scheme with halved steps, at most
NEARBY = 3  # level from which a slope counts as one of this neighborhood: an eighth of the first step
FINER = 2.0**-8, 2.0**-16, 2.0**-24  # of the step kept: where to look for what it may have jumped over


class Slopes(NamedTuple):
    """Arrays, one entry a derivative."""

    left: np.ndarray
    right: np.ndarray  # differs from left only at a kink
    off: np.ndarray  # with relu'(0) = 0: left, right or, where samples turn on to either side, neither
    error: np.ndarray
    step: np.ndarray  # the smallest used
    scale: np.ndarray  # of the terms that the derivative is the sum of


def sample_slopes(values, preactivations, theta, index, canceled):
    """Derivatives along theta[index] of the mean of ``values(theta)``, shape (N,).

    Of ``preactivations(theta)``, shape (N, k), each parameter moves one a sample, linearly.  A slope that
    is less than ``canceled`` times the mean slope over the whole step may be what rounding left.
    """
    f0, z0 = values(theta), preactivations(theta)
    rows = [_mean_slope(values, preactivations, theta, i, f0, z0, canceled) for i in index]
    return Slopes(*np.transpose(rows))


def _mean_slope(values, preactivations, theta, i, f0, z0, canceled):
    """One row of `Slopes`."""
    eps, step = np.finfo(theta.dtype).eps, max(1.0, size(theta), abs(float(theta[i])))
    for _ in range(12):
        q, t = _two_sided(values, theta, i, f0, step)
        if np.mean(np.abs(q[:, 1] * t[:, 1])) > np.mean(f0) / 64 or not q.any():
            break
        step *= 1024  # the change would drown in the rounding of f
    left, right = q[:, 0] + (q[:, 0] - q[:, 1]) * (t[:, 0] / (t[:, 1] - t[:, 0]))  # (1)
    moved = theta.copy()
    moved[i] += t[1, 1, 0]
    z1 = preactivations(moved)
    rise = np.where(np.abs(z1 - z0) > 64 * eps * np.maximum(np.abs(z0), np.abs(z1)), z1 - z0, 0)
    terms = np.maximum(np.abs(z0), size(theta) / t[1, 1, 0] * np.abs(rise))  # that z0 is the sum of
    zero = np.abs(z0) <= 64 * eps * terms.max(axis=0)
    kink, rise_there = np.any(zero & (rise != 0), axis=1), np.sum(rise * zero, axis=1)
    crosses = [np.any(~zero & (z0 * (z0 + far * rise) <= 0), axis=1) for far in (-1, 1)]
    own = np.where(crosses[0], right, np.where(crosses[1], left, (left + right) / 2))
    gap = np.abs(np.mean(np.where(crosses[0] | crosses[1] | kink, 0, right - left)))
    sides = (np.mean(np.where(kink, side, own)) for side in (left, right, np.where(rise_there > 0, left, right)))
    reach = np.abs(q).max(axis=(0, 1)).mean()
    error = gap + 8 * eps * np.mean(np.abs(q[:, 1] * t[:, 1]).max(axis=0) + f0) / t[1, 0, 0]
    known = np.isfinite(z1).all() and not np.any(crosses[0] & crosses[1])
    error = error * (reach > 0) if known else np.inf
    return *sides, error, t[1, 0, 0], np.mean(np.abs(own)) + canceled * reach


def _two_sided(values, theta, i, f0, step):
    """q (2, 2, N) one and two steps to the left and right, and the t (2, 2, 1) that rounding leaves."""
    q, t = np.empty((2, 2, f0.size)), np.empty((2, 2, 1))
    for n, far in np.ndenumerate([[-1, -2], [1, 2]]):
        moved = theta.copy()
        moved[i] += far * step
        t[n] = float(moved[i]) - float(theta[i])
        q[n] = (values(moved) - f0) / t[n]
    return q, t


def slopes(function, theta, index, noise, canceled):
    """Derivatives of ``function(theta)``, () or (m,), along theta[index]; arrays of shape (n, m)."""
    f0, eps = np.atleast_1d(function(theta)), np.finfo(theta.dtype).eps
    first = np.broadcast_to(np.maximum(np.abs(theta[index], dtype=float), size(theta)), (2, index.size))
    best, error, step, reach = _table(function, f0, theta, index, first, noise)
    for finer in FINER:
        h = finer * step.min(axis=2)
        moved = np.abs(best).max(axis=(0, 2)) * np.abs(theta[index], dtype=float)  # by a relative 1 of theta
        floor = np.fmax(noise, 4 * eps * moved)[:, None]
        (near, t, rounding), (far, *_) = (_quotients(function, f0, theta, index, n * h, h > 0, floor) for n in (1, 2))
        miss = np.abs(2 * near - far - best) - 2 * error - 4 * np.abs(near - far) - 8 * rounding
        again = np.any(miss > 0, axis=(0, 2))  # the longer steps saw nothing of what there is
        if again.any():
            parts = _table(function, f0, theta, index[again], 8 * h[:, again], floor[again])
            best[:, again], error[:, again], step[:, again], reach[:, again] = parts
    reach = reach.max(axis=0)
    kink = np.abs(best[1] - best[0]) > 4 * error.sum(axis=0) + np.sqrt(eps) / 16 * reach  # 9e-10 of it
    side = np.argmin(error, axis=0)[None]  # without a kink, the better one stands for both
    best, error, step = (np.where(kink, x, np.take_along_axis(x, side, 0)) for x in (best, error, step))
    scale = np.abs(best).max(axis=0) + canceled * reach
    error = 4 * error.max(axis=0)  # the least of many is too small
    return Slopes(*best, np.full(reach.shape, np.nan), error, step.min(axis=0), scale)


def _table(function, f0, theta, index, first, noise):
    """Neville's tables with steps ``first`` (2, n), halved: limits, errors, steps, reach; (2, n, m) each."""
    shape = (*first.shape, f0.size)
    best, error, step = np.full(shape, np.nan), np.full(shape, np.inf), np.zeros(shape)
    reach, active = np.zeros(shape), np.full(first.shape, True)
    above, before, steps = [], [], []
    for level in range(LEVELS):
        q, t, rounding = _quotients(function, f0, theta, index, first / 2.0**level, active, noise)
        if level >= NEARBY:
            reach = np.fmax(reach, np.abs(q))
        row, changes = [q], []
        for old, far, earlier in zip(above, reversed(steps), [*before, 0.0]):
            changes.append(np.abs(row[-1] - old))
            row.append(row[-1] + (row[-1] - old) * (t / (far - t)))  # Neville, from the nodes far to t
            if level + 1 >= ROWS:
                bound = np.maximum(changes[-1], earlier / 16) + AMPLIFIED * rounding
                better = (bound < error) | (np.abs(row[-1] - best) > 2 * (bound + error))
                best, error = np.where(better, row[-1], best), np.where(better, bound, error)
                step = np.where(better, np.abs(t), step)
        above, before = row[:COLUMNS], changes
        steps.append(t)
        if level + 1 >= ROWS:
            active &= (2 * AMPLIFIED * rounding < error).any(axis=2)  # 2: in the next row
        if not active.any():
            break
    return best, error, step, reach


def _quotients(function, f0, theta, index, steps, active, noise):
    """q (2, n, m); the t it was taken at and its rounding, (2, n, 1).  nan where not active."""
    f, t = np.full((*active.shape, f0.size), np.nan), np.full((*active.shape, 1), np.nan)
    for side, k in np.argwhere(active).tolist():
        i, moved = index[k], theta.copy()
        moved[i] += steps[side, k] if side else -steps[side, k]
        t[side, k] = float(moved[i]) - float(theta[i])  # what is left of the step after rounding
        f[side, k] = function(moved)
    largest = np.maximum(np.abs(f).max(axis=2, keepdims=True), np.abs(f0).max())
    return (f - f0) / t, t, np.maximum(noise, 4 * np.finfo(theta.dtype).eps * largest) / np.abs(t)


def size(theta):
    """Typical size of the entries of theta; 1 for theta = 0."""
    return float(np.sqrt(np.mean(np.square(theta, dtype=np.float64)))) or 1.0


def rounding_noise(function, theta, rng):
    """Noise of a function near theta: third differences along a line (Hamming; More & Wild 2011).

    Their median, on the better side of theta: what kinks on the line do to the others is no noise.
    """
    scale = size(theta) * (2.0**-38 if theta.dtype == np.float64 else 2.0**-12)  # 2^14 units in the last place
    steps = np.outer((1, -1), scale * rng.standard_normal(theta.size))
    lines = ([function((theta + i * s).astype(theta.dtype)) for i in range(1, 11)] for s in steps)
    medians = [np.median(np.abs(np.diff(line, 3, axis=0)), axis=0) for line in lines]
    return float(min(np.max(median) for median in medians)) / 3  # of one value: 3 = sqrt(20) * 0.67


def taylor_slopes(value, f0, grad, theta, noise, rng):
    """p in |f(theta + h v) - f(theta) - h grad'v| ~ h^p for three random v, just above the noise."""
    slopes, h = [], 2.0 ** -np.arange(2.0, 40.0)
    for v in size(theta) * rng.standard_normal((3, theta.size)):
        moved = theta + h[:, None] * v
        f, linear = np.array([value(point) for point in moved]), (moved - theta) @ grad
        floor = 1e-15 * (np.abs(f) + abs(f0)) + 1e-16 * np.abs(linear)
        remainder = np.abs(f - f0 - linear)
        n = np.argmin(np.append(remainder > 1e3 * np.maximum(noise, floor), False))
        slopes.append(float(np.log2(remainder[n - 3] / remainder[n - 1]) / 2) if n > 2 else np.nan)
    return tuple(slopes)
