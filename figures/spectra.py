"""Hessian eigenvalues at the minima that training finds, with the predicted dimension of the manifold."""

import resgrad as rg
from resgrad.runs import plots
from resgrad.runs.protocol import resolve, simulate

from . import POST, UNIFORM

D = 6
PREDICTED = ("0", f"d = {D}", f"d$^2$ = {D**2}", f"d = {D}")


def draw():
    told = f"d = {D}, teachers $W^* \\sim U[0, 1)$, the minimum found from seed 0; the exact expected loss"
    with plots.figure(4, sharey=True, height=3.3, caption=told) as (picture, panels):
        for axes, name, predicted in zip(panels, POST, PREDICTED):
            trajectory, teacher = simulate(resolve(name, "default", **UNIFORM[name] | {"d": D}))
            loss = rg.PopulationLoss(name, teacher)
            polished = rg.polish(loss, trajectory.theta)
            spectrum = rg.spectrum(loss, polished.theta)
            plots.eigenvalues(axes, spectrum.eigenvalues, spectrum.predicted, plots.COLORS[name])
            size = spectrum.eigenvalues.size
            axes.set_title(f"{name}: {spectrum.nullity} of {size} zero", color=plots.COLORS[name], weight="bold")
            axes.text(0.03, 0.38, f"predicted zero\n(gray): {predicted}", transform=axes.transAxes, fontsize=8.5)
            if name != "li":
                plots.tag(axes, size - spectrum.predicted, 1e-15, "rounding", plots.INK, va="center", xytext=(-2, 0))
        panels[0].set_ylabel("|eigenvalue| of the Hessian")
        return picture
