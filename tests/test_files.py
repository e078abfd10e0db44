"""Archives and atomic writes."""

import errno
import json
import os

import numpy as np
import pytest

from resgrad.runs import files

ARRAYS = {"theta": np.arange(5.0), "order": np.arange(3)}


def archive(path):
    files.write_archive(path, "checkpoint", ARRAYS, step=7)
    return path


def test_an_archive_comes_back_and_numpy_reads_it(tmp_path):
    path = archive(tmp_path / "a.npz")
    arrays, header = files.read_archive(path, "checkpoint")
    assert header["step"] == 7 and set(arrays) == set(ARRAYS)
    with np.load(path) as plain:
        np.testing.assert_array_equal(plain["theta"], ARRAYS["theta"])


def test_the_same_content_is_the_same_bytes(tmp_path):
    assert archive(tmp_path / "a").read_bytes() == archive(tmp_path / "b").read_bytes()


def test_no_corruption_is_accepted(tmp_path):
    path, rng = archive(tmp_path / "a.npz"), np.random.default_rng(0)
    whole = path.read_bytes()
    for trial in range(500):
        damaged = bytearray(whole)
        kind = trial % 4
        if kind == 0:
            damaged[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        elif kind == 1:
            del damaged[rng.integers(len(whole)) :]
        elif kind == 2:
            damaged = rng.bytes(rng.integers(0, 300))
        else:
            damaged += rng.bytes(rng.integers(1, 50))
        path.write_bytes(bytes(damaged))
        with pytest.raises(files.FileError, match="a.npz") as error:
            files.read_archive(path, "checkpoint")
        assert "\n" not in str(error.value)


def test_foreign_newer_and_missing_files_are_named(tmp_path, monkeypatch):
    path = archive(tmp_path / "a.npz")
    with pytest.raises(files.FileError, match="is a resgrad checkpoint, but must be a weights"):
        files.read_archive(path, "weights")
    monkeypatch.setattr(files, "FORMAT", 2)
    archive(path)
    monkeypatch.undo()
    with pytest.raises(files.FileError, match="has format 2, but this resgrad reads up to 1"):
        files.read_archive(path, "checkpoint")
    with pytest.raises(files.FileError, match="cannot be read"):
        files.read_archive(tmp_path / "none.npz", "checkpoint")
    np.savez(path, theta=np.zeros(2))
    with pytest.raises(files.FileError, match="checksum"):
        files.read_archive(path, "checkpoint")


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    files.write(path, "old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        files.write(path, "new")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("code", ["ENOSYS", "ENOLCK", "EOPNOTSUPP"])
def test_a_file_system_without_locks_is_told_and_used(code, tmp_path, monkeypatch, capsys):
    fcntl, number = pytest.importorskip("fcntl"), getattr(errno, code)

    def flock(file, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with files.claim(tmp_path / "out"):
        told = capsys.readouterr().err
    assert told == (f"{tmp_path / 'out'} cannot be locked ({os.strerror(number)}): let no other process write there\n")


def test_another_fault_of_a_lock_is_an_error(tmp_path, monkeypatch):
    def flock(file, how):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", flock)
    with pytest.raises(files.FileError, match="but it cannot be locked: Input/output error"):
        files.claim(tmp_path)


def strict(text):
    """What a parser reads that takes JSON at its word."""

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


NUMBERS = [float("nan"), float("inf"), -float("inf"), 0.1, -0.0, 5e-324, 1.7976931348623157e308]


def same(one, other):
    """Whether two lists hold the same floats, to the last bit, or NaN both."""
    return [np.float64(x).view(np.int64) for x in one] == [np.float64(x).view(np.int64) for x in other]


@pytest.mark.parametrize("kind", [float, np.float64])
def test_json_is_strict_and_reads_back_to_the_same_numbers(kind, tmp_path):
    written = [kind(x) for x in NUMBERS]
    files.write_json(tmp_path / "a.json", {"x": written, "y": {"z": [np.int64(3), np.float32("inf"), None, "NaN!"]}})
    read = strict((tmp_path / "a.json").read_text())
    assert same(files.number(read["x"]), NUMBERS) and same(map(float, read["x"]), NUMBERS)
    assert files.number(read["y"]["z"]) == [3, np.inf, None, "NaN!"]
    files.write_archive(tmp_path / "a.npz", "checkpoint", ARRAYS, x=written)
    with np.load(tmp_path / "a.npz") as archive:
        assert strict(archive["header"].tobytes())["x"] == read["x"]
    assert same(files.number(files.read_archive(tmp_path / "a.npz", "checkpoint")[1]["x"]), NUMBERS)
