"""Files that are either whole or not there."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from rbfbench.errors import LoadError


def write_atomic(path: Path, data: bytes) -> None:
    """Writes a file so that a kill, a power cut or a second writer never leaves half of it; the last writer wins.

    A kill can leave a hidden `.*.tmp` file beside it, which nothing reads.

    Raises:
        LoadError: The folder cannot be written (missing, no permission, disk full).
    """
    # Not tempfile: its files are for the owner only, and others (a CI job, a colleague) must read results.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error


def remove(path: Path) -> None:
    """Removes a file if it is there.

    Raises:
        LoadError: It may not be removed.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> LoadError:
    todo = "check its permissions and the free space, or choose another folder"
    return LoadError(f"cannot write {path}", error.strerror or str(error), todo)


def _sync_folder(folder: Path) -> None:
    """Makes the new name itself survive a power cut, where the system can (Windows cannot open folders)."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
