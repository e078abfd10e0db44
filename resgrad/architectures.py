"""The architectures, as data: a record of numbers per network, and nothing else to add.

Every network of this package is

    F(x) = A' relu(U' x) + C' x,        U = W1 + identity * eye(d, k),

and an `Architecture` says how (U, A, C) come from the parameters (W1, W2).  A new variant is one
more line in `ARCHITECTURES` (and its literal twin in ``tests/naive.py``).
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from . import checks

READOUTS = ("fixed", "sum", "vector")


@dataclass(frozen=True)
class Architecture:
    """One network family: how the canonical (U, A, C) come from the parameters.

    Parameters
    ----------
    name : str
    formula : str
        F(x), for people.
    source : str
        Where the network comes from.
    identity : float
        U = W1 + identity * eye(d, k).
    skip : float
        C = skip * eye(d) (``vector``) or skip * ones((d, 1)) (``fixed`` and ``sum``).
    readout : {"fixed", "sum", "vector"}
        ``fixed``: A = ones((k, 1)), there is no W2.  ``sum``: A = W2 @ ones((d, 1)), the sum of
        all outputs.  ``vector``: A = W2.

    Raises
    ------
    ValueError, TypeError
        When a field is out of range.

    Examples
    --------
    >>> import resgrad as rg
    >>> rg.ARCHITECTURES["modresnet"].formula
    "W2' relu((W1 + I)' x) + x"
    >>> rg.ARCHITECTURES["modresnet"].size(10)
    200
    """

    name: str
    formula: str
    source: str
    identity: float
    skip: float
    readout: str

    def __post_init__(self):
        for field in ("name", "formula", "source"):
            value = getattr(self, field)
            if not isinstance(value, str) or not value:
                raise TypeError(f"{field} is {checks.shown(value)}, but must be a non-empty string")
        for field in ("identity", "skip"):
            object.__setattr__(self, field, checks.real(getattr(self, field), field))
        checks.choice(self.readout, "readout", READOUTS)

    @property
    def trains_readout(self) -> bool:
        """Whether there is a W2."""
        return self.readout != "fixed"

    def shapes(self, d: int, width: int | None = None) -> dict[str, tuple[int, int]]:
        """``{"W1": (d, k)}``, and ``"W2": (k, d)`` where there is one, in their order in theta.

        d is the input dimension, k the number of hidden units: ``width``, or d unless given.
        """
        d = checks.integer(d, "d")
        k = d if width is None else checks.integer(width, "width")
        return {"W1": (d, k), "W2": (k, d)} if self.trains_readout else {"W1": (d, k)}

    def size(self, d: int, width: int | None = None) -> int:
        """Number of parameters for input dimension ``d`` and ``width`` units (d unless given)."""
        return sum(rows * columns for rows, columns in self.shapes(d, width).values())

    def outputs(self, d: int) -> int:
        """Number m of outputs: d for the ``vector`` read-out, else 1."""
        return d if self.readout == "vector" else 1

    def readout_rate(self, d: int) -> int:
        """What gradient descent on theta multiplies the rate of A by (see ``kernels``, eq. 5)."""
        return {"fixed": 0, "sum": d, "vector": 1}[self.readout]

    def flatten(self, W1: ArrayLike, W2: ArrayLike | None = None) -> np.ndarray:
        """theta, shape (n,), from W1 (d, k) and W2 (k, d): W1 then W2, row-major."""
        W1 = checks.array(W1, "W1", ("d", "k"), dtype=None, finite=False)
        if not self.trains_readout:
            if W2 is not None:
                raise ValueError(f"W2 is given, but {self.name} has a fixed read-out and no W2")
            return W1.ravel().copy()
        if W2 is None:
            raise ValueError(f"W2 is missing, but {self.name} needs one of shape {W1.shape[::-1]}")
        W2 = checks.array(W2, "W2", W1.shape[::-1], dtype=None, finite=False)
        return np.concatenate([W1.ravel(), W2.ravel()])

    def width(self, size: int, d: int) -> int:
        """The width k of a theta of ``size`` entries at input dimension ``d``; ValueError when none fits."""
        d = checks.integer(d, "d")
        k, rest = divmod(size, self.size(d, 1))
        if k == 0 or rest:
            raise ValueError(
                f"theta has shape ({size},), but {self.name} with d={d} needs ({self.size(d)},), "
                f"or a multiple of {self.size(d, 1)} for another width"
            )
        return k

    def unflatten(self, theta: ArrayLike, d: int) -> tuple[np.ndarray, np.ndarray | None]:
        """(W1, W2), views into ``theta``; W2 is None where the read-out is fixed."""
        theta = np.asarray(theta)
        if theta.ndim != 1:
            raise ValueError(f"theta has shape {theta.shape}, but {self.name} with d={d} needs ({self.size(d)},)")
        k = self.width(theta.size, d)
        W1 = theta[: d * k].reshape(d, k)
        return W1, theta[d * k :].reshape(k, d) if self.trains_readout else None

    def canonical(self, theta: ArrayLike, d: int) -> tuple[np.ndarray, np.ndarray]:
        """(U, A), shapes (d, k) and (k, m): the canonical coordinates of ``theta``, copies."""
        W1, W2 = self.unflatten(theta, d)
        U, diagonal = W1.copy(), np.arange(min(W1.shape))
        U[diagonal, diagonal] += W1.dtype.type(self.identity)
        if self.readout == "fixed":
            return U, np.ones((W1.shape[1], 1), W1.dtype)
        return U, W2.sum(axis=1, keepdims=True) if self.readout == "sum" else W2.copy()

    def skip_map(self, d: int) -> np.ndarray:
        """C, shape (d, m): the linear part of the network."""
        return self.skip * (np.eye(d) if self.readout == "vector" else np.ones((d, 1)))

    def pull_back(self, dU: np.ndarray, dA: np.ndarray) -> np.ndarray:
        """Gradient in theta from the one in (U, A): dW1 = dU, dW2 = dA or dA 1' (eq. 5)."""
        if self.readout == "fixed":
            return dU.ravel().copy()
        dW2 = dA if self.readout == "vector" else np.broadcast_to(dA, dU.shape[::-1])
        return np.concatenate([dU.ravel(), dW2.ravel()])


