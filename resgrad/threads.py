"""How many threads work, so that results do not depend on it.  Imports no other room."""

import concurrent.futures
import contextlib
import ctypes
import functools
import os
import threading
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


_LOCK, _BEFORE = threading.Lock(), []


@contextlib.contextmanager
def one_thread():
    """One BLAS thread in this process: the last bits of products and eigenvalues depend on their number.

    It reaches the OpenBLAS of NumPy's and SciPy's wheels.  With another BLAS, such as conda's MKL, set its
    number of threads before Python starts (``MKL_NUM_THREADS=1``), or those bits may depend on it.
    """
    with _LOCK:
        _BEFORE.append([get_threads() for get_threads, _ in blas()])
        for _, set_threads in blas():
            set_threads(1)
    try:
        yield
    finally:
        with _LOCK:
            before = _BEFORE.pop()
            if not _BEFORE:  # the last to leave holds what the first one found
                for (_, set_threads), count in zip(blas(), before):
                    set_threads(count)


@functools.cache
def _helper(process):
    """The thread that helps; a forked process needs one of its own."""
    return concurrent.futures.ThreadPoolExecutor(1, "resgrad")


def each(function, calls):
    """[function(*arguments) for arguments in calls], with the help of a second thread.

    Alone where BLAS had one thread before `one_thread`, and where the helper is busy with another's calls.
    """
    if min((_BEFORE or [[]])[0], default=os.cpu_count()) < 2:
        return [function(*arguments) for arguments in calls]
    futures = [_helper(os.getpid()).submit(function, *arguments) for arguments in calls[1:]]
    results = [function(*calls[0])]
    for future, arguments in zip(futures, calls[1:]):
        results.append(function(*arguments) if future.cancel() else future.result())
    return results
