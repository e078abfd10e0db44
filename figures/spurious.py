"""How often gradient descent misses the teacher: Safran & Shamir (2018), repeated and extended."""

import resgrad as rg
from resgrad.runs import plots
from resgrad.runs.tally import PUBLISHED, SAFRAN_SHAMIR

KS, RUNS, SEED = (6, 7, 8, 9, 10, 11, 12, 14, 16), 500, 1
EXTRA = {0: ("width k", plots.COLORS["vanilla"]), 1: ("width k + 1", "#1b5e85")}


def draw():
    with plots.figure(1, height=3.4) as (picture, axes):
        for extra, (label, color) in EXTRA.items():
            found = [rg.census(d=k, width=k + extra, runs=RUNS, seed=SEED, **SAFRAN_SHAMIR) for k in KS]
            share, low, high = zip(*(one.share("spurious") for one in found))
            axes.fill_between(KS, low, high, color=color, alpha=0.25, lw=0)
            axes.plot(KS, share, "-", color=color)
            plots.tag(axes, 14, share[KS.index(14)], label, color, xytext=(-8, 5))
        axes.plot([k for k, _ in PUBLISHED], PUBLISHED.values(), "o", color=plots.INK, ms=4.5, zorder=3)
        plots.tag(axes, 10, PUBLISHED[10, 10], "dots: Safran & Shamir", plots.INK, xytext=(-7, 2))
        axes.set(xlabel="k: units of the teacher, and dimension", xticks=KS)
        axes.set(ylabel="starts that end in a spurious minimum", ylim=(-0.02, 1))
        axes.yaxis.set_major_formatter("{x:.0%}")
        told = "vanilla, teacher $W1^* = I$, gradient descent on the exact loss"
        axes.set_title(f"{told}; {RUNS} starts each, bands: 95 % intervals")
        return picture
