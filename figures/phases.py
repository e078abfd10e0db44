"""Li & Yuan's two phases: the gradient points away from the teacher, then to it (d = 1500, takes minutes)."""

import numpy as np

from resgrad.runs import plots

from . import history


def draw():
    run, color = history("li", "li-yuan-phases"), plots.COLORS["li"]
    steps, inner, start = run["step"], run["inner_product"], run["distance"][0]
    last = np.flatnonzero(inner <= 0)[-1]  # from the crossing behind it on the gradient points to the teacher
    turn = np.interp(0, inner[last : last + 2], steps[last : last + 2])
    columns = {
        "$\\langle -\\nabla L,\\ W^* - W\\rangle$": inner,
        "$g = \\Sigma_i\\ (\\|e_i + w_i^*\\| - \\|e_i + w_i\\|)$": run["potential"],
        f"change of $\\|W - W^*\\|$ from {start:.4g}": run["distance"] - start,
    }
    told = "li, d = 1500, $W^* = 0$, SGD with lr 1e-4 on fresh batches of 300, a start of Li & Yuan's kind, seed 0"
    with plots.figure(3, height=3.2, caption=told) as (picture, panels):
        for axes, (title, values) in zip(panels, columns.items()):
            axes.plot(steps, values, color=color)
            axes.axhline(0, color=plots.INK, lw=0.8)
            axes.axvline(turn, color=plots.INK, lw=0.8, ls=":")
            axes.set_title(title)
            plots.steps_axis(axes, steps)
        note = f"dotted: step {turn:.0f}, from where on\nthe gradient points to $W^*$"
        plots.tag(panels[0], turn, inner[0], note, plots.INK, ha="left", va="bottom", xytext=(6, 0))
        return picture
