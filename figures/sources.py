"""One teacher and one start, three sources of gradients: a data set, fresh samples, the expectation."""

from resgrad.runs import plots

from . import history

LINES = {  # source: (label, width, style)
    "population": ("exact expectation", 4.5, "-"),
    "online": ("fresh samples", 1.8, "-"),
    "dataset": ("100,000 samples", 1.2, (0, (4, 2))),
}
SHADES = {"population": "#c9c9c9", "online": plots.COLORS["modresnet"], "dataset": plots.INK}


def draw():
    told = "modresnet, d = 10, teacher $W^* \\sim U[0, 1)$, Nesterov's method with lr 2e-3, one start (seed 0)"
    with plots.figure(2, sharey=True, height=3.2, caption=told) as (picture, panels):
        for axes, batch_size in zip(panels, (200, 10)):
            curves = []
            for source, (label, width, style) in LINES.items():
                batches = {} if source == "population" else {"batch_size": batch_size}
                run = history("modresnet", data=source, steps=12_000, lr=2e-3, **batches)
                curves.append(run["population_loss"])
                axes.plot(run["step"], curves[-1], color=SHADES[source], lw=width, ls=style, label=label)
            plots.decades(axes, curves)
            plots.steps_axis(axes, run["step"])
            axes.set_title(f"batches of {batch_size}")
        panels[0].set_ylabel("expected loss")
        panels[0].legend(loc="lower left", title="gradients from")
        return picture
