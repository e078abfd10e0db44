"""The step from a teacher to a student nearby, unit by unit, in double-double: the input of `biased.biased_near`."""

import importlib.util
from importlib.machinery import PathFinder
from pathlib import Path

import numpy as np
import scipy

from .digits import two_product
from .policy import quiet

NEAR = 0.3  # of the length of each unit, so that none vanishes on the way


def _matching():
    """`scipy.optimize.linear_sum_assignment` from its own extension: all of `scipy.optimize` takes long to import."""
    try:
        spec = PathFinder.find_spec("_lsap", [str(Path(scipy.__file__).parent / "optimize")])
        extension = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(extension)
        return extension.linear_sum_assignment
    except (AttributeError, ImportError):  # a SciPy that keeps it elsewhere
        from scipy.optimize import linear_sum_assignment

        return linear_sum_assignment


linear_sum_assignment = _matching()


@quiet
def step_from_teacher(Z, A, Z_star, A_star, fixed):
    """(U, A, dU, dA): the teacher, its units ordered and rescaled like the student's, and the step to the student.

    Z (k, d, 2) holds the units as rows, A (k, m, 2) the read-outs, in double-double.  None where a unit is farther than
    `NEAR` of its size from the teacher's.  With a ``fixed`` read-out units are only ordered.

    The step is accurate to the last digit.  (U, A) is rounded, which only moves the points of the path along it.
    """
    z, a, z_star, a_star = (array[..., 0] for array in (Z, A, Z_star, A_star))
    length, weight, length_star, weight_star = (np.linalg.norm(rows, axis=1) for rows in (z, a, z_star, a_star))
    if not (length > 0).all() or not (length_star * weight_star > 0).all():
        return None
    c = np.ones((len(z), len(z_star))) if fixed else np.sqrt(np.outer(length / weight, weight_star / length_star))
    far = np.sum((z[:, None] / c[..., None] - z_star) ** 2, axis=2) / length_star**2
    far += np.sum((a[:, None] * c[..., None] - a_star) ** 2, axis=2) / weight_star**2
    if not np.isfinite(far).all():
        return None
    rows, order = linear_sum_assignment(far)
    if far[rows, order].max() > NEAR**2:
        return None
    c, Z_star, A_star = c[rows, order][:, None], Z_star[order], A_star[order]
    U, error = two_product(c, Z_star[..., 0])
    dU = (z - U) + (Z[..., 1] - (error + c * Z_star[..., 1]))
    quotient = A_star[..., 0] / c
    product, error = two_product(c, quotient)
    rest = ((A_star[..., 0] - product) - error + A_star[..., 1]) / c
    dA = (a - quotient) + (A[..., 1] - rest)
    return tuple(np.ascontiguousarray(array) for array in (U.T, quotient, dU.T, dA))
