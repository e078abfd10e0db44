"""Gradients against differences of the loss, for any loss.  `check_gradient` works in three steps.

1. It calls the loss at theta, near by, and at theta again.  A wrong shape, a NaN, a stale buffer or hidden float32
   is a *problem* of the loss as such.  The module ``calls`` does this.
2. It takes the derivatives to the left and right along every parameter, each with its uncertainty, from values
   alone.  The module ``differences`` says how.
3. It judges every entry.  An entry is *ok* where it and the uncertainty are within the tolerance.  It is *wrong*
   where it misses the tolerance by more than the uncertainty allows.  Of any other the checker *cannot tell*.
   At a kink left and right differ, and whatever lies between them is right.

`check_hessian` does steps 2 and 3 with the values of the gradient.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt

from .. import checks
from . import calls, differences
from .report import OK, UNKNOWN, WRONG, Block, Entry, GradientReport

RTOL = {np.dtype(np.float64): 1e-9, np.dtype(np.float32): 1e-4}  # of the loss's arithmetic
FOREIGN_RTOL = {np.dtype(np.float64): 1e-9, np.dtype(np.float32): 1e-2}  # of a loss without ``preactivations``
SMOOTH_RTOL = 1e-6  # differences of a smooth loss are never exact: their error is near 1e-8 of its slope


def check_gradient(
    loss: Callable | object, theta: npt.ArrayLike, *, rtol: float | None = None, atol: float | None = None,
    shapes: Mapping[str, tuple] | None = None, smooth: bool | None = None, entries: int | None = None, seed: int = 0,
) -> GradientReport:  # fmt: skip
    """Check a gradient against differences of the loss.

    Parameters
    ----------
    loss : callable or object
        ``loss(theta) -> (value, grad)``, or an object with ``value_and_grad(theta)``.  If it also has
        ``values(theta)`` (N,) and ``preactivations(theta)`` (N, k), it must be the mean of the values.  Along an
        entry of theta each value must be a parabola until the one pre-activation that the entry moves changes sign.
    theta : array_like, shape (n,)
    rtol, atol : float, optional
        As in `numpy.isclose`: an entry agrees where |analytic - numeric| <= atol + rtol |numeric|.
        ``rtol`` is 1e-9 by default, and 1e-6 for a smooth loss, which has a ``hessian`` and no ``preactivations``.
        In float32 it is 1e-4, and 1e-2 without ``preactivations``.
        ``atol`` is ``rtol`` times the largest slope in the block: what cancels to zero is compared with what does
        not.  The slope of an entry far smaller than the others counts less, in proportion to its size.
    shapes : dict of str to tuple, optional
        Parameter blocks in their order in theta.  Default: ``loss.shapes(theta)``, or one block.
    smooth : bool, optional
        Whether to look at Taylor remainders, too.  Default: whether there is a ``loss.hessian``.
    entries, seed : int, optional
        Check that many entries of each block, drawn at random with that seed.  Default: all.

    Returns
    -------
    GradientReport

    Raises
    ------
    ValueError, TypeError
        For arguments out of range.  A defect of ``loss`` is reported, not raised.

    Notes
    -----
    The loss may have a domain: where it raises, or its answer is complex, not finite or no pair, there is no value to
    compare with.  At the border of the domain the derivative from inside counts.

    "Cannot tell" is the answer where kinks lie too dense for the arithmetic, as in a deep network over many samples.
    Differences see no bend within 1e-9 of the size of theta or of the entry.  With a unit as small as that, a loss
    in expectation may be misjudged.

    Examples
    --------
    >>> import numpy as np, resgrad as rg
    >>> X = np.random.default_rng(0).normal(size=(20, 3))
    >>> rg.check_gradient(rg.EmpiricalLoss("li", X, Y=np.ones(20)), np.full(9, 0.1)).ok
    True
    >>> report = rg.check_gradient(lambda t: (t @ t, 4 * t), np.ones(3))
    >>> report.ok, report.blocks[0].hint
    (False, 'analytic is 2 times numeric')
    """
    if not callable(loss) and not hasattr(loss, "value_and_grad"):
        raise TypeError(f"loss is {checks.shown(loss)}, but must be callable or have value_and_grad")
    theta, rtol, atol = _arguments(loss, theta, rtol, atol)
    rng = np.random.default_rng(checks.integer(seed, "seed", 0))
    if shapes is None:
        shapes = loss.shapes(theta) if hasattr(loss, "shapes") else {"theta": theta.shape}
    index = _indices(shapes, theta, entries, rng)
    call, sampled = getattr(loss, "value_and_grad", loss), _sampled(loss)
    method = "parabolas, sample by sample" if sampled else "extrapolated differences"
    rounding = 512 * np.finfo(theta.dtype).eps
    with np.errstate(all="ignore"):
        try:
            f0, grad, problems = calls.answers(call, theta, rtol, rng)
            value = getattr(loss, "value", lambda theta: calls.value_and_grad(call, theta)[0])
            value = calls.careful(value, "value", (), theta)
            noise, taylor = differences.rounding_noise(value, theta, rng), ()
            if sampled:
                values, preactivations = calls.sample(loss, theta)
                mean = np.mean(values(theta))
                if not np.isclose(mean, f0, rtol=rounding, atol=0):
                    problems.append(f"values(theta) have mean {mean}, but the value is {f0}")
                slopes = differences.sample_slopes(values, preactivations, theta, index, rounding / rtol)
            else:
                slopes = differences.slopes(value, theta, index, noise, rounding / rtol)
        except calls.Defect as defect:
            return GradientReport(method, rtol, problems=(str(defect),))
        weight, beyond = differences.weight(theta)[index], 1 if sampled else differences.BEYOND
        blocks = _judge(shapes, index, grad[index], slopes, weight, rtol, atol, beyond)
        smooth = hasattr(loss, "hessian") and not sampled if smooth is None else smooth
        order = partial(differences.taylor_slopes, value, f0, grad, theta, noise, rng)
        if smooth and not any(block.kinks for block in blocks):
            taylor = order()
        report = GradientReport(method, rtol, blocks, tuple(problems), taylor)
        # a kink too near to see has slope 1, too, but half of all directions do not cross it; a cusp is in each of
        # them, but where every entry was found right, it is not the gradient
        suspect = taylor and max(taylor) < 1.2 and not (report.ok and index.size == theta.size)
        if suspect and all(max(order()) < 1.2 for _ in range(3)):
            wrong = f"the Taylor remainder falls like h^{max(taylor):.2f}, not h^2: wrong gradient"
            report = replace(report, problems=(*problems, wrong))
    return report


def check_hessian(
    loss: object, theta: npt.ArrayLike, *, rtol: float | None = None, atol: float | None = None
) -> GradientReport:
    """Check ``loss.hessian(theta)``, shape (n, n), against differences of ``loss.grad``.

    Parameters
    ----------
    loss : object
        With ``grad(theta)`` and ``hessian(theta)``.
    theta, rtol, atol
        As for `check_gradient`.

    Returns
    -------
    GradientReport
        It has one block, ``hessian``.  The flat index of an entry counts row by row.

    Raises
    ------
    ValueError, TypeError
        As `check_gradient`, and for a loss without a Hessian.

    Examples
    --------
    >>> import numpy as np, resgrad as rg
    >>> loss = rg.PopulationLoss("li", rg.Network("li", np.full(4, 0.5), d=2))
    >>> rg.gradcheck.check_hessian(loss, np.array([0.3, 0.1, -0.2, 0.4])).verdict
    'ok'
    """
    if not hasattr(loss, "hessian") or not hasattr(loss, "grad"):
        raise TypeError(f"loss is {checks.shown(loss)}, but must have grad and hessian")
    theta, rtol, atol = _arguments(loss, theta, rtol, atol)
    n, method = theta.size, "extrapolated differences of the gradient"
    with np.errstate(all="ignore"):
        try:
            hessian = calls.careful(loss.hessian, "hessian", (n, n), theta)(theta)
            grad = calls.careful(loss.grad, "gradient", (n,), theta)
            noise = differences.rounding_noise(grad, theta, np.random.default_rng(0))
            slopes = differences.slopes(grad, theta, np.arange(n), noise, 512 * np.finfo(theta.dtype).eps / rtol)
        except calls.Defect as defect:
            return GradientReport(method, rtol, problems=(str(defect),))
        slopes, weight = (part.T for part in slopes), np.outer(*2 * [differences.weight(theta)]).ravel()
        index, shapes = np.arange(n**2), {"hessian": (n, n)}
        blocks = _judge(shapes, index, hessian.ravel(), slopes, weight, rtol, atol, differences.BEYOND)
    asymmetry = np.abs(hessian - hessian.T).max() > rtol * np.abs(hessian).max()
    return GradientReport(method, rtol, blocks, ("hessian is not symmetric",) if asymmetry else ())


def _arguments(loss, theta, rtol, atol):
    """theta in the loss's arithmetic, and the tolerances."""
    theta = checks.array(theta, "theta", ("n",), dtype=getattr(loss, "dtype", None))
    if theta.size == 0:
        raise ValueError("theta has shape (0,), but must hold at least one entry")
    if rtol is None:
        rtol = RTOL[theta.dtype]
        if not _sampled(loss):
            rtol = max(rtol, FOREIGN_RTOL[theta.dtype], SMOOTH_RTOL if hasattr(loss, "hessian") else 0.0)
    rtol = checks.real(rtol, "rtol", above=0)
    return theta, rtol, None if atol is None else checks.real(atol, "atol", 0)


