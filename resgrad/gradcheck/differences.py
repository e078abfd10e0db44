"""One-sided derivatives along single parameters, from values alone, each with its uncertainty.

`sample_slopes` is for a mean over samples, each a piecewise quadratic function of the parameter.  The squared error
of a ReLU network is one.  It is a parabola while the one pre-activation that the parameter moves keeps its sign.
That sign changes once, on one side of theta.  On the other side two steps of any length give the derivative,

    f'(0) = q(h) + (q(h) - q(2h)),    q(t) = (f(theta + t e_i) - f(theta)) / t.                   (1)

Every sample is taken on its side without a kink, all samples with the same large steps.  A sample whose
pre-activation is zero at theta has a derivative on either side.

`slopes` is for any other function.  On each side t is halved again and again, and Neville's scheme extrapolates q
to t = 0 from up to seven steps.  Every estimate is compared with those of the same column at the next three steps.
Its error is the largest difference that rounding does not explain, plus the rounding.  The estimate of least error
is kept.  All its steps may jump over a kink, so five much shorter steps test it.  Where they contradict it, the
scheme starts anew from there.  Without a kink at theta the two sides have the same derivative.  If they differ by
more than their errors, the difference is an error, too.

No error is certain, for rounding can hide kinks that lie dense or near.  Over random deep networks the true error
exceeds the estimate in 2 or 3 of 100 entries, 10 times the estimate in a few of 10,000, and 20 times in none of
30,000.  So an entry is called wrong only if it is ``BEYOND`` times the estimate away.

Takes functions and arrays; imports nothing of resgrad.
"""

from typing import NamedTuple

import numpy as np

LEVELS, COLUMNS = 48, 7  # of Neville's scheme, at most
AMPLIFIED = np.array([1, 2.5, 3.75, 4.6, 5, 5.3, 5.4])  # rounding, in the columns of the scheme for halved steps
CONFIRM = 3  # shorter steps that an estimate is compared with
SAFETY = 2  # the least of many errors is too small
BEYOND = 64  # times the error of an estimate: the derivative is not that far from it
NEARBY = 3  # level from which a slope counts as one of this neighborhood: an eighth of the first step
FINER = 2.0**-6  # powers of it, times the step kept, test an estimate
SMALL = 2.0**-8  # times the typical entry: the loss may change at the own scale of a smaller one


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

    Each parameter moves one of ``preactivations(theta)``, shape (N, k), a sample, and moves it linearly.  A slope
    below ``canceled`` times the mean slope over the whole step may be what rounding left.
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
        step *= 1024  # the rounding of f would hide the change
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
    first = np.stack(2 * [np.maximum(np.abs(theta[index], dtype=float), size(theta))])
    best, error, step, reach = _settled_tables(function, f0, theta, index, first, noise)
    reach, gap, both = reach.max(axis=0), np.abs(best[1] - best[0]), error.sum(axis=0)
    kink = gap > BEYOND * SAFETY * both + np.sqrt(eps) / 16 * reach  # 9e-10 of it
    side = np.argmin(error, axis=0)[None]  # without a kink, the better one stands for both
    best, error, step = (np.where(kink, x, np.take_along_axis(x, side, 0)) for x in (best, error, step))
    error = SAFETY * np.maximum(error.max(axis=0), np.where((gap > both) & ~kink, gap, 0))
    flat = np.any(reach == 0, axis=1) & np.isfinite(first)  # constant, or does rounding hide the slope?
    moves = np.any(_quotients(function, f0, theta, index, 2.0**20 * first, flat, noise)[0] != 0, axis=0)
    moves |= ~reach.any(axis=0) & (np.abs(function(1024 * theta) - f0) > 0)  # which rounding hides along each
    scale = np.abs(best).max(axis=0) + canceled * reach + np.where(moves & (reach == 0), np.finfo(float).tiny, 0)
    return Slopes(*best, np.full(reach.shape, np.nan), error, step.min(axis=0), scale)


