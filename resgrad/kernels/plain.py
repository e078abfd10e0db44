"""The equations of this folder in plain NumPy: what to read first, and what runs where nothing is compiled.

Each function is one equation or one loop of the compiled modules, with the numbers of the derivation.  With
NUMBA_DISABLE_JIT=1 these do all the work: slowly, with the same results to rounding, and open to a debugger.
"""

import numpy as np

from .policy import BLOCK, quiet


@quiet
def forward(U, A, C, X):
    """F (B, m) at the rows of X (B, d); (1)."""
    return np.maximum(X @ U, 0) @ A + X @ C


@quiet
def sampled_gradient(U, A, X, T, backward=True):
    """(loss, dU, dA): the mean squared error for the labels T = Y - X C, and, if asked for, its gradient."""
    loss, dU, dA = 0.0, np.zeros_like(U), np.zeros_like(A)
    for start in range(0, len(X), BLOCK):  # so many samples at a time fit into the cache
        x, t = X[start : start + BLOCK], T[start : start + BLOCK]
        h = np.maximum(x @ U, 0)  # (1)
        r = h @ A - t  # (2)
        loss += np.sum(np.square(r), dtype=np.float64)
        if backward:
            g = (r @ A.T) * (h > 0)  # (3), relu'(0) = 0
            dU += x.T @ g  # (4)
            dA += h.T @ r  # (2)
    scale = U.dtype.type(2 / len(X))
    return loss / len(X), scale * dU, scale * dA


@quiet
def exact_gradient(U, A, U_star, A_star, D):
    """(dU, dA) of the expected loss; D = C - C*."""
    Z, Q = np.hstack([U, U_star]), np.vstack([A, -A_star])
    norm, length = np.linalg.norm(U, axis=0), np.linalg.norm(Z, axis=0)
    u, z = U / np.where(norm, norm, 1), Z / np.where(length, length, 1)
    minus, plus = (np.linalg.norm(u[:, :, None] + sign * z[:, None, :], axis=0) for sign in (-1, 1))
    s, c, p = minus * plus / 2, (plus**2 - minus**2) / 4, 2 * np.arctan2(plus, minus)  # p = pi - phi
    weight = (A @ Q.T) * length
    dU = (u * np.sum(weight * s, axis=1) + z @ (weight * p).T) / np.pi + D @ A.T  # (9), (10)
    dA = norm[:, None] * ((s + p * c) @ (length[:, None] * Q)) / np.pi + U.T @ D  # (7), (11)
    return dU * (norm > 0), dA


@quiet
def step(w, v, gradient, lr, momentum):
    """One step of SGD or Nesterov, in place; (6)."""
    v *= momentum
    v += gradient
    w -= lr * (gradient + momentum * v)


# --------------------------------------------------------------------------- as the compiled ones are called


def population_gradient(U, A, U_star, A_star, D, dU, dA):
    """(10) into dU and (11) into dA."""
    dU[:], dA[:] = exact_gradient(U, A, U_star, A_star, D)


def sampled_loop(d, k, m, k_star=0):
    """(loop, scratch, parts): training on samples; see `kernels.sampled_loop`."""

    def loop(thread, marks, scratch, rows, order, start, rng, teacher, U, A, VU, VA, rates, batch, n_steps, total):
        for _ in range(n_steps):
            if k_star:  # fresh samples, labeled by the teacher
                X = rng.standard_normal((batch, d)).astype(U.dtype)
                T = forward(teacher[0], teacher[1], -teacher[2], X)
            else:
                picked = rows[order[start : start + batch]]
                X, T = picked[:, :d], picked[:, d:]
                start += len(X)
            loss, dU, dA = sampled_gradient(U, A, X, T)
            total += loss
            step(U, VU, dU, rates[0], rates[2])
            step(A, VA, dA, rates[1], rates[2])
        return total

    return loop, lambda batch, dtype: None, 1


def population_loop(d, k, K, m):
    """(loop, scratch, parts): exact gradient descent; see `kernels.population_loop`."""

    def loop(thread, marks, scratch, teacher, U, A, VU, VA, rates, n_steps):
        for _ in range(n_steps):
            dU, dA = exact_gradient(U, A, *teacher)
            step(U, VU, dU, rates[0], rates[2])
            step(A, VA, dA, rates[1], rates[2])

    return loop, lambda: None, 1
