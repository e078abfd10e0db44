"""Gradients against differences of the loss; ``python -m resgrad.gradcheck`` runs it on everything.

Takes any loss and knows no architecture (the command line at the end does).  Three facts carry it:

- A sampled ReLU loss is a piecewise quadratic function of every single parameter.  The parabola
  through three points gives its slope exactly, up to rounding and for *any* step, as long as no
  pre-activation changes sign in between; `EmpiricalLoss.preactivations` tells how far that is.
- Any other function is smooth on either side of the point.  Differences to the right, to the left
  and on both sides are extrapolated to step 0 (Richardson 1911, Ridders 1982), each with an
  estimate of its error; where right and left disagree down to the smallest step there is a kink.
- Rounding limits every difference.  The noise of the loss is measured (Hamming's difference table,
  after More & Wild 2011) and divided by the step: a gradient is accepted or rejected only where
  this uncertainty lies below the tolerance.
"""

import argparse
import sys
from dataclasses import dataclass

import numpy as np

from . import checks

RTOL = {np.dtype(np.float64): 1e-9, np.dtype(np.float32): 1e-2}  # of the loss's arithmetic
HESSIAN_RTOL = 1e-9  # Richardson differences of the exact gradient
LEVELS, COLUMNS = 40, 7  # of the extrapolation table; it ends early where it has converged
CLEAR = 7 / 8  # share of the way to a crossing that is used
OK, WRONG, UNKNOWN = "ok", "wrong", "cannot tell"


# ------------------------------------------------------------------------------------- the report


@dataclass(frozen=True)
class Entry:
    """One entry of a gradient.

    Attributes
    ----------
    block : str
    index : int
        In theta, flat.
    position : tuple of int
        In the block: (row, column).
    analytic : float
        What the loss returned.
    numeric : float
        The difference of loss values; at a kink the value between ``left`` and ``right`` that is
        nearest to ``analytic``.
    left, right : float
        The one-sided derivatives; equal except at a kink.
    uncertainty : float
        Of ``numeric``.
    step : float
        Distance of the farthest point used.
    rel_error : float
    verdict : {"ok", "wrong", "cannot tell"}
    """

    block: str
    index: int
    position: tuple
    analytic: float
    numeric: float
    left: float
    right: float
    uncertainty: float
    step: float
    rel_error: float
    verdict: str

    def __str__(self):
        where = f"{self.block}[{', '.join(map(str, self.position))}]"
        line = f"{where:<12}{self.index:>6}  {self.analytic:>22.15g}  {self.numeric:>22.15g}"
        line += f"  {self.rel_error:9.2g}  {self.uncertainty:11.2g}  {self.step:7.2g}  {self.verdict}"
        if self.left != self.right:
            line += f"; kink: left {self.left:.9g}, right {self.right:.9g}"
        return line


@dataclass(frozen=True)
class Block:
    """One parameter block: what was checked, and how well it agrees.

    Attributes: ``name``, ``shape``, ``checked`` (entries), ``wrong``, ``unknown`` and ``kinks``
    (numbers of entries), ``max_rel_error``, ``max_abs_error``, ``atol`` (in force), ``hint``.
    """

    name: str
    shape: tuple
    checked: int
    wrong: int
    unknown: int
    kinks: int
    max_rel_error: float
    max_abs_error: float
    atol: float
    hint: str = ""

    def __str__(self):
        return (
            f"{self.name:<8} {self.shape!s:<12} {self.checked} checked, {self.wrong} wrong, "
            f"{self.unknown} cannot tell, {self.kinks} kinks; max error "
            f"{self.max_rel_error:.2g} relative, {self.max_abs_error:.2g} absolute (atol {self.atol:.2g})"
        )


