"""``python -m figures [PICTURE ...]``, from the repository root: redraw all pictures, or those named."""

import argparse
import importlib
import sys
import time
from pathlib import Path

from resgrad import checks
from resgrad.runs import files, plots

from . import NAMES

HERE = Path(__file__).parent
TOLD = """Redraw all pictures, or those named; figures.seeds prints the README's tables over seeds.

Most take seconds or minutes; dimensions, designed and frequencies take up to an hour, free_skip takes some hours."""
EXAMPLES = """examples:
  python -m figures answer
  python -m figures.seeds"""


def main(argv=None):
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m figures", description=TOLD, epilog=EXAMPLES, formatter_class=form)
    parser.add_argument("names", nargs="*", metavar="PICTURE", help=f"{', '.join(NAMES)}; default: all")
    names = parser.parse_args(argv).names
    for name in names:
        if name not in NAMES:
            print(f"error: {checks.suggest(name, 'figure', NAMES)}", file=sys.stderr)
            return 2
    for name in names or NAMES:
        started = time.perf_counter()
        script = importlib.import_module(f"figures.{name}")
        picture = script.draw()
        for kind in ("png", "svg"):
            files.write(HERE / f"{name}.{kind}", plots.image(picture, kind))
        if hasattr(script, "animate"):
            script.animate(HERE / f"{name}.gif")
        print(f"figures/{name}  {time.perf_counter() - started:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
