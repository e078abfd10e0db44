"""The training loop on samples for narrow networks: the lanes of a register are samples.

The batch is cut into parts.  One step, as every thread does it on its own copy of the weights:

    for each of my parts of the batch:
        gather (or draw and label) its samples, one in each lane
        Z = U'X;  H = s(Z);  R = 2 (A'H + C'X - T) / n;  G = (A R) s'(Z)        (1)-(3)
        sums[part] = [X G', H R', X R', loss]                                   (4), (2)
    meet the other threads
    gradient = the total of sums over all parts, always in the same order
    U, A, C = the step (6)

Where C is fixed, T holds y - C'x, and the lines for C are skipped.  For relu, Z and H share memory: s'(Z) shows in H.
"""

import functools
from typing import NamedTuple

import numpy as np

from .lanes import fma, lane_count, lane_sum, load, load_lanes, registers, set_tile, splat, store, sum_tile, tile_height
from .plain import RELU
from .policy import BLOCK, REGISTER, inline, sampled_jit
from .steps import activate, keep_active_lanes, nonzero
from .threads import meet, share


class Memory(NamedTuple):
    """What one thread works on.  Registers hold one number of as many samples as there are lanes."""

    weights: np.ndarray  # [U, A, C], row-major, and so are the next three
    velocities: np.ndarray
    lr: np.ndarray  # of every weight
    gradient: np.ndarray  # and the loss
    XT: np.ndarray  # inputs x and labels after each; flat, since three indices take a tenth longer
    R: np.ndarray
    H: np.ndarray
    Z: np.ndarray  # H itself for relu
    G: np.ndarray
    H_star: np.ndarray  # of the teacher that labels fresh samples
    starts: np.ndarray  # where the samples of one register begin