@dataclass(frozen=True)
class GradientReport:
    """What `check_gradient` found.  ``str(report)`` is a table.

    Attributes
    ----------
    ok : bool
        Every entry was decided and is right, and there are no problems.
    verdict : {"ok", "wrong", "cannot tell"}
    max_rel_error : float
        Largest |analytic - numeric| / max(|analytic|, |numeric|, atol / rtol); 0 where both are 0.
    blocks : tuple of Block
    failures : tuple of Entry
        The wrong ones, worst first.
    unknown : tuple of Entry
        Those whose difference is less certain than the tolerance.
    worst : tuple of Entry
        The five worst, whatever their verdict.
    kinks : tuple of Entry
        Those with a kink at theta; ``left`` and ``right`` are the one-sided derivatives.
    problems : tuple of str
        What is wrong with the callable as such.
    taylor_slopes : tuple of float
        Order at which the Taylor remainder vanishes along random directions: 2 for a right
        gradient, 1 for a wrong one, nan where it drowns in rounding.  Smooth losses only.
    method : str
    rtol : float
    """

    method: str
    rtol: float
    blocks: tuple = ()
    failures: tuple = ()
    unknown: tuple = ()
    worst: tuple = ()
    kinks: tuple = ()
    problems: tuple = ()
    taylor_slopes: tuple = ()

    @property
    def verdict(self):
        if self.failures or self.problems:
            return WRONG
        return UNKNOWN if self.unknown or not self.blocks else OK

    @property
    def ok(self):
        return self.verdict == OK

    @property
    def max_rel_error(self):
        return max((block.max_rel_error for block in self.blocks), default=np.nan)

    def __str__(self):
        lines = [f"gradient {self.verdict}: rtol {self.rtol:.2g}, {self.method}"]
        lines += [f"  problem: {problem}" for problem in self.problems]
        lines += [f"  {block}" for block in self.blocks]
        lines += [f"  hint: {block.name}: {block.hint}" for block in self.blocks if block.hint]
        if self.taylor_slopes:
            slopes = ", ".join(f"{slope:.2f}" for slope in self.taylor_slopes)
            lines.append(f"  Taylor remainder falls like h^p, p = {slopes} (2: right, 1: wrong)")
        if self.worst:
            lines.append("  worst entries; analytic: what the loss returned, numeric: differences of its values")
            lines.append(
                f"  {'block':<12}{'flat':>6}  {'analytic':>22}  {'numeric':>22}"
                f"  {'rel error':>9}  {'uncertainty':>11}  {'step':>7}"
            )
            lines += [f"  {entry}" for entry in self.worst]
            lines += [f"  {entry}" for entry in self.kinks[:5] if entry not in self.worst]
        return "\n".join(lines)


# ------------------------------------------------------------------------------------- the checks


def check_gradient(loss, theta, *, rtol=None, atol=None, shapes=None, smooth=None, entries=None, seed=0):
    """Check a gradient against differences of the loss.

    Parameters
    ----------
    loss : callable or object
        ``loss(theta) -> (value, grad)``, or an object with ``value_and_grad(theta)``.  Where it also
        has ``preactivations(theta)`` (N, k), linear in each entry of theta, it is taken to be a
        piecewise quadratic function of each entry whose kinks are their sign changes.
    theta : array_like, shape (n,)
    rtol, atol : float, optional
        As in `numpy.isclose`: an entry agrees where |analytic - numeric| <= atol + rtol |numeric|.
        ``rtol`` is 1e-9 unless given (1e-2 for a loss in float32).  ``atol`` is, unless given,
        ``rtol`` times the largest slope seen in the block, between theta and the points where the
        loss was evaluated: entries that cancel to zero are compared with those that do not.
    shapes : dict of str to tuple, optional
        Parameter blocks in their order in theta; ``loss.shapes(theta)`` unless given, else one.
    smooth : bool, optional
        Whether to look at Taylor remainders too; unless given, whether there is a ``loss.hessian``.
    entries : int, optional
        Check that many entries of each block, drawn at random, instead of all.
    seed : int
        Of random directions and of that draw.

    Returns
    -------
    GradientReport
        An entry is *wrong* where it misses the tolerance by more than the uncertainty of the
        difference, and *cannot tell* where that uncertainty is larger than the tolerance.  At a
        kink any value between the one-sided derivatives agrees.

    Raises
    ------
    ValueError, TypeError
        For arguments out of range.  A defect of ``loss`` is reported, not raised.

    Notes
    -----
    If every pre-activation that an entry moves is zero (a unit that is off altogether), the chain rule
    gives relu'(0) times the sum of the one-sided derivatives, which may lie outside them; so do
    PyTorch and JAX.  This is accepted where pre-activations are known, and else *cannot tell*.

    Examples
    --------
    >>> import numpy as np, resgrad as rg
    >>> from resgrad.gradcheck import check_gradient
    >>> X = np.random.default_rng(0).normal(size=(20, 3))
    >>> loss = rg.EmpiricalLoss("li", X, Y=np.ones(20))
    >>> check_gradient(loss, np.full(9, 0.1)).ok
    True
    >>> report = check_gradient(lambda t: (t @ t, 4 * t), np.ones(3))
    >>> report.ok, report.blocks[0].hint
    (False, 'analytic is 2 times numeric')
    """
    theta, rtol, atol, eps = _arguments(loss, theta, rtol, atol)
    rng = np.random.default_rng(checks.integer(seed, "seed", 0))
    shapes = _block_shapes(loss, theta, shapes)
    sampled = hasattr(loss, "preactivations")
    method = "parabolas between crossings" if sampled else "extrapolated differences"
    with np.errstate(all="ignore"):
        try:
            (f0, grad), other = _first_calls(loss, theta, rng)
        except _Defect as defect:
            return GradientReport(method, rtol, problems=(str(defect),))
        value = _value_of(loss)
        index = _draw_entries(shapes, entries, rng)
        noise = _noise(value, theta, rng)
        if sampled:
            slopes = _between_crossings(value, loss.preactivations, f0, theta, index, noise, eps)
        else:
            slopes = _extrapolated(lambda t: np.array([value(t)]), theta, index, (noise, eps, rtol, atol))
        smooth = not sampled and hasattr(loss, "hessian") if smooth is None else smooth
        taylor = ()
        if smooth and not slopes.kink.any():
            taylor = _taylor_slopes(value, f0, grad, theta, noise, rng)
        results = _judge(shapes, index, grad[index], slopes, rtol, atol)
        scale = np.zeros(theta.size)
        scale[index] = np.repeat([b.atol for b in results["blocks"]], [b.checked for b in results["blocks"]])
        problems = _last_calls(loss, theta, (f0, grad), other, rtol, scale, eps)
    if any(slope < 1.5 for slope in taylor):
        problems.append(f"the Taylor remainder falls like h^{np.nanmin(taylor):.2f}, not h^2: wrong gradient")
    if theta.dtype == np.float64 and noise > 1e-11 * abs(f0) and results["unknown"]:
        problems.append(f"values carry noise of {noise / abs(f0):.1g} of their size: float32 arithmetic?")
    return GradientReport(method, rtol, problems=tuple(problems), taylor_slopes=taylor, **results)


