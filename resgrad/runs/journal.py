"""``runs.jsonl``: a line for each run of a census, written when it ends.  A file cut at any byte can be resumed."""

import base64
import dataclasses
import hashlib
import itertools
import json
import os

import numpy as np

from .. import __version__, checks
from . import files
from .tally import FAILED, OUTCOMES, Config

NAME = "runs.jsonl"
FORMAT = 1


class Journal:
    """The runs of a census that are ``done``, {run: Basin}, also kept in a file of ``directory``, if that is given.

    With ``resume`` the file may exist; runs that failed do not count as done.  Raises ValueError if it exists without
    ``resume`` or holds another census, and FileError if it is damaged.
    """

    def __init__(self, task, directory=None, resume=False):
        self.task, self.done, self.path = task, {}, directory and directory / NAME
        if directory is None:
            return
        if self.path.exists():
            if not resume:
                raise ValueError(f"out is {directory}, which holds a census; use --resume or another --out")
            self._load()
        files.rescue(directory, self.save)

    def _load(self):
        saved, records = read(self.path)
        new, old = (part["config"] | part | {"config": None} for part in (header(self.task), saved))
        differ = [key for key in new if _content(old.get(key, getattr(Config, key, None))) != _content(new[key])]
        if differ and (differ != ["runs"] or new["runs"] < old["runs"]):
            told = "; ".join(f"{key} is {new[key]}, but was {old[key]}" for key in differ)
            raise ValueError(f"out is {self.path.parent}, which holds another census: {told}")
        for number, record in enumerate(records, 2):
            try:
                run, basin = _basin(record, self.task)
                if run in self.done:
                    raise ValueError(f"run {run} is there twice")
            except (ValueError, KeyError, TypeError) as error:
                raise files.FileError(f"{self.path} is damaged: line {number}: {error}") from None
            if basin.outcome != FAILED:
                self.done[run] = basin

    def add(self, run, basin):
        """Add the end of a run."""
        self.done[run] = basin
        try:
            if self.path is not None:
                with self.path.open("r+b") as file:  # mode "a" would create the file anew if it were lost
                    file.seek(0, os.SEEK_END)
                    file.write(line(run, basin).encode())
        except OSError:
            files.rescue(self.path.parent, self.save)

    def save(self, directory):
        """Write the whole journal to ``directory``."""
        files.write(directory / NAME, "".join([seal(header(self.task)), *itertools.starmap(line, self.done.items())]))


def header(task):
    """The first line: everything that the results depend on."""
    numbers = {name: getattr(task.arch, name) for name in ("identity", "skip", "readout")}
    fixed = {"kind": "census", "format": FORMAT, "version": __version__}
    return fixed | numbers | {"config": dataclasses.asdict(task.config)}


def _content(value):
    """The part of ``value`` that must agree: of a teacher from a file only its digest, since the file may move."""
    return value.rpartition(", sha256 ")[2] if isinstance(value, str) else value


def line(run, basin):
    """The line of a run."""
    record = {"run": run} | basin._asdict() | {"theta": base64.b64encode(basin.theta.tobytes()).decode()}
    return seal({name: value for name, value in record.items() if value != ""})  # without an empty message


def seal(record):
    """A line of JSON whose last entry is a digest of all before it."""
    text = files.dumps(record)[:-1]
    return f'{text}, "sha256": "{hashlib.sha256(text.encode()).hexdigest()[:16]}"}}\n'


def read(path):
    """(header, [record of a run]) of a journal, without a last line that a killed process left unfinished."""
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise files.FileError(f"{path} cannot be read: {error.strerror}") from None
    records = []
    for number, sealed in enumerate(lines, 1):
        text = sealed.rpartition(b', "sha256": ')[0]
        if not sealed.endswith(b'"sha256": "%s"}' % hashlib.sha256(text).hexdigest()[:16].encode()):
            raise files.FileError(f"{path} is damaged: the checksum of line {number} does not match")
        records.append(json.loads(text + b"}"))
    if not records or records[0].get("kind") != "census":
        reason = "its first line is not that of one" if records else "it is empty"
        raise files.FileError(f"{path} is not a resgrad census: {reason}")
    if records[0]["format"] != FORMAT:
        raise files.FileError(f"{path} has format {records[0]['format']}, but this resgrad reads {FORMAT}")
    return records[0], records[1:]


def _basin(record, task):
    """(run, Basin) of a line."""
    from ..minima import basins

    record = {name: files.number(value) for name, value in record.items()}
    run, theta = record.pop("run"), np.frombuffer(base64.b64decode(record.pop("theta"), validate=True))
    basin = basins.Basin(theta=theta, **record)
    if run not in task.numbers:
        raise ValueError(f"run is {checks.shown(run)}, but must be below {task.config.runs}")
    numbers = [basin.loss, basin.grad_norm, basin.min_eigenvalue, basin.exponent, *basin.invariants]
    kinds = [type(value) for value in (basin.message, basin.steps, *numbers)]
    if basin.outcome not in (*OUTCOMES, FAILED) or kinds != [str, int] + 8 * [float]:
        raise ValueError("its outcome or its numbers are not valid")
    if theta.size != (size := task.arch.size(task.config.d, task.config.width)):
        raise ValueError(f"theta has {theta.size} entries, but needs {size}")
    return run, basin
