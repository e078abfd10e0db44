"""``resnet`` and ``modresnet`` are the same functions from different starts; what the start decides.

Teachers W1* = I + scale N(0, 1/d), W2* ~ N(0, 1/d); the student's U starts at s I + N(0, 0.01/d): s = 0 is the
usual start of ``resnet``, s = 1 that of ``modresnet``.  Nesterov's method on the expected loss.
``python -m figures.equivalence`` prints the table.
"""

import functools

import numpy as np

import resgrad as rg
from resgrad.runs import plots

D, SEEDS, STEPS = 10, 40, 4000
SCALES, STARTS = {0.3: ":", 1.0: "--", 3.0: "-"}, (0.0, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
ENDS = {0: "resnet", -1: "modresnet"}


def outcome(scale, start, seed):
    """(zero loss?, units moved) of one run; the resnet's W1 is U itself."""
    arch, streams = rg.ARCHITECTURES["resnet"], rg.streams(seed)
    normal, noise = streams.teacher.normal(0, D**-0.5, (2, D, D)), streams.init.normal(0, 0.1 * D**-0.5, (2, D, D))
    theta_star = arch.flatten(np.eye(D) + scale * normal[0], normal[1])
    theta0 = arch.flatten(start * np.eye(D) + noise[0], noise[1])
    loss = rg.PopulationLoss(arch, rg.Network(arch, theta_star, D))
    run = rg.train(loss, theta0, rg.Nesterov(0.05, 0.9), STEPS, record_every=STEPS)
    zero = run.loss[-1] < 1e-10 * run.loss[0]
    return zero, rg.align(arch, run.theta, theta_star, D).units_moved if zero else np.nan


@functools.cache
def measured():
    """{scale: (zero-loss shares, mean numbers of units moved in these runs)}, each over `STARTS`."""
    runs = {c: [[outcome(c, s, seed) for seed in range(SEEDS)] for s in STARTS] for c in SCALES}
    return {c: (np.mean(x, axis=1)[:, 0], np.nanmean(x, axis=1)[:, 1]) for c, x in runs.items()}


def table():
    lines = [f"{'scale':>6}{'start':>7}{'zero loss':>11}{'permuted':>10}   of {D} units, {SEEDS} runs each"]
    for scale, columns in measured().items():
        lines += [f"{scale:6}{s:7}{share:11.1%}{moved:10.2f}" for s, share, moved in zip(STARTS, *columns)]
    return "\n".join(lines)


def draw():
    told = f"d = {D}, teachers $W1^* = I + c\\,N(0, 1/d)$, Nesterov's method on the exact expected loss"
    with plots.figure(height=3.3, caption=told) as (picture, panels):
        for scale, columns in measured().items():
            for axes, values in zip(panels, columns):
                axes.plot(STARTS, values, SCALES[scale], color=plots.INK)
                axes.plot(STARTS[1:-1], values[1:-1], "o", ms=4, color=plots.INK)
                for end, name in ENDS.items():
                    axes.plot(STARTS[end], values[end], "o", ms=7, color=plots.COLORS[name], clip_on=False, zorder=3)
            below = {"va": "top", "xytext": (0, -6)} if scale < 1 else {}
            plots.tag(panels[1], 0.97, columns[1][-1], f"teachers with c = {scale:g}", plots.INK, **below)
        for axes in panels:
            axes.set_xlabel("s: the student's units start near s I")
            for end, name in ENDS.items():
                place = {"ha": "left" if end == 0 else "right", "xytext": (10 if end == 0 else -6, 0)}
                plots.tag(axes, STARTS[end], 0.8 if axes is panels[0] else 9.3, name, plots.COLORS[name], **place)
        panels[0].set(ylim=(-0.03, 1.05), title=f"share of {SEEDS} runs that reach zero loss")
        panels[0].yaxis.set_major_formatter("{x:.0%}")
        panels[1].set(ylim=(-1.4, D + 0.4), title="units permuted, mean of these runs")
        return picture


if __name__ == "__main__":
    print(table())
