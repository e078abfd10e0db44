"""The pictures of the README: one script each.  ``python -m figures [PICTURE ...]`` redraws them.

A script has one function, ``draw()``, and its picture lies beside it, as PNG and as SVG; one that can ``animate(path)``
also writes a GIF.  ``seeds`` prints tables.
"""

import pkgutil

from resgrad.runs.protocol import resolve, simulate, table

POST = ("li", "resnet", "two-weight", "modresnet")  # the post's networks
# One kind of teacher for all four, the post's: what ``--arch NAME`` is given besides.
UNIFORM = {name: {"teacher": "uniform", "steps": 100_000} for name in POST}
UNIFORM["resnet"]["lr"] = 0.01
NAMES = sorted({module.name for module in pkgutil.iter_modules(__path__)} - {"__main__", "seeds"})


def history(arch, preset="default", **given):
    """The columns of ``history.csv`` of one run, by name."""
    return table(simulate(resolve(arch, preset, **given))[0])
