"""One seed, one set of bytes: whatever the threads, processes, executors, resumptions and caches."""

import concurrent.futures
import multiprocessing
import os
import subprocess
import sys
import threading
import warnings

import pytest

from resgrad import experiment, protocol, threads

SMALL = ["--arch", "modresnet", "--d", "4", "--samples", "1000", "--steps", "300"]
WIDE = ["--arch", "two-weight", "--d", "110", "--samples", "2000", "--steps", "12"]  # matrix products; long sums


def run(out, *arguments):
    """The bytes of a run in this process."""
    assert experiment.main(["--out", str(out), "--quiet", "--no-plot", *arguments]) == 0
    return left(out)


def command(out, *arguments, **environment):
    """The bytes of a run in a process of its own, and its standard error."""
    line = [sys.executable, "-m", "resgrad.experiment", "--out", str(out), "--no-plot", *arguments]
    done = subprocess.run(line, env=os.environ | environment, capture_output=True, text=True, check=True, timeout=120)
    return left(out), done.stderr


def left(out):
    return [(out / name).read_bytes() for name in ("weights.npz", "history.csv")]


def simulated(seed):
    """What an executor is sent: the bytes of a run that writes no files."""
    trajectory, _ = experiment.simulate(protocol.resolve("modresnet", d=4, samples=1000, steps=300, seed=seed))
    return trajectory.theta.tobytes(), "\n".join(experiment.rows(experiment.table(trajectory)))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return run(tmp_path_factory.mktemp("small") / "run", *SMALL)


def test_across_repeated_runs(small, tmp_path):
    assert run(tmp_path / "again", *SMALL) == small
    assert run(tmp_path / "other", *SMALL, "--seed", "1") != small


def test_across_processes(small, tmp_path):
    assert command(tmp_path, *SMALL)[0] == small


def test_across_threads(tmp_path):
    one, two = (
        command(tmp_path / n, *WIDE, OPENBLAS_NUM_THREADS=n, NUMBA_NUM_THREADS=n, OMP_NUM_THREADS=n)[0] for n in "12"
    )
    assert one == two


TRAIN = """
import hashlib, os, sys
if sys.argv[1:]:
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
import numpy as np, resgrad as rg
for d in 100, 260:  # below and above kernels.ALONE
    for dtype in np.float64, np.float32:
        teacher = rg.Network("resnet-sum", rg.draw("resnet-sum", "normal", d, rng=1), d)
        data = rg.EmpiricalLoss("two-weight", *rg.dataset(teacher, 450, rng=0, dtype=dtype))
        for loss, batch in (data, 200), (data, None), (rg.OnlineLoss("two-weight", teacher, dtype), 200):
            run = rg.train(loss, rg.draw("two-weight", "small", d, rng=2), rg.Nesterov(1e-7, 0.9), 4, batch)
            print(d, dtype.__name__, batch, hashlib.sha1(run.theta.tobytes() + run.loss.tobytes()).hexdigest())
"""


def test_across_threads_without_the_command_line():
    """Batches, whole data sets and fresh samples; NumPy's and SciPy's BLAS, and the helper of `threads.each`."""
    line = [sys.executable, "-c", TRAIN]
    one, two, confined = (
        subprocess.run(line + more, env=os.environ | {"OPENBLAS_NUM_THREADS": n}, capture_output=True, text=True,
                       check=True, timeout=120).stdout.splitlines()
        for n, more in (("1", []), ("2", []), ("2", ["confined"] * hasattr(os, "sched_setaffinity")))
    )
    assert one == two == confined
    assert len(set(one)) == 12


def test_the_helper_helps_and_a_busy_one_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(threads, "_BEFORE", [[2]])
    meet = threading.Barrier(2, timeout=20)
    assert threads.each(lambda part: (meet.wait(), part)[1], [(0,), (1,)]) == [0, 1]  # side by side, or a timeout
    free = threading.Event()
    busy = threads._helper(os.getpid()).submit(free.wait, 20)
    assert threads.each(threading.get_ident, [(), ()]) == [threading.get_ident()] * 2
    free.set()
    assert busy.result()
    monkeypatch.setattr(threads, "_BEFORE", [[1]])
    assert threads.each(threading.get_ident, [(), ()]) == [threading.get_ident()] * 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_process_gets_a_helper_of_its_own():
    threads._helper(os.getpid()).submit(int).result()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on: fork with threads; the point here
        child = os.fork()
    if child == 0:
        os._exit(threads._helper(os.getpid()).submit(lambda: 7).result(20))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_across_executors():
    alone = [simulated(seed) for seed in range(4)]
    assert len(set(alone)) == 4
    processes = concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    for executor in (concurrent.futures.ThreadPoolExecutor(2), processes):
        with executor:
            assert list(executor.map(simulated, range(4))) == alone


def test_with_and_without_resume(small, tmp_path):
    run(tmp_path, *SMALL[:-1], "113")
    assert run(tmp_path, "--resume", "--steps", "300") == small


@pytest.mark.slow
def test_on_a_cold_and_a_warm_cache_and_a_cold_one_is_announced(small, tmp_path):
    cold, told = command(tmp_path / "cold", *SMALL, NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    assert told.startswith("compiling kernels") and told.count("\n") == 1
    warm, told = command(tmp_path / "warm", *SMALL, NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    assert told == "" and cold == warm == small
