"""In which degrees a loss sits: along two runs of Safran & Shamir's, and at their most frequent spurious minimum.

``python -m figures.degrees`` prints the shares at that minimum.
"""

import numpy as np

import resgrad as rg
from resgrad.runs import plots

D, MOST = 10, 20_000
ENDS = {6: "a run into the spurious minimum", 0: "a run to the teacher"}  # by the seed of its start
DEGREES = {0: "#8a8a8a", 1: "#0072B2", 2: "#D55E00", 4: "#009E73", 6: "#CC79A7"}  # the odd ones from 3 on are empty
MORE = "#222222"


def problem():
    """(loss, the most frequent spurious minimum, polished)."""
    loss = rg.PopulationLoss("vanilla", rg.Network("vanilla", np.eye(D).ravel(), d=D))
    run = rg.train(loss, rg.draw("vanilla", "normal", D, rng=6), rg.SGD(0.05), MOST)
    return loss, rg.polish(loss, run.theta)


def parts(loss, theta):
    """The parts of `DEGREES`, and of all that are higher."""
    found = rg.hermite_spectrum(loss, theta, max(DEGREES))
    return np.append(found.parts[list(DEGREES)], found.rest)


def table():
    loss, point = problem()
    found = parts(loss, point.theta)
    lines = [f"{point.verdict}, loss {point.loss:.10f} ({point.loss / 2:.10f} with a factor 1/2)"]
    for degree, part in zip([*map(str, DEGREES), f"above {max(DEGREES)}"], found):
        lines.append(f"degree {degree:8}{part:16.3e}{part / point.loss:10.2%}")
    return "\n".join(lines)


def draw():
    loss, point = problem()
    shares, colors = parts(loss, point.theta) / max(point.loss, plots.FLOOR), [*DEGREES.values(), MORE]
    names = [*map(str, DEGREES), f"> {max(DEGREES)}"]
    told = f"vanilla, d = {D}, teacher $W1^* = I$, gradient descent with lr 0.05 on the exact expected loss"
    with plots.figure(3, height=3.3, width_ratios=(1.2, 1.2, 0.8), caption=told) as (picture, panels):
        for axes, (seed, title) in zip(panels, ENDS.items()):
            start = rg.draw("vanilla", "normal", D, rng=seed)
            run = rg.train(loss, start, rg.SGD(0.05), MOST, observe={"parts": lambda theta: parts(loss, theta)})
            for name, color, part in zip(names, colors, run.observed["parts"].T):
                axes.plot(1 + run.steps, np.maximum(part, 1e-18), color=color, label=name, lw=1.4)
            axes.set(xscale="log", yscale="log", ylim=(1e-8, 1e2), xlabel="1 + step", title=title)
        panels[0].set_ylabel("part of the loss")
        panels[1].legend(title="degree", ncols=2, fontsize=8, loc="lower left")
        bars = panels[2].barh(names, shares, color=colors, height=0.6)
        panels[2].bar_label(bars, fmt=lambda share: f"{share:.1%}", padding=3, fontsize=8.5)
        panels[2].invert_yaxis()
        panels[2].set(xlim=(0, 0.75), ylabel="degree", title="at that minimum", xticks=[])
        panels[2].grid(False)
        return picture


if __name__ == "__main__":
    print(table())
