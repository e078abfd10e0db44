"""One seed, one set of bytes: whatever the threads, processes, executors, resumptions and caches."""

import concurrent.futures
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import types
import warnings
import weakref

import numpy as np
import pytest
from conftest import left, point, run, samples

import resgrad as rg
from resgrad import experiment, kernels, threads, training
from resgrad.runs import protocol

SMALL = ["--arch", "modresnet", "--d", "4", "--samples", "1000", "--steps", "300"]
WIDE = ["--arch", "two-weight", "--d", "110", "--samples", "2000", "--steps", "12"]  # matrix products; long sums


def numbers(out, *arguments):
    """The bytes of a run in this process."""
    assert run(out, *arguments) == 0
    return left(out)


def command(out, *arguments, **environment):
    """The bytes of a run in a process of its own, and its standard error."""
    line = [sys.executable, "-m", "resgrad.experiment", "--out", str(out), "--no-plot", *arguments]
    done = subprocess.run(line, env=os.environ | environment, capture_output=True, text=True, check=True, timeout=120)
    return left(out), done.stderr


def simulated(seed):
    """What an executor is sent: the bytes of a run that writes no files."""
    trajectory, _ = experiment.simulate(protocol.resolve("modresnet", d=4, samples=1000, steps=300, seed=seed))
    return trajectory.theta.tobytes(), "\n".join(experiment.rows(experiment.table(trajectory)))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return numbers(tmp_path_factory.mktemp("small") / "run", *SMALL)


def test_across_repeated_runs(small, tmp_path):
    assert numbers(tmp_path / "again", *SMALL) == small
    assert numbers(tmp_path / "other", *SMALL, "--seed", "1") != small


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
from resgrad import training
training.WORTH = 0  # few steps, and shared all the same
for d in 12, 100:  # registers and matrix products
    for dtype in np.float64, np.float32:
        teacher = rg.Network("resnet-sum", rg.draw("resnet-sum", "normal", d, rng=1), d)
        data = rg.EmpiricalLoss("two-weight", *rg.dataset(teacher, 450, rng=0, dtype=dtype))
        for loss, batch in (data, 200), (data, None), (rg.OnlineLoss("two-weight", teacher, dtype), 200):
            run = rg.train(loss, rg.draw("two-weight", "small", d, rng=2), rg.Nesterov(1e-7, 0.9), 4, batch)
            print(d, dtype.__name__, batch, hashlib.sha1(run.theta.tobytes() + run.loss.tobytes()).hexdigest())
for d in 8, 20, 40:  # alone, registers, matrix products
    exact = rg.PopulationLoss("modresnet", rg.Network("resnet", rg.draw("resnet", "normal", d, rng=1), d))
    run = rg.train(exact, rg.draw("modresnet", "small", d, rng=2), rg.Nesterov(1e-3, 0.9), 50)
    print(d, hashlib.sha1(run.theta.tobytes() + run.loss.tobytes()).hexdigest())
