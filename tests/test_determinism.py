"""One seed, one set of bytes: whatever the threads, processes, executors, resumptions and caches."""

import concurrent.futures
import json
import multiprocessing
import os
import sys

import numpy as np
import pytest
from conftest import left, output, run, slow

from resgrad import experiment
from resgrad.runs import protocol

SMALL = ["--arch", "modresnet", "--d", "3", "--width", "4", "--samples", "1000", "--steps", "300"]
WIDE = ["--arch", "two-weight", "--d", "110", "--samples", "2000", "--steps", "12"]  # matrix products; long sums

CORRELATED = ["--arch", "li-bias", "--d", "150", "--data", "online", "--covariance", "S.npy", "--noise", "0.1"]
CORRELATED += ["--lr", "1e-6", "--steps", "8"]


def numbers(out, *arguments):
    """The bytes of a run in this process."""
    assert run(out, *arguments) == 0
    return left(out)


def command(out, *arguments, **environment):
    """The bytes of a run in a process of its own, and its standard error."""
    line = [sys.executable, "-m", "resgrad.experiment", "--out", out, "--no-plot", *arguments]
    told = output(*line, env=os.environ | environment)[1]
    return left(out), told


def simulated(seed):
    """What an executor is sent: the bytes of a run that writes no files."""
    trajectory, _ = experiment.simulate(protocol.resolve("modresnet", d=3, width=4, samples=1000, steps=300, seed=seed))
    return trajectory.theta.tobytes(), "\n".join(experiment.rows(experiment.table(trajectory)))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return numbers(tmp_path_factory.mktemp("small") / "run", *SMALL)


def test_across_repeated_runs(small, tmp_path):
    assert numbers(tmp_path / "again", *SMALL) == small
    assert numbers(tmp_path / "other", *SMALL, "--seed", "1") != small


def test_across_processes(small, tmp_path):
    assert command(tmp_path, *SMALL)[0] == small


@pytest.mark.parametrize("line", [WIDE, *slow(CORRELATED)], ids=["wide", "correlated"])
def test_across_threads(line, tmp_path):
    mixed = np.random.default_rng(0).standard_normal((150, 150))
    np.save(tmp_path / "S.npy", mixed @ mixed.T + np.eye(150))
    line = [str(tmp_path / part) if part.endswith(".npy") else part for part in line]
    one, two = (
        command(tmp_path / n, *line, OPENBLAS_NUM_THREADS=n, NUMBA_NUM_THREADS=n, OMP_NUM_THREADS=n)[0] for n in "12"
    )
    assert one == two


def test_across_executors():
    alone = [simulated(seed) for seed in range(4)]
    assert len(set(alone)) == 4
    processes = concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    for executor in (concurrent.futures.ThreadPoolExecutor(2), processes):
        with executor:
            assert list(executor.map(simulated, range(4))) == alone


def test_with_and_without_resume(small, tmp_path):
    assert run(tmp_path, *SMALL[:-1], "113") == 0
    assert numbers(tmp_path, "--resume", "--steps", "300") == small


def test_with_and_without_resume_of_a_trained_skip(tmp_path):
    line = ["--arch", "vanilla-free", "--data", "population", "--d", "3", "--steps"]
    whole = numbers(tmp_path / "whole", *line, "300")
    assert run(tmp_path / "cut", *line, "113") == 0
    assert numbers(tmp_path / "cut", "--resume", "--steps", "300") == whole


@pytest.mark.slow
def test_on_a_cold_and_a_warm_cache_and_a_cold_one_is_announced(small, tmp_path):
    cold, told = command(tmp_path / "cold", *SMALL, NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    assert told.startswith("compiling kernels") and told.count("\n") == 1
    warm, told = command(tmp_path / "warm", *SMALL, NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    assert told == "" and cold == warm == small
    cold, warm = (json.loads((tmp_path / name / "run.json").read_text())["result"] for name in ("cold", "warm"))
    assert 0.5 * cold["seconds"] < cold["compile_seconds"] < cold["seconds"]
    assert warm["compile_seconds"] == 0 < warm["seconds"]
