"""``two-weight`` and ``modresnet`` under the notebook's protocol: loss to zero, distance not.

The notebook sums the outputs, so that the skip of student and teacher cancels: both are one run, drawn once.
"""

from resgrad.runs import plots

from . import history

# The notebook's run (its own draw of teacher and start): mean loss of the 250 batches up to a step.
PUBLISHED_LOSS = {250: 130.1, 500: 6.59, 750: 4.12, 1000: 2.91, 1250: 2.13, 5000: 0.51, 10_000: 0.064}
PUBLISHED_DISTANCE = {0: 8.36, 50_000: 5.76}
SEEDS = 12
PANELS = {  # column: title
    "loss": "loss, mean of 250 batches",
    "distance": "distance from the teacher, raw",
    "aligned_distance": "distance modulo symmetry",
}


def draw():
    runs, color = [history("modresnet", "notebook", seed=seed) for seed in range(SEEDS)], plots.COLORS["modresnet"]
    told = f"two-weight = modresnet summed: the post's protocol, d = 10, teachers $W^* \\sim U[0, 1)$, {SEEDS} seeds"
    with plots.figure(3, height=3.2, caption=f"{told}; dots: the post's run") as (picture, panels):
        for axes, (column, title) in zip(panels, PANELS.items()):
            first = int(column == "loss")  # at step 0 there is no batch before
            for run in runs:
                axes.plot(run["step"][first:], run[column][first:], color=color, lw=1, alpha=0.6)
            if column != "distance":
                plots.decades(axes, [run[column][first:] for run in runs])
            plots.steps_axis(axes, runs[0]["step"])
            axes.set_title(title)
        for axes, published in zip(panels, (PUBLISHED_LOSS, PUBLISHED_DISTANCE)):
            axes.plot(*zip(*published.items()), "o", color=plots.INK, ms=4, clip_on=False, zorder=3)
        panels[1].set_ylim(0, 10)
        plots.tag(panels[1], 49_000, PUBLISHED_DISTANCE[50_000], "the post's run, another draw", plots.INK)
        return picture
