"""How many threads work, so that results do not depend on it.  Imports no other room."""

import contextlib
import ctypes
import functools
import os
import queue
import threading
import time
from pathlib import Path

import numpy as np
import scipy


@functools.cache
def blas():
    """(get, set) of the number of threads of each OpenBLAS in NumPy's and SciPy's wheels."""
    pairs = []
    for home in (Path(np.__file__).parent, Path(scipy.__file__).parent):
        for path in (*home.glob(".dylibs/*openblas*"), *home.parent.glob(f"{home.name}.libs/*openblas*")):
            library = ctypes.CDLL(str(path))
            for name in ("scipy_openblas_{}_num_threads", "scipy_openblas_{}_num_threads64_"):
                if hasattr(library, name.format("set")):
                    pairs.append([getattr(library, name.format(verb)) for verb in ("get", "set")])
    return pairs


STOPPED = 2**62  # the mark of a thread that comes to no more meetings, as in `kernels`
_LOCK, _BEFORE = threading.Lock(), []  # BLAS threads before the first `one_thread`
LOOKS = 3  # for a free processor
_USERS = []  # (thread, whether it may be helped) of each that is under way


@contextlib.contextmanager
def one_thread(helped=True):
    """One BLAS thread in this process: the last bits of products and eigenvalues depend on their number.

    It reaches the OpenBLAS of NumPy's and SciPy's wheels.  With another BLAS, such as conda's MKL, set its
    number of threads before Python starts (``MKL_NUM_THREADS=1``), or those bits may depend on it.
    ``helped=False`` keeps `together` from taking a second thread: for workers of which there are many.
    """
    user = threading.get_ident(), helped
    with _LOCK:
        if not _USERS:
            _BEFORE[:] = [get_threads() for get_threads, _ in blas()]
        _USERS.append(user)
        for _, set_threads in blas():
            set_threads(1)
    try:
        yield
    finally:
        with _LOCK:
            _USERS.remove(user)
            if not _USERS:  # the last to leave restores what the first one found
                for (_, set_threads), count in zip(blas(), _BEFORE):
                    set_threads(count)


def allowed():
    """How many threads one training may use, 1 or 2: no more than processors, or than BLAS had."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(2, processors, *(_BEFORE if _USERS else [get_threads() for get_threads, _ in blas()]))


def _forked():
    """A forked process has but the thread that forked: no other uses BLAS or holds the lock any more."""
    global _LOCK
    _LOCK, before = threading.Lock(), len(_USERS)
    _USERS[:] = [user for user in _USERS if user[0] == threading.get_ident()]
    if before and not _USERS:
        for (_, set_threads), count in zip(blas(), _BEFORE):
            set_threads(count)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def spare():
    """Whether a second thread may help: it is `allowed`, nothing else here is at work, a processor is free."""
    alone_here = set(_USERS) == {(threading.get_ident(), True)}
    return alone_here and allowed() > 1 and _a_processor_is_free(time.monotonic() // 0.05)


def running():
    """How many threads of all processes run now, this one included; 0 where the system does not tell."""
    try:
        return int(Path("/proc/loadavg").read_text().split()[3].split("/")[0])
    except (OSError, ValueError, IndexError):  # no such file: other systems than Linux
        return 0


@functools.lru_cache(maxsize=1)
def _a_processor_is_free(moment):
    """Looked at again where not: what runs for less than a look matters as little as what sleeps."""
    for look in range(LOOKS):
        time.sleep(2e-4 * (look > 0))
        busy = running()
        if not busy or busy < len(os.sched_getaffinity(0)):
            return True
    return False


class _Helper:
    """A thread that helps `together`."""

    def __init__(self):
        self.lock, self.calls = threading.Lock(), queue.SimpleQueue()
        self.current = getattr(ctypes.CDLL(None), "sched_getcpu", None) if hasattr(os, "sched_setaffinity") else None
        threading.Thread(target=self._serve, name="resgrad", daemon=True).start()

    def _serve(self):
        places = set()
        while True:
            work, marks, errors, done, elsewhere = self.calls.get()
            try:
                if elsewhere and elsewhere != places:  # some schedulers wake a thread where the one it is to help runs
                    places = elsewhere
                    with contextlib.suppress(OSError):  # they may just have been taken away
                        os.sched_setaffinity(0, places)
                work(1, len(marks), marks)
            except BaseException as error:
                errors.append(error)
                marks[1, 0] = STOPPED
            done.set()
            del work, marks, errors, done  # and the data that they hold

    def together(self, work, marks):
        """What ``work(0, 1, marks)`` returns, with the rest done by the helper."""
        errors, done = [], threading.Event()
        elsewhere = os.sched_getaffinity(0) - {self.current()} if self.current else None
        try:
            self.calls.put((work, marks, errors, done, elsewhere))
            result = work(0, 1, marks)
        except BaseException:  # wherever Ctrl-C comes, the helper must not wait for ever,
            marks[0, 0] = STOPPED
            done.wait(1)  # nor work on what is used for something else; unless it never heard of it
            raise
        stopped = marks[1, 0] == STOPPED
        marks[0, 0] = STOPPED
        if stopped:
            raise errors[0]
        return result


@functools.cache
def _helper(process):
    """The `_Helper` of a process, or None where it can have no more threads.  A forked one needs its own."""
    try:
        return _Helper()
    except RuntimeError:
        return None


def together(work, parts, worth=True):
    """``work(0, parts, marks)``, or, where that is ``worth`` it and a thread can be `spare`d,
    ``work(0, 1, marks)`` here, the rest there.

    The two meet at ``marks``, zeros of shape (parts, 16): a cache line and more for each, so that neither
    disturbs the other.  The result is that of the call made here.
    """
    marks = np.zeros((parts, 16), np.int64)
    helper = _helper(os.getpid()) if parts > 1 and worth and spare() else None
    if helper is None or not helper.lock.acquire(blocking=False):
        return work(0, parts, marks)
    try:
        return helper.together(work, marks)
    finally:
        helper.lock.release()
