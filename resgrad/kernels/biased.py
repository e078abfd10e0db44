"""The exact loss, gradient and Hessian of networks with hidden biases, by Owen's T function.

A bias is the weight of an input that is always 1.  So the networks here take x~ = (x, 1), and U (d + 1, k) and
C (d + 1, m) have one more row: the biases and a constant.  Let (w, b) and (v, c) be two columns of U, s = |w|, t = |v|,
^ a unit vector, phi the angle of w and v, rho and q its cosine and sine, h = b / s, k = c / t, p and P the density and
the distribution function of N(0, 1), 1 the indicator of w.x + b > 0, 1' that of v.x + c > 0, and

    ka = (k - rho h) / q,    kb = (h - rho k) / q,    e(y) = y P(y) + p(y) = E[relu(y + N(0, 1))],
    P2 = E[1 1'],    psi = p(h) p(ka) = p(k) p(kb),    q m = v^ - rho w^,    q n = w^ - rho v^.

Then G = E[relu(w.x + b) relu(v.x + c)] and its derivatives are

    G = (b c + w.v) P2 + b t p(k) P(kb) + c s p(h) P(ka) + s t q psi                            (B1)
    dG/d(w, b) = (t (P2 v^ + p(h) q e(ka) w^),  c P2 + t (p(k) P(kb) + rho p(h) P(ka)))         (B2)
    d2G/d(w, b)d(v, c) = E[1 1' x~ x~'], which consists of
        E[1 1' x x'] = P2 I - h p(h) P(ka) w^ w^' - k p(k) P(kb) v^ v^' + psi (q w^ v^' + q m n')   (B3)
        E[1 1' x] = p(h) P(ka) w^ + p(k) P(kb) v^    and    P2                                  (B4)
    d2G/d(w, b)d(w, b) = t/s p(h) (q e(ka) (o o' + I - w^ w^') + P(ka) (o q m' + q m o') + q p(ka) m m').  (B5)

(B5) is an average over the plane w.x + b = 0: there x~ = o + y m + ..., o = (-h w^, 1), and v.x + c = t q (y + ka).
Nothing diverges where the units become parallel (q = 0): ka and kb tend to +-infinity, or to 0 where also h = k.  So
the formulas hold for a unit with itself, too.  With b = c = 0 they are (7), (9), (12) and (13).

With Z = [U, U*], Q = [A; -A*], D = C - C*, E[1 x~] = (p(h) w^, P(h)) and E[1 x x'] = P(h) I - h p(h) w^ w^',

    loss = sum_lm q_l.q_m G(z_l, z_m) + 2 sum_l q_l.D'f_l + |D|^2,    f = E[relu x~] = (P(h) w, b P(h) + s p(h)),  (B6)

and its derivatives follow as (10), (11) and (14)-(17) did.  With another activation, s(z) = n z + (p - n) relu(z), a
network is a relu network with read-out (p - n) A and linear part C + n U A.  All is computed for that network, and the
derivatives are pulled back.

Accuracy.  All quantities of a pair of units are computed from one half-angle and one difference k - h (k + h for an
obtuse angle), so that they are those of one pair of units a rounding error away from the given one.  Such a change
moves P2 little.  The error of ka alone would be the rounding error divided by q.
"""

import math

import numpy as np

from .pairs import directions
from .policy import jit, quiet

FAR = 1e3  # |h| and |k| are cut here: at 39 the density is below 1e-308 and P is 0 or 1 to the last bit
NONE = 1e-100  # h and k below it count as 0 in P2: their difference, and with it ka, would underflow
REACH = 9.0  # Owen's integral may be cut here: e^(-REACH^2 / 2) is 2e-18
# Owen's integrand is even: the positive half of the Gauss-Legendre rule of 24 points on [-1, 1], whose error is 5e-19.
_NODES = np.array([
    0.06405689286260563, 0.1911188674736163, 0.3150426796961634, 0.4337935076260451, 0.5454214713888396,
    0.6480936519369755, 0.7401241915785544, 0.820001985973903, 0.8864155270044011, 0.9382745520027328,
    0.9747285559713095, 0.9951872199970213,
])  # fmt: skip
_WEIGHTS = np.array([  # NumPy's own are good to 1e-13 only
    0.12793819534675216, 0.1258374563468283, 0.12167047292780339, 0.1155056680537256, 0.10744427011596563,
    0.09761865210411388, 0.08619016153195327, 0.0733464814110803, 0.05929858491543678, 0.04427743881741981,
    0.028531388628933663, 0.0123412297999872,
])  # fmt: skip
_DENSITY = 1 / math.sqrt(2 * math.pi)


