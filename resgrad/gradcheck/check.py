"""Gradients against differences of the loss; ``python -m resgrad.gradcheck`` runs it on everything.

Takes any loss and knows no architecture (the command line at the end does).  `check_gradient`

1. calls the loss at theta, near by, and at theta again: a wrong shape, NaN, a stale buffer or float32 in
   disguise is a *problem* of the loss as such; ``resgrad.calls`` does that;
2. takes the derivatives to the left and right along every parameter from values alone, each with its
   uncertainty; ``resgrad.differences`` says how;
3. judges every entry by them: *wrong* where it misses the tolerance by more than the uncertainty,
   *cannot tell* where the uncertainty exceeds the tolerance.  At a kink, where left and right differ,
   whatever lies between them is right.

`check_hessian` does 2 and 3 with the gradient's values.  Imports ``calls``, ``differences``, ``checks`` and
``command``; the command line also ``architectures``, ``losses`` and ``training``.
"""

from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from .. import checks
from . import calls, differences

RTOL = {np.dtype(np.float64): 1e-9, np.dtype(np.float32): 1e-4}  # of the loss's arithmetic
FOREIGN_RTOL = {np.dtype(np.float64): 1e-9, np.dtype(np.float32): 1e-2}  # without known parabolas
SMOOTH_RTOL = 1e-6  # nothing makes differences of a smooth loss exact: they end near 1e-8 of its slope
VERDICTS = OK, UNKNOWN, WRONG = "ok", "cannot tell", "wrong"
HEAD = """  worst entries; analytic: what the loss returned, numeric: differences of its values
  block         flat                analytic                 numeric   rel error  uncertainty     step"""


class Entry(NamedTuple):
    """One entry of a gradient."""

    block: str
    index: int  # flat, in theta
    position: tuple  # (row, column), in the block
    analytic: float  # what the loss returned
    numeric: float  # from its values; at a kink, the nearest number that is right
    left: float  # the one-sided derivatives, which differ only at a kink
    right: float
    uncertainty: float  # of numeric
    step: float  # the smallest used
    rel_error: float  # |analytic - numeric| / max(|analytic|, |numeric|, atol / rtol)
    verdict: str

    abs_error = property(lambda self: abs(self.analytic - self.numeric))
    kink = property(lambda self: self.left != self.right)

    def __str__(self):
        where = f"{self.block}[{', '.join(map(str, self.position))}]"
        line = f"  {where:<12}{self.index:>6} {self.analytic:>23.15g} {self.numeric:>23.15g}"
        line += f" {self.rel_error:>11.2g} {self.uncertainty:>12.2g} {self.step:>8.2g}  {self.verdict}"
        return line + f"; kink: left {self.left:.9g}, right {self.right:.9g}" * self.kink


class Block(NamedTuple):
    """One parameter block: the entries that were checked, and a pattern in the wrong ones."""

    name: str
    shape: tuple
    entries: list
    atol: float  # in force
    hint: str

    checked = property(lambda self: len(self.entries))
    kinks = property(lambda self: sum(e.kink for e in self.entries))
    max_rel_error = property(lambda self: max((e.rel_error for e in self.entries), default=0.0))
    max_abs_error = property(lambda self: max((e.abs_error for e in self.entries), default=0.0))

    def __str__(self):
        count = Counter(e.verdict for e in self.entries)
        line = f"  {self.name} {self.shape}: {self.checked} checked, {count[WRONG]} wrong, "
        line += f"{count[UNKNOWN]} cannot tell, {self.kinks} kinks; max error {self.max_rel_error:.2g} "
        line += f"relative, {self.max_abs_error:.2g} absolute (atol {self.atol:.2g})"
        return line + f"\n  hint: {self.name}: {self.hint}" * bool(self.hint)


