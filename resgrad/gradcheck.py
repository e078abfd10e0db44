"""Gradients against differences of the loss; ``python -m resgrad.gradcheck`` runs it on everything.

Takes any loss and knows no architecture (the command line at the end does).  `check_gradient`

1. calls the loss at theta, near by, and at theta again: wrong shapes, NaN, stale buffers and float32 in
   disguise are *problems* of the loss as such;
2. takes the derivatives to the left and right along every parameter from values of the loss alone,
   each with its uncertainty; how, says ``resgrad.differences``;
3. judges every entry by them.  It is *wrong* where it misses the tolerance by more than the
   uncertainty, and *cannot tell* where the uncertainty exceeds the tolerance.  At a kink, where left
   and right differ, anything between them is right.

`check_hessian` does the same with differences of the gradient.  Imports ``differences``, ``checks``;
the command line also ``architectures``, ``losses``, ``training``.
"""

import argparse
import sys
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from . import checks, differences
from .differences import ALONE, FOREIGN, SIMPLE

RTOL = {np.dtype(np.float64): 1e-9, np.dtype(np.float32): 1e-2}  # of the loss's arithmetic
VERDICTS = OK, UNKNOWN, WRONG = "ok", "cannot tell", "wrong"


class Entry(NamedTuple):
    """One entry of a gradient."""

    block: str
    index: int  # in theta, flat
    position: tuple  # in the block: (row, column)
    analytic: float  # what the loss returned
    numeric: float  # from its values; at a kink, the acceptable number nearest to ``analytic``
    left: float  # one-sided derivatives: equal, except at a kink
    right: float
    uncertainty: float  # of ``numeric``
    step: float  # smallest step used
    rel_error: float  # |analytic - numeric| / max(|analytic|, |numeric|, atol / rtol)
    verdict: str  # ok, cannot tell, wrong

    def __str__(self):
        where = f"{self.block}[{', '.join(map(str, self.position))}]"
        line = f"{where:<12}{self.index:>6}  {self.analytic:>22.15g}  {self.numeric:>22.15g}"
        line += f"  {self.rel_error:9.2g}  {self.uncertainty:11.2g}  {self.step:7.2g}  {self.verdict}"
        kink = f"; kink: left {self.left:.9g}, right {self.right:.9g}"
        return line + kink if self.left != self.right else line


class Block(NamedTuple):
    """The entries of one parameter block that were checked, and what they have in common."""

    name: str
    shape: tuple
    entries: list
    atol: float  # in force
    hint: str  # a pattern in wrong entries

    checked = property(lambda self: len(self.entries))
    kinks = property(lambda self: sum(e.left != e.right for e in self.entries))
    max_rel_error = property(lambda self: max(e.rel_error for e in self.entries))
    max_abs_error = property(lambda self: max(abs(e.analytic - e.numeric) for e in self.entries))

    def __str__(self):
        wrong, unknown = (sum(e.verdict == verdict for e in self.entries) for verdict in (WRONG, UNKNOWN))
        return (
            f"{self.name:<8} {self.shape!s:<12} {self.checked} checked, {wrong} wrong, "
            f"{unknown} cannot tell, {self.kinks} kinks; max error "
            f"{self.max_rel_error:.2g} relative, {self.max_abs_error:.2g} absolute (atol {self.atol:.2g})"
        )


