"""Third and fourth moments of relu units, which give the expected squared length of one sample's gradient.

Let z_i, z_a, z_b be pre-activations u.x of unit vectors, phi the angle of a pair, c and s its cosine and sine, p = pi -
phi, and 1_i the indicator of z_i > 0.  Gaussian integration by parts, E[z_a F] = sum_c C_ac E[dF/dz_c], with the three
angles' orthant probability, leads to

    J3(i; a, b) = E[1_i relu_a relu_b] = (c_ab (p_ia + p_ib + p_ab - pi) + s_ab + c_ia s_ib + c_ib s_ia) / 4 pi   (M1)
    J4(i; a, b) = E[relu_i^2 relu_a relu_b] = J3(i; a, b) + c_ia J3(a; i, b) + c_ib J3(b; i, a),             (M2)

without a singularity at any angle.  It covers J3(i; a, a) and J3(i; i, b) = (7), too.  In each term at most two factors
depend on i, so that sums over all pairs (a, b) are products of matrices.

The gradients of one sample are 2 x s'(z_i) a_i.r and 2 s(z_i) r, r the residual, and for f homogeneous of degree n

    E[|x|^2 f(x)] = (d + n) E[f(x)].                                                            (M3)
"""

import numpy as np

from .pairs import angle, directions
from .policy import jit, quiet


@jit
def _angles(u, v):
    """c, s and pi - phi, (3, k, K), of all pairs of rows."""
    table = np.empty((3, len(u), len(v)))
    for j in range(len(u)):
        for l in range(len(v)):
            table[0, j, l], table[1, j, l], table[2, j, l] = angle(u[j], v[l])
    return table


def _sums(w, a, z, Q):
    """E[1_i (a_i.r)^2] and E[relu_i^2 |r|^2], both (k,), for r = sum_l q_l relu(z_l) and unit vectors w_i and z_l."""
    (c, s, p), (C, S, P) = _angles(w, z), _angles(z, z)
    weight, g, level = a @ Q.T, Q @ Q.T, C * (P - np.pi) + S
    third = np.sum(weight * (weight @ level), axis=1) + 2 * np.sum(weight * p * (weight @ C), axis=1)
    third += 2 * np.sum(weight * s, axis=1) * np.sum(weight * c, axis=1)  # (M1)
    cg, gC, gS = c @ g, np.sum(g * C, axis=1), np.sum(g * S, axis=1)
    fourth = np.sum(g * level) + 2 * (p @ gC) + 2 * np.sum(s * cg, axis=1)
    fourth += 2 * np.sum(cg * (2 * c * p - np.pi * c + s) + c * (c @ (g * P)), axis=1)
    fourth += 2 * ((c * s) @ gC + (c * c) @ gS)  # (M2)
    return third / (4 * np.pi), fourth / (4 * np.pi)


@quiet
def squared_gradients(U, A, U_star, A_star, D, slopes=(1.0, 0.0), noise=0.0):
    """E|g|^2 of the gradients of one sample: of each u_j (k,), of each a_j (k,), and of C.

    D = C - C*; ``noise`` is the standard deviation of each label.  O(k (k + k*)^2 + k (k + k*) d) time without D; the
    linear part of an output counts as two units.
    """
    (d, m), (p, n) = D.shape, slopes
    Z, Q = np.hstack([U, U_star]), np.vstack([A, -A_star])
    D, eye = D + n * (Z @ Q), np.eye(m)
    some = np.any(D != 0, axis=0)  # d.x = relu(d.x) - relu(-d.x)
    linear = D[:, some]
    Z, Q = np.hstack([Z, linear, -linear]), np.vstack([(p - n) * Q, eye[some], -eye[some]])
    (z, length), (w, norm) = directions(Z.T), directions(U.T)
    Q = Q * length[:, None]
    dead = norm == 0  # there s' = n everywhere: a unit orthogonal to all others, plus the same unit reversed
    third, fourth = np.zeros(len(w)), np.zeros(len(w))
    for side, slope in ((1.0, np.where(dead, n, p)), (-1.0, np.full(len(w), n))):
        if slope.any():
            three, four = _sums(side * w, A, z, Q)
            third, fourth = third + slope**2 * three, fourth + slope**2 * four
    active, (c, s, q) = np.where(dead, 2 * n * n, p * p + n * n) / 2, _angles(z, z)
    loss = np.sum((Q @ Q.T) * (s + q * c)) / (2 * np.pi)
    of_units = 4 * (d + 2) * third + 4 * noise**2 * d * active * np.sum(A * A, axis=1)  # (M3)
    of_readout = 4 * norm**2 * (fourth + noise**2 * m * active)
    return of_units, of_readout, float(4 * (d + 2) * loss + 4 * noise**2 * d * m)
