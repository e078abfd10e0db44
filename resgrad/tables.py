"""Tables in HTML, for notebooks and for the pages of runs.  They have no colors, so that they suit any theme."""

import html

import numpy as np


def table(rows, caption=""):
    """The rows, the first of which has the headings, as a table in HTML; all text is escaped."""
    tags = ["th"] + ["td"] * len(rows)
    cells = ("".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in row) for tag, row in zip(tags, rows))
    title = f"<caption>{html.escape(caption)}</caption>" * bool(caption)
    return f"<table>{title}" + "\n".join(f"<tr>{row}</tr>" for row in cells) + "</table>"


def cell(value):
    """The text for a value: 4 digits of a float, all of an integer, the shape of an array."""
    if np.ndim(value):
        return f"shape {np.shape(value)}"
    return f"{value:.4g}" if np.asarray(value).dtype.kind == "f" else str(value)
