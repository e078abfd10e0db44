"""The page that ``--report`` adds to a census: its outcomes, and the units of each family of spurious minima."""

import html
import shlex

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from .. import __version__, draws
from ..minima import alignment, symmetry
from . import pages, plots, tally, tasks

MEMBERS = 20  # runs of a family whose units are compared
ROUNDS = 20  # of the search for the order of units; it takes two or three
ZEROS = "Symmetry makes eigenvalues 0, so that the smallest one is 0 to rounding; a proof leaves these aside."
UNITS = (
    "A picture has the cosine of each student unit, a row, and each teacher unit, a column, at the minima of a family. "
    "The student units are in the order of the teacher units that match them, with the numbers that they have "
    "in the first run."
)


def page(task, found):
    """The page, as text, of a `Census` and its `tasks.Task`."""
    color = plots.COLORS.get(task.arch.name, plots.INK)
    pictures = [pages.picture("Where the runs ended, with 95 % Wilson intervals.", plots.outcomes, found, found.labels)]
    if len(found.failures) < found.counts["runs"]:
        caption = "The losses at the end." + " Triangles mark families." * bool(found.families)
        pictures.append(pages.picture(caption, plots.final_losses, found, tally.OUTCOMES))
    config = [("parameter", "value"), *(row for row in vars(found.config).items() if row[1] is not None)]
    parts = [pages.gallery(pictures), *_families(task, found)]
    parts.append(pages.sections({"Outcomes": found.outcome_rows(), "Configuration": config}))
    footer = f"resgrad {__version__}. census.json and census.npz, beside this page, have all numbers."
    title = f"Census of {task.arch.name}: F(x) = {task.arch.formula}"
    return pages.page(title, color, _words(found), "\n".join(parts), _commands(task, found), footer)


def _words(found):
    """What was found, in sentences."""
    config, (share, low, high) = found.config, (100 * part for part in found.share("spurious"))
    said = [
        f"Of {found.counts['runs']:,} runs with d = {config.d} and {config.width} units, on a teacher with "
        f"{config.teacher_width} units ({config.teacher}), {found.counts['global']:,} ended in a global minimum and "
        f"{found.counts['spurious']:,} in a spurious one: {share:.1f} %, with a 95 % interval from {low:.1f} to "
        f"{high:.1f} %."
    ]
    if published := found.published():
        said.append(f"Safran & Shamir (2018) published {100 * published[0]:.1f} %; z = {published[1]:+.2f}.")
    if config.width < config.teacher_width:
        said.append("A student narrower than its teacher reaches zero only by chance: its best fit counts as spurious.")
    if found.degenerate:
        said.append(f"{found.degenerate:,} minima are degenerate: the loss falls like a power of time.")
    if not found.families:
        said.append("No run ended in a spurious minimum, so there are no families to show.")
    if found.failures:
        run, message = next(iter(found.failures.items()))
        said.append(f"{len(found.failures):,} runs failed, the first of them run {run}: {message}.")
    return " ".join(said)


def _commands(task, found):
    """How to make the census again."""
    if not (again := tasks.command_line(task)):
        return "# Its architecture, teacher or covariance was given in Python: see resgrad.census."
    certify = " --certify" * any("proved" in family for family in found.families)
    more = shlex.join(["python", "-m", "resgrad.census", "--resume", "--runs", str(2 * found.counts["runs"])])
    return f"{again}{certify} --report --out again\n# and as many runs more:\n{more}{certify} --report --out again"


def _families(task, found):
    """The parts of the page about families."""
    if not found.families:
        return
    shown = min(len(found.families), tally.MOST)
    more = f", the {shown} most frequent of {len(found.families):,}" * (shown < len(found.families))
    yield pages.sections({f"Families of spurious minima{more}": found.family_rows()})
    if task.arch.trains_readout:
        yield f"<p>{ZEROS}</p>"
    if task.config.loss != "relu":
        yield "<p>No units are shown for this loss.</p>"
        return
    try:
        drawn = [_picture(task, found, n) for n in range(shown)]
    except ValueError as error:  # of a teacher whose architecture is another
        yield f"<p>No units are shown: {html.escape(str(error))}.</p>"
        return
    yield f"<p>{UNITS}</p>"
    yield pages.gallery(drawn)


def _picture(task, found, n):
    """The units of a family."""
    family, (cosines, order, spread, runs) = found.families[n], pattern(task, found, n)
    said = f"Family {n}: {family['count']:,} of {found.counts['runs']:,} runs, loss {family['loss']:.10f}."
    if runs > 1:
        first = "the first " * (runs < family["count"])
        said += f" Mean over {first}{runs} runs, which differ from it by {spread:.1e} at most."
    if family.get("proved"):
        loss, smallest = family["loss_interval"], family["min_eigenvalue_interval"]
        said += f" Proved of run {family['run']}: a strict minimum, loss in {loss}, smallest eigenvalue in {smallest}."
    elif "proved" in family:
        said += f" Not proved of run {family['run']}: {family['why']}."
    return pages.picture(said, plots.overlaps, cosines, order, height=3.8)


def pattern(task, found, n):
    """(mean cosines, student units in the order of the rows, largest deviation, number of runs) of a family.

    Rows and columns are those of the first run.  The others' are put into that order: where units of the teacher can
    change places, as those of ``identity`` can, each run has the same minimum in an order of its own.
    """
    runs = np.flatnonzero(found.family == n)[:MEMBERS]
    first, *others = (_aligned(task, run, found.theta[run]) for run in runs.tolist())
    cosines = np.array([first.overlaps, *(_matched(first.overlaps, other.overlaps) for other in others)])
    mean = cosines.mean(axis=0)
    return mean, first.order, float(np.abs(cosines - mean).max()), runs.size


def _aligned(task, run, theta):
    """The end of a run and its teacher."""
    teacher, d = task.teacher_of(draws.streams(task.config.seed, run)), task.config.d
    theta_star = symmetry.convert(teacher.theta, d, teacher.arch, task.arch)
    return alignment.align(task.arch, theta, theta_star, d)


def _matched(wanted, given):
    """``given``, its rows and columns permuted to be most like ``wanted``; the search may find a local optimum only.

    At first columns are compared as sets; then rows and columns are matched in turn, entry by entry.
    """
    columns = _nearest(np.sort(wanted, axis=0).T, np.sort(given, axis=0).T)
    for _ in range(ROUNDS):
        rows = _nearest(wanted, given[:, columns])
        before, columns = columns, _nearest(wanted.T, given[rows].T)
        if np.array_equal(before, columns):
            break
    return given[rows][:, columns]


def _nearest(wanted, given):
    """The order of the rows of ``given`` with the least sum of squared distances to those of ``wanted``."""
    return linear_sum_assignment(cdist(wanted, given, "sqeuclidean"))[1]
