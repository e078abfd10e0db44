"""How long exact descent takes where inputs are correlated: the condition of the Hessian at the teacher says it.

``python -m figures.conditioning`` prints the table.  Inputs have the covariance ``power:ALPHA``.
"""

import functools

import numpy as np

import resgrad as rg
from resgrad.runs import plots

ALPHAS, D, SEEDS, GOAL = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0), 10, 3, 1e-10
SHOWN = {0.0: "#7FB2D9", 1.0: "#0072B2", 2.0: "#00324F"}
MOST = 200_000  # steps


@functools.cache
def measured(alpha, seed):
    """(condition, predicted steps, steps, curve) of a run of ``li`` to `GOAL` of the first loss.

    With lr = 1 / (largest eigenvalue) the slowest part of the loss shrinks by (1 - 1 / condition)^2 a step.
    """
    teacher = rg.Network("li", rg.draw("li", "small", D, rng=[seed, 0]), D)
    loss, start = rg.PopulationLoss("li", teacher, f"power:{alpha}"), rg.draw("li", "small", D, rng=[seed, 1])
    values = np.linalg.eigvalsh(loss.hessian(teacher.theta))
    condition = values[-1] / values[0]
    predicted = np.log(GOAL) / (2 * np.log1p(-1 / condition))
    run = rg.train(loss, start, rg.SGD(1 / values[-1]), min(MOST, int(3 * predicted) + 50))
    there = np.flatnonzero(run.loss <= GOAL * run.loss[0])
    return condition, predicted, int(run.steps[there[0]]) if there.size else np.nan, (run.steps, run.loss / run.loss[0])


def table():
    lines = [f"{'ALPHA':>6}{'condition':>12}{'predicted':>12}  steps to {GOAL:g}, by seed"]
    for alpha in ALPHAS:
        runs = [measured(alpha, seed) for seed in range(SEEDS)]
        condition, predicted = (np.mean([run[n] for run in runs]) for n in (0, 1))
        lines.append(f"{alpha:6}{condition:12.1f}{predicted:12.0f}  " + ", ".join(f"{run[2]:,}" for run in runs))
    return "\n".join(lines)


def draw():
    told = f"li, d = {D}, teachers $W^* \\sim N(0, 0.01/d)$, exact gradient descent, lr = 1 / largest curvature"
    with plots.figure(2, height=3.2, caption=told) as (picture, (left, right)):
        for alpha, color in SHOWN.items():
            steps, values = measured(alpha, 0)[3]
            left.plot(1 + steps, values, color=color, label=f"ALPHA = {alpha:g}")
        left.set(xscale="log", yscale="log", xlabel="1 + step", xlim=(1, None), ylim=(1e-12, 3))
        left.set_title("expected loss over that at the start")
        left.axhline(GOAL, xmin=0.35, color=plots.FAINT, lw=0.8)
        left.legend(loc="lower left")
        predicted = [np.mean([measured(alpha, seed)[1] for seed in range(SEEDS)]) for alpha in ALPHAS]
        right.plot(ALPHAS, predicted, color=plots.FAINT, label="from the condition of the Hessian")
        for seed in range(SEEDS):
            steps = [measured(alpha, seed)[2] for alpha in ALPHAS]
            right.plot(ALPHAS, steps, "o", ms=4, color=plots.COLORS["li"], label="measured" if seed == 0 else None)
        right.set(yscale="log", xlabel="ALPHA: the variances of the inputs fall like $i^{-ALPHA}$")
        right.set_title(f"steps to {GOAL:g} of the first loss")
        right.legend(loc="upper left")
        return picture


if __name__ == "__main__":
    print(table())
