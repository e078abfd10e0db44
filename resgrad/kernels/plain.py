"""The equations of this folder in plain NumPy: read this first.

Each function is one equation or one loop of the compiled modules, with the equation numbers of the derivation.  With
NUMBA_DISABLE_JIT=1 these functions do all the work: slowly, with the same results to rounding, and in a debugger.
"""

import numpy as np

from .policy import BLOCK, quiet

RELU = (1.0, 0.0)  # slopes


def activation(z, slopes):
    """s(z) = p z for z > 0 and n z for z <= 0; relu for slopes (1, 0)."""
    return np.maximum(z, 0) if tuple(slopes) == RELU else np.where(z > 0, slopes[0] * z, slopes[1] * z)


@quiet
def forward(U, A, C, X, slopes=RELU):
    """F (B, m) at the rows of X (B, d); (1)."""
    return activation(X @ U, slopes) @ A + X[:, : len(C)] @ C


@quiet
def sampled_gradient(U, A, C, X, T, slopes=RELU, backward=True):
    """(loss, dU, dA, dC): the mean squared error for the labels T and, with ``backward``, its gradient.

    C is (0, m) where it is not trained: then T is y - C'x.
    """
    loss, dU, dA, dC, relu = 0.0, np.zeros_like(U), np.zeros_like(A), np.zeros_like(C), tuple(slopes) == RELU
    for start in range(0, len(X), BLOCK):  # a block of samples fits into the cache
        x, t = X[start : start + BLOCK], T[start : start + BLOCK]
        z, linear = x @ U, x[:, : len(C)]
        h = activation(z, slopes)  # (1)
        r = h @ A - t if len(C) == 0 else h @ A + linear @ C - t  # (2)
        loss += np.sum(np.square(r), dtype=np.float64)
        if backward:
            g = (r @ A.T) * (z > 0 if relu else np.where(z > 0, *map(z.dtype.type, slopes)))  # (3), s'(0) = n
            dU += x.T @ g  # (4)
            dA += h.T @ r  # (2)
            dC += linear.T @ r
    scale = U.dtype.type(2 / len(X))
    return loss / len(X), scale * dU, scale * dA, scale * dC


@quiet
def exact_gradient(U, A, C, U_star, A_star, D, slopes=RELU):
    """(dU, dA, dC) of the expected loss; D is -C* where C is trained, and C - C* where it is (0, m)."""
    (p, n), Z, Q = slopes, np.hstack([U, U_star]), np.vstack([A, -A_star])
    D = D + C if len(C) else D
    norm, length = np.linalg.norm(U, axis=0), np.linalg.norm(Z, axis=0)
    u, z = U / np.where(norm, norm, 1), Z / np.where(length, length, 1)
    minus, plus = (np.linalg.norm(u[:, :, None] + sign * z[:, None, :], axis=0) for sign in (-1, 1))
    s, c, phi = minus * plus / 2, (plus**2 - minus**2) / 4, 2 * np.arctan2(plus, minus)  # phi holds pi - phi
    weight, scale = (A @ Q.T) * length, (p - n) ** 2
    dC = 2 * D + (p + n) * (Z @ Q)
    M = D if (p, n) == RELU else (p + n) * D + 2 * p * n * (Z @ Q)
    dU = scale * (u * np.sum(weight * s, axis=1) + z @ (weight * phi).T) / np.pi + M @ A.T  # (9), (10)
    dA = scale * norm[:, None] * ((s + phi * c) @ (length[:, None] * Q)) / np.pi + U.T @ M  # (7), (11)
    return np.where(norm > 0, dU, n * dC @ A.T), dA, dC[: len(C)]  # s'(0) = n


@quiet
def step(w, v, gradient, lr, momentum):
    """One step of SGD or Nesterov, in place; (6)."""
    v *= momentum
    v += gradient
    w -= lr * (gradient + momentum * v)


# --------------------------------------------------------------------------- as the compiled ones are called


def population_gradient(U, A, C, U_star, A_star, D, slopes, dU, dA, dC):
    """(10) into dU, (11) into dA, (19) into dC."""
    dU[:], dA[:], dC[:] = exact_gradient(U, A, C, U_star, A_star, D, slopes)


def split(w, d, k, m, skip):
    """(U, A, C), views of the vector of all weights."""
    u, a = d * k, (d + m) * k  # where U and A end
    return w[:u].reshape(d, k), w[u:a].reshape(k, m), w[a:].reshape(skip, m)


def sampled_loop(d, k, m, k_star=0, skip=0, slopes=RELU):
    """(loop, scratch, parts): training on samples; see `kernels.sampled_loop`."""

    def loop(thread, marks, scratch, rows, order, start, rng, teacher, w, v, rates, batch, n_steps, total):
        W, V = split(w, d, k, m, skip), split(v, d, k, m, skip)
        U, A, C = W
        for _ in range(n_steps):
            if k_star:  # fresh samples, labeled by the teacher
                X = rng.standard_normal((batch, d)).astype(U.dtype)
                T = forward(teacher[0], teacher[1], -teacher[2], X, slopes)
            else:
                picked = rows[order[start : start + batch]]
                X, T = picked[:, :d], picked[:, d:]
                start += len(X)
            loss, *gradient = sampled_gradient(U, A, C, X, T, slopes)
            total += loss
            for part in zip(W, V, gradient, rates):
                step(*part, rates[3])
        return total

    return loop, lambda batch, dtype: None, 1


def population_loop(d, k, K, m, skip=0, slopes=RELU):
    """(loop, scratch, parts): exact gradient descent; see `kernels.population_loop`."""

    def loop(thread, marks, scratch, teacher, w, v, rates, n_steps):
        W, V = split(w, d, k, m, skip), split(v, d, k, m, skip)
        for _ in range(n_steps):
            for part in zip(W, V, exact_gradient(*W, *teacher, slopes), rates):
                step(*part, rates[3])

    return loop, lambda: None, 1
