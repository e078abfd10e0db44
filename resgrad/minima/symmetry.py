"""The symmetries of a network: the changes of its parameters that leave its function as it is.

A network is a set of units (u_j, a_j), the columns of U and the rows of A (see ``kernels``).  A bias b_j is one more
entry of u_j.  The function sum_j a_j s(u_j'x) + C'x stays the same when

* the units are permuted (every read-out).  In parameters: W1 -> (W1 + identity E) P - identity E;
* a unit is rescaled, u -> c u and a -> a / c with c > 0 (``sum`` and ``vector``);
* rows that sum to 0 are added to W2 (``sum``).  They are the *unseen part* of W2: the loss sees only W2 1;
* a unit is reversed, u -> -u and C -> C + (p + n) u a', where C is trained, since s(z) = s(-z) + (p + n) z.  Where
  p + n = 0, as in ``even``, C need not change.

These maps form a group.  The *orbit* of theta is the set of its images.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from .. import architectures, checks
from ..architectures import Architecture

EPS = float(np.finfo(np.float64).eps)
DEAD = 1e-8  # of the largest |u||a|: a unit below it counts as dead, and not as moved


@dataclass(frozen=True, eq=False)
class Units:
    """The units of a network as rows.  Two networks' units are as far apart as their parameters."""

    arch: Architecture
    u: np.ndarray  # (k, d)
    a: np.ndarray  # (k, m); for "sum" divided by d^(1/2), so that moving a moves W2 as far
    unseen: np.ndarray  # (k, d) for "sum", else (k, 0)
    skip: np.ndarray  # C, (d, m), where it is trained, else (0, m)

    @classmethod
    def of(cls, arch, theta, d, name="theta"):
        """The units of a caller's ``theta``, which is checked.  A u or a that is zero up to rounding becomes zero."""
        arch, theta, d = architectures.resolve(arch), checks.array(theta, name, ("n",)), checks.integer(d, "d")
        try:
            U, A, C = arch.canonical(theta, d)
        except ValueError as error:
            raise ValueError(str(error).replace("theta", name, 1)) from None
        u, unseen = np.ascontiguousarray(U.T), np.empty((U.shape[1], 0))
        if arch.identity:
            u[:d][np.abs(u[:d]).max(axis=1) <= 4 * EPS * abs(arch.identity)] = 0.0  # W1 = -identity E
        if arch.readout == "sum":
            W2 = arch.unflatten(theta, d).W2
            unseen = W2 - A / d
            A[np.abs(A) <= 4 * EPS * np.abs(W2).sum(axis=1, keepdims=True)] = 0.0
            A = A / d**0.5
        return cls(arch, u, A, unseen, C if arch.trains_skip else C[:0])

    def theta(self):
        """The parameters, shape (n,)."""
        arch, (k, d) = self.arch, (len(self.u), self.d)
        blocks = {"W1": self.u.T[:d] - arch.identity * np.eye(d, k)}
        if arch.trains_readout:
            blocks["W2"] = self.a / d**0.5 + self.unseen if arch.readout == "sum" else self.a
        if arch.trains_skip:
            blocks["C"] = self.skip
        if arch.bias:
            blocks["b"] = self.u[:, d]
        return arch.flatten(**blocks)

    @property
    def d(self):
        """The input dimension."""
        return self.u.shape[1] - self.arch.bias

    @property
    def reversible(self):
        """Whether units can be reversed.  With a bias they cannot: no parameter could absorb the constant b a'."""
        return sum(self.arch.slopes) == 0 or self.arch.trains_skip and not self.arch.bias

    def linear(self):
        """(p + n) u a' of each unit, shape (k, d, m), by which reversing it changes C; no entries if C is fixed."""
        scale = sum(self.arch.slopes) * (self.d**0.5 if self.arch.readout == "sum" else 1.0)
        return scale * self.u[:, : len(self.skip), None] * self.a[:, None, :]

    def turned(self, which):
        """The units, those of the mask ``which`` (k,) reversed."""
        u = np.where(which[:, None], -self.u, self.u)
        return replace(self, u=u, skip=self.skip + self.each(lambda rows: rows[which]).linear().sum(axis=0))

    def each(self, function):
        """The units with ``function`` applied to u, a and unseen."""
        return replace(self, u=function(self.u), a=function(self.a), unseen=function(self.unseen))

    def strength(self):
        """(|u||a|)^(1/2) of each unit, shape (k,)."""
        return np.sqrt(lengths(self.u)) * np.sqrt(lengths(self.a))

    def dead(self, tolerance=DEAD):
        """Which units contribute nothing, shape (k,)."""
        strength = self.strength()
        return strength <= tolerance**0.5 * strength.max()