def check_hessian(loss, theta, *, rtol=None, atol=None):
    """Check ``loss.hessian(theta)``, shape (n, n), against differences of ``loss.grad``.

    Parameters and returns are those of `check_gradient`; the one block is ``hessian``, and an
    entry's flat index counts row by row.

    Examples
    --------
    >>> import numpy as np, resgrad as rg
    >>> from resgrad.gradcheck import check_hessian
    >>> loss = rg.PopulationLoss("li", rg.Network("li", np.full(4, 0.1), d=2))
    >>> check_hessian(loss, np.zeros(4)).ok
    True
    """
    theta, rtol, atol, eps = _arguments(loss, theta, rtol, atol)
    n, method = theta.size, "extrapolated differences of the gradient"
    with np.errstate(all="ignore"):
        hessian = np.asarray(loss.hessian(theta.copy()))
        if hessian.shape != (n, n) or not np.isfinite(hessian).all():
            problem = f"hessian has shape {hessian.shape}, but must be a finite ({n}, {n})"
            return GradientReport(method, rtol, problems=(problem,))
        noise = _noise(loss.grad, theta, np.random.default_rng(0))
        slopes = _extrapolated(loss.grad, theta, np.arange(n), (noise, eps, rtol, atol))
    columns = _Slopes(*(np.broadcast_to(part, (n, n)).T.ravel() for part in slopes))
    results = _judge({"hessian": (n, n)}, np.arange(n * n), hessian.ravel(), columns, rtol, atol)
    asymmetry = np.abs(hessian - hessian.T).max() > 8 * eps * np.abs(hessian).max()
    problems = ("hessian is not symmetric",) if asymmetry else ()
    return GradientReport(method, rtol, problems=problems, **results)


def _arguments(loss, theta, rtol, atol):
    """theta in the loss's arithmetic, the tolerances, and that arithmetic's eps."""
    if not callable(loss) and not hasattr(loss, "value_and_grad"):
        raise TypeError(f"loss is {checks.shown(loss)}, but must be callable or have value_and_grad")
    theta = checks.array(theta, "theta", (None,), dtype=getattr(loss, "dtype", None))
    if theta.size == 0:
        raise ValueError("theta has shape (0,), but must hold at least one entry")
    rtol = RTOL[theta.dtype] if rtol is None else checks.real(rtol, "rtol", above=0)
    atol = None if atol is None else checks.real(atol, "atol", 0)
    return theta, rtol, atol, float(np.finfo(theta.dtype).eps)


