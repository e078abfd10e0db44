"""``rg.plots``: pictures of a run, of a network, of a Hessian's spectrum and of a census.

Each function returns a `matplotlib.figure.Figure`.  A notebook shows it as the value of a cell, a script writes it with
``figure.savefig("name.png")``.  It does not belong to pyplot: nothing has to be closed, and threads may draw at the
same time.  The user's matplotlibrc has no influence.

``python -m figures plots``, from the repository root, draws figures/plots.png, an example of each.
"""

import functools
import os
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from . import checks
from .architectures import Network
from .minima.alignment import align
from .minima.landscape import Spectrum
from .minima.symmetry import convert
from .runs import files, protocol, tally
from .runs import plots as panels
from .training import Trajectory

__all__ = ["census", "history", "spectrum", "units"]
COLUMN = 4.5  # inches, the width of a panel


def history(run: Trajectory | str | os.PathLike) -> Figure:
    """Loss against step, on a logarithmic scale, and the distance from the teacher if the run recorded it.

    Parameters
    ----------
    run : Trajectory or path
        What `resgrad.train` or `resgrad.gradient_flow` returned, or the directory of a run of
        ``python -m resgrad.experiment``.  Of what ``observe`` recorded, ``population_loss`` and ``excess_loss`` are
        drawn beside the loss, ``distance`` and ``aligned_distance`` (or ``missed``) in a panel of their own.

    Raises
    ------
    ValueError, TypeError
        When ``run`` is something else, or the directory has no history.csv of a run.

    Examples
    --------
    >>> import resgrad as rg
    >>> teacher = rg.Network("li", rg.draw("li", "small", d=5, rng=0), d=5)
    >>> observe = {"distance": lambda theta: rg.align("li", theta, teacher.theta, d=5).raw_distance}
    >>> loss = rg.PopulationLoss("li", teacher)
    >>> run = rg.train(loss, rg.draw("li", "small", d=5, rng=1), rg.SGD(0.1), 300, observe=observe)
    >>> [axes.get_title("left") for axes in rg.plots.history(run).axes]
    ['loss', 'distance from the teacher']
    """
    columns = protocol.table(run) if isinstance(run, Trajectory) else _read(run)
    drawn = [panels.losses] + [panels.distances] * any(name in columns for name in panels.APART)
    with panels.figure(len(drawn), width=COLUMN * len(drawn), squeeze=False) as (picture, axes):
        for panel, draw in zip(axes[0], drawn):
            draw(panel, columns, panels.INK)
    return _shown(picture)


def units(network: Network, teacher: Network) -> Figure:
    """The cosine of each student unit and each teacher unit, as colors: which unit does the work of which.

    The student units are in the order of the teacher units that `resgrad.align` matches them with; those without a
    match come last.  Where units can be reversed, those opposite to their teacher unit are.  Rescaling a unit changes
    nothing.  A student that is the teacher up to symmetry has 1 along the diagonal.  A bias is an entry of its unit.

    Parameters
    ----------
    network, teacher : Network
        Of the same input dimension.  They may differ in width, and in architecture as far as `resgrad.convert` can
        undo it.

    Raises
    ------
    ValueError, TypeError
        When the two cannot be compared.

    Examples
    --------
    >>> import resgrad as rg
    >>> teacher = rg.Network("resnet", rg.draw("resnet", "normal", d=4, rng=0), d=4)
    >>> student = rg.Network("resnet", rg.transform("resnet", teacher.theta, 4, [2, 0, 3, 1]), d=4)
    >>> [label.get_text() for label in rg.plots.units(student, teacher).axes[0].get_yticklabels()]
    ['1', '3', '0', '2']
    """
    for value, name in ((network, "network"), (teacher, "teacher")):
        if not isinstance(value, Network):
            raise TypeError(f"{name} is {checks.shown(value)}, but must be a Network")
    if network.d != teacher.d:
        raise ValueError(f"network has d={network.d}, but the teacher has d={teacher.d}")
    found = align(network.arch, network.theta, convert(teacher.theta, teacher.d, teacher.arch, network.arch), network.d)
    with panels.figure(1, width=COLUMN, height=3.6) as (picture, axes):
        panels.overlaps(axes, found.overlaps, found.order)
        axes.set_title(f"{network.arch.name}: cosine of units")
    return _shown(picture)


