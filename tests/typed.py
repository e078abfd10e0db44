"""A program that uses the public surface, for mypy alone: wrong or missing hints there are errors here."""

from typing import assert_type

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

import resgrad as rg

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def program() -> None:
    """Never called."""
    streams = rg.streams(0, run=1)
    record: rg.Architecture = rg.ARCHITECTURES["li"]
    size: int = record.size(10, width=3)
    shapes: dict[str, tuple[int, ...]] = record.shapes(10)
    theta_star: NDArray[np.float64] = rg.draw("li", "uniform", 10, rng=streams.teacher)
    theta0: NDArray[np.float64] = rg.draw(record, "small", d=10, width=10, rng=3)
    teacher = rg.Network("li", theta_star, 10)
    X, Y = rg.dataset(teacher, 100, rng=0, dtype=np.float32)
    labels: NDArray[np.float64] = teacher([[1.0] * 10])
    empirical, online = rg.EmpiricalLoss("li", X, Y), rg.OnlineLoss(record, teacher, np.float32)
    exact = rg.PopulationLoss("li", teacher)
    S, about = np.eye(10), rg.OnlineLoss("li", teacher, covariance="power:1", noise=0.1)
    rg.dataset(teacher, 100, covariance=S, noise=0.1), rg.PopulationLoss("li", teacher, S, 0.1).excess(theta0)
    assert_type(rg.gradient_noise(about, theta0), float)
    kernel, design = rg.KernelLoss("li", teacher, "hermite24", unit_rows=True), rg.GeLeeMaLoss(teacher, mu=0.1, lam=1)
    assert_type(kernel.value(theta0), float)
    bent: NDArray[np.float64] = design.hessian(theta0)
    rg.train(kernel, theta0, rg.SGD(0.1), 100, batch_size=20), rg.train(design.batch(20), theta0, rg.SGD(0.1), 100)
    parts: rg.HermiteSpectrum = rg.hermite_spectrum(exact, theta0, degrees=6)
    assert_type(exact.value(theta0), float)
    value, gradient = exact.value_and_grad([0.0] * 100)
    assert_type(value, float)
    hessian: NDArray[np.float64] = exact.hessian(theta0)
    batch: rg.EmpiricalLoss = online.batch(20)
    run: rg.Trajectory = rg.train(exact, theta0, rg.Nesterov(0.1, 0.9), 100, observe={"norm": np.linalg.norm})
    rg.train(empirical, theta0, rg.SGD(0.1), n_steps=10, batch_size=5, seed=np.random.default_rng(0), record_every=3)
    flow: rg.Trajectory = rg.gradient_flow(exact, run.theta, 1.0, method="BDF", t_eval=[0.5, 1.0])
    report = rg.check_gradient(exact, theta0, rtol=1e-9, entries=3)
    assert_type(report, rg.GradientReport)
    assert_type(rg.check_hessian(exact, theta0), rg.GradientReport)
    alignment: rg.Alignment = rg.align("li", theta0, theta_star, d=10)
    image: NDArray[np.float64] = rg.transform("resnet", theta_star, 10, [0, 1])
    rg.convert(theta_star, 10, "li", "vanilla")
    rg.polish(exact, theta0), rg.spectrum(exact, theta0), rg.one_point(exact, theta0)
    proof = rg.certify(exact, theta0)
    assert_type(proof, rg.Certificate)
    assert_type(proof.loss, tuple[float, float])
    rg.convexity_region([0.5], d=5, n_pairs=3)
    found: rg.Census = rg.census("vanilla", d=6, runs=3, seed=1)
    rg.plots.history(run), rg.plots.history("runs/li-001"), rg.plots.units(teacher, teacher)
    assert_type(rg.plots.spectrum(rg.spectrum(exact, theta0)), Figure)
    assert_type(rg.plots.census(found), Figure)
    share: tuple[float, float, float] = found.share("global")
