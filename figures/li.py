"""``li``: the distance from the teacher, under the notebook's protocol and to the end."""

from resgrad.runs import plots

from . import history

PUBLISHED = {0: 2.85, 10_000: 1.67, 50_000: 1.31}  # the notebook's one run, another draw of W*


def draw():
    color = plots.COLORS["li"]
    notebook, whole = history("li", "notebook"), history("li")
    with plots.figure(2) as (picture, (left, right)):
        left.plot(notebook["step"], notebook["distance"], color=color)
        left.plot(*zip(*PUBLISHED.items()), "o", color=plots.INK, clip_on=False, zorder=3)
        plots.tag(left, 10_000, 1.67, "the post's run", plots.INK, ha="left", va="top", xytext=(2, -10))
        plots.tag(left, notebook["step"][-1], notebook["distance"][-1], "resgrad", color, xytext=(-8, 10))
        left.set_ylim(0, None)
        left.set_title("the post's protocol: d = 5, SGD, lr 1e-4")
        right.plot(whole["step"], whole["distance"], color=color)
        plots.decades(right, [whole["distance"]])
        right.set_title("to the end: d = 10, Nesterov, lr 0.02")
        for axes, run in ((left, notebook), (right, whole)):
            axes.set_ylabel("$\\|W - W^*\\|$ (Frobenius)")
            plots.steps_axis(axes, run["step"])
        return picture
