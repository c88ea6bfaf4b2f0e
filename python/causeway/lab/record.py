"""What a lab that is up has on disk, in a folder of its own: enough to take it down whatever has happened since."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from causeway.lab.problem import LabError
from causeway.lab.programs import Program

_STATE, _LOCK = "lab.json", "lock"
_OURS = (_STATE, _LOCK, "world.toml", "wan.json", "wan.sock", "wan.log")
NODES = "nodes"


class Record(msgspec.Struct):
    name: str
    namespaces: list[str] = []
    programs: list[Program] = []


def default_folder(name: str) -> Path:
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local/state")
    return Path(state) / "causeway" / "lab" / name


def begin(folder: Path, record: Record) -> None:
    """Take a folder that is new or empty.

    Raises:
        LabError: there is a lab, or something else.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        inside = {entry.name for entry in folder.iterdir()} - {_LOCK}
    except OSError as error:
        raise LabError("lab_folder", f"{folder} cannot be used: {error.strerror}") from error
    if _STATE in inside:
        raise LabError("lab_is_up", f"a lab is in {folder}: end it with `causeway lab down`")
    if inside:
        raise LabError("lab_folder", f"{folder} holds other files: name an empty --dir")
    save(folder, record)


def save(folder: Path, record: Record) -> None:
    fresh = folder / (_STATE + ".new")
    fresh.write_bytes(msgspec.json.encode(record))
    fresh.rename(folder / _STATE)


def load(folder: Path) -> Record:
    """Read the record of a lab that is up.

    Raises:
        LabError: there is none.
    """
    try:
        return msgspec.json.decode((folder / _STATE).read_bytes(), type=Record)
    except FileNotFoundError:
        raise LabError("lab_not_up", f"no lab is in {folder}: start it with `causeway lab up`") from None
    except (OSError, msgspec.MsgspecError) as error:
        raise LabError("lab_folder", f"{folder / _STATE} cannot be read: {error}") from error


def erase(folder: Path) -> None:
    """Remove what a lab has written there, and nothing else; the record goes last."""
    shutil.rmtree(folder / NODES, ignore_errors=True)
    for name in reversed(_OURS):
        (folder / name).unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One command that makes or ends a lab at a time."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise LabError("lab_folder", f"{folder} cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise LabError("lab_is_busy", f"{folder}: another command starts or ends this lab") from None
    finally:
        os.close(handle)
