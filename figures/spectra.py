"""Hessian eigenvalues at the minima that training finds, with the predicted dimension of the manifold."""

import numpy as np

from resgrad import landscape, losses, plots
from resgrad.experiment import resolve, simulate

NAMES = ("li", "resnet", "two-weight", "modresnet")
FLOOR = 1e-18


def draw():
    with plots.figure(4, sharey=True) as (picture, panels):
        for axes, name in zip(panels, NAMES):
            trajectory, teacher = simulate(resolve(name, "default", d=6))
            loss = losses.PopulationLoss(name, teacher)
            polished = landscape.polish(loss, trajectory.theta)
            spectrum = landscape.spectrum(loss, polished.theta)
            values = np.sort(np.maximum(np.abs(spectrum.eigenvalues), FLOOR))[::-1]
            rank = np.arange(1, values.size + 1)
            null = rank > values.size - spectrum.predicted
            axes.axvspan(values.size - spectrum.predicted + 0.5, values.size + 0.5, color="#eeeeee", lw=0)
            axes.plot(rank[~null], values[~null], ".", color=plots.COLORS[name], ms=5)
            axes.plot(rank[null], values[null], ".", color=plots.FAINT, ms=5)
            axes.set_yscale("log")
            axes.set_ylim(FLOOR / 5, 1e5)
            axes.set_xlim(0.5, values.size + 0.5)
            axes.set_xlabel("rank")
            axes.set_title(f"{name}: {spectrum.nullity} of {values.size} zero", color=plots.COLORS[name], weight="bold")
        panels[0].set_ylabel("|eigenvalue| of the Hessian")
        for axes, text in zip(panels, ("0", "d = 6", "d$^2$ = 36", "d = 6")):
            right = axes.get_xlim()[1] * (0.99 if text.startswith("d$") else 0.9)
            plots.tag(axes, right, 1e-9, f"zero ones\npredicted (gray):\n{text}", plots.INK)
        return picture
