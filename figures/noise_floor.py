"""The floor that SGD reaches where labels are noisy, against step size and batch, and what `rg.noise_floor` says.

``python -m figures.noise_floor`` prints the table.
"""

import functools

import numpy as np

import resgrad as rg
from resgrad.runs import plots

D, NOISE, LRS, BATCHES, MOST = 5, 0.1, (1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2), (1, 10, 100), 60_000
SHADES = ("#0072B2", "#D55E00", "#009E73")
EACH = 20  # steps between two looks at the loss


@functools.cache
def measured(lr, batch):
    """(predicted, average, standard error) of the expected loss, without the labels' noise, from the teacher on."""
    star = rg.draw("li", "small", D, rng=0)
    loss = rg.OnlineLoss("li", rg.Network("li", star, D), noise=NOISE)
    steps = int(min(MOST, max(MOST / 6, 200 / lr)))
    look = {"excess": loss.population.excess}
    run = rg.train(loss, star, rg.SGD(lr), steps, batch, seed=1, record_every=EACH, observe=look)
    settled = run.observed["excess"][len(run.steps) // 4 :]
    parts = [part.mean() for part in np.array_split(settled, 20)]  # longer than the memory of the run
    return rg.noise_floor(loss, star, lr, batch), np.mean(parts), np.std(parts, ddof=1) / len(parts) ** 0.5


def table():
    lines = [f"{'lr':>7}{'batch':>7}{'predicted':>13}{'measured':>13}{'std. error':>12}{'z':>7}"]
    for batch in BATCHES:
        for lr in LRS:
            floor, mean, error = measured(lr, batch)
            lines.append(f"{lr:7g}{batch:7}{floor:13.4e}{mean:13.4e}{error:12.1e}{(mean - floor) / error:+7.1f}")
    return "\n".join(lines)


def draw():
    with plots.figure(1, height=3.3) as (picture, axes):
        for batch, color in zip(BATCHES, SHADES):
            points = [(lr, *measured(lr, batch)) for lr in LRS]
            lrs, floor, mean, error = np.transpose([point for point in points if np.isfinite(point[1])])
            axes.plot(lrs, floor, color=color)
            axes.errorbar(lrs, mean, 2 * error, fmt="o", color=color, ms=4)
            beyond = f" (with {LRS[-1]:g} they diverge)" if len(lrs) < len(LRS) else ""
            plots.tag(axes, lrs[-1], floor[-1], f"batches of {batch}{beyond}", color, ha="right", xytext=(-12, 4))
        axes.set(xscale="log", yscale="log", ylim=(8e-7, 1e-2), xlabel="step size", ylabel="expected loss")
        axes.set_title(f"where SGD settles, without the labels' noise of {NOISE:g}; li, d = {D}; lines: rg.noise_floor")
        return picture


if __name__ == "__main__":
    print(table())
