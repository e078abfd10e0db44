"""One-sided derivatives along single parameters, from values alone, each with its uncertainty.

Every loss here is smooth on either side of a point, if not always across it: the quotient

    q(t) = (f(theta + t e_i) - f(theta)) / t

is a smooth function of t > 0, and another one of t < 0, and their limits at t = 0 are the derivatives to
the right and to the left.  `slopes` halves t again and again and extrapolates q to 0 on each side by
Neville's scheme (Richardson's, for halved steps).  What an entry of that table still changes by, plus
the rounding noise of f over t, estimates its error.  The entry of least error is kept, unless shorter
steps contradict it: those may end before a kink that longer ones jump over.  This one engine does

- *sampled ReLU losses*, exactly: until a pre-activation changes sign f is a parabola and q a straight
  line, so two steps of any length give its limit up to rounding, and a third confirms it;
- *any other loss*: smooth ones to about 1e-12; unknown kinks on the way only cost more halvings;
- *kinks* at theta: there the two sides have different limits.

Takes functions and arrays; imports nothing of resgrad.
"""

import numpy as np

LEVELS, COLUMNS = 40, 7  # of the table, at most
AMPLIFIED = 6  # rounding, by Neville's scheme with halved steps, at most
CLEAR = 7 / 8  # share of the way to a crossing that is used
ONE_SIDED, ALONE, MIXED, FOREIGN = range(4)  # what is known of a kink; see `crossings`


def slopes(function, theta, index, noise, clear=None):
    """Derivatives of ``function(theta)``, () or (m,), along theta[index].

    ``clear``, shape (2, n), says how far to the left and right the function is known to be a parabola.
    Returns arrays of shape (n, m): left and right (they differ only at a kink), their errors, the
    smallest step used, and the largest |q| on the way.
    """
    f0, eps = np.atleast_1d(function(theta.copy())), np.finfo(theta.dtype).eps
    first = np.maximum(np.abs(theta[index], dtype=float), size(theta)) if clear is None else clear
    first, rows = np.broadcast_to(first, (2, index.size)), 5 if clear is None else 3
    shape = (*first.shape, f0.size)
    best, error, step = np.full(shape, np.nan), np.full(shape, np.inf), np.zeros(shape)
    reach, active = np.zeros(shape), np.full(first.shape, True)
    above, before, steps = [], [], []
    for level in range(LEVELS):
        q, t, rounding = _quotients(function, f0, theta, index, first / 2.0**level, active, noise)
        reach, row, changes = np.fmax(reach, np.abs(q)), [q], []
        for old, far, earlier in zip(above, reversed(steps), [*before, 0.0]):
            changes.append(np.abs(row[-1] - old))
            row.append(row[-1] + (row[-1] - old) * (t / (far - t)))  # Neville, from the nodes far to t
            if level + 1 >= rows:
                bound = np.maximum(changes[-1], earlier / 16) + AMPLIFIED * rounding
                better = (bound < error) | (np.abs(row[-1] - best) > 2 * (bound + error))
                best, error = np.where(better, row[-1], best), np.where(better, bound, error)
                step = np.where(better, np.abs(t), step)
        above, before = row[:COLUMNS], changes
        steps.append(t)
        if level + 1 >= rows:
            active &= (2 * AMPLIFIED * rounding < error).any(axis=2)  # 2: in the next row
        if not active.any():
            break
    visible = np.sqrt(eps) / 16 * reach.max(axis=0)  # 9e-10 of the largest quotient
    kink = np.abs(best[1] - best[0]) > 4 * error.sum(axis=0) + visible
    side = np.argmin(error, axis=0)[None]  # without a kink, the better one stands for both
    best, error, step = (np.where(kink, x, np.take_along_axis(x, side, 0)) for x in (best, error, step))
    error = error if clear is not None else 4 * error  # the least of many is too small
    return *best, *error, step.min(axis=0), reach.max(axis=0)


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


def crossings(preactivations, theta, index):
    """How far each parameter may go to the left and right (2, n) before a pre-activation changes sign.

    ``preactivations(theta)``, shape (N, k), is linear in each.  Those that are zero at theta do not
    count: theta is at their kink.  Also returns whether they all turn on to the same side (ONE_SIDED);
    if not, whether they are all that the parameter moves (ALONE, else MIXED).
    """
    clear, kinds, z0 = np.empty((2, index.size)), [], preactivations(theta)
    eps, scale = np.finfo(theta.dtype).eps, max(1.0, size(theta))
    for k, i in enumerate(index):
        moved = theta.copy()
        moved[i] += max(scale, abs(float(theta[i])))
        far, z1 = moved[i] - theta[i], preactivations(moved)
        rounding = 64 * eps * np.maximum(np.abs(z0), np.abs(z1)).max(axis=0)
        moves, zero = np.abs(z1 - z0) > rounding, np.abs(z0) <= rounding
        rates, away = (z1 - z0)[moves & zero], moves & ~zero
        where = far * z0[away] / (z0 - z1)[away]
        for side, sign in enumerate((-1, 1)):
            clear[side, k] = CLEAR * np.min(sign * where[sign * where > 0], initial=far / CLEAR)
        one_sided = np.all(rates >= 0) or np.all(rates <= 0)
        kinds.append(ONE_SIDED if one_sided else MIXED if away.any() else ALONE)
    return clear, kinds


def size(theta):
    """Typical size of the entries of theta; 1 for theta = 0."""
    return float(np.sqrt(np.mean(np.square(theta, dtype=np.float64)))) or 1.0


def rounding_noise(function, theta, rng):
    """Noise of a function near theta: third differences along a line (Hamming; More & Wild 2011).

    Their median, on the better side of theta: what kinks on the line do to the others is no noise.
    """
    scale = size(theta) * (2.0**-22 if theta.dtype == np.float64 else 2.0**-12)
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
