"""``modresnet`` under the notebook's protocol, which sums the outputs: loss to zero, distance not."""

from resgrad.runs import plots

from . import history

# The notebook's run (its own draw of teacher and start): mean loss of the 250 batches up to a step.
PUBLISHED_LOSS = {250: 130.1, 500: 6.59, 750: 4.12, 1000: 2.91, 1250: 2.13, 5000: 0.51, 10_000: 0.064}
PUBLISHED_DISTANCE = {0: 8.36, 50_000: 5.76}
SEEDS = 12


def draw(arch="modresnet"):
    runs, color = [history(arch, "notebook", seed=seed) for seed in range(SEEDS)], plots.COLORS[arch]
    steps = runs[0]["step"]
    with plots.figure(2) as (picture, (left, right)):
        for run in runs:
            left.plot(steps[1:], run["loss"][1:], color=color, lw=1, alpha=0.6)
            right.plot(steps, run["distance"], color=color, lw=1, ls=(0, (4, 2)))
            right.plot(steps, run["aligned_distance"], color=color, lw=1, alpha=0.6)
        left.plot(*zip(*PUBLISHED_LOSS.items()), "o", color=plots.INK, ms=4, zorder=3)
        right.plot(*zip(*PUBLISHED_DISTANCE.items()), "o", color=plots.INK, ms=4, clip_on=False, zorder=3)
        plots.decades(left, [run["loss"][1:] for run in runs])
        plots.decades(right, [run["distance"] for run in runs] + [run["aligned_distance"] for run in runs])
        right.set_ylim(top=200)
        plots.tag(right, 49_000, 5.76, "raw (dashed); dots: the post's run", plots.INK, xytext=(0, 8))
        plots.tag(right, 1500, 1e-8, "modulo symmetry", color, ha="left")
        left.set_ylabel("loss, mean of 250 batches")
        right.set_ylabel("distance from the teacher")
        for axes in (left, right):
            plots.steps_axis(axes, steps)
        left.set_title(f"{arch}, {SEEDS} seeds (dots: the post's run)")
        return picture
