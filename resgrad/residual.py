"""Student minus teacher in double-double numbers, (hi, lo) in the last axis, and the loss with biases from them."""

from fractions import Fraction

import numpy as np

from . import kernels
from .kernels import biased, digits, nearby

CLEAR = 1e-6  # of the scale: a loss above it has nine digits, as its terms are accurate to a few 1e-16 of that
LARGEST = 2000  # most parameters for which a smaller loss is computed from Hessians


def exact_canonical(arch, blocks, rows):
    """Rows of U' (k, rows, 2) and A (k, m, 2) as unevaluated sums hi + lo, free of rounding.

    A row is a column of U: d entries, the bias where the architecture has one, and zeros up to ``rows`` entries.
    """
    W1, b = blocks.W1.astype(np.float64), np.zeros(0) if blocks.b is None else blocks.b.astype(np.float64)
    U = digits.exact_units(W1, b, rows, float(arch.identity))
    if arch.readout == "fixed":
        return U, np.array([[[1.0, 0.0]]] * len(U))
    return U, digits.exact_readout(blocks.W2.astype(np.float64), arch.readout == "sum")


def plus(x, y):
    """x + y, x (..., 2) in double-double, y (...) or (..., 2), to 32 digits of the larger one."""
    y_hi, y_lo = (y[..., 0], y[..., 1]) if y.ndim == x.ndim else (y, 0.0)
    hi, error = kernels.two_sum(x[..., 0], y_hi)
    return np.stack(kernels.two_sum(hi, error + (x[..., 1] + y_lo)), axis=-1)


def _times(x, y):
    """x y of double-double arrays that broadcast."""
    hi, error = digits.two_product(x[..., 0], y[..., 0])
    return np.stack(kernels.two_sum(hi, error + (x[..., 0] * y[..., 1] + x[..., 1] * y[..., 0])), axis=-1)


def in_slopes(U, A, D, there, here):
    """(A, D) of a teacher with slopes ``there`` as of one with slopes ``here``: `_TeacherLoss._in_slopes`, exactly."""
    (p, n), (p_star, n_star) = (map(Fraction, pair) for pair in (here, there))
    ratio = (p_star - n_star) / (p - n)
    scale, shift = (np.array(digits.double_double(number)) for number in (ratio, n * ratio - n_star))
    for u, a in zip(U, A):
        D = plus(D, _times(_times(u[:, None], a[None]), shift))
    return _times(A, scale), D


@kernels.quiet
def biased_excess(exact_Z, exact_Q, exact_D, k_star, slopes, fixed):
    """The loss with biases of Z (K, d + 1, 2), Q (K, m, 2), D (d + 1, m, 2), the last ``k_star`` units the teacher's.

    Near the teacher, where (B6) is the small difference of large terms, it is an integral of the Hessian.
    """
    Z, Q, D = (array[..., 0].copy() for array in (exact_Z, exact_Q, exact_D))
    k = len(Z) - k_star
    scale = np.sum(np.linalg.norm(Q, axis=1) * np.linalg.norm(Z, axis=1)) ** 2 + np.sum(D * D)
    if not np.isfinite(scale):
        return np.inf  # the loss, or a product in it, overflows
    U, U_star = (np.ascontiguousarray(rows.T) for rows in (Z[:k], Z[k:]))
    plain = biased.biased_value(U, Q[:k], U_star, -Q[k:], D, slopes)
    if plain > CLEAR * scale or k != k_star or U.size + Q[:k].size + D.size > LARGEST:
        return plain
    near = nearby.step_from_teacher(exact_Z[:k], exact_Q[:k], exact_Z[k:], -exact_Q[k:], fixed)
    if near is None:
        return plain
    U, A, dU, dA = near
    return biased.biased_near(U, A, D, (dU, dA, exact_D[..., 0] + exact_D[..., 1]), slopes)[0]
