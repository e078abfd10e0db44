"""Pieces of a training step that the fused loops share, and NumPy's shuffle."""

import numpy as np

from .lanes import fma, load, splat, store, where_positive
from .policy import inline, jit


@inline
def keep_active_lanes(count, Z, G):
    """G where Z > 0, else 0, in ``count`` registers, (3); for G = Z the forward relu.  relu'(0) = 0."""
    for i in range(count):
        store(G, i, where_positive(load(Z, i), load(G, i)))


@inline
def activate(count, Z, G, out, slopes):
    """The same for other slopes, into ``out``: p G where Z > 0, else n G.  For G = Z the forward activation."""
    number = Z.dtype.type
    zero, minus, up, down = splat(number(0)), splat(number(-1)), splat(number(slopes[0])), splat(number(slopes[1]))
    for i in range(count):
        g = load(G, i)
        above = where_positive(load(Z, i), g)
        store(out, i, fma(up, above, fma(down, fma(minus, above, g), zero)))


@jit
def shuffle(order, last, numbers):
    """NumPy's shuffle of order[: last + 1], without branches: a number that NumPy would reject swaps nothing.

    ``numbers`` are uniform on 0 ... 2^32 - 1.  Of each, the lowest bits are used, as many as ``last`` has.  Returns
    the ``last`` from which to go on with more numbers; 0 is the end.
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
    """target[:] = source.  Numba's own assignment takes seconds to compile, as it checks shapes."""
    for i in range(source.shape[0]):
        for j in range(source.shape[1]):
            target[i, j] = source[i, j]


@jit
def nonzero(M):
    """Whether an entry of a matrix is not 0."""
    found = False
    for i in range(M.shape[0]):
        for j in range(M.shape[1]):
            found |= M[i, j] != 0.0
    return found
