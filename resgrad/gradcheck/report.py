"""The result of a check: records that print as a table.  Imports nothing of resgrad."""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

VERDICTS = OK, UNKNOWN, WRONG = "ok", "cannot tell", "wrong"
HEAD = """  worst entries; analytic: what the loss returned, numeric: differences of its values
  block         flat                analytic                 numeric   rel error  uncertainty     step"""


class Entry(NamedTuple):
    """One entry of a gradient."""

    block: str
    index: int  # flat, in theta
    position: tuple[int, ...]  # (row, column), in the block
    analytic: float  # what the loss returned
    numeric: float  # from its values; at a kink, the nearest number that is right
    left: float  # the one-sided derivatives, which differ only at a kink
    right: float
    uncertainty: float  # of numeric, an estimate
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
    """One parameter block: the entries checked, and a pattern in the wrong ones."""

    name: str
    shape: tuple[int, ...]
    entries: list[Entry]
    atol: float  # the largest in force
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
    """The result of `check_gradient`; ``str(report)`` is a table.

    Attributes
    ----------
    ok : bool
    verdict : str
        "ok", "cannot tell" or "wrong".
    max_rel_error : float
    blocks : tuple of Block
    failures, unknown, kinks, worst : tuple of Entry, worst first
        The wrong entries; those whose uncertainty is too large for a verdict; those at a kink; five of any verdict.
    problems : tuple of str
        What is wrong with the loss as such.
    taylor_slopes : tuple of float
        The orders at which the Taylor remainder of a smooth loss vanishes along random directions.  The order is 2
        for a right gradient, 1 for a wrong one, and nan where rounding hides it.
    rtol : float
    method : str
    """

    method: str
    rtol: float
    blocks: tuple[Block, ...] = ()
    problems: tuple[str, ...] = ()
    taylor_slopes: tuple[float, ...] = ()

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
