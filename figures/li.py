"""``li``: the distance from the teacher, under the notebook's protocol and, with a larger step, to the end.

The notebook's ``li`` has a bias, and its teacher none: what it logs is the distance of W1 alone.
``python -m figures.li`` prints it for twelve seeds.
"""

import numpy as np

import resgrad as rg
from resgrad.runs import plots
from resgrad.runs.protocol import prepare, resolve

SEEDS, SAMPLES = 12, 100_000
PUBLISHED = {0: 2.85, 10_000: 1.67, 50_000: 1.31}  # the notebook's one run, another draw of W*
LARGER = {"optimizer": "nesterov", "momentum": 0.9, "lr": 0.01}


def published(seed=0, **given):
    """(steps, |W1 - W1*|, |b|) of a run of the notebook's, but for what is ``given``."""
    config = resolve("li", "notebook", seed=seed, samples=SAMPLES, **given)
    loss, start, teacher, _ = prepare(config)
    size = config.d * config.width
    parts = {
        "W1": lambda theta: np.linalg.norm(theta[:size] - teacher.theta[:size]),
        "b": lambda theta: np.linalg.norm(theta[size:]),
    }
    optimizer = rg.Nesterov(config.lr, config.momentum)  # with momentum 0 it is SGD, bit for bit
    run = rg.train(loss, start, optimizer, config.steps, config.batch_size, seed, config.record_every, observe=parts)
    return run.steps, run.observed["W1"], run.observed["b"]


def table():
    lines = [f"{'seed':>4}" + "".join(f"{step:>10,}" for step in PUBLISHED) + f"{'|b| at the end':>16}"]
    for seed in range(SEEDS):
        steps, distance, b = published(seed)
        lines.append(f"{seed:4}" + "".join(f"{distance[steps == s][0]:10.3f}" for s in PUBLISHED) + f"{b[-1]:16.3f}")
    return "\n".join(lines)


def draw():
    color = plots.COLORS["li"]
    told = f"li with the notebook's bias, d = 5, teachers $W^* \\sim U[0, 1)$, {SEEDS} seeds"
    with plots.figure(2, height=3.2, caption=f"{told}; dots: the post's run, another draw") as (picture, (left, right)):
        ends = []
        for axes, given in ((left, {}), (right, LARGER)):
            for seed in range(SEEDS):
                steps, distance, _ = published(seed, **given)
                ends.append(distance)
                axes.plot(steps, distance, color=color, lw=1, alpha=0.6)
            axes.set_ylabel("$\\|W1 - W1^*\\|$ (Frobenius)")
            plots.steps_axis(axes, steps)
        left.plot(*zip(*PUBLISHED.items()), "o", color=plots.INK, clip_on=False, zorder=3)
        left.set_ylim(0, None)
        left.set_title("the post's protocol: SGD, lr 1e-4")
        plots.decades(right, ends[SEEDS:])
        right.set_title("the same to the end: Nesterov's method, lr {lr:g}".format(**LARGER))
        return picture


if __name__ == "__main__":
    print(table())
