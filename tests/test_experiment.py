"""The command line: what it prints, leaves behind, refuses, and survives."""

import contextlib
import csv
import dataclasses
import json
import os
import shutil
import sys
import time
import types

import numba
import numpy as np
import pytest
from conftest import LOOPS, compiled, left, output, run, slow

import resgrad as rg
from resgrad import draws, experiment
from resgrad.minima import balls
from resgrad.runs import command, files, protocol

SMALL = ["--d", "3", "--width", "4", "--samples", "1000", "--steps", "300"]  # the shape of many tests: compiled once


COMMAND = [sys.executable, "-m", "resgrad.experiment", "--arch", "li", *SMALL]


@pytest.mark.parametrize("name", [*(name for name in LOOPS if name in rg.ARCHITECTURES), "li-bias", *slow("even")])
def test_a_run_leaves_the_four_files_that_the_contract_names(name, tmp_path, capsys):
    assert experiment.main(["--arch", name, *SMALL, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith(f"{name}: F(x) = ") and "modulo" in printed.out
    summary = json.loads((tmp_path / "run.json").read_text())
    assert set(summary) >= {"config", "versions", "threads", "stop_reason", "result"}
    assert summary["config"]["arch"] == name and summary["config"]["seed"] == 0
    wanted = (
        "steps seconds loss_initial loss_final population_loss_initial population_loss_final "
        "distance_initial distance_final aligned_distance_final units_permuted"
    )
    assert all(isinstance(summary["result"][key], (int, float)) for key in wanted.split())
    assert summary["stop_reason"] == "finished" and summary["result"]["steps"] == 300
    with np.load(tmp_path / "weights.npz") as weights:
        theta, theta_star = weights["theta"], weights["theta_star"]
    assert np.linalg.norm(theta - theta_star) == summary["result"]["distance_final"]
    rows = list(csv.DictReader((tmp_path / "history.csv").read_text().splitlines()))
    assert list(rows[0]) == ["step", "loss", "population_loss", "distance", "aligned_distance"]
    assert float(rows[-1]["population_loss"]) == summary["result"]["population_loss_final"]
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_every_preset_resolves_for_every_architecture():
    for preset, known in protocol.PRESETS.items():
        for name in known:
            config = experiment.resolve(name, preset)
            d, width = min(config.d, 60), min(config.width, 60)  # one has 1,500, whose start takes long to draw
            config = dataclasses.replace(config, d=d, width=width, samples=1)
            loss, theta0, teacher, exact = experiment.prepare(config)
            assert theta0.shape == teacher.theta.shape and loss.d == exact.d == config.d


def test_the_notebook_preset_is_the_published_protocol():
    li = experiment.resolve("li", "notebook")
    assert (li.arch, li.d, li.optimizer, li.lr) == ("li-bias", 5, "sgd", 1e-4)
    assert (li.teacher, li.init) == ("uniform+zero", "fan-in")
    block = experiment.resolve("resnet", "notebook")
    assert (block.arch, block.d, block.lr, block.teacher) == ("resnet-sum", 1, 1e-4, "normal")
    for name, summed in (("two-weight", "two-weight"), ("modresnet", "modresnet-sum")):
        config = experiment.resolve(name, "notebook")
        assert (config.arch, config.d, config.lr, config.momentum) == (summed, 10, 1e-3, 0.01)
        assert (config.optimizer, config.batch_size, config.samples) == ("nesterov", 200, 100_000)
        assert (config.steps, config.record_every) == (50_000, 250)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--arch", "modresnt"], "did you mean 'modresnet'?"),
        (["--arch", "li", "--d", "0"], "d is 0, but must be at least 1"),
        (["--arch", "li", "--width", "-3"], "width is -3, but must be at least 1"),
        (["--arch", "li", "--batch-size", "0"], "batch_size is 0, but must be at least 1"),
        (["--arch", "li", "--samples", "0"], "samples is 0, but must be at least 1"),
        (["--arch", "li", "--steps", "0"], "steps is 0, but must be at least 1"),
        (["--arch", "li", "--steps", "many"], "steps is 'many', but must be an integer"),
        (["--arch", "li", "--batch-size", "2.5"], "batch_size is '2.5', but must be an integer"),
        (["--arch", "li", "--lr", "small"], "lr is 'small', but must be a real number"),
        (["--arch", "li", "--width", "99999999999"], "width is 99999999999, but with d=10 must give fewer than 2^32"),
        (["--arch", "li", "--d", "99999999999"], "with d=99999999999 must give fewer than 2^32 parameters"),
        (["--arch", "li", "--lr", "0"], "lr is 0.0, but must be a finite number above 0"),
        (["--arch", "li", "--lr", "nan"], "lr is nan, but must be a finite number above 0"),
        (["--arch", "li", "--momentum", "1"], "momentum is 1.0, but must lie in [0, 1)"),
        (["--arch", "li", "--optimizer", "sgd", "--momentum", "0.5"], "sgd has none"),
        (["--arch", "li", "--optimizer", "adam"], "must be one of sgd, nesterov"),
        (["--arch", "li", "--data", "datasets"], "did you mean 'dataset'?"),
        (["--arch", "li", "--dtype", "float16"], "dtype is 'float16'"),
        (["--arch", "li", "--data", "population", "--dtype", "float32"], "needs float64"),
        (["--arch", "li", "--teacher", "uniforn"], "did you mean 'uniform'?"),
        (["--arch", "li", "--init", "nowhere.npz"], "nowhere.npz cannot be read"),
        (["--arch", "li", "--preset", "notebok"], "did you mean 'notebook'?"),
        (["--arch", "resnet", "--preset", "li-yuan"], "is for li and vanilla, but arch is resnet"),
        (["--arch", "li", "--data", "population", "--batch-size", "5"], "but population data has none"),
        (["--arch", "li", "--init", "phases", "--d", "4", "--width", "8"], "phases needs a square W1"),
        (["--arch", "li", "--out", ""], "out is '', but must be a directory"),
        (["--arch", "li", "--seed", "-1"], "seed is -1, but must be at least 0"),
        (["--arch", "li", "--resume"], "--out DIR"),
        (["--arch", "li", "--out", "file"], "out is file, a file, but must be a directory"),
        (["--arch", "li", "--out", "file/deeper"], "out is file/deeper, but it cannot be written"),
        (["--arch", "li", "--resume", "--overwrite", "--out", "x"], "not allowed with argument"),
        (["--lr", "1"], "arch is missing"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, told, tmp_path, monkeypatch, refusal):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert told in refusal(experiment.main, arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_teacher_can_come_from_a_weights_file(tmp_path):
    assert run(tmp_path / "a", "--arch", "li", *SMALL) == 0
    weights = tmp_path / "a" / "weights.npz"
    assert run(tmp_path / "b", "--arch", "li", *SMALL, "--teacher", weights) == 0
    theta = files.read_archive(weights, "weights")[0]["theta"]
    taught = files.read_archive(tmp_path / "b" / "weights.npz", "weights")[0]["theta_star"]
    np.testing.assert_array_equal(theta, taught)


def test_a_weights_file_of_another_network_is_refused(tmp_path, capsys):
    assert run(tmp_path / "a", "--arch", "vanilla", *SMALL) == 0
    assert run(tmp_path / "b", "--arch", "li", *SMALL, "--teacher", tmp_path / "a" / "weights.npz") == 2
    assert "holds vanilla with d=3" in capsys.readouterr().err and not (tmp_path / "b").exists()


def test_a_run_keeps_the_teacher_and_the_start_it_began_with(tmp_path):
    """They are in its checkpoint; the files they came from may change, or go."""
    weights, common = tmp_path / "a" / "weights.npz", ["--arch", "li", *SMALL]
    assert run(tmp_path / "a", *common) == 0
    assert run(tmp_path / "b", *common, "--teacher", weights, "--init", weights) == 0
    before = np.load(tmp_path / "b" / "weights.npz")["theta_star"]
    assert run(tmp_path / "a", *common, "--seed", 9, "--overwrite") == 0
    assert run(tmp_path / "b", "--verify") == 0
    shutil.rmtree(tmp_path / "a")
    assert run(tmp_path / "b", "--verify") == 0
    assert run(tmp_path / "b", "--resume", "--steps", 400) == 0
    assert np.array_equal(np.load(tmp_path / "b" / "weights.npz")["theta_star"], before)


def test_an_overwritten_run_goes_only_when_there_is_another(tmp_path, monkeypatch):
    assert run(tmp_path, "--arch", "li", *SMALL) == 0
    before = {path.name: path.read_bytes() for path in tmp_path.glob("[!.]*")}

    def killed(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(experiment, "simulate", killed)
        assert run(tmp_path, "--arch", "resnet", *SMALL, "--overwrite") == 130
    assert {path.name: path.read_bytes() for path in tmp_path.glob("[!.]*")} == before
    assert run(tmp_path, "--arch", "resnet", *SMALL, "--overwrite", "--no-plot") == 0
    assert not (tmp_path / "figure.png").exists()


def test_an_interrupted_run_is_saved_before_anything_else(tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "_summary", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, "--arch", "li", *SMALL, "--lr", "1e9")  # or diverged
    assert (tmp_path / "checkpoint.npz").exists()


def test_verify_wants_a_run_that_has_ended(tmp_path, capsys):
    assert run(tmp_path, "--arch", "li", *SMALL) == 0
    (tmp_path / "history.csv").unlink()
    assert run(tmp_path, "--verify") == 2
    assert "has not ended" in capsys.readouterr().err


def test_overwrite_keeps_the_old_run_until_the_new_one_can_start(tmp_path):
    assert run(tmp_path, "--arch", "li", *SMALL) == 0
    assert run(tmp_path, "--arch", "li", "--samples", 10**14, "--overwrite") == 1
    assert (tmp_path / "weights.npz").exists()


def test_the_verdict_says_what_is_true(tmp_path, capsys):
    wide = ["--arch", "li", "--d", 1, "--width", 4, "--data", "population", "--no-plot", "--steps", 20_000]
    assert experiment.main([*map(str, wide), "--out", str(tmp_path / "wide")]) == 0
    assert "They agree" not in capsys.readouterr().out
    zero = ["--arch", "li", "--d", 4, "--teacher", "zero", "--init", "zero", "--data", "population", "--steps", 30]
    assert experiment.main([*map(str, zero), "--out", str(tmp_path / "zero")]) == 0
    assert "the student is the teacher itself" in capsys.readouterr().out


def test_a_run_is_never_overwritten_silently(tmp_path, capsys):
    assert run(tmp_path, "--arch", "li", *SMALL) == 0
    before = (tmp_path / "weights.npz").read_bytes()
    assert run(tmp_path, "--arch", "li", *SMALL, "--seed", 1) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (tmp_path / "weights.npz").read_bytes() == before
    assert run(tmp_path, "--arch", "li", *SMALL, "--seed", 1, "--overwrite") == 0
    assert (tmp_path / "weights.npz").read_bytes() != before


def test_a_directory_belongs_to_one_process(tmp_path, capsys):
    with files.claim(tmp_path):
        assert run(tmp_path, "--arch", "li", *SMALL) == 2
    assert "another process is writing there" in capsys.readouterr().err
    assert run(tmp_path, "--arch", "li", *SMALL) == 0  # a lock that is let go is not in the way


def test_divergence_is_told_with_its_step_and_loses_nothing(tmp_path, capsys):
    assert run(tmp_path, "--arch", "li", *SMALL, "--lr", 50) == 3
    told = capsys.readouterr().err
    assert told.startswith("error: diverged at step") and told.count("\n") == 1
    smaller = told.split("try --lr ")[1].split()[0]
    summary = json.loads((tmp_path / "run.json").read_text())
    assert summary["stop_reason"].startswith("diverged at step")
    rows = list(csv.DictReader((tmp_path / "history.csv").read_text().splitlines()))
    assert len(rows) >= 2 and all(np.isfinite(float(row["loss"])) for row in rows)
    assert run(tmp_path, "--arch", "li", *SMALL, "--lr", smaller, "--overwrite") == 0


@pytest.mark.parametrize("data", protocol.DATA)
def test_a_longer_run_continues_a_finished_one_bit_for_bit(data, tmp_path):
    common = ["--arch", "two-weight", "--d", 3, "--width", 4, "--data", data]
    common += ["--samples", 1030] * (data == "dataset")
    assert run(tmp_path / "parts", *common, "--steps", 137) == 0
    assert run(tmp_path / "parts", *common, "--steps", 450, "--resume") == 0
    assert run(tmp_path / "whole", *common, "--steps", 450) == 0
    assert left(tmp_path / "parts") == left(tmp_path / "whole")


def test_resume_refuses_another_configuration_and_starts_where_nothing_is(tmp_path, capsys):
    assert experiment.main(["--arch", "li", *SMALL, "--out", str(tmp_path), "--resume", "--no-plot"]) == 0
    assert "starting from the beginning" in capsys.readouterr().err
    assert run(tmp_path, "--arch", "li", "--resume", "--lr", 0.5) == 2
    assert "lr is 0.5, but the run in" in capsys.readouterr().err
    assert run(tmp_path, "--arch", "li", "--resume", "--steps", 10) == 2
    assert "is at 300 already" in capsys.readouterr().err


def test_without_out_a_run_gets_a_fresh_name(tmp_path):
    for number in (1, 2):
        out, err = output(*COMMAND, cwd=tmp_path)
        assert f"li-{number:03d}" in out
        assert "\r" not in err  # no progress bar off a terminal
    assert (tmp_path / "runs" / "li-002" / "figure.png").exists()


def test_quiet_is_silent(tmp_path):
    assert output(*COMMAND, "--quiet", cwd=tmp_path) == ["", ""]


@pytest.fixture
def slow_kernels():
    """(outer, inner): functions that Numba has yet to compile, and never caches; the outer needs the inner."""
    inner = numba.njit(lambda x: np.sin(x) + np.cos(x))
    return numba.njit(lambda x: inner(x) + inner(x + 1)), inner


@compiled
def test_the_time_to_compile_is_counted_once_and_told_once(slow_kernels, capsys):
    outer, inner = slow_kernels
    with command.compilation(quiet=False) as compiling:
        started = time.perf_counter()
        outer(1.0)
        wall, first = time.perf_counter() - started, compiling.seconds
        outer(2.0), inner(3.0)
        assert compiling.seconds == first  # these are compiled
        inner(1)
        assert compiling.seconds > first
    assert 0.5 * wall < first < wall  # the inner one's time is part of the outer one's, and not added
    assert capsys.readouterr().err == "compiling kernels: this happens once, later runs find them in a cache\n"
    after = compiling.seconds
    outer(1)
    assert compiling.seconds == after  # the block has ended


@compiled
def test_quiet_counts_and_says_nothing(slow_kernels, capsys):
    with command.compilation(quiet=True) as compiling:
        slow_kernels[0](1.0)
    assert compiling.seconds > 0 and capsys.readouterr().err == ""


def test_a_run_tells_compilation_apart_from_training(tmp_path, monkeypatch, capsys):
    simulate, spent = experiment.simulate, types.SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(command, "compilation", lambda quiet: contextlib.nullcontext(spent))
    monkeypatch.setattr(experiment, "simulate", lambda *given, **how: time.sleep(0.1) or simulate(*given, **how))
    for spent.seconds, words in ((0.0, ""), (0.049, ""), (0.0512, ", of which 0.1 s compiling")):
        again = ["--overwrite"] if (tmp_path / "run.json").exists() else []
        assert experiment.main(["--arch", "li", *SMALL, "--no-plot", "--out", str(tmp_path), *again]) == 0
        result = json.loads((tmp_path / "run.json").read_text())["result"]
        assert result["compile_seconds"] == round(spent.seconds, 3) and result["seconds"] >= 0.1
        assert f"seed 0: {result['seconds']:.2f} s{words}\n" in capsys.readouterr().out


def test_where_nothing_is_compiled_no_time_is(tmp_path):
    """Neither with a warm cache nor without a compiler."""
    assert run(tmp_path / "warm", "--arch", "li", *SMALL) == 0
    assert run(tmp_path / "again", "--arch", "li", *SMALL) == 0  # all is compiled by now
    output(*COMMAND[:-1], 3, "--no-plot", "--out", tmp_path / "plain", env=os.environ | {"NUMBA_DISABLE_JIT": "1"})
    for name in ("again", "plain"):
        result = json.loads((tmp_path / name / "run.json").read_text())["result"]
        assert result["compile_seconds"] == 0.0 < result["seconds"]


def test_help_names_every_teacher():
    told = {action.dest: action.help for action in experiment._parser()._actions}
    assert told["teacher"].startswith(", ".join(draws.DRAWS))


@pytest.mark.parametrize("name", ["li", "resnet", "two-weight", "modresnet"])
def test_a_run_can_end_in_a_theorem_about_itself(name, tmp_path, capsys):
    pytest.importorskip("flint")
    line = ["--arch", name, "--d", "4", "--data", "population", "--teacher", "uniform", "--lr", "0.005"]
    assert experiment.main([*line, "--steps", "3000", "--no-plot", "--certify", "--out", str(tmp_path)]) == 0
    proof = json.loads((tmp_path / "run.json").read_text())["result"]["proof"]
    assert (proof["proved"], proof["kind"]) == (True, "teacher") and 1e-10 < proof["radius"] < 1e-6
    told = capsys.readouterr().out
    assert proof["theorem"] in told and proof["theorem"].startswith("Proved: within ")
    assert "exactly one critical point of the expected loss modulo the symmetries, and it is the teacher." in told
    saved, _ = files.read_archive(tmp_path / "weights.npz", "weights")
    assert ("theta_polished" in proof["theorem"]) == ("theta_polished" in saved) == (proof["polish_moved"] > 0)
    exact = rg.PopulationLoss(name, rg.Network(name, saved["theta_star"], 4))
    assert rg.certify(exact, saved.get("theta_polished", saved["theta"])).radius == proof["radius"]


def test_what_no_proof_can_be_had_of_is_told_before_the_run(tmp_path, monkeypatch, refusal):
    pytest.importorskip("flint")
    told = refusal(experiment.main, ["--arch", "li", "--d", "60", "--certify", "--out", str(tmp_path / "run")])
    assert "li with d=60 and width 60 has 3,600 coordinates, but proofs take 3,000" in told
    monkeypatch.setattr(balls, "flint", None)
    assert experiment.main(["--arch", "li", "--certify", "--out", str(tmp_path / "run")]) == 1
    assert not (tmp_path / "run").exists()
