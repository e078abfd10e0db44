"""What is said of a run: its summary in words and, with ``--report``, one HTML page without other files.

The pictures of the page are inline SVG.  Their ink and grid are CSS variables, so that they follow a dark mode.
"""

import functools
import html
import os
import re
from decimal import ROUND_CEILING, Context

import numpy as np

from .. import architectures
from ..minima import basins, landscape
from . import command, plots, protocol

ZERO = 1e-10  # of the loss at the start: a smaller loss counts as zero
LARGEST = 1000  # most parameters for which a Hessian is computed: it takes seconds

QUANTITIES = {  # columns of ``history.csv`` whose start and end the summary shows; some only li-yuan* has
    "loss": "loss",
    "population_loss": "expected loss",
    "excess_loss": "    without the labels' noise",
    "inner_product": "<-grad L, W* - W>",
    "delta": "    over the distance squared",
    "potential": "potential g",
    "distance": "distance from the teacher",
    "aligned_distance": "    modulo its symmetries",
    "recovery": "e(Q), of Ge, Lee & Ma",
    "missed": "teacher's unit missed most",
}


def _numbers(result):
    """(label, start, end) of every quantity that a run has."""
    present = (name for name in QUANTITIES if f"{name}_initial" in result)
    return [(QUANTITIES[name], result[f"{name}_initial"], result[f"{name}_final"]) for name in present]


def describe(summary, out):
    """The summary of a run, for people."""
    config, result = summary["config"], summary["result"]
    arch = architectures.resolve(config["arch"])
    momentum = f", momentum {config['momentum']:g}" if config["optimizer"] == "nesterov" else ""
    source = {
        "dataset": f"{config['samples']:,} samples in batches of {config['batch_size']}",
        "online": f"fresh batches of {config['batch_size']}",
        "population": "the exact expected loss",
    }[config["data"]]
    if config.get("covariance") is not None:
        source += f", inputs of covariance {config['covariance']}"
    if config.get("noise"):
        source += f", labels with noise {config['noise']:g}"
    return "\n".join([
        f"{arch.name}: F(x) = {arch.formula}, d = {config['d']}, width {config['width']}",
        f"{result['steps']:,} steps of {config['optimizer']} (lr {config['lr']:g}{momentum}) on {source}, "
        f"{config['dtype']}, seed {config['seed']}: {result['seconds']:.2f} s"
        f"{command.of_which(result['compile_seconds'])}\n",
        f"{'':32}{'start':>12}{'end':>12}",
        *(f"{label:32}{start:>12.4g}{end:>12.4g}" for label, start, end in _numbers(result)),
        f"\n{verdict(summary)}",
        *([result["proof"]["theorem"]] if "proof" in result else []),
        f"Files: {out}{os.sep}",
    ])  # fmt: skip


def is_zero(result):
    """Whether the loss at the end of a run counts as zero."""
    start, end = (result.get(f"excess_loss_{at}", result[f"population_loss_{at}"]) for at in ("initial", "final"))
    return end <= max(ZERO * start, 1e-24)


@functools.lru_cache(maxsize=1)  # the summary and the page ask for the same
def _destination(exact, theta):
    return basins.destination(exact, np.frombuffer(theta))


def destination(exact, theta):
    """The critical point that a run which stopped at ``theta`` leads to, None if uncertain or beyond `LARGEST`."""
    return _destination(exact, theta.astype(np.float64).tobytes()) if theta.size <= LARGEST else None


def theorem(proof, moved):
    """The sentence that ``--certify`` ends a run with, from a `Certificate`; polishing may have ``moved`` the end."""
    where = "the end of this run, theta in weights.npz,"
    if moved:
        at_most = Context(2, ROUND_CEILING).create_decimal(moved)
        where = f"theta_polished in weights.npz, at most {at_most:e} from the end of this run,"
    return f"{'Proved' if proof.proved else 'Not proved'}: {proof.theorem(where)}."


def verdict(summary):
    """What happened, in words."""
    config, result = summary["config"], summary["result"]
    if summary["stop_reason"].startswith("diverged"):
        return f"The run {summary['stop_reason']}: nothing can be said of it but that the step size is too large."
    words = ""
    if "toward_from" in result:  # where the gradient points was recorded
        before = ", and away from it before" if result["inner_product_initial"] <= 0 else ""
        words = f"The gradient points toward the teacher from step {result['toward_from']} on{before}.\n"
        if result["toward_from"] is None:
            words = "The gradient points away from the teacher at the end.\n"
    if config.get("loss", "relu") != "relu":
        return (
            f"{words}1 - |cos| between a unit of the teacher and the nearest of the student is at most "
            f"{result['missed_final']:.2g}.\n(e(Q) can be 0 where units of the student share one of the teacher.)"
        )
    if not is_zero(result):
        words += f"The expected loss is {result['population_loss_final']:.3g}, not zero.\n"
        if "excess_loss_final" in result:
            words = words.replace("zero.", f"zero: {result['excess_loss_final']:.3g} without the labels' noise.")
        if "polished_verdict" not in result:
            return f"{words}It is not certain where the run would end: --resume with more --steps goes on."
        found, apart, loss = (result[f"polished_{name}"] for name in ("verdict", "distance", "loss"))
        where = "next to a saddle" if found == "saddle" else f"in the basin of a {found}"
        return f"{words}The run is {where}, which is {apart:.2g} away and has loss {loss:.3g}."
    apart = result["distance_final"]
    close = 1e-5 if config["dtype"] == "float64" else 1e-4
    if apart < close * max(result["distance_initial"], 1):
        return f"{words}Loss zero, and the student is the teacher itself, {apart:.1e} away."
    symmetry, aligned = symmetries(architectures.resolve(config["arch"]), result), result["aligned_distance_final"]
    if aligned > 1e-3 * apart:
        return (
            f"{words}Loss zero, but the student is {apart:.3g} away from the teacher, and {aligned:.2g} modulo\n"
            "its symmetries: not yet converged, or units share what one unit of the teacher does."
        )
    return (
        f"{words}Loss zero, but the student is not the teacher: they are {apart:.3g} apart.\n"
        f"They agree up to {symmetry}: modulo that they are {aligned:.2g} apart."
    )


