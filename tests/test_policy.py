"""The cache of compiled code: never out of date, never in the way."""

import os
import pathlib
import shutil
import sys

import numpy as np
import pytest
from conftest import compiled, output, slow

import resgrad as rg
from resgrad.kernels import policy

pytestmark = compiled

# A table of angles, whose callee is in another file.
ANGLES = """
import sys
from numba.core import event
{before}
with event.install_recorder("numba:compile") as compilations:
    import numpy as np
    from resgrad.kernels import moments
    print(repr(float(moments._angles(np.eye(2), np.eye(2)).sum())), len(compilations.buffer) // 2)
"""


@pytest.fixture
def copy(tmp_path):
    """A copy of the package, and a function that runs `ANGLES` on it: (value, compilations, standard error)."""
    package = pathlib.Path(rg.__file__).parent
    shutil.copytree(package, tmp_path / "resgrad", ignore=shutil.ignore_patterns("__pycache__"))

    def run(before=""):
        environment = os.environ | {"PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
        out, err = output(sys.executable, "-c", ANGLES.format(before=before), env=environment, cwd=tmp_path)
        value, count = out.split()
        return float(value), int(count), err

    run.package, run.cache = tmp_path / "resgrad", tmp_path / "cache"
    return run


def test_an_edited_callee_in_another_file_is_seen_at_once_and_nothing_is_compiled_twice(copy):
    value, count, _ = copy()
    assert count > 0
    assert copy() == (value, 0, "")
    pairs = copy.package / "kernels" / "pairs.py"
    code = pairs.read_text()
    assert "2.0 * math.atan2" in code
    pairs.write_text(code.replace("2.0 * math.atan2", "3.0 * math.atan2"))
    edited, count, _ = copy()
    assert count > 0 and abs(edited - value) > 0.1 * abs(value)
    assert copy() == (edited, 0, "")
    pairs.write_text(code)
    assert copy()[0] == value


@pytest.mark.parametrize("kind, left", [("nbi", 0.5), ("nbc", 0), *slow(("nbi", 0), ("nbc", 0.5))])
def test_a_damaged_cache_file_is_replaced_and_not_noticed(copy, kind, left):
    """The index or the code, cut to a share of its length."""
    value, _, _ = copy()
    damaged = {file: file.read_bytes() for file in copy.cache.rglob(f"*.{kind}")}
    for file, content in damaged.items():
        file.write_bytes(content[: int(left * len(content))])
    again, count, told = copy()
    assert (again, told) == (value, "") and count > 0 and damaged
    assert copy() == (value, 0, "")


FULL = """
import contextlib, errno
from numba.core.caching import IndexDataCacheFile
def full(self, path):
    raise OSError(errno.ENOSPC, "No space left on device")
IndexDataCacheFile._open_for_write = full
"""


def test_a_cache_that_cannot_be_written_costs_one_line(copy):
    value, _, _ = copy()
    shutil.rmtree(copy.cache)
    again, count, told = copy(FULL)
    assert again == value and count > 0
    assert told.startswith("compiled code is not kept for later runs: ") and told.count("\n") == 1
    assert str(copy.cache) in told and told.endswith("cannot be written: No space left on device\n")


STRANGE = {
    "no stamp": "from numba.core import caching\n"
    "class File(caching.IndexDataCacheFile):\n    __slots__ = ()\n"
    "    def __setattr__(self, name, value):\n"
    "        object.__setattr__(self, 'stamp' if name == '_source_stamp' else name, value)\n"
    "    def _load_index(self):\n        raise AssertionError('the cache is in use')\n"
    "caching.IndexDataCacheFile = File\n",
    "no class": "from numba.core import caching, ccallback, dispatcher\ndel caching.FunctionCache\n",
}


@pytest.mark.parametrize("numba", STRANGE)
def test_without_the_private_attribute_nothing_is_cached(copy, numba):
    _, count, told = copy(STRANGE[numba])
    assert count > 0 and told == "" and not list(copy.cache.rglob("*.nbc"))


def test_every_compiled_function_carries_the_stamp():
    function = policy.jit(lambda x: x + 1)
    assert function._cache._cache_file._source_stamp == policy.STAMP
    assert function(np.float64(1)) == 2
