"""The post's job: 100,000 fixed samples, batch 200, Nesterov; seconds per step, all included."""

import functools

import numpy as np

import resgrad as rg

from . import timing
from .peers import Job

SIZES = (5, 10, 20, 50, 100, 200, 500, 1000)
ARCHS = "modresnet", "li", "resnet", "two-weight"
QUICK = (5, 10, 50, 200)
BATCH = 200
TOLERANCE = {"float64": 1e-9, "float32": 1e-3}  # of the loss after one chunk of steps
JUDGED = 5000  # rows on which it is taken, in float64


@functools.lru_cache(maxsize=1)
def samples(n_samples, d, dtype):
    return np.random.default_rng(0).standard_normal((n_samples, d), dtype)


def make(arch, d, dtype, options, n_samples=100_000, batch=BATCH):
    """The job, and how many operations a step's arithmetic is."""
    arch = rg.ARCHITECTURES[arch]
    teacher = rg.Network(arch, rg.draw(arch, "normal", d, rng=1), d)
    X = samples(n_samples, d, np.dtype(dtype))
    loss = rg.EmpiricalLoss(arch, X, teacher(X))
    theta = rg.draw(arch, "fan-in", d, rng=2).astype(dtype)
    W1, W2, *_ = arch.unflatten(theta, d)
    chunk = min(500 if d <= 50 else 100 if d <= 200 else 20, n_samples // batch)
    chunks = n_samples // batch // chunk
    order = np.random.default_rng(3).permutation(n_samples)[: chunks * chunk * batch]
    lr = 0.05 / d ** (2 if arch.readout == "sum" else 1)
    U = W1 + np.asarray(arch.identity * np.eye(d), dtype)
    job = Job(arch, d, np.dtype(dtype), U, W2, lr, 0.9, batch, chunk, teacher,
              options.threads, options.quick, loss, order.reshape(chunks, chunk, batch))  # fmt: skip
    m = arch.outputs(d)
    return job, 2 * batch * (2 * d * d + (3 if m > 1 else 2) * d * m)


def judge(job, U, W):
    """The loss on the first rows, in float64."""
    rows = job.loss.rows[:JUDGED].astype(np.float64)
    A = {"fixed": np.ones((job.d, 1)), "vector": W}.get(job.arch.readout)
    A = W.sum(axis=1, keepdims=True) if A is None else A
    R = np.maximum(rows[:, : job.d] @ U, 0) @ A - rows[:, job.d :]
    return float(np.sum(R * R) / len(R))


def run(peers, options):
    peaks = {dtype: timing.peak(dtype, peers) for dtype in TOLERANCE}
    rows = []
    for arch in ARCHS[:1] if options.quick else ARCHS:
        for d in QUICK if options.quick else SIZES:
            for dtype, tolerance in TOLERANCE.items():
                n_samples = 20_000 if options.quick and d > 100 else 100_000
                job, operations = make(arch, d, dtype, options, n_samples)
                row = timing.race(peers, "step", job, functools.partial(judge, job), tolerance, options)
                limit = operations / peaks[dtype]
                reached = limit / row["systems"]["resgrad"]["seconds"]
                rows.append(row | {"peak": peaks[dtype], "limit": limit, "reached": reached})
    return rows
