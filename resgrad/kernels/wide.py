"""The training loop on samples for all other networks: the lanes of a register are units.

The units are cut into parts, the batch is not.  One step, as every thread does it:

    gather (or draw) the whole batch X
    for each of my parts:  Z = X U;  H = s(Z)                                     (1)
    shares[thread] = the sum of H A over my parts
    meet the other threads
    for my slice of the samples:  R = 2 (sum of all shares + X C - T) / n
    meet the other threads
    for each of my parts:  G = (R A') s'(Z)                                       (3)
        U = the step (6) with X'G,  A = the step (6) with H'R                     (4), (2)
    for my rows of C, where it is trained:  the step (6) with X'R

All sums over parts, within a thread and over threads, follow one binary tree: the bits do not depend on the number of
threads.
"""

from typing import NamedTuple

import numpy as np

from .lanes import add_tile, fma, lane_count, load, load_lanes, prefetch, registers, set_tile, splat, store
from .plain import RELU, split
from .policy import BLOCK, REGISTER, ROWS, inline, jit, sampled_jit
from .steps import activate, copy, keep_active_lanes, nonzero
from .threads import meet, share


class Scratch(NamedTuple):
    """The loop's memory.  The first axis is the thread or the part, the others are a matrix with rows of `_stride`.

    Matrices of weights are padded with zeros, which add nothing.
    """

    X: np.ndarray  # by thread: inputs, a row for each sample
    T: np.ndarray  # by thread: labels
    shares: np.ndarray  # by thread: what its units add to F
    R: np.ndarray  # shared
    losses: np.ndarray  # shared: of each sample
    tree: np.ndarray  # by thread: tiles whose sum is not complete
    H: np.ndarray  # all others by part
    Z: np.ndarray  # H itself for relu
    G: np.ndarray
    units: np.ndarray
    v_units: np.ndarray
    d_units: np.ndarray
    readout: np.ndarray
    v_readout: np.ndarray
    d_readout: np.ndarray
    readout_T: np.ndarray
    skip: np.ndarray  # shared; no rows where C is fixed
    v_skip: np.ndarray
    d_skip: np.ndarray  # by thread, or shared where it is whole
    slopes: np.ndarray  # (p, n) of the activation


