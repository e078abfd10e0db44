"""The equations of this folder in plain NumPy: what to read first, and what runs where nothing is compiled.

Each function is one equation or one loop of the compiled modules, with the numbers of the derivation.  With
NUMBA_DISABLE_JIT=1 these do all the work: slowly, with the same results to rounding, and open to a debugger.
"""

import numpy as np

quiet = np.errstate(all="ignore")  # as compiled code, which says nothing of what overflows


@quiet
def forward(U, A, C, X):
    """F (B, m) at the rows of X (B, d); (1)."""
    return np.maximum(X @ U, 0) @ A + X @ C


@quiet
def sampled_gradient(U, A, X, T):
    """(loss, dU, dA): the mean squared error on a batch, labels T = Y - X C, and its gradient."""
    H = np.maximum(X @ U, 0)  # (1)
    R = H @ A - T  # (2)
    G = (R @ A.T) * (H > 0)  # (3), relu'(0) = 0
    scale = U.dtype.type(2 / len(X))
    return np.sum(np.square(R), dtype=np.float64) / len(X), scale * (X.T @ G), scale * (H.T @ R)  # (4), (2)


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


def dataset_gradient(rows, U, A, dU, dA):
    """Mean loss over the data set; its gradient goes into dU and dA, unless these are empty.  rows = [x, y - C'x]."""
    loss, unit_gradient, readout_gradient = sampled_gradient(U, A, rows[:, : len(U)], rows[:, len(U) :])
    if dU.size:
        dU[:], dA[:] = unit_gradient, readout_gradient
    return loss


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
