"""The noise of SGD, exactly: the variance of one sample's gradient, and its effect on a step.

In a step theta <- theta - lr g, g is the mean of the gradients of B fresh samples.  Its effect on the distance from
theta* depends on the expected gradient G and on V = E|g_1 - G|^2 of one sample, `gradient_noise`:

    E|theta - lr g - theta*|^2 - |theta - theta*|^2 = -2 lr G.(theta - theta*) + lr^2 (|G|^2 + V / B).      (1)
"""

import numpy as np
from numpy.typing import ArrayLike

from . import checks
from .kernels import moments
from .kernels.policy import quiet
from .losses import OnlineLoss, PopulationLoss

NEAR = 1e-4  # of theta: a step for the second differences of V at a minimum


@quiet
def _squares(loss, theta, noise):
    """E|g|^2 of one sample's gradient, with this label noise."""
    arch, (U, A, C) = loss.arch, loss._weights(theta)
    of = moments.squared_gradients(U, A, *loss.units_star[:2], loss._gap(C), arch.slopes, noise)
    shares = (1, arch.readout_rate(loss.d), arch.trains_skip)  # a share of 0 may belong to an infinite part
    total = float(sum(share * np.sum(part) for share, part in zip(shares, of) if share))
    if not np.isfinite(total):
        raise ValueError("theta is so large that the noise of the gradient there is beyond 1e308")
    return total


def _checked(loss, theta):
    """The exact loss and theta; raises where there is no formula."""
    if not isinstance(loss, (OnlineLoss, PopulationLoss)):
        raise TypeError(f"loss is {checks.shown(loss)}, but must be an rg.PopulationLoss or an rg.OnlineLoss")
    exact = loss.population if isinstance(loss, OnlineLoss) else loss
    if exact.biased:
        raise ValueError("loss has hidden biases, but the noise of its gradient has a closed form only without them")
    if exact.factor is not None:
        raise ValueError("loss has a covariance, but the noise of its gradient has a closed form only for N(0, I)")
    return exact, exact._theta(theta)


def gradient_noise(loss: PopulationLoss | OnlineLoss, theta: ArrayLike) -> float:
    """E|g - grad|^2 of the gradient g of one fresh sample, in closed form: the trace of its covariance.

    The noise of the mean of B samples is 1/B of it.

    Parameters
    ----------
    loss : PopulationLoss or OnlineLoss
        Of any architecture without biases; its label noise counts, too.
    theta : array_like, shape (n,)

    Returns
    -------
    float
        The time is O(k (k + k*) (k + k* + d)).  It is a difference of terms as large as |theta|^4 d, and accurate to
        1e-14 of them: without label noise it loses its digits where the loss is below 1e-12 of its scale.

    Raises
    ------
    ValueError, TypeError
        For a loss with biases or correlated inputs, for another kind of loss, and where the noise overflows.

    Notes
    -----
    Formulas (M1)-(M3) of ``resgrad.kernels.moments``: the moments of three relu units are elementary functions of their
    three angles, and E[|x|^2 f(x)] = (d + n) E[f(x)] for f homogeneous of degree n.

    Examples
    --------
    One unit, its teacher at twice its length: g = -2 x relu(x) has mean -1 and E g^2 = 4 E[1 x^4] = 6.

    >>> import resgrad as rg
    >>> loss = rg.PopulationLoss("vanilla", rg.Network("vanilla", [2.0], d=1))
    >>> round(rg.gradient_noise(loss, [1.0]), 12)
    5.0
    """
    exact, theta = _checked(loss, theta)
    gradient = exact.grad(theta)
    return max(0.0, _squares(exact, theta, exact.noise) - float(gradient @ gradient))


@quiet
def _way(loss, theta, theta_star):
    """G.(theta - theta*), |G|^2 and V."""
    exact, theta = _checked(loss, theta)
    star, gradient = checks.array(theta_star, "theta_star", theta.shape), exact.grad(theta)
    return float(gradient @ (theta - star)), float(gradient @ gradient), gradient_noise(loss, theta)


