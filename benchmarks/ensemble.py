"""64 seeds at once on fresh Gaussian samples; seconds per step and seed, all included."""

import functools
import math

import numpy as np

import resgrad as rg

from . import timing
from .peers import Job

SEEDS, BATCH = 64, 200
GRADIENT_TOLERANCE = {"float64": 1e-10, "float32": 1e-4}  # on shared samples
DEVIATIONS = 6  # standard errors of the mean final loss, where everyone draws their own samples


def make(d, dtype, options, seeds=SEEDS, chunk=1, arch="modresnet"):
    """The job: one teacher, ``seeds`` starts."""
    arch, dtype = rg.ARCHITECTURES[arch], np.dtype(dtype)
    teacher = rg.Network(arch, rg.draw(arch, "normal", d, rng=1), d)
    starts = [arch.canonical(rg.draw(arch, "fan-in", d, rng=2 + s), d)[:2] for s in range(seeds)]
    U, W = (np.stack(part).astype(dtype) for part in zip(*starts))
    return Job(arch, d, dtype, U, W, 0.05 / d, 0.9, BATCH, chunk, teacher,
               options.threads, options.quick)  # fmt: skip


def check_gradient(module, job):
    """Every system's gradient on the same samples is resgrad's."""
    X = np.random.default_rng(5).standard_normal((3, BATCH, job.d)).astype(job.dtype)
    Y = np.stack([job.teacher(x) for x in X])
    convert = getattr(module, "tensors", lambda *arrays: arrays)
    dU, dA = map(np.asarray, module.gradient(*convert(job.U[:3], job.W[:3], X, Y - X)))
    for s, theta in enumerate(job.starts()[:3]):
        ours = rg.EmpiricalLoss(job.arch, X[s], Y[s]).grad(theta)
        theirs = job.arch.pull_back(dU[s], dA[s])
        error = np.abs(theirs - ours).max() / np.abs(ours).max()
        assert error < GRADIENT_TOLERANCE[str(job.dtype)], f"{module.__name__}: {error}"


def final_loss(job, U, A):
    """Mean and standard error over the seeds of the expected loss."""
    loss = rg.PopulationLoss(job.arch, job.teacher)
    job = job._replace(U=np.float64(U), W=np.float64(A))
    values = [loss.value(theta) for theta in job.starts()]
    return float(np.mean(values)), float(np.std(values) / math.sqrt(len(values)))


def run(peers, options):
    rows = []
    for d in (5, 10, 50):
        n_steps = (50 if d < 50 else 10) if options.quick else (500 if d < 50 else 100)
        for dtype in GRADIENT_TOLERANCE:
            job, runs, losses = make(d, dtype, options), {}, {}
            for module in peers.values():
                if hasattr(module, "gradient"):
                    check_gradient(module, job)
                for name, variants in module.ensemble(job).items():
                    for variant in variants:
                        losses[name] = mean, error = final_loss(job, *variant(n_steps))
                        first = next(iter(losses.values()))
                        close = DEVIATIONS * math.hypot(error, first[1])
                        assert abs(mean - first[0]) < close, f"{name}: {mean}, not {first[0]}"
                        once = timing.repeated(functools.partial(variant, n_steps))
                        runs.setdefault(name, []).append(once)
            systems = timing.compare(runs, options, n_steps * SEEDS)
            for name, (mean, _) in losses.items():
                systems[name]["loss"] = mean
            rows.append({"arch": job.arch.name, "d": d, "dtype": dtype, "systems": systems})
    return rows
