"""Several threads on one step: the same bits for any number of them, no deadlock, nothing left behind."""

import concurrent.futures
import itertools
import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
import warnings
import weakref

import numpy as np
import pytest
from conftest import RECORDS, float32_slow, output, point, samples, slow

import resgrad as rg
from resgrad import blas, kernels, training
from resgrad.kernels import policy, threads, wide

pytestmark = pytest.mark.skipif(kernels.PLAIN, reason="plain loops are made by one thread")


def meeting(thread, marks):
    """Who works, and whether all have met."""
    if len(marks) == 1:
        return "alone"
    return threads.meet(marks, thread, 1) and threading.get_ident()


@pytest.fixture
def team(monkeypatch):
    """``team(n)``: from now on n threads take part, where a job has as many parts, on however many processors."""
    meeting(0, np.full((2, 16), 9))  # compiled
    monkeypatch.setattr(training, "WORTH", 0)

    def set_size(n):
        monkeypatch.setattr(threads, "allowed", lambda: n)
        monkeypatch.setattr(threads, "_free_processors", lambda moment: n - 1)

    return set_size


def job(source, d, width, dtype=np.float64, arch="modresnet"):
    """(loss, theta0) of a small problem on ``source``."""
    record, teacher = RECORDS[arch], rg.Network("resnet", point("resnet", d, 2, seed=1), d)
    loss = {
        "data set": lambda: rg.EmpiricalLoss(record, *samples(arch, 53, d, dtype=dtype)),
        "fresh samples": lambda: rg.OnlineLoss(record, teacher, dtype),
        "expectation": lambda: rg.PopulationLoss(record, teacher),
    }[source]()
    return loss, point(arch, d, width, dtype=dtype)


def made(source, d, width, dtype, calls, arch="modresnet"):
    """The bytes after the steps of all ``calls``."""
    loss, theta0 = job(source, d, width, dtype, arch)
    state = training.State.start(loss, theta0, np.random.default_rng(5))
    advance = training.advancer(loss, rg.Nesterov(1e-3, 0.9), None if source == "expectation" else 20, width)
    with blas.one_thread():
        for n_steps in calls:
            advance(state, n_steps)
    return state.window_loss, state.w.tobytes(), state.v.tobytes()


SOURCES = ["data set", "fresh samples", "expectation"]
ALL_BRANCHES = ["modresnet-free", "leaky"]  # of a loop, for vector and for scalar outputs


@float32_slow
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("width", [9, policy.NARROW + 1, 16 * threads.UNITS])
def test_bits_do_not_depend_on_the_threads_nor_on_where_calls_are_split(dtype, source, width, team):
    ends = []
    for size, calls in ((1, [7]), (2, [7]), (2, [1, 4, 2]), (4, [7]), (8, [3, 4])):
        team(size)
        ends.append(made(source, 14, width, dtype, calls))
    assert all(end == ends[0] for end in ends[1:])


@float32_slow
@pytest.mark.parametrize(
    "arch, source, d, width",
    [
        ("leaky", "data set", 3, policy.LONELY + 1),
        *slow(("modresnet-free", "data set", 3, policy.LONELY + 1)),
        *itertools.product(ALL_BRANCHES, ["fresh samples"], [3], [4]),
        *itertools.product(ALL_BRANCHES, ["expectation"], [14], [9, 1]),  # 1: a thread has no unit
        *slow(*itertools.product(ALL_BRANCHES, SOURCES[:2], [14], [9])),
        *itertools.product(ALL_BRANCHES, SOURCES, [policy.NARROW + 6], [policy.NARROW + 1]),
    ],
)
def test_nor_do_those_of_a_trained_skip_and_of_other_slopes(dtype, source, arch, d, width, team):
    ends = []
    for size, calls in ((1, [7]), (2, [1, 6])):
        team(size)
        ends.append(made(source, d, width, dtype, calls, arch))
    assert ends[0] == ends[1]


def test_parts_depend_on_the_shape_alone_and_are_a_power_of_two(team):
    def parts():
        return [(kernels.sampled_loop(70, k, 1)[2], kernels.population_loop(70, k, 9, 1)[2]) for k in range(1, 999)]

    before = parts()
    team(2)
    assert parts() == before
    assert {n for both in before for n in both} == {1, 2, 4, 8, 16}
    assert before[-1] == (16, 16) and before[64][0] == 2


