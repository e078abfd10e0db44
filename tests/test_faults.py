"""What happens to long runs: kills, Ctrl-C, full disks, closed pipes, hostile surroundings.  Nothing is lost."""

import errno
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import types

import numpy as np
import pytest
from conftest import ARCHS, command, finish, left, output, run, slow

from resgrad import census, experiment, training
from resgrad.runs import files, plots, protocol

SMALL = ["--arch", "li", "--d", "4", "--samples", "1000", "--steps", "300"]
ENDLESS = ["--d", "4", "--steps", str(10**9)]
DRIVER = """
import os, resource, signal, sys
from resgrad import experiment, training
experiment.SAVE_EVERY, training.PATIENCE = 0.02, 0.01
{prelude}
sys.exit(experiment.main(sys.argv[1:]))
"""
not_windows = pytest.mark.skipif(sys.platform == "win32", reason="signals, limits and permissions of POSIX")
pytestmark = not_windows


@pytest.fixture
def begin(start):
    """A function that starts a run in a process of its own, which looks up and saves all the time."""

    def begin(out, *arguments, prelude="", sigint="SIG_DFL", **environment):
        line = [sys.executable, "-c", DRIVER.format(prelude=prelude), "--out", out, "--no-plot", *arguments]
        return start(*line, env=os.environ | environment, sigint=sigint)

    return begin


def wait_for_another(path):
    """A process has written to the file, which need not be there yet, once more."""
    moment = lambda: path.stat().st_mtime_ns if path.exists() else None  # noqa: E731
    before, deadline = moment(), time.monotonic() + 60
    while moment() in (before, None):
        assert time.monotonic() < deadline, f"no other {path.name} after a minute"
        time.sleep(0.01)


def saved(out):
    """The process has begun and left a checkpoint in ``out``."""
    if not (out / "checkpoint.npz").exists():
        wait_for_another(out / "checkpoint.npz")


# ------------------------------------------------------------------------------------ kill and resume


def moments(count, quick):
    """(arch, data, optimizer, seconds after the first checkpoint), all random; a few of them in the default suite."""
    rng = np.random.default_rng(0)
    for number in range(count):
        arch, data = ARCHS[number % len(ARCHS)], protocol.DATA[number % 3]
        optimizer, delay = ("sgd", "nesterov")[number % 2], round(rng.uniform(0, 0.7), 3)
        yield pytest.param(arch, data, optimizer, delay, marks=() if number < quick else pytest.mark.slow)


@pytest.mark.parametrize("arch, data, optimizer, delay", list(moments(25, quick=2)))
def test_kill_9_and_resume_end_with_the_same_bytes(arch, data, optimizer, delay, begin, tmp_path):
    common = ["--arch", arch, "--data", data, "--optimizer", optimizer, "--lr", "1e-4"]
    common += ["--samples", 1030] if data == "dataset" else []  # the last batch of an epoch is short
    process = begin(tmp_path / "a", *ENDLESS, *common)
    saved(tmp_path / "a")
    time.sleep(delay)
    process.kill()
    assert finish(process)[0] == -signal.SIGKILL
    steps = experiment.load_checkpoint(tmp_path / "a" / "checkpoint.npz")[2].step + 1234
    assert run(tmp_path / "a", "--resume", "--steps", steps) == 0
    assert run(tmp_path / "b", "--d", 4, *common, "--steps", steps) == 0
    assert left(tmp_path / "a") == left(tmp_path / "b")
    assert not list((tmp_path / "a").glob(".*.part"))  # what the killed write had begun


def test_resume_before_anything_was_saved_starts_from_the_beginning(begin, tmp_path, capsys):
    process = begin(tmp_path, *SMALL, prelude="experiment.run = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)")
    assert finish(process)[0] == -signal.SIGKILL
    assert experiment.main([*SMALL, "--out", str(tmp_path), "--resume", "--no-plot"]) == 0
    assert "starting from the beginning" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_saves_and_says_how_to_go_on(number, begin, tmp_path, capsys):
    process = begin(tmp_path / "a", "--arch", "li", "--samples", 1000, *ENDLESS)
    saved(tmp_path / "a")
    assert run(tmp_path / "a", "--resume") == 2  # while the other process has it
    assert "another process is writing there" in capsys.readouterr().err
    process.send_signal(number)
    code, _, told = finish(process)
    assert code == 130 and told.endswith(f"; go on with --resume --out {tmp_path / 'a'}\n") and "Traceback" not in told
    steps = experiment.load_checkpoint(tmp_path / "a" / "checkpoint.npz")[2].step + 1234
    assert f"interrupted at step {steps - 1234};" in told
    assert run(tmp_path / "a", "--resume", "--steps", steps) == 0
    assert run(tmp_path / "b", "--arch", "li", "--d", 4, "--samples", 1000, "--steps", steps) == 0
    assert left(tmp_path / "a") == left(tmp_path / "b")


