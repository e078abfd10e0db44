"""Several threads on one step of training, with the same bits for any number of them.

**Parts.**  A step is cut into *parts*, whose number depends on the shape of the problem alone (`parts_of`).  Every sum
over parts is taken in one order, and that is why the number of threads changes no bit.  Thread t of T does the parts
`share` (t, T); thread 0 is the caller's own, the others are helpers, which live as long as the process.

**Memory.**  A thread writes what belongs to its own parts, and reads what the others wrote only after they *meet*:
`meet` returns when all threads have come to the same turn.  What one thread may still read when another is already a
turn ahead exists twice, for even and odd turns.  Helpers never touch the caller's arrays but at the end: then each
writes what it has computed, and all meet once more before the caller returns.

**No deadlock.**  A thread waits only in `meet`, for threads that are on their way to the same turn: each makes the
same number of steps and meets equally often.  A thread that leaves early leaves `STOPPED` in its mark, which is
more than any turn: whoever waits for it goes on, learns of it (`meet` is False) and leaves, too.  `meet` spins and
does not yield, since a scheduler may take a yield at its word and let others run for milliseconds.

**Ctrl-C** reaches the caller only.  It leaves STOPPED, and waits up to a second for every helper to leave, so that none
works on memory that is used for something else.  What the loop had done is thrown away by `training`.

**Fork.**  A forked process has but the thread that forked.  It gets helpers of its own when it first needs them.

**Busy machines.**  Helpers are called only if nothing else in this process trains, and only as many as there are free
processors when the call begins.  A helper that loses its processor to another process delays the others, no more.
"""

import contextlib
import ctypes
import functools
import os
import queue
import threading
import time
from pathlib import Path

import numpy as np

from .. import blas
from .lanes import publish, published
from .policy import jit

STOPPED = 2**62  # the mark of a thread that comes to no more meetings
MOST = 16  # threads and parts
UNITS = 48  # of a part, at least, where there are more than two parts
LOOKS = 3  # for free processors


def parts_of(k):
    """Into how many parts the units of a wide layer are cut: a power of two, 2 at least.

    >>> [parts_of(k) for k in (65, 191, 192, 400, 1000, 5000)]
    [2, 2, 4, 8, 16, 16]
    """
    return min(MOST, 1 << max(2, k // UNITS).bit_length() - 1)


@jit
def share(parts, thread, marks):
    """(first, last) of the parts that a thread does."""
    threads = marks.shape[0]
    return parts * thread // threads, parts * (thread + 1) // threads


@jit
def meet(marks, thread, turn):
    """Wait until all threads have come to the same ``turn``; False where one of them was `STOPPED`."""
    publish(marks, thread * marks.shape[1], turn)
    together = True
    for other in range(marks.shape[0]):
        mark = published(marks, other * marks.shape[1])
        while mark < turn:
            mark = published(marks, other * marks.shape[1])
        together &= mark < STOPPED
    return together


def together(work, parts, worth=True):
    """``work(thread, marks)`` on as many threads as can be had, up to ``parts``; returns what the caller's returned.

    One thread does everything unless it is ``worth`` calling helpers.  The ``marks`` are zeros of shape (threads, 16):
    a cache line and more for each thread, so that none disturbs another.
    """
    count = spare(parts) if worth and parts > 1 else 1
    helpers = _helpers(os.getpid(), count - 1) if count > 1 else []
    threads = 1 << (len(helpers) + 1).bit_length() - 1  # a power of two, also where some could not be started
    if threads == 1 or not _TEAM.acquire(blocking=False):
        return work(0, np.zeros((1, 16), np.int64))
    try:
        return _work_together(work, helpers[: threads - 1])
    finally:
        _TEAM.release()


def _work_together(work, helpers):
    marks, calls = np.zeros((len(helpers) + 1, 16), np.int64), []
    try:
        for thread, helper in enumerate(helpers, 1):
            call = _Call(work, thread, marks, _places())
            calls.append(call)
            helper.put(call)
        result = work(0, marks)
    except BaseException:  # wherever Ctrl-C comes, no helper must wait for ever,
        marks[:, 0] = STOPPED  # not for one that was never called, either,
        for call in calls:
            call.done.wait(1)  # nor work on what is used for something else; unless it never heard of the call
        raise
    errors = [call.error for call in calls if call.error]
    marks[0, 0] = STOPPED
    if errors:
        raise errors[0]
    return result


class _Call:
    """What a helper is to do."""

    def __init__(self, work, thread, marks, places):
        self.work, self.thread, self.marks, self.places = work, thread, marks, places
        self.done, self.error = threading.Event(), None


def _serve(calls):
    """What a helper does all its life."""
    places = set()
    while True:
        call = calls.get()
        try:
            if call.places and call.places != places:
                places = call.places
                with contextlib.suppress(OSError):  # they may just have been taken away
                    os.sched_setaffinity(0, places)
            if call.marks[0, 0] == STOPPED:
                raise InterruptedError("the caller has gone")
            call.work(call.thread, call.marks)
        except BaseException as error:
            call.error = error
            call.marks[call.thread, 0] = STOPPED
        call.done.set()
        del call  # and the data that it holds


def _places():
    """Where helpers may run: not where the caller does, for some schedulers wake them just there."""
    current = _current_processor()
    return os.sched_getaffinity(0) - {current()} if current else None


@functools.cache
def _current_processor():
    """The C library's function that tells it, or None."""
    return getattr(ctypes.CDLL(None), "sched_getcpu", None) if hasattr(os, "sched_setaffinity") else None


_TEAM = threading.Lock()  # held while the helpers are at work
_QUEUES = {}  # process: the queue of each helper


def _helpers(process, count):
    """Queues of up to ``count`` helpers of this process; fewer where it can have no more threads."""
    queues = _QUEUES.setdefault(process, [])
    while len(queues) < count:
        calls = queue.SimpleQueue()
        try:
            threading.Thread(target=_serve, args=(calls,), name="resgrad", daemon=True).start()
        except RuntimeError:
            break
        queues.append(calls)
    return queues[:count]


def _forked():
    global _TEAM
    _TEAM = threading.Lock()  # the helpers at work, if any, are the parent's


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def allowed():
    """How many threads one training may use: no more than processors, than BLAS had, or than `MOST`."""
    return min(MOST, blas.processors(), *blas.before())


def spare(parts):
    """How many threads can work on this: a power of two; 1 where something else here is at work."""
    most = min(parts, allowed())
    if most > 1 and blas.alone():
        most = min(most, 1 + _free_processors(time.monotonic() // 0.05))
    else:
        most = 1
    return 1 << most.bit_length() - 1


def running():
    """How many threads of all processes run now, this one included; 0 where the system does not tell."""
    try:
        return int(Path("/proc/loadavg").read_text().split()[3].split("/")[0])
    except (OSError, ValueError, IndexError):  # no such file: other systems than Linux
        return 0


@functools.lru_cache(maxsize=1)
def _free_processors(moment):
    """The most that several looks find: what runs for less than a look matters as little as what sleeps."""
    free = 0
    for look in range(LOOKS):
        time.sleep(2e-4 * (look > 0))
        free = max(free, blas.processors() - max(running(), 1))
        if free >= blas.processors() - 1:
            break
    return free
