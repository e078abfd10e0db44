"""The published protocol whole: 50,000 steps of the two-weight network at d = 10, float32."""

import time

import numpy as np

import resgrad as rg
from resgrad import training

D, STEPS, SAMPLES, BATCH = 10, 50_000, 100_000, 200
LR, MOMENTUM = 1e-3, 0.01
TOLERANCE = 1e-3  # of the mean loss over the last 250 batches
WINDOW = 250  # steps between two lines of the published log


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
    systems = {
        "resgrad": {"seconds": time.perf_counter() - tick, "loss": trajectory.loss[-1], "steps": STEPS}
    }
    if "PyTorch" in peers:
        rng = training.streams(0).batches
        epochs = [rng.permutation(SAMPLES).reshape(-1, BATCH) for _ in range(STEPS * BATCH // SAMPLES)]
        order = np.concatenate(epochs)  # the batches resgrad drew
        W1, W2 = rg.ARCHITECTURES["two-weight"].unflatten(theta, D)
        plan = {
            "PyTorch": (False, 2000 if options.quick else STEPS),
            "PyTorch, sample by sample": (True, 20),
        }
        for name, (one_by_one, n_steps) in plan.items():
            seconds, losses = peers["PyTorch"].notebook(
                X, Y, order[:n_steps], W1, W2, LR, MOMENTUM, one_by_one
            )
            systems[name] = {"seconds": seconds * STEPS / n_steps, "steps": n_steps,
                             "loss": float(losses[-WINDOW:].mean())}  # fmt: skip
            records = rg.train(rg.EmpiricalLoss("two-weight", X, Y), theta, optimizer, n_steps, BATCH,
                               record_every=min(WINDOW, n_steps)).loss  # fmt: skip
            error = abs(systems[name]["loss"] / records[-1] - 1)
            assert error < TOLERANCE, f"{name}: {systems[name]['loss']}, not {records[-1]}"
    return [{"arch": "two-weight", "d": D, "dtype": "float32", "systems": systems}]
