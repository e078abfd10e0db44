"""How often the post's networks reach loss zero; ``python -m figures.frequencies`` prints the table.

The post has one run of each.  Here d = 10, its starts U(-1/sqrt(d), 1/sqrt(d)), exact expected loss,
Nesterov, then gradient flow; every run draws a new teacher.

1,000 runs a bar take an hour on two cores.  Where there is a directory runs/figures they are kept there, and go on from
there.
"""

from pathlib import Path

import resgrad as rg
from resgrad.runs import plots
from resgrad.runs.tally import OUTCOMES

from . import POST

TEACHERS = ("uniform", "normal", "small")
D, RUNS, SEED = 10, 1000, 0
KEPT = Path("runs/figures")
LABELS = {
    "uniform": "$w^* \\sim U[0, 1)$", "normal": "$w^* \\sim N(0, 1/d)$",
    "small": "$w^* \\sim N(0, 0.01/d)$",
}  # fmt: skip
HEADINGS = f"{'zero loss':>10}{'95 % interval':>18}{'spurious':>10}{'saddle':>8}{'not converged':>15}{'degenerate':>12}"
SHADES = {"spurious": "#6b6b6b", "saddle": plots.INK, "unconverged": "#d9d9d9"}


def census(arch, teacher, d, runs, **more):
    """The Census of one bar or point, all of it or what is missing of it."""
    name = "-".join([arch, teacher, str(d), *(f"{key}-{value}" for key, value in more.items())])
    out = KEPT / name if KEPT.is_dir() else None
    return rg.census(arch, d, runs, SEED, teacher=teacher, out=out, resume=out is not None, **more)


def censuses():
    """{(arch, teacher): Census}."""
    return {(arch, teacher): census(arch, teacher, D, RUNS) for arch in POST for teacher in TEACHERS}


def columns(one):
    """The share of zero loss with its 95 % Wilson interval, and the other outcomes, under `HEADINGS`."""
    share, low, high = (100 * p for p in one.share("global"))
    others = "{spurious:10}{saddle:8}{unconverged:15}".format(**one.counts) + f"{one.degenerate:12}"
    return f"{share:8.1f} %{f'{low:.1f} - {high:.1f} %':>18}{others}"


def table(found):
    """A line for each bar, for people."""
    lines = [f"{'':12}{'teacher':10}{HEADINGS}"]
    lines += [f"{arch:12}{teacher:10}{columns(one)}" for (arch, teacher), one in found.items()]
    return "\n".join(lines)


def draw():
    found = censuses()
    told = f"d = {D}, {RUNS:,} runs a bar, each with a new teacher; starts $U(\\pm 1/\\sqrt{{d}})$,"
    told += " the exact expected loss"
    with plots.figure(3, height=2.7, sharey=True, caption=told) as (picture, panels):
        for axes, teacher in zip(panels, TEACHERS):
            for row, arch in enumerate(POST):
                one, left = found[arch, teacher], 0.0
                for name in OUTCOMES:
                    share = one.counts[name] / RUNS
                    axes.barh(row, share, left=left, height=0.62, color=SHADES.get(name, plots.COLORS[arch]))
                    left += share
                share, low, high = one.share("global")
                axes.plot([low, high], [row, row], "-|", color=plots.INK, lw=1.2, ms=5)
            axes.set(xlim=(0, 1.03), yticks=range(len(POST)), yticklabels=POST, title=LABELS[teacher], axisbelow=True)
            axes.xaxis.set_major_formatter("{x:.0%}")
            axes.set_xticks([0.25, 0.5, 0.75, 1])
            axes.grid(False, axis="y")
        panels[0].invert_yaxis()
        panels[1].set_xlabel("colored: loss zero, with its 95 % interval;  dark: spurious;  light: not converged")
        return picture


if __name__ == "__main__":
    print(table(censuses()))
