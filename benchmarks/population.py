"""Exact gradient descent, one run and 64, and one exact Hessian; float64."""

import numpy as np

import resgrad as rg

from . import ensemble, timing

TOLERANCE = 1e-9  # of the mean final loss, and of the Hessian's largest entry
LONGEST = 5000  # steps from one start
DIFFERENCES = 1e-5  # NumPy's Hessian is a central difference


def descent(peers, options, d, runs):
    chunk = 100 if d <= 20 else 10
    job = ensemble.make(d, np.float64, options, runs, chunk)
    job = job if runs > 1 else job._replace(U=job.U[0], W=job.W[0])
    shape = (-1, d, d)

    def judge(U, A):
        return ensemble.final_loss(job, np.reshape(U, shape), np.reshape(A, shape))[0]

    longest = LONGEST // chunk
    return timing.race(peers, "population", job, judge, TOLERANCE, options, longest) | {"runs": runs}


def hessian(peers, options, d):
    job = ensemble.make(d, np.float64, options, 1)
    job = job._replace(U=job.U[0], W=job.W[0])
    exact = rg.PopulationLoss(job.arch, job.teacher).hessian(job.starts()[0])
    runs, errors = {}, {}
    for module in peers.values():
        for name, variants in module.hessian(job).items():
            errors[name] = np.abs(variants[0]() - exact).max() / np.abs(exact).max()
            assert errors[name] < (DIFFERENCES if name == "NumPy" else TOLERANCE), f"{name}: {errors[name]}"
            runs[name] = [timing.repeated(variants[0])]
    systems = timing.compare(runs, options)
    for name, error in errors.items():
        systems[name]["error"] = error
    return {"arch": f"{job.arch.name}, Hessian", "d": d, "dtype": "float64", "systems": systems}


def run(peers, options):
    sizes = (5, 10, 20) if options.quick else (5, 10, 20, 50, 100)
    rows = [descent(peers, options, d, runs) for runs in (1, ensemble.SEEDS) for d in sizes]
    return rows + [hessian(peers, options, d) for d in ((5, 10, 20) if options.quick else (5, 10, 20, 40))]
