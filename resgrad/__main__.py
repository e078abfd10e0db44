"""``python -m resgrad``: what there is, in a few lines."""

import sys
import textwrap

from . import __version__, architectures
from .runs import command

TEXT = """\
resgrad {version}: teacher-student training of one-hidden-layer ReLU networks

  python -m resgrad.experiment --arch NAME    train one student on its teacher
  python -m resgrad.census --arch NAME        train many, classify where they end
  python -m resgrad.gradcheck                 check every gradient of the package
  python -m figures PICTURE                   redraw figures/PICTURE.png (from a clone)
  python -m benchmarks                        time it against NumPy, PyTorch and JAX (from a clone)

{names}

Each command tells more with --help.  From Python: import resgrad as rg; help(rg.train)"""


@command.guarded
def main(argv: list[str] | None = None) -> int:
    """Print the commands and the architectures."""
    given = sys.argv[1:] if argv is None else argv
    if given and given[0] not in ("-h", "--help"):
        raise ValueError(
            f"command is {given[0]!r}, but must be a module: python -m resgrad.experiment, .census, .gradcheck"
        )
    names = textwrap.fill(", ".join(architectures.ARCHITECTURES), 88, break_on_hyphens=False,
                          initial_indent="NAME is ", subsequent_indent="        ")  # fmt: skip
    command.say(TEXT.format(version=__version__, names=names))
    return 0


if __name__ == "__main__":
    sys.exit(main())
