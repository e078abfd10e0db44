"""What the command lines share: errors in one line, exit codes, Ctrl-C, progress.

Imports nothing of resgrad, nor NumPy.
"""

import argparse
import contextlib
import functools
import os
import signal
import sys


class Parser(argparse.ArgumentParser):
    """No abbreviations; errors in one line, exit code 2."""

    def __init__(self, **options):
        super().__init__(allow_abbrev=False, **options)

    def error(self, message):
        tell("error", message)
        self.exit(2)


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
def farewell(text):
    """Let Ctrl-C say ``text`` and end the process.  An exception may get lost in callbacks of compiled code."""

    def leave(number, frame):
        if sys.stderr is not None:  # or 2 may be another file
            os.write(2, f"{text}\n".encode(errors="surrogateescape"))
        os._exit(130)

    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:  # as with nohup and &
        signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


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
