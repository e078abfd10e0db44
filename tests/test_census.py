"""The census: gradient descent's basins, the published families, the same bits whoever does the work."""

import concurrent.futures
import concurrent.futures.process
import contextlib
import dataclasses
import hashlib
import itertools
import json
import multiprocessing
import os
import pickle
import re
import shlex
import signal
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import finish, output, slow

import resgrad as rg
from resgrad import blas, draws
from resgrad import census as census_module
from resgrad.minima import basins
from resgrad.runs import files, tally, tasks
from resgrad.runs import journal as journal_module

census, Census = census_module.census, census_module.Census
PROTOCOL = dict(census_module.SAFRAN_SHAMIR)
SMALL = {"arch": "vanilla", "d": 8, "runs": 24, "seed": 1, "quiet": True}  # some end in spurious minima

SMALL_TASK = {key: value for key, value in SMALL.items() if key != "quiet"}


def identical(one, other):
    """Whether two censuses agree in every bit."""
    names = (*tally.COLUMNS, "family")
    same = all(getattr(one, name).tobytes() == getattr(other, name).tobytes() for name in names)
    return same and (one.config, one.counts, one.families) == (other.config, other.counts, other.families)


@pytest.fixture(scope="module")
def small():
    return census(**SMALL, workers=1)


# ----------------------------------------------------------------------------------------- basins


@pytest.mark.slow
def test_the_published_minimum_at_k_10():
    found = census(d=10, runs=60, seed=1, quiet=True, **PROTOCOL)
    assert found.counts["global"] + found.counts["spurious"] == 60
    family = found.families[0]
    assert family["loss"] / 2 == pytest.approx(0.0187021946, abs=1e-10)
    assert family["min_eigenvalue"] / 2 == pytest.approx(0.031964, abs=1e-6)
    assert (found.grad_norm <= 1e-12).all()


def test_one_more_unit_finds_the_teacher():
    """The global minima are degenerate then, and first order alone would take 1e5 steps."""
    found = census(d=6, width=7, runs=8, seed=1, quiet=True, **PROTOCOL)
    assert found.counts["global"] == 8
    assert found.steps.max() < 20_000
    assert found.loss.max() < 1e-15


@pytest.mark.parametrize(("d", "width"), [(6, 6), (10, 10)])
def test_the_basins_are_those_of_gradient_descent(d, width):
    """Plain descent, with the same step and no second order, arrives at the same point."""
    found = census(d=d, width=width, runs=6, seed=4, quiet=True, **PROTOCOL)
    loss = rg.PopulationLoss("vanilla", rg.Network("vanilla", np.eye(d).ravel(), d))
    for run in range(6):
        start = rg.draw("vanilla", "normal", d, width, rg.streams(4, run).init)
        plain = rg.train(loss, start, rg.SGD(0.05), 30_000, record_every=30_000).theta
        assert np.abs(plain - found.theta[run]).max() < 1e-6


def test_a_saddle_is_only_what_descent_cannot_leave():
    """Equal units stay equal: descent converges to a saddle, and is there to the end."""
    loss = rg.PopulationLoss("vanilla", rg.Network("vanilla", np.eye(2).ravel(), 2))
    start = np.array([0.3, 0.3, 0.2, 0.2])
    assert basins.descend(loss, loss, start, 3000, lr=0.05).outcome == "saddle"
    tipped = basins.descend(loss, loss, start + [1e-9, 0, 0, 0], 30_000, lr=0.05)
    assert tipped.outcome == "global"
    assert tipped.steps > 400  # the gradient was small at the saddle, too


@pytest.mark.parametrize("steps", [300, 1000, 4000])
def test_the_destination_is_where_descent_ends(steps):
    """Wherever it is certain.  Later points are certain more often."""
    certain = 0
    for seed in range(12):
        streams = rg.streams(seed)
        loss = rg.PopulationLoss(
            "vanilla", rg.Network("vanilla", rg.draw("vanilla", "normal", 6, rng=streams.teacher), 6)
        )
        start = rg.draw("vanilla", "fan-in", 6, rng=streams.init)
        theta = rg.train(loss, start, rg.SGD(0.05), steps).theta
        if found := basins.destination(loss, theta):
            end = rg.train(loss, theta, rg.SGD(0.05), 50_000, record_every=50_000).theta
            assert np.abs(end - found.theta).max() < 1e-6
            certain += 1
    assert certain >= {300: 1, 1000: 6, 4000: 11}[steps]


def test_next_to_a_saddle_the_destination_is_certain_only_for_who_stays():
    """Equal units stay equal, and descend to the saddle between two minima."""
    loss = rg.PopulationLoss("vanilla", rg.Network("vanilla", np.eye(2).ravel(), 2))
    theta = rg.train(loss, np.full(4, 0.45), rg.SGD(0.02), 1000).theta
    assert basins.destination(loss, theta).verdict == "saddle"
    assert basins.destination(loss, theta + [1e-2, 0, 0, 0]) is None


def test_no_verdict_before_its_time():
    """Batches know no flow to go on along."""
    kinds = {"d": 3, "width": 4, "teacher_width": 4, "runs": 3, "quiet": True}
    assert census("vanilla", data="online", steps=20, **kinds).counts["unconverged"] == 3
    diverged = census("vanilla", lr=50.0, **kinds)
    assert diverged.counts["unconverged"] == 3
    assert str(diverged)


