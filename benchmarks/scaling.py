"""How resgrad's time grows with d, the batch and the number of seeds, and its memory with k."""

import subprocess
import sys

import numpy as np

from . import ensemble, step, timing

MEMORY = """
import sys
import numpy as np, resgrad as rg
from functools import partial
from types import SimpleNamespace
from benchmarks import peers
name, k, d = sys.argv[1], int(sys.argv[2]), 10

def peak():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024
def grad(k):
    teacher = rg.Network("modresnet", rg.draw("modresnet", "normal", d, k, rng=1), d)
    theta = rg.draw("modresnet", "normal", d, k, rng=2)
    if name == "resgrad":
        return rg.PopulationLoss("modresnet", teacher).grad(theta)
    U, A, _ = rg.ARCHITECTURES["modresnet"].canonical(theta, d)
    units = peers.teacher_units(SimpleNamespace(teacher=teacher, U=U))
    if name == "NumPy":
        return peers.expected_gradient(np, U, A, *units)
    import jax
    jax.config.update("jax_enable_x64", True)
    jax.block_until_ready(jax.jit(partial(peers.expected_gradient, jax.numpy))(U, A, *units))
grad(16)
open("/proc/self/clear_refs", "w").write("5")  # forget the peak so far
before = peak()
grad(k)
print(peak() - before)
"""


def fit(rows):
    """The exponent in the upper half of the sizes."""
    half = rows[min(len(rows) // 2, len(rows) - 2) :]
    return float(np.polyfit(np.log([r["size"] for r in half]), np.log([r["value"] for r in half]), 1)[0])


def series(what, unit, sizes, value):
    rows = [{"size": size, "value": value(size)} for size in sizes]
    return {"what": what, "unit": unit, "points": rows, "exponent": fit(rows)}


def run(peers, options):
    ours, quick = {"resgrad": peers["resgrad"]}, options.quick

    def seconds(job, kind="step"):
        race = timing.race(ours, kind, job, lambda U, W: float(np.sum(U)), 0, options)
        return race["systems"]["resgrad"]["seconds"]

    def steps(d, batch=200):
        return seconds(step.make("modresnet", d, "float64", options, 20_000, batch)[0])

    def exact(d):
        return seconds(ensemble.make(d, np.float64, options, 1, 10), "population")

    def fresh(seeds):
        job = ensemble.make(10, np.float64, options, seeds)
        (variant,) = peers["resgrad"].ensemble(job)["resgrad"]
        variant(200)
        runs = {"resgrad": [timing.repeated(lambda: variant(200))]}
        return timing.compare(runs, options, 200)["resgrad"]["seconds"]

    def memory(name):
        def megabytes(k):
            done = subprocess.run([sys.executable, "-c", MEMORY, name, str(k)], check=True, capture_output=True)
            return max(float(done.stdout), 0.1)

        return megabytes

    sizes = (8, 32, 64, 128, 256, 512) if quick else (4, 8, 16, 32, 64, 128, 256, 512, 1024)
    batches = (25, 100, 400, 1600) if quick else (25, 50, 100, 200, 400, 800, 1600, 3200)
    widths = (1000, 4000) if quick else (1000, 2000, 4000, 8000)
    rows = [
        series("step, against d", "s", sizes, steps),
        series("step at d = 10, against the batch", "s", batches, lambda batch: steps(10, batch)),
        series("ensemble at d = 10, against the seeds", "s", (1, 4, 16, 64), fresh),
        series("population, against d", "s", (8, 16, 32, 64, 128), exact),
    ]
    for name in ("resgrad", "NumPy", "JAX"):
        if name in peers and sys.platform == "linux":
            rows.append(series(f"memory of the exact gradient, against k: {name}", "MB", widths, memory(name)))
    return rows
