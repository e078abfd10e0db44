"""Other activations by their duals: expected loss, gradient and Hessian from one function K of a cosine, in NumPy.

For Gaussian x and unit vectors, E[f(u'x) f(v'x)] = K(u'v).  Made 1-homogeneous, s(u, x) = |u| f(u^'x), every
activation f has, with c the cosine of u and v and ^ a unit vector,

    G(u, v) = E[s(u, x) s(v, x)] = |u||v| K(c)                                                   (a)
    dG/du = |v| ((K - c K') u^ + K' v^)                                                         (b)
    d2G/du dv = K' I + (K - c K') u^ v^' + K'' (v^ - c u^)(u^ - c v^)'                           (c)
    d2G/du du = |v| / |u| ((K - c K')(I - u^ u^') + K'' (v^ - c u^)(v^ - c u^)')                 (d)

in place of (7), (9), (12) and (13), their case for relu.  The rest of (8)-(17) stays.  The linear part enters by
E[s(u, x) x] = (slope / 2) u, where the slope is 1 for relu and 0 for an activation without a part of degree one.

In Hermite polynomials of norm 1, f = sum_k s_k h_k, K is the power series sum_k s_k^2 c^k (O'Donnell 2014, 11.2).
Relu's is s_0^2 = 1 / 2 pi, s_1^2 = 1/4, s_2^2 = 1 / 4 pi, s_{k+2}^2 = s_k^2 (k - 1)^2 / ((k + 1)(k + 2)) for even k.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .kernels.pairs import directions
from .kernels.policy import quiet

S2, S4 = 1 / (2 * math.sqrt(math.pi)), -1 / math.sqrt(48 * math.pi)  # relu's coefficients of degree 2 and 4


class Dual(NamedTuple):
    """An activation f and its functions in the formulas."""

    at: Callable  # (u (k, d), z (K, d)), rows of length 1 or 0 -> (c, K, K', K''), each (k, K)
    activation: Callable  # t -> (f, f')
    squares: Callable  # n -> s_0^2 ... s_n^2
    slope: float  # 2 s_1
    labels: float = 1.0  # times this, relu has f's coefficients where those of f are not 0


def _arc(u, z):
    """(c, s, pi - phi) of all pairs of rows, to the last digit at every angle; see `kernels.pairs.angle`."""
    minus, plus = (np.linalg.norm(u[:, None, :] + sign * z, axis=2) for sign in (-1, 1))
    return (plus + minus) * (plus - minus) / 4, plus * minus / 2, 2 * np.arctan2(plus, minus)


def _relu(u, z):
    c, s, p = _arc(u, z)
    return c, (s + p * c) / (2 * np.pi), p / (2 * np.pi), _inverse(s) / (2 * np.pi)


def _even(u, z):
    c, s, p = _arc(u, z)
    asin = p - np.pi / 2
    return c, (s + asin * c) / (2 * np.pi), asin / (2 * np.pi), _inverse(s) / (2 * np.pi)


def _inverse(s):
    """1 / s; 0 where (c) and (d) multiply it by s^2 = 0."""
    return np.where(s > 0, 1 / np.where(s > 0, s, 1), 0)


def _relu_squares(n):
    squares = np.zeros(n + 3)
    squares[:3] = 1 / (2 * np.pi), 1 / 4, S2**2
    for k in range(2, n, 2):
        squares[k + 2] = squares[k] * (k - 1) ** 2 / ((k + 1) * (k + 2))
    return squares[: n + 1]


def _even_squares(n):
    squares = _relu_squares(n)
    squares[1:2] = 0
    return squares


def _powers(two, four, labels=1.0):
    """The `Dual` of f = two h_2 + four h_4."""

    def at(u, z):
        c = u @ z.T
        square = c * c
        K = (two**2 + four**2 * square) * square
        return c, K, (2 * two**2 + 4 * four**2 * square) * c, 2 * two**2 + 12 * four**2 * square

    def activation(t):
        square = t * t
        f = two / math.sqrt(2) * (square - 1) + four / math.sqrt(24) * ((square - 6) * square + 3)
        return f, (two * math.sqrt(2) + four * 4 / math.sqrt(24) * (square - 3)) * t

    def squares(n):
        return np.array([0, 0, two**2, 0, four**2] + [0] * n, dtype=float)[: n + 1]

    return Dual(at, activation, squares, 0.0, labels)


DUALS = {
    "relu": Dual(_relu, lambda t: (np.maximum(t, 0), (t > 0) * 1.0), _relu_squares, 1.0),
    "even": Dual(_even, lambda t: (np.abs(t) / 2, np.sign(t) / 2), _even_squares, 0.0),
    "hermite24": _powers(S2, S4),
    "hermite2": _powers(1.0, 0.0, 1 / S2),
    "hermite4": _powers(0.0, 1.0, 1 / S4),
}


@quiet
def teacher_constant(dual, U_star, A_star):
    """E|A*'s(U*, x)|^2, the part of (8) that does not depend on the student."""
    unit, length = directions(U_star.T)
    return float(np.sum((A_star @ A_star.T) * np.outer(length, length) * dual.at(unit, unit)[1]))