def _stride(count):
    """Length of a row for ``count`` numbers: an odd number of tiles, so that rows fall into different cache sets."""
    unit = max(ROWS, REGISTER // 4)
    return (-(-count // unit) | 1) * unit


def _units(k, lanes, parts, part):
    """(first, last) of the units of a part, which fill whole registers."""
    count = -(-k // lanes)
    return min(k, count * part // parts * lanes), min(k, count * (part + 1) // parts * lanes)


def _behind(k, lanes, parts):
    """The column at which the teacher's units begin: after those of the largest part."""
    return _stride(-(-k // (lanes * parts)) * lanes)


def wide_scratch(parts, d, k, k_star, m, skip, slopes, batch, dtype):
    """A `Scratch` of zeros.  If the batch is one block, each tile of a gradient is used at once: one has memory."""
    like = np.empty(0, dtype)
    lanes, tile = REGISTER // like.itemsize, (ROWS, 2 * REGISTER // like.itemsize)
    size, inputs, outputs, units = _stride(min(batch, BLOCK)), _stride(d), _stride(m), _behind(k, lanes, parts)
    units = _stride(units + -(-k_star // parts)) if k_star else units
    whole, relu = batch > BLOCK, slopes == RELU
    shapes = {
        "X": (parts, size, inputs), "T": (parts, size, outputs), "shares": (parts, size, outputs),
        "R": (1, size, outputs), "tree": (parts, parts.bit_length() * ROWS, tile[1]),
        "H": (parts, size, units), "G": (parts, size, units),
        "units": (parts, inputs, units), "v_units": (parts, inputs, units),
        "d_units": (parts, inputs, units) if whole else (parts, *tile),
        "readout": (parts, units, outputs), "v_readout": (parts, units, outputs),
        "d_readout": (parts, units, outputs) if whole else (parts, *tile), "readout_T": (parts, outputs, units),
        "Z": (0 if relu else parts, size, units), "skip": (1, skip and inputs, outputs),
        "v_skip": (1, skip and inputs, outputs), "d_skip": (1, skip and inputs, outputs) if whole else (parts, *tile),
    }  # fmt: skip
    matrices = {
        name: registers(count * rows, columns // lanes, like).reshape((count, rows, columns))
        for name, (count, rows, columns) in shapes.items()
    }
    if relu:
        matrices["Z"] = matrices["H"]
    return Scratch(losses=np.zeros(size), slopes=np.array(slopes, dtype), **matrices)


def wide_loop(d, k, m, k_star=0, skip=0):
    """The loop of `sampled_loop`, for every shape."""

    def loop(thread, marks, scratch, rows, order, start, rng, teacher, w, v, rates, batch, n_steps, total):
        weights = split(w, d, k, m, skip), split(v, d, k, m, skip)
        own, used = _enter(thread, marks, scratch, *weights, teacher, k_star)
        given = rows, order, start, rng, teacher[2], rates, batch, n_steps, total
        total, turn = compiled_loop(thread, marks, scratch, (d, m, skip), own, used, *given)
        if turn:
            _leave(thread, marks, scratch, *weights)
            meet(marks, thread, turn)  # all is written
        return total

    return loop


@sampled_jit
def compiled_loop(thread, marks, scratch, sizes, own, used, rows, order, start, rng, D, rates, batch, n_steps, total):
    """The same for one thread, whose weights are in the scratch; returns the next turn, too, or 0 where one stopped.

    ``own`` and ``used``: how many units each part has, without and with those of the teacher.
    """
    (d, m, skip), fresh, linear, slopes = sizes, rows.size == 0, nonzero(D), scratch.slopes
    relu = slopes[0] == 1 and slopes[1] == 0
    lanes, threads, turn, whole = lane_count(scratch.H), len(marks), 0, batch > BLOCK
    (first, last), (top, bottom) = share(len(scratch.H), thread, marks), _rows_of_skip(skip, thread, marks)
    X, T, R, H, Z, G = scratch.X[thread], scratch.T[thread], scratch.R[0], scratch.H, scratch.Z, scratch.G
    shares, tree = scratch.shares, scratch.tree[thread]
    d_skip = scratch.d_skip[0 if whole else thread]
    for _ in range(n_steps):
        n = batch if fresh else min(batch, order.size - start)
        for begin in range(0, n, BLOCK):
            count, ends, at = min(BLOCK, n - begin), begin + BLOCK >= n, start + begin
            tiles = -(-count // ROWS)
            tall = tiles * ROWS
            if fresh:
                _draw(rng, D, linear, X[:count, :d], T[:count, :m])
            else:
                _gather(rows, order[at : at + count], d, X, T)
            soon = order[at + count : at + count + min(BLOCK, n - begin - count if not ends else batch)]
            X[count:tall] = 0
            T[count:tall] = 0
            for p in range(first, last):
                _times(
                    X, scratch.units[p], Z[p], tall, d, used[p], rows, _piece(soon, 2 * (p - first), 2 * (last - first))
                )
                _activate(relu, tall * H.shape[2] // lanes, Z[p], Z[p], H[p], slopes)
            _sum_of_products(first, last, H, scratch.readout, used, tree, shares[thread], tall, m)
            if not meet(marks, thread, turn + 1):
                return total, 0
            low, high = tiles * thread // threads * ROWS, tiles * (thread + 1) // threads * ROWS
            if skip:
                _times(X[low:high], scratch.skip[0], R[low:high], high - low, skip, m, rows, soon[:0])
                for b in range(low, high):
                    for o in range(m):
                        T[b, o] -= R[b, o]
            _residual(low, high, n, m, threads, shares, T, R, scratch.losses)  # (1)
            turn += 2
            if not meet(marks, thread, turn):
                return total, 0
            total += np.sum(scratch.losses[:count]) / n
            for p in range(first, last):
                back = scratch.readout_T[p]
                _times(R, back, G[p], tall, m, own[p], rows, _piece(soon, 2 * (p - first) + 1, 2 * (last - first)))
                _activate(relu, tall * H.shape[2] // lanes, Z[p], G[p], G[p], slopes)  # (3)
                weights = scratch.d_units[p], scratch.units[p], scratch.v_units[p], back[:0]
                _descend(X, G[p], (tall, 0, d, own[p]), whole, weights, (rates[0], rates[3]), ends)  # (4)
                weights = scratch.d_readout[p], scratch.readout[p], scratch.v_readout[p], back
                _descend(H[p], R, (tall, 0, own[p], m), whole, weights, (rates[1], rates[3]), ends)  # (2)
            if skip:
                weights = d_skip, scratch.skip[0], scratch.v_skip[0], R[:0]
                _descend(X, R, (tall, top, bottom, m), whole, weights, (rates[2], rates[3]), ends)
        start += n
    return (total, turn + 2) if meet(marks, thread, turn + 1) else (total, 0)


# --------------------------------------------------------------------------- products


@inline
def _piece(soon, i, n):
    """The i-th of n pieces of an array."""
    return soon[soon.size * i // n : soon.size * (i + 1) // n]


@sampled_jit
def _activate(relu, count, Z, G, out, slopes):
    """``out`` = G s'(Z), which is s(Z) for G = Z; for relu ``out`` must be G itself."""
    if relu:
        keep_active_lanes(count, Z, out)
    else:
        activate(count, Z, G, out, slopes)


@sampled_jit
def _times(X, W, Y, rows, depth, columns, data, wanted):
    """Y[:rows, :columns] = X[:, :depth] W, in whole tiles; meanwhile prefetch the ``wanted`` rows of ``data``."""
    lanes, x, w, y = lane_count(X), X.shape[1], W.shape[1], Y.shape[1]
    tile, tiles = 0, -(-columns // (2 * lanes)) * -(-rows // ROWS)
    for j in range(0, columns, 2 * lanes):
        for i in range(0, rows, ROWS):
            for n in range(wanted.size * tile // tiles, wanted.size * (tile + 1) // tiles):
                for e in range(0, data.shape[1], lanes):
                    prefetch(data, wanted[n] * data.shape[1] + e)
            tile += 1
            left, right, product = (X, i * x, x, 1), (W, j, w, lanes), (Y, i * y + j, y, lanes)
            if j + lanes < columns:
                set_tile(ROWS, 2, left, right, depth, product)
            else:
                set_tile(ROWS, 1, left, right, depth, product)


@sampled_jit
def _sum_of_products(first, last, H, W, depths, tree, Y, rows, columns):
    """Y[:rows, :columns] = the sum of H[p] W[p] over the parts p, in whole tiles.

    A sum of 2^n parts is that of two sums of 2^(n-1) parts.  ``tree`` keeps the first until the second is there.
    """
    lanes, y, size = lane_count(H), Y.shape[1], ROWS * tree.shape[1]
    one = splat(H.dtype.type(1))
    for j in range(0, columns, 2 * lanes):
        wide = j + lanes < columns
        for i in range(0, rows, ROWS):
            waiting = 0
            for p in range(first, last):
                left = H, (p * H.shape[1] + i) * H.shape[2], H.shape[2], 1
                right = W, p * W.shape[1] * W.shape[2] + j, W.shape[2], lanes
                if wide:
                    set_tile(ROWS, 2, left, right, depths[p], (tree, waiting * size, 2 * lanes, lanes))
                else:
                    set_tile(ROWS, 1, left, right, depths[p], (tree, waiting * size, 2 * lanes, lanes))
                done = p - first + 1
                while done % 2 == 0:
                    waiting, done = waiting - 1, done // 2
                    for r in range(2 * waiting * ROWS, 2 * (waiting + 1) * ROWS):
                        store(tree, r, fma(one, load(tree, r), load(tree, r + 2 * ROWS)))
                waiting += 1
            for r in range(ROWS):
                for c in range(2 if wide else 1):
                    store(Y, ((i + r) * y + j) // lanes + c, load(tree, 2 * r + c))


@inline
def _residual(low, high, n, m, threads, shares, T, R, losses):
    """R = 2 (F - T) / n and the squared errors of some samples; F is the sum of all ``shares``, by the same tree."""
    scale = R.dtype.type(2.0 / n)
    for b in range(low, high):
        apart = 1
        while apart < threads:
            for t in range(0, threads, 2 * apart):
                for o in range(m):
                    shares[t, b, o] += shares[t + apart, b, o]
            apart *= 2
        loss = 0.0
        for o in range(m):
            error = shares[0, b, o] - T[b, o]
            loss += error * error
            R[b, o] = error * scale
        losses[b] = loss


@sampled_jit
def _descend(X, G, sizes, whole, weights, rates, last):
    """gradient += X'G, in whole tiles; after the ``last`` samples the step (6) of W, and W_T = W'.

    ``sizes`` = (number of samples, first row, end of the rows, number of columns); ``weights`` = (gradient, W, V, W_T),
    where W_T may be empty.  A gradient that is not ``whole`` is one tile, used at once, as the batch is one block.
    """
    (samples, first, rows, columns), (gradient, W, V, W_T) = sizes, weights
    lanes, x, w, size = lane_count(X), X.shape[1], W.shape[1], gradient.shape[1]
    minus_lr, momentum, starts = splat(-rates[0]), splat(rates[1]), np.empty(lane_count(X), np.int64)
    for j in range(0, columns, 2 * lanes):
        wide = j + lanes < columns
        for i in range(first, rows, ROWS):
            for n in range(i * w + j, (i + ROWS) * w + j, w):  # they are needed after the tile
                for e in range(n, n + 2 * lanes, lanes):
                    prefetch(W, e)
                    prefetch(V, e)
            at = i * size + j if whole else 0
            left, right, product = (X, i, 1, x), (G, j, G.shape[1], lanes), (gradient, at, size, lanes)
            if wide:
                add_tile(ROWS, 2, left, right, samples, product)
            else:
                add_tile(ROWS, 1, left, right, samples, product)
            if last:
                for r in range(ROWS):
                    for c in range(2 if wide else 1):
                        n, g = ((i + r) * w + j) // lanes + c, (at + r * size) // lanes + c
                        _update_lanes(n, g, W, V, gradient, minus_lr, momentum)
        if last and len(W_T):
            _transpose(W, rows, j, min(j + 2 * lanes, columns), W_T, starts)


@inline
def _update_lanes(n, g, W, V, gradient, minus_lr, momentum):
    """The step (6) of the n-th register of W, by the g-th of the gradient, which becomes 0."""
    slope = load(gradient, g)
    v = fma(momentum, load(V, n), slope)
    store(V, n, v)
    store(W, n, fma(minus_lr, fma(momentum, v, slope), load(W, n)))
    store(gradient, g, splat(gradient.dtype.type(0)))


@inline
def _transpose(W, rows, first, last, W_T, starts):
    """W_T[first:last, :rows] = W[:rows, first:last]', in whole registers; ``starts`` is scratch."""
    lanes, w, w_t = lane_count(W), W.shape[1], W_T.shape[1]
    for j in range(first, last, lanes):
        for i in range(0, rows, lanes):
            for r in range(lanes):
                starts[r] = (i + r) * w
            load_lanes(W, starts, j, lanes, W_T, (j * w_t + i) // lanes, w_t // lanes)


# --------------------------------------------------------------------------- in and out


@jit
def _rows_of_skip(skip, thread, marks):
    """(first, last) of the rows of C that a thread moves, in whole tiles."""
    tiles, threads = -(-skip // ROWS), len(marks)
    return tiles * thread // threads * ROWS, tiles * (thread + 1) // threads * ROWS


def _enter(thread, marks, scratch, W, V, teacher, k_star):
    """Copy the weights of this thread into the scratch.  Returns how many units each part has: its own, and in all.

    Fresh samples need the teacher's units, too: they follow the student's, with read-out -A*.
    """
    (U, A, C), (VU, VA, VC), k, m, parts = W, V, W[0].shape[1], W[1].shape[1], len(scratch.H)
    lanes, own, used = REGISTER // U.itemsize, np.zeros(parts, np.int64), np.zeros(parts, np.int64)
    for p in range(*share(parts, thread, marks)):
        low, high = _units(k, lanes, parts, p)
        for matrix in (
            scratch.units, scratch.v_units, scratch.d_units, scratch.readout, scratch.v_readout, scratch.d_readout,
            scratch.readout_T,
        ):  # fmt: skip
            matrix[p] = 0  # a run that diverged may have left NaN in the padding, an interrupted one its gradient
        own[p] = used[p] = count = high - low
        scratch.units[p, : len(U), :count], scratch.v_units[p, : len(U), :count] = U[:, low:high], VU[:, low:high]
        scratch.readout[p, :count, :m], scratch.v_readout[p, :count, :m] = A[low:high], VA[low:high]
        scratch.readout_T[p, :m, :count] = A[low:high].T
        if k_star:
            behind, low, high = _behind(k, lanes, parts), k_star * p // parts, k_star * (p + 1) // parts
            used[p] = behind + high - low
            scratch.units[p, : len(U), behind : used[p]] = teacher[0][:, low:high]
            scratch.readout[p, behind : used[p], :m] = -teacher[1][low:high]
    top, bottom = _rows_of_skip(len(C), thread, marks)
    for matrix, part in ((scratch.skip, C), (scratch.v_skip, VC)):
        matrix[0, top:bottom] = 0
        matrix[0, top : min(bottom, len(C)), :m] = part[top:bottom]
    if len(C):  # where all share it, too: they meet before the first gradient
        scratch.d_skip[thread if len(scratch.d_skip) > 1 else 0] = 0
    return own, used


def _leave(thread, marks, scratch, W, V):
    """Copy the weights of this thread back."""
    (U, A, C), (VU, VA, VC), m, parts = W, V, W[1].shape[1], len(scratch.H)
    for p in range(*share(parts, thread, marks)):
        low, high = _units(U.shape[1], REGISTER // U.itemsize, parts, p)
        U[:, low:high], VU[:, low:high] = (x[p, : len(U), : high - low] for x in (scratch.units, scratch.v_units))
        A[low:high], VA[low:high] = (x[p, : high - low, :m] for x in (scratch.readout, scratch.v_readout))
    top, bottom = _rows_of_skip(len(C), thread, marks)
    C[top:bottom], VC[top:bottom] = (x[0, top : min(bottom, len(C)), :m] for x in (scratch.skip, scratch.v_skip))


@inline
def _gather(rows, picked, d, X, T):
    """The rows [x, y - C'x] that are ``picked``, into X and T."""
    m = rows.shape[1] - d
    for b in range(picked.size):
        row = picked[b]
        for i in range(d):
            X[b, i] = rows[row, i]
        for o in range(m):
            T[b, o] = rows[row, d + o]


@inline
def _draw(rng, D, linear, X, T):
    """Fresh samples into the rows of X, and -D'x into those of T."""
    for b in range(X.shape[0]):
        for i in range(X.shape[1]):
            X[b, i] = rng.standard_normal()
    if linear:
        copy(-np.dot(X.copy(), D), T)
    else:
        T[:] = 0
