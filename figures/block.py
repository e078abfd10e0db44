"""The ResNet block, twice: the linear student that the notebook trained by mistake, and a correct one.

The notebook's student overwrites its hidden layer and computes fc2(x) + x.  With d = 1 and
c = W1* W2* > 0, W1* < 0, the teacher is c (x - |x|) / 2 + x, so the best linear student has slope
c / 2 and loss c^2 / 4, approached by a factor 1 - 2 lr a step.
"""

import numpy as np

import resgrad as rg
from resgrad.runs import plots
from resgrad.runs.report import ZERO

from . import UNIFORM, history

W1_STAR, W2_STAR, START = -0.9384, -2.6461, 0.0035  # the notebook's stored run
LR, STEPS, BATCH, SAMPLES, EVERY, STARTS, SEEDS = 1e-4, 50_000, 200, 100_000, 250, 24, 10
PUBLISHED = {50_000: 1.54}  # its log ends between 1.53 and 1.55


def linear_student(X, Y, rng):
    """SGD on mean (w x + x - y)^2: the slopes and the mean batch losses, every 250 batches."""
    w, slopes, losses = START, [START], []
    for step in range(STEPS):
        if step % (SAMPLES // BATCH) == 0:
            batches = rng.permutation(SAMPLES).reshape(-1, BATCH)
        x, y = X[batches[step % len(batches)], 0], Y[batches[step % len(batches)], 0]
        error = w * x + x - y
        losses.append(np.mean(error**2))
        w -= LR * 2 * np.mean(error * x)
        if (step + 1) % EVERY == 0:
            slopes.append(w)
    return np.array(slopes), np.mean(np.reshape(losses, (-1, EVERY)), axis=1)


def check_limits(slopes, losses):
    """Hold the run against the closed form: slope c / 2, loss c^2 / 4, contraction e^-0.05 a record.

    The bounds are four standard errors of a data set of this size.
    """
    c = W1_STAR * W2_STAR
    rate = np.log((slopes[0] - slopes[-1]) / (slopes[20] - slopes[-1])) / 20
    for name, value, limit, bound in (
        ("slope", slopes[-1], c / 2, 4 * c * (5 / 4 / SAMPLES) ** 0.5),
        ("loss", losses[-20:].mean(), c**2 / 4, 4 * c**2 / 4 * (2 / SAMPLES) ** 0.5 + 0.01),
        ("rate", rate, 2 * LR * EVERY, 4 * 2 * LR * EVERY * (2 / SAMPLES) ** 0.5 + 1e-3),
    ):
        if not abs(value - limit) < bound:
            raise RuntimeError(f"the linear student's {name} is {value}, but must be near {limit}")
    return c


def draw():
    streams, color = rg.streams(1), plots.COLORS["resnet"]
    teacher = rg.Network("resnet", [W1_STAR, W2_STAR], d=1)
    X, Y = rg.dataset(teacher, SAMPLES, streams.data)
    slopes, losses = linear_student(X, Y, streams.batches)
    c = check_limits(slopes, losses)
    loss = rg.EmpiricalLoss("resnet", X, Y)
    starts = [rg.draw("resnet", "fan-in", d=1, rng=streams.init) for _ in range(STARTS)]
    runs = [rg.train(loss, start, rg.SGD(LR), STEPS, BATCH, record_every=EVERY) for start in starts]
    found = [run for run in runs if run.loss[-1] < 0.1]
    whole, steps = [history("resnet", seed=seed, **UNIFORM["resnet"]) for seed in range(SEEDS)], runs[0].steps
    zero = [run for run in whole if run["population_loss"][-1] < ZERO * run["population_loss"][0]]
    told = f"$W1^*$ = {W1_STAR}, $W2^*$ = {W2_STAR}, c = $W1^* W2^*$, SGD with lr {LR:g}"
    told += "; right: teachers $W^* \\sim U[0, 1)$, Nesterov's method"
    with plots.figure(3, height=3.2, caption=f"left and middle: {told}") as (picture, (left, middle, right)):
        left.plot(steps[1:], losses, color=plots.FAINT)
        left.axhline(c**2 / 4, color=plots.INK, lw=0.9, ls=":")
        left.plot(*zip(*PUBLISHED.items()), "o", color=plots.INK, clip_on=False, zorder=3)
        note = f"limit $c^2/4$ = {c**2 / 4:.4f};\ndot: the post's last value"
        plots.tag(left, 49_000, c**2 / 4, note, plots.INK, va="top", xytext=(0, -8))
        note = "its hidden layer is overwritten:\nit is linear, fc2(x) + x,\nand says nothing about ResNets"
        plots.tag(left, 49_000, 3.6, note, plots.INK)
        left.set_title("d = 1, the notebook: not a block")
        for run in runs:
            middle.plot(run.steps[1:], run.loss[1:], color=color, lw=0.9, alpha=0.8)
        middle.axhline(c**2 / 2, color=plots.INK, lw=0.9, ls=":")
        note = "$c^2/2$: its one unit\nlooks the other way"
        plots.tag(middle, 49_000, c**2 / 2, note, plots.INK, va="top", xytext=(0, -6))
        middle.set_title(f"d = 1, a block: {len(found)} of {STARTS} reach zero")
        for run in whole:
            right.plot(run["step"], run["population_loss"], color=color, lw=0.9, alpha=0.8)
        right.set(yscale="log", ylim=(1e-20, 1e4), yticks=[1e-20, 1e-15, 1e-10, 1e-5, 1], ylabel="expected loss")
        right.set_title(f"d = 10, a block: {len(zero)} of {SEEDS} reach zero")
        for axes, x in ((left, steps), (middle, steps), (right, whole[0]["step"])):
            plots.steps_axis(axes, x)
        for axes in (left, middle):
            axes.set(ylim=(0, 6), ylabel="loss, mean of 250 batches")
        return picture
