"""Everything random: seeds and streams, teachers and starting points, data."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from . import architectures, blas, checks, inputs
from .architectures import Architecture, Network

Seed = np.random.Generator | int | None


class Streams(NamedTuple):
    """One independent generator for each purpose, so that no draw changes another."""

    teacher: np.random.Generator
    init: np.random.Generator
    data: np.random.Generator
    batches: np.random.Generator


def streams(seed: int, run: int = 0) -> Streams:
    """The `Streams` of run number ``run`` under ``seed``, both integers >= 0.

    Raises
    ------
    ValueError, TypeError
        For other seeds and numbers.

    Examples
    --------
    >>> streams(0).data.integers(100, size=3).tolist() == streams(0).data.integers(100, size=3).tolist()
    True
    """
    seed, run = checks.integer(seed, "seed", 0, np.inf), checks.integer(run, "run", 0)
    children = np.random.SeedSequence(seed, spawn_key=(run,)).spawn(len(Streams._fields))
    return Streams(*map(np.random.default_rng, children))


# How a matrix of this shape is drawn; d is the input dimension.
DRAWS = {
    "uniform": lambda rng, shape, d: rng.random(shape),  # the post's teachers
    "fan-in": lambda rng, shape, d: rng.uniform(-(d**-0.5), d**-0.5, shape),  # the post's starts
    "normal": lambda rng, shape, d: rng.normal(0, d**-0.5, shape),
    "small": lambda rng, shape, d: rng.normal(0, 0.1 * d**-0.5, shape),
    "spectral": lambda rng, shape, d: rng.normal(0, 0.3 * d**-0.5, shape),  # Li & Yuan's: |W|_2 about 0.6
    "phases": lambda rng, shape, d: _two_phase_start(rng, shape),
    "zero": lambda rng, shape, d: np.zeros(shape),
    "identity": lambda rng, shape, d: np.eye(*shape),
}


def _two_phase_start(rng, shape):
    """A W from which <-grad L, -W> starts negative in ``li`` with W* = 0, and turns positive.

    W = alpha M + beta I with |W|_F = 5, trace -0.65 |W|_F^2 (of a square W), M antisymmetric with equal
    singular values and M 1 = 0.
    """
    d, size = shape[0], 25.0
    if shape[0] != shape[1]:
        raise ValueError(f"phases needs a square W1, but width gives it the shape {shape}")
    basis, _ = np.linalg.qr(np.column_stack([np.ones(d), rng.standard_normal((d, d - 1))]))
    pairs, beta = (d - 1) // 2, -0.65 * size / d
    half = basis[:, 1 : 2 * pairs + 1 : 2] @ basis[:, 2 : 2 * pairs + 1 : 2].T  # orthogonal to 1
    alpha = np.sqrt(max(size - beta**2 * d, 0) / max(2 * pairs, 1))
    return alpha * (half - half.T) + beta * np.eye(d)


def known(kind):
    """Whether `draw` knows this ``kind``."""
    return isinstance(kind, str) and all(part in DRAWS for part in kind.split("+", 1))


def draw(arch: Architecture | str, kind: str, d: int, width: int | None = None, rng: Seed = None) -> np.ndarray:
    """Parameters drawn from a named distribution: a teacher or a start.

    Parameters
    ----------
    arch : Architecture or str
    kind : {"uniform", "fan-in", "normal", "small", "spectral", "phases", "zero", "identity"}
        Entries of W1, then of W2: U[0, 1), U(-1/sqrt(d), 1/sqrt(d)), N(0, 1/d), N(0, 0.01/d),
        N(0, 0.09/d), Li & Yuan's two-phase start (square W1 only), zeros, or the identity matrix.
        A trained C is ``skip`` times the identity matrix (``vector``) or ones.  Of two kinds, as in "normal+small", the
        second is that of a matrix added to C, and of the biases.  Without it biases are of the one kind, but zero for
        "identity" and "phases"; "uniform+zero" makes them zero, too.
    d : int
    width : int, optional
        d unless given.
    rng : numpy.random.Generator or int

    Returns
    -------
    ndarray, shape (n,)

    Raises
    ------
    ValueError, TypeError
        For an unknown kind, or arguments out of range.

    Examples
    --------
    >>> import resgrad as rg
    >>> rg.draw("two-weight", "identity", d=2)
    array([1., 0., 0., 1., 1., 0., 0., 1.])
    """
    arch, rng = architectures.resolve(arch), checks.generator(rng)
    if not known(kind):
        raise checks.suggest(kind, "kind", list(DRAWS))
    kind, _, of_skip = kind.partition("+")
    if of_skip and not (arch.trains_skip or arch.bias):
        raise ValueError(f"kind is {kind}+{of_skip}, but {arch.name} trains no skip, and wants one kind only")
    last = of_skip or kind
    others = {"C": of_skip or "zero", "b": "zero" if last in ("identity", "phases") else last}
    blocks = {name: DRAWS[others.get(name, kind)](rng, shape, d) for name, shape in arch.shapes(d, width).items()}
    if arch.trains_skip:
        blocks["C"] += arch.skip_map(d)
    return arch.flatten(**blocks)


@blas.one_thread()
def dataset(
    teacher: Network, n_samples: int, rng: Seed = None, dtype: DTypeLike = np.float64, *,
    covariance: ArrayLike | str | None = None, noise: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Gaussian samples and a teacher's outputs at them.

    Parameters
    ----------
    teacher : Network
    n_samples : int
    rng : numpy.random.Generator or int
    dtype : {float64, float32}
    covariance : array_like (d, d) or str, optional
        Of the inputs, as for `PopulationLoss`.  Default: the identity.
    noise : float, optional
        Standard deviation of Gaussian noise on each output.  It is drawn after the inputs, and does not change them.

    Returns
    -------
    X : ndarray, shape (n_samples, d)
    Y : ndarray, shape (n_samples,) or (n_samples, d)

    Raises
    ------
    ValueError, TypeError
        For arguments out of range.

    Examples
    --------
    >>> import numpy as np, resgrad as rg
    >>> X, Y = rg.dataset(rg.Network("li", np.zeros(9), d=3), 5, rng=0)
    >>> X.shape, Y.shape
    ((5, 3), (5,))
    """
    if not isinstance(teacher, Network):
        raise TypeError(f"teacher is {checks.shown(teacher)}, but must be a resgrad.Network")
    dtype, size = checks.floating(dtype), checks.integer(n_samples, "n_samples")
    factor, noise = inputs.factor(covariance, teacher.d), inputs.deviation(noise)
    return sampled(teacher, size, checks.generator(rng), dtype, factor, noise)


def sampled(teacher, count, rng, dtype, factor, noise):
    """`dataset` without checks; the inputs have the covariance L L', L the ``factor``, or None for the identity."""
    X = rng.standard_normal((count, teacher.d))
    X = (X if factor is None else X @ factor.T).astype(dtype, copy=False)
    Y = teacher(X)
    return X, Y + (noise * rng.standard_normal(Y.shape)).astype(dtype) if noise else Y
