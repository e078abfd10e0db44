"""No test leaves a process behind, whatever happens in it."""

import ast
import os
import pathlib
import shutil
import signal
import sys
import time

import pytest
from conftest import command, finish

HERE = pathlib.Path(__file__).parent

SLEEPER = f"""
import os, subprocess, sys, time
inner = subprocess.Popen([{sys.executable!r}, "-c", "import time; time.sleep(1000)"])
print(os.getpid(), inner.pid, flush=True)
time.sleep(1000)
"""
FAILING = f"""
import os, pathlib, signal, sys
from conftest import finish

def begin(start, ending):
    process = start(sys.executable, "-c", {SLEEPER!r})
    pathlib.Path(f"{{ending}}.pids").write_text(process.stdout.readline())
    return process

def test_that_fails(start):
    begin(start, "failed")
    assert False

def test_that_waits_too_long(start):
    finish(begin(start, "waited"), timeout=0.1)

def test_that_is_interrupted(start):
    begin(start, "interrupted")
    raise KeyboardInterrupt
"""
KILLED = """
import os, pathlib, signal, sys

def test_that_is_killed(start):
    process = start(sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(1000)")
    pathlib.Path("killed.pids").write_text(process.stdout.readline())
    os.kill(os.getpid(), signal.SIGKILL)
"""
pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes of POSIX")


def gone(pid):
    """Whether a process ends within ten seconds."""
    for _ in range(1000):
        try:
            os.kill(pid, 0)
            if pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True  # dead, and no one has asked yet how it ended
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.01)
    return False


def left_behind(code, tmp_path):
    """The processes that tests begin and leave, by how the tests end."""
    shutil.copy(HERE / "conftest.py", tmp_path)
    (tmp_path / "test_them.py").write_text(code)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parent), *sys.path])}
    command(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", tmp_path, cwd=tmp_path, env=environment)
    begun = {path.stem: map(int, path.read_text().split()) for path in tmp_path.glob("*.pids")}
    return {ending: [pid for pid in pids if not gone(pid)] for ending, pids in begun.items()}


def test_nothing_outlives_a_test(tmp_path):
    assert left_behind(FAILING, tmp_path) == {"failed": [], "waited": [], "interrupted": []}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends the children of a process that is killed")
def test_nothing_outlives_tests_that_are_killed(tmp_path):
    assert left_behind(KILLED, tmp_path) == {"killed": []}


@pytest.mark.parametrize("sigint, code", [("SIG_DFL", -signal.SIGINT), ("SIG_IGN", 0)])
def test_a_process_hears_ctrl_c_as_it_is_told(sigint, code, start):
    process = start(sys.executable, "-S", "-c", "import time; print(1, flush=True); time.sleep(1)", sigint=sigint)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert finish(process)[0] == code


@pytest.mark.parametrize("file", sorted(HERE.glob("*.py")), ids=lambda file: file.stem)
def test_processes_come_from_one_place(file):
    tree = ast.walk(ast.parse(file.read_text()))
    imported = {alias.name for node in tree if isinstance(node, ast.Import) for alias in node.names}
    assert file.stem == "conftest" or "subprocess" not in imported
