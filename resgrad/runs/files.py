"""Safe files: written whole or not at all, checked when read, one writer for a directory.

An archive is a NumPy ``.npz``, which ``numpy.load`` reads, followed by the SHA-256 of all bytes before it.
Nothing is ever unpickled.
"""

import contextlib
import errno
import hashlib
import io
import itertools
import json
import os
import shutil
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from . import command

FORMAT = 1
STRINGS = ("NaN", "Infinity", "-Infinity")  # for the numbers that JSON lacks; JavaScript's ``Number`` reads them, too
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}  # errors of file systems without locks


class FileError(ValueError):
    """A file that cannot be used, and why, in one line."""


def write(path, content):
    """Write bytes or text to ``path`` atomically: a reader sees the old file or the new one.

    One process at a time may write: see `claim`.  An OSError leaves the old file as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.part")  # a killed process may leave it; the next write replaces it
    try:
        with open(temporary, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def rescue(directory, leave):
    """Call ``leave(directory)``; if that cannot write, with a fresh directory next to it, or a temporary one.

    Raises OSError if ``directory`` could not be written; it says why, and where the files are instead.
    """
    try:
        return leave(directory)
    except OSError as error:
        told = f"{directory} cannot be written: {error.strerror or error}"
    for place in (lambda: directory.parent, tempfile.gettempdir):
        with contextlib.suppress(OSError, FileError):
            other = fresh(place(), directory.name or "run")
            try:
                leave(other)
                break
            except OSError:
                shutil.rmtree(other, ignore_errors=True)
    else:
        raise OSError(f"{told}, nor any other place; the run is lost")
    raise OSError(f"{told}; the run is in {other} instead")


def write_json(path, content):
    """Write ``content`` as indented JSON; see `dumps`."""
    write(path, dumps(content, indent=2) + "\n")


def dumps(content, **options):
    """``content`` as strict JSON, with `STRINGS` for numbers that are not finite."""
    loose = json.dumps(content, default=np.generic.item)
    return json.dumps(json.loads(loose, parse_constant=str), allow_nan=False, **options)


def number(content):
    """The number, or list of numbers, that `dumps` wrote as this."""
    if isinstance(content, list):
        return [number(value) for value in content]
    return float(content) if content in STRINGS else content


def write_archive(path, kind, arrays, **header):
    """Write ``arrays`` (dict of ndarray) and a ``header`` that JSON can hold as one archive of a ``kind``."""
    text = np.frombuffer(dumps({"format": FORMAT, "kind": kind} | header).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, header=text, **arrays)
    content = buffer.getvalue()
    write(path, content + hashlib.sha256(content).digest())


def read_archive(path, kind):
    """(arrays, header) of an archive that `write_archive` wrote.

    Raises FileError when the file is missing, cut short, altered, of another kind or from a newer version.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}") from None
    body, digest = content[:-32], content[-32:]
    if hashlib.sha256(body).digest() != digest:
        reason = "its checksum does not match" if content else "it is empty"
        raise FileError(f"{path} is damaged, or not a {kind}.npz that resgrad wrote: {reason}")
    try:
        with np.load(io.BytesIO(body), allow_pickle=False) as archive:
            arrays = dict(archive)
        header = json.loads(arrays.pop("header").tobytes())
        found, version = header["kind"], int(header["format"])
    except (ValueError, TypeError, KeyError, AttributeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise FileError(f"{path} is not a {kind}.npz that resgrad wrote: {error}") from None
    if found != kind:
        raise FileError(f"{path} is a resgrad {found}, but must be a {kind}")
    if version > FORMAT:
        raise FileError(f"{path} has format {version}, but this resgrad reads up to {FORMAT}")
    return arrays, header


def claim(directory):
    """Lock ``directory`` for this process until it closes the file that is returned, or ends, however it ends.

    Raises FileError when the directory cannot be written or another process has locked it.  Where the file system
    has no locks, one line on standard error says so, and the process goes on without.
    """
    directory = Path(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = open(directory / ".lock", "a")
    except FileExistsError:
        raise FileError(f"out is {directory}, a file, but must be a directory") from None
    except OSError as error:
        raise FileError(f"out is {directory}, but it cannot be written: {error.strerror}") from None
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(lock.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            lock.close()
            held = error.errno in (errno.EAGAIN, errno.EACCES)
            told = "another process is writing there" if held else f"it cannot be locked: {error.strerror}"
            raise FileError(f"out is {directory}, but {told}") from None
        command.tell(f"{directory} cannot be locked ({error.strerror}): let no other process write there")
    return lock


def fresh(parent, name):
    """A new directory ``parent/name-NNN`` with the first number that is free."""
    for number in itertools.count(1):
        directory = Path(parent) / f"{name}-{number:03d}"
        try:
            directory.mkdir(parents=True)
            return directory
        except FileExistsError:
            if not directory.exists():
                raise FileError(f"out is {parent}, a file, but must be a directory") from None
        except OSError as error:
            raise FileError(f"out is {directory}, but it cannot be written: {error.strerror}") from None
