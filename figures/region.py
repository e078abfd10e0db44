"""How large the region is in which ``li`` is one-point convex."""

import numpy as np

import resgrad as rg
from resgrad.runs import plots

PAIRS = 1000


def draw():
    gammas = np.geomspace(0.1, 10, 17)
    with plots.figure(2) as (picture, (left, right)):
        for d, shade in ((2, "#b5d5e8"), (5, "#5fa5cf"), (10, plots.COLORS["li"]), (20, "#003a5c")):
            region = rg.convexity_region(gammas, d, n_pairs=PAIRS, rng=0)
            left.plot(gammas, region.fraction, color=shade, marker="o", ms=3, label=f"d = {d}")
            right.plot(gammas, region.smallest, color=shade, marker="o", ms=3)
        left.set_ylabel("share of pairs $(W^*, W)$ with $\\delta > 0$")
        left.set(ylim=(0.955, 1.002), yticks=np.arange(0.96, 1.001, 0.01))
        left.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        right.set_ylabel(f"smallest $\\delta$ of {PAIRS} pairs")
        right.axhline(0, color=plots.INK, lw=0.8)
        left.legend(loc="lower left")
        left.set_title("li: where the gradient points to the teacher")
        for axes in (left, right):
            axes.set_xscale("log")
            axes.set_xlabel("spectral norm $\\gamma$ of $W^*$ and $W$")
        return picture