# ------------------------------------------------------------------------------------- who helps, and when


def test_a_helper_comes_only_where_a_thread_can_be_spared(team, monkeypatch):
    team(2)
    me = threading.get_ident()
    assert threads.together(meeting, 2) == "alone"  # nothing says that no one else is at work
    with blas.one_thread():
        assert threads.together(meeting, 2) == me
        assert threads.together(meeting, 1) == threads.together(meeting, 2, worth=False) == "alone"
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            assert pool.submit(threads.together, meeting, 2).result(20) == "alone"
        with blas.one_thread():  # nested
            assert threads.together(meeting, 2) == me
        with blas.one_thread(helped=False):
            assert threads.together(meeting, 2) == "alone"
        with threads._TEAM:  # busy
            assert threads.together(meeting, 2) == "alone"
        monkeypatch.setattr(threads, "_free_processors", lambda moment: 0)
        assert threads.together(meeting, 2) == "alone"
    assert blas._USERS == []


def test_no_more_threads_than_processors_and_than_blas_had(monkeypatch):
    monkeypatch.setattr(blas, "processors", lambda: 6)
    monkeypatch.setattr(threads, "running", lambda: 1)
    threads._free_processors.cache_clear()
    with blas.one_thread():
        monkeypatch.setattr(blas, "_BEFORE", [8, 8])
        assert threads.allowed() == 6 and threads.spare(16) == 4 and threads.spare(2) == 2
        monkeypatch.setattr(blas, "_BEFORE", [8, 1])
        assert threads.spare(16) == 1
        monkeypatch.setattr(blas, "_BEFORE", [8, 8])
        for busy, wanted in ((3, 4), (4, 2), (6, 1), (0, 4)):  # 0: the system does not tell
            monkeypatch.setattr(threads, "running", lambda busy=busy: busy)
            threads._free_processors.cache_clear()
            assert threads.spare(16) == wanted