def _settled_tables(function, f0, theta, index, first, noise):
    """Limits, errors, steps and reach, (2, n, m) each, of tables that no shorter step contradicts."""
    tables = _table(function, f0, theta, index, first, noise)
    if (small := np.flatnonzero(weight(theta)[index] < 1)).size:  # the function may change at their own scale
        own = np.stack(2 * [np.abs(theta[index[small]], dtype=float)])
        wide, close = tables[:, :, small], _table(function, f0, theta, index[small], own, noise)
        differ = np.abs(close[0] - wide[0]) > 4 * (close[1] + wide[1])
        tables[:, :, small] = np.where(differ | (close[1] < 16 * wide[1]), close, wide)
    todo, restarted = np.arange(index.size), np.zeros(index.size, dtype=bool)
    while todo.size:
        first = _restart(function, f0, theta, index[todo], *tables[:3, :, todo], noise)
        again = first.any(axis=0)
        todo, first = todo[again], first[:, again]
        if todo.size:
            tables[:, :, todo] = _table(function, f0, theta, index[todo], first, noise)
            restarted[todo] = True
    unsettled = restarted[:, None] & (BEYOND * tables[1] > np.abs(tables[0]))
    tables[1][unsettled] = np.inf  # such a slope may grow without end as the step shrinks
    return tables


def _table(function, f0, theta, index, first, noise):
    """Limits, errors, steps and reach, (2, n, m) each, of Neville's scheme with steps ``first`` (2, n), halved."""
    shape = (*first.shape, f0.size)
    best, error, reach = np.full(shape, np.nan), np.full(shape, np.inf), np.zeros(shape)
    step, active = np.broadcast_to(first[:, :, None] / 2.0**LEVELS, shape), np.full(first.shape, True)
    above, steps, pending = [], [], []
    for level in range(LEVELS):
        q, t, rounding = _quotients(function, f0, theta, index, first / 2.0**level, active, noise)
        if level >= NEARBY:
            reach = np.fmax(reach, np.abs(q))
        row, floor = [q], np.multiply.outer(AMPLIFIED, rounding)
        for old, far in zip(above, steps):
            row.append(row[-1] + (row[-1] - old) * (t / (far - t)))  # Neville, from the nodes far to t
        above, steps = row[: COLUMNS - 1], [t, *steps]
        row = np.array(row + [np.full(shape, np.nan)] * (COLUMNS - len(row)))
        for limits, changes, _ in pending:
            np.maximum(changes, np.abs(limits - row) - floor, out=changes)
        pending.append((row, np.zeros(row.shape), floor))
        if len(pending) > CONFIRM:
            limits, changes, own = pending.pop(0)
            errors = np.nan_to_num(changes + own, nan=np.inf)
            column = np.argmin(errors, axis=0)[None]
            limit, bound = (np.take_along_axis(x, column, 0)[0] for x in (limits, errors))
            better = bound < error
            best, error = np.where(better, limit, best), np.where(better, bound, error)
            step = np.where(better, np.abs(steps[CONFIRM]), step)
        active &= (floor[0] < error).any(axis=2)
        if not active.any():
            break
    return np.array((best, error, step, reach))


def _restart(function, f0, theta, index, best, error, step, noise):
    """The first steps (2, n) of another table, 0 where much shorter steps do not contradict this one."""
    kept, eps = step.min(axis=2), np.finfo(theta.dtype).eps
    own, shortest = np.abs(theta[index], dtype=float), kept.min(axis=0)
    outside = np.isnan(best).all(axis=(0, 2)) & (shortest > np.maximum(eps * own, np.finfo(float).tiny))
    first = outside * kept  # as no step has led into the domain yet
    moved = np.fmax.reduce(np.abs(best), axis=(0, 2), initial=0) * own  # by rounding theta, if times eps
    noise = np.fmax(noise, 2 * eps * moved)[:, None]
    before = far = _quotients(function, f0, theta, index, FINER * kept, kept > 0, noise)[0]
    for h in (FINER**n * kept for n in range(2, 6)):
        near, t, rounding = _quotients(function, f0, theta, index, h, h > 0, noise)
        limit = near + (near - far) * FINER / (1 - FINER)
        bend = 2 * FINER * np.abs(limit - before) + FINER**2 * np.abs(far - near)
        miss = np.abs(limit - best) - 2 * error - bend - 8 * rounding
        first = np.where(np.any(miss > 0, axis=(0, 2)) & ~first.any(axis=0), 8 * h, first)
        before, far = limit, near
    return first


