"""Correlated inputs: x ~ N(0, S) is x = L z with z ~ N(0, I) and S = L L'.

F(L z) is the network with units L'U and linear part L'C, so the formulas for z hold for it, and gradients in U and C
are L times the gradients in L'U and L'C.
"""

import hashlib

import numpy as np

from . import checks

LARGEST = 1e30  # variance and noise: samples and their losses do not overflow, even in float32
SYMMETRIC = 1e-12  # of the largest entry: how far a product that ought to be symmetric may be from it
POWER, FILE = "power:", ".npy"  # the start of a covariance on a command line, or its end
MATRIX = "matrix"  # the name of a covariance that was given as an array


def known(covariance):
    """Whether a command line may give this: the path of a .npy file, or text that starts with "power:"."""
    return isinstance(covariance, str) and covariance.endswith(FILE) or str(covariance).startswith(POWER)


def load(covariance, d):
    """The covariance itself, checked by `factor`: the matrix in the file where a path is given."""
    if isinstance(covariance, str) and covariance.endswith(FILE):
        path = covariance
        try:
            covariance = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError, MemoryError) as error:
            raise ValueError(f"covariance is {checks.shown(path)}, which is no array: {checks.reason(error)}") from None
    factor(covariance, d)
    return covariance


def label(given, covariance):
    """A text that names a covariance: a path, or `MATRIX`, with a digest of the matrix; strings and None stay."""
    if covariance is None or isinstance(covariance, str):
        return covariance
    digest = hashlib.sha256(np.ascontiguousarray(covariance, np.float64).tobytes()).hexdigest()[:16]
    return f"{given if isinstance(given, str) else MATRIX}, sha256 {digest}"


def deviation(noise):
    """The standard deviation ``noise`` of each label, checked."""
    return checks.real(noise, "noise", 0, LARGEST)


def factor(covariance, d):
    """L (d, d), lower triangular with L L' = S, or None for the identity.

    Parameters
    ----------
    covariance : None, array_like of shape (d, d), or str
        None is the identity.  "power:ALPHA" is diagonal, with eigenvalues i^-ALPHA for i = 1 ... d, scaled to trace d,
        ALPHA a real number.
    d : int

    Raises
    ------
    ValueError, TypeError
        For another shape, or a matrix that is not symmetric and positive definite, or has entries beyond `LARGEST`.

    Examples
    --------
    >>> import numpy as np
    >>> factor([[4.0, 2.0], [2.0, 2.0]], 2)
    array([[2., 0.],
           [1., 1.]])
    >>> np.round(factor("power:1", 3) ** 2, 4)
    array([[1.6364, 0.    , 0.    ],
           [0.    , 0.8182, 0.    ],
           [0.    , 0.    , 0.5455]])
    """
    if covariance is None:
        return None
    if isinstance(covariance, str):
        return np.diag(np.sqrt(_power(covariance, d)))
    S = checks.array(covariance, "covariance", (d, d))
    if (large := np.max(np.abs(S))) >= LARGEST:
        raise ValueError(f"covariance holds an entry of size {large:g}, but must hold none above {LARGEST:g}")
    if np.max(np.abs(S - S.T)) > SYMMETRIC * np.max(np.abs(S)):
        i, j = map(int, np.unravel_index(np.argmax(np.abs(S - S.T)), S.shape))
        raise ValueError(
            f"covariance holds {S[i, j]} at index ({i}, {j}) and {S[j, i]} at ({j}, {i}), but must be symmetric"
        )
    try:
        return np.linalg.cholesky(S)
    except np.linalg.LinAlgError:
        least = np.linalg.eigvalsh(S)[0]
        raise ValueError(f"covariance has the eigenvalue {least:.3g}, but must be positive definite") from None


def _power(text, d):
    """The eigenvalues that "power:ALPHA" names."""
    try:
        if not text.startswith(POWER):
            raise ValueError
        alpha = checks.real(float(text.removeprefix(POWER)), "covariance")
    except ValueError:
        wanted = "a matrix, or power:ALPHA with a real number ALPHA"
        raise ValueError(f"covariance is {checks.shown(text)}, but must be {wanted}") from None
    powers = -alpha * np.log(np.arange(1, d + 1))
    values = np.exp(powers - powers.max())  # i^-ALPHA may be beyond 1e308
    values *= d / values.sum()
    if not values.all():
        raise ValueError(f"covariance is {text!r}, but with d={d} its smallest eigenvalue is 0 in floating point")
    return values
