"""The architectures, as data: each network is a record of numbers.

Every network of this package is

    F(x) = A' s(U' x + b) + C' x,        U = W1 + identity * eye(d, k),

with s(z) = p z for z > 0 and n z for z <= 0, and an `Architecture` says how (U, A, C) come from the parameters
(W1, W2, C, b).  A new variant is one more line in `ARCHITECTURES` (and its literal twin in ``tests/naive.py``).
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from . import checks

READOUTS = ("fixed", "sum", "vector")


class Blocks(NamedTuple):
    """The parameters as matrices; None where an architecture has no such block."""

    W1: np.ndarray  # (d, k)
    W2: np.ndarray | None = None  # (k, d)
    C: np.ndarray | None = None  # (d, m)
    b: np.ndarray | None = None  # (k,)


@dataclass(frozen=True)
class Architecture:
    """One network family: how the canonical (U, A, C) come from the parameters.

    Parameters
    ----------
    name : str
    formula : str
        F(x), to be read.
    source : str
        Where the network comes from.
    identity : float
        U = W1 + identity * eye(d, k).
    skip : float
        C = skip * eye(d) (``vector``) or skip * ones((d, 1)) (``fixed`` and ``sum``).
    readout : {"fixed", "sum", "vector"}
        ``fixed``: A = ones((k, 1)), there is no W2.  ``sum``: A = W2 @ ones((d, 1)), the sum of
        all outputs.  ``vector``: A = W2.
    slopes : tuple of float, optional
        (p, n) of the activation: relu is (1, 0), leaky relu (1, n), and (1/2, -1/2) is |z| / 2, relu's even part.
    trains_skip : bool, optional
        Whether C is trained, too; ``skip`` then gives its start.
    bias : bool, optional
        Whether hidden biases b are trained.

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
    slopes: tuple[float, float] = (1.0, 0.0)
    trains_skip: bool = False
    bias: bool = False

    def __post_init__(self):
        for field in ("name", "formula", "source"):
            value = getattr(self, field)
            if not isinstance(value, str) or not value:
                raise TypeError(f"{field} is {checks.shown(value)}, but must be a non-empty string")
        for field in ("identity", "skip"):
            object.__setattr__(self, field, checks.real(getattr(self, field), field))
        checks.choice(self.readout, "readout", READOUTS)
        try:
            p, n = (checks.real(slope, "slopes") for slope in self.slopes)
        except (TypeError, ValueError):
            raise TypeError(f"slopes is {checks.shown(self.slopes)}, but must be two real numbers") from None
        if p == n:
            raise ValueError(f"slopes is {checks.shown(self.slopes)}, but must be two different numbers")
        object.__setattr__(self, "slopes", (p, n))
        for field in ("trains_skip", "bias"):
            if not isinstance(getattr(self, field), bool):
                raise TypeError(f"{field} is {checks.shown(getattr(self, field))}, but must be True or False")

    @property
    def trains_readout(self) -> bool:
        """Whether there is a W2."""
        return self.readout != "fixed"

    def shapes(self, d: int, width: int | None = None) -> dict[str, tuple[int, ...]]:
        """The trained blocks, in their order in theta: ``{"W1": (d, k), "W2": (k, d), "C": (d, m), "b": (k,)}``.

        d is the input dimension, k the number of hidden units: ``width``, or d unless given.  All but W1 are there
        only where the architecture trains them.
        """
        d = checks.integer(d, "d")
        return self._shapes(d, d if width is None else checks.integer(width, "width"))

    def _shapes(self, d, k):
        shapes = {"W1": (d, k)}
        if self.trains_readout:
            shapes["W2"] = (k, d)
        if self.trains_skip:
            shapes["C"] = (d, self.outputs(d))
        if self.bias:
            shapes["b"] = (k,)
        return shapes

    def size(self, d: int, width: int | None = None) -> int:
        """Number of parameters for input dimension ``d`` and ``width`` units (d unless given)."""
        return sum(map(math.prod, self.shapes(d, width).values()))

    def outputs(self, d: int) -> int:
        """Number m of outputs: d for the ``vector`` read-out, else 1."""
        return d if self.readout == "vector" else 1

    def readout_rate(self, d: int) -> int:
        """The factor of A's step size when gradient descent moves theta (eq. 5 of ``kernels``)."""
        return {"fixed": 0, "sum": d, "vector": 1}[self.readout]

    def flatten(self, W1: ArrayLike, W2: ArrayLike | None = None, C: ArrayLike | None = None,
                b: ArrayLike | None = None) -> np.ndarray:  # fmt: skip
        """theta, shape (n,), from its blocks (see `shapes`): W1, W2, C, b, row-major."""
        W1 = checks.array(W1, "W1", ("d", "k"), dtype=None, finite=False)
        blocks, given = [W1], {"W2": W2, "C": C, "b": b}
        shapes = self.shapes(*W1.shape)
        for name, why in (("W2", "a fixed read-out"), ("C", "a fixed skip"), ("b", "no biases")):
            if name in shapes:
                if given[name] is None:
                    raise ValueError(f"{name} is missing, but {self.name} needs one of shape {shapes[name]}")
                blocks.append(checks.array(given[name], name, shapes[name], dtype=None, finite=False))
            elif given[name] is not None:
                raise ValueError(f"{name} is given, but {self.name} has {why} and no {name}")
        return np.concatenate([block.ravel() for block in blocks])

    def width(self, size: int, d: int) -> int:
        """The width k of a theta of ``size`` entries at input dimension ``d``; ValueError when none fits."""
        d = checks.integer(d, "d")
        each = d * (1 + self.trains_readout) + self.bias
        k, rest = divmod(size - self.trains_skip * d * self.outputs(d), each)
        if k <= 0 or rest:
            other = f"{each} more or less for each unit" if self.trains_skip else f"a multiple of {each}"
            raise ValueError(
                f"theta has shape ({size},), but {self.name} with d={d} needs ({self.size(d)},), "
                f"or {other} for another width"
            )
        return k

    def unflatten(self, theta: ArrayLike, d: int) -> Blocks:
        """(W1, W2, C, b), views into ``theta``; None where the architecture has no such block."""
        theta = np.asarray(checks.unmasked(theta, "theta"))
        if theta.ndim != 1:
            raise ValueError(f"theta has shape {theta.shape}, but {self.name} with d={d} needs ({self.size(d)},)")
        start, blocks = 0, {}
        for name, shape in self._shapes(d, self.width(theta.size, d)).items():
            end = start + math.prod(shape)
            blocks[name], start = theta[start:end].reshape(shape), end
        return Blocks(**blocks)

    def skip_map(self, d: int) -> np.ndarray:
        """C, shape (d, m), where it is fixed; else the C at which training starts."""
        return self.skip * (np.eye(d) if self.readout == "vector" else np.ones((d, 1)))

    # ----------------------------------------------------------------------- canonical coordinates

    def canonical(self, theta: ArrayLike, d: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(U, A, C), shapes (d, k), (k, m) and (d, m), of ``theta``: copies.

        Biases are one more row of U, for one more input that is always 1.
        """
        W1, W2, C, b = self.unflatten(theta, d)
        k, n = W1.shape[1], min(W1.shape)
        U = W1.copy() if b is None else np.concatenate([W1, b[None]])
        U.reshape(-1)[: n * (k + 1) : k + 1] += W1.dtype.type(self.identity)  # the diagonal
        if self.readout == "fixed":
            A = np.ones((k, 1), W1.dtype)
        else:
            A = W2.sum(axis=1, keepdims=True) if self.readout == "sum" else W2.copy()
        return U, A, self.skip_map(d).astype(W1.dtype) if C is None else C.copy()

    def coordinates(self, theta: ArrayLike, d: int) -> np.ndarray:
        """The vector that the training loops move: U, A and, where it is trained, C, row-major."""
        return np.concatenate([part.ravel() for part in self.canonical(theta, d)[: 2 + self.trains_skip]])

    def split(self, w: np.ndarray, d: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(U, A, C), views into `coordinates`; C is (0, m) where it is not trained."""
        rows, m = d + self.bias, self.outputs(d)
        skip = d if self.trains_skip else 0
        k = (w.size - skip * m) // (rows + m)
        u, a = rows * k, (rows + m) * k  # where U and A end
        return w[:u].reshape(rows, k), w[u:a].reshape(k, m), w[a:].reshape(skip, m)

    def parameters(self, w: np.ndarray, theta0: np.ndarray, d: int) -> np.ndarray:
        """theta with these `coordinates`: theta0 plus their changes; the unseen part of W2 stays as in theta0 (5)."""
        U, A, C = self.split(w, d)
        U0, A0, _ = self.canonical(theta0, d)
        W1, W2, _, _ = self.unflatten(theta0, d)
        blocks = {"W1": W1 + (U[:d] - U0[:d])}
        if self.trains_readout:
            blocks["W2"] = W2 + (A - A0) / W2.dtype.type(d if self.readout == "sum" else 1)
        if self.trains_skip:
            blocks["C"] = C
        if self.bias:
            blocks["b"] = U[d]
        return self.flatten(**blocks)

    def pull_back(self, dU: np.ndarray, dA: np.ndarray, dC: np.ndarray | None = None) -> np.ndarray:
        """Gradient in theta from the one in (U, A, C): dW1 = dU, dW2 = dA or dA 1', dC (eq. 5)."""
        d = len(dU) - self.bias
        blocks = [dU[:d]]
        if self.trains_readout:
            blocks.append(dA if self.readout == "vector" else np.broadcast_to(dA, (len(dA), d)))
        if self.trains_skip:
            blocks.append(dC)
        if self.bias:
            blocks.append(dU[d])
        return np.concatenate([block.ravel() for block in blocks])

    def pull_back_hessian(self, full: np.ndarray, d: int, units: tuple[int, int]) -> np.ndarray:
        """Hessian in theta from the one in (U, A, C), row-major (eq. 5).

        ``units`` is the shape of U: (d, k), or (d + 1, k) with biases as the last row of U and C.
        """
        (rows, k), m = units, self.outputs(d)
        outputs = np.arange(rows * k, (rows + m) * k)
        sources = {"fixed": outputs[:0], "sum": np.repeat(outputs, d), "vector": outputs}  # W2 entry -> its row's A
        skip = (rows + m) * k + np.arange(d * m * self.trains_skip)
        biases = d * k + np.arange(k * self.bias)  # the last block of theta
        index = np.concatenate([np.arange(d * k), sources[self.readout], skip, biases])
        return full[np.ix_(index, index)]


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
        # the same with a trained skip c'x or C'x; even is vanilla-free without its linear part
        Architecture("vanilla-free", "||relu(W1' x)||_1 + c' x", "resgrad", 0, 0, "fixed", trains_skip=True),
        Architecture("li-free", "||relu((I + W1)' x)||_1 + c' x", "resgrad", 1, 0, "fixed", trains_skip=True),
        Architecture("two-weight-free", "sum(W2' relu((W1 + I)' x)) + c' x", "resgrad", 1, 0, "sum", trains_skip=True),
        Architecture("resnet-free", "W2' relu(W1' x) + C' x", "resgrad", 0, 1, "vector", trains_skip=True),
        Architecture("modresnet-free", "W2' relu((W1 + I)' x) + C' x", "resgrad", 1, 1, "vector", trains_skip=True),
        Architecture("even", "||W1' x||_1 / 2", "resgrad", 0, 0, "fixed", slopes=(0.5, -0.5)),
        Architecture("li-bias", "||relu((I + W1)' x + b)||_1", "the post's notebook", 1, 0, "fixed", bias=True),
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
        Flat parameters: W1, W2, C, b, row-major.  Copied, and read-only from then on.
    d : int
        Input dimension.

    Attributes
    ----------
    W1, W2, C, b : ndarray
        Views into theta, shapes (d, k), (k, d), (d, m) and (k,); None where the architecture has no such block.
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
    C: np.ndarray | None = dataclasses.field(init=False, repr=False)
    b: np.ndarray | None = dataclasses.field(init=False, repr=False)
    width: int = dataclasses.field(init=False, repr=False)

    def __post_init__(self):
        arch, d = resolve(self.arch), checks.integer(self.d, "d")
        theta = checks.array(self.theta, "theta", dtype=None).copy()
        theta.flags.writeable = False  # and so are views of it
        blocks = arch.unflatten(theta, d)
        fields = {"arch": arch, "theta": theta, "d": d, **blocks._asdict(), "width": blocks.W1.shape[1]}
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def __reduce__(self):  # pickle and copy call the constructor: theta is read-only, and W1 ... are views into it
        return type(self), (self.arch, self.theta, self.d)

    def canonical(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(U, A, C) in float64, shapes (d, k), (k, m) and (d, m)."""
        return self.arch.canonical(self.theta.astype(np.float64), self.d)

    def __call__(self, X: ArrayLike) -> np.ndarray:
        """F at each row of ``X`` (B, d): shape (B,) for a scalar output, (B, d) for a vector one."""
        from . import kernels

        X = checks.array(X, "X", ("B", self.d), dtype=None)
        U, A, C = (np.ascontiguousarray(a, X.dtype) for a in self.canonical())
        Y = kernels.forward(U, A, C, with_ones(X) if self.arch.bias else X, self.arch.slopes)
        return Y if self.arch.readout == "vector" else Y[:, 0]


def with_ones(X):
    """The inputs and, behind them, one more that is always 1: what hidden biases are the weights of."""
    return np.hstack([X, np.ones((len(X), 1), X.dtype)])
