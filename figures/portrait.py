"""A portrait of training: the units of five networks as arrows in the plane, from the start to a minimum.

One teacher for all five (open arrows), d = 2, two units; gradient descent on the exact expected loss.  Above are the
units u, below them their read-outs a, the rows of W2; thin lines are the paths of their tips.  Dotted is what rescaling
makes of the teacher, and for ``two-weight`` the rows that have the sum which the unit's length asks for.  Gray is the
trained skip.  ``python -m figures portrait`` also writes ``portrait.gif``, which moves.
"""

import functools

import numpy as np

import resgrad as rg
from resgrad.runs import plots

SEED, LR, STEPS = 0, 0.02, 4000
ARCHS = {  # the start, and what a reader sees
    "li": ("small", "the teacher itself"),
    "resnet": ("small", "permuted, rescaled"),
    "two-weight": ("small", "rescaled, sums of W2"),
    "modresnet": ("small", "rescaled"),
    "vanilla-free": ("normal", "a unit reversed"),
}
U_STAR = np.array([[1.7, -0.5], [0.6, 0.9]])  # units are columns
W2_STAR = np.array([[1.1, -0.2], [-0.3, -1.3]])  # their read-outs are rows
SHADES = ("#332288", "#CC8800")  # of the two units
FRAMES, LAST, PER_SECOND, DPI = 64, 24, 12, 100  # the last frame stands for `LAST` frames
WIDE, UNITS, READOUTS = np.array([-1.95, 1.95]), (-0.9, 1.5), (-1.4, 1.0)  # what the planes show
FLOOR = 1e-12  # of the losses that are shown


@functools.cache
def trained(name):
    """(steps, loss, units, read-outs, skip) of a run, one row a frame; a read-out that is fixed is None."""
    arch, init, d = rg.ARCHITECTURES[name], ARCHS[name][0], len(U_STAR)
    blocks = {"W1": U_STAR - arch.identity * np.eye(d)} | ({"W2": W2_STAR} if arch.trains_readout else {})
    blocks |= {"C": arch.skip_map(d)} if arch.trains_skip else {}
    loss = rg.PopulationLoss(arch, rg.Network(arch, arch.flatten(**blocks), d))
    start = rg.draw(arch, init, d, rng=rg.streams(SEED).init)
    run = rg.train(loss, start, rg.SGD(LR), STEPS, record_every=1, observe={"theta": lambda theta: theta})
    shown = np.append(0, np.unique(np.geomspace(4, STEPS, FRAMES - 1).astype(int)))
    networks = [rg.Network(arch, theta, d) for theta in run.observed["theta"][shown]]
    units, readouts, skips = zip(*((net.canonical()[0].T, net.W2, net.canonical()[2][:, :1].T) for net in networks))
    return shown, run.loss[shown], np.array(units), np.array(readouts) if arch.trains_readout else None, np.array(skips)


def arrow(axes, tip, color, **options):
    """An arrow from the origin, whose tip ``set_UVC`` moves."""
    options = {"headwidth": 3.6, "headlength": 4.2, "headaxislength": 4.2, "width": 0.032, "minlength": 0.1} | options
    return axes.quiver(0, 0, *tip, color=color, angles="xy", scale_units="xy", scale=1, **options)


def plane(axes, stars, paths, high, rays):
    """Draw the teacher's arrows; [(path, arrow, track)] of the student's units, to be moved."""
    axes.set(xlim=WIDE, ylim=high)
    moving = []
    for star, path, color in zip(stars, paths.transpose(1, 0, 2), SHADES):
        if rays:
            axes.plot(*np.outer(star, [0, 9]), color=color, lw=1, ls=":")
        arrow(axes, star, color, facecolor="none", edgecolor=color, linewidth=1, width=0.05, zorder=4)
        (track,) = axes.plot(*path.T, color=color, lw=0.9, alpha=0.6)
        moving.append((path, arrow(axes, path[-1], color, zorder=3), track))
    return moving


def column(name, upper, lower, below):
    """Draw one network; the function that shows it in the frame of a number."""
    arch, (steps, loss, units, readouts, skips) = rg.ARCHITECTURES[name], trained(name)
    upper.set_title(name, weight="bold", pad=16)
    upper.text(0, 1.04, ARCHS[name][1], transform=upper.transAxes, fontsize=8.5).set_in_layout(False)
    for axes in (upper, lower):
        axes.set(aspect="equal", xticks=[0], yticks=[0])
        axes.tick_params(labelbottom=False, labelleft=False, length=0)
    moving, lines = plane(upper, U_STAR.T, units, UNITS, arch.trains_readout), []
    if arch.trains_skip:
        (track,) = upper.plot([], [], color=plots.FAINT, lw=0.9)
        moving.append((skips[:, 0], arrow(upper, skips[-1, 0], plots.FAINT, zorder=2), track))
    if arch.trains_readout:
        moving += plane(lower, W2_STAR, readouts, READOUTS, arch.readout == "vector")
        lines = [lower.plot([], [], color=color, lw=1, ls=":")[0] for color in SHADES if arch.readout == "sum"]
    else:
        lower.spines[:].set_visible(False)
        lower.grid(False)
        lower.text(0.5, 0.5, "all are 1, fixed", transform=lower.transAxes, ha="center", fontsize=8.5)
    below.plot(1 + steps, loss, color=plots.FAINT, lw=0.9)
    (past,), (now,) = below.plot([], [], color=plots.INK), below.plot([], [], "o", color=plots.INK, ms=4)
    below.set(xscale="log", yscale="log", xlim=(1, STEPS), ylim=(FLOOR, 1e2), yticks=[1e-10, 1e-5, 1], xlabel="step")
    below.set_xticks([1, 10, 100, 1000], ["1", "10", "100", "1k"])
    below.minorticks_off()
    sums = W2_STAR.sum(axis=1) * np.linalg.norm(U_STAR, axis=0)  # a |u| of the teacher's units

    def show(frame):
        for path, tip, track in moving:
            tip.set_UVC(*path[frame])
            track.set_data(*path[: frame + 1].T)
        for line, total, u in zip(lines, sums, units[frame]):
            line.set_data(WIDE, total / np.linalg.norm(u) - WIDE)
        past.set_data(1 + steps[: frame + 1], loss[: frame + 1])
        now.set_data([1 + steps[frame]], [loss[frame]])

    return show


def portrait():
    """(picture, the function that shows the frame of a number), at the last frame."""
    grid = {"rows": 3, "height": 4.0, "height_ratios": (1, 1, 0.75), "sharex": "row", "sharey": "row"}
    with plots.figure(len(ARCHS), **grid) as (picture, rows):
        shows = [column(name, *axes) for name, axes in zip(ARCHS, rows.T)]
        for axes, label in zip(rows[:, 0], ("units u", "read-outs a", "expected loss")):
            axes.set_ylabel(label)

        def show(frame):
            for one in shows:
                one(frame)

        show(len(trained("li")[0]) - 1)
    return picture, show


def draw():
    return portrait()[0]


def animate(path):
    """Write the moving picture."""
    from matplotlib.animation import PillowWriter

    (picture, show), last = portrait(), len(trained("li")[0]) - 1
    writer = PillowWriter(PER_SECOND)
    with plots.style(), writer.saving(picture, path, DPI):
        for frame in [*range(last), *[last] * LAST]:
            show(frame)
            writer.grab_frame()