@quiet
def dual_gradient(dual, U, A, U_star, A_star, D, constant):
    """(loss, dU, dA, dD): (8), (10), (11) by (a) and (b)."""
    k, Z, Q = U.shape[1], np.hstack([U, U_star]), np.vstack([A, -A_star])
    z, length = directions(Z.T)
    u, norm = z[:k], length[:k]
    c, K, K1, _ = dual.at(u, z)
    overlap, G = A @ Q.T, np.outer(norm, length) * K
    linear = Z @ Q
    terms = overlap * G
    loss = terms.sum() + terms[:, k:].sum() + constant + np.sum(D * (dual.slope * linear + D))
    weight = 2 * overlap * length
    dU = u.T * np.sum(weight * (K - c * K1), axis=1) + z.T @ (weight * K1).T + dual.slope * D @ A.T
    return loss, dU * (norm > 0), 2 * G @ Q + dual.slope * U.T @ D, 2 * D + dual.slope * linear


@quiet
def dual_hessian(dual, U, A, U_star, A_star, D):
    """The Hessian in (U, A, D), all row-major; (14)-(17) by (a)-(d)."""
    (d, k), m, Q = U.shape, A.shape[1], np.vstack([A, -A_star])
    z, length = directions(np.hstack([U, U_star]).T)
    u, norm, live, own = z[:k], length[:k], (length[:k] > 0) * 1.0, np.arange(k)
    c, K, K1, K2 = dual.at(u, z)
    twice, R = 2 * A @ Q.T * live[:, None], K - c * K1
    across = z - c[:, :, None] * u[:, None, :]  # [j, l] is v^ - c u^ for u = u_j, v = z_l
    slopes = (length * live[:, None])[:, :, None] * (R[:, :, None] * u[:, None, :] + K1[:, :, None] * z)  # (b)
    pair = (twice[:, :k] * live)[:, :, None, None]
    uu = pair * (
        K1[:, :k, None, None] * np.eye(d)
        + R[:, :k, None, None] * u[:, None, :, None] * u[None, :, None, :]
        + K2[:, :k, None, None] * across[:, :k, :, None] * across[:, :k].transpose(1, 0, 2)[:, :, None, :]
    )  # (c)
    ratio = twice * length / np.where(norm > 0, norm, 1)[:, None]
    ratio[own, own] = 0
    flat = np.eye(d) - u[:, :, None] * u[:, None, :]
    bend = np.einsum("jl,jli,jle->jie", ratio * K2, across, across, optimize=True)
    self_terms = 2 * K[own, own] * np.sum(A * A, axis=1) * live  # |u|^2 K(1), twice differentiated
    uu[own, own] = bend + np.sum(ratio * R, axis=1)[:, None, None] * flat + self_terms[:, None, None] * np.eye(d)
    ua = 2 * slopes[:, :k, :, None] * A[:, None, None, :]  # (16)
    ua[own, own] += 2 * np.einsum("jli,lo->jio", slopes, Q) + live[:, None, None] * dual.slope * D
    ud = dual.slope * np.einsum("ie,jo->ijeo", np.eye(d), A * live[:, None])
    ad = dual.slope * np.einsum("el,op->loep", U, np.eye(m))
    UU, UA = uu.transpose(2, 0, 3, 1).reshape(d * k, d * k), ua.transpose(2, 0, 1, 3).reshape(d * k, k * m)
    UD, AD = ud.reshape(d * k, d * m), ad.reshape(k * m, d * m)
    AA = np.kron(2 * np.outer(norm, norm) * K[:, :k], np.eye(m))  # (17)
    return np.block([[UU, UA, UD], [UA.T, AA, AD], [UD.T, AD.T, 2 * np.eye(d * m)]])