@pytest.mark.parametrize("data", ["dataset", *slow("online")])
def test_sampled_training_ends_in_exact_minima(data):
    size = {"samples": 2000} if data == "dataset" else {}
    found = census("li", 3, runs=4, teacher="small", data=data, steps=3000, quiet=True, **size)
    assert found.counts["global"] == 4
    assert found.loss.max() < 1e-25


def test_a_teacher_may_be_zero():
    assert census("resnet", 3, runs=3, teacher="zero", quiet=True).counts["global"] == 3


def test_a_run_whose_units_all_died_is_judged_by_what_would_happen_if_they_grew():
    """Run 118 loses its only unit on the way, whose a < 0 is of no use; of `zero` starts any may grow."""
    task = tasks.prepare("resnet-sum", 2, runs=200, width=1, teacher="normal")
    ((_, basin),) = tasks.work(dataclasses.replace(task, numbers=(118,)))
    assert basin.outcome == "spurious" and not basin.theta[:2].any() and basin.theta[2:].sum() < 0
    found = census("resnet", 3, init="zero", runs=2, steps=2000, quiet=True)
    assert found.counts["saddle"] == 2 and not found.theta.any()


@pytest.mark.parametrize("rtol", [1e-6, 1e-7, 1e-8])
def test_a_unit_that_dies_does_not_come_back_on_the_other_side(monkeypatch, rtol):
    """At u = 0, a < 0.  The solver's last point is on either side of it, by chance."""
    monkeypatch.setattr(basins, "RTOL", rtol)
    task = tasks.prepare("resnet", 1, runs=20, teacher="normal", steps=1)
    for _, basin in tasks.work(dataclasses.replace(task, numbers=(6, 15, 17))):
        assert basin.outcome == "spurious"


@pytest.mark.slow
def test_where_steps_do_not_pay_the_run_goes_on_along_the_flow():
    """The published protocol: the flow from step 1 on, and from when few runs are left, has the basins of the steps."""
    kinds = {"d": 8, "runs": 6, "seed": 4, "quiet": True, **PROTOCOL}
    stepped, flowed = census(**kinds, steps=30_000), census(**kinds, steps=1)
    assert (stepped.steps > 100).all() and (flowed.steps == 1).all()
    assert np.abs(stepped.theta - flowed.theta).max() < 1e-6
    assert census("two-weight", 5, teacher="normal", runs=10, steps=500, quiet=True).counts["unconverged"] == 0


@pytest.mark.slow
@pytest.mark.parametrize(("momentum", "least", "most"), [(0.0, 0, 0), (0.9, 1, 9)])
def test_how_often_steps_end_elsewhere_than_the_flow(momentum, least, most):
    """With momentum in 2.5 % of runs, of which 150 have 1 to 9 with 97 % probability; without it in none."""
    kinds = {"teacher": "normal", "runs": 150, "quiet": True}
    steps, flow = census("li", 5, momentum=momentum, **kinds), census("li", 5, steps=1, **kinds)
    assert least <= (~np.isclose(steps.loss, flow.loss, rtol=1e-6, atol=1e-12)).sum() <= most


def test_a_saddle_on_the_way_is_left_along_the_flow():
    loss = rg.PopulationLoss("vanilla", rg.Network("vanilla", np.eye(2).ravel(), 2))
    assert basins.descend(loss, loss, np.array([0.3 + 1e-6, 0.3, 0.2, 0.2]), 400, lr=0.05).outcome == "global"


def test_two_units_learn_one_like_the_cube_of_time():
    """Xu & Du (2023): the loss falls like T^-3."""
    found = census("vanilla", 5, width=2, teacher_width=1, teacher="normal", runs=4, quiet=True)
    assert found.counts["global"] == 4 and found.exponent == pytest.approx(3, abs=0.01)
    assert "4 minima are degenerate: the loss falls like t^-p, p = " in str(found)


@pytest.mark.slow
def test_nearly_every_degenerate_minimum_is_given_its_exponent():
    """Four units of the plane learn two: all but 2 of 40 runs have a power before gradients end in rounding."""
    found = census("vanilla", 2, width=4, runs=40, quiet=True)
    assert found.counts["global"] == 40 and np.isnan(found.exponent).sum() <= 3
    assert np.nanmax(np.abs(found.exponent - 3)) < 0.03


def test_a_minimum_of_full_rank_has_no_exponent(small):
    assert (small.exponent == np.inf).all()
    assert np.isnan(census("vanilla", 6, lr=50.0, runs=1, quiet=True).exponent).all()


# ---------------------------------------------------- each constant, moved tenfold, fails one of these


def power(q):
    """|x - 1|^q, as anybody's function."""
    return SimpleNamespace(
        value=lambda x: float(np.sum(np.abs(x - 1) ** q)),
        grad=lambda x: q * np.sign(x - 1) * np.abs(x - 1) ** (q - 1),
        hessian=lambda x: np.diag(q * (q - 1) * np.abs(x - 1) ** (q - 2)),
    )


@pytest.mark.parametrize(("q", "certain"), [(2, True), (3, True), (12, False)])
def test_how_far_newtons_method_may_go(q, certain):
    """REACH: the minimum is q - 1 first steps away."""
    assert (basins.destination(power(q), np.array([1.5])) is not None) == certain


