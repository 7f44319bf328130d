"""Files that are either whole or not there."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from rbfbench.errors import LoadError


def write_atomic(path: Path, data: bytes) -> None:
    """Writes a file so that a kill, a power cut or a second writer never leaves half of it; the last writer wins.

    Raises:
        LoadError: The folder cannot be written (missing, no permission, disk full).
    """
    with atomic_file(path) as file:
        file.write(data)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """The same for what does not fit into memory: a file to write to, which takes its place at the end.

    A kill can leave a hidden `.*.tmp` file beside it, which nothing reads. A symlink stays, and what it points to is
    replaced; what is there and no regular file, such as a pipe, cannot be replaced and is written to as it stands.

    Raises:
        LoadError: The folder cannot be written.
    """
    if path.exists() and not path.is_file():
        with writing(path), path.open("wb") as file:
            yield file
        return
    target = Path(os.path.realpath(path))
    # Not tempfile: its files are for the owner only, and others (a CI job, a colleague) must read results.
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    with writing(path):
        try:
            with temporary.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(target.parent)


def remove(path: Path) -> None:
    """Removes a file if it is there.

    Raises:
        LoadError: It may not be removed.
    """
    with writing(path):
        path.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What fails inside has failed to write this file.

    Raises:
        LoadError: Something did.
    """
    try:
        yield
    except OSError as error:
        todo = "check its permissions and the free space, or choose another folder"
        raise LoadError(f"cannot write {path}", error.strerror or str(error), todo) from error


def _sync_folder(folder: Path) -> None:
    """Makes the new name itself survive a power cut, where the system can (Windows cannot open folders)."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
