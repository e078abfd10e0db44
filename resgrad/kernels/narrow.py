"""The training loop on samples for narrow networks: the lanes of a register are samples.

The batch is cut into parts.  One step, as every thread does it on its own copy of the weights:

    for each of my parts of the batch:
        gather (or draw and label) its samples, one in each lane
        Z = U'X;  H = s(Z);  R = 2 (A'H + C'X - T) / n;  G = (A R) s'(Z)        (1)-(3)
        scratch[part] = [X G', H R', X R', loss]                                (4), (2)
    meet the other threads
    gradient = the sum of scratch over all parts, always in the same order
    U, A, C = the step (6)

Where C is fixed, T holds y - C'x, and the lines for C are skipped.  For relu, Z and H share memory: s'(Z) shows in H.
"""

import functools

import numpy as np

from .lanes import fma, lane_count, lane_sum, load, load_lanes, registers, set_tile, splat, store, sum_tile, tile_height
from .plain import RELU
from .policy import BLOCK, inline, sampled_jit
from .steps import activate, copy, keep_active_lanes, update
from .threads import meet, share


def narrow_scratch(parts, size, batch, dtype):
    """Gradient and loss of each part, in two buffers: a fast thread never overwrites what a slow one still reads."""
    return np.empty((2, parts, size + 1), dtype)


