"""Training of any loss, an object with ``value_and_grad(theta)``, in a Python loop.

It may have ``batch(batch_size, rng)`` and ``retract(theta)``: see the notes of `resgrad.train`.
"""

import numpy as np

from . import checks
from .kernels import plain

FAR = 1e12  # with an entry of theta beyond this, a loss may fail: the run has diverged


def retraction(loss):
    """``loss.retract``, or the identity."""
    return getattr(loss, "retract", lambda theta: theta)


def evaluated(loss, theta, valued=True):
    """(value, gradient) of any loss at ``theta``; NaN where it fails at a theta beyond `FAR`.

    If not ``valued``, the value is not computed, and 0 stands for it.
    """
    try:
        value, gradient = loss.value_and_grad(theta.copy()) if valued else (0.0, loss.grad(theta.copy()))
        value, gradient = float(value), np.asarray(checks.unmasked(gradient, "gradient"))
    except (ValueError, ArithmeticError):
        if np.abs(theta).max() < FAR:
            raise
        return np.nan, np.full_like(theta, np.nan)
    if gradient.shape != theta.shape:
        raise ValueError(f"loss has a gradient of shape {gradient.shape}, but theta has shape {theta.shape}")
    return value, gradient


def advancer(loss, optimizer, batch_size):
    """``advance(state, n)``: n steps of (6) on theta itself, in place, as `training.advancer` has them."""
    if batch_size is not None and not hasattr(loss, "batch"):
        raise ValueError(f"batch_size is {batch_size}, but {checks.shown(loss)} has no batch(batch_size, rng)")
    retract, valued = retraction(loss), not hasattr(loss, "excess")  # a value to its last digits takes much longer

    def advance(state, n):
        for _ in range(n):
            value = np.nan
            if np.isfinite(state.w).all():  # else the run has diverged, which the next record finds
                here = loss if batch_size is None else loss.batch(batch_size, state.rng)
                value, gradient = evaluated(here, state.w, valued)
                plain.step(state.w, state.v, gradient, optimizer.lr, optimizer.momentum)
                if np.abs(state.w).max() < FAR:
                    state.w[:] = retract(state.w.copy())
            state.window_loss += value
            state.step, state.window_steps = state.step + 1, state.window_steps + 1

    return advance
