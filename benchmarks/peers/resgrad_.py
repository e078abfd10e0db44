"""resgrad, as its users call it."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

import resgrad as rg
from resgrad import training
from resgrad.blas import one_thread

from . import System


def prepare(threads):
    """`resgrad.kernels.threads` goes by OpenBLAS, which reads the environment."""


def step(job):
    """The fused kernel through what `rg.train` calls between two records.

    `rg.train` itself would add one evaluation on the whole data set, at step 0, to every repeat, and
    draw the permutations, which here are everyone's.
    """
    advance = training.advancer(job.loss, rg.Nesterov(job.lr, job.momentum), job.batch, job.d)

    def start():
        return training.State.start(job.loss, job.starts()[0], np.random.default_rng(0))

    @one_thread()  # as `rg.train`
    def run(state, n):
        for i in range(n):
            state.order, state.position = job.orders[i % len(job.orders)].ravel(), 0
            advance(state, job.chunk)
        return state

    def weights(state):
        W1, W2, *_ = job.arch.unflatten(state.theta(job.loss), job.d)
        return W1 + job.arch.identity * np.eye(job.d), W2

    return {"resgrad": [System(start, run, weights)]}


def ensemble(job):
    loss = rg.OnlineLoss(job.arch, job.teacher, job.dtype)

    def one(seed, theta, n):
        optimizer = rg.Nesterov(job.lr, job.momentum)
        return rg.train(loss, theta, optimizer, n, job.batch, seed=seed, record_every=n).theta

    def run(n):
        with ThreadPoolExecutor(job.threads) as pool:
            thetas = list(pool.map(lambda pair: one(*pair, n), enumerate(job.starts())))
        pairs = [job.arch.canonical(theta, job.d)[:2] for theta in thetas]
        return tuple(np.stack(part) for part in zip(*pairs))

    return {"resgrad": [run]}


def population(job):
    loss = rg.PopulationLoss(job.arch, job.teacher)
    advance = training.advancer(loss, rg.Nesterov(job.lr, job.momentum), None, job.d)
    pool = ThreadPoolExecutor(job.threads)

    def start():
        return [training.State.start(loss, theta, np.random.default_rng(0)) for theta in job.starts()]

    @one_thread()  # as `rg.train`
    def run(states, n):
        if len(states) == 1:
            advance(states[0], n * job.chunk)
        else:
            list(pool.map(lambda state: advance(state, n * job.chunk), states))
        return states

    return {"resgrad": [System(start, run, lambda states: [np.stack(p) for p in zip(
        *(loss.arch.split(state.w, loss.d)[:2] for state in states))])]}  # fmt: skip


def hessian(job):
    loss, theta = rg.PopulationLoss(job.arch, job.teacher), job.starts()[0]
    return {"resgrad": [lambda: loss.hessian(theta)]}
