"""``python -m figures.seeds`` prints the README's two tables over seeds (minutes), as rows of Markdown.

One run of every architecture, the post's with one kind of teacher, twenty seeds each; and the published protocol,
twelve.  No picture.
"""

import numpy as np

import resgrad as rg
from resgrad.runs.protocol import command_line, resolve, simulate, table
from resgrad.runs.report import ZERO

from . import UNIFORM, li
from .modresnet import SEEDS as NOTEBOOK_SEEDS

SEEDS = 20  # of every architecture
LOSS_AT, DISTANCE_AT = (250, 500, 5000, 10_000), (0, 10_000, 50_000)
NONE = 1e-6  # a distance below this is rounding


def span(values, digits=None):
    """The smallest and the largest of ``values``, with as many digits as the smallest asks for."""
    low, high = min(values), max(values)
    if digits is None:
        digits = 2 if low < 1 else 1 if low < 10 else 0
    ends = ["0" if x < 5e-4 else f"{x:.1g}" if x < 5e-3 else f"{x:.{digits}f}" for x in (low, high)]
    return "–".join(dict.fromkeys(ends))


def apart(values, told, digits=None):
    """`span` of ``values``, but those that are none in words, first."""
    some = [x for x in values if x > NONE]
    if len(some) == len(values):
        return span(values, digits)
    rest = f", but {span(some, digits)} in {len(some)} of {len(values)}" if some else ""
    return told(max(x for x in values if x <= NONE)) + rest


def end(arch, seed):
    """(trajectory, zero loss?, units moved, where it ends otherwise) of a run."""
    config = resolve(arch, seed=seed, **UNIFORM.get(arch, {}))
    trajectory, teacher = simulate(config)
    loss = trajectory.observed["population_loss"]
    if loss[-1] < ZERO * loss[0]:
        return trajectory, True, rg.align(arch, trajectory.theta, teacher.theta, config.d).units_moved, None
    verdict = rg.polish(rg.PopulationLoss(arch, teacher), trajectory.theta).verdict
    return trajectory, False, None, "spurious minima" if verdict == "spurious minimum" else "not done"


def row(arch):
    """Its options tell what command each run is, but for ``--seed``."""
    config = resolve(arch, **UNIFORM.get(arch, {}))
    options = command_line(config).partition("--arch ")[2]
    runs = [end(arch, seed) for seed in range(SEEDS)]
    zero, others = [run for run in runs if run[1]], [run[3] for run in runs if not run[1]]
    counts = "".join(f"; {others.count(name)} {name}" for name in dict.fromkeys(others))
    distances = [run[0].observed["distance"][-1] for run in zero]
    raw = apart(distances, lambda x: f"below 1e{int(np.ceil(np.log10(x)))}")
    moved = apart([run[2] for run in zero], lambda _: "none", digits=0)
    return f"| `{options}` | {config.teacher} | {len(zero)} of {SEEDS}{counts} | {raw} | {moved} |"


def li_row():
    """The distance of W1 alone, which the notebook logs: its network has a bias, too."""
    runs = [li.published(seed)[:2] for seed in range(NOTEBOOK_SEEDS)]
    found = np.transpose([distance[np.searchsorted(steps, DISTANCE_AT)] for steps, distance in runs])
    return f"| `li`, ‖W1 − W1*‖ at {', '.join(f'{t:,}' for t in DISTANCE_AT)} | {', '.join(map(span, found))} |"


def notebook_rows(arch):
    runs = [simulate(resolve(arch, "notebook", seed=seed)) for seed in range(NOTEBOOK_SEEDS)]
    histories = [table(trajectory) for trajectory, _ in runs]

    def ranges(column, steps):
        at = np.searchsorted(histories[0]["step"], steps)
        return ", ".join(span(values) for values in np.transpose([history[column][at] for history in histories]))

    yield f"| `{arch}`, loss at {', '.join(f'{t:,}' for t in LOSS_AT)} | {ranges('loss', LOSS_AT)} |"
    steps = (0, 50_000)
    yield f"| `{arch}`, raw distance at {', '.join(f'{t:,}' for t in steps)} | {ranges('distance', steps)} |"
    swapped = [np.concatenate([teacher.W1.T.ravel(), teacher.W2.T.ravel()]) for _, teacher in runs]
    far = [np.linalg.norm(trajectory.theta - theta) for (trajectory, _), theta in zip(runs, swapped)]
    yield f"| `{arch}`, distance from the transposed teacher at 50,000 | {span(far)} |"


if __name__ == "__main__":
    print(f"| figure | {NOTEBOOK_SEEDS} seeds |\n|---|---|")
    print(li_row(), flush=True)
    for arch in ("two-weight", "modresnet"):
        print(*notebook_rows(arch), sep="\n", flush=True)
    print("\n| `--arch` | teacher | zero loss | raw distance at the end | units permuted |\n|---|---|---|---|---|")
    for arch in rg.ARCHITECTURES:
        print(row(arch), flush=True)
