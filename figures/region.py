"""How large the region is in which ``li`` is one-point convex."""

import numpy as np

import resgrad as rg
from resgrad.runs import plots

PAIRS = 1000


def draw():
    gammas = np.geomspace(0.1, 10, 17)
    with plots.figure(2) as (picture, (left, right)):
        for d, shade in ((2, "#7FB2D9"), (5, "#3F8FC6"), (10, plots.COLORS["li"]), (20, "#003a5c")):
            region = rg.convexity_region(gammas, d, n_pairs=PAIRS, rng=0)
            against = np.round(PAIRS * (1 - region.fraction))
            left.plot(gammas, against, color=shade, marker="o", ms=3, label=f"d = {d}")
            right.plot(gammas, region.smallest, color=shade, marker="o", ms=3)
        left.set_ylabel(f"pairs of {PAIRS:,} with $\\delta \\leq 0$")
        left.set_title("li: how often the gradient points away from the teacher")
        left.legend(loc="upper left")
        right.set_ylabel(f"smallest $\\delta$ of {PAIRS:,} pairs")
        right.axhline(0, color=plots.INK, lw=0.8)
        right.set_title("li: how strongly it points to the teacher at worst")
        for axes in (left, right):
            axes.set(xscale="log", xlabel="spectral norm $\\gamma$ of both $W^*$ and $W$")
            axes.set_xticks([0.1, 1, 10], ["0.1", "1", "10"])
        return picture