@jit
def density(x):
    """p(x) of the standard normal distribution."""
    return _DENSITY * math.exp(-0.5 * x * x)


@jit
def below(x):
    """P(x), the standard normal distribution function."""
    return 0.5 * math.erfc(-math.sqrt(0.5) * x)


# --------------------------------------------------------------------------- Owen's T and the bivariate distribution


@jit
def _owen_integral(h, a):
    """T(h, a) for h >= 0 and 0 <= a <= 1: int_0^a exp(-h^2 (1 + x^2) / 2) / (1 + x^2) dx / 2 pi."""
    if h > FAR:
        return 0.0
    end = min(a, REACH / h) if h > 0.0 else a
    total = 0.0
    for i in range(_NODES.size):
        x = end * _NODES[i]
        total += _WEIGHTS[i] * math.exp(-0.5 * (h * x) * (h * x)) / (1.0 + x * x)
    return end * math.exp(-0.5 * h * h) * total / (2.0 * math.pi)


@jit
def _conditional(h, k, minus, plus):
    """(q ka, ka, kb) from minus = 2 sin(phi / 2), plus = 2 cos(phi / 2); +-infinity, or 0, where q = 0."""
    q = 0.5 * minus * plus
    if minus <= plus:
        gap, turn = k - h, 0.5 * minus * minus  # turn = 1 - rho
        a, b = gap + turn * h, turn * k - gap
    else:
        gap, turn = k + h, -0.5 * plus * plus  # turn = -(1 + rho)
        a, b = gap + turn * h, gap + turn * k
    if q > 0.0:
        return a, a / q, b / q
    return a, math.copysign(math.inf, a) if a != 0.0 else 0.0, math.copysign(math.inf, b) if b != 0.0 else 0.0


@jit
def _half(x, y):
    """-+P(-|x|) / 2 - T(x, y / x), minus for x >= 0: nothing cancels in it.  x and y are not both 0."""
    side, up, x, y = 1.0 if x >= 0.0 else -1.0, y >= 0.0, abs(x), abs(y)
    tail = below(-x)
    if y <= x:
        part = _owen_integral(x, y / x)
        return -side * (0.5 * tail + part if up else 0.5 * tail - part)
    # T(x, a) + T(a x, 1 / a) = (P(-x) + P(-a x)) / 2 - P(-x) P(-a x)
    rest = below(-y) * (0.5 - tail) - _owen_integral(y, x / y)
    return -side * (tail + rest) if up else side * rest


@jit
def _both(h, k, minus, plus, ka, kb):
    """P2, from Owen's T: P(h) / 2 + P(k) / 2 - T(h, ka / h) - T(k, kb / k), less 1/2 for h and k of opposite signs."""
    if abs(h) < NONE and abs(k) < NONE:
        return math.atan2(plus, minus) / math.pi  # (pi - phi) / 2 pi
    total = _half(h, ka) + _half(k, kb)
    if h >= 0.0 and k >= 0.0:
        total += 1.0
    return min(max(total, 0.0), 1.0)


@jit
def _expectations(k, unit, norm, bias, h):
    """P(h) and p(h), (2, K), and of the first k units against all, (7, k, K): rho, q, P2, p(h) P(ka), p(k) P(kb),
    t p(h) q e(ka) and psi.
    """
    K, d = unit.shape
    alone, pairs = np.empty((2, K)), np.empty((7, k, K))
    for l in range(K):
        alone[0, l], alone[1, l] = below(h[l]), density(h[l])
    for j in range(k):
        for l in range(K):
            minus, plus = 0.0, 0.0
            for i in range(d):
                minus += (unit[j, i] - unit[l, i]) * (unit[j, i] - unit[l, i])
                plus += (unit[j, i] + unit[l, i]) * (unit[j, i] + unit[l, i])
            minus, plus = math.sqrt(minus), math.sqrt(plus)
            q_ka, ka, kb = _conditional(h[j], h[l], minus, plus)
            Pa, psi = below(ka), alone[1, j] * density(ka)
            pairs[0, j, l], pairs[1, j, l] = 0.25 * (plus - minus) * (plus + minus), 0.5 * minus * plus
            pairs[2, j, l] = _both(h[j], h[l], minus, plus, ka, kb)
            pairs[3, j, l], pairs[4, j, l] = alone[1, j] * Pa, alone[1, l] * below(kb)
            # t (k - rho h) from k = c / t where k is not cut, else from c and t, which may be 0
            level = norm[l] * q_ka if abs(h[l]) < FAR else bias[l] - pairs[0, j, l] * h[j] * norm[l]
            pairs[5, j, l], pairs[6, j, l] = alone[1, j] * level * Pa + norm[l] * pairs[1, j, l] * psi, psi
    return alone, pairs