def test_without_another_thread_it_works_alone(team, monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    team(4)
    monkeypatch.setattr(threads, "_QUEUES", {})
    with monkeypatch.context() as patch, blas.one_thread():
        patch.setattr(threading.Thread, "start", refuse)
        assert threads.together(meeting, 4) == "alone"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity")
def test_a_helper_goes_where_its_caller_may_run_and_not_where_the_main_thread_may(team, monkeypatch):
    team(2)
    places, seen = os.sched_getaffinity(0), []

    def train():
        os.sched_setaffinity(0, places)
        monkeypatch.setattr(threads, "_current_processor", lambda: lambda: min(places))
        with blas.one_thread():
            threads.together(lambda thread, marks: seen.append(os.sched_getaffinity(0)) or meeting(thread, marks), 2)

    os.sched_setaffinity(0, {min(places)})
    try:
        thread = threading.Thread(target=train)
        thread.start()
        thread.join(20)
    finally:
        os.sched_setaffinity(0, places)
    assert len(seen) == 2 and places - {min(places)} in seen + [places - {min(places)}] * (len(places) == 1)


# ------------------------------------------------------------------------------------- errors, Ctrl-C, fork


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("culprit", [0, 1])
def test_an_error_in_one_thread_stops_all(team, size, culprit):
    def work(thread, marks):
        if thread == culprit:
            raise MemoryError(f"thread {thread}")
        turn = 1
        while threads.meet(marks, thread, turn):
            turn += 1

    team(size)
    with blas.one_thread():
        with pytest.raises(MemoryError, match=f"thread {culprit}"):
            threads.together(work, 4)
        assert threads.together(meeting, 4) == threading.get_ident()  # and all are there for the next


class Interrupted:
    """A helper's queue, whose first call is put and followed by Ctrl-C."""

    def __init__(self, calls):
        self.calls = calls

    def put(self, call):
        self.calls.put(call)
        threads._QUEUES[os.getpid()][0] = self.calls
        raise KeyboardInterrupt


def test_a_helper_that_comes_late_sees_what_it_was_called_for(team):
    """Ctrl-C in the first call: the state is what it was before, but the helper is already on its way."""
    team(2)
    loss, theta0 = job("data set", 3, policy.NARROW + 1)
    whole = rg.train(loss, theta0, rg.SGD(1e-3), 4, 20)
    advance = training.advancer(loss, rg.SGD(1e-3), 20, policy.NARROW + 1)
    state = training.State.start(loss, theta0, rg.streams(0).batches)
    queues = threads._QUEUES[os.getpid()]
    queues[0] = Interrupted(queues[0])
    with blas.one_thread(), pytest.raises(KeyboardInterrupt):
        training._all_or_nothing(advance, state, 4)
    assert state.step == 0 and state.order.size == 0
    with blas.one_thread():
        advance(state, 4)
    assert state.theta(loss).tobytes() == whole.theta.tobytes()


def test_a_helper_that_leaves_late_does_not_write_into_the_restored_state(team, monkeypatch):
    """Ctrl-C while the weights are copied back: the helper copies its part when the caller no longer waits."""
    team(2)
    loss, theta0 = job("data set", 3, policy.NARROW + 1)
    advance, leave = training.advancer(loss, rg.SGD(1e-3), 20, policy.NARROW + 1), wide._leave
    state, left = training.State.start(loss, theta0, rg.streams(0).batches), threading.Event()
    w = state.w.copy()

    def late(thread, *given):
        if thread == 0:
            raise KeyboardInterrupt
        time.sleep(1.2)  # the caller waits for a second
        leave(thread, *given)
        left.set()

    with blas.one_thread():
        advance(training.State.start(loss, theta0, rg.streams(0).batches), 1)  # compiled
        monkeypatch.setattr(wide, "_leave", late)
        with pytest.raises(KeyboardInterrupt):
            training._all_or_nothing(advance, state, 4)
        assert left.wait(20) and np.array_equal(state.w, w) and not state.v.any()


def test_an_interruption_leaves_no_helper_waiting(team):
    """Ctrl-C may come as soon as the helper has been called."""
    team(2)
    with blas.one_thread():
        assert threads.together(meeting, 2) == threading.get_ident()
        queues = threads._QUEUES[os.getpid()]
        queues[0] = Interrupted(queues[0])
        with pytest.raises(KeyboardInterrupt):
            threads.together(meeting, 2)
        assert threads.together(meeting, 2) == threading.get_ident()


def test_a_call_that_was_given_up_is_not_begun():
    calls, began = queue.SimpleQueue(), []
    threading.Thread(target=threads._serve, args=(calls,), daemon=True).start()
    marks = np.zeros((2, 16), np.int64)
    marks[0, 0] = threads.STOPPED
    call = threads._Call(lambda thread, marks: began.append(thread), 1, marks, None)
    calls.put(call)
    assert call.done.wait(20) and not began


def test_a_helper_keeps_nothing_alive(team):
    team(2)
    data = np.zeros(1)
    alive = weakref.ref(data)
    with blas.one_thread():
        threads.together(lambda thread, marks, data=data: meeting(thread, marks), 2)
    del data
    deadline = time.monotonic() + 20
    while alive() is not None:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def forked(check):
    """Whether ``check()`` is true in a forked process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on: fork with threads; the point here
        child = os.fork()
    if child == 0:
        signal.alarm(20)
        try:
            os._exit(7 if check() else 1)
        finally:  # an error must not leave a second run of the tests behind
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("amid", ["training", "the lock"])
def test_a_forked_process_does_not_wait_for_the_threads_it_lacks(amid):
    there, done = threading.Event(), threading.Event()

    def other():
        with blas.one_thread() if amid == "training" else blas._LOCK:
            there.set()
            done.wait(20)

    def check():
        restored = not blas._USERS and blas.before() == before
        with blas.one_thread():
            return restored and len(blas._USERS) == 1

    before = blas.before()
    thread = threading.Thread(target=other)
    thread.start()
    there.wait(20)
    try:
        assert forked(check)
    finally:
        done.set()
        thread.join(20)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_process_gets_helpers_of_its_own(team):
    team(2)

    def check():
        with blas.one_thread():
            return threads.together(meeting, 2) == threading.get_ident()

    assert check() and forked(check)
    threads._TEAM.acquire()  # helpers at work in the parent
    try:
        assert forked(check)
    finally:
        threads._TEAM.release()


# ------------------------------------------------------------------------------------- stress


def spin(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


@pytest.fixture
def busy():
    """One more busy process than there are processors for."""
    processes = [multiprocessing.get_context("spawn").Process(target=spin, args=(600,), daemon=True) for _ in range(2)]
    for process in processes:
        process.start()
    yield
    for process in processes:
        process.kill()
        process.join()


@pytest.mark.parametrize("calls", [50, *slow(10_000)])
def test_helped_calls_on_a_busy_machine_hang_nowhere_and_get_no_bit_wrong(calls, team, busy):
    """Every hundredth call, at random, one of the threads fails at a random step."""
    team(2)
    rng = np.random.default_rng(0)
    loss, theta0 = job("data set", 3, policy.LONELY + 1)
    advance = training.advancer(loss, rg.SGD(1e-3), 20, policy.LONELY + 1)

    def fresh():
        return training.State.start(loss, theta0, np.random.default_rng(5))

    with blas.one_thread(helped=False):
        advance(wanted := fresh(), 3)
    with blas.one_thread():
        for _ in range(calls):
            if rng.random() < 0.01:
                culprit, last = rng.integers(2), rng.integers(1, 20)

                def work(thread, marks, culprit=culprit, last=last):
                    for turn in range(1, 20):
                        if thread == culprit and turn == last:
                            raise ArithmeticError
                        if not threads.meet(marks, thread, turn):
                            break

                with pytest.raises(ArithmeticError):
                    threads.together(work, 2)
            advance(state := fresh(), 3)  # each of the two buffers is used, and one is used again
            assert state.w.tobytes() == wanted.w.tobytes() and state.window_loss == wanted.window_loss


TRAIN = """
import hashlib, os, sys
if sys.argv[1:]:
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
import numpy as np, resgrad as rg
from resgrad import training
training.WORTH = 0  # few steps, and shared all the same
for d, k, dtype in (14, 9, np.float64), (100, 100, np.float64), (100, 100, np.float32):  # samples, or units, in lanes
    teacher = rg.Network("resnet", rg.draw("resnet", "normal", d, 2, rng=1), d)
    data = rg.EmpiricalLoss("modresnet", *rg.dataset(teacher, 450, rng=0, dtype=dtype))
    for loss, batch in (data, 200), (data, None), (rg.OnlineLoss("modresnet", teacher, dtype), 200):
        run = rg.train(loss, rg.draw("modresnet", "small", d, k, rng=2), rg.Nesterov(1e-7, 0.9), 4, batch)
        print(d, dtype.__name__, batch, hashlib.sha1(run.theta.tobytes() + run.loss.tobytes()).hexdigest())
for d, k in (3, 4), (14, 9), (40, 40):  # alone, in lanes, by matrix products
    exact = rg.PopulationLoss("modresnet", rg.Network("resnet", rg.draw("resnet", "normal", d, 2, rng=1), d))
    run = rg.train(exact, rg.draw("modresnet", "small", d, k, rng=2), rg.Nesterov(1e-3, 0.9), 50)
    print(d, hashlib.sha1(run.theta.tobytes() + run.loss.tobytes()).hexdigest())
"""


def test_across_threads_and_blas_threads_in_processes_of_their_own():
    """Batches, whole data sets, fresh samples and the expectation; NumPy's and SciPy's BLAS, and the helpers."""

    def lines(n, *more):
        environment = os.environ | {"OPENBLAS_NUM_THREADS": n}
        return output(sys.executable, "-c", TRAIN, *more, env=environment)[0].splitlines()

    one = lines("1")
    assert one == lines("2") == lines("2", *["confined"] * hasattr(os, "sched_setaffinity"))
    assert len(set(one)) == 12


def test_blas_has_one_thread_while_someone_asked_for_it():
    library = blas.libraries()[0]
    before = library.num_threads
    with blas.one_thread():
        assert blas.before()[0] == before
        with blas.one_thread(helped=False):
            assert [each.num_threads for each in blas.libraries()] == [1] * len(blas.libraries())
        assert library.num_threads == 1
    assert library.num_threads == before and len(blas.libraries()) >= 1