@pytest.mark.parametrize(("off", "certain"), [(3e-5, True), (3e-4, False)])
def test_how_near_a_run_must_be_to_a_saddle(off, certain):
    """HANDOVER."""
    saddle = SimpleNamespace(
        value=lambda x: (x[0] - 1) ** 2 - (x[1] - 1) ** 2,
        grad=lambda x: np.array([2 * (x[0] - 1), -2 * (x[1] - 1)]),
        hessian=lambda x: np.diag([2.0, -2.0]),
    )
    found = basins.destination(saddle, np.array([1.0, 1.0 + off * 2**0.5]))
    assert (found is not None and found.verdict == "saddle") == certain


@pytest.mark.parametrize(("rates", "certain"), [((1.96, 1.99), True), ((1.7, 1.99), False), ((0.99, 0.99), False)])
def test_when_two_decades_have_one_exponent(rates, certain):
    """AGREE."""
    found = basins._power(10 ** -np.array([0, rates[0], sum(rates)]))
    assert found == (pytest.approx(2 * rates[1] - 1) if certain else None)


@pytest.mark.parametrize(("apart", "families"), [(3e-8, 1), (3e-7, 2)])
def test_how_similar_a_family_is(apart, families):
    """SAME."""
    assert len(set(basins.group(np.array([[1.0], [1.0 + apart]])).tolist())) == families


def test_the_step_is_half_of_what_the_largest_curvature_allows():
    """STEP."""
    loss = rg.PopulationLoss("vanilla", rg.Network("vanilla", np.eye(3).ravel(), 3))
    start = rg.draw("vanilla", "normal", 3, rng=0)
    curvature = max(np.linalg.eigvalsh(loss.hessian(theta))[-1] for theta in (start, loss.teacher.theta))
    one, two = (basins.descend(loss, loss, start, 5000, lr, 0.5) for lr in (None, 0.75 * 0.5 / curvature))
    assert one.theta.tobytes() == two.theta.tobytes() and one.steps == two.steps


# --------------------------------------------------------------------------------------- families


