"""Gradients against differences of the loss: the checker, and its command line."""

from .check import check_gradient, check_hessian
from .report import GradientReport

__all__ = ["GradientReport", "check_gradient", "check_hessian"]
