"""What happens to long runs: kills, Ctrl-C, full disks, closed pipes, hostile surroundings.  Nothing is lost."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest
from conftest import ARCHS, left, run

from resgrad import experiment, training
from resgrad.runs import files, protocol

SMALL = ["--arch", "li", "--d", "4", "--samples", "1000", "--steps", "300"]
ENDLESS = ["--d", "4", "--steps", str(10**9)]
DRIVER = """
import os, resource, runpy, signal, sys
from resgrad import experiment, training
signal.signal(signal.SIGINT, signal.default_int_handler)  # some shells start their jobs without it
experiment.SAVE_EVERY, training.PATIENCE = 0.02, 0.01
{prelude}
sys.exit(experiment.main(sys.argv[1:]))
"""
not_windows = pytest.mark.skipif(sys.platform == "win32", reason="signals, limits and permissions of POSIX")
pytestmark = not_windows


def start(out, *arguments, prelude="", **environment):
    """The command in a process of its own, which looks up and saves all the time."""
    line = [sys.executable, "-c", DRIVER.format(prelude=prelude), "--out", str(out), "--no-plot", *map(str, arguments)]
    return subprocess.Popen(
        line, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process):
    """(exit code, stdout, stderr)"""
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def saved(out):
    """The process has begun and left a checkpoint in ``out``."""
    deadline = time.monotonic() + 60
    while not (out / "checkpoint.npz").exists():
        assert time.monotonic() < deadline, "no checkpoint after a minute"
        time.sleep(0.01)


# ------------------------------------------------------------------------------------ kill and resume


def moments(count, quick):
    """(arch, data, optimizer, seconds after the first checkpoint), all random; a few of them in the default suite."""
    rng = np.random.default_rng(0)
    for number in range(count):
        arch, data = ARCHS[number % len(ARCHS)], protocol.DATA[number % 3]
        optimizer, delay = ("sgd", "nesterov")[number % 2], round(rng.uniform(0, 0.7), 3)
        yield pytest.param(arch, data, optimizer, delay, marks=() if number < quick else pytest.mark.slow)


@pytest.mark.parametrize("arch, data, optimizer, delay", list(moments(25, quick=3)))
def test_kill_9_and_resume_end_with_the_same_bytes(arch, data, optimizer, delay, tmp_path):
    common = ["--arch", arch, "--data", data, "--optimizer", optimizer, "--lr", "1e-4"]
    common += ["--samples", 1030] if data == "dataset" else []  # the last batch of an epoch is short
    process = start(tmp_path / "a", *ENDLESS, *common)
    saved(tmp_path / "a")
    time.sleep(delay)
    process.kill()
    assert finish(process)[0] == -signal.SIGKILL
    steps = experiment.load_checkpoint(tmp_path / "a" / "checkpoint.npz")[2].step + 1234
    assert run(tmp_path / "a", "--resume", "--steps", steps) == 0
    assert run(tmp_path / "b", "--d", 4, *common, "--steps", steps) == 0
    assert left(tmp_path / "a") == left(tmp_path / "b")
    assert not list((tmp_path / "a").glob(".*.part"))  # what the killed write had begun


def test_resume_before_anything_was_saved_starts_from_the_beginning(tmp_path, capsys):
    process = start(tmp_path, *SMALL, prelude="experiment.run = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)")
    assert finish(process)[0] == -signal.SIGKILL
    assert experiment.main([*SMALL, "--out", str(tmp_path), "--resume", "--no-plot"]) == 0
    assert "starting from the beginning" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_saves_and_says_how_to_go_on(number, tmp_path, capsys):
    process = start(tmp_path / "a", "--arch", "li", "--samples", 1000, *ENDLESS)
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


STARTUP = """
import os, runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
interrupt = lambda event, what: event == "import" and what[0] == {moment!r} and os.kill(os.getpid(), signal.SIGINT)
sys.addaudithook(interrupt)
runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("module", ["experiment", "census"])
@pytest.mark.parametrize(
    "moment",
    [
        "numpy",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("argparse", "resgrad.kernels", "numba.core", "tqdm")),
    ],
)
def test_ctrl_c_gives_no_traceback_however_early(module, moment, tmp_path):
    """It comes when the module ``moment`` is imported."""
    line = [sys.executable, "-c", STARTUP.format(module=f"resgrad.{module}", moment=moment)]
    done = subprocess.run([*line, "--arch", "li", "--out", tmp_path], capture_output=True, text=True, timeout=120)
    assert done.returncode in (-signal.SIGINT, 130) and "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("module", ["experiment", "census"])
