"""Pieces of a training step that the fused loops share, and NumPy's shuffle."""

import numpy as np

from .lanes import load, store, where_positive
from .policy import inline, jit


@inline
def keep_active_lanes(count, H, G):
    """G where H > 0, else 0, in ``count`` registers, (3); for G = H the forward relu.  relu'(0) = 0."""
    for i in range(count):
        store(G, i, where_positive(load(H, i), load(G, i)))


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