ARCHITECTURES = {
    arch.name: arch
    for arch in (
        Architecture("li", "||relu((I + W1)' x)||_1", "Li & Yuan 2017", 1, 0, "fixed"),
        Architecture("resnet", "W2' relu(W1' x) + x", "the post's ResNet block", 0, 1, "vector"),
        Architecture("two-weight", "sum(W2' relu((W1 + I)' x))", "the post", 1, 0, "sum"),
        Architecture("modresnet", "W2' relu((W1 + I)' x) + x", "the post", 1, 1, "vector"),
        Architecture("vanilla", "||relu(W1' x)||_1", "Safran & Shamir 2018", 0, 0, "fixed"),
        Architecture("resnet-sum", "sum(W2' relu(W1' x) + x)", "the post's notebook", 0, 1, "sum"),
        Architecture("modresnet-sum", "sum(W2' relu((W1 + I)' x) + x)", "the post's notebook", 1, 1, "sum"),
    )
}


def resolve(arch: Architecture | str) -> Architecture:
    """The `Architecture` that ``arch`` is or names; a ValueError suggests the nearest name."""
    return arch if isinstance(arch, Architecture) else ARCHITECTURES[checks.choice(arch, "arch", ARCHITECTURES)]


@dataclass(frozen=True, eq=False)
class Network:
    """An architecture with its parameters: a function of x.

    Parameters
    ----------
    arch : Architecture or str
    theta : array_like, shape (n,)
        Flat parameters: W1 then W2, row-major.  Copied, and read-only from then on.
    d : int
        Input dimension.

    Attributes
    ----------
    W1, W2 : ndarray
        Views into theta, shapes (d, k) and (k, d); W2 is None for a fixed read-out.
    width : int
        Number k of hidden units.

    Raises
    ------
    ValueError, TypeError
        When theta does not fit the architecture or is not finite.

    Examples
    --------
    >>> import numpy as np, resgrad as rg
    >>> net = rg.Network("li", np.zeros(4), d=2)       # ||relu(I x)||_1
    >>> net(np.array([[1.0, 2.0], [3.0, -4.0]]))
    array([3., 3.])
    """

    arch: Architecture | str
    theta: ArrayLike
    d: int
    W1: np.ndarray = dataclasses.field(init=False, repr=False)
    W2: np.ndarray | None = dataclasses.field(init=False, repr=False)
    width: int = dataclasses.field(init=False, repr=False)

    def __post_init__(self):
        arch, d = resolve(self.arch), checks.integer(self.d, "d")
        theta = checks.array(self.theta, "theta", dtype=None).copy()
        theta.flags.writeable = False  # and so are views of it
        W1, W2 = arch.unflatten(theta, d)
        fields = {"arch": arch, "theta": theta, "d": d, "W1": W1, "W2": W2, "width": W1.shape[1]}
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def __reduce__(self):  # pickle and copy make it anew: read-only, with views into its own theta
        return type(self), (self.arch, self.theta, self.d)

    def canonical(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(U, A, C) in float64, shapes (d, k), (k, m) and (d, m)."""
        theta = self.theta.astype(np.float64)
        return *self.arch.canonical(theta, self.d), self.arch.skip_map(self.d)

    def __call__(self, X: ArrayLike) -> np.ndarray:
        """F at each row of ``X`` (B, d): shape (B,) for a scalar output, (B, d) for a vector one."""
        from . import kernels

        X = checks.array(X, "X", ("B", self.d), dtype=None)
        U, A, C = (np.ascontiguousarray(a, X.dtype) for a in self.canonical())
        Y = kernels.forward(U, A, C, X)
        return Y if self.arch.readout == "vector" else Y[:, 0]
