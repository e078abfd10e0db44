"""One-point convexity: how strongly the gradient points to the teacher, along a run and by the size of the weights."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .. import architectures, checks, losses
from ..architectures import Architecture
from . import alignment, symmetry
from .symmetry import EPS


class OnePoint(NamedTuple):
    """The result of `one_point`: arrays of shape (records,)."""

    inner: np.ndarray  # <-grad L, theta* - theta>
    distance: np.ndarray  # |theta* - theta|
    delta: np.ndarray  # inner / distance^2; nan where the distance is rounding
    potential: np.ndarray  # sum_i (|u*_i| - |u_i|)


def one_point(loss: losses.PopulationLoss | losses.EmpiricalLoss | losses.OnlineLoss, thetas: ArrayLike,
              theta_star: ArrayLike | None = None, aligned: bool | None = None) -> OnePoint:  # fmt: skip
    """How strongly the gradient points to the teacher along a trajectory.

    Li & Yuan (2017) call L delta-one-point strongly convex at W if <-grad L(W), W* - W> >= delta |W* - W|^2.
    Their potential g = sum_i (|e_i + w*_i| - |e_i + w_i|), w_i the columns of W, falls while the inner product is
    still negative.

    Parameters
    ----------
    loss : PopulationLoss, EmpiricalLoss or OnlineLoss
    thetas : array_like, shape (records, n) or (n,)
    theta_star : array_like, shape (n*,), optional
        Default: the loss's teacher, if `convert` can express it in the student's architecture.
    aligned : bool, optional
        Whether to measure to the nearest symmetric copy of the teacher (`align`), for every point anew.  Default: yes,
        but not for ``li`` and its variants, whose identity fixes the order of the units.

    Raises
    ------
    ValueError, TypeError
        When something does not fit, or there is no teacher.

    Examples
    --------
    >>> import numpy as np, resgrad as rg
    >>> loss = rg.PopulationLoss("li", rg.Network("li", rg.draw("li", "small", d=5, rng=0), d=5))
    >>> run = rg.train(loss, np.zeros(25), rg.SGD(0.05), 100, observe={"theta": np.copy})
    >>> bool((rg.one_point(loss, run.observed["theta"]).delta > 0).all())
    True
    """
    if theta_star is None:
        if not hasattr(loss, "teacher"):
            raise ValueError("theta_star is missing, and the loss has no teacher")
        theta_star = symmetry.convert(loss.teacher.theta, loss.d, loss.teacher.arch, loss.arch)
    thetas = np.atleast_2d(checks.array(thetas, "thetas"))
    if not len(thetas):
        raise ValueError(f"thetas has shape {thetas.shape}, but must hold at least one point")
    if aligned is None:
        aligned = loss.arch.trains_readout or not loss.arch.identity
    if not aligned:
        theta_star = checks.array(theta_star, "theta_star", thetas.shape[1:])
    rows = []
    for theta in thetas:
        grad = loss.grad(theta).astype(np.float64)
        target = alignment.align(loss.arch, theta, theta_star, loss.d).teacher if aligned else theta_star
        sizes = [np.linalg.norm(loss.arch.canonical(at, loss.d)[0], axis=0).sum() for at in (target, theta)]
        gap = target - theta
        rows.append((-grad @ gap, np.linalg.norm(gap), sizes[0] - sizes[1]))
    inner, distance, potential = np.array(rows).T
    noise = 100 * EPS * (1 + np.linalg.norm(thetas, axis=1))
    delta = np.where(distance > noise, inner / np.maximum(distance, noise) ** 2, np.nan)
    return OnePoint(inner, distance, delta, potential)


class Region(NamedTuple):
    """The result of `convexity_region`: arrays of shape (g,)."""

    gamma: np.ndarray
    fraction: np.ndarray  # of the pairs: those with delta > 0
    smallest: np.ndarray  # delta of these pairs
    median: np.ndarray


def convexity_region(gammas: ArrayLike, d: int, n_pairs: int = 200, rng: np.random.Generator | int | None = None,
                     arch: Architecture | str = "li") -> Region:  # fmt: skip
    """How far from 0 the loss stays one-point convex, over random W* and W of spectral norm gamma.

    Parameters
    ----------
    gammas : array_like, shape (g,)
        Spectral norms, > 0.
    d : int
        Input dimension.
    n_pairs : int
        Pairs (W*, W) with Gaussian directions, the same for every gamma.  Pairs with W* = W, which d = 1 has, are
        left out.
    rng : numpy.random.Generator or int
    arch : Architecture or str
        With a ``fixed`` read-out.  Where the skip is trained, the teacher's is 0 and the student's is the best one for
        its W: the loss, and so the sign of delta, are then those of the even part (docstring of `minima`).

    Raises
    ------
    ValueError, TypeError
        For arguments out of range.

    Examples
    --------
    >>> import resgrad as rg
    >>> region = rg.convexity_region([0.5, 8.0], d=5, n_pairs=50, rng=0)
    >>> float(region.fraction[0]), bool(region.fraction[1] < 1)
    (1.0, True)
    """
    arch, d, n_pairs = architectures.resolve(arch), checks.integer(d, "d"), checks.integer(n_pairs, "n_pairs")
    gammas, rng = checks.array(gammas, "gammas", ("n",)), checks.generator(rng)
    if arch.trains_readout:
        raise ValueError(f"arch is {arch.name}, but the region is defined for a fixed read-out")
    if not (gammas > 0).all():
        raise ValueError(f"gammas is {checks.shown(gammas.tolist())}, but must be positive")
    pairs = rng.standard_normal((n_pairs, 2, d, d))
    pairs /= np.linalg.norm(pairs, 2, axis=(2, 3), keepdims=True)
    pairs = pairs[np.abs(pairs[:, 0] - pairs[:, 1]).max(axis=(1, 2)) > 1e3 * EPS]
    if not len(pairs):
        raise ValueError(f"n_pairs is {n_pairs}, but must be larger: W* = W in every pair")
    delta = np.empty((gammas.size, len(pairs)))
    for i, j in np.ndindex(delta.shape):
        W, W_star = gammas[i] * pairs[j]
        best = sum(arch.slopes) / 2 * (W_star - W).sum(axis=1, keepdims=True) if arch.trains_skip else None
        none, b = 0 * best if arch.trains_skip else None, np.zeros(d) if arch.bias else None
        theta, theta_star = arch.flatten(W, C=best, b=b), arch.flatten(W_star, C=none, b=b)
        loss = losses.PopulationLoss(arch, architectures.Network(arch, theta_star, d))
        delta[i, j] = one_point(loss, theta, theta_star, aligned=False).delta[0]
    return Region(gammas, (delta > 0).mean(axis=1), delta.min(axis=1), np.median(delta, axis=1))
