"""How often the post's networks reach loss zero; ``python -m figures.frequencies`` prints the table.

The post has one run of each.  Here d = 10, its starts U(-1/sqrt(d), 1/sqrt(d)), exact expected loss,
Nesterov; every run draws a new teacher.
"""

import resgrad as rg
from resgrad.runs import plots
from resgrad.runs.tally import OUTCOMES

from . import POST

TEACHERS = ("uniform", "normal", "small")
D, RUNS, STEPS, SEED = 10, 100, 300_000, 0
LABELS = {
    "uniform": "$w^* \\sim U[0, 1)$", "normal": "$w^* \\sim N(0, 1/d)$",
    "small": "$w^* \\sim N(0, 0.01/d)$",
}  # fmt: skip
SHADES = {"spurious": "#6b6b6b", "saddle": plots.INK, "unconverged": "#d9d9d9"}


def censuses():
    """{(arch, teacher): Census}."""
    return {
        (arch, teacher): rg.census(arch, D, RUNS, SEED, teacher=teacher, steps=STEPS)
        for arch in POST for teacher in TEACHERS
    }  # fmt: skip


def table(found):
    """Shares of zero loss with their 95 % Wilson intervals, and the other outcomes, for people."""
    lines = [f"{'':12}{'teacher':10}{'zero loss':>10}{'95 % interval':>18}"]
    lines[0] += f"{'spurious':>10}{'saddle':>8}{'not converged':>15}"
    for (arch, teacher), census in found.items():
        share, low, high = (100 * p for p in census.share("global"))
        others = "{spurious:10}{saddle:8}{unconverged:15}".format(**census.counts)
        lines.append(f"{arch:12}{teacher:10}{share:8.1f} %{f'{low:.1f} - {high:.1f} %':>18}{others}")
    return "\n".join(lines)


def draw():
    found = censuses()
    with plots.figure(3, height=2.5, sharey=True) as (picture, panels):
        for axes, teacher in zip(panels, TEACHERS):
            for row, arch in enumerate(POST):
                census, left = found[arch, teacher], 0.0
                for name in OUTCOMES:
                    share = census.counts[name] / RUNS
                    axes.barh(row, share, left=left, height=0.62, color=SHADES.get(name, plots.COLORS[arch]))
                    left += share
                share, low, high = census.share("global")
                axes.plot([low, high], [row, row], color=plots.INK, lw=1.2)
            axes.set(xlim=(0, 1), yticks=range(len(POST)), yticklabels=POST, title=LABELS[teacher], axisbelow=True)
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
            axes.set_xticks([0, 0.25, 0.5, 0.75])
            axes.grid(False, axis="y")
        panels[0].invert_yaxis()
        panels[1].set_xlabel("colored: loss zero, with its 95 % interval;  dark: spurious;  light: not converged")
        return picture


if __name__ == "__main__":
    print(table(censuses()))
