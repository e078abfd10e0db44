"""``resnet`` and ``modresnet`` are the same functions from different starts; what the start decides.

One teacher family, W1* = I + scale N(0, 1/d), W2* ~ N(0, 1/d); the student's U starts at s I + N(0, 0.01/d):
s = 0 is the usual start of ``resnet``, s = 1 that of ``modresnet``.  Exact gradient descent, d = 10.
"""

import numpy as np

import resgrad as rg
from resgrad import plots

D, SEEDS, STEPS = 10, 40, 4000
SCALES, STARTS = (0.3, 1.0, 3.0), (0.0, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)


def outcome(scale, start, seed):
    """(zero loss?, units moved) of one run; the resnet's W1 is U itself."""
    streams = rg.streams(seed)
    normal = streams.teacher.normal(0, D**-0.5, (2, D, D))
    theta_star = rg.ARCHITECTURES["resnet"].flatten(np.eye(D) + scale * normal[0], normal[1])
    noise = streams.init.normal(0, 0.1 * D**-0.5, (2, D, D))
    theta0 = rg.ARCHITECTURES["resnet"].flatten(start * np.eye(D) + noise[0], noise[1])
    loss = rg.PopulationLoss("resnet", rg.Network("resnet", theta_star, D))
    run = rg.train(loss, theta0, rg.Nesterov(0.05, 0.9), STEPS, record_every=STEPS)
    zero = run.loss[-1] < 1e-10 * run.loss[0]
    return zero, rg.align("resnet", run.theta, theta_star, D).units_moved if zero else np.nan


def draw():
    with plots.figure(2) as (picture, (left, right)):
        for scale, shade in zip(SCALES, ("#f2b08a", "#D55E00", "#6b2f00")):
            runs = np.array([[outcome(scale, s, seed) for seed in range(SEEDS)] for s in STARTS], dtype=float)
            label = f"teacher's scale {scale:g}"
            left.plot(STARTS, runs[..., 0].mean(axis=1), "o-", ms=4, color=shade, label=label)
            right.plot(STARTS, np.nanmean(runs[..., 1], axis=1), "o-", ms=4, color=shade, label=label)
        left.set_ylim(-0.03, 1.05)
        left.set_ylabel("share of runs with zero loss")
        right.set_ylabel("units permuted, mean of these runs")
        right.set_ylim(-0.3, D + 0.3)
        for axes in (left, right):
            axes.set_xlabel("start at s I:  0 is resnet's, 1 is modresnet's")
        left.set_title(f"the same function, other starts: d = {D}, {SEEDS} runs a point")
        right.legend(loc="upper right")
        return plots.png(picture)