# --------------------------------------------------------------------------- loss, gradient, Hessian


def _difference(U, A, U_star, A_star, D, slopes):
    """Student minus teacher as one relu network: directions (K, d), lengths, biases, h, Q and D."""
    p, n = slopes
    unit, norm = directions(np.hstack([U, U_star])[:-1].T)
    bias, Q = np.append(U[-1], U_star[-1]), np.vstack([A, -A_star])
    h = np.where(norm > 0, bias / np.where(norm > 0, norm, 1.0), FAR * np.sign(bias))
    return unit, norm, bias, np.clip(h, -FAR, FAR), (p - n) * Q, D + n * (U @ A - U_star @ A_star) if n else D


def _products(norm, bias, pairs):
    """G (k, K), (B1)."""
    rho, q, P2, Fa, Fb, _, psi = pairs
    s, b = norm[: len(rho), None], bias[: len(rho), None]
    return (b * bias + s * norm * rho) * P2 + b * norm * Fb + bias * s * Fa + s * norm * (q * psi)


def _means(unit, norm, bias, alone):
    """E[relu x~], a row for every unit; f of (B6)."""
    return np.column_stack([(alone[0] * norm)[:, None] * unit, bias * alone[0] + norm * alone[1]])


def _gradient(k, unit, norm, bias, h, Q, D):
    """(dU', dA, dC) of (B6)."""
    alone, pairs = _expectations(k, unit, norm, bias, h)
    (P, p), (rho, _, P2, Fa, Fb, Ea, _) = alone[:, :k], pairs
    f, w, weight, linear = _means(unit, norm, bias, alone), unit[:k], Q[:k] @ Q.T, Q[:k] @ D.T
    along, constant = np.sum(linear[:, :-1] * w, axis=1), linear[:, -1]
    own = np.sum(weight * Ea, axis=1) + p * (constant - h[:k] * along)
    dU = (weight * norm * P2) @ unit + own[:, None] * w + P[:, None] * linear[:, :-1]  # (B2)
    db = np.sum(weight * (bias * P2 + norm * (Fb + rho * Fa)), axis=1) + p * along + P * constant
    alive = (norm[:k] > 0) | (bias[:k] != 0)  # relu'(0) = 0
    dA, dC = _products(norm, bias, pairs) @ Q + f[:k] @ D, D + f.T @ Q
    return 2 * np.column_stack([dU, db]) * alive[:, None], 2 * dA, 2 * dC


def _outer(x, y):
    """x y' for vectors in the last axis."""
    return x[..., :, None] * y[..., None, :]


def _kron(x, y):
    """`numpy.kron` of two matrices, which takes ten times as long for small ones."""
    return (x[:, None, :, None] * y[:, None, :]).reshape(len(x) * len(y), -1)


def _bordered(inner, border, corner):
    """The symmetric matrices [[inner, border], [border', corner]], in the last two axes."""
    d = border.shape[-1]
    matrix = np.empty((*corner.shape, d + 1, d + 1))
    matrix[..., :d, :d], matrix[..., d, d] = inner, corner
    matrix[..., :d, d] = matrix[..., d, :d] = border
    return matrix


