"""First-order optimizers, as records of numbers; the kernels make the steps.  Imports only ``checks``."""

from dataclasses import dataclass

from . import checks


@dataclass(frozen=True)
class SGD:
    """theta <- theta - lr g.

    Parameters
    ----------
    lr : float
        Step size, > 0.

    Raises
    ------
    ValueError, TypeError
        For an lr that is not a finite number above 0.

    Examples
    --------
    >>> import resgrad as rg
    >>> rg.SGD(0.1)
    SGD(lr=0.1)
    """

    lr: float
    momentum = 0.0

    def __post_init__(self):
        object.__setattr__(self, "lr", checks.real(self.lr, "lr", above=0))


@dataclass(frozen=True)
class Nesterov:
    """v <- momentum v + g;  theta <- theta - lr (g + momentum v).

    This is the recursion of ``torch.optim.SGD(nesterov=True)`` and ``optax.sgd(nesterov=True)``.
    Sutskever et al. (2013) write y <- y + u, u <- momentum u - lr g(y + momentum u): the same
    iterates, with theta = y + momentum u and u = -lr v.  `SGD` is the case momentum = 0.

    Parameters
    ----------
    lr : float
        Step size, > 0.
    momentum : float
        In [0, 1).

    Raises
    ------
    ValueError, TypeError
        For numbers out of range.

    Examples
    --------
    >>> import resgrad as rg
    >>> rg.Nesterov(1e-3, momentum=0.9)
    Nesterov(lr=0.001, momentum=0.9)
    """

    lr: float
    momentum: float

    def __post_init__(self):
        object.__setattr__(self, "lr", checks.real(self.lr, "lr", above=0))
        object.__setattr__(self, "momentum", checks.real(self.momentum, "momentum", 0, 1))


def largest_lr(curvature, momentum=0.0):
    """The largest step size with which `Nesterov` (`SGD`: momentum 0) is stable on a quadratic of this curvature.

    With q = 1 - lr curvature, theta - momentum lr v follows z^2 = (1 + momentum) q z - momentum q, whose
    roots lie within the unit circle iff -1 / (1 + 2 momentum) < q < 1.

    >>> largest_lr(4.0), largest_lr(4.0, momentum=0.5)
    (0.5, 0.375)
    """
    return (2 + 2 * momentum) / ((1 + 2 * momentum) * curvature)


OPTIMIZERS = {"sgd": SGD, "nesterov": Nesterov}