@pytest.mark.parametrize("delay", [0.4, 0.7, 1.0, 1.3, 1.6, 2.0])
def test_ctrl_c_gives_no_traceback_at_any_time(module, delay, tmp_path):
    endless = {"experiment": ENDLESS[2:], "census": ["--runs", "100000"]}[module]
    line = [sys.executable, "-c", STARTUP.format(module=f"resgrad.{module}", moment=""), "--arch", "li"]
    process = subprocess.Popen(
        [*line, *endless, "--out", tmp_path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
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
        if os.geteuid() == 0 and subprocess.run(["chattr", "+i", directory], capture_output=True).returncode:
            pytest.skip("root may write everywhere, and there is no chattr here")
        thawed.append(directory)

    yield freeze
    for directory in thawed:
        if os.geteuid() == 0:
            subprocess.run(["chattr", "-i", directory], check=True)
        directory.chmod(0o700)


@pytest.mark.slow
@pytest.mark.parametrize("fate", ["removed", "read-only"])
def test_a_directory_lost_during_the_run_moves_it_elsewhere(fate, tmp_path, frozen):
    process = start(tmp_path / "run", "--arch", "li", "--samples", 1000, *ENDLESS)
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
def test_a_read_only_directory_is_told_at_the_start(tmp_path, frozen):
    frozen(tmp_path)
    code, _, told = finish(start(tmp_path / "run", *SMALL))
    assert code == 2 and "it cannot be written" in told and told.count("\n") == 1


@pytest.mark.slow
def test_a_limit_on_the_size_of_files_leaves_what_fits(tmp_path):
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))"
    code, _, told = finish(start(tmp_path, *SMALL, prelude=limit))
    assert code == 1 and "File too large" in told and told.count("\n") == 1
    assert not list(tmp_path.glob(".*.part"))


@pytest.mark.slow
def test_a_full_file_system_moves_the_run_elsewhere(reference, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", small], capture_output=True).returncode:
        pytest.skip("may not mount a file system")
    try:
        code, _, told = finish(start(small / "run", *SMALL))
        assert code == 1 and "No space left on device" in told and left(elsewhere(told)) == left(reference)
    finally:
        subprocess.run(["umount", small], check=True)
        shutil.rmtree(elsewhere(told))


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
    line = [sys.executable, "-m", "resgrad.experiment", *short, "--out", str(tmp_path / "Läufe im Grünen 模")]
    environment = os.environ | SURROUNDINGS[surrounding]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "Traceback" not in done.stderr and "ufe im Gr" in done.stdout
    assert (tmp_path / "Läufe im Grünen 模" / "figure.png").exists()
    lines = (tmp_path / "Läufe im Grünen 模" / "history.csv").read_text().splitlines()
    assert lines == (reference / "history.csv").read_text().splitlines()[: len(lines)]


@pytest.mark.slow
def test_a_decimal_comma_changes_nothing(reference, tmp_path):
    subprocess.run(["localedef", "-i", "de_DE", "-f", "UTF-8", tmp_path / "de_DE.UTF-8"], capture_output=True)
    comma = "import locale; locale.setlocale(locale.LC_ALL, 'de_DE.UTF-8'); print(locale.str(0.5))"
    code, out, err = finish(start(tmp_path / "run", *SMALL, prelude=comma, LOCPATH=str(tmp_path)))
    if "unsupported locale" in err:
        pytest.skip("the system has no locale with decimal commas")
    assert code == 0 and out.startswith("0,5\n") and left(tmp_path / "run") == left(reference)


@pytest.mark.slow
@pytest.mark.parametrize(
    "redirection, code",
    [
        (">&-", 0),
        ("2>&-", 0),
        (">&- 2>&- <&-", 0),
        ("| head -1", 0),
        (">/dev/full", 1),
        ("2>/dev/full", 0),
    ],
)
def test_closed_and_full_streams(redirection, code, reference, tmp_path):
    line = f'"{sys.executable}" -m resgrad.experiment {" ".join(SMALL)} --no-plot --out "{tmp_path}" {redirection}'
    done = subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, timeout=120)
    assert done.returncode == code and "Traceback" not in done.stderr and left(tmp_path) == left(reference)
    assert done.stderr == ("error: standard output: No space left on device\n" if code else "")


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


@pytest.mark.parametrize("rounds", [20, pytest.param(480, marks=pytest.mark.slow)])
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
