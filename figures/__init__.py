"""The pictures of the README: one script and its PNG each.  ``python -m figures [NAME ...]`` redraws them.

A script has one function, ``draw() -> bytes``, and its picture lies beside it under the same name.
"""

from resgrad.experiment import resolve, simulate, table


def history(arch, preset="default", **given):
    """The columns of ``history.csv`` of one run, by name."""
    return table(simulate(resolve(arch, preset, **given))[0])