@dataclass(frozen=True)
class GradientReport:
    """What `check_gradient` found.  ``str(report)`` is a table.

    Attributes
    ----------
    ok, verdict : bool, {"ok", "cannot tell", "wrong"}
        ``ok``: every entry was decided and is right, and there are no problems.
    max_rel_error : float
    blocks : tuple of Block
        Each with ``checked``, ``kinks``, ``max_rel_error``, ``max_abs_error``, ``hint``, ``entries``.
    failures, unknown, worst, kinks : tuple of Entry
        The wrong entries; those less certain than the tolerance; the five worst, whatever their
        verdict; those with a kink at theta.  Worst first.
    problems : tuple of str
        What is wrong with the loss as such.
    taylor_slopes : tuple of float
        Order at which the Taylor remainder vanishes along random directions: 2 for a right
        gradient, 1 for a wrong one, nan where it drowns in rounding.  Smooth losses only.
    rtol, method : float, str
    """

    method: str
    rtol: float
    blocks: tuple = ()
    problems: tuple = ()
    taylor_slopes: tuple = ()

    @cached_property
    def _ranked(self):
        entries = [entry for block in self.blocks for entry in block.entries]
        return tuple(sorted(entries, key=lambda e: (VERDICTS.index(e.verdict), e.rel_error), reverse=True))

    failures = property(lambda self: tuple(e for e in self._ranked if e.verdict == WRONG))
    unknown = property(lambda self: tuple(e for e in self._ranked if e.verdict == UNKNOWN))
    kinks = property(lambda self: tuple(e for e in self._ranked if e.left != e.right))
    worst = property(lambda self: self._ranked[:5])
    max_rel_error = property(lambda self: max((b.max_rel_error for b in self.blocks), default=np.nan))
    ok = property(lambda self: self.verdict == OK)

    @property
    def verdict(self):
        if self.problems or not self._ranked:
            return WRONG
        return self._ranked[0].verdict

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
            lines += [f"  {entry}" for entry in (*self.worst, *self.kinks[:5])]
        return "\n".join(dict.fromkeys(lines))  # a kink may be among the worst


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

    Raises
    ------
    ValueError, TypeError
        For arguments out of range.  A defect of ``loss`` is reported, not raised.

    Notes
    -----
    If pre-activations that are zero turn on to the left and others to the right, the chain rule with
    relu'(0) = 0, as in PyTorch and JAX, may leave the bracket of the one-sided derivatives.  It is
    accepted where those are all that the entry moves (a unit that is off altogether: 0, or the sum
    of both sides), and else *cannot tell*.

    Examples
    --------
    >>> import numpy as np, resgrad as rg
    >>> X = np.random.default_rng(0).normal(size=(20, 3))
    >>> loss = rg.EmpiricalLoss("li", X, Y=np.ones(20))
    >>> rg.check_gradient(loss, np.full(9, 0.1)).ok
    True
    >>> report = rg.check_gradient(lambda t: (t @ t, 4 * t), np.ones(3))
    >>> report.ok, report.blocks[0].hint
    (False, 'analytic is 2 times numeric')
    """
    theta, rtol, atol = _arguments(loss, theta, rtol, atol)
    rng = np.random.default_rng(checks.integer(seed, "seed", 0))
    shapes = loss.shapes(theta) if shapes is None and hasattr(loss, "shapes") else shapes
    shapes = {"theta": theta.shape} if shapes is None else shapes
    index = _indices(shapes, theta, entries, rng)
    sampled = hasattr(loss, "preactivations")
    method = "differences between crossings" if sampled else "extrapolated differences"
    with np.errstate(all="ignore"):
        try:
            f0, grad, problems = _call_thrice(loss, theta, rtol, rng)
        except _Defect as defect:
            return GradientReport(method, rtol, problems=(str(defect),))
        value = _value_of(loss)
        noise = differences.rounding_noise(value, theta, rng)
        if sampled:
            first, kinds = differences.crossings(loss.preactivations, theta, index)
        else:
            first, kinds = _first_steps(theta, index), [FOREIGN] * index.size
        slopes = differences.slopes(value, theta, index, first, noise)
        blocks = _judge(shapes, index, grad[index], slopes, kinds, rtol, atol)
        taylor = ()
        smooth = not sampled and hasattr(loss, "hessian") if smooth is None else smooth
        if smooth and not any(block.kinks for block in blocks):
            taylor = differences.taylor_slopes(value, f0, grad, theta, noise, rng)
    if any(slope < 1.5 for slope in taylor):
        problems.append(f"the Taylor remainder falls like h^{np.nanmin(taylor):.2f}, not h^2: wrong gradient")
    report = GradientReport(method, rtol, blocks, tuple(problems), taylor)
    if report.unknown and theta.dtype == np.float64 and noise > 1e-11 * abs(f0):
        problems.append(f"values carry noise of {noise / abs(f0):.1g} of their size: float32 arithmetic?")
    return replace(report, problems=tuple(problems))


def check_hessian(loss, theta, *, rtol=None, atol=None):
    """Check ``loss.hessian(theta)``, shape (n, n), against differences of ``loss.grad``.

    Parameters and returns are those of `check_gradient`; the one block is ``hessian``, and an
    entry's flat index counts row by row.

    Examples
    --------
    >>> import numpy as np, resgrad as rg
    >>> loss = rg.PopulationLoss("li", rg.Network("li", np.full(4, 0.1), d=2))
    >>> rg.check_hessian(loss, np.zeros(4)).ok
    True
    """
    theta, rtol, atol = _arguments(loss, theta, rtol, atol)
    n, method = theta.size, "extrapolated differences of the gradient"
    with np.errstate(all="ignore"):
        hessian = np.asarray(loss.hessian(theta.copy()))
        if hessian.shape != (n, n) or not np.isfinite(hessian).all():
            problem = f"hessian has shape {hessian.shape}, but must be a finite ({n}, {n})"
            return GradientReport(method, rtol, problems=(problem,))
        noise, every = differences.rounding_noise(loss.grad, theta, np.random.default_rng(0)), np.arange(n)
        slopes = differences.slopes(loss.grad, theta, every, _first_steps(theta, every), noise)
        slopes = differences.Slopes(*(part.T for part in slopes))  # row by row
        kinds = [FOREIGN] * n**2
        blocks = _judge({"hessian": (n, n)}, np.arange(n**2), hessian.ravel(), slopes, kinds, rtol, atol)
    asymmetry = np.abs(hessian - hessian.T).max() > 8 * np.finfo(theta.dtype).eps * np.abs(hessian).max()
    return GradientReport(method, rtol, blocks, ("hessian is not symmetric",) if asymmetry else ())


def _arguments(loss, theta, rtol, atol):
    """theta in the loss's arithmetic, and the tolerances."""
    if not callable(loss) and not hasattr(loss, "value_and_grad"):
        raise TypeError(f"loss is {checks.shown(loss)}, but must be callable or have value_and_grad")
    theta = checks.array(theta, "theta", (None,), dtype=getattr(loss, "dtype", None))
    if theta.size == 0:
        raise ValueError("theta has shape (0,), but must hold at least one entry")
    rtol = RTOL[theta.dtype] if rtol is None else checks.real(rtol, "rtol", above=0)
    return theta, rtol, None if atol is None else checks.real(atol, "atol", 0)