def _block_shapes(loss, theta, shapes):
    """The blocks of theta, by name."""
    if shapes is None:
        shapes = loss.shapes(theta) if hasattr(loss, "shapes") else {"theta": theta.shape}
    total = sum(int(np.prod(shape)) for shape in shapes.values())
    if total != theta.size:
        raise ValueError(f"shapes hold {total} entries, but theta has {theta.size}")
    return {name: tuple(shape) for name, shape in shapes.items()}


def _draw_entries(shapes, entries, rng):
    """Flat indices to check, ascending."""
    index, start = [], 0
    for shape in shapes.values():
        size = int(np.prod(shape))
        count = size if entries is None else min(size, checks.integer(entries, "entries"))
        index.append(start + np.sort(rng.choice(size, count, replace=False)))
        start += size
    return np.concatenate(index)


# ----------------------------------------------------------------------------- calling a stranger


class _Defect(Exception):
    """The callable cannot be checked, and why."""


def _value_and_grad(loss, theta):
    """(value, gradient) of one call on a copy of theta; raises `_Defect`."""
    given = theta.copy()
    answer = loss.value_and_grad(given) if hasattr(loss, "value_and_grad") else loss(given)
    if not np.array_equal(given, theta):
        raise _Defect("the loss changes theta in place")
    try:
        value, grad = answer
    except (TypeError, ValueError):
        raise _Defect(f"the loss returned {checks.shown(answer)}, but must return (value, grad)") from None
    if np.ndim(value) != 0 or np.asarray(value).dtype.kind not in "iuf":
        raise _Defect(f"the value is {checks.shown(value)}, but must be a real number")
    if np.shape(grad) != theta.shape:
        raise _Defect(f"the gradient has shape {np.shape(grad)}, but theta has shape {theta.shape}")
    if np.asarray(grad).dtype.kind not in "iuf":
        raise _Defect(f"the gradient has dtype {np.asarray(grad).dtype}, but must hold real numbers")
    if not np.isfinite(value):
        raise _Defect(f"the value is {value} (NaN or infinite) at a finite theta")
    if not np.isfinite(grad).all():
        first = int(np.flatnonzero(~np.isfinite(grad))[0])
        raise _Defect(f"the gradient is {grad[first]} (NaN or infinite) at index {first}")
    return float(value), grad


def _value_of(loss):
    """theta -> value, the cheapest way there is."""
    if hasattr(loss, "value"):
        return loss.value
    if hasattr(loss, "value_and_grad"):
        return lambda theta: float(loss.value_and_grad(theta)[0])
    return lambda theta: float(loss(theta)[0])


def _first_calls(loss, theta, rng):
    """(value, gradient) at theta and at a point near by, and that point."""
    value, returned = _value_and_grad(loss, theta)
    grad = np.array(returned, dtype=np.float64)
    near = theta + (2.0**-7 * _size(theta) * rng.standard_normal(theta.size)).astype(theta.dtype)
    near_value, near_grad = _value_and_grad(loss, near)
    near_grad = np.array(near_grad, dtype=np.float64)
    if not np.array_equal(np.asarray(returned, dtype=np.float64), grad):
        raise _Defect("a later call overwrites the gradient returned before: a shared buffer")
    return (value, grad), (near, near_value, near_grad)


def _last_calls(loss, theta, first, other, rtol, atol, eps):
    """What later calls give away: stale buffers, and float32 where float64 was asked for."""
    (f0, grad), (near, near_value, near_grad) = first, other
    problems = []
    _value_and_grad(loss, near)
    value, again = _value_and_grad(loss, theta)
    if abs(value - f0) > rtol * abs(f0) + 64 * eps * abs(near_value):
        problems.append(f"a later call at the same theta returned another value: {f0!r}, then {value!r}")
    if np.any(np.abs(again - grad) > atol + rtol * np.abs(grad)):
        problems.append("a later call at the same theta returned another gradient: a stale buffer?")
    beyond = _value_of(loss)(near + (near - theta))
    bend, size = beyond - 2 * near_value + f0, abs(beyond) + abs(near_value) + abs(f0)
    if np.array_equal(grad, near_grad) and abs(bend) > 256 * eps * size:
        problems.append("the gradient is the same at two points although the loss bends: a stale buffer?")
    if theta.dtype == np.float64 and not np.array_equal(grad, near_grad):
        for name, number in (("value", near_value), ("gradient", near_grad)):
            if np.any(number) and np.array_equal(number, np.float32(number)):
                problems.append(f"the {name} holds float32 numbers, though theta is float64")
    return problems


def _size(theta):
    """Typical size of the entries of theta; 1 for theta = 0."""
    return float(np.sqrt(np.mean(np.square(theta, dtype=np.float64)))) or 1.0


