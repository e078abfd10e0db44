"""How kernels are compiled: one decorator, one cache, and the sizes at which one algorithm gives way to another.

`jit` compiles functions that release the GIL and divide as IEEE says, and caches them on disk.  Numba's own cache
checks only the file of the function itself, so a cached caller would keep an old copy of a callee that was edited in
another file (numba issue 1833).  Here every function carries `STAMP`, a digest of all files in this folder.  A damaged
cache is replaced.  A cache that cannot be written is left alone.
"""

import functools
import hashlib
import sys
from pathlib import Path

import llvmlite.binding
import numba
import numpy as np

try:
    from numba.core.caching import FunctionCache
except ImportError:  # a Numba that keeps its cache elsewhere: compile in every process, rather than run old code
    FunctionCache = object

STAMP = hashlib.sha256(
    b"".join(path.name.encode() + path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
).digest()
quiet = np.errstate(all="ignore")  # decorator: like compiled code, NumPy code gives no warnings of overflow
PLAIN = bool(numba.config.DISABLE_JIT)  # NUMBA_DISABLE_JIT=1: nothing is compiled, `plain` does the work


class Cache(FunctionCache):
    """Numba's cache of one function.  It is never out of date, and its errors never end a run.

    Raises AttributeError where this Numba has no source stamp to set, and RuntimeError where no folder for a cache
    can be written.
    """

    told = False

    def __init__(self, function):
        super().__init__(function)
        self._cache_file._source_stamp  # noqa: B018  raises AttributeError where it is gone
        self._cache_file._source_stamp = STAMP

    def load_overload(self, signature, context):
        """The compiled function, or None where its file is missing or damaged."""
        try:
            return super().load_overload(signature, context)
        except Exception:  # whatever unpickling a damaged file raises; `save_overload` replaces it
            return None

    def save_overload(self, signature, result):
        """Write the compiled function; say once where that is not possible."""
        try:
            try:
                super().save_overload(signature, result)
            except OSError:
                raise
            except Exception:  # the index is damaged
                self.flush()
                super().save_overload(signature, result)
        except OSError as error:
            self.disable()
            if not Cache.told and sys.stderr is not None:
                reason = f"{self.cache_path} cannot be written: {error.strerror or error}"
                print(f"compiled code is not kept for later runs: {reason}", file=sys.stderr)
            Cache.told = True


def jit(function=None, **options):
    """Compile ``function``; ``fastmath`` and ``inline`` are off unless given.

    >>> jit(lambda x: x + 1)(1)
    2
    """
    if function is None:
        return functools.partial(jit, **options)
    if PLAIN:
        return function
    # fastmath must be given: a function without it inherits that of the caller that compiles it first.
    compiled = numba.njit(**{"nogil": True, "error_model": "numpy", "fastmath": False} | options)(function)
    try:
        compiled._cache = Cache(function)
    except (AttributeError, TypeError, RuntimeError):
        pass  # compiled in every process
    return compiled


# Sums over samples may be reassociated, so that they run in SIMD lanes.  NaN and inf keep their meaning, since they
# show that a run diverges.  Never used in population code.
sampled_jit = functools.partial(jit, fastmath={"reassoc", "contract", "nsz", "arcp"})
inline = functools.partial(sampled_jit, inline="always")
# Population code may fuse a multiplication and an addition, and nothing else.
exact_jit = functools.partial(jit, fastmath={"contract"})
inline_exact = functools.partial(exact_jit, inline="always")

_FEATURES = llvmlite.binding.get_host_cpu_features()
REGISTER = 64 if _FEATURES.get("avx512f") else 32 if _FEATURES.get("avx") else 16  # bytes computed with at once
ROWS = 8 if REGISTER != 32 else 4  # of a tile with two columns: its sums fit into the 32 or 16 registers there are
BLOCK = 1024  # samples processed at a time, so that they stay in the cache

NARROW = 64  # up to this width and dimension, a lane for each sample is faster than a lane for each unit
EXACT_NARROW = 32  # the same for the exact gradient
UNROLLED = 4  # up to this number of registers, an exact loop for each number is faster than one for all
LONELY, EXACT_LONELY = 4, 8  # up to this width one thread is faster: waking a second costs more than a step
