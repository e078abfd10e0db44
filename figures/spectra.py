"""Hessian eigenvalues at the minima that training finds, with the predicted dimension of the manifold."""

import resgrad as rg
from resgrad.runs import plots
from resgrad.runs.protocol import resolve, simulate

from . import POST


def draw():
    with plots.figure(4, sharey=True) as (picture, panels):
        for axes, name in zip(panels, POST):
            trajectory, teacher = simulate(resolve(name, "default", d=6))
            loss = rg.PopulationLoss(name, teacher)
            polished = rg.polish(loss, trajectory.theta)
            spectrum = rg.spectrum(loss, polished.theta)
            plots.eigenvalues(axes, spectrum.eigenvalues, spectrum.predicted, plots.COLORS[name])
            size = spectrum.eigenvalues.size
            axes.set_title(f"{name}: {spectrum.nullity} of {size} zero", color=plots.COLORS[name], weight="bold")
        panels[0].set_ylabel("|eigenvalue| of the Hessian")
        for axes, text in zip(panels, ("0", "d = 6", "d$^2$ = 36", "d = 6")):
            right = axes.get_xlim()[1] * (0.99 if text.startswith("d$") else 0.9)
            plots.tag(axes, right, 1e-9, f"zero ones\npredicted (gray):\n{text}", plots.INK)
        return picture
