"""The central picture: raw distance against distance modulo symmetry, four architectures, one kind of teacher.

Each panel is the first half of a run of ``python -m figures.seeds``, the one with seed 0.
"""

from resgrad.runs import plots

from . import POST, UNIFORM, history

STEPS = 50_000  # the post's number
MODULO = ("permutation\nand rescaling", "rescaling and\nunseen part of W2", "rescaling")


def draw():
    told = "d = 10, teachers $W^* \\sim U[0, 1)$, Nesterov's method on 100,000 samples in batches of 200, seed 0"
    with plots.figure(4, sharey=True, height=3.2, caption=told) as (picture, panels):
        for axes, name in zip(panels, POST):
            run, color = history(name, **UNIFORM[name] | {"steps": STEPS}), plots.COLORS[name]
            axes.plot(run["step"], run["distance"], color=color, ls=(0, (3, 1.5)), lw=2.4)
            axes.plot(run["step"], run["aligned_distance"], color=color)
            axes.set(yscale="log", ylim=(1e-16, 1e4))
            plots.steps_axis(axes, run["step"])
            axes.set_title(name, color=color, fontweight="bold")
        panels[0].set_ylabel("distance from the teacher")
        plots.tag(panels[0], 0.97 * STEPS, 1e-5, "raw = modulo\nsymmetry", plots.COLORS["li"])
        for axes, name, text in zip(panels[1:], POST[1:], MODULO):
            plots.tag(axes, 0.97 * STEPS, 14, "raw", plots.COLORS[name])
            left = {"ha": "left"} if name == "resnet" else {}  # its curve falls at the right
            plots.tag(axes, (0.03 if left else 0.97) * STEPS, 1e-9, f"modulo\n{text}", plots.COLORS[name], **left)
        return picture
