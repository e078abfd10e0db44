"""The pictures of the README: one script and its PNG each.  ``python -m figures [NAME ...]`` redraws them.

A script has one function, ``draw() -> bytes``, and its picture lies beside it under the same name.
"""

from resgrad.experiment import COLUMNS, resolve, simulate


def history(arch, preset="default", **given):
    """The columns of ``history.csv`` of one run, by name."""
    trajectory, _ = simulate(resolve(arch, preset, **given))
    columns = (trajectory.steps, trajectory.loss, *trajectory.observed.values())
    return dict(zip(COLUMNS, columns, strict=True))