def _noise(function, theta, rng):
    """Rounding noise of a function at theta: rms of fourth differences along a line, over sqrt(8!)/4!.

    The smaller one of both sides of theta: a kink that happens to lie on one is no noise.
    """
    step = 2.0 ** -20 * _size(theta) * rng.standard_normal(theta.size)
    if theta.dtype == np.float32:
        step *= 2.0**8
    sides = []
    for sign in (1, -1):
        line = [function((theta + sign * i * step).astype(theta.dtype)) for i in range(1, 8)]
        sides.append(np.sqrt(np.max(np.mean(np.square(np.diff(line, 4, axis=0)), axis=0)) / 70))
    return float(min(sides))


# ---------------------------------------------------------------------------------- differences


@dataclass(frozen=True)
class _Slopes:
    """Derivatives along single entries, one an element of each array."""

    left: np.ndarray
    right: np.ndarray
    left_error: np.ndarray
    right_error: np.ndarray
    step: np.ndarray
    kink: np.ndarray
    low: np.ndarray  # left, right and what else is acceptable lie in [low, high]
    high: np.ndarray
    doubtful: np.ndarray  # ... with certainty, or else: "cannot tell"
    reach: np.ndarray  # largest slope on the way

    def __iter__(self):
        return iter(vars(self).values())


def _room(z0, z1, moved, eps):
    """How far a parameter may go before a pre-activation changes sign, from z(0) and z(moved).

    Returns (left, right, kink, mixed, dead): distances, at most ``moved``; whether a pre-activation
    that moves is zero; whether such ones turn on in both directions; and whether no others move.
    """
    rounding = 64 * eps * np.maximum(np.abs(z0).max(axis=0), np.abs(z1).max(axis=0))
    moves = np.abs(z1 - z0) > rounding
    zero = moves & (np.abs(z0) <= rounding)
    rates = (z1 - z0)[zero]
    away = moves & ~zero
    crossing = -moved * z0[away] / (z1 - z0)[away]
    right = CLEAR * np.min(crossing[crossing > 0], initial=moved / CLEAR)
    left = CLEAR * np.min(-crossing[crossing < 0], initial=moved / CLEAR)
    mixed = bool(np.any(rates > 0) and np.any(rates < 0))
    return left, right, bool(rates.size), mixed, not away.any()


def _between_crossings(value, preactivations, f0, theta, index, noise, eps):
    """Slopes of a piecewise quadratic loss: exact up to rounding."""
    z0, size, rows = preactivations(theta), _size(theta), []
    for i in index:
        far = max(1.0, size, abs(float(theta[i])))
        moved = theta.copy()
        moved[i] += far
        left, right, kink, mixed, dead = _room(z0, preactivations(moved), moved[i] - theta[i], eps)
        forward, backward = (right, right / 2), (-left, -left / 2)
        if kink:
            one, two = (_parabola(value, f0, theta, i, pair, noise, eps) for pair in (backward, forward))
        else:
            pair = min((right, -left), forward, backward, key=_amplification)
            one = two = _parabola(value, f0, theta, i, pair, noise, eps)
        low, high = min(one[0], two[0]), max(one[0], two[0])
        if kink and dead:
            low, high = min(low, 0.0, one[0] + two[0]), max(high, 0.0, one[0] + two[0])
        elif mixed:
            low, high = -np.inf, np.inf
        step, reach = max(one[2], two[2]), max(one[3], two[3])
        rows.append((one[0], two[0], one[1], two[1], step, kink, low, high, mixed and not dead, reach))
    return _Slopes(*map(np.array, zip(*rows)))


def _amplification(pair):
    """How much of the noise of the loss `_parabola` lets through."""
    p, q = map(abs, pair)
    return (q / p + p / q) / abs(pair[1] - pair[0])


def _parabola(value, f0, theta, i, pair, noise, eps):
    """Slope at 0 of the parabola through 0 and the two points; uncertainty, step, largest slope."""
    points, values = [], []
    for t in pair:
        moved = theta.copy()
        moved[i] += t
        points.append(float(moved[i]) - float(theta[i]))
        values.append(value(moved))
    (p, q), (f, g) = points, values
    if p == 0.0 or q == 0.0 or p == q:
        return np.nan, np.inf, 0.0, 0.0
    slope = ((f - f0) * q / p - (g - f0) * p / q) / (q - p)
    rounding = max(noise, 4 * eps * max(abs(f0), abs(f), abs(g)))
    reach = max(abs(f - f0) / abs(p), abs(g - f0) / abs(q))
    return slope, _amplification((p, q)) * rounding, max(abs(p), abs(q)), reach


