"""Student minus teacher in double-double numbers, (hi, lo) in the last axis, and the loss with biases from them."""

import numpy as np

from . import kernels
from .kernels import biased, nearby

CLEAR = 1e-4  # of the scale: a loss above it has its digits, as its terms are good to 1e-13
LARGEST = 2000  # parameters of a student whose Hessian is taken for the digits of a smaller loss


def exact_canonical(arch, blocks):
    """Rows of U' (k, d, 2) and A (k, m, 2) as unevaluated sums hi + lo, free of rounding; biases end the rows."""
    W1, W2, b = blocks.W1, blocks.W2, blocks.b
    shift = arch.identity * np.eye(*W1.shape)
    U = np.stack(kernels.two_sum(W1.astype(np.float64), shift), axis=-1).transpose(1, 0, 2)
    if b is not None:
        U = np.concatenate([U, np.stack([b, np.zeros_like(b)], axis=-1)[:, None].astype(np.float64)], axis=1)
    if arch.readout == "fixed":
        A = np.ones((W1.shape[1], 1))
    else:
        A = W2.astype(np.float64)
    A = np.stack([A, np.zeros_like(A)], axis=-1)
    if arch.readout == "sum":
        hi, lo = A[:, :1, 0], A[:, :1, 1]
        for o in range(1, A.shape[1]):
            hi, error = kernels.two_sum(hi, A[:, o : o + 1, 0])
            lo = lo + error
        A = np.stack(kernels.two_sum(hi, lo), axis=-1)
    return np.ascontiguousarray(U), np.ascontiguousarray(A)


@kernels.quiet
def biased_excess(exact_Z, exact_Q, exact_D, k_star, slopes, fixed):
    """The loss with biases of Z (K, d + 1, 2), Q (K, m, 2), D (d + 1, m, 2), the last ``k_star`` units the teacher's.

    Near the teacher, where (B6) is the small difference of large terms, it is an integral of the Hessian.
    """
    Z, Q, D = (array[..., 0].copy() for array in (exact_Z, exact_Q, exact_D))
    k = len(Z) - k_star
    scale = np.sum(np.linalg.norm(Q, axis=1) * np.linalg.norm(Z, axis=1)) ** 2 + np.sum(D * D)
    if not np.isfinite(scale):
        return np.inf  # the loss, or a product in it, is beyond 1e308
    U, U_star = (np.ascontiguousarray(rows.T) for rows in (Z[:k], Z[k:]))
    plain = biased.biased_value(U, Q[:k], U_star, -Q[k:], D, slopes)
    if plain > CLEAR * scale or k != k_star or U.size + Q[:k].size + D.size > LARGEST:
        return plain
    near = nearby.step_from_teacher(exact_Z[:k], exact_Q[:k], exact_Z[k:], -exact_Q[k:], fixed)
    if near is None:
        return plain
    U, A, dU, dA = near
    return biased.biased_near(U, A, D, (dU, dA, exact_D[..., 0] + exact_D[..., 1]), slopes)[0]
