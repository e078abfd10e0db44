"""The gradient on a whole data set, and what the fused loops share: the residual, the step, NumPy's shuffle."""

import numpy as np

from .lanes import load, store, where_positive
from .policy import BLOCK, inline, jit, sampled_jit


@inline
def keep_active(h, g):
    """g where h > 0, else 0, (3); for g = h the forward relu.  relu'(0) = 0."""
    zero = g.dtype.type(0)
    for b in range(g.shape[0]):
        for i in range(g.shape[1]):
            g[b, i] = g[b, i] if h[b, i] > zero else zero


@inline
def keep_active_lanes(count, H, G):
    """`keep_active` for ``count`` registers."""
    for i in range(count):
        store(G, i, where_positive(load(H, i), load(G, i)))


@inline
def residual(n, r, t):
    """F = r becomes 2 r / n; returns the share of the mean loss.  t = y - C'x."""
    scale, loss = r.dtype.type(2.0 / n), 0.0
    for i in range(r.size):
        error = r[i] - t[i]
        loss += error * error
        r[i] = error * scale
    return loss / n


@sampled_jit
def dataset_gradient(rows, U, A, dU, dA):
    """Mean loss over the data set; its gradient goes into dU and dA, unless these are empty.  rows = [x, y - C'x]."""
    d, k, m, total, backward = U.shape[0], U.shape[1], A.shape[1], 0.0, dU.size > 0
    size = min(BLOCK, len(rows))
    HH, RR, GG = np.empty((size, k), U.dtype), np.empty((size, m), U.dtype), np.empty((size, k), U.dtype)
    dU[:] = 0
    dA[:] = 0
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        X, T = np.ascontiguousarray(block[:, :d]), np.ascontiguousarray(block[:, d:])
        H, R, G = HH[: len(X)], RR[: len(X)], GG[: len(X)]
        np.dot(X, U, H)
        keep_active(H, H)
        np.dot(H, A, R)  # (1)
        total += residual(len(rows), R.reshape(-1), T.reshape(-1))
        if backward:
            np.dot(R, A.T, G)
            keep_active(H, G)  # (3)
            dU += np.dot(X.T, G)  # (4)
            dA += np.dot(H.T, R)  # (2)
    return total


@jit
def shuffle(order, last, numbers):
    """NumPy's shuffle of order[: last + 1], without its branches: a number that is too large swaps nothing.

    ``numbers`` are uniform on 0 ... 2^32 - 1; of each, only as many low bits count as ``last`` has.  Returns the
    ``last`` to go on from with more of them; 0 is the end.
    """
    mask = 1
    while mask < last:
        mask = 2 * mask + 1
    for number in numbers:
        if last <= mask >> 1:
            mask >>= 1
        chosen = np.int64(number) & mask
        other = min(chosen, last)
        order[last], order[other] = order[other], order[last]
        last -= chosen <= last
    return last


@inline
def copy(source, target):
    """target[:] = source.  Numba's own assignment takes seconds to compile, with what it says of shapes that differ."""
    for i in range(source.shape[0]):
        for j in range(source.shape[1]):
            target[i, j] = source[i, j]


@inline
def update(start, stop, w, v, g, lr, momentum):
    """One step of (6), in place, for some entries of flat arrays."""
    for i in range(start, stop):
        v[i] = momentum * v[i] + g[i]
        w[i] -= lr * (g[i] + momentum * v[i])