def spectrum(found: Spectrum) -> Figure:
    """The sizes of a Hessian's eigenvalues, the largest first.

    The smallest are gray, as many as symmetry predicts to vanish.  Negative ones are triangles.

    Parameters
    ----------
    found : Spectrum
        What `resgrad.spectrum` returned.

    Raises
    ------
    TypeError
        When ``found`` is something else.

    Examples
    --------
    >>> import resgrad as rg
    >>> theta_star = rg.draw("resnet", "uniform", d=4, rng=0)
    >>> loss = rg.PopulationLoss("resnet", rg.Network("resnet", theta_star, d=4))
    >>> print(rg.plots.spectrum(rg.spectrum(loss, theta_star)).axes[0].get_title("left"))
    32 eigenvalues: 0 negative, 4 zero (4 by symmetry)
    """
    _require(found, Spectrum, "resgrad.spectrum")
    with panels.figure(1, width=COLUMN) as (picture, axes):
        panels.eigenvalues(axes, found.eigenvalues, found.predicted, panels.INK, found.index)
        axes.set_ylabel("|eigenvalue|")
        zero = f"{found.nullity} zero ({found.predicted} by symmetry)"
        axes.set_title(f"{found.eigenvalues.size} eigenvalues: {found.index} negative, {zero}")
    return _shown(picture)


def census(found: tally.Census) -> Figure:
    """Where the runs of a census ended: the share of each outcome, with its 95 % Wilson interval.

    Parameters
    ----------
    found : Census
        What `resgrad.census` returned.

    Raises
    ------
    TypeError
        When ``found`` is something else.

    Examples
    --------
    >>> import resgrad as rg
    >>> found = rg.census("vanilla", d=6, runs=20, seed=2)
    >>> [label.get_text() for label in rg.plots.census(found).axes[0].get_yticklabels()]
    ['global minimum', 'spurious minimum', 'saddle', 'not converged']
    """
    _require(found, tally.Census, "resgrad.census")
    config = found.config
    with panels.figure(1, width=1.2 * COLUMN) as (picture, axes):
        panels.outcomes(axes, found, found.labels)
        axes.set_title(f"{config.arch}, d = {config.d}, width {config.width}; teacher of width {config.teacher_width}")
    return _shown(picture)


def _require(found, kind, maker):
    """Refuse what ``maker`` did not return."""
    if not isinstance(found, kind):
        raise TypeError(f"found is {checks.shown(found)}, but must be what {maker} returns")


def _read(directory):
    """The columns of the history.csv in a run's directory, by name."""
    if not isinstance(directory, (str, os.PathLike)):
        raise TypeError(f"run is {checks.shown(directory)}, but must be a Trajectory or the directory of a run")
    path = Path(directory) / "history.csv"
    try:
        names, *rows = (line.split(",") for line in path.read_text().splitlines())
        columns = dict(zip(names, np.array(rows, np.float64).T, strict=True))
        return columns | {"step": columns["step"].astype(np.int64), "loss": columns["loss"]}
    except OSError as error:
        raise files.FileError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError):
        raise files.FileError(f"{path} is not the history of a run") from None


def _shown(picture):
    """The picture, which a notebook can show even if pyplot was never imported."""
    picture._repr_png_ = functools.partial(_png, picture)
    return picture


def _png(picture):
    """A PNG for IPython, and its size on the page, which is smaller than its pixels, for sharp screens."""
    return panels.image(picture), dict(zip(("width", "height"), map(int, picture.bbox.size)))
