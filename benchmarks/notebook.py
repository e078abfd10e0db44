"""The published protocol whole: 50,000 steps of the two-weight network at d = 10, float32."""

import time

import numpy as np

import resgrad as rg
from resgrad import draws

from .peers import Job
from .step import judge

D, STEPS, SAMPLES, BATCH = 10, 50_000, 100_000, 200
LR, MOMENTUM = 1e-3, 0.01
TOLERANCE = 1e-3  # of the mean loss over the last 250 batches
NOISE = 1e-8  # of the first loss: below it float32 says nothing
WINDOW = 250  # steps between two lines of the published log


def whole(job, system, theta):
    """The protocol in another system's `step`, which after an epoch must be where resgrad is: at ``theta``."""
    W1, W2, *_ = job.arch.unflatten(np.float64(theta), D)
    once = judge(job, *system.weights(system.advance(system.start(), 1)))  # compiles
    wanted = judge(job, W1 + np.eye(D), W2)
    assert abs(once / wanted - 1) < TOLERANCE, f"{once}, not {wanted}"
    state, tick = system.start(), time.perf_counter()
    state = system.advance(state, len(job.orders))
    seconds = time.perf_counter() - tick
    return {"seconds": seconds, "steps": STEPS, "loss": judge(job, *system.weights(state))}


def run(peers, options):
    """Seconds for the whole protocol; a loop too slow to run whole is scaled, and says so."""
    teacher = rg.Network("two-weight", rg.draw("two-weight", "uniform", D, rng=1), D)
    X, Y = rg.dataset(teacher, SAMPLES, rng=0, dtype=np.float32)
    theta = rg.draw("two-weight", "fan-in", D, rng=2).astype(np.float32)
    optimizer = rg.Nesterov(LR, MOMENTUM)

    def ours(n_steps):
        loss = rg.EmpiricalLoss("two-weight", X, Y)
        return rg.train(loss, theta, optimizer, n_steps, BATCH, seed=0, record_every=WINDOW)

    ours(WINDOW)  # compiles
    tick = time.perf_counter()
    trajectory = ours(STEPS)
    systems = {"resgrad": {"seconds": time.perf_counter() - tick, "loss": trajectory.loss[-1], "steps": STEPS}}
    rng, arch = draws.streams(0).batches, rg.ARCHITECTURES["two-weight"]
    epochs = [rng.permutation(SAMPLES).reshape(-1, BATCH) for _ in range(STEPS * BATCH // SAMPLES)]
    order = np.concatenate(epochs)  # the batches resgrad drew
    W1, W2, *_ = arch.unflatten(theta, D)
    job = Job(arch, D, theta.dtype, W1 + np.eye(D, dtype=theta.dtype), W2, LR, MOMENTUM, BATCH, len(epochs[0]),
              teacher, options.threads, options.quick, rg.EmpiricalLoss(arch, X, Y), np.array(epochs))  # fmt: skip
    for name in {"NumPy", "JAX"} & peers.keys():
        systems[name] = whole(job, peers[name].step(job)[name][0], ours(job.chunk).theta)
    if "PyTorch" in peers:
        plan = {"PyTorch": (False, 2000 if options.quick else STEPS), "PyTorch, sample by sample": (True, 20)}
        for name, (one_by_one, n_steps) in plan.items():
            seconds, losses = peers["PyTorch"].notebook(X, Y, order[:n_steps], W1, W2, LR, MOMENTUM, one_by_one)
            systems[name] = {"seconds": seconds * STEPS / n_steps, "steps": n_steps,
                             "loss": float(losses[-WINDOW:].mean())}  # fmt: skip
            records = rg.train(rg.EmpiricalLoss("two-weight", X, Y), theta, optimizer, n_steps, BATCH,
                               record_every=min(WINDOW, n_steps)).loss  # fmt: skip
            error = abs(systems[name]["loss"] - records[-1]) / max(records[-1], NOISE * records[0])
            assert error < TOLERANCE, f"{name}: {systems[name]['loss']}, not {records[-1]}"
    return [{"arch": "two-weight", "d": D, "dtype": "float32", "systems": systems}]
