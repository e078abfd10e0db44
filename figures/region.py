"""How large the region is in which ``li`` is one-point convex."""

import numpy as np

from resgrad import landscape, plots


def draw():
    gammas = np.geomspace(0.1, 10, 17)
    with plots.figure(2) as (picture, (left, right)):
        for d, shade in ((5, "#7fb8d9"), (10, plots.COLORS["li"]), (20, "#003a5c")):
            region = landscape.convexity_region(gammas, d, n_pairs=300, rng=0)
            left.plot(gammas, region.fraction, color=shade, marker="o", ms=3, label=f"d = {d}")
            right.plot(gammas, region.smallest, color=shade, marker="o", ms=3, label=f"d = {d}")
        left.set_ylabel("share of pairs $(W^*, W)$ with $\\delta > 0$")
        left.set_ylim(0.95, 1.003)
        right.set_ylabel("smallest $\\delta$ of 300 pairs")
        right.axhline(0, color=plots.INK, lw=0.8)
        left.legend(loc="lower left")
        left.set_title("li: where the gradient points to the teacher")
        for axes in (left, right):
            axes.set_xscale("log")
            axes.set_xlabel("spectral norm $\\gamma$ of $W^*$ and $W$")
        return plots.png(picture)