def narrow_scratch(parts, d, k, k_star, m, skip, slopes, batch, dtype):
    """The `Memory` of each thread, and gradient and loss of each part.

    The latter have two buffers in turn, so that a fast thread never overwrites what a slow one still reads.
    """
    like, size = np.empty(0, dtype), d * k + k * m + skip * m
    lanes = REGISTER // like.itemsize
    count = min(-(-batch // lanes), BLOCK // lanes)

    def memory():
        flat = (registers(1 + size // lanes, 1, like).reshape(-1)[: size + extra] for extra in (0, 0, 0, 1))
        XT, R, H, G, H_star = (registers(count, rows, like) for rows in (d + m, m, k, k, k_star))
        Z = H if slopes == RELU else registers(count, k, like)
        return Memory(*flat, XT.reshape(-1), R, H, Z, G, H_star, np.zeros(lanes, np.int64))

    return [memory() for _ in range(parts)], np.empty((2, parts, size + 1), dtype)


def narrow_loop(d, k, m, k_star, skip=0, slopes=RELU):
    """The loop of `sampled_loop`, compiled for one shape."""
    compiled = compiled_loop(d, k, m, k_star, skip, slopes)
    return lambda thread, marks, scratch, *given: compiled(thread, marks, scratch[0][thread], scratch[1], *given)


@functools.cache
def compiled_loop(d, k, m, k_star, skip, slopes):
    """The same for one thread: it is given its `Memory`, since Numba takes long to compile an allocation."""
    fresh, relu = k_star > 0, slopes == RELU
    units, both, size = d * k, d * k + k * m, d * k + k * m + skip * m  # where U, A and C end in the weights

    @sampled_jit
    def loop(thread, marks, memory, sums, rows, order, start, rng, teacher, w, v, rates, batch, n_steps, total):
        weights, velocities, lr, gradient, XT, R, H, Z, G, H_star, starts = memory
        flat, linear, parts, lanes, most = rows.reshape(-1), nonzero(teacher[2]), sums.shape[1], lane_count(XT), len(H)
        first, last = share(parts, thread, marks)
        count, n = -(-batch // lanes), batch
        for i in range(size):
            weights[i], velocities[i] = w[i], v[i]
            lr[i] = rates[0] if i < units else rates[1] if i < both else rates[2]
        for step in range(n_steps):
            if not fresh:
                n = min(batch, order.size - start)
                count = -(-n // lanes)
            for part in range(first, last):
                for i in range(size + 1):
                    sums[step % 2, part, i] = 0
                stop = count * (part + 1) // parts
                for begin in range(count * part // parts, stop, most):
                    c = min(most, stop - begin)
                    if fresh:
                        _draw(d, d + m, rng, n - begin * lanes, c, XT)
                        _products(d, k_star, d + m, c, (teacher[0], 0, 1, k_star), XT, H_star)
                        if relu:  # Numba drops the other branch, as it sees a constant
                            keep_active_lanes(c * k_star, H_star, H_star)
                        else:
                            activate(c * k_star, H_star, H_star, H_star, slopes)
                        _label(d, k_star, m, c, teacher, linear, XT, H_star, R)
                    else:
                        _gather(d + m, flat, order, start + begin * lanes, start + n, starts, c, XT)
                    if skip:
                        _subtract_linear(skip, d, m, c, (weights, both, 1, m), XT, R)
                    _products(d, k, d + m, c, (weights, 0, 1, k), XT, Z)  # (1)
                    if relu:
                        keep_active_lanes(c * k, H, H)
                    else:
                        activate(c * k, Z, Z, H, slopes)
                    _products(k, m, k, c, (weights, units, 1, m), H, R)
                    gradient[size] = _residual(d, m, c, n, R, XT)  # (2)
                    _products(m, k, m, c, (weights, units, m, 1), R, G)
                    if relu:
                        keep_active_lanes(c * k, H, G)  # (3)
                    else:
                        activate(c * k, Z, G, G, slopes)
                    _sum_outer(d, k, d + m, k, c, XT, G, gradient, 0)  # (4)
                    _sum_outer(k, m, k, m, c, H, R, gradient, units)  # (2)
                    if skip:
                        _sum_outer(skip, m, d + m, m, c, XT, R, gradient, both)
                    for i in range(size + 1):
                        sums[step % 2, part, i] += gradient[i]
            start += n
            if not meet(marks, thread, step + 1):
                return total
            for i in range(size + 1):
                gradient[i] = sums[step % 2, 0, i]
            for part in range(1, parts):
                for i in range(size + 1):
                    gradient[i] += sums[step % 2, part, i]
            total += gradient[size]
            for i in range(size):
                velocities[i] = rates[3] * velocities[i] + gradient[i]  # (6)
                weights[i] -= lr[i] * (gradient[i] + rates[3] * velocities[i])
        if thread == 0:
            for i in range(size):
                w[i], v[i] = weights[i], velocities[i]
        return total

    return loop


@inline
def _products(p, q, s, count, W, X, out):
    """out = W'X for samples in the lanes.  X (count, s >= p, lanes), out (count, q, lanes).

    W (p, q) is a view: (array, its first number, stride of q, stride of p).
    """
    (array, first, across, along), lanes, height = W, lane_count(X), tile_height(q)
    for c in range(0, count, 2):
        beside = lanes if c + 1 < count else 0  # an odd last register is computed twice
        for row in range(0, q, height):
            j = min(row, q - height)  # rows may be computed twice, too
            weights, samples = (array, first + j * across, across, along), (X, c * s * lanes, lanes, s * beside)
            set_tile(q, 2, weights, samples, p, (out, (c * q + j) * lanes, lanes, q * beside))


@inline
def _sum_outer(p, q, s, t, count, X, Y, out, first):
    """X Y' summed over samples, p q numbers of ``out``; X (count, s >= p, lanes), Y (count, t >= q, lanes)."""
    lanes, height = lane_count(X), tile_height(p)
    for row in range(0, p, height):
        i = min(row, p - height)
        for j in range(0, q, 2):
            beside = 1 if j + 1 < q else 0
            left, right = (X, i * lanes, lanes, s * lanes), (Y, j * lanes, t * lanes, beside * lanes)
            sum_tile(p, 2, left, right, count, (out, first + i * q + j, q, beside))


@inline
def _residual(d, m, count, n, R, XT):
    """F = R becomes 2 (F - T) / n, (2); returns the share of the mean loss."""
    zero = splat(R.dtype.type(0))
    minus, scale, loss = splat(R.dtype.type(-1)), splat(R.dtype.type(2.0 / n)), zero
    for c in range(count):
        for o in range(m):
            r = fma(minus, load(XT, c * (d + m) + d + o), load(R, c * m + o))
            loss = fma(r, r, loss)
            store(R, c * m + o, fma(scale, r, zero))
    return lane_sum(loss) / n


@inline
def _gather(size, flat, order, start, stop, starts, count, XT):
    """Samples ``order[start:stop]``, as many as fit, into the lanes, and zeros, which add nothing, after the last."""
    lanes = lane_count(XT)
    for c in range(count):
        inside = True
        for l in range(lanes):
            starts[l] = order[min(start + c * lanes + l, stop - 1)] * size
            inside &= starts[l] + size + lanes <= flat.size
        if inside:  # this reads up to a register beyond the row
            for i in range(0, size, lanes):
                load_lanes(flat, starts, i, size - i, XT, c * size + i, 1)
        else:
            for i in range(size):
                for l in range(lanes):
                    XT[(c * size + i) * lanes + l] = flat[starts[l] + i]
        for l in range(max(stop - start - c * lanes, 0), lanes):
            for i in range(size):
                XT[(c * size + i) * lanes + l] = XT.dtype.type(0)


@inline
def _draw(d, size, rng, n, count, XT):
    """Fresh samples into the lanes: n, or as many as fit, and zeros after them."""
    lanes = lane_count(XT)
    for c in range(count):
        for l in range(lanes):
            for i in range(d):
                XT[(c * size + i) * lanes + l] = rng.standard_normal() if c * lanes + l < n else 0.0


@inline
def _label(d, k, m, count, teacher, linear, XT, H, R):
    """T = A*'H - D'x after each x, H = s(U*'x), for a teacher of width k; R is scratch."""
    _, A, D = teacher
    _products(k, m, k, count, (A, 0, 1, m), H, R)
    for c in range(count):
        for o in range(m):
            store(XT, c * (d + m) + d + o, load(R, c * m + o))
    if linear:
        _subtract_linear(d, d, m, count, (D, 0, 1, m), XT, R)


@inline
def _subtract_linear(rows, d, m, count, C, XT, R):
    """T - C'x takes the place of T, after each x; R is scratch."""
    minus = splat(XT.dtype.type(-1))
    _products(rows, m, d + m, count, C, XT, R)
    for c in range(count):
        for o in range(m):
            t = c * (d + m) + d + o
            store(XT, t, fma(minus, load(R, c * m + o), load(XT, t)))
