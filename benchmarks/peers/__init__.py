"""The same jobs, written for each system as its own experts would: one file each.

A file offers what it can of these; each returns ``{system name: [variants]}``, and the fastest variant
of a system is the one that counts.

``step(job)`` and ``population(job)`` give `System`; ``ensemble(job)`` gives ``run(n_steps) -> (U, A)``;
``hessian(job)`` gives ``run() -> H``; ``gradient(U, A, X, T)`` is the batched math behind them.
Everyone holds U = W1 + I, so that the identity costs nothing, and reads the rows [x, y - C'x].
"""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

MODULES = {"resgrad": "resgrad_", "NumPy": "numpy_", "PyTorch": "torch_", "JAX": "jax_"}


class Unavailable(Exception):
    """A system that cannot run here, and why."""


class System(NamedTuple):
    start: Callable  # () -> state, fresh
    advance: Callable  # (state, n chunks from the first one on) -> state; blocks until done
    weights: Callable  # state -> (U, W2 or A), what `job.judge` takes


class Job(NamedTuple):
    """One training job; arrays are NumPy's and are not to be written to."""

    arch: Any  # resgrad.Architecture
    d: int
    dtype: np.dtype
    U: np.ndarray  # start (d, k); with a leading axis of runs where there are several
    W: np.ndarray | None  # start of W2
    lr: float
    momentum: float
    batch: int
    chunk: int  # steps handed over at once
    teacher: Any  # resgrad.Network
    threads: int
    quick: bool
    loss: Any = None  # resgrad's; for `step` it holds the rows
    orders: np.ndarray | None = None  # (chunks, chunk, batch) row numbers

    def starts(self):
        """theta of every run's start."""
        U = self.U.reshape(-1, self.d, self.d)
        W1 = U - np.asarray(self.arch.identity * np.eye(self.d), U.dtype)
        if self.W is None:
            return [self.arch.flatten(w) for w in W1]
        return [self.arch.flatten(*pair) for pair in zip(W1, self.W.reshape(U.shape), strict=True)]


def load(threads):
    """({name: module}, {name: why it is left out})."""
    found, left_out = {}, {}
    for name, module in MODULES.items():
        try:
            found[name] = importlib.import_module(f"{__name__}.{module}")
        except ImportError:
            left_out[name] = "not installed"
        except OSError as error:  # of a shared library
            left_out[name] = f"cannot be loaded: {error}"
        else:
            found[name].prepare(threads)
    return found, left_out


def teacher_units(job):
    """(unit columns, norms, A*), each with a leading axis where the job has one."""
    U, A, _ = job.teacher.canonical()
    norm = np.sqrt((U * U).sum(axis=0, keepdims=True))
    lead = job.U.shape[:-2]
    return tuple(np.broadcast_to(a, lead + a.shape).copy() for a in (U / norm, norm, A))


def expected_gradient(xp, U, A, unit_star, norm_star, A_star, own=None):
    """(dU, dA) of the expected loss where student and teacher share the skip; leading axes are runs.

    In plain array operations of NumPy, PyTorch or JAX (``xp``).  ``own`` masks the pairs of a unit with
    itself, so that it can be differentiated once more.
    """
    norm_u = xp.sqrt((U * U).sum(-2, keepdims=True))
    unit_u = U / norm_u
    unit, norm = xp.concatenate([unit_u, unit_star], -1), xp.concatenate([norm_u, norm_star], -1)
    Q = xp.concatenate([A, -A_star], -2)
    c = unit_u.mT @ unit
    c = xp.clip(c, -1, 1) if own is None else xp.where(own, 0.0, c)
    s, p = xp.sqrt(1 - c * c), xp.pi - xp.arccos(c)
    if own is not None:
        c, s, p = xp.where(own, 1.0, c), xp.where(own, 0.0, s), xp.where(own, xp.pi, p)
    w = norm * (A @ Q.mT)
    dU = unit_u * (w * s).sum(-1)[..., None, :] + unit @ (w * p).mT
    dA = norm_u.mT * ((norm * (s + p * c)) @ Q)
    return dU / xp.pi, dA / xp.pi
