"""The summary of a run in words and, with ``--report``, as one HTML page that needs no other file."""

import functools
import os
from decimal import ROUND_CEILING, Context

import numpy as np

from .. import architectures
from ..minima import basins, landscape
from . import command, pages, plots, protocol

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
        f"{arch.name}: F(x) = {arch.formula}, d = {config['d']}, width {config['width']}; "
        f"teacher: {config['teacher']}, start: {config['init']}",
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


@functools.lru_cache(maxsize=1)  # the summary and the page both call it
def _destination(exact, theta):
    return basins.destination(exact, np.frombuffer(theta))


def destination(exact, theta):
    """The critical point at which a run that stopped at ``theta`` would end; None if uncertain or above `LARGEST`."""
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


def page(summary, history, theta, exact):
    """The page, as text, from the contents of ``run.json`` and ``history.csv``, the student at the end, its loss."""
    result, arch, words = summary["result"], architectures.resolve(summary["config"]["arch"]), verdict(summary)
    color = plots.COLORS.get(arch.name, plots.INK)
    pictures = [
        pages.picture("Loss: on the batches drawn, and in expectation.", plots.losses, history, color),
        pages.picture("Distance from the teacher.", plots.distances, history, color),
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
        pictures.append(pages.picture(caption, plots.eigenvalues, found.eigenvalues, found.predicted, color))
    elif theta.size > LARGEST:
        words += f" {theta.size:,} parameters are too many for a Hessian here: no spectrum."
    rows = [("", "start", "end")]
    rows += ((label.replace("    ", "… "), f"{start:.4g}", f"{end:.4g}") for label, start, end in _numbers(result))
    if summary["config"].get("loss", "relu") == "relu":
        rows.append(("units permuted", "", result["units_permuted"] or "none"))
    again = protocol.command_line(protocol.Config(**summary["config"]))
    versions = ", ".join(f"{name} {version}" for name, version in summary["versions"].items())
    footer = f"{result['steps']:,} steps in {result['seconds']:.2f} s; {summary['stop_reason']}. {versions}"
    config = [("parameter", "value"), *(row for row in summary["config"].items() if row[1] is not None)]
    tables = pages.sections({"From start to end": rows, "Configuration": config})
    body = f"{pages.gallery(pictures)}\n{tables}"
    commands = f"{again} --out again\npython -m resgrad.experiment --verify --out again"
    return pages.page(f"{arch.name}: F(x) = {arch.formula}", color, words, body, commands, footer)