class _Table:
    """A Richardson table for every derivative; keeps the entry of least estimated error.

    It starts from the slope ``near`` that the smallest step gives, known to within ``doubt``, and
    believes nothing that contradicts it: far from the point, differences may converge to the slope
    beyond a kink.
    """

    def __init__(self, near, doubt, ratio, step):
        self.near, self.doubt, self.ratio, self.row = near, doubt, ratio, []
        self.best, self.error, self.step = near, doubt, np.broadcast_to(step, near.shape)

    def add(self, raw, rounding, h):
        """One more row; where it is NaN, nothing changes."""
        row = [raw]
        for j, above in enumerate(self.row[: COLUMNS - 1]):
            row.append(row[j] + (row[j] - above) / (self.ratio ** (j + 1) - 1))
            error = np.maximum(np.abs(row[-1] - row[j]), np.abs(row[-1] - above)) + 4 * rounding
            better = (error < self.error) & (np.abs(row[-1] - self.near) <= self.doubt + error)
            self.best, self.error = np.where(better, row[-1], self.best), np.where(better, error, self.error)
            self.step = np.where(better, h, self.step)
        self.row = row


def _quotients(function, f0, theta, index, h, active, noise, eps):
    """Difference quotients to the left and right, shape (2, n, m), and their rounding (n, 1)."""
    raw, rounding = np.full((2, index.size, f0.size), np.nan), np.full((index.size, 1), np.inf)
    for k in np.flatnonzero(active):
        i, biggest = index[k], np.max(np.abs(f0))
        for side, sign in enumerate((-1, 1)):
            moved = theta.copy()
            moved[i] += sign * h[k, 0]
            f = function(moved)
            raw[side, k] = (f - f0) / (float(moved[i]) - float(theta[i]))
            biggest = np.fmax(biggest, np.max(np.abs(f)))
        rounding[k] = max(noise, 4 * eps * biggest) / h[k, 0]
    return raw, rounding


def _extrapolated(function, theta, index, settings):
    """Slopes of any function of theta, with values of shape (m,); the parts have shape (n, m)."""
    noise, eps, rtol, atol = settings
    f0 = function(theta.copy())
    scale = np.maximum(np.abs(theta[index], dtype=np.float64), _size(theta))[:, None]
    active = np.full(index.size, True)

    def quotients(h):
        return _quotients(function, f0, theta, index, h, active, noise, eps)

    reach = np.fmax(np.fmax(*np.abs(quotients(scale)[0])), 0.0)
    steepest = reach.max(axis=1, keepdims=True)
    enough = 1e4 * max(noise, 4 * eps * np.max(np.abs(f0))) / np.where(steepest > 0, steepest, np.inf)
    # the smallest steps: a kink nearer than this counts as being at theta
    h = np.maximum(16 * np.sqrt(eps) * scale, np.minimum(enough, scale / 64))
    (once, rounding), (twice, _), (fourfold, _) = (quotients(factor * h) for factor in (1, 2, 4))
    near, farther = 2 * once - twice, 2 * twice - fourfold
    doubt = 4 * (np.abs(near - farther) + 4 * rounding)
    kink = np.abs(near[1] - near[0]) > 2 * doubt.sum(axis=0)
    left, right = (_Table(near[side], doubt[side], 2, 2 * h) for side in (0, 1))
    both = _Table(near.mean(axis=0), np.where(kink, -np.inf, doubt.max(axis=0)), 4, 2 * h)
    both.error = np.full_like(near[0], np.inf)
    reach = np.fmax(reach, np.abs(near).max(axis=0))
    for level in range(LEVELS):
        h = scale * 2.0**-level
        raw, rounding = quotients(h)
        for table, slope in zip((left, right, both), (*raw, raw.mean(axis=0))):
            table.add(slope, rounding, h)
        least = np.minimum(np.minimum(left.error, right.error), both.error)
        error = np.where(kink, np.maximum(left.error, right.error), least)
        target = rtol * np.abs(both.best) + (rtol * reach if atol is None else atol)
        done = (error <= target / 100) | (rounding > 16 * error)
        active = active & ~(done.all(axis=1) & (level > 2))
        if not active.any():
            break
    tables = [left, right, both]
    choice = np.argmin([table.error for table in tables], axis=0)
    best, error, step = (np.choose(choice, [getattr(t, n) for t in tables]) for n in ("best", "error", "step"))
    one, two = np.where(kink, left.best, best), np.where(kink, right.best, best)
    errors = 4 * np.where(kink, [left.error, right.error], error)  # 4: the least of many is too small
    unclear = np.where(kink, doubt, np.maximum(doubt, np.abs(near[1] - near[0])))
    errors = np.where(unclear > 1e-2 * reach.max(axis=1, keepdims=True), np.maximum(errors, unclear), errors)
    step = np.where(kink, np.maximum(left.step, right.step), step)
    ends = np.stack([one, two, *np.where(kink, (0 * one, one + two), (one, two))])
    return _Slopes(one, two, *errors, step, kink, ends.min(axis=0), ends.max(axis=0), kink, reach)