def lengths(rows):
    """The length of each row, also where its square over- or underflows.

    Zero is tested by comparison: a processor that treats subnormal numbers as 0 must do so here, too.
    """
    size = np.abs(rows).max(axis=1, initial=0.0)
    rows = rows / np.where(size > 0, size, 1.0)[:, None]
    return size * np.sqrt(np.einsum("ij,ij->i", rows, rows))


def directions(rows):
    """The rows divided by their lengths.  Rows of zeros stay."""
    length = lengths(rows)[:, None]
    return rows / np.where(length > 0, length, 1.0)


def transform(arch: Architecture | str, theta: ArrayLike, d: int, permutation: ArrayLike | None = None,
              scales: ArrayLike | None = None, unseen: ArrayLike | None = None,
              reverse: ArrayLike | None = None) -> np.ndarray:  # fmt: skip
    """Other parameters of the same function, shape (n,).

    Parameters
    ----------
    arch : Architecture or str
    theta : array_like, shape (n,)
    d : int
        Input dimension.
    permutation : array_like of int, shape (k,), optional
        Unit ``permutation[j]`` moves to place j.
    scales : array_like, shape (k,), optional
        Then u_j is multiplied and a_j divided by ``scales[j]`` > 0.
    unseen : array_like, shape (k, d), optional
        Its rows, less their means, are added to those of W2.
    reverse : array_like of int, optional
        The units to reverse, by their final places (architectures with a trained skip, and ``even``).

    Raises
    ------
    ValueError, TypeError
        When something does not fit, or is no symmetry of the architecture.

    Examples
    --------
    >>> import resgrad as rg
    >>> rg.transform("resnet", [1.0, 2.0, 3.0, 4.0], 1, [1, 0], scales=[2.0, 0.5])
    array([4. , 0.5, 2. , 6. ])
    """
    units = Units.of(arch, theta, d)
    arch, k, d = units.arch, len(units.u), units.d
    if permutation is not None:
        order = np.asarray(checks.unmasked(permutation, "permutation"))
        if order.shape != (k,) or sorted(order.tolist()) != list(range(k)):
            raise ValueError(f"permutation is {checks.shown(permutation)}, but must permute 0 ... {k - 1}")
        units = units.each(lambda rows: rows[order])
    if scales is not None:
        c = checks.array(scales, "scales", (k,))[:, None]
        if arch.readout == "fixed" or not (c > 0).all():
            raise ValueError(f"scales is {checks.shown(scales)}, but must be positive, None if the read-out is fixed")
        units = replace(units, u=units.u * c, a=units.a / c)
    if unseen is not None:
        V = checks.array(unseen, "unseen", (k, d))
        if arch.readout != "sum":
            raise ValueError(f"unseen is given, but {arch.name} sees all of its parameters")
        units = replace(units, unseen=units.unseen + V - V.mean(axis=1, keepdims=True))
    if reverse is not None:
        turned = np.asarray(checks.unmasked(reverse, "reverse"), dtype=int if np.size(reverse) == 0 else None)
        if turned.dtype.kind not in "iu" or turned.ndim != 1 or not ((turned >= 0) & (turned < k)).all():
            raise ValueError(f"reverse is {checks.shown(reverse)}, but must be a list of units from 0 to {k - 1}")
        if not units.reversible:
            raise ValueError(f"reverse is given, but {arch.name} has no skip that makes up for it")
        units = units.turned(np.isin(np.arange(k), turned))
    return units.theta()


def balanced(arch: Architecture | str, theta: ArrayLike, d: int) -> np.ndarray:
    """The theta, (n,), of smallest norm that rescaling units and changing the unseen part can reach.

    It has |u_j| = |a_j| for every unit, where for ``sum`` |a_j| is the norm of the row of W2, and no unseen part.  It
    is unique up to the order of the units.

    >>> balanced("resnet", [8.0, 2.0], d=1)
    array([4., 4.])
    """
    units = Units.of(arch, theta, d)
    if units.arch.readout == "fixed":
        return units.theta()
    b = units.strength()[:, None]
    return replace(units, u=b * directions(units.u), a=b * directions(units.a), unseen=0 * units.unseen).theta()


