"""A loss as it answers: what it may not do when it is called, whatever the numbers.

A `Defect` keeps a loss from being checked at all; a problem is a text that says what is wrong with it.  Imports
``checks`` and ``differences``.
"""

import numpy as np

from .. import checks
from . import differences


class Defect(Exception):
    """The loss cannot be checked, and why."""


def _call(function, theta, name):
    """``function(theta)`` of a copy of theta, which must stay as it is; raises `Defect`."""
    given = theta.copy()
    answer = function(given)
    if not np.array_equal(given, theta):
        raise Defect(f"the {name} changes theta in place")
    return answer


def _value_and_grad(function, theta):
    """(value, gradient) of one call; raises `Defect`."""
    answer = _call(function, theta, "loss")
    try:
        value, grad = answer
    except (TypeError, ValueError):
        text = f"the loss returned {checks.shown(answer)}, but must return (value, grad)"
        raise Defect(text) from None
    if np.ndim(value) != 0 or np.asarray(value).dtype.kind not in "iuf" or not np.isfinite(value):
        raise Defect(f"the value is {checks.shown(value)}, but must be a finite real number")
    if np.shape(grad) != theta.shape:
        raise Defect(f"the gradient has shape {np.shape(grad)}, but theta has shape {theta.shape}")
    if np.asarray(grad).dtype.kind not in "iuf":
        raise Defect(f"the gradient has dtype {np.asarray(grad).dtype}, but must hold real numbers")
    for i in np.flatnonzero(~np.isfinite(grad)):
        raise Defect(f"the gradient is {grad[i]} (NaN or infinite) at index {i}")
    return float(value), grad


def answers(function, theta, rtol, rng):
    """(value, gradient, problems) at theta, from calls there, near by, and there again; raises `Defect`."""
    value, returned = _value_and_grad(function, theta)
    grad = np.array(returned, dtype=np.float64)
    scale = 2.0**-7 * np.where(theta == 0, differences.size(theta), np.abs(theta))
    near = (theta + scale * rng.standard_normal(theta.size)).astype(theta.dtype)
    near_value, near_grad = _value_and_grad(function, near)
    near_grad = np.array(near_grad, dtype=np.float64)
    if not np.array_equal(returned, grad):
        raise Defect("a later call overwrites the gradient returned before: a shared buffer")
    again, again_grad = _value_and_grad(function, theta)
    problems, rounding = [], 256 * np.finfo(theta.dtype).eps * (abs(value) + abs(near_value))
    if abs(again - value) > rtol * abs(value) + rounding:
        problems.append(f"a later call at theta returned another value: {value!r}, then {again!r}")
    if not np.allclose(again_grad, grad, rtol, rtol * np.abs(grad).max()):
        problems.append("a later call at theta returned another gradient: a stale buffer?")
    if np.array_equal(grad, near_grad):  # then the loss should be linear
        rise = grad * (near - theta)
        if abs(near_value - value - rise.sum()) > rounding + rtol * np.abs(rise).sum():
            problems.append("the gradient is the same near by, but not the slope: a stale buffer?")
    return value, grad, problems + _coarse(function, theta, value, grad, rng)


def _coarse(function, theta, value, grad, rng):
    """Problems: what changes in proportion to theta, but not at all for its smallest changes."""
    if theta.dtype != np.float64:
        return []
    start, v = np.append(value, grad), differences.size(theta) * rng.standard_normal(theta.size)
    far, half, near = (
        np.append(*_value_and_grad(function, theta + h * v)) - start for h in (2.0**-12, 2.0**-13, 2.0**-38)
    )
    visible = 2.0**-26 * np.abs(far) > 64 * np.finfo(np.float64).eps * np.abs(start)
    moves = (np.abs(far - 2 * half) < 0.1 * np.abs(far)) & visible
    frozen = moves & (near == 0)
    names = ["value"] * bool(frozen[0]) + ["gradient"] * bool(2 * frozen[1:].sum() > moves[1:].sum())
    return [f"the {name} does not feel a change of theta by 1e-12 of it: float32 inside?" for name in names]


def careful(function, name, shape):
    """``function(theta)`` as a float64 array; nan where it cannot be evaluated; raises `Defect`."""

    def checked(theta):
        try:
            result = np.asarray(_call(function, theta, name), dtype=np.float64)
        except (ValueError, ArithmeticError):  # outside of its domain, say
            return np.full(shape, np.nan)
        if result.shape != shape:
            raise Defect(f"the {name} has shape {result.shape}, but must have {shape}")
        return result

    return checked


def finite(array, name):
    """What is finite where the check is made; raises `Defect`."""
    for position in np.argwhere(~np.isfinite(array)).tolist():
        raise Defect(f"the {name} is {array[tuple(position)]} (NaN or infinite) at {tuple(position)}")
    return array


def sample(loss, theta):
    """(values, preactivations) of a sampled loss, as functions; raises `Defect`."""
    N, Nk = np.shape(loss.values(theta.copy())), np.shape(loss.preactivations(theta.copy()))
    if len(N) != 1 or len(Nk) != 2 or N != Nk[:1]:
        raise Defect(f"values has shape {N} and preactivations {Nk}, but they must have (N,) and (N, k)")
    values, preactivations = careful(loss.values, "values", N), careful(loss.preactivations, "preactivations", Nk)
    finite(values(theta), "values"), finite(preactivations(theta), "preactivations")
    return values, preactivations
