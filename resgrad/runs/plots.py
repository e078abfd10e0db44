"""Pictures, panel by panel, for runs and for `resgrad.plots`; matplotlib is imported inside functions only.

Each architecture has one color in all pictures, from Okabe & Ito's palette, which is safe for the color-blind.
"""

import contextlib
import io
import threading

import numpy as np

from .. import checks
from . import command, files

COLORS = {
    "li": "#0072B2", "resnet": "#D55E00", "two-weight": "#009E73", "modresnet": "#CC79A7", "vanilla": "#56B4E9",
    "resnet-sum": "#E69F00", "modresnet-sum": "#6A51A3",
    "li-free": "#003E66", "resnet-free": "#8A3A00", "two-weight-free": "#00573F", "modresnet-free": "#7D3F66",
    "vanilla-free": "#1B5E85", "even": "#B07A00", "li-bias": "#3F7FBF",
}  # fmt: skip
INK, FAINT, GRID = "#222222", "#8a8a8a", "#e4e4e4"
STYLE = {
    "font.size": 9.5, "axes.titlesize": 9.5, "axes.titlelocation": "left", "axes.spines.top": False,
    "axes.spines.right": False, "axes.edgecolor": FAINT, "axes.labelcolor": INK, "text.color": INK,
    "xtick.color": INK, "ytick.color": INK, "axes.grid": True, "axes.grid.which": "major", "grid.color": GRID,
    "grid.linewidth": 0.6, "lines.linewidth": 1.8, "legend.frameon": False, "figure.dpi": 100, "savefig.dpi": 150,
    "svg.hashsalt": "resgrad",
}  # fmt: skip
WIDE, TALL = 9.0, 2.9  # inches: one width for all pictures, so that their letters have one size on a page
CELLS = 300  # of a heatmap: more are drawn as one image instead of a path for each
ALONE = threading.RLock()  # matplotlib's settings belong to all threads
APART = ("distance", "aligned_distance", "missed")  # columns of a history that `distances` draws
CEILING = 1e34  # that of a run that diverges: matplotlib has no ticks for an axis of 300 decades
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
FLOOR = 1e-34  # the end of log axes: a float64 cannot tell smaller losses from zero


@contextlib.contextmanager
def style(**more):
    """Matplotlib's defaults with `STYLE` and ``more``, whatever the user's matplotlibrc says."""
    import matplotlib

    with ALONE, matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE | more)
        yield


