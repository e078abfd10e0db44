"""``--report``: one run as one HTML page, complete in itself.  Imports ``plots``, ``landscape``, ``losses``.

Pictures are inline SVG whose ink and grid are CSS variables, so that they follow a dark mode.
"""

import html
import re

from . import landscape, losses, plots

LARGEST = 1000  # parameters for which Hessians are worth their seconds

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --ink: #222; --faint: #767676; --grid: #e4e4e4; --paper: #fff; --box: #f5f5f3 }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ink: #e6e6e6; --faint: #9a9a9a; --grid: #3a3a3a; --paper: #161616; --box: #232323 }}
}}
body {{ font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 62rem; margin: 0 auto; padding: 1rem }}
h1 {{ font-size: 1.5rem; margin: 0.5rem 0; border-left: 0.4rem solid {color}; padding-left: 0.6rem }}
h2 {{ font-size: 1.1rem; margin: 2rem 0 0.5rem }}
.pictures {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(19rem, 100%), 1fr)); gap: 1rem }}
figure {{ margin: 0 }}
figcaption, footer {{ color: var(--faint); font-size: 0.85rem }}
svg {{ width: 100%; height: auto }}
.scroll {{ overflow-x: auto }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums }}
td, th {{ padding: 0.2rem 1.2rem 0.2rem 0; text-align: left; border-bottom: 1px solid var(--grid) }}
pre {{ background: var(--box); padding: 0.8rem; overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{words}</p>
<div class="pictures">{pictures}</div>
<div class="pictures">
<section class="scroll"><h2>From start to end</h2>{numbers}</section>
<section class="scroll"><h2>Configuration</h2>{config}</section>
</div>
<h2>To reproduce</h2>
<pre>{commands}</pre>
<footer>{footer}</footer>
</body>
</html>
"""


def page(summary, history, theta, teacher, words, command):
    """The page, as text.

    Parameters
    ----------
    summary : dict
        What ``run.json`` holds.
    history : dict of str to ndarray
        The columns of ``history.csv``.
    theta : ndarray, shape (n,)
        The student at the end.
    teacher : Network
    words : str
        The verdict.
    command : str
        Makes the run again.
    """
    result, versions = summary["result"], summary["versions"]
    arch, color = teacher.arch, plots.COLORS.get(teacher.arch.name, plots.INK)
    panels = [
        ("Loss: on the batches drawn, and in expectation.", lambda axes: plots.losses(axes, history, color)),
        ("Distance of the parameters from the teacher's.", lambda axes: plots.distances(axes, history, color)),
    ]
    if theta.size <= LARGEST and not summary["stop_reason"].startswith("diverged"):
        loss = losses.PopulationLoss(arch, teacher)
        end = landscape.polish(loss, theta)
        found = landscape.spectrum(loss, end.theta)
        panels.append((
            f"The end, polished, is a {end.verdict}: its exact Hessian has {found.nullity} zero and {found.index} "
            f"negative eigenvalues of {theta.size}; symmetry predicts {found.predicted} zero ones (gray).",
            lambda axes: plots.eigenvalues(axes, found.eigenvalues, found.predicted, color),
        ))  # fmt: skip
    rows = [("", "start", "end")]
    for label, name in (
        ("loss", "loss"), ("expected loss", "population_loss"), ("distance from the teacher", "distance"),
        ("… modulo the symmetries", "aligned_distance"),
    ):  # fmt: skip
        rows.append((label, *(f"{history[name][n]:.4g}" for n in (0, -1))))
    rows.append(("units permuted", "", result["units_permuted"]))
    title = f"{arch.name}: F(x) = {arch.formula}"
    return PAGE.format(
        title=html.escape(title), color=color, words=html.escape(words), numbers=_table(rows),
        pictures="".join(_picture(caption, draw) for caption, draw in panels),
        config=_table([("parameter", "value"), *(row for row in summary["config"].items() if row[1] is not None)]),
        commands=html.escape(f"{command}\npython -m resgrad.experiment --verify --out DIR"),
        footer=html.escape(
            f"{result['steps']:,} steps in {result['seconds']:.2f} s; {summary['stop_reason']}. "
            + ", ".join(f"{name} {version}" for name, version in versions.items())
        ),
    )  # fmt: skip


def _picture(caption, draw):
    """A figure element: one panel, drawn by ``draw(axes)``."""
    with plots.figure(1, width=4.6, height=3.2) as (picture, axes):
        draw(axes)
    svg = plots.image(picture, "inline").decode()
    svg = re.sub('<g id="[^"]*"', "<g", svg[svg.index("<svg") :])  # ids are to be unique in a page
    for color, variable in ((plots.INK, "ink"), (plots.FAINT, "faint"), (plots.GRID, "grid")):
        svg = svg.replace(color, f"var(--{variable})")
    return f"<figure>{svg}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _table(rows):
    head, *body = ([html.escape("" if cell is None else str(cell)) for cell in row] for row in rows)
    lines = ["<tr>" + "".join(f"<th>{cell}</th>" for cell in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in body]
    return "<table>" + "\n".join(lines) + "</table>"
