"""Checks of arguments.  An error is one line that names the argument, what it got and what it wants.

Every public function checks its arguments, with these; the kernels never do.
"""

import difflib
import operator

import numpy as np


def suggest(name, what, known):
    """The error for an unknown ``name``: lists the ``known`` ones and suggests the nearest."""
    hint = "".join(f"; did you mean {near!r}?" for near in difflib.get_close_matches(str(name).lower(), known, n=1))
    return ValueError(f"{what} is {shown(name)}, but must be one of {', '.join(known)}{hint}")


def choice(value, name, known):
    """``value``, one of the ``known`` names."""
    if isinstance(value, str) and value in known:
        return value
    raise suggest(value, name, known)


def integer(value, name, minimum=1, limit=2**63):
    """``value`` as an int of at least ``minimum`` and below ``limit``, by default the limit of compiled loops."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {shown(value)}, but must be an integer") from None
    if number < minimum:
        raise ValueError(f"{name} is {shown(value)}, but must be at least {minimum}")
    if number >= limit:
        raise ValueError(f"{name} is {shown(value)}, but must be below 2^63")
    return number


def real(value, name, low=-np.inf, high=np.inf, *, above=None):
    """``value`` as a finite float in [low, high), or above ``above``."""
    try:
        if isinstance(value, (str, bytes, bool, np.bool_)) or _masked(value):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{name} is {shown(value)}, but must be a real number") from None
    if above is not None and not above < number < np.inf:
        raise ValueError(f"{name} is {shown(value)}, but must be a finite number above {above:g}")
    if not (low <= number < high) or number == -np.inf:
        raise ValueError(f"{name} is {shown(value)}, but must lie in [{low:g}, {high:g})")
    return number


def generator(rng):
    """``rng`` itself, if it is a `numpy.random.Generator`, or one made from the seed ``rng``."""
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError):
        raise TypeError(f"rng is {shown(rng)}, but must be a seed or a numpy.random.Generator") from None


def floating(dtype):
    """``dtype`` as float32 or float64."""
    try:
        if np.dtype(dtype) in (np.float32, np.float64):
            return np.dtype(dtype)
    except TypeError:
        pass
    raise ValueError(f"dtype is {shown(dtype)}, but must be float32 or float64")


def array(value, name, shape=None, dtype=np.float64, finite=True):
    """``value`` as a C-contiguous array of ``dtype`` (None: float32 stays, all else becomes float64).

    ``shape`` may hold a name for a free length, as in ("N", d).  The input is never written to, and is copied only
    if its type or layout requires it.
    """
    unmasked(value, name)
    try:
        raw = np.asarray(value)
        if raw.dtype.kind not in "biuf":
            raise TypeError
    except (TypeError, ValueError):
        raise TypeError(f"{name} is {shown(value)}, but must be an array of real numbers") from None
    if dtype is None:
        dtype = np.float32 if raw.dtype == np.float32 else np.float64
    given = zip(shape or (), raw.shape)
    if shape is not None and (raw.ndim != len(shape) or any(n != m for n, m in given if not isinstance(n, str))):
        wanted = f"({', '.join(map(str, shape))}{',' * (len(shape) == 1)})"
        raise ValueError(f"{name} has shape {raw.shape}, but must have shape {wanted}")
    with np.errstate(over="ignore"):
        result = np.ascontiguousarray(raw, dtype=dtype).reshape(raw.shape)
    if finite and not np.isfinite(result).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(result))[0])
        raise ValueError(f"{name} holds {result[where]} at index {where}, but must be finite")
    return result


def unmasked(value, name):
    """``value``; TypeError if it is a masked array or holds one, whose mask NumPy would drop."""
    if any(map(_masked, value if isinstance(value, (list, tuple)) else [value])):
        raise TypeError(f"{name} is a masked array, but must be an array without a mask")
    return value


def _masked(value):
    """Whether ``value`` is a masked array, of NumPy or another library."""
    return isinstance(value, np.ndarray) and hasattr(value, "mask")


def reason(error):
    """An exception in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")


def shown(value):
    """A short repr that fits an error line."""
    text = repr(value).replace("\n", " ")
    return text if len(text) <= 60 else text[:57] + "..."
