"""BLAS held to one thread while resgrad works, so that results do not depend on how many it would take.

The last bits of matrix products and eigenvalues depend on the number of BLAS threads.  `threadpoolctl` finds every
BLAS in the process (OpenBLAS, MKL, BLIS) and sets it.  Imports nothing of resgrad.
"""

import contextlib
import functools
import os
import threading

_LOCK = threading.Lock()
_USERS = []  # (thread, whether it may be helped) of each `one_thread` under way
_BEFORE = []  # threads of each BLAS before the first of them


@functools.cache
def libraries():
    """Every BLAS in this process, as `threadpoolctl` controls it."""
    import scipy.linalg  # noqa: F401  it has a BLAS of its own, which the compiled code uses
    import threadpoolctl

    return threadpoolctl.ThreadpoolController().select(user_api="blas").lib_controllers


@contextlib.contextmanager
def one_thread(helped=True):
    """One BLAS thread in this process, until the last who asked for it has left.

    ``helped=False`` is for workers of which there are many: they get no helpers of `kernels.threads`.
    """
    user = threading.get_ident(), helped
    with _LOCK:
        if not _USERS:
            _BEFORE[:] = [library.num_threads for library in libraries()]
        _USERS.append(user)
        for library in libraries():
            library.set_num_threads(1)
    try:
        yield
    finally:
        with _LOCK:
            _USERS.remove(user)
            _restore()


def _restore():
    """Give every BLAS what it had, if no one is left."""
    if not _USERS:
        for library, count in zip(libraries(), _BEFORE):
            library.set_num_threads(count)


def before():
    """How many threads each BLAS had, or has, where no one asked for one thread."""
    return list(_BEFORE) if _USERS else [library.num_threads for library in libraries()]


def alone():
    """Whether this thread is the only one at work here, and may be helped."""
    return set(_USERS) == {(threading.get_ident(), True)}


def processors():
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _forked():
    """A forked process has but the thread that forked: no other uses BLAS or holds the lock any more."""
    global _LOCK
    _LOCK, users = threading.Lock(), len(_USERS)
    _USERS[:] = [user for user in _USERS if user[0] == threading.get_ident()]
    if users:
        _restore()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
