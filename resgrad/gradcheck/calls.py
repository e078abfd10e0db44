"""Calls of a loss, and its faults that do not depend on the numbers.

A `Defect` keeps a loss from being checked at all.  A problem is a text that says what is wrong with the loss.
An exception, or an answer that is complex, not finite or not (value, gradient), is a defect at theta.  Elsewhere it
means that the point lies outside the domain of the loss.
"""

import numpy as np

from .. import checks
from . import differences


class Defect(Exception):
    """The loss cannot be checked, and why."""


class Outside(Defect):
    """The loss has no answer here, and why: a defect only at theta."""


def _call(function, theta, name):
    """``function(theta)`` of a copy of theta, which must stay as it is; raises `Defect`."""
    given = theta.copy()
    try:
        answer = function(given)
    except Defect:
        raise
    except Exception as error:
        raise Outside(f"the {name} raises {type(error).__name__}: {error}") from error
    if not (given == theta).all():
        raise Defect(f"the {name} changes theta in place")
    return answer


def value_and_grad(function, theta):
    """(value, gradient) of one call; raises `Defect`, and `Outside` for any answer that is not such a pair."""
    answer = _call(function, theta, "loss")
    try:
        value, grad = answer
        scalar, shape = np.ndim(value) == 0, np.shape(grad)
    except (TypeError, ValueError):
        raise Outside(f"the loss returned {checks.shown(answer)}, but must return (value, grad)") from None
    if not scalar or np.asarray(value).dtype.kind not in "iuf" or not np.isfinite(value):
        raise Outside(f"the value is {checks.shown(value)}, but must be a finite real number")
    if shape != theta.shape:
        raise Outside(f"the gradient has shape {shape}, but theta has shape {theta.shape}")
    if np.asarray(grad).dtype.kind not in "iuf":
        raise Outside(f"the gradient has dtype {np.asarray(grad).dtype}, but must hold real numbers")
    for i in np.flatnonzero(~np.isfinite(grad)):
        raise Outside(f"the gradient is {grad[i]} (NaN or infinite) at index {i}")
    return float(value), grad


def _nearby(function, theta, scales, v):
    """[(point, value, gradient), ...] at theta + h v or theta - h v for each h of ``scales``; None for no answers."""
    for side in (v, -v):
        points = [(theta + h * side).astype(theta.dtype) for h in scales]
        try:
            found = [(point, *value_and_grad(function, point)) for point in points]
        except Outside:
            continue
        return [(point, value, np.array(grad, dtype=np.float64)) for point, value, grad in found]
    return None


def answers(function, theta, rtol, rng):
    """(value, gradient, problems) at theta, from calls there, near by, and there again; raises `Defect`."""
    value, returned = value_and_grad(function, theta)
    grad, problems = np.array(returned, dtype=np.float64), []
    scales = ((2.0**-n, 2.0 ** (-5 - n)) for n in range(7, 44, 6))
    tries = (_nearby(function, theta, pair, differences.direction(theta, rng)) for pair in scales)
    nearby = next(filter(None, tries), [(theta, value, grad)])
    if not np.array_equal(returned, grad):
        raise Defect("a later call overwrites the gradient returned before: a shared buffer")
    again, again_grad = value_and_grad(function, theta)
    rounding = 256 * np.finfo(theta.dtype).eps * (abs(value) + max(abs(near) for _, near, _ in nearby))
    if abs(again - value) > rtol * abs(value) + rounding:
        problems.append(f"a later call at theta returned another value: {value!r}, then {again!r}")
    if not np.allclose(again_grad, grad, rtol, rtol * np.abs(grad).max()):
        problems.append("a later call at theta returned another gradient: a stale buffer?")
    if all(np.array_equal(grad, near_grad) for *_, near_grad in nearby):  # then the loss should be linear
        rises = [(near_value - value, grad * (near - theta)) for near, near_value, _ in nearby]
        if all(abs(rise - terms.sum()) > rounding + rtol * np.abs(terms).sum() for rise, terms in rises):
            problems.append("the gradient is the same near by, but not the slope: a stale buffer?")
    return value, grad, problems + _coarse(function, theta, value, grad, rng)


def _coarse(function, theta, value, grad, rng):
    """Problems: the value or gradient changes in proportion to theta, but ignores its smallest changes.

    A float32 gradient follows changes by 2^-22 of theta; a gradient with dense kinks is a step function and does not.
    """
    if theta.dtype != np.float64:
        return []
    v = np.copysign(differences.scaling(theta, rng), grad)  # along it no changes of the value cancel
    if not (points := _nearby(function, theta, (2.0**-12, 2.0**-16, 2.0**-22, 2.0**-38), v)):
        return []
    start = np.append(value, grad)
    far, middle, near, nearest = (np.append(*answer) - start for _, *answer in points)
    visible = 2.0**-26 * np.abs(far) > 64 * np.finfo(np.float64).eps * np.abs(start)
    frozen = visible & (np.abs(far - 2.0**4 * middle) < 0.1 * np.abs(far)) & (nearest == 0)
    follows = (near != 0) & (2.0**10 * np.abs(near) < 4 * np.abs(far))
    names = ["value"] * bool(frozen[0]) + ["gradient"] * bool(2 * (frozen & follows)[1:].sum() > visible[1:].sum())
    return [f"the {name} does not feel a change of theta by 1e-12 of it: float32 inside?" for name in names]


def careful(function, name, shape, theta):
    """``function`` with float64 arrays as answers, nan where it fails; raises `Defect` if it fails at theta."""

    def answer(point):
        returned = _call(function, point, name)
        if type(returned) is float and not shape:
            return np.float64(returned)
        try:
            result = np.asarray(returned)
            if result.dtype.kind == "c":
                raise TypeError
            result = result.astype(np.float64)
        except (TypeError, ValueError, OverflowError):
            raise Outside(f"the {name} is {checks.shown(returned)}, but must hold real numbers") from None
        if result.shape != shape:
            raise Defect(f"the {name} has shape {result.shape}, but must have {shape}")
        return result

    def checked(point):
        try:
            result = answer(point)
        except Outside:
            return np.full(shape, np.nan)
        return result if np.isfinite(result).all() else np.where(np.isfinite(result), result, np.nan)

    at_theta = answer(theta)
    for position in map(tuple, np.argwhere(~np.isfinite(at_theta)).tolist()):
        raise Defect(f"the {name} is {at_theta[position]} (NaN or infinite) at {position}")
    return checked


def sample(loss, theta):
    """(values, preactivations) of a sampled loss, as functions; raises `Defect`."""
    N, Nk = (np.shape(_call(getattr(loss, name), theta, name)) for name in ("values", "preactivations"))
    if len(N) != 1 or len(Nk) != 2 or N != Nk[:1]:
        raise Defect(f"values has shape {N} and preactivations {Nk}, but they must have (N,) and (N, k)")
    return careful(loss.values, "values", N, theta), careful(loss.preactivations, "preactivations", Nk, theta)