def _sampled(loss):
    return hasattr(loss, "values") and hasattr(loss, "preactivations")


def _indices(shapes, theta, entries, rng):
    """Flat indices to check, ascending."""
    try:
        sizes = [int(np.prod(tuple(shape))) for shape in shapes.values()]
    except (AttributeError, TypeError):
        raise TypeError(f"shapes is {checks.shown(shapes)}, but must map names to shapes") from None
    if sum(sizes) != theta.size:
        raise ValueError(f"shapes hold {sum(sizes)} entries, but theta has {theta.size}")
    most, ends = theta.size if entries is None else checks.integer(entries, "entries"), np.cumsum(sizes)
    return np.concatenate([np.sort(end - 1 - rng.permutation(n)[:most]) for n, end in zip(sizes, ends)])


def _judge(shapes, index, analytic, slopes, weight, rtol, atol, beyond):
    """The blocks, every entry judged; no derivative lies more than ``beyond`` uncertainties away."""
    slopes = differences.Slopes(*map(np.ravel, slopes))
    scale, blocks, start = np.nan_to_num(slopes.scale, nan=0.0, posinf=0.0), [], 0
    for name, shape in shapes.items():
        end = start + int(np.prod(shape))
        here = slice(*np.searchsorted(index, (start, end)))
        known = here if np.any(scale[here] > slopes.error[here]) else slice(None)  # else the block does nothing
        largest, weighted = np.max(scale[known]), np.max(scale[known] * weight[known])
        floors = rtol * np.fmin(largest, weighted / weight[here]) if atol is None else np.full(weight[here].shape, atol)
        columns = (x[here].tolist() for x in (index, np.ravel(analytic), *slopes))
        entries = []
        for i, a, left, right, off, u, step, terms, floor in zip(*columns, floors.tolist()):
            ends = [x for x in (left, right, off) if x == x] or [np.nan]
            numeric = min(max(a, min(ends)), max(ends))
            miss, tolerance = abs(a - numeric), floor + rtol * abs(numeric)
            agrees = miss <= tolerance and (u <= tolerance or a == terms == 0)
            excused = off != off and a == 0 and left != right  # relu'(0) = 0 of units that are off?
            verdict = OK if agrees else WRONG if miss > tolerance + beyond * u and not excused else UNKNOWN
            relative = miss / (max(abs(a), abs(numeric), floor / rtol) or 1.0) if miss == miss else np.inf
            position = tuple(map(int, np.unravel_index(i - start, shape)))
            entries.append(Entry(name, i, position, a, numeric, left, right, u, step, relative, verdict))
        hint = _hint(entries, shape, rtol) if any(e.verdict == WRONG for e in entries) else ""
        blocks.append(Block(name, tuple(shape), entries, float(floors.max()), hint))
        start = end
    return tuple(blocks)


def _hint(entries, shape, rtol):
    """A recognizable pattern in a wrong block, in words."""
    analytic, numeric = np.array([(e.analytic, e.numeric) for e in entries]).T
    close = 1e-6 * np.max(np.abs(numeric)) + 1e3 * rtol * np.abs(numeric)
    if not analytic.any():
        return "analytic is exactly zero"
    factor = (analytic @ numeric) / (numeric @ numeric) if numeric.any() else 0.0
    if abs(factor - 1) > 1e-6 and np.all(np.abs(analytic - factor * numeric) <= close * abs(factor)):
        return "analytic has the opposite sign" if np.isclose(factor, -1) else f"analytic is {factor:.6g} times numeric"
    whole = len(shape) == 2 and analytic.size == np.prod(shape)
    if whole and np.all(np.abs(analytic.reshape(shape[::-1]).T.ravel() - numeric) <= close):
        return "analytic is the transpose of numeric"
    return "only this entry is wrong" if sum(e.verdict == WRONG for e in entries) == 1 else ""
