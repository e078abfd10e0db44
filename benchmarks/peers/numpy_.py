"""Plain NumPy, gradients by hand, as a careful user would write it."""

import numpy as np

from . import System, expected_gradient, teacher_units


def prepare(threads):
    """OpenBLAS reads the environment."""


def gradient(U, A, X, T):
    """(dU, dA) of the mean squared error; leading axes are runs."""
    H = np.maximum(X @ U, 0)
    R = H @ A - T
    R *= 2 / X.shape[-2]
    G = R @ A.swapaxes(-1, -2)
    G *= H > 0
    return X.swapaxes(-1, -2) @ G, H.swapaxes(-1, -2) @ R


def nesterov(job, weights, velocities, gradients):
    """In place."""
    for w, v, g in zip(weights, velocities, gradients):
        v *= job.momentum
        v += g
        w -= job.lr * (g + job.momentum * v)


def begin(job):
    U, W = job.U.copy(), None if job.W is None else job.W.copy()
    return U, W, np.zeros_like(U), None if W is None else np.zeros_like(W)


def step(job):
    rows, d, ones = job.loss.rows, job.d, np.ones((job.d, 1), job.dtype)

    def advance(state, n):
        U, W, VU, VW = state
        for i in range(n):
            for index in job.orders[i % len(job.orders)]:
                batch = rows[index]
                A = {"fixed": ones, "vector": W}.get(job.arch.readout)
                A = W.sum(axis=1, keepdims=True) if A is None else A
                gradients = gradient(U, A, batch[:, :d], batch[:, d:])
                nesterov(job, (U, W)[: 1 + (W is not None)], (VU, VW), gradients)
        return state

    return {"NumPy": [System(lambda: begin(job), advance, lambda state: state[:2])]}


def ensemble(job):
    U_star, A_star, _ = (a.astype(job.dtype) for a in job.teacher.canonical())

    def run(n):
        rng = np.random.default_rng(1)
        U, A, VU, VA = begin(job)
        for _ in range(n):
            X = rng.standard_normal((len(U), job.batch, job.d), job.dtype)
            T = np.maximum(X @ U_star, 0) @ A_star
            nesterov(job, (U, A), (VU, VA), gradient(U, A, X, T))
        return U, A

    return {"NumPy": [run]}


def population(job):
    teacher = teacher_units(job)

    def advance(state, n):
        U, A, VU, VA = state
        for _ in range(n * job.chunk):
            nesterov(job, (U, A), (VU, VA), expected_gradient(np, U, A, *teacher))
        return state

    return {"NumPy": [System(lambda: begin(job), advance, lambda state: state[:2])]}


def hessian(job):
    """Central differences of the exact gradient: what one would do without deriving (14)-(17)."""
    teacher, h = teacher_units(job), 1e-5

    def flat(theta):
        U, A = theta[: job.U.size].reshape(job.U.shape), theta[job.U.size :].reshape(job.W.shape)
        return np.concatenate([g.ravel() for g in expected_gradient(np, U, A, *teacher)])

    def run():
        theta = np.concatenate([job.U.ravel(), job.W.ravel()])
        H = np.empty((theta.size, theta.size))
        for i in range(theta.size):
            e = np.zeros_like(theta)
            e[i] = h
            H[i] = (flat(theta + e) - flat(theta - e)) / (2 * h)
        return 0.5 * (H + H.T)

    return {"NumPy": [run]}
