"""Shared by the command lines: options, errors in one line, exit codes, Ctrl-C, progress."""

import argparse
import contextlib
import functools
import os
import re
import signal
import sys
import time
from pathlib import Path

from .. import checks

SHARED = {  # options of a run and of a census: (type, help); None where the help differs between the two
    "arch": (str, None), "preset": (str, None), "d": (int, "input dimension (10)"),
    "width": (int, "hidden units of the student (d)"), "teacher": (str, None), "init": (str, None),
    "data": (str, None),
    "covariance": (str, "of the inputs: power:ALPHA (eigenvalues i^-ALPHA, trace d) or a .npy file (identity)"),
    "noise": (float, "standard deviation of noise on each label (0)"),
    "loss": (str, "relu (default), even, hermite24 or ge-lee-ma: see resgrad.designed"),
    "rows": (str, "unit: even and hermite24 keep units at length 1 (free)"),
    "mu": (float, "of ge-lee-ma (0.1)"), "lam": (float, "of ge-lee-ma (1)"),
    "optimizer": (str, None), "lr": (float, None), "momentum": (float, "in [0, 1) (0.9)"),
    "batch-size": (int, "samples a step (200)"), "samples": (int, "size of the data set (100000)"),
    "steps": (int, None), "seed": (int, "of everything random (0)"), "out": (Path, "directory (a fresh one in runs/)"),
}  # fmt: skip
WANTED = {int: "an integer", float: "a real number", Path: "a directory"}  # by type of option


class Parser(argparse.ArgumentParser):
    """A parser that takes no abbreviations.  An error is one line that names the argument; the exit code is 2.

    The help ends with the ``examples``, options that run as they are.
    """

    def __init__(self, module, description, *examples):
        name = f"python -m resgrad.{module}"
        shown = "\n".join(["examples:", *(f"  {name} {options}" for options in examples)])
        about = {"description": description, "epilog": shown, "formatter_class": _Help}
        super().__init__(prog=name, allow_abbrev=False, **about)
        for kind in WANTED:
            self.register("type", kind, functools.partial(_read, kind))

    def share(self, **helps):
        """Add the options `SHARED` and ``--quiet``; ``helps`` has the help of those that differ."""
        for name, (kind, text) in SHARED.items():
            shown = {"arch": "NAME", "out": "DIR"}.get(name)
            self.add_argument(f"--{name}", type=kind, metavar=shown, help=helps.get(name, text))
        self.add_argument("--quiet", action="store_true", help="no progress, no summary")

    def given(self, argv):
        """{option: value} of a command line, without the options that are not given."""
        return {name: value for name, value in vars(self.parse_args(argv)).items() if value is not None}

    def error(self, message):
        named = re.match("argument --([a-z-]+): (?=is )", message)
        tell("error", f"{named[1].replace('-', '_')} {message[named.end() :]}" if named else message)
        self.exit(2)


class _Help(argparse.HelpFormatter):
    """Help with each example on a line of its own."""

    def _fill_text(self, text, width, indent):
        return text if text.startswith("examples:") else super()._fill_text(text, width, indent)


def _read(kind, text):
    """The ``text`` of an option as a value of its type."""
    with contextlib.suppress(ValueError):
        if text:  # the empty path would be the working directory
            return kind(text)
    raise argparse.ArgumentTypeError(f"is {checks.shown(text)}, but must be {WANTED[kind]}")


def terminal():
    """Whether standard error is a terminal; it may be closed."""
    return sys.stderr is not None and sys.stderr.isatty()


def progress_bar(quiet, **options):
    """A `tqdm.tqdm` on standard error; hidden if that is no terminal, or if it is to be ``quiet``."""
    from tqdm import tqdm

    return tqdm(file=sys.stderr, leave=False, dynamic_ncols=True, disable=quiet or not terminal(), **options)


def tell(*words):
    """Print ``words`` as one line on standard error, even if a path among them holds a line break."""
    if sys.stderr is not None:  # None: it is closed, and print would take standard output instead
        print(" ".join(": ".join(map(str, words)).splitlines()), file=sys.stderr)


def say(text):
    """Print ``text``.  It is no error if the reader has gone (``| head``)."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains once more when it exits
        if not isinstance(error, BrokenPipeError):
            raise OSError(f"standard output: {error.strerror}") from None


def guarded(main):
    """Decorate ``main(argv)``: an error is told in one line.  Exit code 2 is bad input, 1 a fault, 130 Ctrl-C."""

    @functools.wraps(main)
    def guarded_main(argv=None):
        try:
            return main(argv)
        except (ValueError, TypeError) as error:
            tell("error", error)
            return 2
        except MemoryError as error:
            left = str(error) or "none is left"
            tell("error", f"d, width, samples, batch_size or runs is too large for the memory: {left}")
            return 1
        except (OSError, ImportError) as error:
            tell("error", error)
            return 1
        except KeyboardInterrupt:
            tell("interrupted")
            return 130

    return guarded_main


@contextlib.contextmanager
def answering(handler, *numbers):
    """Let ``handler`` answer the signals of these ``numbers``, except those that the parent process made us ignore.

    Nohup, cron and ``&`` ignore Ctrl-C on purpose.
    """
    before = {}
    try:
        with contextlib.suppress(ValueError):  # signals belong to the main thread
            for number in numbers:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):  # None: not Python's to restore
                    before[number] = signal.signal(number, handler)
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def farewell(text):
    """On Ctrl-C, print ``text`` and end the process: an exception could get lost in callbacks of compiled code."""

    def leave(number, frame):
        if sys.stderr is not None:  # None: it is closed, and 2 may be another file
            os.write(2, f"{text}\n".encode(errors="surrogateescape"))
        os._exit(130)

    return answering(leave, signal.SIGINT)


@contextlib.contextmanager
def compilation(quiet):
    """Add up the ``seconds`` that Numba compiles in the block; unless ``quiet``, say once that it does."""
    from numba.core import event

    class Compilation(event.Listener):
        seconds, begun = 0.0, ()  # when each active compilation began: they are nested

        def on_start(self, _):
            if not (quiet or self.begun or self.seconds):
                tell("compiling kernels: this happens once, later runs find them in a cache")
            self.begun += (time.perf_counter(),)

        def on_end(self, _):
            if len(self.begun) == 1:
                self.seconds += time.perf_counter() - self.begun[0]
            self.begun = self.begun[:-1]  # may be empty: another thread may have begun to compile before the block

    with event.install_listener("numba:compile", Compilation()) as compiling:
        yield compiling


def of_which(compiling):
    """How many seconds of a time went into compiling, in words; nothing if they round to 0.0."""
    return f", of which {compiling:.1f} s compiling" if compiling >= 0.05 else ""
