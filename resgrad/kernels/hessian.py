"""The exact Hessian of the expected loss, (12)-(17)."""

import math

import numpy as np

from .pairs import angle, directions
from .policy import jit, quiet
from .steps import copy


@quiet
def population_hessian(U, A, U_star, A_star, D):
    """The exact Hessian in (U, A), both row-major, shape (k (d + m), k (d + m)); (14)-(17)."""
    unit, norm = directions(np.vstack([U.T, U_star.T]))
    return _hessian(U, A, unit, norm, np.vstack([A, -A_star]), D)


@jit
def _hessian(U, A, unit, norm, Q, D):
    d, k, m, K = U.shape[0], U.shape[1], A.shape[1], len(unit)
    uu, ua, aa = np.zeros((k, k, d, d)), np.zeros((k, k, d, m)), np.zeros((k, k))
    for j in range(k):
        aa[j, j] = norm[j] * norm[j]
        if norm[j] > 0.0:  # the pair of a unit with itself: phi = 0
            for i in range(d):
                uu[j, j, i, i] += np.dot(A[j], A[j])
                for o in range(m):
                    ua[j, j, i, o] += D[i, o] + 2.0 * U[i, j] * A[j, o]
        for l in range(j + 1, K):
            c, s, p = angle(unit[j], unit[l])
            w = np.dot(Q[j], Q[l]) / math.pi
            inverse = 1.0 / s if s > 0.0 else 0.0
            if l < k:
                aa[j, l] = aa[l, j] = norm[j] * norm[l] * (s + p * c) / math.pi  # (17)
                if norm[j] > 0.0 and norm[l] > 0.0:
                    for i in range(d):
                        s_m = (unit[l, i] - c * unit[j, i]) * inverse
                        for e in range(d):
                            s_n = unit[j, e] - c * unit[l, e]
                            uu[j, l, i, e] = w * (s * unit[j, i] * unit[l, e] + s_m * s_n)  # (14)
                        uu[j, l, i, i] += w * p
                    copy(uu[j, l].T, uu[l, j])
            for a, b in ((j, l), (l, j)):  # what unit b adds to the blocks of unit a
                if a >= k or norm[a] == 0.0:
                    continue
                slope = norm[b] * (s * unit[a] + p * unit[b]) / math.pi  # twice (9)
                for i in range(d):
                    for o in range(m):
                        ua[a, a, i, o] += slope[i] * Q[b, o]  # (16)
                        if b < k:
                            ua[a, b, i, o] = slope[i] * A[a, o]
                ratio = w * norm[b] / norm[a]
                across = unit[b] - c * unit[a]  # s m
                for i in range(d):
                    uu[a, a, i, i] += ratio * s
                    for e in range(d):
                        bend = across[i] * across[e] * inverse - s * (unit[a, i] * unit[a, e])
                        uu[a, a, i, e] += ratio * bend  # (15)
    hessian = np.zeros((k * (d + m), k * (d + m)))
    for j in range(k):
        for l in range(k):
            for i in range(d):
                for e in range(d):
                    hessian[i * k + j, e * k + l] = uu[j, l, i, e]
                for o in range(m):
                    hessian[i * k + j, d * k + l * m + o] = ua[j, l, i, o]
                    hessian[d * k + l * m + o, i * k + j] = ua[j, l, i, o]
            for o in range(m):
                hessian[d * k + j * m + o, d * k + l * m + o] = aa[j, l]
    return hessian