def symmetries(arch, result):
    """In words, what turns the teacher of a run into the student at its end."""
    moved, turned = result["units_permuted"], result.get("units_reversed")
    words = ["the scales of the units"] if arch.trains_readout else []
    words += [f"the order of the units ({moved} permuted)"] if moved else []
    words += [f"the signs of the units ({turned} reversed)"] if turned else []
    words += ["the part of W2 that the sum of the outputs cannot see"] if arch.readout == "sum" else []
    return ", ".join(words[:-1]) + ", and " * (len(words) > 1) + "".join(words[-1:]) or "nothing"


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
td {{ white-space: nowrap }}
@media (max-width: 30rem) {{ td, th {{ padding-right: 0.5rem; font-size: 0.85rem }} }}
pre {{ background: var(--box); padding: 0.8rem; overflow-x: auto }}
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


def page(summary, history, theta, exact):
    """The page, as text, from the contents of ``run.json`` and ``history.csv``, the student at the end, its loss."""
    result, arch, words = summary["result"], architectures.resolve(summary["config"]["arch"]), verdict(summary)
    color = plots.COLORS.get(arch.name, plots.INK)
    pictures = [
        _picture("Loss: on the batches drawn, and in expectation.", plots.losses, history, color),
        _picture("Distance from the teacher.", plots.distances, history, color),
    ]
    if summary["config"].get("loss", "relu") != "relu":
        words += " No spectrum is shown for this loss."
    elif theta.size <= LARGEST and not summary["stop_reason"].startswith("diverged"):
        end, where, at = destination(exact, theta), "its last point", theta
        if end is not None:
            where, at = f"the {end.verdict} to which it leads", end.theta
        found = landscape.spectrum(exact, at)
        caption = (
            f"The exact Hessian at {where} has {found.nullity} zero and {found.index} negative eigenvalues of "
            f"{theta.size}; symmetry predicts {found.predicted} zero ones{' (gray)' if found.predicted else ''}."
        )
        pictures.append(_picture(caption, plots.eigenvalues, found.eigenvalues, found.predicted, color))
    elif theta.size > LARGEST:
        words += f" {theta.size:,} parameters are too many for a Hessian here: no spectrum."
    rows = [("", "start", "end")]
    rows += ((label.replace("    ", "… "), f"{start:.4g}", f"{end:.4g}") for label, start, end in _numbers(result))
    if summary["config"].get("loss", "relu") == "relu":
        rows.append(("units permuted", "", result["units_permuted"] or "none"))
    again = protocol.command_line(protocol.Config(**summary["config"]))
    versions = ", ".join(f"{name} {version}" for name, version in summary["versions"].items())
    footer = f"{result['steps']:,} steps in {result['seconds']:.2f} s; {summary['stop_reason']}. {versions}"
    return PAGE.format(
        title=html.escape(f"{arch.name}: F(x) = {arch.formula}"), color=color, words=html.escape(words),
        pictures="".join(pictures), numbers=_table(rows), footer=html.escape(footer),
        config=_table([("parameter", "value"), *(row for row in summary["config"].items() if row[1] is not None)]),
        commands=html.escape(f"{again} --out again\npython -m resgrad.experiment --verify --out again"),
    )  # fmt: skip


def _picture(caption, draw, *given):
    """A figure element: one panel, drawn by ``draw(axes, *given)``."""
    with plots.figure(1, width=4.6, height=3.2) as (picture, axes):
        draw(axes, *given)
    svg = plots.image(picture, "inline").decode()
    svg = re.sub('<g id="[^"]*"', "<g", svg[svg.index("<svg") :])  # ids are to be unique in a page
    for variable in ("ink", "faint", "grid"):
        svg = svg.replace(getattr(plots, variable.upper()), f"var(--{variable})")
    return f"<figure>{svg}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _table(rows):
    tags = ["th"] + ["td"] * len(rows)
    cells = ("".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in row) for tag, row in zip(tags, rows))
    return "<table>" + "\n".join(f"<tr>{row}</tr>" for row in cells) + "</table>"
