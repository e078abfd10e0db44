"""``li``: the distance from the teacher, under the notebook's protocol and to the end.

The notebook's ``li`` has a bias, and its teacher none: what it logs is the distance of W1 alone.
``python -m figures.li`` prints it for twelve seeds.
"""

import numpy as np

from resgrad.runs import plots
from resgrad.runs.protocol import prepare, resolve

from . import history

SEEDS, SAMPLES = 12, 100_000
PUBLISHED = {0: 2.85, 10_000: 1.67, 50_000: 1.31}  # the notebook's one run, another draw of W*


def published(seed=0):
    """(steps, |W1 - W1*|, |b|) of the notebook's run."""
    from resgrad import SGD, train

    config = resolve("li", "notebook", seed=seed, samples=SAMPLES)
    loss, start, teacher, _ = prepare(config)
    size = config.d * config.width
    parts = {
        "W1": lambda theta: np.linalg.norm(theta[:size] - teacher.theta[:size]),
        "b": lambda theta: np.linalg.norm(theta[size:]),
    }
    run = train(loss, start, SGD(config.lr), config.steps, config.batch_size, seed, config.record_every, observe=parts)
    return run.steps, run.observed["W1"], run.observed["b"]


def table():
    lines = [f"{'seed':>4}" + "".join(f"{step:>10,}" for step in PUBLISHED) + f"{'|b| at the end':>16}"]
    for seed in range(SEEDS):
        steps, distance, b = published(seed)
        lines.append(f"{seed:4}" + "".join(f"{distance[steps == s][0]:10.3f}" for s in PUBLISHED) + f"{b[-1]:16.3f}")
    return "\n".join(lines)


def draw():
    color, whole = plots.COLORS["li"], history("li")
    steps, distance, _ = published()
    notebook = {"step": steps, "distance": distance}
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


if __name__ == "__main__":
    print(table())