"""


def test_across_threads_without_the_command_line():
    """Batches, whole data sets, fresh samples and the expectation; NumPy's and SciPy's BLAS, and the helper."""
    line = [sys.executable, "-c", TRAIN]
    one, two, confined = (
        subprocess.run(
            line + more,
            env=os.environ | {"OPENBLAS_NUM_THREADS": n},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout.splitlines()
        for n, more in (("1", []), ("2", []), ("2", ["confined"] * hasattr(os, "sched_setaffinity")))
    )
    assert one == two == confined
    assert len(set(one)) == 15


def meeting(first, last, marks):
    """Who does the parts, and whether both are at it side by side."""
    if last - first == len(marks):
        return "alone"
    kernels._meet(marks, first, 1)
    return threading.get_ident()


@pytest.fixture
def two_processors(monkeypatch):
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one processor")
    kernels._meet(np.full((2, 16), 9), 0, 1)  # compiled
    monkeypatch.setattr(threads, "blas", lambda: [(lambda: 2, lambda count: None)])
    monkeypatch.setattr(threads, "_a_processor_is_free", lambda moment: True)


def test_a_helper_comes_only_where_a_thread_can_be_spared(two_processors, monkeypatch):
    assert threads.together(meeting, 2) == "alone"  # nothing says that no one else is at work
    with threads.one_thread():
        assert threads.together(meeting, 2) == threading.get_ident()
        assert threads.together(meeting, 1) == "alone"
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            assert pool.submit(threads.together, meeting, 2).result(20) == "alone"
        with threads.one_thread():  # nested
            assert threads.together(meeting, 2) == threading.get_ident()
        with threads.one_thread(helped=False):
            assert threads.together(meeting, 2) == "alone"
        with threads._helper(os.getpid()).lock:  # busy
            assert threads.together(meeting, 2) == "alone"
        monkeypatch.setattr(threads, "_BEFORE", [1, 2])
        assert threads.together(meeting, 2) == "alone"
    assert threads._USERS == []


@pytest.mark.parametrize("culprit", [0, 1])
def test_an_error_in_one_thread_stops_both(two_processors, culprit):
    def work(first, last, marks):
        if first == culprit:
            raise MemoryError(f"part {first}")
        for turn in range(1, 1000):
            if not kernels._meet(marks, first, turn):
                break

    with threads.one_thread():
        with pytest.raises(MemoryError, match=f"part {culprit}"):
            threads.together(work, 2)
        assert threads.together(meeting, 2) == threading.get_ident()  # and both are there for the next


def test_a_helper_that_comes_late_sees_what_it_was_called_for(two_processors, monkeypatch):
    """Ctrl-C in the first call: the state is what it was before, but the helper is already on its way."""
    monkeypatch.setattr(training, "WORTH", 0)
    loss = rg.EmpiricalLoss("resnet", *samples("resnet", 60, 3))
    theta0, width = point("resnet", 3, kernels.NARROW + 1), kernels.NARROW + 1
    whole = rg.train(loss, theta0, rg.SGD(1e-3), 4, 20)
    helper = threads._helper(os.getpid())
    calls = helper.calls

    def put(call):
        calls.put(call)
        monkeypatch.setattr(helper, "calls", calls)
        raise KeyboardInterrupt

    advance = training.advancer(loss, rg.SGD(1e-3), 20, width)
    state = training.State.start(loss, theta0, rg.streams(0).batches)
    monkeypatch.setattr(helper, "calls", types.SimpleNamespace(put=put, get=calls.get))
    with threads.one_thread(), pytest.raises(KeyboardInterrupt):
        training._all_or_nothing(advance, state, 4)
    assert state.step == 0 and state.order.size == 0
    with threads.one_thread():
        advance(state, 4)
    assert state.theta(loss).tobytes() == whole.theta.tobytes()


def test_an_interruption_leaves_no_helper_waiting(two_processors, monkeypatch):
    """Ctrl-C may come as soon as the helper has been called."""
    with threads.one_thread():
        assert threads.together(meeting, 2) == threading.get_ident()
        helper, marks = threads._helper(os.getpid()), np.zeros((2, 16), np.int64)

        def put(call):
            calls.put(call)
            raise KeyboardInterrupt

        calls = helper.calls
        monkeypatch.setattr(helper, "calls", types.SimpleNamespace(put=put, get=calls.get))
        with pytest.raises(KeyboardInterrupt):
            helper.together(meeting, marks)
        monkeypatch.setattr(helper, "calls", calls)
        assert threads.together(meeting, 2) == threading.get_ident()


def test_a_helper_goes_where_its_caller_may_run_and_not_where_the_main_thread_may(two_processors, monkeypatch):
    places, results = os.sched_getaffinity(0), []

    def train():
        os.sched_setaffinity(0, places)
        with threads.one_thread():
            threads.together(meeting, 2)  # there is a helper
            monkeypatch.setattr(threads._helper(os.getpid()), "current", lambda: min(places))
            results.append(threads.together(meeting, 2) == threading.get_ident())

    os.sched_setaffinity(0, {min(places)})
    try:
        thread = threading.Thread(target=train)
        thread.start()
        thread.join(20)
    finally:
        os.sched_setaffinity(0, places)
    assert results == [True]


def test_a_helper_keeps_nothing_alive(two_processors):
    data = np.zeros(1)
    alive = weakref.ref(data)
    with threads.one_thread():
        threads.together(lambda first, last, marks, data=data: meeting(first, last, marks), 2)
    del data
    deadline = time.monotonic() + 20
    while alive() is not None:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_without_another_thread_it_works_alone(two_processors, monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    threads._helper.cache_clear()
    with monkeypatch.context() as patch, threads.one_thread():
        patch.setattr(threading.Thread, "start", refuse)
        assert threads.together(meeting, 2) == "alone"
    threads._helper.cache_clear()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("amid", ["training", "the lock"])
def test_a_forked_process_does_not_wait_for_the_threads_it_lacks(amid):
    there, done = threading.Event(), threading.Event()

    def other():
        with threads.one_thread() if amid == "training" else threads._LOCK:
            there.set()
            done.wait(20)

    before = [get_threads() for get_threads, _ in threads.blas()]
    thread = threading.Thread(target=other)
    thread.start()
    there.wait(20)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        signal.alarm(20)
        restored = not threads._USERS and [get_threads() for get_threads, _ in threads.blas()] == before
        with threads.one_thread():
            os._exit(7 if restored and len(threads._USERS) == 1 else 1)
    done.set()
    thread.join(20)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_process_gets_a_helper_of_its_own():
    together = lambda: threads._helper(os.getpid()).together(meeting, np.zeros((2, 16), np.int64))  # noqa: E731
    assert together() == threading.get_ident()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on: fork with threads; the point here
        child = os.fork()
    if child == 0:
        os._exit(7 if together() == threading.get_ident() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


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


@pytest.mark.slow
def test_on_a_cold_and_a_warm_cache_and_a_cold_one_is_announced(small, tmp_path):
    cold, told = command(tmp_path / "cold", *SMALL, NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    assert told.startswith("compiling kernels") and told.count("\n") == 1
    warm, told = command(tmp_path / "warm", *SMALL, NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    assert told == "" and cold == warm == small
