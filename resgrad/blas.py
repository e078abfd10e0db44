"""BLAS is held to one thread while resgrad works: the last bits of its results depend on the number of its threads.

`threadpoolctl` finds every BLAS in the process (OpenBLAS, MKL, BLIS) and sets its threads.  Imports nothing of resgrad.
"""

import contextlib
import functools
import os
import threading

_LOCK = threading.Lock()
_USERS = []  # (thread, whether it may be helped) of each active `one_thread`
_BEFORE = []  # number of threads of each BLAS before the first of these


@functools.cache
def libraries():
    """Every BLAS in this process, as `threadpoolctl` controls it."""
    import scipy.linalg  # noqa: F401  its own BLAS, which the compiled code uses, must be loaded to be found
    import threadpoolctl

    return threadpoolctl.ThreadpoolController().select(user_api="blas").lib_controllers


@contextlib.contextmanager
def one_thread(helped=True):
    """Hold BLAS in this process to one thread, until the last such block has ended.

    ``helped=False`` is for the many workers of a census: they get no helpers of `kernels.threads`.
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
    """Give every BLAS the threads it had, if no block is left."""
    if not _USERS:
        for library, count in zip(libraries(), _BEFORE):
            library.set_num_threads(count)


def before():
    """How many threads each BLAS has, or had before `one_thread`."""
    return list(_BEFORE) if _USERS else [library.num_threads for library in libraries()]


def alone():
    """Whether this thread alone is in `one_thread`, and may be helped."""
    return set(_USERS) == {(threading.get_ident(), True)}


def processors():
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _forked():
    """A forked process has only the thread that forked: no other uses BLAS or holds the lock there."""
    global _LOCK
    _LOCK, users = threading.Lock(), len(_USERS)
    _USERS[:] = [user for user in _USERS if user[0] == threading.get_ident()]
    if users:
        _restore()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