def _indices(shapes, theta, entries, rng):
    """Flat indices to check, ascending."""
    sizes = [int(np.prod(shape)) for shape in shapes.values()]
    if sum(sizes) != theta.size:
        raise ValueError(f"shapes hold {sum(sizes)} entries, but theta has {theta.size}")
    if entries is None:
        return np.arange(theta.size)
    most, starts = checks.integer(entries, "entries"), np.cumsum([0, *sizes])
    draws = (start + rng.permutation(size)[:most] for start, size in zip(starts, sizes))
    return np.sort(np.concatenate(list(draws)))


def _first_steps(theta, index):
    """To either side, where nothing is known about the loss."""
    return np.tile(np.maximum(np.abs(theta[index], dtype=float), differences.size(theta)), (2, 1))


class _Defect(Exception):
    """The loss cannot be checked, and why."""


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


def _call_thrice(loss, theta, rtol, rng):
    """(value, gradient, problems) at theta, near by, and at theta again; raises `_Defect`."""
    value, returned = _value_and_grad(loss, theta)
    grad = np.array(returned, dtype=np.float64)
    scale = np.where(theta == 0, differences.size(theta), np.abs(theta))
    near = (theta + 2.0**-7 * scale * rng.standard_normal(theta.size)).astype(theta.dtype)
    near_value, near_grad = _value_and_grad(loss, near)
    near_grad = np.array(near_grad, dtype=np.float64)
    if not np.array_equal(returned, grad):
        raise _Defect("a later call overwrites the gradient returned before: a shared buffer")
    again, again_grad = _value_and_grad(loss, theta)
    problems, rounding = [], 256 * np.finfo(theta.dtype).eps * (abs(value) + abs(near_value))
    if abs(again - value) > rtol * abs(value) + rounding:
        problems.append(f"a later call at the same theta returned another value: {value!r}, then {again!r}")
    if not np.allclose(again_grad, grad, rtol, rtol * np.abs(grad).max()):
        problems.append("a later call at the same theta returned another gradient: a stale buffer?")
    moved, rise = near - theta, near_value - value
    if not np.array_equal(grad, near_grad):
        for name, number in (("value", near_value), ("gradient", near_grad)):
            if theta.dtype == np.float64 and np.any(number) and np.array_equal(number, np.float32(number)):
                problems.append(f"the {name} holds float32 numbers, though theta is float64")
    elif abs(rise - grad @ moved) > rounding + rtol * np.abs(grad) @ np.abs(moved):
        problems.append("the gradient is the same at two points, but not what leads there: a stale buffer?")
    return value, grad, problems


