"""JAX: `lax.scan` over a jitted step with donated state, gradients by autodiff, `vmap` over runs."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_ENABLE_X64"] = "1"

import jax
import jax.numpy as jnp
import numpy as np

from . import System, expected_gradient, teacher_units


def prepare(threads):
    """XLA takes as many threads as the process has processors."""


def loss(weights, X, T, readout, columns=False):
    """Mean squared error; a sample is a row, or a column."""
    if columns:
        H = jax.nn.relu(weights[0].T @ X)
        F = H.sum(0) if readout == "fixed" else weights[1].sum(1) @ H if readout == "sum" else weights[1].T @ H
        return jnp.square(F - T).sum() / X.shape[1]
    H = jax.nn.relu(X @ weights[0])
    F = H.sum(1) if readout == "fixed" else H @ (weights[1].sum(1) if readout == "sum" else weights[1])
    return jnp.square(F - T).sum() / X.shape[0]


def gradient(U, A, X, T):
    """(dU, dA) of the mean squared error; the leading axis is runs."""
    return jax.vmap(jax.grad(partial(loss, readout="vector")))((U, A), X, T)


def nesterov(weights, velocities, gradients, lr, momentum):
    velocities = jax.tree.map(lambda v, g: momentum * v + g, velocities, gradients)
    move = jax.tree.map(lambda w, v, g: w - lr * (g + momentum * v), weights, velocities, gradients)
    return move, velocities


def begin(job):
    weights = tuple(jnp.array(w) for w in (job.U, job.W) if w is not None)
    return weights, jax.tree.map(jnp.zeros_like, weights)


def weights(state):
    return [*map(np.asarray, state[0]), None][:2]


def step(job):
    rows, d, readout = jnp.asarray(job.loss.rows), job.d, job.arch.readout
    orders = [jnp.asarray(order, jnp.int32) for order in job.orders]

    def system(gather, columns=False):
        @partial(jax.jit, donate_argnums=0)
        def chunk(state, rows, order):
            def one(state, batch):
                batch = rows[batch] if gather else batch
                X, T = (batch[:d], batch[d:]) if columns else (batch[:, :d], batch[:, d:])
                T = T if readout == "vector" else T.reshape(-1)
                value, grads = jax.value_and_grad(loss)(state[0], X, T, readout, columns)
                return nesterov(*state, grads, job.lr, job.momentum), value

            batches = order if gather else rows[order]
            return jax.lax.scan(one, state, batches.swapaxes(1, 2) if columns else batches)

        def advance(state, n):
            for i in range(n):
                state, _ = chunk(state, rows, orders[i % len(orders)])
            return jax.block_until_ready(state)

        return System(partial(begin, job), advance, weights)

    gathered, permuted, columns = system(True), system(False), system(False, columns=True)
    return {"JAX": [gathered, permuted, *([columns] if d <= 50 else [])]}


def ensemble(job):
    U_star, A_star = (jnp.asarray(a, job.dtype) for a in job.teacher.canonical()[:2])

    @partial(jax.jit, static_argnums=2)
    @partial(jax.vmap, in_axes=(0, 0, None))
    def train(start, key, n):
        def one(state, key):
            X = jax.random.normal(key, (job.batch, job.d), job.dtype)
            T = jax.nn.relu(X @ U_star) @ A_star
            value, grads = jax.value_and_grad(loss)(state[0], X, T, "vector")
            return nesterov(*state, grads, job.lr, job.momentum), value

        state = start, jax.tree.map(jnp.zeros_like, start)
        return jax.lax.scan(one, state, jax.random.split(key, n))[0][0]

    def run(n, generator, parts):
        """All runs in one `vmap`, or one for each thread."""
        keys = jax.random.split(jax.random.key(1, impl=generator), len(job.U))
        cuts = np.array_split(np.arange(len(job.U)), parts)
        with ThreadPoolExecutor(parts) as pool:
            results = list(pool.map(
                lambda cut: jax.block_until_ready(train((job.U[cut], job.W[cut]), keys[cut], n)), cuts
            ))  # fmt: skip
        return tuple(np.concatenate(part) for part in zip(*results))

    generators, parts = ("threefry2x32", "unsafe_rbg"), {1, job.threads}
    return {"JAX": [partial(run, generator=g, parts=p) for g in generators for p in parts]}


def population(job):
    teacher = tuple(map(jnp.asarray, teacher_units(job)))

    @partial(jax.jit, donate_argnums=0)
    def chunk(state, teacher):
        def one(state, _):
            return nesterov(*state, expected_gradient(jnp, *state[0], *teacher), job.lr, job.momentum), None

        return jax.lax.scan(one, state, length=job.chunk)[0]

    def advance(state, n):
        for _ in range(n):
            state = chunk(state, teacher)
        return jax.block_until_ready(state)

    return {"JAX": [System(partial(begin, job), advance, weights)]}


def hessian(job):
    teacher, own = tuple(map(jnp.asarray, teacher_units(job))), np.eye(job.d, 2 * job.d, dtype=bool)

    @jax.jit
    def run(theta):
        def flat(theta):
            pair = theta[: job.U.size].reshape(job.U.shape), theta[job.U.size :].reshape(job.W.shape)
            return jnp.concatenate([g.ravel() for g in expected_gradient(jnp, *pair, *teacher, own)])

        return jax.jacfwd(flat)(theta)

    theta = jnp.concatenate([job.U.ravel(), job.W.ravel()])
    return {"JAX": [lambda: np.asarray(run(theta))]}