def _taylor_slopes(value, f0, grad, theta, noise, rng, directions=3):
    """Order of |f(theta + h v) - f(theta) - h grad'v| as h -> 0, just above the rounding noise."""
    slopes = []
    for _ in range(directions):
        v = _size(theta) * rng.standard_normal(theta.size)
        remainders = []
        for k in range(2, 40):
            moved = theta + 2.0**-k * v
            f, linear = value(moved), grad @ (moved - theta)
            remainder = abs(f - f0 - linear)
            if remainder <= 1e3 * max(noise, 1e-15 * (abs(f) + abs(f0)) + 1e-16 * abs(linear)):
                break
            remainders.append(remainder)
        slope = np.log2(remainders[-3] / remainders[-1]) / 2 if len(remainders) > 2 else np.nan
        slopes.append(float(slope))
    return tuple(slopes)


# ------------------------------------------------------------------------------------- judgment


def _judge(shapes, index, analytic, slopes, rtol, atol):
    """Blocks, failures, unknown and worst entries, as keywords of `GradientReport`."""
    parts = {name: np.ravel(part) for name, part in vars(slopes).items()}
    overall = np.nanmax(parts["reach"], initial=0.0)
    blocks, entries, start = [], [], 0
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        here = (index >= start) & (index < start + size)
        a = np.asarray(analytic, dtype=np.float64)[here]
        part = {key: values[here] for key, values in parts.items()}
        bracket = np.sort([part["left"], part["right"]], axis=0)
        numeric, wide = np.clip(a, *bracket), np.clip(a, part["low"], part["high"])
        numeric = np.where(part["doubtful"], numeric, wide)
        leftward = np.abs(a - part["left"]) <= np.abs(a - part["right"])
        u = np.where(leftward, part["left_error"], part["right_error"])
        error, slope = np.abs(a - numeric), part["reach"]
        alive = np.any(slope > u)  # else the loss does not depend on this block at all
        floor = rtol * (np.nanmax(slope, initial=0.0) if alive else overall) if atol is None else atol
        tolerance = floor + rtol * np.abs(numeric)
        wrong = error > tolerance + u
        wrong &= ~(part["doubtful"] & (np.abs(a - wide) <= tolerance + u))
        right = (error <= tolerance) & ((u <= tolerance) | ((a == 0) & (slope == 0)))
        largest = np.maximum(np.maximum(np.abs(a), np.abs(numeric)), floor / rtol)
        relative = np.divide(error, largest, out=np.zeros_like(error), where=largest > 0)
        for k in np.flatnonzero(wrong | ~right | part["kink"] | (relative >= np.sort(relative)[-5:][0])):
            flat = int(index[here][k]) - start
            position = tuple(map(int, np.unravel_index(flat, shape)))
            verdict = WRONG if wrong[k] else OK if right[k] else UNKNOWN
            numbers = (a, numeric, part["left"], part["right"], u, part["step"], relative)
            entries.append(Entry(name, flat + start, position, *(float(x[k]) for x in numbers), verdict))
        counts = (int(np.sum(x)) for x in (wrong, ~wrong & ~right, part["kink"]))
        maxima = (float(np.nanmax(x, initial=0.0)) for x in (relative, error))
        hint = _hint(a, numeric, shape, rtol) if wrong.any() else ""
        blocks.append(Block(name, shape, a.size, *counts, *maxima, float(floor), hint))
        start += size
    entries.sort(key=lambda entry: ((OK, UNKNOWN, WRONG).index(entry.verdict), entry.rel_error), reverse=True)
    by = {verdict: tuple(e for e in entries if e.verdict == verdict) for verdict in (WRONG, UNKNOWN)}
    kinked = set(index[parts["kink"]].tolist())
    kinks = tuple(entry for entry in entries if entry.index in kinked)
    lists = {"failures": by[WRONG], "unknown": by[UNKNOWN], "worst": tuple(entries[:5]), "kinks": kinks}
    return {"blocks": tuple(blocks), **lists}