def _active(k, unit, h, alone, pairs):
    """E[1 x~ x~'] (k, d + 1, d + 1), and E[1 1' x~ x~'] (k, k, d + 1, d + 1) of pairs: (B3), (B4)."""
    (P, p), (rho, q, P2, Fa, Fb, _, psi) = alone[:, :k, None], pairs[:, :, :k, None]
    w, eye, h = unit[:k], np.eye(unit.shape[1]), h[:k, None]
    one = _bordered(P[..., None] * eye - (h * p)[..., None] * _outer(w, w), p * w, P[:, 0])
    v, w = np.broadcast_to(w, (k, *w.shape)), w[:, None]
    inner = P2[..., None] * eye - _outer(h[:, None] * Fa * w, w) - _outer(h * Fb * v, v) + _outer(q * psi * w, v)
    share = np.where(q > 0, psi / np.where(q > 0, q, 1.0), 0.0)
    inner += _outer(share * (v - rho * w), w - rho * v)
    return one, _bordered(inner, Fa * w + Fb * v, P2[..., 0])


def _on_planes(k, unit, norm, h, Q, D, alone, pairs):
    """E[delta(z) x~ x~' a.r], the part of (B5) and the linear part's, for every unit, (k, d + 1, d + 1)."""
    rho, q, _, Fa, _, Ea, psi = pairs
    w, h, p, linear, weight = unit[:k], h[:k], alone[1, :k], Q[:k] @ D.T, (Q[:k] @ Q.T) * norm
    qm = unit - rho[..., None] * w[:, None]
    along = np.sum(linear[:, :-1] * w, axis=1)
    level = p * (linear[:, -1] - h * along) + np.sum((Q[:k] @ Q.T) * Ea, axis=1)
    across = p[:, None] * (linear[:, :-1] - along[:, None] * w) + np.einsum("jl,jli->ji", weight * Fa, qm)
    bend = np.einsum("jl,jli,jlf->jif", weight * np.where(q > 0, psi / np.where(q > 0, q, 1.0), 0.0), qm, qm)
    inner = bend + level[:, None, None] * (np.eye(w.shape[1]) + _outer((h * h - 1)[:, None] * w, w))
    inner -= h[:, None, None] * (_outer(w, across) + _outer(across, w))
    steep = (alone[1, :k] > 0) & (norm[:k] > 0)
    scale = np.where(steep, 1 / np.where(steep, norm[:k], 1.0), 0.0)  # p(h) = 0 first, where a unit vanishes
    return scale[:, None, None] * _bordered(inner, across - (h * level)[:, None] * w, level)


def _hessian(k, unit, norm, bias, h, Q, D):
    """The upper triangle of the Hessian of (B6) in (U, A, C), each row-major."""
    alone, pairs = _expectations(k, unit, norm, bias, h)
    rho, _, P2, Fa, Fb, Ea, _ = pairs
    rows, m, w, a = *D.shape, unit[:k], Q[:k]
    slope = (P2 * norm)[..., None] * unit + Ea[..., None] * w[:, None]
    slope = np.concatenate([slope, (bias * P2 + norm * (Fb + rho * Fa))[..., None]], axis=2)  # (B2)
    one, both = _active(k, unit, h, alone, pairs)
    uu, ua, own = (a @ a.T)[..., None, None] * both, _outer(slope[:, :k], a[:, None]), np.arange(k)
    uu[own, own] += _on_planes(k, unit, norm, h, Q, D, alone, pairs)
    ua[own, own] += np.swapaxes(slope, 1, 2) @ Q + one @ D
    at_A, at_C, eye = rows * k, rows * k + k * m, np.eye(m)
    H = np.eye(at_C + rows * m)
    H[:at_A, :at_A] = uu.transpose(2, 0, 3, 1).reshape(at_A, at_A)
    H[:at_A, at_A:at_C] = ua.transpose(2, 0, 1, 3).reshape(at_A, k * m)
    H[:at_A, at_C:] = np.einsum("jfi,jo->fjio", one, a).reshape(at_A, rows * m)
    H[at_A:at_C, at_A:at_C] = _kron(_products(norm, bias, pairs)[:, :k], eye)
    H[at_A:at_C, at_C:] = _kron(_means(unit, norm, bias, alone)[:k], eye)
    dead = np.tile((norm[:k] == 0) & (bias[:k] == 0), rows)  # relu'(0) = 0
    H[:at_A][dead], H[:, :at_A][:, dead] = 0.0, 0.0
    return 2 * H


