"""Seconds until something happens, each in a fresh process: import, --help, first run cold and warm."""

import os
import subprocess
import sys
import tempfile
import time
from types import SimpleNamespace

import numpy as np

MODULES = {"resgrad": "resgrad", "NumPy": "numpy", "PyTorch": "torch", "JAX": "jax"}
EXPERIMENT = ["-m", "resgrad.experiment", "--arch", "modresnet", "--steps", "500", "--samples", "2000",
              "--no-plot", "--quiet"]  # fmt: skip


def first(module):
    """500 steps at d = 10 with one peer's first variant; knows nothing of resgrad."""
    rng, d = np.random.default_rng(0), 10
    job = SimpleNamespace(
        arch=SimpleNamespace(readout="vector"),
        d=d, dtype=np.dtype(float), lr=1e-3, momentum=0.9, batch=200, chunk=500, threads=1, quick=True,
        U=rng.random((d, d)), W=rng.random((d, d)),
        loss=SimpleNamespace(rows=rng.standard_normal((2000, 2 * d))),
        orders=rng.integers(2000, size=(1, 500, 200)),
    )  # fmt: skip
    system = next(iter(module.step(job).values()))[0]
    system.advance(system.start(), 1)


def seconds(command, repeats, **environment):
    taken = []
    for _ in range(repeats):
        tick = time.perf_counter()
        subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL,
                       env=os.environ | environment)  # fmt: skip
        taken.append(time.perf_counter() - tick)
    return {"seconds": float(np.median(taken))}


def run(peers, options):
    repeats = 1 if options.quick else 5
    imports = {name: seconds(["-c", f"import {MODULES[name]}"], repeats) for name in peers}
    rows = [{"what": "import", "systems": imports}]
    helps = seconds(["-m", "resgrad.experiment", "--help"], repeats)
    rows.append({"what": "python -m resgrad.experiment --help", "systems": {"resgrad": helps}})
    cold, warm = [], []
    for _ in range(min(repeats, 3)):
        with tempfile.TemporaryDirectory() as folder:
            for taken in (cold, warm):
                command = [*EXPERIMENT, "--out", f"{folder}/{len(cold)}{len(warm)}"]
                taken.append(seconds(command, 1, NUMBA_CACHE_DIR=folder)["seconds"])
    others = {}
    for name, module in peers.items():
        if name != "resgrad":
            code = f"import {module.__name__} as peer\nfrom benchmarks.startup import first\nfirst(peer)"
            others[name] = seconds(["-c", code], repeats)
    for cached, taken in (("nothing", cold), ("kernels", warm)):
        ours = {"resgrad": {"seconds": float(np.median(taken))}}
        rows.append({"what": f"first 500 steps, {cached} cached", "systems": ours | others})
    return rows
