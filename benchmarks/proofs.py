"""How the time of a proof grows with k: a spurious minimum of `vanilla`, and teachers with vector read-outs.

There is no peer: the reference is a prototype of 90 lines in the same arithmetic, which took 0.1 s at k = 10 and 3 s
at k = 20 for the first.
"""

import time

import numpy as np

import resgrad as rg

from .scaling import series

REFERENCE = {10: 0.1, 20: 3.0}  # seconds


def spurious(k):
    """(loss, theta): the first spurious minimum that descent from random starts ends in."""
    loss = rg.PopulationLoss("vanilla", rg.Network("vanilla", np.eye(k).ravel(), k))
    for seed in range(1000):
        end = rg.train(loss, rg.draw("vanilla", "normal", k, rng=seed), rg.SGD(0.05), 3000).theta
        point = rg.polish(loss, end)
        if point.verdict == "spurious minimum":
            return loss, point.theta
    raise AssertionError(f"no spurious minimum at k = {k}")


def teacher(k):
    theta = rg.draw("modresnet", "normal", k, rng=0)
    return rg.PopulationLoss("modresnet", rg.Network("modresnet", theta, k)), theta


def run(peers, options):
    def milliseconds(make, kind):
        def measure(k):
            loss, theta = make(k)
            taken = []
            for _ in range(3 if options.quick else 5):
                tick = time.perf_counter()
                proof = rg.certify(loss, theta)
                taken.append(1e3 * (time.perf_counter() - tick))
                assert proof.kind == kind, proof
            return float(np.median(taken))

        return measure

    small, large = ((10, 14, 20), (7, 10, 14)) if options.quick else ((10, 14, 20, 28, 40), (7, 10, 14, 20, 28))
    minima = series("vanilla: a spurious minimum, against k", "ms", small, milliseconds(spurious, "strict minimum"))
    rows = [minima, series("modresnet: the teacher, against k", "ms", large, milliseconds(teacher, "teacher"))]
    for point in minima["points"]:
        point["reference"] = 1e3 * REFERENCE[point["size"]] if point["size"] in REFERENCE else None
    return rows