def gauge(arch, theta, d, least=0.0):
    """(a point of theta's orbit, the options of `transform` that lead from it back to theta).

    At this point |u_j|^2 - |a_j|^2 = max(max_l |u_l| |a_l|, ``least``) for every unit with u_j != 0, and there is no
    unseen part.  Gradient flow conserves the left side.  So a_j can pass through 0 here while u_j stays away from it.
    In `balanced` form both would vanish together, and a_j could not change its sign.

    >>> gauge(architectures.resolve("resnet"), np.array([8.0, 3.0]), d=1)[1]["scales"].round(6)
    array([1.28378])
    """
    if arch.readout == "fixed":
        return theta, {}
    units = Units.of(arch, theta, d)
    length, product = lengths(units.u), units.strength() ** 2
    half = max(product.max(), least) / 2 or 0.5
    scales = length / np.sqrt(half + np.hypot(half, product))
    scales = np.where(scales > 0, scales, 1.0)  # for u = 0, or so short that its scale is nan or 0
    back = {"scales": scales, "unseen": units.unseen if arch.readout == "sum" else None}
    c = scales[:, None]
    return replace(units, u=units.u / c, a=units.a * c, unseen=0 * units.unseen).theta(), back


def tangent(arch: Architecture | str, theta: ArrayLike, d: int) -> np.ndarray:
    """Orthonormal basis, shape (n, r), of the tangent space of theta's orbit.

    Every unit adds one direction, its rescaling (u_j, -a_j) (``sum`` and ``vector``), unless u_j = 0 and a_j = 0.
    Every row of W2 adds d - 1 unseen directions (``sum``).  So r is k for ``vector``, k d for ``sum`` and 0 for
    ``fixed``, minus the number of units with u_j = a_j = 0.  At a critical point the Hessian vanishes on this space.

    >>> tangent("resnet", [0.6, 0.8], d=1)
    array([[ 0.6],
           [-0.8]])
    """
    units = Units.of(arch, theta, d)
    arch, k, d = units.arch, len(units.u), units.d
    if arch.readout == "fixed":
        return np.zeros((np.size(theta), 0))
    live = np.flatnonzero(np.hypot(lengths(units.u), lengths(units.a)) > 0)
    dW1, dW2, db = np.zeros((live.size, d, k)), np.zeros((live.size, k, d)), np.zeros((live.size, k * arch.bias))
    row, share = np.arange(live.size), d**0.5 if arch.readout == "sum" else 1.0
    dW1[row, :, live], dW2[row, live] = units.u[live, :d], -units.a[live] / share
    if arch.bias:
        db[row, live] = units.u[live, d]
    blocks = dW1.reshape(-1, d * k), dW2.reshape(-1, k * d), np.zeros((live.size, units.skip.size)), db
    rescaling = directions(np.hstack(blocks)).T
    if arch.readout == "vector":
        return rescaling
    across = np.linalg.qr(np.hstack([np.ones((d, 1)), np.eye(d, d - 1)]))[0][:, 1:]  # orthogonal to 1
    unseen = np.zeros((len(rescaling), k * (d - 1)))
    unseen[d * k : 2 * d * k] = np.kron(np.eye(k), across)
    return np.hstack([rescaling, unseen])


def convert(theta: ArrayLike, d: int, source: Architecture | str, target: Architecture | str) -> np.ndarray:
    """Parameters of ``target``, shape (n,), for the function that ``source`` has at ``theta``.

    Architectures that differ only in their ``identity`` have the same functions, and parameters that differ by a
    translation, W1 -> W1 + (source.identity - target.identity) E: from converted starts both train along one curve.
    The target may also train a skip that the source keeps fixed, or have biases, which become 0.

    Parameters
    ----------
    theta : array_like, shape (n,)
    d : int
        Input dimension.
    source, target : Architecture or str

    Raises
    ------
    ValueError, TypeError
        When theta does not fit, or the architectures differ in more than that.

    Examples
    --------
    >>> import resgrad as rg
    >>> rg.convert([1.5, 2.0], 1, "resnet", "modresnet")  # W1 = 1.5 = I + 0.5
    array([0.5, 2. ])
    """
    source, target = architectures.resolve(source), architectures.resolve(target)
    same = (source.readout, source.slopes) == (target.readout, target.slopes)
    fixed = target.trains_skip or (source.skip == target.skip and not source.trains_skip)
    if not (same and fixed) or (source.bias and not target.bias):
        raise ValueError(f"{source.name} and {target.name} differ in more than their identity")
    blocks = source.unflatten(checks.array(theta, "theta"), checks.integer(d, "d"))
    if target.trains_skip and not source.trains_skip:
        blocks = blocks._replace(C=source.skip_map(d))
    if target.bias and not source.bias:
        blocks = blocks._replace(b=np.zeros(blocks.W1.shape[1]))
    W1 = blocks.W1 + (source.identity - target.identity) * np.eye(*blocks.W1.shape)
    return target.flatten(**blocks._replace(W1=W1)._asdict())