def _value_of(loss):
    """theta -> value, the cheapest way there is."""
    if hasattr(loss, "value"):
        return loss.value
    call = getattr(loss, "value_and_grad", loss)
    return lambda theta: float(call(theta)[0])


def _judge(shapes, index, analytic, slopes, kinds, rtol, atol):
    """The blocks, every entry judged."""
    slopes = differences.Slopes(*map(np.ravel, slopes))
    blocks, start = [], 0
    for name, shape in shapes.items():
        end = start + int(np.prod(shape))
        here = slice(*np.searchsorted(index, (start, end)))
        reach = slopes.reach[here]
        alive = np.any(reach > slopes.error[here])  # else the loss does not depend on this block at all
        floor = rtol * float(np.max(reach if alive else slopes.reach)) if atol is None else atol
        rows = zip(index[here].tolist(), analytic[here].tolist(), *(part[here].tolist() for part in slopes))
        entries = []
        for (i, a, left, right, error, step, reach), kind in zip(rows, kinds[here]):
            numeric, certain = _acceptable(a, left, right, kind)
            miss, tolerance = abs(a - numeric), floor + rtol * abs(numeric)
            largest = max(abs(a), abs(numeric), floor / rtol)
            if miss > tolerance + error:
                verdict = WRONG if certain else UNKNOWN
            else:  # reach 0: the loss does not depend on this entry
                verdict = OK if miss <= tolerance and (error <= tolerance or a == reach == 0) else UNKNOWN
            position = tuple(map(int, np.unravel_index(i - start, shape)))
            relative = miss / largest if largest else 0.0
            entries.append(Entry(name, i, position, a, numeric, left, right, error, step, relative, verdict))
        hint = _hint(entries, shape, rtol) if any(e.verdict == WRONG for e in entries) else ""
        blocks.append(Block(name, tuple(shape), entries, floor, hint))
        start = end
    return tuple(blocks)


def _acceptable(a, left, right, kind):
    """The acceptable number nearest to ``a``, and whether others are certainly wrong.

    Of pre-activations that are zero at theta, the chain rule takes the share relu'(0) in [0, 1]: if
    the rest of the slope is r, it gives a number between r and left + right - r.  That lies between left and
    right if all of them turn on to one side (`SIMPLE`); else r is 0 (`ALONE`) or unknown.
    """
    bracket, wide = (left, right), (left, right, 0.0, left + right)
    if kind == ALONE:
        bracket = wide
    certain = kind in (SIMPLE, ALONE) or kind == FOREIGN and (left == right or not min(wide) <= a <= max(wide))
    return min(max(a, min(bracket)), max(bracket)), certain


def _hint(entries, shape, rtol):
    """A recognizable pattern in a wrong block, in words."""
    analytic, numeric = np.array([(e.analytic, e.numeric) for e in entries]).T
    close = 1e-6 * np.max(np.abs(numeric)) + 1e3 * rtol * np.abs(numeric)
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
                yield "Hessian", point, check_hessian(loss, at)


if __name__ == "__main__":
    sys.exit(main())
