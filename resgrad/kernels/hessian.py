"""The exact Hessian of the expected loss, (12)-(17)."""

import math

import numpy as np

from .pairs import angle, directions
from .plain import RELU
from .policy import jit, quiet
from .steps import copy


@quiet
def population_hessian(U, A, C, U_star, A_star, D, slopes):
    """The exact Hessian in (U, A, C), row-major, square, with k (d + m) rows and those of C; (14)-(17), (20).

    D is C - C*, or, where C is trained, -C*; else C has no rows.
    """
    unit, norm = directions(np.vstack([U.T, U_star.T]))
    Q = np.vstack([A, -A_star])
    if len(C) == 0 and tuple(slopes) == RELU:
        return _hessian(U, A, unit, norm, Q, D)
    (p, n), (d, k), m, skip = slopes, U.shape, A.shape[1], C.size
    D = D + C if len(C) else D
    ZQ, live, eye = U @ A - U_star @ A_star, norm[:k] > 0, np.eye
    pairs = (p - n) ** 2 * _hessian(U, A, unit, norm, Q, np.zeros_like(D))
    slope = np.where(live, p + n, 2 * n)  # twice the mean of s'(z); s'(0) = n
    both = (np.outer(slope, slope) - (p - n) ** 2 * np.outer(live, live)) / 2  # 2 p n for two live units
    uu = np.einsum("jl,ie->ijel", both * np.einsum("jo,lo->jl", A, A), eye(d))
    ua = np.einsum("jl,il,jo->ijlo", both, U, A)
    aa = 2 * p * n * np.einsum("ij,il,op->jolp", U, U, eye(m))
    M, flat = (p + n) * D + 2 * p * n * ZQ, n * (2 * D + (p + n) * ZQ)
    ua += np.einsum("jl,ijo->ijlo", eye(k), np.where(live[:, None], M[:, None, :], flat[:, None, :]))
    uu, ua, aa = uu.reshape(U.size, -1), ua.reshape(U.size, -1), aa.reshape(A.size, -1)
    hessian = np.block([[uu, ua], [ua.T, aa]]) + pairs
    if skip == 0:
        return hessian
    uc = np.einsum("ie,jo,j->ijeo", eye(d), A, slope).reshape(U.size, -1)
    ac = (p + n) * np.einsum("ej,op->joep", U, eye(m)).reshape(A.size, -1)
    mixed = np.vstack([uc, ac])
    return np.block([[hessian, mixed], [mixed.T, 2 * eye(skip)]])


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
            for a, b in ((j, l), (l, j)):  # the terms of unit b in the blocks of unit a
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
