"""Li & Yuan's two phases (d = 1500, takes minutes), and their plain setting with five seeds."""

from resgrad import plots

from . import history


def draw():
    run, color = history("li", "li-yuan-phases"), plots.COLORS["li"]
    with plots.figure(3, width=12) as (picture, (left, middle, right)):
        left.plot(run["step"], run["inner_product"], color=color)
        left.axhline(0, color=plots.INK, lw=0.8)
        left.set_title("$\\langle -\\nabla L,\\ W^* - W\\rangle$, d = 1500")
        middle.plot(run["step"], run["potential"], color=plots.INK)
        middle.plot(run["step"], run["distance"], color=color)
        last = run["step"][-1]
        plots.tag(middle, last, run["potential"][-1], "potential g", plots.INK)
        plots.tag(middle, last, run["distance"][-1], "$\\|W - W^*\\|$", color, va="top", xytext=(0, -6))
        middle.set_title("the potential falls first")
        for axes in (left, middle):
            plots.steps_axis(axes, run["step"])
        for name in ("li", "vanilla"):
            for seed in range(5):
                run = history(name, "li-yuan", seed=seed)
                right.plot(run["step"], run["distance"], color=plots.COLORS[name], lw=1.2)
            plots.tag(right, run["step"][-1], run["distance"][-1], name, plots.COLORS[name])
        plots.decades(right, [run["distance"]], low=3e-3)
        plots.steps_axis(right, run["step"])
        right.set_title("$\\|W - W^*\\|$, d = 100, $\\|W^*\\|_2$ about 0.6, 5 seeds")
        return plots.png(picture)
