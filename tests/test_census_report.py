"""The page of a census: complete in itself, true to its files; and the command that makes the census again."""

import collections
import dataclasses
import itertools
import json
import re
import shlex

import numpy as np
import pytest
from test_report import Reader

import resgrad as rg
from resgrad import census as census_module
from resgrad.minima import basins
from resgrad.runs import census_report, files, tally, tasks

SMALL = ["--arch", "vanilla", "--d", "8", "--runs", "24", "--seed", "1", "--quiet"]  # some end in spurious minima


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    out = tmp_path_factory.mktemp("census") / "a b"
    assert census_module.main([*SMALL, "--report", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def small():
    return tasks.prepare("vanilla", 8, runs=24, seed=1), rg.census("vanilla", 8, runs=24, seed=1, quiet=True)


def words(page):
    return " ".join(" ".join(Reader(page).words).split())


def wilson(count, runs):
    """Newcombe (1998), method 3."""
    z = 1.959963984540054
    center, reach = count + z**2 / 2, z * (z**2 / 4 + count * (runs - count) / runs) ** 0.5
    return (center - reach) / (runs + z**2), (center + reach) / (runs + z**2)


def test_the_page_is_whole_and_needs_nothing_else(directory):
    text = (directory / "report.html").read_text()
    page = Reader(text)
    assert not page.open and "<script" not in text and "@import" not in text
    assert all(link.startswith("data:image/png") or link[1:] in page.ids for link in page.links)
    assert set(re.findall(r"url\(#(\w+)\)", text)) <= set(page.ids)
    assert max(collections.Counter(page.ids).values()) == 1
    families = json.loads((directory / "census.json").read_text())["families"]
    assert text.count("<svg") == 2 + len(families) and "prefers-color-scheme: dark" in text
    assert "#222222" not in text  # all ink follows the mode


def test_the_page_says_what_the_files_say(directory):
    said, census = words((directory / "report.html").read_text()), json.loads((directory / "census.json").read_text())
    for key, value in census["config"].items():
        assert value is None or f"{key} {value}" in said
    for name, label in tally.OUTCOMES.items():
        count, (low, high) = census[name], wilson(census[name], 24)
        assert f"{label} {count} {100 * count / 24:.1f} % {100 * low:.1f} – {100 * high:.1f} %" in said
    assert 0 < census["spurious"] == sum(family["count"] for family in census["families"])
    for n, family in enumerate(census["families"]):
        row = f"{n} {family['count']} {family['loss']:.10f} {family['min_eigenvalue']:.6g} {family['run']}"
        assert row in said
        assert f"Family {n}: {family['count']} of 24 runs, loss {family['loss']:.10f}." in said
    assert "proof" not in said and "Safran & Shamir" not in said  # whose step size is another
    command = "python -m resgrad.census --arch vanilla --d 8 --runs 24 --seed 1 --report --out again"
    assert command in said and "--resume --runs 48" in said


def test_the_published_share_stands_beside_the_own(small):
    task, found = small
    config = dataclasses.replace(found.config, lr=0.05)
    z = dataclasses.replace(found, config=config).published()[1]
    assert f"published 12.6 %; z = {z:+.2f}." in census_report._words(dataclasses.replace(found, config=config))


def test_without_families_the_page_says_so(tmp_path):
    found = rg.census("li", 3, runs=4, report=True, out=tmp_path, quiet=True)
    said = words((tmp_path / "report.html").read_text())
    assert found.counts["global"] == 4 and "No run ended in a spurious minimum, so there are no families" in said
    assert "teacher unit" not in said and (tmp_path / "report.html").read_text().count("<svg") == 2


def test_proofs_stand_with_their_family(tmp_path, monkeypatch):
    pytest.importorskip("flint")
    given = {"runs": 2, "lr": 0.05, "certify": True, "report": True, "out": tmp_path}
    (family,) = rg.census("vanilla", 8, **given).families
    said = words((tmp_path / "report.html").read_text())
    loss, smallest = family["loss_interval"], family["min_eigenvalue_interval"]
    assert (
        f"Proved of run {family['run']}: a strict minimum, loss in {loss}, smallest eigenvalue in {smallest}." in said
    )
    assert f"{family['run']} proved" in said and "--certify --report --out again" in said
    monkeypatch.setattr("resgrad.minima.proofs.REACH", 0.0)
    (family,) = rg.census("vanilla", 8, resume=True, **given).families
    said = words((tmp_path / "report.html").read_text())
    assert f"Not proved of run {family['run']}: {family['why']}." in said and "polish theta first" in said


# ------------------------------------------------------------------------------------- the units of a family


def family_of(found, thetas):
    """A census whose runs all ended in one family, at these points."""
    family = np.zeros(len(thetas), int)
    one = found.families[0] | {"count": len(thetas), "run": 0}
    return dataclasses.replace(found, families=[one], family=family, theta=np.array(thetas))


def test_the_mean_is_over_one_order_of_units(small):
    task, found = small
    theta, rng = found.theta[found.families[0]["run"]], np.random.default_rng(0)
    U = theta.reshape(8, 8)
    images = [theta]
    for _ in range(9):  # symmetries of the loss with this teacher: units, and coordinates with the teacher's units
        images.append(U[rng.permutation(8)][:, rng.permutation(8)].ravel())
    mean, order, spread, runs = census_report.pattern(task, family_of(found, images), 0)
    aligned = rg.align("vanilla", theta, np.eye(8).ravel(), 8)
    u = (U / np.linalg.norm(U, axis=0)).T  # the teacher's units are the axes
    assert runs == 10 and spread < 1e-14
    assert np.abs(mean - u[order]).max() < 1e-14 and np.array_equal(order, aligned.order)


def test_a_run_of_another_kind_is_seen_in_the_deviation(small):
    task, found = small
    theta = found.theta[found.families[0]["run"]]
    _, _, spread, runs = census_report.pattern(task, family_of(found, [theta, np.eye(8).ravel()]), 0)
    assert runs == 2 and spread > 0.1


def test_of_large_families_the_first_runs_are_compared(small):
    task, found = small
    theta = found.theta[found.families[0]["run"]]
    images = [theta] * census_report.MEMBERS + [np.eye(8).ravel()]
    _, _, spread, runs = census_report.pattern(task, family_of(found, images), 0)
    assert (runs, spread < 1e-15) == (census_report.MEMBERS, True)
    assert "Mean over the first 20 runs" in words(census_report.page(task, family_of(found, images)))


@pytest.mark.parametrize("shape", [(3, 3), (2, 4), (4, 2)])
def test_rows_and_columns_are_found_again(shape):
    wanted = np.random.default_rng(0).standard_normal(shape)
    for rows, columns in itertools.product(*(itertools.permutations(range(n)) for n in shape)):
        assert np.array_equal(census_report._matched(wanted, wanted[list(rows)][:, list(columns)]), wanted)


def test_each_run_is_compared_with_its_own_teacher():
    task = tasks.prepare("modresnet", 4, runs=3, width=2)
    found = rg.census("modresnet", 4, runs=3, width=2, quiet=True)
    assert found.counts["spurious"] == 3
    cosines = {census_report.pattern(task, found, n)[0].tobytes() for n in range(len(found.families))}
    for n, family in enumerate(found.families):
        teacher = task.loss(rg.streams(0, family["run"])).teacher
        wanted = rg.align("modresnet", found.theta[family["run"]], teacher.theta, 4).overlaps
        assert np.array_equal(census_report.pattern(task, found, n)[0], wanted)
    assert len(cosines) == len(found.families) > 1


def test_what_units_cannot_be_compared_with(small):
    theta = rg.draw("li-bias", "normal", 3, rng=1)
    teacher = {"teacher": rg.Network("li-bias", theta, 3), "width": 2}
    task, found = tasks.prepare("li", 3, runs=2, **teacher), rg.census("li", 3, runs=2, quiet=True, **teacher)
    assert found.families and "No units are shown: li-bias and li differ" in words(census_report.page(task, found))
    task, found = small
    even = dataclasses.replace(task, config=dataclasses.replace(task.config, loss="even"))
    assert "No units are shown for this loss." in words(census_report.page(even, found))


# ------------------------------------------------------------------------------------- the command


def made_again(line):
    """The configuration that a command line asks for."""
    _, _, module, *options = shlex.split(line)
    assert module == "resgrad.census"
    given = census_module._parser().given(options)
    for name in ("quiet", "certify", "report"):
        given.pop(name)
    return tasks.prepare(**census_module._request(None, given)).config


@pytest.mark.parametrize("given", [
    {},
    {"arch": "modresnet", "width": 3, "runs": 7, "seed": 5, "teacher": "normal", "teacher_width": 4, "init": "small"},
    {"data": "online", "batch_size": 9, "optimizer": "nesterov", "lr": 0.25, "momentum": 0.5, "noise": 0.5},
    {"data": "dataset", "samples": 77, "steps": 99, "optimizer": "sgd"},
    {"arch": "modresnet", "optimizer": "sgd", "covariance": "power:1"},
    {"loss": "hermite24", "rows": "unit"},
    {"loss": "ge-lee-ma", "mu": 0.2, "lam": 3.0, "lr": 0.01},
    {"loss": "even", "steps": 10_000},  # what is usual for another loss
], ids=str)  # fmt: skip
def test_the_command_makes_the_same_census(given):
    task = tasks.prepare(**{"arch": "vanilla", "d": 6} | given)
    assert made_again(tasks.command_line(task)) == task.config


def test_a_command_names_files(tmp_path):
    path = tmp_path / "my net's.npz"
    files.write_archive(path, "weights", {"theta": np.arange(6.0)}, arch="vanilla", d=3)
    np.save(tmp_path / "S.npy", np.diag([1.0, 2, 3]))
    task = tasks.prepare("vanilla", 3, teacher=str(path), covariance=str(tmp_path / "S.npy"))
    assert task.config.teacher_width == 2 and made_again(tasks.command_line(task)) == task.config


def test_what_only_python_can_give_has_no_command(small):
    own = dataclasses.replace(rg.ARCHITECTURES["vanilla"], identity=0.5)  # under a name that is taken
    network = rg.Network("vanilla", np.eye(3).ravel(), 3)
    for given in ({"arch": own}, {"teacher": network}, {"covariance": np.eye(3)}):
        task = tasks.prepare(**{"arch": "vanilla", "d": 3} | given)
        assert tasks.command_line(task) is None
        assert "was given in Python" in census_report._commands(task, small[1])


# ------------------------------------------------------------------------------------- when it is written


def test_no_page_unless_asked_and_a_page_that_is_there_is_renewed(tmp_path):
    given = ["--arch", "li", "--d", "2", "--quiet", "--out", str(tmp_path)]
    assert census_module.main([*given, "--runs", "2"]) == 0
    assert not (tmp_path / "report.html").exists()
    assert census_module.main([*given, "--resume", "--runs", "3", "--report"]) == 0
    assert "Of 3 runs with d = 2" in (tmp_path / "report.html").read_text()
    assert census_module.main([*given, "--resume", "--runs", "4"]) == 0
    assert "Of 4 runs with d = 2" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("error", [ValueError("no\nfonts"), MemoryError(), ZeroDivisionError("oh")])
def test_a_page_that_fails_ends_no_census(error, tmp_path, monkeypatch, capsys):
    def fail(*given):
        raise error

    monkeypatch.setattr(census_report, "page", fail)
    given = ["--arch", "li", "--d", "2", "--runs", "3", "--out", str(tmp_path), "--report"]
    assert census_module.main(given) == 0
    told = capsys.readouterr()
    assert told.err.count("\n") == 1 and told.err.startswith("report.html is left out, as it cannot be drawn: ")
    assert type(error).__name__ in told.err and "global minimum" in told.out
    assert json.loads((tmp_path / "census.json").read_text())["global"] == 3
    assert not (tmp_path / "report.html").exists() and (tmp_path / "figure.png").exists()


@pytest.mark.parametrize("all_of_them", [True, False])
def test_failed_runs_are_told(all_of_them, tmp_path, monkeypatch):
    descend, made = basins.descend, itertools.count()

    def faulty(*given):
        if all_of_them or next(made) == 0:
            raise ZeroDivisionError("<i>nothing</i>")
        return descend(*given)

    monkeypatch.setattr(basins, "descend", faulty)
    found = rg.census("li", 2, runs=3, workers=1, quiet=True, out=tmp_path, report=True)
    text, count = (tmp_path / "report.html").read_text(), len(found.failures)
    said = f"{count} runs failed, the first of them run 0: ZeroDivisionError: <i>nothing</i>."
    assert count == (3 if all_of_them else 1) and said in words(text) and "<i>" not in text
    assert text.count("<svg") == 2 - all_of_them and f"failed {count} {100 * count / 3:.1f} %" in words(text)


def test_a_page_needs_a_directory():
    with pytest.raises(ValueError, match="report is given without out, but must know the directory"):
        rg.census("li", 2, runs=1, report=True)
