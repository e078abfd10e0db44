"""Pictures.  The only file that imports matplotlib, and only inside functions; nothing of resgrad.

One color per architecture, everywhere (Okabe & Ito's, safe for the color-blind).
"""

import contextlib

import numpy as np

COLORS = {
    "li": "#0072B2",
    "resnet": "#D55E00",
    "two-weight": "#009E73",
    "modresnet": "#CC79A7",
    "vanilla": "#56B4E9",
    "resnet-sum": "#E69F00",
    "modresnet-sum": "#6A51A3",
}
INK, FAINT = "#222222", "#8a8a8a"
STYLE = {
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "axes.grid.which": "major",
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "figure.dpi": 100,
    "savefig.dpi": 150,
    "svg.hashsalt": "resgrad",
}
WIDE, TALL = 9.0, 2.9  # inches: one width for all pictures, so that their letters are of one size on a page
FLOOR = 1e-34  # log axes end here, below everything a double can tell from zero


@contextlib.contextmanager
def figure(columns=2, width=WIDE, height=TALL, **options):
    """A styled (figure, axes); needs no display."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        picture = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(picture)
        yield picture, picture.subplots(1, columns, **options)
        picture.draw_without_rendering()
        picture.set_layout_engine("none")  # another rendering would move the axes a little


def image(picture, kind="png"):
    """The bytes of a ``kind``, "png" or "svg", the same for the same picture."""
    import io

    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context(STYLE):
        picture.savefig(buffer, format=kind, metadata={{"png": "Software", "svg": "Date"}[kind]: None})
    return buffer.getvalue()


def decades(axes, values):
    """A log y axis that spans the positive ``values``, with room above and below."""
    values = np.concatenate([np.ravel(v) for v in values]).astype(float)
    values = values[np.isfinite(values) & (values > 0)]
    if values.size:
        axes.set_yscale("log")
        bottom = max(values.min(), FLOOR)
        axes.set_ylim(bottom / 3, max(values.max(), 10 * bottom) * 3)


def tag(axes, x, y, text, color, **options):
    """A label at a point of a curve, instead of a legend."""
    options = {"xytext": (0, 6), "textcoords": "offset points", "ha": "right", "va": "bottom"} | options
    axes.annotate(text, (x, y), color=color, fontsize=8.5, **options)


def steps_axis(axes, steps):
    """The x axis of a training curve."""
    axes.set_xlabel("step")
    axes.set_xlim(0, max(steps[-1], 1))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k" if value >= 1000 else f"{value:g}")
    axes.locator_params(axis="x", nbins=4)


def run_figure(history, title, color):
    """PNG bytes: loss and distances of one run against the step.

    ``history`` maps the columns of ``history.csv`` to arrays.
    """
    steps = history["step"]
    with figure() as (picture, (left, right)):
        left.plot(steps, history["loss"], color=color, label="on the batches drawn", alpha=0.55)
        left.plot(steps, history["population_loss"], color=INK, lw=1.2, label="expected")
        decades(left, [history["loss"], history["population_loss"]])
        left.set_title("loss")
        right.plot(steps, history["distance"], color=color, ls="--", label="raw")
        right.plot(steps, history["aligned_distance"], color=color, label="modulo symmetry")
        decades(right, [history["distance"], history["aligned_distance"]])
        right.set_title("distance from the teacher")
        for axes in (left, right):
            steps_axis(axes, steps)
            axes.legend(loc="best")
        picture.suptitle(title, x=0.01, ha="left", fontsize=11, color=INK)
        return image(picture)
