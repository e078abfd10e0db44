"""What freeing the biases does at the spurious minima of ``vanilla``, family by family.

Field (2026, arXiv:2609.30661) states that it always lowers the loss.  ``python -m figures.biases`` prints the table:
of every family that `RUNS` starts find, its loss, the gradient in the biases there, and the minimum that descent from
there ends in once biases are trained.  Signs are those of the units' biases.
"""

import dataclasses
import functools

import numpy as np

import resgrad as rg
from resgrad.minima import basins
from resgrad.runs import plots

KS, RUNS, MOST = tuple(range(6, 13)), 1000, 10_000  # steps; then gradient flow
FREED = dataclasses.replace(rg.ARCHITECTURES["vanilla"], name="vanilla-bias", bias=True)
SOME = 1e-9  # of the largest bias: one below has no sign


@functools.cache
def freed(k):
    """[(count, loss, dL/db, the `Basin` with biases)] of every family, the most frequent first."""
    found = rg.census("vanilla", k, RUNS, teacher="identity")
    teacher, rows = rg.Network("vanilla", np.eye(k).ravel(), k), []
    loss = rg.PopulationLoss(FREED, teacher)
    for family in found.families:
        theta = np.append(found.theta[family["run"]], np.zeros(k))
        slope = loss.grad(theta)[-k:]
        rows.append((family["count"], family["loss"], slope, basins.descend(loss, loss, theta, MOST)))
    return rows


def signs(biases):
    """How many are positive and negative, as "+3 -2"."""
    cut = SOME * np.abs(biases).max(initial=0.0)
    return f"+{(biases > cut).sum()} -{(biases < -cut).sum()}"


def table():
    lines = [f"{'k':>3}{'runs':>6}{'loss':>14}{'|dL/db|':>11}{'-dL/db':>9}{'freed':>14}{'b':>9}{'|b|':>8}  ends at a"]
    for k in KS:
        for count, loss, slope, end in freed(k):
            b, size = end.theta[-k:], np.linalg.norm(slope)
            ends = f"{end.loss:14.8f}{signs(b):>9}{np.linalg.norm(b):8.3f}  {end.outcome}"
            lines.append(f"{k:3}{count:6}{loss:14.8f}{size:11.3e}{signs(-slope):>9}{ends}")
    every = [row for k in KS for row in freed(k)]
    lower = sum(end.loss < loss and np.linalg.norm(slope) > SOME for _, loss, slope, end in every)
    lines.append(f"the gradient in b is not 0, and the loss falls, in {lower} of {len(every)} families")
    return "\n".join(lines)


def draw():
    with plots.figure(1, height=3.3) as (picture, axes):
        for k in KS:
            for n, (_, loss, _, end) in enumerate(rows := freed(k)):
                x = k + 0.7 * ((n + 0.5) / len(rows) - 0.5)
                color = plots.COLORS["vanilla"] if end.outcome == "spurious" else plots.INK
                axes.plot([x, x], [loss, max(end.loss, 1e-12)], color=color, lw=1)
                axes.plot(x, loss, "o", color=plots.INK, ms=2.5)
                axes.plot(x, max(end.loss, 1e-12), "v", color=color, ms=3)
        axes.set(yscale="log", xlabel="units k = dimension; the families found, the most frequent first", xticks=KS)
        axes.set(yticks=[0.03, 0.05, 0.1, 0.15], ylabel="expected loss")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
        axes.set_title("spurious minima of vanilla, W1* = I (dots), and where descent ends with biases (triangles)")
        return picture


if __name__ == "__main__":
    print(table())