@dataclass(frozen=True)
class GradientReport:
    """What `check_gradient` found.  ``str(report)`` is a table.

    Attributes: ``ok``; ``verdict``, which is "ok", "cannot tell" or "wrong"; ``max_rel_error``;
    ``blocks``; tuples of `Entry`, worst first: ``failures`` (the wrong ones), ``unknown`` (less certain
    than the tolerance), ``kinks``, ``worst`` (five, whatever their verdict); ``problems``, texts that
    say what is wrong with the loss as such; ``taylor_slopes``, the order at which the Taylor remainder
    vanishes along random directions if the loss is smooth: 2 for a right gradient, 1 for a wrong
    one, nan where it drowns in rounding; ``rtol``; ``method``.
    """

    method: str
    rtol: float
    blocks: tuple = ()
    problems: tuple = ()
    taylor_slopes: tuple = ()

    @cached_property
    def _ranked(self):
        entries = (entry for block in self.blocks for entry in block.entries)
        return tuple(sorted(entries, key=lambda e: (-VERDICTS.index(e.verdict), -e.rel_error)))

    failures = property(lambda self: tuple(e for e in self._ranked if e.verdict == WRONG))
    unknown = property(lambda self: tuple(e for e in self._ranked if e.verdict == UNKNOWN))
    kinks = property(lambda self: tuple(e for e in self._ranked if e.kink))
    worst = property(lambda self: self._ranked[:5])
    max_rel_error = property(lambda self: max((b.max_rel_error for b in self.blocks), default=np.nan))
    verdict = property(lambda self: WRONG if self.problems else self._ranked[0].verdict)
    ok = property(lambda self: self.verdict == OK)

    def __str__(self):
        lines = [f"gradient {self.verdict}: rtol {self.rtol:.2g}, {self.method}"]
        lines += [f"  problem: {problem}" for problem in self.problems]
        lines += map(str, self.blocks)
        if self.taylor_slopes:
            slopes = ", ".join(f"{slope:.2f}" for slope in self.taylor_slopes)
            lines.append(f"  Taylor remainder falls like h^p, p = {slopes} (2: right, 1: wrong)")
        if self.blocks:
            kinks = (entry for entry in self.kinks[:5] if entry not in self.worst)
            lines += [HEAD, *map(str, (*self.worst, *kinks))]
        return "\n".join(lines)


