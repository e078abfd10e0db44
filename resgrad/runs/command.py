"""What the command lines share: options, errors in one line, exit codes, Ctrl-C, progress."""

import argparse
import contextlib
import functools
import os
import re
import signal
import sys

from .. import checks


def directory(text):
    """A path that an option names; no text would be the working directory."""
    if not text:
        raise argparse.ArgumentTypeError("is '', but must be a directory")
    return text


SHARED = {  # option of a run and of a census: (type, help); help that differs between the two is not here
    "arch": (str, None),
    "preset": (str, None),
    "d": (int, "input dimension (10)"),
    "width": (int, "hidden units of the student (d)"),
    "teacher": (str, None),
    "init": (str, None),
    "data": (str, None),
    "optimizer": (str, None),
    "lr": (float, None),
    "momentum": (float, "in [0, 1) (0.9)"),
    "batch-size": (int, "samples a step (200)"),
    "samples": (int, "size of the data set (100000)"),
    "steps": (int, None),
    "seed": (int, "of everything random (0)"),
    "out": (directory, "directory for the files (default: a fresh one under runs/)"),
}
METAVARS = {"arch": "NAME", "out": "DIR"}


class Parser(argparse.ArgumentParser):
    """No abbreviations; errors in one line that names the argument, exit code 2."""

    def __init__(self, **options):
        super().__init__(allow_abbrev=False, **options)
        for kind, wanted in ((int, "an integer"), (float, "a real number")):
            self.register("type", kind, functools.partial(_number, kind, wanted))

    def share(self, **helps):
        """Add `SHARED` and ``--quiet``; ``helps`` is what differs, by option."""
        for name, (kind, text) in SHARED.items():
            self.add_argument(f"--{name}", type=kind, metavar=METAVARS.get(name), help=helps.get(name, text))
        self.add_argument("--quiet", action="store_true", help="no progress, no summary")

    def given(self, argv):
        """The options that a command line gives, by name."""
        return {name: value for name, value in vars(self.parse_args(argv)).items() if value is not None}

    def error(self, message):
        named = re.match("argument --([a-z-]+): (?=is )", message)
        tell("error", f"{named[1].replace('-', '_')} {message[named.end() :]}" if named else message)
        self.exit(2)


def _number(kind, wanted, text):
    """The number that an option's ``text`` is."""
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"is {checks.shown(text)}, but must be {wanted}") from None


def terminal():
    """Whether standard error, which may be closed, is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


def progress_bar(quiet, **options):
    """A `tqdm.tqdm` on standard error, if that is a terminal and not to be ``quiet``."""
    from tqdm import tqdm

    return tqdm(file=sys.stderr, leave=False, dynamic_ncols=True, disable=quiet or not terminal(), **options)


def tell(*words):
    """One line on standard error, whatever a path in it holds."""
    if sys.stderr is None:  # closed; print would take standard output instead
        return
    print(" ".join(": ".join(map(str, words)).splitlines()), file=sys.stderr)


def say(text):
    """Print ``text``; a reader that has gone (``| head``) is no error."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains again at its end
        if not isinstance(error, BrokenPipeError):
            raise OSError(f"standard output: {error.strerror}") from None


def guarded(main):
    """``main(argv)``, its errors told in one line: exit code 2 for bad input, 1 for faults, 130 for Ctrl-C."""

    @functools.wraps(main)
    def guarded_main(argv=None):
        try:
            return main(argv)
        except (ValueError, TypeError) as error:
            tell("error", error)
            return 2
        except (OSError, MemoryError, ImportError) as error:
            tell("error", error or "out of memory")
            return 1
        except KeyboardInterrupt:
            tell("interrupted")
            return 130

    return guarded_main


@contextlib.contextmanager
def answering(handler, *numbers):
    """Let ``handler`` answer the signals of these ``numbers``.

    A signal that the parent made us ignore stays ignored: nohup, cron and ``&`` mean it so.
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
    """Let Ctrl-C say ``text`` and end the process.  An exception may get lost in callbacks of compiled code."""

    def leave(number, frame):
        if sys.stderr is not None:  # or 2 may be another file
            os.write(2, f"{text}\n".encode(errors="surrogateescape"))
        os._exit(130)

    return answering(leave, signal.SIGINT)


def announce_compilation():
    """One line, once, when a kernel has to be compiled."""
    from numba.core import event

    class Listener(event.Listener):
        told = False

        def on_start(self, _):
            if not self.told:
                tell("compiling kernels: this happens once, later runs find them in a cache")
            self.told = True

        def on_end(self, _):
            pass

    event.register("numba:compile", Listener())
