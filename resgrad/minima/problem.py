"""The units of measurement in which a loss is judged: they do not depend on its scale and its symmetries."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..architectures import Architecture
from . import symmetry
from .symmetry import EPS

GLOBAL = 1e-12  # of the loss of a student with all units dead.  Global minima reach 1e-13, spurious ones exceed 1e-6


def architecture(loss):
    """The Architecture whose symmetries a loss has, or None: not every ``arch`` of a user's own object is one."""
    arch = getattr(loss, "arch", None)
    return arch if isinstance(arch, Architecture) and hasattr(loss, "d") else None


@dataclass(frozen=True, eq=False)
class Scaled:
    """The loss as a function of x = theta / scale, divided by ``unit``."""

    problem: Any  # a `Problem`
    home: np.ndarray  # (n,): the theta from which these units were derived
    scale: np.ndarray  # (n,)
    unit: float
    zero: np.ndarray  # (n,) of bool: the entries of units with u = 0, which do not move

    def theta(self, x):
        return np.where(self.zero, self.home, self.scale * x)

    def value(self, x):
        return float(self.problem.loss.value(self.theta(x))) / self.unit

    def grad(self, x):
        return self.scale * self.problem.loss.grad(self.theta(x)) / self.unit

    def hessian(self, x):
        return self.scale[:, None] * self.problem.loss.hessian(self.theta(x)) * (self.scale / self.unit)

    def tangent(self, x):
        return self.problem.tangent(self.theta(x))  # u, a and b have the same scale, and C is not in the tangent space

    def short(self, x):
        """Whether a unit is about to vanish: the Hessian grows like 1 / |u| and would overflow."""
        length = self.problem.lengths(self.theta(x))
        return bool(((length > 0) & (length <= EPS * self.scale[0])).any())


class Problem:
    """A loss, its scale and its symmetries.

    If teacher and student both become s times as large, u and a grow like s, and the loss like s^4: the same problem in
    other units.  So the loss is measured in ``least``^2.  ``least`` is the share of each of k units,
    (loss of a student with all units dead)^(1/2) / k.  C is measured in ``size``, the largest |u||a| of the student's
    units or ``least``, whichever is more, so that units may die.  All other entries are measured in size^(1/2), or in
    size where the read-out is fixed.

    No symmetry is known of a loss without ``arch``.  Its entries are measured in the largest entry of ``theta`` and of
    the point that is judged, and the loss by the curvature there.
    """

    def __init__(self, loss, theta):
        self.loss, self.arch, self.d = loss, architecture(loss), getattr(loss, "d", None)
        if self.arch is None:
            self.zero, self.first = np.nan, theta  # no value is at most nan, but -inf is at most itself
            return
        units = symmetry.Units.of(self.arch, theta, self.d)
        dead = replace(units.each(np.zeros_like), skip=np.zeros_like(units.skip))
        if self.arch.trains_skip:  # the best skip: d2loss/dC dC = 2 I, and 2 S for inputs of the covariance S
            slope, L = self.arch.unflatten(loss.grad(dead.theta()), self.d).C, getattr(loss, "factor", None)
            dead = replace(dead, skip=-slope / 2 if L is None else -np.linalg.solve(L @ L.T, slope) / 2)
        floor = getattr(loss, "floor", 0.0)  # from the labels' noise, which no student can fit
        silent = loss.value(dead.theta()) - floor
        each = (silent / max(self.arch.readout_rate(self.d), 1)) ** 0.5 / len(units.u)
        self.least = each or units.strength().max() ** 2 or 1.0  # for a zero teacher, the student sets the scale
        self.zero = floor + GLOBAL * (silent or self.least**2)  # a loss of at most this is zero

    def at(self, theta):
        """The loss in the units that hold at ``theta``."""
        if self.arch is None:
            points = self.first, theta
            length = max(np.abs(point).max(initial=0.0) for point in points) or 1.0
            curvature = max(np.abs(self.loss.hessian(point)).max(initial=0.0) for point in points)
            unit, zero = float(curvature * length**2) or 1.0, np.zeros(theta.size, bool)
            return Scaled(self, theta, np.full(theta.size, float(length)), unit, zero)
        size = max(symmetry.Units.of(self.arch, theta, self.d).strength().max() ** 2, self.least)
        length = size**0.5 if self.arch.trains_readout else size
        blocks = self.arch.shapes(self.d, self.arch.width(theta.size, self.d))
        scale = [np.full(np.prod(shape), size if name == "C" else length) for name, shape in blocks.items()]
        zero = np.zeros(theta.size, bool)
        dead, (W1, W2, _, b) = self.lengths(theta) == 0, self.arch.unflatten(zero, self.d)
        W1[:, dead] = True
        for rows in (W2, b):
            if rows is not None:
                rows[dead] = True
        return Scaled(self, theta, np.concatenate(scale), self.least**2, zero)

    def gauge(self, theta):
        """`symmetry.gauge` of ``theta``.  With a fixed read-out, a unit that is zero up to rounding becomes zero."""
        if self.arch is None:
            return theta, {}
        if not self.arch.trains_readout:
            return self.without(theta, EPS * self.at(theta).scale[0]), {}
        return symmetry.gauge(self.arch, theta, self.d, self.least)

    def without(self, theta, tolerance):
        """``theta``, but units with a u of at most ``tolerance`` have u = 0."""
        length = self.lengths(theta)
        U = symmetry.Units.of(self.arch, theta, self.d).u  # rounding errors in place of zeros are set to 0 there
        short = (length > 0) & (symmetry.lengths(U) <= tolerance)
        if not short.any():
            return theta
        theta = theta.copy()
        W1, _, _, b = self.arch.unflatten(theta, self.d)
        W1[:, short] = -self.arch.identity * np.eye(*W1.shape)[:, short]
        if b is not None:
            b[short] = 0.0
        return theta

    def tangent(self, theta):
        """`symmetry.tangent`, (n, 0) where no symmetry is known."""
        return np.empty((theta.size, 0)) if self.arch is None else symmetry.tangent(self.arch, theta, self.d)

    def lengths(self, theta):
        """|u| of every unit, shape (k,)."""
        return np.empty(0) if self.arch is None else symmetry.lengths(self.arch.canonical(theta, self.d)[0].T)
