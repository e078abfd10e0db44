"""The benchmarks run, and each system's results are resgrad's: they check that themselves."""

import pathlib
import shutil
import sys

import pytest
from conftest import output

HOME = pathlib.Path(__file__).parents[1] / "benchmarks"


@pytest.mark.slow
@pytest.mark.skipif(not HOME.exists(), reason="the benchmarks are in the repository only")
def test_the_quick_benchmarks_leave_a_table_and_their_numbers(tmp_path):
    """In a copy, since they write beside themselves.  What starts new environments or takes long is left out."""
    shutil.copytree(HOME, tmp_path / "benchmarks", ignore=shutil.ignore_patterns("__pycache__", "results"))
    line = [sys.executable, "-m", "benchmarks", "ensemble", "population", "--quick"]
    told, _ = output(*line, cwd=tmp_path, timeout=900)  # a minute; they compile what no test does
    assert told.count("| NumPy |") >= 2
    assert (tmp_path / "benchmarks" / "results" / "results.json").stat().st_size > 1000