@functools.cache
def narrow_loop(d, k, m, k_star, skip=0, slopes=RELU):
    """The loop of `sampled_loop`, compiled for one shape."""
    fresh, relu = k_star > 0, slopes == RELU

    @sampled_jit
    def loop(thread, marks, scratch, rows, order, start, rng, teacher, W, V, rates, batch, n_steps, total):
        (U, A, C), (VU, VA, VC), parts, lanes = W, V, scratch.shape[1], lane_count(W[0])
        units, both, end = d * k, d * k + k * m, d * k + k * m + skip * m  # where U, A and C end in the weights
        first, last = share(parts, thread, marks)
        count, n = -(-batch // lanes), batch
        most = min(count, BLOCK // lanes)
        XT, R = registers(most, d + m, U), registers(most, m, U)
        H, G = registers(most, k, U), registers(most, k, U)
        Z = H if relu else registers(most, k, U)
        linear = np.any(teacher[2])
        H_star = registers(most if fresh else 0, k_star, U)
        starts, A_T = np.empty(lanes, np.int64), np.empty((m, k), U.dtype)
        # Views are made before the loop: each changes a reference count, which threads must not do at the same time.
        flat, xt = rows.reshape(-1), XT.reshape(-1)
        weights = np.concatenate((U.ravel(), A.ravel(), C.ravel()))
        velocities = np.concatenate((VU.ravel(), VA.ravel(), VC.ravel()))
        gradient = np.empty(end + 1, U.dtype)
        u, a = weights[:units].reshape((d, k)), weights[units:both].reshape((k, m))
        c_, dC = weights[both:].reshape((skip, m)), gradient[both:end].reshape((skip, m))
        dU, dA = gradient[:units].reshape((d, k)), gradient[units:both].reshape((k, m))
        for step in range(n_steps):
            if not fresh:
                n = min(batch, order.size - start)
                count = -(-n // lanes)
            for j in range(k):
                for o in range(m):
                    A_T[o, j] = a[j, o]
            for part in range(first, last):
                for i in range(end + 1):
                    scratch[step % 2, part, i] = 0
                stop = count * (part + 1) // parts
                for begin in range(count * part // parts, stop, most):
                    c = min(most, stop - begin)
                    if fresh:
                        _draw(d, rng, n - begin * lanes, c, XT)
                        _products(d, k_star, d + m, c, teacher[0], XT, H_star)
                        if relu:  # Numba drops the other branch, as it sees a constant
                            keep_active_lanes(c * k_star, H_star, H_star)
                        else:
                            activate(c * k_star, H_star, H_star, H_star, slopes)
                        _label(d, k_star, m, c, teacher, linear, XT, H_star, R)
                    else:
                        _gather(d + m, flat, order, start + begin * lanes, start + n, starts, c, XT, xt)
                    if skip:
                        _subtract_linear(skip, d, m, c, c_, XT, R)
                    _products(d, k, d + m, c, u, XT, Z)  # (1)
                    if relu:
                        keep_active_lanes(c * k, H, H)
                    else:
                        activate(c * k, Z, Z, H, slopes)
                    _products(k, m, k, c, a, H, R)
                    gradient[end] = _residual(d, m, c, n, R, XT)  # (2)
                    _products(m, k, m, c, A_T, R, G)
                    if relu:
                        keep_active_lanes(c * k, H, G)  # (3)
                    else:
                        activate(c * k, Z, G, G, slopes)
                    _sum_outer(d, k, d + m, k, c, XT, G, dU)  # (4)
                    _sum_outer(k, m, k, m, c, H, R, dA)  # (2)
                    if skip:
                        _sum_outer(skip, m, d + m, m, c, XT, R, dC)
                    for i in range(end + 1):
                        scratch[step % 2, part, i] += gradient[i]
            start += n
            if not meet(marks, thread, step + 1):
                return total
            for i in range(end + 1):
                gradient[i] = scratch[step % 2, 0, i]
            for part in range(1, parts):
                for i in range(end + 1):
                    gradient[i] += scratch[step % 2, part, i]
            total += gradient[end]
            update(0, units, weights, velocities, gradient, rates[0], rates[3])
            update(units, both, weights, velocities, gradient, rates[1], rates[3])
            update(both, end, weights, velocities, gradient, rates[2], rates[3])
        if thread == 0:
            copy(u, U)
            copy(a, A)
            copy(c_, C)
            copy(velocities[:units].reshape((d, k)), VU)
            copy(velocities[units:both].reshape((k, m)), VA)
            copy(velocities[both:].reshape((skip, m)), VC)
        return total

    return loop


@inline
def _products(p, q, s, count, W, X, out):
    """out = W'X for samples in the lanes.  W (p, q), X (count, s >= p, lanes), out (count, q, lanes)."""
    lanes, height = lane_count(X), tile_height(q)
    for c in range(0, count, 2):
        beside = lanes if c + 1 < count else 0  # an odd last register is computed twice
        for row in range(0, q, height):
            j = min(row, q - height)  # rows may be computed twice, too
            weights, samples = (W, j, 1, q), (X, c * s * lanes, lanes, s * beside)
            set_tile(q, 2, weights, samples, p, (out, (c * q + j) * lanes, lanes, q * beside))


@inline
def _sum_outer(p, q, s, t, count, X, Y, out):
    """out (p, q) = X Y' summed over samples; X (count, s >= p, lanes), Y (count, t >= q, lanes)."""
    lanes, height = lane_count(X), tile_height(p)
    for row in range(0, p, height):
        i = min(row, p - height)
        for j in range(0, q, 2):
            beside = 1 if j + 1 < q else 0
            left, right = (X, i * lanes, lanes, s * lanes), (Y, j * lanes, t * lanes, beside * lanes)
            sum_tile(p, 2, left, right, count, (out, i * q + j, q, beside))


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
def _gather(size, flat, order, start, stop, starts, count, XT, xt):
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
                    xt[(c * size + i) * lanes + l] = flat[starts[l] + i]
        for l in range(max(stop - start - c * lanes, 0), lanes):
            for i in range(size):
                xt[(c * size + i) * lanes + l] = xt.dtype.type(0)


@inline
def _draw(d, rng, n, count, XT):
    """Fresh samples into the lanes: n, or as many as fit, and zeros after them."""
    for c in range(count):
        for l in range(XT.shape[2]):
            for i in range(d):
                XT[c, i, l] = rng.standard_normal() if c * XT.shape[2] + l < n else 0.0


@inline
def _label(d, k, m, count, teacher, linear, XT, H, R):
    """T = A*'H - D'x after each x, H = s(U*'x), for a teacher of width k; R is scratch."""
    _, A, D = teacher
    _products(k, m, k, count, A, H, R)
    for c in range(count):
        for o in range(m):
            store(XT, c * (d + m) + d + o, load(R, c * m + o))
    if linear:
        _subtract_linear(d, d, m, count, D, XT, R)


@inline
def _subtract_linear(rows, d, m, count, C, XT, R):
    """T - C'x takes the place of T, after each x; R is scratch."""
    minus = splat(XT.dtype.type(-1))
    _products(rows, m, d + m, count, C, XT, R)
    for c in range(count):
        for o in range(m):
            t = c * (d + m) + d + o
            store(XT, t, fma(minus, load(R, c * m + o), load(XT, t)))