def test_group_knows_no_order():
    rng = np.random.default_rng(0)
    keys = np.repeat(rng.random((5, 3)), 4, axis=0)
    keys[:, 0] = np.repeat([0.1, 0.1, 0.1, 0.7, 0.7], 4)  # told apart by the other columns only
    order = rng.permutation(20)
    noisy = (keys * (1 + 1e-10 * rng.standard_normal(keys.shape)))[order]
    label = basins.group(noisy)
    assert len(set(label)) == 5
    assert ((label[:, None] == label) == (order[:, None] // 4 == order // 4)).all()
    assert basins.group(np.empty((0, 4))).size == 0


def test_symmetric_minima_are_one_family(small):
    """Permuting units, and coordinates with the identity as teacher, changes no invariant."""
    d, theta = 8, small.theta[small.families[0]["run"]]
    loss = rg.PopulationLoss("vanilla", rg.Network("vanilla", np.eye(d).ravel(), d))
    moved = theta.reshape(d, d)[::-1][:, np.roll(np.arange(d), 2)].ravel()
    keys = [basins._invariants(rg.polish(loss, point), False) for point in (theta, moved)]
    assert basins.group(np.array(keys)).tolist() == [0, 0]


def test_rescaled_minima_are_one_family():
    found = census("resnet-sum", 3, width=2, runs=12, seed=0, teacher="normal", quiet=True)
    run = found.families[0]["run"]
    teacher = rg.Network("resnet-sum", rg.draw("resnet-sum", "normal", 3, 3, rg.streams(0, run).teacher), 3)
    loss, theta = rg.PopulationLoss("resnet-sum", teacher), found.theta[run]
    scaled = rg.transform("resnet-sum", theta, 3, [1, 0], [0.5, 3.0])
    keys = [basins._invariants(rg.polish(loss, point), False) for point in (theta, scaled)]
    assert basins.group(np.array(keys)).tolist() == [0, 0]


def test_counts_families_and_shares_agree(small):
    counts = dict(small.counts)
    assert counts.pop("runs") == sum(counts.values()) == 24
    assert sum(family["count"] for family in small.families) == counts["spurious"] > 0
    for n, family in enumerate(small.families):
        assert (small.family == n).sum() == family["count"]
        assert np.ptp(small.loss[small.family == n]) < 1e-10
    share, low, high = small.share("global")
    z, p = 1.959963984540054, counts["global"] / 24  # Wilson (1927)
    middle, half = p + z * z / 48, z * np.sqrt(p * (1 - p) / 24 + z * z / 4 / 24**2)
    assert (share, low, high) == pytest.approx((p, *((middle + s * half) / (1 + z * z / 24) for s in (-1, 1))))


def test_the_published_share_has_a_z_score(small):
    assert small.published() is None
    found = census(d=8, runs=40, seed=1, quiet=True, **PROTOCOL)
    share, z = found.published()
    assert share == 0.126
    assert abs(z) < 4
    assert "12.6%" in str(found)


# -------------------------------------------------------------------------------------- executors


def test_bits_do_not_depend_on_the_number_of_threads(small):
    before = blas.before()
    for workers in (2, 3):
        assert identical(census(**SMALL, workers=workers), small)
    assert blas.before() == before


def test_there_are_as_many_threads_as_processors_may_be_used(monkeypatch):
    asked, pool = [], concurrent.futures.ThreadPoolExecutor
    monkeypatch.setattr(
        concurrent.futures, "ThreadPoolExecutor", lambda workers: asked.append(workers) or pool(workers)
    )
    for places in ({0}, {0, 1, 2}):
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: places, raising=False)
        census("li", 2, runs=2, quiet=True)
    census("li", 2, runs=2, workers=2, quiet=True)
    assert asked == [1, 3, 2]


class Backwards(concurrent.futures.Executor):
    """Does all of its work at the end, the last first."""

    def __init__(self):
        self.work = []

    def submit(self, function, argument):
        self.work.append((concurrent.futures.Future(), function, argument))
        if len(self.work) == 23:
            for future, work, task in reversed(self.work):
                future.set_result(pickle.loads(pickle.dumps(work(pickle.loads(pickle.dumps(task))))))
        return self.work[-1][0]

    def shutdown(self, *args, **kwargs):
        raise AssertionError("the caller owns it")


def test_bits_do_not_depend_on_the_order(small):
    assert identical(census(**SMALL, executor=Backwards()), small)


def test_processes(small):
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as executor:
        assert identical(census(**SMALL, executor=executor), small)
        assert executor.submit(int, "1").result() == 1  # still ours


class Killer(concurrent.futures.Executor):
    """Passes work on, and kills process ``victim`` once half of it is done."""

    def __init__(self, executor, victim):
        self.executor, self.victim, self.done = executor, victim, 0

    def submit(self, function, argument):
        future = self.executor.submit(function, argument)
        future.add_done_callback(self.count)
        return future

    def count(self, future):
        self.done += 1
        if self.done == 30:
            os.kill(self.victim, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_that_loses_a_worker():
    distributed = pytest.importorskip("dask.distributed")
    wanted = census(**SMALL | {"runs": 200, "seed": 3})
    with (
        distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        assert identical(census(**SMALL | {"runs": 200, "seed": 3}, executor=client.get_executor()), wanted)
        victim = next(iter(cluster.workers.values())).pid
        killer = Killer(client.get_executor(), victim)
        assert identical(census(**SMALL | {"runs": 200, "seed": 3}, executor=killer), wanted)
        assert victim not in [worker.pid for worker in cluster.workers.values()]


# ------------------------------------------------------------------------------ files and resuming


def test_a_census_goes_on_from_any_byte(small, tmp_path):
    assert identical(census(**SMALL, out=tmp_path), small)
    names = ("census.json", "census.npz", "figure.png")
    wanted, journal = [(tmp_path / name).read_bytes() for name in names], (tmp_path / "runs.jsonl").read_bytes()
    for size in (journal.index(b"\n") + 1, len(journal) // 2, len(journal) - 1, len(journal)):
        (tmp_path / "runs.jsonl").write_bytes(journal[:size])
        assert identical(census(**SMALL, out=tmp_path, resume=True), small)
        assert [(tmp_path / name).read_bytes() for name in names] == wanted
        assert len((tmp_path / "runs.jsonl").read_bytes().splitlines()) == 25


def test_a_damaged_journal_is_refused(small, tmp_path, monkeypatch):
    """A flipped bit, a piece cut out, a byte put in: never another result, never a traceback."""
    census(**SMALL, out=tmp_path)
    journal, rng = tmp_path / "runs.jsonl", np.random.default_rng(5)
    whole, work, refused = journal.read_bytes(), tasks.work, 0
    ends = dict(work(tasks.prepare(**SMALL_TASK)))
    monkeypatch.setattr(tasks, "work", lambda task: [(run, ends[run]) for run in task.numbers])
    for n in range(200):
        content, at = bytearray(whole), int(rng.integers(len(whole)))
        if n % 4 < 2:
            content[at] ^= 1 << int(rng.integers(8))
        elif n % 4 == 2:
            del content[at : at + int(rng.integers(1, 2000))]
        else:
            content.insert(at, int(rng.integers(256)))
        journal.write_bytes(content)
        try:
            assert identical(census(**SMALL, out=tmp_path, resume=True), small)  # the last line, at most
        except files.FileError as error:
            refused += 1
            assert "\n" not in str(error)
            assert re.match(f"{journal} is damaged: .*line [0-9]+", str(error))
    assert refused > 150


def test_a_journal_is_strict_json_and_reads_back_to_the_same_numbers(tmp_path):
    """A census that diverges has numbers that JSON does not know; older versions wrote them all the same."""
    given = {"arch": "vanilla", "d": 6, "runs": 3, "lr": 50.0, "quiet": True, "out": tmp_path}
    found, journal = census(**given), tmp_path / "runs.jsonl"
    assert np.isinf(found.loss).all() and np.isnan(found.min_eigenvalue).all()
    written = journal.read_bytes()
    for line in written.splitlines():
        json.loads(line, parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))
    assert identical(census(**given, resume=True), found)
    lines = [re.sub(r'"(NaN|-?Infinity)"', r"\1", line) for line in written.decode().splitlines()]
    sealed = [f'{text}, "sha256": "{hashlib.sha256(text.encode()).hexdigest()[:16]}"}}\n'
              for text in (line.rpartition(', "sha256"')[0] for line in lines)]  # fmt: skip
    journal.write_text("".join(sealed))
    assert b": Infinity" in journal.read_bytes()
    assert identical(census(**given, resume=True), found)
    assert journal.read_bytes() == written


def test_what_decides_the_results_must_agree(tmp_path, monkeypatch):
    """The numbers behind the names of architectures, and the teacher's content, not its path."""
    theta, kinds = rg.draw("li", "normal", 3, rng=0), {"runs": 2, "quiet": True, "out": tmp_path / "out"}
    for name in ("one.npz", "two.npz"):
        files.write_archive(tmp_path / name, "weights", {"theta": theta}, arch="li", d=3)
    half = rg.Architecture("half", "F", "here", 0.5, 0, "fixed")
    found = census(half, 3, teacher=str(tmp_path / "one.npz"), **kinds)
    again = census(half, 3, teacher=str(tmp_path / "two.npz"), resume=True, **kinds)
    assert found.loss.tobytes() == again.loss.tobytes()
    with pytest.raises(ValueError, match="another census: identity is 0.25, but was 0.5$"):
        other = dataclasses.replace(half, identity=0.25)
        census(other, 3, teacher=str(tmp_path / "one.npz"), resume=True, **kinds)
    with pytest.raises(ValueError, match="teacher is network, sha256"):
        census(half, 3, teacher=rg.Network("vanilla", theta, 3), resume=True, **kinds)
    monkeypatch.setattr(journal_module, "__version__", "99")
    with pytest.raises(ValueError, match="version is 99, but was"):
        census(half, 3, teacher=str(tmp_path / "one.npz"), resume=True, **kinds)


NOT_JOURNALS = {
    "": "it is empty",
    "{}\n{}\n": "the checksum of line 1 does not match",
    "[" * 100_000 + "\n": "the checksum of line 1 does not match",
    journal_module.seal({"kind": "notes"}): "its first line is not that of one",
    journal_module.seal({"kind": "census", "format": 99}): "has format 99, but this resgrad reads 1",
}


@pytest.mark.parametrize("content", NOT_JOURNALS)
def test_what_is_not_a_journal(content, tmp_path):
    (tmp_path / "runs.jsonl").write_text(content)
    with pytest.raises(files.FileError, match=NOT_JOURNALS[content]):
        census(**SMALL, out=tmp_path, resume=True)


NOT_RUNS = {
    "run is -5, but must be below 24": {"run": -5},
    "run is 24": {"run": 24},
    "run 3 is there twice": {"run": 3},
    "its outcome": {"outcome": "bananas"},
    "its numbers": {"loss": "a"},
    "numbers are not valid": {"steps": None},
    "numbers are": {"invariants": [0.0]},
    "theta has 1 entries, but needs 64": {"theta": "AAAAAAAAAAA="},
    "unexpected keyword argument 'lost'": {"lost": 1},
}


@pytest.mark.parametrize("reason", NOT_RUNS)
def test_what_is_not_a_run(reason, tmp_path):
    task = tasks.prepare(**SMALL_TASK)
    basin = basins.Basin("global", 0.0, 0.0, 0.1, basins.NONE, 1, np.zeros(64))
    lines = [journal_module.line(run, basin) for run in range(6)]
    record = json.loads(lines[5]) | NOT_RUNS[reason]
    del record["sha256"]
    lines = [journal_module.seal(journal_module.header(task)), *lines[:5], journal_module.seal(record)]
    (tmp_path / "runs.jsonl").write_text("".join(lines))
    with pytest.raises(files.FileError, match=f"line 7: .*{reason}"):
        census(**SMALL, out=tmp_path, resume=True)


def test_resuming_makes_only_what_is_missing(small, tmp_path, monkeypatch):
    census(**SMALL | {"runs": 20}, out=tmp_path)
    made, work = [], tasks.work
    monkeypatch.setattr(tasks, "work", lambda task: made.extend(task.numbers) or work(task))
    assert identical(census(**SMALL, out=tmp_path, resume=True), small)
    assert sorted(made) == [20, 21, 22, 23]


def test_another_census_in_the_same_directory(tmp_path):
    census(**SMALL | {"runs": 2}, out=tmp_path)
    with pytest.raises(ValueError, match="which holds a census; use --resume"):
        census(**SMALL | {"runs": 2}, out=tmp_path)
    with pytest.raises(ValueError, match="seed is 2, but was 1$"):
        census(**SMALL | {"runs": 2, "seed": 2}, out=tmp_path, resume=True)
    with pytest.raises(ValueError, match="lr is 0.01, but was None; runs is 1, but was 2$"):
        census(**SMALL | {"runs": 1}, lr=0.01, out=tmp_path, resume=True)


@pytest.mark.parametrize("kind", [
    ["--preset", "safran-shamir", "--k", "6"],
    ["--arch", "li", "--d", "3", "--width", "4", "--teacher-width", "4", "--data", "online", "--optimizer", "sgd",
     "--teacher", "small", "--steps", "500"],
])  # fmt: skip
def test_resume_needs_nothing_but_the_directory(kind, tmp_path, capsys):
    out = tmp_path / "a directory"
    assert census_module.main([*kind, "--runs", "4", "--out", str(out), "--quiet"]) == 0
    wanted, journal = (out / "census.npz").read_bytes(), out / "runs.jsonl"
    journal.write_bytes(journal.read_bytes()[:-1000])
    assert census_module.main(["--resume", "--out", str(out), "--quiet"]) == 0
    assert (out / "census.npz").read_bytes() == wanted
    assert census_module.main(["--resume", "--out", str(out), "--quiet", "--seed", "9"]) == 2
    assert capsys.readouterr().err == f"error: out is {out}, which holds another census: seed is 9, but was 0\n"


@pytest.fixture
def failing(monkeypatch):
    """A function that makes the runs of these starts fail."""
    descend, starts = basins.descend, set()

    def faulty(exact, loss, theta0, *how):
        if theta0.tobytes() in starts:
            raise ZeroDivisionError("nothing\nto divide")
        return descend(exact, loss, theta0, *how)

    def install(task, runs):
        starts.clear()
        starts.update(task.start(rg.streams(task.config.seed, run)).tobytes() for run in runs)

    monkeypatch.setattr(basins, "descend", faulty)
    return install


def test_a_run_that_fails_is_recorded_and_loses_no_other(small, tmp_path, failing, capsys):
    command = ["--arch", "vanilla", "--d", "8", "--runs", "24", "--seed", "1", "--out", str(tmp_path)]
    failing(tasks.prepare(**SMALL_TASK), [0, 1, 7])
    again = f"try again with --resume --out {tmp_path}\n"
    assert census_module.main(command) == 1
    told = capsys.readouterr()
    reason = "ZeroDivisionError: nothing to divide"
    assert told.err.splitlines(True)[-1] == f"error: 3 of 24 runs failed, the first of them run 0: {reason}; {again}"
    assert re.search("^failed +3 +12.5 %", told.out, re.MULTILINE)
    written = json.loads((tmp_path / "census.json").read_text())
    assert written["failed"] == 3 and written["failures"] == dict.fromkeys(("0", "1", "7"), reason)
    assert sum(written[name] for name in ("global", "spurious", "saddle", "unconverged")) == 21
    found = np.load(tmp_path / "census.npz")
    others = np.delete(np.arange(24), [0, 1, 7])
    assert found["theta"][others].tobytes() == small.theta[others].tobytes()
    assert (found["outcome"][[0, 1, 7]] == "failed").all() and np.isnan(found["theta"][[0, 1, 7]]).all()
    assert (tmp_path / "figure.png").exists()
    failing(tasks.prepare(**SMALL_TASK), [7])
    assert census_module.main(["--resume", "--out", str(tmp_path), "--quiet"]) == 1
    assert capsys.readouterr().err == f"error: 1 of 24 runs failed, the first of them run 7: {reason}; {again}"
    made, work = [], tasks.work
    failing(tasks.prepare(**SMALL_TASK), [])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "work", lambda task: made.extend(task.numbers) or work(task))
        assert census_module.main(["--resume", "--out", str(tmp_path), "--quiet"]) == 0
    assert made == [7] and capsys.readouterr().err == ""
    assert identical(census(**SMALL, out=tmp_path, resume=True), small)
    assert json.loads((tmp_path / "census.json").read_text())["failed"] == 0


def test_a_census_may_fail_as_a_whole(failing, tmp_path, capsys):
    task = tasks.prepare("li", 2, runs=5)
    failing(task, range(5))
    found = census("li", 2, runs=5, quiet=True, out=tmp_path)
    assert capsys.readouterr().err == "" and (tmp_path / "census.json").exists()
    assert found.counts == {"runs": 5} | dict.fromkeys(tally.OUTCOMES, 0) | {"failed": 5}
    assert list(found.failures) == list(range(5)) and str(found)


@pytest.fixture
def after_five(monkeypatch):
    """Do something when five runs are made."""

    def install(happen, work=tasks.work):
        made = itertools.count()
        monkeypatch.setattr(tasks, "work", lambda task: work(task) if next(made) != 5 else (happen(), work(task))[1])

    return install


def test_a_directory_that_vanishes(small, tmp_path, after_five):
    out = tmp_path / "out"
    after_five(lambda: out.rename(tmp_path / "elsewhere"))
    with pytest.raises(OSError, match=f"{out} cannot be written: .*; the run is in {out}-001 instead"):
        census(**SMALL, out=out, workers=1)
    assert (tmp_path / "out-001" / "runs.jsonl").read_bytes().count(b"\n") > 1
    assert identical(census(**SMALL, out=tmp_path / "out-001", resume=True), small)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has it")
def test_a_disk_that_is_full_for_a_while(small, tmp_path, after_five):
    journal, full = tmp_path / "runs.jsonl", tmp_path / "full"
    full.symlink_to("/dev/full")
    after_five(lambda: full.replace(journal))  # at once: runs are written meanwhile
    assert identical(census(**SMALL, out=tmp_path, workers=1), small)
    assert journal.read_bytes().count(b"\n") == 25


@pytest.mark.parametrize("error", [concurrent.futures.process.BrokenProcessPool, concurrent.futures.CancelledError])
def test_an_executor_that_breaks(error, small, tmp_path, monkeypatch, capsys):
    class Broken(Backwards):
        def submit(self, function, argument):
            future = concurrent.futures.Future()
            future.set_exception(error("gone")) if argument.numbers[0] > 9 else future.set_result(function(argument))
            return future

    monkeypatch.setattr(census_module, "_connect", lambda address, stack: Broken())
    command = ["--arch", "vanilla", "--d", "8", "--runs", "24", "--seed", "1", "--out", str(tmp_path), "--quiet"]
    assert census_module.main([*command, "--scheduler", "there"]) == 1
    told = capsys.readouterr().err
    assert told == f"error: executor failed: {error.__name__}('gone'); go on with --resume --out {tmp_path}\n"
    assert identical(census(**SMALL, out=tmp_path, resume=True), small)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
def test_standard_error_may_be_closed(tmp_path):
    command = f"{shlex.quote(sys.executable)} -m resgrad.census --arch li --d 3 --runs 2 --out out 2>&-"
    assert output("sh", "-c", command, cwd=tmp_path)[0].startswith("li, d = 3")
    assert (tmp_path / "out" / "runs.jsonl").read_bytes().count(b"\n") == 3


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_interrupt_and_resume(start, tmp_path):
    command = [sys.executable, "-m", "resgrad.census", "--preset", "safran-shamir", "--k", "6", "--out", tmp_path]
    process = start(*command, "--runs", "100000")
    journal, deadline = tmp_path / "runs.jsonl", time.monotonic() + 60
    while not journal.exists() or journal.read_bytes().count(b"\n") < 10:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    code, _, error = finish(process)
    assert code == 130
    assert error.splitlines()[-1] == f"interrupted; go on with --resume --out {tmp_path}"
    assert not (tmp_path / "census.json").exists()
    done = journal.read_text().splitlines()
    header = json.loads(done[0])
    header["config"]["runs"] = 16
    del header["sha256"]
    lines = (one + "\n" for one in done[1:] if one.endswith("}") and json.loads(one)["run"] < 16)
    journal.write_text("".join([journal_module.seal(header), *lines]))
    output(*command, "--runs", "16", "--resume", "--quiet")
    assert json.loads((tmp_path / "census.json").read_text())["runs"] == 16


def test_the_farewell_can_be_pasted_and_leaves_the_bar(tmp_path, monkeypatch):
    told, out = [], tmp_path / "a directory"
    monkeypatch.setattr(census_module.command, "terminal", lambda: True)
    monkeypatch.setattr(census_module.command, "farewell", lambda text: told.append(text) or contextlib.nullcontext())
    assert census_module.main(["--arch", "li", "--d", "2", "--runs", "1", "--out", str(out)]) == 0
    assert told == [f"\ninterrupted; go on with --resume --out '{out}'"]


# ------------------------------------------------------------------------------- the command line


def test_the_command_leaves_its_files(tmp_path, capsys):
    command = ["--arch", "vanilla", "--d", "8", "--runs", "24", "--seed", "1", "--out", str(tmp_path)]
    assert census_module.main(command) == 0
    printed = capsys.readouterr()
    assert "spurious minimum" in printed.out
    found = json.loads((tmp_path / "census.json").read_text())
    assert found["config"]["d"] == 8
    assert found["runs"] == found["global"] + found["spurious"] + found["saddle"] + found["unconverged"] == 24
    assert {"count", "loss", "min_eigenvalue"} <= set(found["families"][0])
    with np.load(tmp_path / "census.npz") as archive:
        assert archive["theta"].shape == (24, 64)
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


BAD = {
    "--arch vanila": "did you mean 'vanilla'?",
    "--runs 5": "arch is missing",
    "--arch li --runs 0": "runs is 0, but must be at least 1",
    "--arch li --d 0": "d is 0",
    "--arch li --width -1": "width is -1",
    "--arch li --teacher unifrm": "did you mean 'uniform'?",
    "--arch li --teacher no.npz": "no.npz cannot be read",
    "--arch li --init norml": "did you mean 'normal'?",
    "--arch li --optimizer adam": "optimizer is 'adam'",
    "--arch li --lr 0": "lr is 0.0",
    "--arch li --workers 0": "workers is 0",
    "--arch li --seed -1": "seed is -1",
    "--arch li --data online --batch-size 0": "batch_size is 0",
    "--arch li --runs many": "runs is 'many', but must be an integer",
    "--arch li --resume": "resume is given without out",
    "--resume --out nowhere": "runs.jsonl cannot be read: No such file",
    "--arch li --out=": "out is '', but must be a directory",
    "--arch li --d 3 --width 4 --init phases": "phases needs a square W1",
    "--arch li --k 4": "k is 4, but only a preset has it",
    "--preset safran": "did you mean 'safran-shamir'?",
    "--preset safran-shamir": "k is missing",
    "--preset safran-shamir --k 0": "k is 0",
    "--preset safran-shamir --k 4 --lr 0.1": "lr is 0.1, but preset safran-shamir has 0.05",
}


@pytest.mark.parametrize("command", BAD)
def test_bad_input_is_one_line(command, refusal, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = [] if "--out" in command or "resume" in command else ["--out", "here"]
    assert BAD[command] in refusal(census_module.main, [*command.split(), *out])
    assert not any(tmp_path.rglob("*.json*"))


def test_help_names_every_teacher_and_architecture():
    told = {action.dest: action.help for action in census_module._parser()._actions}
    assert told["teacher"].startswith(", ".join(draws.DRAWS))
    assert told["arch"] == ", ".join(rg.ARCHITECTURES)


def test_arguments_are_checked_before_any_run():
    network = rg.Network("li", np.zeros(8), 2)
    with pytest.raises(ValueError, match="teacher_width is 3, but the teacher has 4 units"):
        census("li", 2, teacher=network, teacher_width=3)
    with pytest.raises(ValueError, match="d is 3, but the teacher has d=2"):
        census("li", 3, teacher=network)
    for key in ("dtype", "record_every", "preset"):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{key}'"):
            census("li", 3, **{key: "notebook"})


NOT_ARGUMENTS = {
    "optimizer is Nesterov.*, but lr or momentum": {"optimizer": rg.Nesterov(0.05, 0.5), "lr": 7},
    "optimizer is SGD.*, but lr or momentum": {"optimizer": rg.SGD(0.05), "momentum": 0.9},
    "optimizer is 5, but must be one of": {"optimizer": 5},
    "teacher is array": {"teacher": np.eye(3)},
    "teacher is .'small'., but must be one of": {"teacher": ["small"]},
    "init is .'small'., but must be one of": {"init": ["small"]},
    "data is .., but must be one of": {"data": []},
    "d is None, but must be an integer": {"d": None},
    "executor is 5, but must be a concurrent": {"executor": 5},
    "out is 5, but must be a directory": {"out": 5},
    "out is '', but must be a directory": {"out": ""},
    "resume is given without out": {"resume": True},
    "phases needs a square W1": {"init": "phases", "width": 4, "out": "here"},
}


@pytest.mark.parametrize("reason", NOT_ARGUMENTS)
def test_bad_arguments_leave_nothing(reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((TypeError, ValueError), match=f"^{reason}") as told:
        census(**{"arch": "li", "d": 3, "runs": 1} | NOT_ARGUMENTS[reason])
    assert "\n" not in str(told.value)
    assert not any(tmp_path.iterdir())


def test_a_given_teacher_and_a_given_optimizer():
    teacher = rg.Network("li", rg.draw("li", "small", 3, rng=0), 3)
    found = census("li", 3, runs=4, teacher=teacher, optimizer=rg.Nesterov(0.05, 0.5), quiet=True)
    assert found.counts["global"] == 4
    assert (found.config.optimizer, found.config.lr, found.config.momentum) == ("nesterov", 0.05, 0.5)
    assert found.config.teacher.startswith("network, sha256 ")
    assert np.abs(found.theta - teacher.theta).max() < 1e-10  # li pins its units down


def test_the_weights_of_a_file_are_those_of_its_architecture(tmp_path):
    teacher = rg.Network("li", rg.draw("li", "small", 3, rng=0), 3)
    path = str(tmp_path / "weights.npz")
    files.write_archive(path, "weights", {"theta": teacher.theta}, arch="li", d=3)
    one, other = (census("vanilla", 3, runs=2, teacher=given, quiet=True) for given in (path, teacher))
    assert one.theta.tobytes() == other.theta.tobytes()
    with pytest.raises(ValueError, match="vanilla"):
        census("modresnet", 3, teacher=rg.Network("vanilla", np.zeros(9), 3))  # three outputs, and one


def test_an_architecture_of_ones_own():
    arch = rg.Architecture("half", "||relu((I / 2 + W1)' x)||_1", "here", 0.5, 0, "fixed")
    found = census(arch, 3, runs=6, teacher="small", quiet=True)
    assert found.counts["global"] == 6
    assert found.config.arch == "half"


def test_the_module_is_the_function_too():
    assert census_module("li", 2, runs=1, quiet=True).counts["runs"] == 1


def test_families_are_proved(tmp_path, monkeypatch):
    pytest.importorskip("flint")
    options = {"teacher": "identity", "optimizer": "sgd", "lr": 0.05, "out": tmp_path}
    plain = rg.census("vanilla", d=8, runs=2, **options)
    assert "proved" not in plain.families[0] and "proved" not in str(plain)
    found = rg.census("vanilla", d=8, runs=2, resume=True, certify=True, **options)
    (family,) = json.loads((tmp_path / "census.json").read_text())["families"]
    assert family == found.families[0]
    assert (family["proved"], family["why"]) == (True, "") and str(found).endswith("   proved")
    for name in ("loss", "min_eigenvalue"):
        low, high = family[f"{name}_interval"]
        assert 0 < low < high < (1 + 1e-8) * low and abs(family[name] - low) < 1e-8 * low
    monkeypatch.setattr("resgrad.minima.proofs.REACH", 0.0)
    (family,) = rg.census("vanilla", d=8, runs=2, resume=True, certify=True, **options).families
    assert not family["proved"] and "polish theta first" in family["why"]
    assert family["loss_interval"] is family["min_eigenvalue_interval"] is None


def test_a_census_beyond_proofs_is_refused_at_once(tmp_path, refusal):
    pytest.importorskip("flint")
    line = ["--arch", "modresnet", "--d", "40", "--certify", "--out", str(tmp_path / "out")]
    assert "modresnet with d=40 and width 40 has 3,200 coordinates, but proofs take" in refusal(
        census_module.main, line
    )
    assert not (tmp_path / "out").exists()
