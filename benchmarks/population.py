"""Exact gradient descent, one run and 64; float64."""

import numpy as np

from . import ensemble, timing

TOLERANCE = 1e-9  # of the mean final loss
SIZES = (5, 10, 20, 50, 100)


def descent(peers, options, d, runs):
    """One row: ``runs`` students of one teacher."""
    job = ensemble.make(d, np.float64, options, runs, chunk=100 if d <= 20 else 10)
    job = job if runs > 1 else job._replace(U=job.U[0], W=job.W[0])
    shape = (-1, d, d)

    def judge(U, A):
        return ensemble.final_loss(job, np.reshape(U, shape), np.reshape(A, shape))[0]

    return timing.race(peers, "population", job, judge, TOLERANCE, options) | {"runs": runs}


def run(peers, options):
    sizes = SIZES[:3] if options.quick else SIZES
    return [descent(peers, options, d, runs) for runs in (1, ensemble.SEEDS) for d in sizes]