@quiet
def biased_value(U, A, U_star, A_star, D, slopes=(1.0, 0.0)):
    """The expected loss, a float, to 1e-13 of its largest term; (B6).

    U, U_star (d + 1, k) end in the biases, D (d + 1, m) = C - C* in a constant.
    """
    unit, norm, bias, h, Q, D = _difference(U, A, U_star, A_star, D, slopes)
    alone, pairs = _expectations(len(unit), unit, norm, bias, h)
    linear = 2 * np.sum((_means(unit, norm, bias, alone) @ D) * Q)
    return max(0.0, float(np.sum((Q @ Q.T) * _products(norm, bias, pairs)) + linear + np.sum(D * D)))


@quiet
def biased_gradient(U, A, U_star, A_star, D, slopes=(1.0, 0.0)):
    """(dU, dA, dC) of the expected loss, of the shapes of U, A and D."""
    dU, dA, dC = _gradient(A.shape[0], *_difference(U, A, U_star, A_star, D, slopes))
    p, n = slopes
    return dU.T + n * (dC @ A.T), (p - n) * dA + n * (U.T @ dC), dC


@quiet
def biased_hessian(U, A, U_star, A_star, D, slopes=(1.0, 0.0)):
    """The exact Hessian in (U, A, C), each row-major, symmetric."""
    k, (rows, m), (p, n) = len(A), D.shape, slopes
    network, at_A, at_C = _difference(U, A, U_star, A_star, D, slopes), U.size, U.size + A.size
    H = _hessian(k, *network)
    if (p, n) != (1.0, 0.0):  # with A -> (p - n) A and C -> C + n U A
        eye, chain = np.eye(m), np.eye(len(H))
        chain[at_A:at_C, at_A:at_C] *= p - n
        chain[at_C:, :at_A] = n * np.einsum("if,jo->iofj", np.eye(rows), A).reshape(rows * m, at_A)
        chain[at_C:, at_A:at_C] = n * _kron(U, eye)
        H = chain.T @ (np.triu(H) + np.triu(H, 1).T) @ chain
        H[:at_A, at_A:at_C] += n * np.einsum("io,jl->ijlo", _gradient(k, *network)[2], np.eye(k)).reshape(at_A, k * m)
    return np.triu(H) + np.triu(H, 1).T


# --------------------------------------------------------------------------- near a teacher

PATH_TOLERANCE = 1e-8  # of the loss: largest tail of the Legendre series on a stretch of the path
SHORTEST = 2.0**-12  # stretch of the path: the error that a kink makes there is as small as the stretch
_PATH = np.polynomial.legendre.leggauss(5)
# From values at the five points to the coefficients of degrees 0 to 4 of their Legendre series.
_SERIES = (np.polynomial.legendre.legvander(_PATH[0], 4) * _PATH[1][:, None]).T * (np.arange(5) + 0.5)[:, None]


@quiet
def biased_near(U, A, C, step, slopes=(1.0, 0.0)):
    """(loss, dU, dA, dC) a ``step`` (dU, dA, dC) away from the teacher (U, A, C), to their last digits.

    loss = int_0^1 (1 - s) step'H step ds and gradient = int_0^1 H step ds, H the Hessian at the teacher + s step:
    nothing cancels.  Each stretch of the path has five Gauss-Legendre points.  It is halved where the Legendre series
    of step'H step does not decay: next to parallel units, whose Hessian has a kink, and next to a nearly dead unit,
    whose Hessian changes like exp(-h^2 / 2).
    """
    flat, loss, gradient, scale = np.concatenate([part.ravel() for part in step]), 0.0, 0.0, None
    stretches = [(0.0, 1.0)]
    while stretches:
        low, width = stretches.pop()
        points, bends, pulls = low + width * (1 + _PATH[0]) / 2, [], []
        for x in points:
            there = (part + x * moved for part, moved in zip((U, A), step))
            pulls.append(biased_hessian(*there, U, A, x * step[2], slopes) @ flat)
            bends.append(flat @ pulls[-1])
        mean, _, second, *tail = np.abs(_SERIES @ bends)
        scale, tail = mean if scale is None else scale, sum(tail)
        if width > SHORTEST and width * tail**2 > PATH_TOLERANCE * scale * (second + tail):
            stretches += [(low, width / 2), (low + width / 2, width / 2)]
            continue
        weights = width * _PATH[1] / 2
        loss, gradient = loss + weights * (1 - points) @ bends, gradient + weights @ pulls
    cuts = np.cumsum([part.size for part in step])[:-1]
    return float(loss), *(part.reshape(like.shape) for part, like in zip(np.split(gradient, cuts), step))
