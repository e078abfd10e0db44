"""What a designed loss changes: how often descent finds the teacher, by loss, size and teacher.

Students of k = d units from N(0, 1/d), L-BFGS on the exact loss; the teacher is found where each of its units has one
of the student in its direction, up to sign, and a loss that can be zero is zero.  (The e(Q) of Ge, Lee & Ma is no
criterion: it is 0, too, where two units of the student share one of the teacher, and another is missed.)  Where all
a* = 1, hermite24 and hermite4 keep their units at length 1, as in the paper; elsewhere lengths stand for a*.

Gradient descent takes far more steps.  It finds relu's teacher about as often (Safran & Shamir: 65 % at k = 10; L-BFGS:
68 % of 200 starts).  Of normal teachers G finds none, but most runs with (0.01, 100) and k >= 10 are still moving after
`MOST` steps.  The trained skip, even and hermite24 miss one of them, at k = 5: even stops next to a nearly flat saddle.
``python -m figures.designed`` prints the table, with the runs that had not come to rest.
Half an hour on two cores, most of it for k = 30.
"""

import itertools
import multiprocessing

import numpy as np
from scipy.optimize import minimize

import resgrad as rg
from resgrad.gelee_ma import missed
from resgrad.runs import plots

SIZES, RUNS, MOST = (5, 10, 15, 20, 30), 200, 5000
FOUND = 1e-3  # 1 - |cos|: zeros come out below 1e-6, others above 1e-2
ZERO = 1e-8  # of the loss at the start: a loss this small is zero
REST = 1e-6  # of |grad| at the start: a run with a larger one at its end had not come to rest
COLORS = {
    "relu": plots.COLORS["vanilla"], "relu, trained skip": plots.COLORS["li"], "even": plots.COLORS["two-weight"],
    "hermite24": plots.COLORS["resnet"], "hermite4": plots.COLORS["modresnet"], "G(0.1, 1)": plots.INK,
    "G(0.01, 100)": plots.FAINT,
}  # fmt: skip
TEACHERS = {
    "orthonormal": "orthonormal, a* = 1", "strengths": "orthonormal, a* from 1 to 8",
    "normal": "normal, anew in each run"
}  # fmt: skip


def problem(name, kind, k, rng):
    """(loss, theta -> the student's units as rows, the teacher's units)."""
    units = {
        "orthonormal": lambda: np.eye(k), "strengths": lambda: np.diag(np.linspace(1, 8, k)),
        "normal": lambda: rng.normal(0, k**-0.5, (k, k)),
    }[kind]()  # fmt: skip
    teacher = rg.Network("vanilla", units.T.ravel(), k)
    if name.startswith("G"):
        loss = rg.GeLeeMaLoss(teacher, *map(float, name[2:-1].split(",")))
        return loss, lambda theta: theta.reshape(k, k), units
    if name in ("hermite24", "hermite4"):
        loss = rg.KernelLoss("vanilla", teacher, name, unit_rows=kind == "orthonormal")
    else:
        arch = {"relu": "vanilla", "even": "even"}.get(name, "vanilla-free")
        loss = rg.PopulationLoss(arch, rg.Network(arch if arch == "even" else "vanilla", teacher.theta, k))
    return loss, lambda theta: theta[: k * k].reshape(k, k).T, units


def outcome(name, kind, k, seed):
    """Whether the run found the teacher, missed it, or was still moving."""
    streams = rg.streams(seed)
    loss, rows, units = problem(name, kind, k, streams.teacher)
    theta0 = streams.init.normal(0, k**-0.5, k * k)
    if name == "relu, trained skip":
        theta0 = np.append(theta0, np.zeros(k))
    options = {"maxiter": MOST, "maxfun": 2 * MOST, "gtol": 1e-10, "ftol": 0, "maxcor": 20}
    end = minimize(loss.value_and_grad, theta0, jac=True, method="L-BFGS-B", options=options).x
    slope, zero = np.linalg.norm(loss.grad(theta0)), loss.value(end) < ZERO * loss.value(theta0)
    if (zero or name.startswith("G")) and missed(rows(end), units) < FOUND:
        return "found"
    return "missed" if np.linalg.norm(loss.grad(end)) < REST * slope else "moving"


def measured():
    """{(kind of teacher, loss, k): outcomes of the runs}."""
    points = list(itertools.product(TEACHERS, COLORS, SIZES))
    with multiprocessing.get_context("spawn").Pool() as pool:
        runs = pool.starmap(outcome, [(name, kind, k, seed) for kind, name, k in points for seed in range(RUNS)])
    return {point: runs[n * RUNS : (n + 1) * RUNS] for n, point in enumerate(points)}


def table(found):
    """The shares, for people."""
    told = f"found (of the rest: still moving), % of {RUNS}"
    lines = [f"{told:44}" + "".join(f"{f'k = {k}':>12}" for k in SIZES)]
    for kind in TEACHERS:
        for name in COLORS:
            counts = ([found[kind, name, k].count(what) for what in ("found", "moving")] for k in SIZES)
            shown = ("{:.1f} ({:.1f})".format(*(100 * count / RUNS for count in pair)) for pair in counts)
            lines.append(f"{TEACHERS[kind]:30}{name:20}" + "".join(f"{cell:>12}" for cell in shown))
    return "\n".join(lines)


def draw():
    found = measured()
    told = f"{RUNS} starts a point from N(0, 1/d), L-BFGS on the exact loss"
    with plots.figure(3, height=3.8, sharey=True, caption=told) as (picture, panels):
        for axes, kind in zip(panels, TEACHERS):
            for n, (name, color) in enumerate(COLORS.items()):
                shares = [found[kind, name, k].count("found") / RUNS for k in SIZES]
                width = 1 + 0.6 * (len(COLORS) - n)  # all are seen
                axes.plot(SIZES, shares, "-o", ms=3, lw=width, color=color, label=name)
            axes.set(xlabel="units k = dimension", ylim=(-0.03, 1.03), title=TEACHERS[kind], xticks=SIZES)
            axes.yaxis.set_major_formatter("{x:.0%}")
        panels[0].set_ylabel("starts that find the teacher")
        lines = panels[0].get_legend_handles_labels()
        picture.legend(*lines, loc="outside lower center", ncols=len(COLORS), fontsize=8)
        return picture


if __name__ == "__main__":
    print(table(measured()))
