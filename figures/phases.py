"""Li & Yuan's two phases (d = 1500, takes minutes), and their plain setting with five seeds."""

from resgrad.runs import plots

from . import history

COLUMNS = {
    "inner_product": "$\\langle -\\nabla L,\\ W^* - W\\rangle$",
    "potential": "potential g",
    "distance": "$\\|W - W^*\\|$, d = 1500",
}


def draw():
    run, color = history("li", "li-yuan-phases"), plots.COLORS["li"]
    inner = run["inner_product"]
    turn = run["step"][inner > 0][0]  # from here on the gradient points to the teacher
    with plots.figure(4) as (picture, (*panels, right)):
        for axes, (column, title) in zip(panels, COLUMNS.items()):
            axes.plot(run["step"], run[column], color=color)
            axes.axvline(turn, color=plots.INK, lw=0.8, ls=":")
            axes.set_title(title)
            plots.steps_axis(axes, run["step"])
        panels[0].axhline(0, color=plots.INK, lw=0.8)
        panels[2].ticklabel_format(axis="y", useOffset=False)
        distances = []
        for name in ("li", "vanilla"):
            for seed in range(5):
                run = history(name, "li-yuan", seed=seed)
                distances.append(run["distance"])
                right.plot(run["step"], distances[-1], color=plots.COLORS[name], lw=1)
            half = len(run["step"]) // 2
            plots.tag(right, run["step"][half], run["distance"][half], name, plots.COLORS[name], ha="left")
        plots.decades(right, distances)
        plots.steps_axis(right, run["step"])
        right.set_title("$\\|W - W^*\\|$, d = 100")
        return picture
