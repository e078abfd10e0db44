"""Gradients against differences of the loss: the checker, and its command line."""

from .check import GradientReport, check_gradient, check_hessian

__all__ = ["GradientReport", "check_gradient", "check_hessian"]