@pytest.mark.parametrize("command", ["experiment", *slow("census")])
def test_an_ignored_ctrl_c_stays_ignored(command, begin, start, tmp_path):
    """As under nohup, cron and ``&``.  SIGTERM still ends the process."""
    if command == "experiment":
        process = begin(tmp_path, "--arch", "li", "--samples", 1000, *ENDLESS, sigint="SIG_IGN")
    else:
        line = [sys.executable, "-m", "resgrad.census", "--arch", "li", "--d", 3, "--runs", 10**5, "--out", tmp_path]
        process = start(*line, sigint="SIG_IGN")
    grown = tmp_path / {"experiment": "checkpoint.npz", "census": "runs.jsonl"}[command]
    for _ in range(3):
        wait_for_another(grown)
        process.send_signal(signal.SIGINT)
    wait_for_another(grown)
    process.terminate()
    code, _, told = finish(process)
    assert code == (130 if command == "experiment" else -signal.SIGTERM) and "Traceback" not in told
    assert command == "census" or told.endswith(f"; go on with --resume --out {tmp_path}\n")


STARTUP = """
import os, runpy, signal, sys
interrupt = lambda event, what: event == "import" and what[0] == {moment!r} and os.kill(os.getpid(), signal.SIGINT)
sys.addaudithook(interrupt)
runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("module", ["experiment", "census"])
@pytest.mark.parametrize("moment", ["numpy", *slow("argparse", "resgrad.kernels", "numba.core", "tqdm")])
def test_ctrl_c_gives_no_traceback_however_early(module, moment, tmp_path):
    """It comes when the module ``moment`` is imported."""
    line = [sys.executable, "-c", STARTUP.format(module=f"resgrad.{module}", moment=moment)]
    code, _, told = command(*line, "--arch", "li", "--out", tmp_path)
    assert code in (-signal.SIGINT, 130) and "Traceback" not in told


@pytest.mark.slow
@pytest.mark.parametrize("module", ["experiment", "census"])
@pytest.mark.parametrize("delay", [0.4, 0.7, 1.0, 1.3, 1.6, 2.0])
def test_ctrl_c_gives_no_traceback_at_any_time(module, delay, start, tmp_path):
    endless = {"experiment": ENDLESS[2:], "census": ["--runs", "100000"]}[module]
    line = [sys.executable, "-c", STARTUP.format(module=f"resgrad.{module}", moment=""), "--arch", "li"]
    process = start(*line, *endless, "--out", tmp_path)
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    code, _, told = finish(process)
    assert code in (-signal.SIGINT, 130) and "Traceback" not in told


# ----------------------------------------------------------------- nowhere to write: also not lost


@pytest.fixture
def reference(tmp_path_factory):
    out = tmp_path_factory.mktemp("reference") / "run"
    assert run(out, *SMALL) == 0
    return out


def elsewhere(told):
    """The directory that a message names instead."""
    assert told.startswith("error: ") and told.count("\n") == 1
    return files.Path(told.split("the run is in ")[1].removesuffix(" instead\n"))


def fail_to_write(monkeypatch, out, times=10**9):
    """Make the next writes in ``out`` fail as on a full disk."""
    write, left = files.write, iter(range(times))

    def full(path, content):
        if path.parent == out and next(left, None) is not None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, content)

    monkeypatch.setattr(files, "write", full)


def test_a_full_disk_at_the_end_moves_the_run_elsewhere(reference, tmp_path, monkeypatch, capsys):
    fail_to_write(monkeypatch, tmp_path / "run")
    assert run(tmp_path / "run", *SMALL) == 1
    told = capsys.readouterr().err
    assert "No space left on device" in told and elsewhere(told).parent == tmp_path
    assert left(elsewhere(told)) == left(reference)
    monkeypatch.undo()
    assert run(elsewhere(told), "--resume", "--steps", 400) == 0


def test_where_there_is_room_nowhere_it_says_so_and_leaves_no_litter(tmp_path, monkeypatch, capsys):
    def full(path, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "write", full)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert run(tmp_path / "run", *SMALL) == 1
    assert "nor any other place" in capsys.readouterr().err and os.listdir(tmp_path) == ["run"]


def test_a_disk_that_has_room_again_is_no_error(reference, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(experiment, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(training, "PATIENCE", 0.0)
    fail_to_write(monkeypatch, tmp_path, times=5)
    assert run(tmp_path, *SMALL) == 0
    assert capsys.readouterr().err == "" and left(tmp_path) == left(reference)


@pytest.fixture
def frozen(tmp_path):
    """A function that makes a directory read-only, for root too."""
    thawed = []

    def freeze(directory):
        directory.chmod(0o500)
        if os.geteuid() == 0 and command("chattr", "+i", directory)[0]:
            pytest.skip("root may write everywhere, and there is no chattr here")
        thawed.append(directory)

    yield freeze
    for directory in thawed:
        if os.geteuid() == 0:
            output("chattr", "-i", directory)
        directory.chmod(0o700)


@pytest.mark.slow
@pytest.mark.parametrize("fate", ["removed", "read-only"])
def test_a_directory_lost_during_the_run_moves_it_elsewhere(fate, begin, tmp_path, frozen):
    process = begin(tmp_path / "run", "--arch", "li", "--samples", 1000, *ENDLESS)
    saved(tmp_path / "run")
    frozen(tmp_path / "run") if fate == "read-only" else shutil.rmtree(tmp_path / "run")
    time.sleep(0.5)  # it goes on
    process.terminate()
    code, _, told = finish(process)
    assert code == 1
    steps = json.loads((elsewhere(told) / "run.json").read_text())["stop_reason"].split()[-1]
    step = experiment.load_checkpoint(elsewhere(told) / "checkpoint.npz")[2].step
    assert step == int(steps) and run(elsewhere(told), "--resume", "--steps", step + 100) == 0


@pytest.mark.slow
def test_a_read_only_directory_is_told_at_the_start(begin, tmp_path, frozen):
    frozen(tmp_path)
    code, _, told = finish(begin(tmp_path / "run", *SMALL))
    assert code == 2 and "it cannot be written" in told and told.count("\n") == 1


@pytest.mark.slow
def test_a_limit_on_the_size_of_files_leaves_what_fits(begin, tmp_path):
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))"
    code, _, told = finish(begin(tmp_path, *SMALL, prelude=limit))
    assert code == 1 and "File too large" in told and told.count("\n") == 1
    assert not list(tmp_path.glob(".*.part"))


@pytest.mark.slow
def test_a_full_file_system_moves_the_run_elsewhere(reference, begin, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    if command("mount", "-t", "tmpfs", "-o", "size=16k", "none", small)[0]:
        pytest.skip("may not mount a file system")
    try:
        code, _, told = finish(begin(small / "run", *SMALL))
        assert code == 1 and "No space left on device" in told and left(elsewhere(told)) == left(reference)
    finally:
        output("umount", small)
        shutil.rmtree(elsewhere(told))


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RuntimeError("latex\ncould not be found"), "RuntimeError: latex could not be found"),
        (MemoryError(), "MemoryError"),
        (OSError("no font"), "OSError: no font"),
    ],
)
def test_a_picture_that_fails_costs_one_line(error, line, reference, tmp_path, monkeypatch, capsys):
    def image(*arguments):
        raise error

    monkeypatch.setattr(plots, "image", image)
    assert experiment.main([*SMALL, "--out", str(tmp_path / "run"), "--report"]) == 0
    assert census.main(["--arch", "li", "--d", "2", "--runs", "1", "--report", "--out", str(tmp_path / "census")]) == 0
    told = capsys.readouterr()
    assert [line for line in told.err.splitlines() if not line.startswith("compiling")] == [
        f"{name} is left out, as it cannot be drawn: {line}" for name in 2 * ("figure.png", "report.html")
    ]
    assert f"Files: {tmp_path / 'run'}{os.sep}" in told.out and "global minimum" in told.out
    assert left(tmp_path / "run") == left(reference) and (tmp_path / "census" / "census.json").exists()
    assert not list(tmp_path.rglob("figure.png")) + list(tmp_path.rglob("report.html"))


# --------------------------------------------------------------------------- hostile surroundings

SURROUNDINGS = {
    "no cache": {"NUMBA_CACHE_DIR": os.devnull + "/none"},
    "one thread": {"NUMBA_NUM_THREADS": "1"},
    "no display": {"MPLBACKEND": "TkAgg", "DISPLAY": ""},
    "plain locale": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"},
}


@pytest.mark.slow
@pytest.mark.parametrize("surrounding", SURROUNDINGS)
def test_a_run_works_in(surrounding, reference, tmp_path):
    short = [*SMALL[:-1], "12"]
    line = [sys.executable, "-m", "resgrad.experiment", *short, "--out", tmp_path / "Läufe im Grünen 模"]
    out, err = output(*line, env=os.environ | SURROUNDINGS[surrounding])
    assert "Traceback" not in err and "ufe im Gr" in out
    assert (tmp_path / "Läufe im Grünen 模" / "figure.png").exists()
    lines = (tmp_path / "Läufe im Grünen 模" / "history.csv").read_text().splitlines()
    assert lines == (reference / "history.csv").read_text().splitlines()[: len(lines)]


@pytest.mark.slow
def test_a_decimal_comma_changes_nothing(reference, begin, tmp_path):
    command("localedef", "-i", "de_DE", "-f", "UTF-8", tmp_path / "de_DE.UTF-8")
    comma = "import locale; locale.setlocale(locale.LC_ALL, 'de_DE.UTF-8'); print(locale.str(0.5))"
    code, out, err = finish(begin(tmp_path / "run", *SMALL, prelude=comma, LOCPATH=str(tmp_path)))
    if "unsupported locale" in err:
        pytest.skip("the system has no locale with decimal commas")
    assert code == 0 and out.startswith("0,5\n") and left(tmp_path / "run") == left(reference)


@pytest.mark.slow
@pytest.mark.parametrize(
    "redirection, code",
    [(">&-", 0), ("2>&-", 0), (">&- 2>&- <&-", 0), ("| head -1", 0), (">/dev/full", 1), ("2>/dev/full", 0)],
)
def test_closed_and_full_streams(redirection, code, reference, tmp_path):
    line = f'"{sys.executable}" -m resgrad.experiment {" ".join(SMALL)} --no-plot --out "{tmp_path}" {redirection}'
    returned, _, told = command("bash", "-o", "pipefail", "-c", line)
    assert returned == code and left(tmp_path) == left(reference)
    assert told == ("error: standard output: No space left on device\n" if code else "")


def test_paths_that_no_terminal_can_show(tmp_path, capsys):
    strange = tmp_path / "line\nbreak \udcff"
    assert experiment.main([*SMALL, "--out", str(strange), "--no-plot"]) == 0
    assert "break \\udcff" in capsys.readouterr().out
    assert experiment.main([*SMALL, "--teacher", "line\nbreak.npz"]) == 2
    assert capsys.readouterr().err == "error: line break.npz cannot be read: No such file or directory\n"


# ------------------------------------------------------------------------------------------ --verify


def test_verify_reproduces_a_run(tmp_path, capsys):
    assert run(tmp_path, *SMALL) == 0
    assert experiment.main(["--out", str(tmp_path), "--verify"]) == 0
    assert "byte for byte" in capsys.readouterr().out
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert experiment.main(["--out", str(tmp_path), "--verify", "--arch", "li", "--seed", "1"]) == 2
    assert "seed is 1, but the run in" in capsys.readouterr().err
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_verify_says_by_how_much_a_run_differs(tmp_path, capsys):
    assert run(tmp_path, *SMALL) == 0
    lines = (tmp_path / "history.csv").read_text().splitlines(keepends=True)
    step, loss, *rest = lines[7].split(",")
    lines[7] = ",".join([step, repr(float(loss) * (1 + 3e-9)), *rest])
    (tmp_path / "history.csv").write_text("".join(lines))
    assert experiment.main(["--out", str(tmp_path), "--verify"]) == 1
    assert f"from step {step} on, values differ by up to 3.0e-09" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["checkpoint.npz", "history.csv"])
@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", b"\xff\x00", None])
def test_verify_and_resume_refuse_damaged_files(name, content, tmp_path, capsys):
    assert run(tmp_path, *SMALL) == 0
    (tmp_path / name).unlink() if content is None else (tmp_path / name).write_bytes(content)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for mode in ("--verify", "--resume")[: 2 if name == "checkpoint.npz" else 1]:
        assert experiment.main(["--out", str(tmp_path), "--arch", "li", mode, "--quiet"]) == 2
        told = capsys.readouterr().err
        assert name in told and told.startswith("error: ") and told.count("\n") == 1
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


# ---------------------------------------------------------------------------------- damaged files


def damaged(whole, kind, rng):
    """One bit flipped, cut short, replaced, prolonged, or emptied."""
    if kind == "flipped":
        at = rng.integers(len(whole))
        return whole[:at] + bytes([whole[at] ^ 1 << rng.integers(8)]) + whole[at + 1 :]
    cut = rng.integers(len(whole))
    return {"cut": whole[:cut], "empty": b"", "foreign": rng.bytes(cut), "longer": whole + rng.bytes(9)}[kind]


@pytest.mark.parametrize("rounds", [20, *slow(480)])
@pytest.mark.parametrize(
    "name, arguments",
    [
        ("checkpoint.npz", ["--resume", "--steps", "400"]),
        ("checkpoint.npz", ["--verify"]),
        ("weights.npz", ["--teacher", "weights.npz"]),
        ("weights.npz", ["--init", "weights.npz"]),
    ],
)
def test_no_damaged_file_is_used(name, arguments, rounds, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(".", *SMALL) == 0
    whole, rng = (tmp_path / name).read_bytes(), np.random.default_rng(rounds)
    new = ["--out", "new", *SMALL] if name == "weights.npz" else ["--out", "."]
    for kind in rng.choice(["flipped", "cut", "empty", "foreign", "longer"], rounds):
        (tmp_path / name).write_bytes(damaged(whole, kind, rng))
        assert experiment.main([*new, *arguments]) == 2
        told = capsys.readouterr().err
        assert told.startswith(f"error: {name} is damaged, or not a ") and told.count("\n") == 1
    (tmp_path / name).write_bytes(whole)
    assert experiment.main([*new, *arguments, "--quiet", "--no-plot"]) == 0


def test_a_checkpoint_keeps_numbers_that_json_has_not(tmp_path):
    """As where the losses of a window overflow, but not yet the weights."""
    path = tmp_path / "checkpoint.npz"
    assert run(tmp_path, *SMALL) == 0
    config, theta_star, state, records, seconds, _ = experiment.load_checkpoint(path)
    state.window_loss = float("inf")
    teacher = types.SimpleNamespace(theta=theta_star)
    experiment.save_checkpoint(path, config, teacher, state, records, seconds)
    assert b"Infinity," not in path.read_bytes()
    assert experiment.load_checkpoint(path)[2].window_loss == np.inf


def test_what_a_checkpoint_holds_is_checked_even_where_the_checksum_is_right(tmp_path):
    """As from a version that had other fields but forgot to count up `files.FORMAT`."""
    path = tmp_path / "checkpoint.npz"
    assert run(tmp_path, *SMALL) == 0
    arrays, header = files.read_archive(path, "checkpoint")
    parts = {name: header.pop(name) for name in ("format", "kind")}
    assert parts == {"format": files.FORMAT, "kind": "checkpoint"}
    for name in [*arrays, *header]:
        fewer = [{k: v for k, v in part.items() if k != name} for part in (arrays, header)]
        files.write_archive(path, "checkpoint", fewer[0], **fewer[1])
        with pytest.raises(files.FileError, match="checkpoint.npz is not a checkpoint that this resgrad reads"):
            experiment.load_checkpoint(path)
    files.write_archive(path, "checkpoint", arrays, **header | {"config": header["config"] | {"flux": 1}})
    with pytest.raises(files.FileError, match="flux"):
        experiment.load_checkpoint(path)