def _quotients(function, f0, theta, index, steps, active, noise):
    """q (2, n, m), the t it was taken at and its rounding, (2, n, 1); nan where not active."""
    f, t = np.full((*active.shape, f0.size), np.nan), np.full((*active.shape, 1), np.nan)
    for side, k in np.argwhere(active).tolist():
        i, moved = index[k], theta.copy()
        moved[i] += steps[side, k] if side else -steps[side, k]
        t[side, k] = float(moved[i]) - float(theta[i])  # what is left of the step after rounding
        f[side, k] = function(moved)
    largest = np.fmax(np.abs(f).max(axis=2, keepdims=True), np.abs(f0).max())
    return (f - f0) / t, t, np.maximum(2 * noise, np.finfo(theta.dtype).eps / 2 * largest) / np.abs(t)


def size(theta):
    """Typical size of the entries of theta; 1 for theta = 0."""
    largest = float(np.abs(theta).max()) or 1.0
    return largest * float(np.sqrt(np.mean(np.square(theta / largest, dtype=np.float64)))) or 1.0


def weight(theta):
    """1 for each entry of theta; its size relative to the typical one if that is below `SMALL`."""
    own = np.abs(theta, dtype=np.float64) / size(theta)
    return np.where((own > 0) & (own < SMALL), own, 1.0)


def direction(theta, rng):
    """A random move of each entry by about its own size.  Zeros move up: they may be the lower end of a domain."""
    v = rng.standard_normal(theta.size)
    return np.where(theta == 0, size(theta) * np.abs(v), np.abs(theta) * v)


def scaling(theta, rng):
    """The same, but zeros do not move: any arithmetic resolves their smallest change."""
    return direction(theta, rng) * ((theta != 0) | ~theta.any())


def rounding_noise(function, theta, rng):
    """Noise of a function near theta: third differences along a line (Hamming; More & Wild 2011).

    It is their median, on the better side of theta, since kinks on the line make some of them large.  Where most are
    zero, the function may change in jumps, by rounding far above its own last place: longer steps see them.
    """
    along = scaling(theta, rng)
    for scale in (2.0**-38, 2.0**-30, 2.0**-22) if theta.dtype == np.float64 else (2.0**-12,):
        steps = np.outer((1, -1), scale * along)  # from 2^14 units in the last place on
        lines = ([function((theta + i * s).astype(theta.dtype)) for i in range(1, 11)] for s in steps)
        medians = [np.median(np.abs(np.diff(line, 3, axis=0)), axis=0) for line in lines]
        noise = np.fmin(*(np.max(median) for median in medians)) / 3  # of one value: 3 = sqrt(20) * 0.67
        if not noise == 0:
            break
    return float(np.nan_to_num(noise))  # 0 outside the domain: noise then counts as kinks, which is safe


def taylor_slopes(value, f0, grad, theta, noise, rng):
    """p in |f(theta + h v) - f(theta) - h grad'v| ~ h^p for three random v, just above the noise."""
    slopes = []
    for v in (direction(theta, rng) for _ in range(3)):
        remainders = []
        for moved in (theta + h * v for h in 2.0 ** -np.arange(2.0, 40.0)):
            f, linear = value(moved), (moved - theta) @ grad
            floor = 1e-15 * (np.abs(f) + abs(f0)) + 1e-16 * np.abs(linear)
            remainder = np.abs(f - f0 - linear)
            if not remainder > 1e3 * np.maximum(noise, floor):
                break
            remainders.append(remainder)
        slopes.append(float(np.log2(remainders[-3] / remainders[-1]) / 2) if len(remainders) > 2 else np.nan)
    return tuple(slopes)