def _hint(analytic, numeric, shape, rtol):
    """A recognizable pattern in a wrong block, in words."""
    close = 1e-6 * np.max(np.abs(numeric)) + 1e3 * rtol * np.abs(numeric)
    if not np.isfinite(numeric).all():
        return ""
    if not analytic.any():
        return "analytic is exactly zero"
    factor = (analytic @ numeric) / (numeric @ numeric) if numeric.any() else 0.0
    if factor and abs(factor - 1) > 1e-6 and np.all(np.abs(analytic - factor * numeric) <= close * abs(factor)):
        return "analytic has the opposite sign" if np.isclose(factor, -1) else f"analytic is {factor:.6g} times numeric"
    whole = len(shape) == 2 and analytic.size == np.prod(shape)
    if whole and np.all(np.abs(analytic.reshape(shape[::-1]).T.ravel() - numeric) <= close):
        return "analytic is the transpose of numeric"
    wrong = np.flatnonzero(np.abs(analytic - numeric) > close)
    return "only this entry is wrong" if wrong.size == 1 else ""


# --------------------------------------------------------------------------------- command line


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message):
        self.exit(2, f"error: {message}\n")


def main(argv=None):
    """Check every loss of every architecture; the exit code is 1 where a gradient is wrong."""
    parser = _Parser(
        prog="python -m resgrad.gradcheck",
        description="Check the gradients of every architecture, on samples and in expectation, at a "
        "random point, at a kink and at the teacher, and the Hessian against the gradient. "
        "The exit code is 1 where one is wrong.",
    )
    parser.add_argument("--arch", help="one architecture; default: all")
    parser.add_argument("--d", type=int, default=4, help="input dimension and width (default: 4)")
    parser.add_argument("--seed", type=int, default=0, help="of the teacher, the points and the data")
    options = parser.parse_args(argv)
    try:
        d, seed = checks.integer(options.d, "--d"), checks.integer(options.seed, "--seed", 0)
        from .architectures import ARCHITECTURES, resolve

        archs = [resolve(options.arch)] if options.arch is not None else list(ARCHITECTURES.values())
    except ValueError as error:
        parser.error(error)
    print(f"{'architecture':<14}{'loss':<12}{'point':<9}{'checked':>7}{'kinks':>6}{'max rel error':>15}  verdict")
    failed = False
    for arch in archs:
        for loss, point, report in _reports(arch, d, seed):
            checked, kinks = (sum(getattr(b, key) for b in report.blocks) for key in ("checked", "kinks"))
            line = f"{arch.name:<14}{loss:<12}{point:<9}{checked:>7}{kinks:>6}{report.max_rel_error:>15.1e}"
            slope = f"; Taylor slope {min(report.taylor_slopes):.2f}" if report.taylor_slopes else ""
            print(f"{line}  {report.verdict}{slope}")
            if not report.ok:
                print(report)
            failed |= report.verdict == WRONG
    return int(failed)


def _reports(arch, d, seed):
    """(loss, point, report) of everything there is to check for one architecture."""
    from .architectures import Network
    from .losses import EmpiricalLoss, OnlineLoss, PopulationLoss
    from .training import dataset, draw, streams

    rng = streams(seed)
    theta_star = draw(arch, "normal", d, rng=rng.teacher)
    teacher = Network(arch, theta_star, d)
    theta = draw(arch, "normal", d, rng=rng.init)
    batch = OnlineLoss(arch, teacher).batch(20, rng.batches)
    losses = {"empirical": EmpiricalLoss(arch, *dataset(teacher, 20, rng.data)), "online": batch}
    for name, loss in (losses | {"population": PopulationLoss(arch, teacher)}).items():
        x = (loss if name in losses else batch).rows[0, :d]
        kink = theta.copy()
        W1 = arch.unflatten(kink, d)[0]
        for _ in range(2):  # the first unit's pre-activation vanishes on the first sample
            W1[:, 0] -= (x @ arch.canonical(kink, d)[0][:, 0]) / (x @ x) * x
        if d == 1:  # then the unit itself vanishes
            W1[0, 0] = -arch.identity
        for point, at in (("random", theta), ("kink", kink), ("teacher", theta_star)):
            report = check_gradient(loss, at, seed=seed)
            yield name, point, report
            if hasattr(loss, "hessian") and not any(block.kinks for block in report.blocks):
                yield "Hessian", point, check_hessian(loss, at, rtol=HESSIAN_RTOL)


if __name__ == "__main__":
    sys.exit(main())