def expected_change(
    loss: PopulationLoss | OnlineLoss, theta: ArrayLike, theta_star: ArrayLike, lr: float, batch_size: int
) -> float:
    """What one step of SGD adds to |theta - theta*|^2 on average, exactly; (1) of the module.

    Parameters
    ----------
    loss : PopulationLoss or OnlineLoss
    theta, theta_star : array_like, shape (n,)
        ``theta_star`` is any point, usually the symmetric copy of the teacher that `resgrad.align` finds next to theta.
    lr : float
    batch_size : int
        Fresh samples of a step.

    Raises
    ------
    ValueError, TypeError
        As `gradient_noise`, and for arguments out of range.

    Examples
    --------
    >>> import resgrad as rg
    >>> loss = rg.PopulationLoss("vanilla", rg.Network("vanilla", [2.0], d=1))
    >>> round(rg.expected_change(loss, [1.0], [2.0], lr=0.1, batch_size=5), 12)
    -0.18
    """
    lr, batch_size = checks.real(lr, "lr", above=0), checks.integer(batch_size, "batch_size")
    along, square, noise = _way(loss, theta, theta_star)
    return lr * (lr * (square + noise / batch_size) - 2 * along)


def largest_step(loss: PopulationLoss | OnlineLoss, theta: ArrayLike, theta_star: ArrayLike, batch_size: int) -> float:
    """The step size below which one step of SGD shrinks |theta - theta*|^2 on average.

    Parameters and errors are those of `expected_change`.

    Returns
    -------
    float
        2 G.(theta - theta*) / (|G|^2 + V / B); 0 where descent does not approach theta*, infinity where there is
        neither gradient nor noise.

    Examples
    --------
    >>> import resgrad as rg
    >>> loss = rg.PopulationLoss("vanilla", rg.Network("vanilla", [2.0], d=1))
    >>> round(rg.largest_step(loss, [1.0], [2.0], batch_size=5), 12)
    1.0
    """
    batch_size = checks.integer(batch_size, "batch_size")
    along, square, noise = _way(loss, theta, theta_star)
    return max(0.0, 2 * along / (square + noise / batch_size)) if square + noise > 0 else np.inf


@quiet
def noise_floor(loss: PopulationLoss | OnlineLoss, theta: ArrayLike, lr: float, batch_size: int) -> float:
    """The expected loss, without the labels' own noise, around which SGD at a constant step size settles.

    Parameters
    ----------
    loss : PopulationLoss or OnlineLoss
        With label noise; without it the floor is 0.
    theta : array_like, shape (n,)
        A global minimum: the teacher, in the student's parameters.
    lr : float
    batch_size : int

    Returns
    -------
    float
        Infinity where lr is so large that the noise grows without bound.

    Raises
    ------
    ValueError, TypeError
        As `gradient_noise`; and where the loss at ``theta`` is not 0.

    Notes
    -----
    At a minimum with loss 0 the noise of the gradient has the covariance 2 sigma^2 H, H the Hessian, so that
    the linearized steps reach the stationary covariance S = (lr sigma^2 / B) (1 - lr H / 2)^-1.  At a displacement
    delta there is more noise, delta'M delta.  The floor is tr(H S) / 2, S scaled so that a step keeps E|delta|^2:

        2 lr tr(H S) = lr^2 (tr(H^2 S) + (2 sigma^2 tr H + tr(M S) - tr(H^2 S)) / B),

    which is right to second order in lr.  M is a second difference of `gradient_noise` along each eigenvector of H.
    To first order the floor is lr sigma^2 tr(H) / (2 B).

    Examples
    --------
    >>> import resgrad as rg
    >>> loss = rg.PopulationLoss("vanilla", rg.Network("vanilla", [2.0], d=1))
    >>> rg.noise_floor(loss, [2.0], lr=0.1, batch_size=5)  # no label noise
    0.0
    """
    exact, theta = _checked(loss, theta)
    lr, batch_size = checks.real(lr, "lr", above=0), checks.integer(batch_size, "batch_size")
    scale = exact.excess(np.zeros_like(theta)) + float(theta @ theta)
    if (value := exact.excess(theta)) > 1e-20 * scale:
        raise ValueError(f"theta has the loss {value:.3g}, but must be a global minimum, of loss 0")
    h, vectors = np.linalg.eigh(exact.hessian(theta))
    h, step = np.maximum(h, 0.0), NEAR * max(1.0, np.abs(theta).max())
    if lr * h[-1] >= 2:
        return np.inf
    sides = [[_squares(exact, theta + sign * step * way, 0.0) for sign in (1, -1)] for way in vectors.T]
    M, shape = np.mean(sides, axis=1) / step**2, 1 / (1 - lr * h / 2)
    drain = 2 * np.sum(h * shape) - lr * ((1 - 1 / batch_size) * np.sum(h**2 * shape) + np.sum(M * shape) / batch_size)
    if drain <= 0:
        return np.inf if exact.noise else 0.0
    return float(lr * exact.noise**2 * np.sum(h) * np.sum(h * shape) / (batch_size * drain))
