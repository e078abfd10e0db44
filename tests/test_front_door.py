"""What a newcomer types first: ``python -m resgrad``, ``--help`` and its examples, and too large a number."""

import importlib
import os
import shlex

import pytest

import resgrad as rg
from resgrad.__main__ import main as tour
from resgrad.runs.command import guarded

COMMANDS = "experiment", "census", "gradcheck"


def shown(main, argv, capsys):
    """What a command prints that ends by itself or by ``SystemExit``."""
    try:
        assert main(argv) == 0
    except SystemExit as end:
        assert end.code == 0
    return capsys.readouterr().out


def command(name):
    return importlib.import_module("resgrad.gradcheck.__main__" if name == "gradcheck" else f"resgrad.{name}").main


def examples(name, capsys):
    """The options of the examples that a command's help ends with."""
    text = shown(command(name), ["--help"], capsys)
    lines = text[text.index("examples:\n") :].splitlines()[1:]
    starts = f"  python -m resgrad.{name} "
    assert all(line.startswith(starts) for line in lines)
    return [shlex.split(line.removeprefix(starts)) for line in lines]


@pytest.mark.parametrize("argv", [[], ["--help"]])
def test_the_tour_fits_and_names_everything(argv, capsys):
    text = shown(tour, argv, capsys)
    assert len(text.splitlines()) <= 15 and max(map(len, text.splitlines())) <= 100
    assert all(name in text.replace(",", " ").split() for name in rg.ARCHITECTURES)
    assert all(f"python -m resgrad.{name}" in text for name in COMMANDS)
    assert "figures/" in text and rg.__version__ in text


def test_the_tour_refuses_what_is_no_module(capsys):
    assert tour(["experimnt"]) == 2
    assert capsys.readouterr().err.startswith("error: command is 'experimnt', but must be")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_ends_with_two_examples(name, capsys):
    assert len(examples(name, capsys)) == 2


@pytest.mark.parametrize("name", ["figures", "benchmarks"])
def test_so_does_the_help_of_what_a_clone_has_besides(name, capsys):
    text = shown(importlib.import_module(f"{name}.__main__").main, ["--help"], capsys)
    lines = text[text.index("examples:\n") :].splitlines()[1:]
    assert len(lines) == 2 and all(line.startswith(f"  python -m {name}") for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_run(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = examples(name, capsys)
    for options in found:
        assert command(name)(options) == 0
    if name != "gradcheck":
        assert len(os.listdir("runs")) == len(found)


@pytest.mark.parametrize(
    "name, option", [("experiment", "--width"), ("census", "--teacher-width"), ("census", "--runs")]
)
def test_what_fits_no_memory_is_told_by_name(name, option, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command(name)(["--arch", "li", option, str(2**45)]) in (1, 2)
    (line,) = capsys.readouterr().err.splitlines()
    assert option.strip("-").split("-")[-1] in line


def test_a_memory_error_without_words_is_told_in_words(capsys):
    @guarded
    def main(argv):
        raise MemoryError

    assert main([]) == 1
    assert capsys.readouterr().err.endswith("is too large for the memory: none is left\n")
