"""What the README says in tables and diffs, held against the package."""

import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from conftest import output

import resgrad as rg

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PLAIN = str.maketrans({"ᵀ": "'", "‖": "||", "₁": "_1", "`": None})


def rows():
    """Cells of the table of architectures, by name."""
    head = README.index("| name | F(x) |")
    lines = README[head:].split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines]
    return {row[0].translate(PLAIN): row for row in cells}


def test_the_table_lists_the_registry():
    assert list(rows()) == list(rg.ARCHITECTURES)


@pytest.mark.parametrize("name", rg.ARCHITECTURES)
def test_a_row_is_its_record(name):
    arch, (_, formula, trained, recovered, dimension) = rg.ARCHITECTURES[name], rows()[name]
    assert formula.translate(PLAIN).replace(" ", "") == arch.formula.replace(" ", "")
    assert trained == ", ".join(arch.shapes(3))
    d = 4
    teacher = rg.Network(arch, rg.draw(arch, "uniform", d, rng=0), d)
    found = rg.spectrum(rg.PopulationLoss(arch, teacher), teacher.theta)
    assert found.nullity == found.predicted == {"0": 0, "d": d, "d²": d**2}[dimension]
    assert ("rescal" in recovered) == arch.trains_readout
    assert ("W2·1" in recovered) == (arch.readout == "sum")


def test_the_speed_is_what_was_measured(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import report

    results = report.read(ROOT / "benchmarks" / "results" / "results.json")
    for path, text in ((report.README, report.summary(results)), (report.NOTES, report.aims(results))):
        written = path.read_text().partition(report.MARK)[2].partition(report.END)[0]
        assert written.strip() == text


def test_the_tables_do_without_a_peer(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import report

    results = report.read(ROOT / "benchmarks" / "results" / "results.json")
    for workload in results.values():
        for row in workload["rows"]:
            row["systems"] = {name: entry for name, entry in row.get("systems", {}).items() if name != "JAX"}
    assert "| – | – |" in report.aims(results)
    assert "JAX" not in report.summary(results).replace(" JAX |", "", 2)  # but in two headers
    assert all(report.table(name, result) for name, result in results.items())


def test_nothing_is_left_to_be_filled_in():
    assert not re.findall(r"\{[a-z]+\}|TODO|XXX", README)


@pytest.mark.slow
def test_an_architecture_is_added_as_shown(tmp_path):
    """The README's three pieces, put into a copy: the new network trains, and its gradients are checked."""
    for part in ("resgrad", "tests", "setup.cfg"):
        (shutil.copytree if (ROOT / part).is_dir() else shutil.copy)(ROOT / part, tmp_path / part)
    line, twin, entry = re.findall(r"```python\n(Architecture\(.*?)```", README, re.DOTALL)[0].split("\n\n")
    for path, before, piece in (
        ("resgrad/architectures.py", '        Architecture("vanilla", ', f"        {line}\n"),
        ("tests/naive.py", "TWINS = {\n", f"{twin}\n\n\n"),
        ("tests/naive.py", '    "li": (li, ', f"    {entry}"),
    ):
        text = (tmp_path / path).read_text()
        assert text.count(before) == 1
        (tmp_path / path).write_text(text.replace(before, piece + before))
    name = line.split('"')[1]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    for command in (
        f"-m pytest -q -p no:cacheprovider tests/test_gradients.py tests/test_kernels.py -k {name}",
        f"-m resgrad.experiment --arch {name} --d 4 --samples 1000 --steps 2000 --out run",
        f"-m resgrad.gradcheck --arch {name}",
    ):
        output(sys.executable, *command.split(), cwd=tmp_path, env=environment, timeout=600)
