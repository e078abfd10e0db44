"""Li & Yuan's setting, five seeds: ``li`` finds the teacher, ``vanilla``, which has no identity, does not (minutes)."""

from resgrad.runs import plots

from . import history

SEEDS = 5


def draw():
    with plots.figure(1, height=3.2) as (picture, axes):
        distances = []
        for name in ("li", "vanilla"):
            for seed in range(SEEDS):
                run = history(name, "li-yuan", seed=seed)
                distances.append(run["distance"])
                axes.plot(run["step"], distances[-1], color=plots.COLORS[name], lw=1)
            half = len(run["step"]) // 2
            plots.tag(axes, run["step"][half], run["distance"][half], name, plots.COLORS[name], ha="left")
        plots.decades(axes, distances)
        plots.steps_axis(axes, run["step"])
        axes.set_ylabel("$\\|W - W^*\\|$")
        axes.set_title(f"d = 100, $\\|W^*\\|_2 \\approx 0.6$, SGD with lr 1e-3, 100,000 samples, {SEEDS} seeds each")
        return picture