def blank(columns=2, width=WIDE, height=TALL, rows=1, **options):
    """(figure, axes) without a display; its layout is computed when it is saved."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    picture = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(picture)
    return picture, picture.subplots(rows, columns, **options)


@contextlib.contextmanager
def figure(*size, caption="", **options):
    """`blank` in `style`, with a ``caption``; its layout is computed at the end, and stays."""
    with style():
        picture, axes = blank(*size, **options)
        if caption:
            picture.suptitle(caption, x=0.01, ha="left", fontsize=STYLE["axes.titlesize"])
        yield picture, axes
        picture.draw_without_rendering()
        picture.set_layout_engine("none")  # else another rendering moves the axes a little


def image(picture, kind="png", salt=STYLE["svg.hashsalt"]):
    """The picture as bytes, always the same ones for the same picture.

    ``kind`` is "png", "svg", or "inline": an SVG for a page, without background and with the page's own letters.
    The ids in an SVG depend on the ``salt``: pictures with different ones can stand in one page.
    """
    buffer, inline = io.BytesIO(), kind == "inline"
    with style(**{"svg.fonttype": "none" if inline else "path", "svg.hashsalt": salt}):
        form, changing = ("png", "Software") if kind == "png" else ("svg", "Date")
        picture.savefig(buffer, format=form, transparent=inline, metadata={changing: None})
    return buffer.getvalue()


def leave(path, draw, *content):
    """Write what ``draw(*content)`` returns to ``path``.

    If it fails, for lack of fonts or memory, one line on standard error says so; only the picture is lost.
    """
    try:
        drawn = draw(*content)
    except Exception as error:
        path.unlink(missing_ok=True)  # an older picture would be that of another run
        return command.tell(f"{path.name} is left out, as it cannot be drawn", checks.reason(error))
    files.write(path, drawn)


def decades(axes, values):
    """Make the y axis logarithmic, and let it span the positive ``values`` with a margin."""
    values = np.concatenate([np.ravel(v) for v in values]).astype(float)
    values = values[np.isfinite(values) & (values > 0)]
    if values.size:
        bottom = max(values.min(), FLOOR)
        axes.set_ylim(bottom / 3, max(min(values.max(), CEILING), 10 * bottom) * 3)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(power_of_ten)  # matplotlib's own reads TeX, which takes a run 0.1 s


def power_of_ten(value, _):
    """The label of a tick of a log axis, in letters that every font has."""
    return "10" + f"{round(np.log10(value))}".translate(RAISED) if value > 0 else ""


def tag(axes, x, y, text, color, **options):
    """A label at a point of a curve, instead of a legend."""
    options = {"xytext": (0, 6), "textcoords": "offset points", "ha": "right", "va": "bottom"} | options
    axes.annotate(text, (x, y), color=color, fontsize=8.5, **options)


def steps_axis(axes, steps):
    """The x axis of a training curve; the "steps" of gradient flow are times."""
    whole = np.issubdtype(np.asarray(steps).dtype, np.integer)
    axes.set_xlabel("step" if whole else "time")
    axes.set_xlim(0, max(steps[-1], 1) if whole else steps[-1])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k" if value >= 1000 else f"{value:g}")
    axes.locator_params(axis="x", nbins=4)


def losses(axes, history, color):
    """The losses of a run against the step."""
    drawn = {"loss": {"color": color, "label": "on the batches drawn"}}
    if "population_loss" in history:
        drawn["loss"]["alpha"] = 0.55
        drawn["population_loss"] = {"color": INK, "lw": 1.2, "label": "expected"}
    if "excess_loss" in history:
        drawn["excess_loss"] = {"color": INK, "lw": 1.2, "ls": "--", "label": "without the labels' noise"}
    _curves(axes, "loss", history, **drawn)


def distances(axes, history, color):
    """The distances of a run against the step; of a run without them, how far the teacher's units are missed."""
    if "missed" in history:
        return _curves(axes, "1 - |cos|", history, missed={"color": color, "label": "teacher's unit missed most"})
    drawn = {"distance": {"color": color, "ls": "--", "label": "raw"}}
    drawn |= {"aligned_distance": {"color": color, "label": "modulo symmetry"}}
    drawn = {name: style for name, style in drawn.items() if name in history}
    _curves(axes, "distance from the teacher", history, **drawn)


def _curves(axes, title, history, **columns):
    """Columns of ``history`` against the step; each is given its style."""
    alone = {"marker": "."} if len(history["step"]) == 1 else {}
    for name, style in columns.items():
        axes.plot(history["step"], history[name], **style | alone)
    decades(axes, [history[name] for name in columns])
    steps_axis(axes, history["step"])
    if list(columns) != ["loss"]:
        axes.legend(loc="best")
    axes.set_title(title)


def eigenvalues(axes, values, predicted, color, index=0):
    """Sizes of a Hessian's eigenvalues by rank; those that symmetry predicts to vanish in gray.

    The ``index`` lowest, if any, are marked as negative.
    """
    floor = 1e-18
    lowest = np.isin(np.arange(values.size), np.argsort(values)[:index])[np.argsort(-np.abs(values), kind="stable")]
    values = np.sort(np.maximum(np.abs(values), floor))[::-1]
    rank, regular = np.arange(1, values.size + 1), values.size - predicted
    axes.axvspan(regular + 0.5, values.size + 0.5, color=GRID, lw=0)
    axes.plot(rank[:regular], values[:regular], ".", color=color, ms=5)
    axes.plot(rank[regular:], values[regular:], ".", color=FAINT, ms=5)
    if index:
        axes.plot(rank[lowest], values[lowest], "v", color=color, ms=7, mfc="none", label="negative")
        axes.legend(loc="lower left")
    axes.set(yscale="log", ylim=(floor / 5, max(1e5, 10 * values[0])), xlim=(0.5, values.size + 0.5), xlabel="rank")
    axes.set_title("|eigenvalue| of the Hessian")


