"""resgrad: teacher-student training of one-hidden-layer ReLU networks, by hand and to the last digit.

Names are imported on first use, so that ``import resgrad`` costs nothing.
"""

import importlib

__version__ = "0.2.1"

_HOMES = {
    "architectures": ["ARCHITECTURES", "Architecture", "Network"],
    "census": ["census"],
    "designed": ["HermiteSpectrum", "KernelLoss", "hermite_spectrum"],
    "draws": ["dataset", "draw", "streams"],
    "flow": ["gradient_flow"],
    "gelee_ma": ["GeLeeMaLoss"],
    "gradcheck": ["GradientReport", "check_gradient", "check_hessian"],
    "losses": ["EmpiricalLoss", "OnlineLoss", "PopulationLoss"],
    "minima.alignment": ["Alignment", "align"],
    "minima.convexity": ["convexity_region", "one_point"],
    "minima.landscape": ["polish", "spectrum"],
    "minima.proofs": ["Certificate", "certify"],
    "minima.symmetry": ["convert", "transform"],
    "noise": ["expected_change", "gradient_noise", "largest_step", "noise_floor"],
    "optimizers": ["OPTIMIZERS", "SGD", "Nesterov"],
    "runs.tally": ["Census"],
    "training": ["Trajectory", "train"],
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
_MODULES = ["plots"]  # handed out whole
__all__ = sorted([*_HOME, *_MODULES])


def __getattr__(name):
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    if name not in _HOME:
        raise AttributeError(f"module 'resgrad' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__():
    return sorted([*globals(), *__all__])