def check_gradient(loss, theta, *, rtol=None, atol=None, shapes=None, smooth=None, entries=None, seed=0):
    """Check a gradient against differences of the loss.

    Parameters
    ----------
    loss : callable or object
        ``loss(theta) -> (value, grad)``, or an object with ``value_and_grad(theta)``.  Where it also
        has ``values(theta)`` (N,) and ``preactivations(theta)`` (N, k), it is taken to be the mean of
        the former, each a parabola in every entry of theta until the one pre-activation of that sample
        which the entry moves changes sign.
    theta : array_like, shape (n,)
    rtol, atol : float, optional
        As in `numpy.isclose`: an entry agrees where |analytic - numeric| <= atol + rtol |numeric|.
        ``rtol`` is 1e-9 unless given (1e-6 for a smooth loss, one with a ``hessian`` and no
        ``preactivations``; in float32 1e-4, without ``preactivations`` 1e-2), ``atol`` is ``rtol`` times the
        largest slope seen in the block: what cancels to zero is compared with what does not.
    shapes : dict of str to tuple, optional
        Parameter blocks in their order in theta; ``loss.shapes(theta)`` unless given, else one.
    smooth : bool, optional
        Whether to look at Taylor remainders too; unless given, whether there is a ``loss.hessian``.
    entries, seed : int, optional
        Check that many entries of each block, drawn at random with that seed, instead of all.

    Returns
    -------
    GradientReport

    Raises
    ------
    ValueError, TypeError
        For arguments out of range.  A defect of ``loss`` is reported, not raised.

    Notes
    -----
    Differences see no bend within 1e-9 of the size of theta: with a unit as small as that a loss in
    expectation may be misjudged.

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
    call = getattr(loss, "value_and_grad", loss)
    value = calls.careful(getattr(loss, "value", lambda theta: call(theta)[0]), "value", ())
    sampled = _sampled(loss)
    method = "parabolas, sample by sample" if sampled else "extrapolated differences"
    rounding = 512 * np.finfo(theta.dtype).eps
    with np.errstate(all="ignore"):
        try:
            f0, grad, problems = calls.answers(call, theta, rtol, rng)
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
        blocks = _judge(shapes, index, grad[index], slopes, rtol, atol)
        smooth = hasattr(loss, "hessian") and not sampled if smooth is None else smooth
        if smooth and not any(block.kinks for block in blocks):
            taylor = differences.taylor_slopes(value, f0, grad, theta, noise, rng)
    report = GradientReport(method, rtol, blocks, tuple(problems), taylor)
    # a cusp too fine to see has slope 1, too: where every entry was found right, it is not the gradient
    if taylor and max(taylor) < 1.2 and not (report.ok and index.size == theta.size):
        wrong = f"the Taylor remainder falls like h^{max(taylor):.2f}, not h^2: wrong gradient"
        report = replace(report, problems=(*problems, wrong))
    return report


def check_hessian(loss, theta, *, rtol=None, atol=None):
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
        Its one block is ``hessian``; an entry's flat index counts row by row.

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
    eps = np.finfo(theta.dtype).eps
    with np.errstate(all="ignore"):
        try:
            hessian = calls.finite(calls.careful(loss.hessian, "hessian", (n, n))(theta), "hessian")
            grad = calls.careful(loss.grad, "gradient", (n,))
            noise = differences.rounding_noise(grad, theta, np.random.default_rng(0))
            slopes = differences.slopes(grad, theta, np.arange(n), noise, 512 * eps / rtol)
        except calls.Defect as defect:
            return GradientReport(method, rtol, problems=(str(defect),))
        slopes = (part.T for part in slopes)
        blocks = _judge({"hessian": (n, n)}, np.arange(n**2), hessian.ravel(), slopes, rtol, atol)
    asymmetry = np.abs(hessian - hessian.T).max() > 8 * eps * np.abs(hessian).max()
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


def _judge(shapes, index, analytic, slopes, rtol, atol):
    """The blocks, every entry judged."""
    slopes = differences.Slopes(*map(np.ravel, slopes))
    scale, blocks, start = np.nan_to_num(slopes.scale, nan=0.0, posinf=0.0), [], 0
    for name, shape in shapes.items():
        end = start + int(np.prod(shape))
        here = slice(*np.searchsorted(index, (start, end)))
        alive = np.any(scale[here] > slopes.error[here])  # else the block does nothing
        floor = rtol * float(np.max(scale[here] if alive else scale)) if atol is None else atol
        columns = (x[here].tolist() for x in (index, np.ravel(analytic), *slopes))
        entries = []
        for i, a, left, right, off, u, step, terms in zip(*columns):
            ends = [x for x in (left, right, off) if x == x] or [np.nan]
            numeric = min(max(a, min(ends)), max(ends))
            miss, tolerance = abs(a - numeric), floor + rtol * abs(numeric)
            agrees = miss <= tolerance and (u <= tolerance or a == terms == 0)
            excused = off != off and a == 0 and left != right  # relu'(0) = 0 of units that are off?
            verdict = OK if agrees else WRONG if miss > tolerance + u and not excused else UNKNOWN
            relative = miss / (max(abs(a), abs(numeric), floor / rtol) or 1.0) if miss == miss else np.inf
            position = tuple(map(int, np.unravel_index(i - start, shape)))
            entries.append(Entry(name, i, position, a, numeric, left, right, u, step, relative, verdict))
        hint = _hint(entries, shape, rtol) if any(e.verdict == WRONG for e in entries) else ""
        blocks.append(Block(name, tuple(shape), entries, floor, hint))
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
        multiple = f"is {factor:.6g} times numeric"
        return "analytic " + ("has the opposite sign" if np.isclose(factor, -1) else multiple)
    whole = len(shape) == 2 and analytic.size == np.prod(shape)
    if whole and np.all(np.abs(analytic.reshape(shape[::-1]).T.ravel() - numeric) <= close):
        return "analytic is the transpose of numeric"
    return "only this entry is wrong" if sum(e.verdict == WRONG for e in entries) == 1 else ""