def run_figure(history, arch, d):
    """PNG bytes: loss and distances of one run against the step; ``history`` has the columns of ``history.csv``."""
    color = COLORS.get(arch.name, INK)
    with style():
        picture, (left, right) = blank()
        losses(left, history, color)
        distances(right, history, color)
        picture.suptitle(f"{arch.name}: {arch.formula}, d = {d}", x=0.01, ha="left", fontsize=11, color=INK)
        return image(picture)


def overlaps(axes, cosines, order):
    """Cosines of student units, the rows, and teacher units as colors; ``order`` names the rows."""
    corners = (np.arange(length + 1) - 0.5 for length in reversed(cosines.shape))
    axes.axvspan(-0.5, cosines.shape[1] - 0.5, color="#f7f7f7", lw=0)  # else a dark page shows between the cells
    mesh = axes.pcolormesh(*corners, cosines, cmap="RdBu", vmin=-1, vmax=1, rasterized=cosines.size > CELLS)
    axes.figure.colorbar(mesh, ax=axes, ticks=[-1, 0, 1], fraction=0.05).outline.set_visible(False)
    axes.set(aspect="equal", xlabel="teacher unit", ylabel="student unit")
    axes.invert_yaxis()
    axes.grid(False)
    ticks = [range(0, length, -(-length // 10)) for length in cosines.shape]
    axes.set_yticks(ticks[0], [str(order[row]) for row in ticks[0]])
    axes.set_xticks(ticks[1])
    axes.tick_params(length=0)


def outcomes(axes, found, labels):
    """The shares of the outcomes of a `Census`, with their 95 % intervals."""
    shades, rows = _shades(found), range(len(labels))
    share, low, high = np.transpose([found.share(name) for name in labels])
    axes.barh(rows, share, 0.6, color=[shades[name] for name in labels])
    sides = np.maximum([share - low, high - share], 0)  # rounding may make one negative
    axes.errorbar(share, rows, xerr=sides, fmt="none", ecolor=FAINT, elinewidth=1.5, capsize=4)
    for row, name in enumerate(labels):
        tag(axes, high[row], row, f"{found.counts[name]:,}", INK, xytext=(5, 0), ha="left", va="center")
    axes.set_yticks(rows, labels.values())
    axes.set(xlim=(0, 1.12), xlabel=f"share of {found.counts['runs']:,} runs, 95 % interval", axisbelow=True)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
    axes.grid(axis="y", visible=False)
    axes.invert_yaxis()


def _shades(found):
    """The color of each outcome of a `Census`."""
    color = COLORS.get(found.config.arch, INK)
    return {"global": "#b5b5b5", "spurious": color, "saddle": INK, "unconverged": "#e4d9a8", "failed": "#e4d9a8"}


def census_figure(found, outcomes):
    """PNG bytes: the final losses of a `Census`, the most frequent families marked; ``outcomes`` has the labels."""
    with style():
        picture, axes = blank(1, height=3.6)
        final_losses(axes, found, outcomes)
        return image(picture)


def final_losses(axes, found, outcomes):
    """The panel of `census_figure`."""
    shades = _shades(found)
    seen = [name for name in outcomes if found.counts[name]]
    other = found.loss[np.isfinite(found.loss) & (found.outcome != "global") & (found.loss > 0)]
    low, high = other.min(initial=1.0) / 4, 4 * max(other.max(initial=0.0), 1e-300)
    bins = np.geomspace(low, max(high, 4 * low), 120)
    kinds = [np.clip(found.loss[found.outcome == name], bins[0], bins[-1]) for name in seen]
    label = [f"{outcomes[name]}: {found.counts[name]:,}" for name in seen]
    axes.hist(kinds, bins, histtype="barstacked", color=[shades[name] for name in seen], label=label)
    axes.set(xscale="log", yscale="log", ylim=(0.7, 8 * max(found.counts["runs"], 2)), ylabel="runs",
             xlabel="final loss (zero: the leftmost bar)", axisbelow=True)  # fmt: skip
    for n, family in enumerate(found.families[:6]):
        height = 1.3 * sum(m["count"] for m in found.families if abs(np.log(m["loss"] / family["loss"])) < 0.01)
        axes.plot(family["loss"], height, "v", color=INK, ms=4)
        tag(axes, family["loss"], height, str(n), INK, ha="center", xytext=(0, 4))
    axes.legend(ncols=2, loc="upper left")
