"""The expected loss to its last digits, (18): double-double arithmetic where plain summation would lose them.

A double-double number is a pair (hi, lo), an unevaluated sum of about 32 digits.  No line here may be reassociated.
"""

import math
from fractions import Fraction

import numpy as np
from numba.extending import register_jitable

from .pairs import directions
from .policy import jit, quiet


def double_double(number):
    """(hi, lo) of a `Fraction`."""
    return float(number), float(number - Fraction(float(number)))


EPS = float(np.finfo(np.float64).eps)
_PI = (math.pi, 1.2246467991473532e-16)
_HALF_PI = (_PI[0] / 2, _PI[1] / 2)
# sin and cos on [0, pi / 4] to 1e-33: Taylor terms up to t^27 / 27! and t^26 / 26!
_FACTORIAL = np.array([double_double(Fraction((-1) ** (n // 2), math.factorial(n))) for n in range(28)])


@register_jitable  # also called on NumPy arrays
def two_sum(a, b):
    """a + b and its rounding error (Knuth)."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


@register_jitable
def two_product(a, b):
    """a b and its rounding error (Dekker)."""
    t = 134217729.0 * a
    a_hi = t - (t - a)
    t = 134217729.0 * b
    b_hi = t - (t - b)
    p = a * b
    a_lo, b_lo = a - a_hi, b - b_hi
    return p, ((a_hi * b_hi - p) + a_hi * b_lo + a_lo * b_hi) + a_lo * b_lo


@jit
def _add(x, y):
    s, e = two_sum(x[0], y[0])
    t, f = two_sum(x[1], y[1])
    s, e = two_sum(s, e + t)
    return two_sum(s, e + f)


@jit
def _multiply(x, y):
    p, e = two_product(x[0], y[0])
    return two_sum(p, e + (x[0] * y[1] + x[1] * y[0]))


@jit
def _divide(x, y):
    q = x[0] / y[0]
    rest = _add(x, _multiply((-q, 0.0), y))
    return two_sum(q, rest[0] / y[0])


@jit
def _square_root(x):
    if x[0] <= 0.0:
        return 0.0, 0.0
    root = math.sqrt(x[0])
    rest = _add(x, _multiply((-root, 0.0), (root, 0.0)))
    return two_sum(root, rest[0] / (2.0 * root))


@jit
def _dot(x, y):
    """Dot product of double-double vectors, shape (n, 2)."""
    total = (0.0, 0.0)
    for i in range(x.shape[0]):
        total = _add(total, _multiply((x[i, 0], x[i, 1]), (y[i, 0], y[i, 1])))
    return total


@jit
def transformed(L, Z):
    """L'z for the rows z of Z (K, d, 2), L (d, d); entries of z beyond the first d stay."""
    new, d = Z.copy(), L.shape[0]
    for l in range(Z.shape[0]):
        for i in range(d):
            total = (0.0, 0.0)
            for j in range(d):
                total = _add(total, _multiply((L[j, i], 0.0), (Z[l, j, 0], Z[l, j, 1])))
            new[l, i, 0], new[l, i, 1] = total
    return new


@jit
def exact_units(W1, b, rows, identity):
    """Rows of U' (k, rows, 2), free of rounding: W1 (d, k) plus the identity, b (k,) or nothing, and zeros."""
    d, k = W1.shape
    U = np.zeros((k, rows, 2))
    for j in range(k):
        for i in range(d):
            U[j, i, 0], U[j, i, 1] = two_sum(W1[i, j], identity if i == j else 0.0)
        if b.size:
            U[j, d, 0] = b[j]
    return U


@jit
def exact_readout(W2, summed):
    """A (k, m, 2), free of rounding but for the last digits: W2 (k, d), or the sum of each of its rows."""
    k, d = W2.shape
    A = np.zeros((k, 1 if summed else d, 2))
    for j in range(k):
        if summed:
            hi, lo = W2[j, 0], 0.0
            for o in range(1, d):
                hi, error = two_sum(hi, W2[j, o])
                lo += error
            A[j, 0, 0], A[j, 0, 1] = two_sum(hi, lo)
        else:
            for o in range(d):
                A[j, o, 0] = W2[j, o]
    return A


@jit
def _taylor(t, first):
    """sin t (first = 1) or cos t (first = 0) for |t| <= pi / 4."""
    square, total = _multiply(t, t), (0.0, 0.0)
    for n in range(26 + first, -1, -2):
        total = _add(_multiply(total, square), (_FACTORIAL[n, 0], _FACTORIAL[n, 1]))
    return _multiply(total, t) if first else total


@jit
def _even_part(c):
    """s + psi |c| of (18), from the cosine c alone."""
    if c[0] < 0.0:
        c = (-c[0], -c[1])
    s = _square_root(_multiply(_add((1.0, 0.0), (-c[0], -c[1])), _add((1.0, 0.0), c)))
    guess = (math.atan2(c[0], s[0]), 0.0)
    if guess[0] <= math.pi / 4:
        sine, cosine = _taylor(guess, 1), _taylor(guess, 0)
    else:
        rest = _add(_HALF_PI, (-guess[0], 0.0))
        sine, cosine = _taylor(rest, 0), _taylor(rest, 1)
    # sin(psi - guess) = |c| cos(guess) - s sin(guess) is the error of the guess, about 1e-16
    miss = _add(_multiply(c, cosine), _multiply((-s[0], -s[1]), sine))
    return _add(s, _multiply(c, _add(guess, miss)))


@jit
def population_value(Z, Q, D, slopes):
    """(18) in double-double arithmetic; Z (K, d, 2) holds the units as rows, Q (K, m, 2), D (d, m, 2)."""
    K, d, m = Z.shape[0], Z.shape[1], Q.shape[1]
    odd, both = 0.0, two_sum(slopes[0], slopes[1])
    for i in range(d):
        for o in range(m):
            total = 2.0 * D[i, o, 0], 2.0 * D[i, o, 1]
            for l in range(K):
                q = _multiply(both, (Q[l, o, 0], Q[l, o, 1]))
                total = _add(total, _multiply((Z[l, i, 0], Z[l, i, 1]), q))
            odd += (0.5 * total[0]) ** 2
    unit, P = np.empty_like(Z), np.empty_like(Q)
    for l in range(K):
        norm = _square_root(_dot(Z[l], Z[l]))
        for i in range(d):
            ratio = _divide((Z[l, i, 0], Z[l, i, 1]), norm) if norm[0] > 0.0 else norm
            unit[l, i, 0], unit[l, i, 1] = ratio
        for o in range(m):
            P[l, o, 0], P[l, o, 1] = _multiply((Q[l, o, 0], Q[l, o, 1]), norm)
    even = (0.0, 0.0)
    for l in range(K):
        even = _add(even, _multiply(_dot(P[l], P[l]), _HALF_PI))
        for n in range(l):
            term = _multiply(_dot(P[l], P[n]), _even_part(_dot(unit[l], unit[n])))
            even = _add(even, (2.0 * term[0], 2.0 * term[1]))
    return odd + (slopes[0] - slopes[1]) ** 2 * max(even[0], 0.0) / (2.0 * math.pi)


@quiet
def population_value_plain(Z, Q, D, slopes):
    """(18) in plain arithmetic, only the sum itself in double-double, and an estimate of the rounding error."""
    unit, norm = directions(Z)
    P, (p, n) = Q * norm[:, None], slopes
    return _plain_sum(unit @ unit.copy().T, (p - n) ** 2 * (P @ P.copy().T), D + 0.5 * (p + n) * (Z.T @ Q))


@jit
def _plain_sum(C, W, odd):
    """The sum of (18) from the cosines C, the weights W and the linear part."""
    square, noise = 0.0, 0.0
    for i in range(odd.shape[0]):
        for o in range(odd.shape[1]):
            square += odd[i, o] * odd[i, o]
    total = square, 0.0
    for l in range(C.shape[0]):
        for n in range(l + 1):
            c = min(1.0, abs(C[l, n])) if n < l else 1.0
            term = W[l, n] * (math.sqrt((1.0 - c) * (1.0 + c)) + c * math.asin(c))
            term *= (1.0 if n == l else 2.0) / (2.0 * math.pi)
            total = _add(total, (term, 0.0))
            noise = math.hypot(noise, term)
    return max(total[0], 0.0), EPS * noise
