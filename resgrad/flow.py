"""Gradient flow, the limit of gradient descent for small steps, by SciPy's ODE solvers."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from . import blas, checks
from .training import Trajectory, trajectory

STIFF, EXPLICIT = ("BDF", "Radau", "LSODA"), ("RK45", "RK23", "DOP853")  # methods of `gradient_flow`


@blas.one_thread()
def gradient_flow(
    loss: Any, theta0: ArrayLike, t_max: float, *, method: str = "BDF", t_eval: ArrayLike | None = None,
    rtol: float = 1e-8, atol: float = 1e-10, observe: Mapping[str, Callable] | None = None,
) -> Trajectory:  # fmt: skip
    """Follow d theta / dt = -grad L(theta), the limit of SGD for small steps (t = lr * steps).

    Parameters
    ----------
    loss : PopulationLoss
        Or any object with ``value``, ``grad`` and, for the stiff methods, ``hessian``.
    theta0 : array_like, shape (n,)
    t_max : float
    method : {"BDF", "Radau", "LSODA", "RK45", "RK23", "DOP853"}
        Of `scipy.integrate.solve_ivp`.  The first three are for stiff problems and use the exact Hessian; the others
        are explicit.
    t_eval : array_like, optional
        Increasing times to record, the last one ``t_max``.  Default: the solver's own steps.
    rtol, atol : float
        Tolerances of a step: ``rtol`` at least 1e-13, ``atol`` above 0.
    observe : dict of str to callable, optional
        As in `train`.

    Returns
    -------
    Trajectory
        Its ``steps`` are times.

    Raises
    ------
    ValueError, TypeError
        For arguments out of range.
    RuntimeError
        When the solver gives up.

    Examples
    --------
    >>> import numpy as np, resgrad as rg
    >>> teacher = rg.Network("li", rg.draw("li", "small", d=3, rng=0), d=3)
    >>> flow = rg.gradient_flow(rg.PopulationLoss("li", teacher), np.zeros(9), t_max=60)
    >>> bool(flow.loss[-1] < 1e-6 * flow.loss[0])
    True
    """
    from scipy.integrate import solve_ivp

    theta0 = checks.array(theta0, "theta0", ("n",))
    t_max = checks.real(t_max, "t_max", above=0)
    checks.choice(method, "method", STIFF + EXPLICIT)
    if method in STIFF and not hasattr(loss, "hessian"):
        raise ValueError(f"method is {method!r}, but the loss has no hessian: use one of {', '.join(EXPLICIT)}")
    if t_eval is not None:
        t_eval = checks.array(t_eval, "t_eval", ("n",))
        if not (t_eval.size and t_eval[0] >= 0 and t_eval[-1] == t_max and (np.diff(t_eval) > 0).all()):
            raise ValueError("t_eval must increase within [0, t_max] and end there")
    rtol, atol = checks.real(rtol, "rtol", 1e-13), checks.real(atol, "atol", above=0)
    options = {"method": method, "t_eval": t_eval, "rtol": rtol, "atol": atol}
    if method in STIFF:
        options["jac"] = lambda t, theta: -loss.hessian(theta.copy())
    with np.errstate(all="ignore"):  # a step that goes too far is taken back
        flow = solve_ivp(lambda t, theta: -loss.grad(theta.copy()), (0.0, t_max), theta0, **options)
    if flow.status < 0:
        raise RuntimeError(f"{method} stopped at t={flow.t[-1]:g}: {flow.message}")
    observe = observe or {}
    records = [
        (t, loss.value(theta.copy()), *(function(theta.copy()) for function in observe.values()))
        for t, theta in zip(flow.t, flow.y.T)
    ]
    return trajectory(flow.y[:, -1].copy(), records, "finished", observe)
