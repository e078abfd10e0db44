"""How kernels are compiled: one decorator, one cache, and the sizes at which one algorithm gives way to another.

`jit` compiles without the GIL and with IEEE division, and caches on disk.  Numba's own cache compares a function
with its own file only, so a cached caller would go on with an old copy of a callee that was edited in another file
(numba issue 1833).  Here every function carries `STAMP`, a digest of all files in this folder.  The cache is a
convenience: one that is damaged is replaced, and one that cannot be written is left alone.
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
quiet = np.errstate(all="ignore")  # decorates NumPy code that, like compiled code, says nothing of what overflows
PLAIN = bool(numba.config.DISABLE_JIT)  # NUMBA_DISABLE_JIT=1: nothing is compiled, `plain` does the work


class Cache(FunctionCache):
    """Numba's cache of one function, which never ends a run and is never out of date.

    Raises AttributeError where this Numba has no source stamp to set, and RuntimeError where no folder for a cache
    can be written.
    """

    told = False

    def __init__(self, function):
        super().__init__(function)
        self._cache_file._source_stamp  # noqa: B018  raises AttributeError where it is gone
        self._cache_file._source_stamp = STAMP

    def load_overload(self, signature, context):
        """The compiled function, or None: not there, or empty, cut or unreadable."""
        try:
            return super().load_overload(signature, context)
        except Exception:  # whatever unpickling a damaged file raises; `save_overload` replaces it
            return None

    def save_overload(self, signature, result):
        """Write the compiled function, if that is possible."""
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
    """Compile ``function`` by the one policy; ``fastmath`` and ``inline`` are opt-in.

    >>> jit(lambda x: x + 1)(1)
    2
    """
    if function is None:
        return functools.partial(jit, **options)
    if PLAIN:
        return function
    # Without a fastmath of its own a function would get that of whichever caller compiles it first.
    compiled = numba.njit(**{"nogil": True, "error_model": "numpy", "fastmath": False} | options)(function)
    try:
        compiled._cache = Cache(function)
    except (AttributeError, TypeError, RuntimeError):
        pass  # compiled in every process
    return compiled


# Sums over samples may be reassociated, so that they run in SIMD lanes.  NaN and inf keep their meaning: a run that
# diverges must be seen.  Never used in population code.
sampled_jit = functools.partial(jit, fastmath={"reassoc", "contract", "nsz", "arcp"})
inline = functools.partial(sampled_jit, inline="always")
# Population code may fuse a multiplication and an addition, and nothing else.
exact_jit = functools.partial(jit, fastmath={"contract"})
inline_exact = functools.partial(exact_jit, inline="always")

_FEATURES = llvmlite.binding.get_host_cpu_features()
REGISTER = 64 if _FEATURES.get("avx512f") else 32 if _FEATURES.get("avx") else 16  # bytes computed with at once
ROWS = 8 if REGISTER != 32 else 4  # of a tile of two columns: what 32 or 16 registers can hold
BLOCK = 1024  # samples computed with at a time, so that they stay in the cache

NARROW = 64  # up to this width and dimension, samples in the lanes are faster than units in the lanes
EXACT_NARROW = 32  # the same for the exact gradient
LONELY, EXACT_LONELY = 4, 8  # up to this width one thread is faster: waking a second costs more than a step
