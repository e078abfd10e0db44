"""The central picture: raw distance against distance modulo symmetry, four architectures."""

from resgrad.runs import plots

from . import POST, history

MODULO = ("permutation\nand rescaling", "rescaling and\nunseen part of W2", "rescaling")


def draw():
    with plots.figure(4, sharey=True) as (picture, panels):
        for axes, name in zip(panels, POST):
            run, color = history(name), plots.COLORS[name]
            end = 6000 if name == "li" else 20_000
            axes.plot(run["step"], run["distance"], color=color, ls=(0, (3, 1.5)), lw=2.4)
            axes.plot(run["step"], run["aligned_distance"], color=color)
            axes.set_yscale("log")
            axes.set_ylim(1e-16, 1e4)
            plots.steps_axis(axes, [end])
            axes.set_title(name, color=color, fontweight="bold")
        panels[0].set_ylabel("distance from the teacher")
        plots.tag(panels[0], 5900, 3e-5, "raw = modulo\nsymmetry", plots.COLORS["li"])
        for axes, name, text in zip(panels[1:], POST[1:], MODULO):
            plots.tag(axes, 19_500, 14, "raw", plots.COLORS[name])
            plots.tag(axes, 19_500, 1e-9, f"modulo\n{text}", plots.COLORS[name])
        return picture
