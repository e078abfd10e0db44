"""What a broken guard of the kernels would show, and nothing else does: found by changing each of them once."""

import naive
import numpy as np
import pytest
from conftest import RECORDS, compiled, every_dtype, float32_slow, point, relative_error, samples

import resgrad as rg
from resgrad import training
from resgrad.kernels import policy

NARROW, WIDE = 9, policy.NARROW + 1
STEPS = {np.float64: 1e-13, np.float32: 2e-5}  # rounding, after a dozen small steps


@compiled
@float32_slow
@pytest.mark.parametrize("student, width", [("modresnet", NARROW), ("modresnet", WIDE), ("leaky", WIDE)])
@pytest.mark.parametrize("source", ["data set", "fresh samples", "expectation"])
def test_a_diverged_run_leaves_nothing_for_the_next_one(dtype, source, student, width):
    """Where one advancer makes both, on the same scratch.  A leaky unit hands NaN on even where nothing is used."""
    teacher, batch = rg.Network("resnet", point("resnet", 14, 2, seed=1), 14), None if source == "expectation" else 20
    loss = {
        "data set": lambda: rg.EmpiricalLoss(RECORDS[student], *samples(student, 53, 14, dtype=dtype)),
        "fresh samples": lambda: rg.OnlineLoss(RECORDS[student], teacher, dtype),
        "expectation": lambda: rg.PopulationLoss(RECORDS[student], teacher),
    }[source]()
    theta0, ends = point(student, 14, width, dtype=dtype), []
    for diverged in (False, True):
        advance = training.advancer(loss, rg.SGD(1e-3), batch, width)
        if diverged:
            state = training.State.start(loss, theta0, np.random.default_rng(5))
            state.w[:] = np.nan
            advance(state, 2)
        state = training.State.start(loss, theta0, np.random.default_rng(5))
        advance(state, 3)
        ends.append(state.w.tobytes() + np.float64(state.window_loss).tobytes())
    assert ends[0] == ends[1]


@every_dtype
@pytest.mark.parametrize("width", [WIDE, 2 * WIDE + 1])
@pytest.mark.parametrize("student, teacher", [("li", "resnet-sum"), ("half", "resnet")])
def test_a_teacher_of_another_skip_whose_units_no_two_parts_share_alike(student, teacher, width, dtype):
    d, k_star, batch, n_steps, lr = 3, 41, 5, 6, 1e-2 / width
    star = rg.Network(teacher, point(teacher, d, k_star, seed=1, dtype=dtype), d)
    theta0 = point(student, d, width, dtype=dtype)
    run = rg.train(rg.OnlineLoss(RECORDS[student], star, dtype), theta0, rg.SGD(lr), n_steps, batch, seed=4)
    inputs = rg.streams(4).batches.standard_normal((n_steps, batch, d)).astype(dtype)

    def gradient(theta, X):
        return naive.loss_and_gradient(student, theta, X, naive.predict(teacher, star.theta, X))[1]

    wanted = naive.sgd(gradient, theta0, inputs, lr)
    assert relative_error(run.theta - theta0, wanted - theta0) < 10 * STEPS[dtype]  # theta0 is O(10) steps


@pytest.mark.parametrize("width", [4, policy.EXACT_NARROW + 1], ids=["lanes", "products"])
@pytest.mark.parametrize("student, teacher", [("li", "resnet-sum"), ("half", "resnet")])
def test_the_exact_gradient_against_a_teacher_of_another_skip(student, teacher, width):
    """M of (10) and (11), by lanes and by products, against differences of the loss."""
    loss = rg.PopulationLoss(RECORDS[student], rg.Network(teacher, point(teacher, 3, 2, seed=1), 3))
    assert rg.check_gradient(loss, point(student, 3, width), entries=6).ok
