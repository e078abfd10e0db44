"""Side-by-side timing: warm-up, the best variant of each system, medians of interleaved repeats."""

import math
import time

import numpy as np

from resgrad.kernels.threads import running

from .peers import System, Unavailable

REST, NAP = 0.5, 0.03  # seconds: at most before each repeat, and at a time
PATIENCE = 30.0  # seconds of repeats for one row, after which three of them are enough


def compare(runs, options, steps=1):
    """For each system the median seconds per step, its spread, and what its variants took.

    ``runs`` maps a system to its variants, warm already: ``run(n)`` does n units of ``steps``, returns its seconds.
    """
    chosen, tried = {}, {}
    for name, variants in runs.items():
        tried[name] = []
        for run in variants:
            took = run(1)
            if took < options.seconds / 4:
                n = math.ceil(options.seconds / 4 / took)
                took = min(run(n), run(n)) / n
            tried[name].append(took)
        best = int(np.argmin(tried[name]))
        chosen[name] = variants[best], math.ceil(options.seconds / tried[name][best])
    samples, end = {name: [] for name in chosen}, time.perf_counter() + PATIENCE
    for repeat in range(options.repeats):
        if repeat >= 3 and time.perf_counter() > end:
            break
        for name, (run, n) in chosen.items():
            settle()
            samples[name].append(run(n) / n)
    quartiles = {name: np.quantile(taken, (0.25, 0.5, 0.75)) for name, taken in samples.items()}
    return {
        name: {"seconds": q[1] / steps, "spread": (q[2] - q[0]) / q[1], "variants": [t / steps for t in tried[name]]}
        for name, q in quartiles.items()
    }


def settle():
    """Wait for other libraries' threads, which go on for up to 0.3 s in search of work, to go to sleep."""
    end, busy = time.perf_counter() + REST, True
    while busy and time.perf_counter() < end:
        time.sleep(NAP)
        busy = running() > 1


def race(peers, kind, job, judge, tolerance, options, longest=None):
    """`compare` for the `System`s of a ``kind``, with the loss that each ends its first chunk at.

    Each starts afresh after ``longest`` chunks: what has converged has velocities too small for the
    processor's fast path.

    Raises
    ------
    AssertionError
        When a loss differs from resgrad's by more than ``tolerance``, relatively.
    """
    runs, losses, left_out = {}, {}, {}

    def timed(system):
        def run(n):
            seconds, most = 0.0, longest or n
            for done in range(0, n, most):
                state = system.start()
                tick = time.perf_counter()
                system.advance(state, min(most, n - done))
                seconds += time.perf_counter() - tick
            return seconds

        return run

    for module in peers.values():
        for name, variants in getattr(module, kind, lambda job: {})(job).items():
            for variant in variants:
                try:
                    system = variant if isinstance(variant, System) else variant()
                    value = judge(*system.weights(system.advance(system.start(), 1)))
                except Unavailable as reason:
                    left_out[name] = str(reason)
                    continue
                first = next(iter(losses.values()), value)
                assert abs(value - first) <= tolerance * abs(first), f"{name}: {value}, not {first}: {job.arch}"
                losses[name] = value
                runs.setdefault(name, []).append(timed(system))
    row = {"arch": job.arch.name, "d": job.d, "dtype": str(np.dtype(job.dtype))}
    systems = compare(runs, options, job.chunk)
    for name, value in losses.items():
        systems[name]["loss"] = value
    return row | {"systems": systems, "left_out": left_out, "tolerance": tolerance}


def repeated(function):
    """``run(n)`` of a function that is one unit."""

    def run(n):
        tick = time.perf_counter()
        for _ in range(n):
            function()
        return time.perf_counter() - tick

    return run


def peak(dtype, peers, n=1536):
    """Floating-point operations a second of the fastest matrix product at hand."""
    A = np.random.default_rng(0).standard_normal((n, n)).astype(dtype)
    products = [lambda: np.dot(A, A)]
    if "PyTorch" in peers:
        tensor = peers["PyTorch"].torch.from_numpy(A)
        products.append(lambda: tensor @ tensor)
    return max(2 * n**3 / min(repeated(product)(1) for _ in range(8)) for product in products)
