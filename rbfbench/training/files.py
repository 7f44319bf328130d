"""Files of a training are whole or not there, whatever interrupts it."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError

from rbfbench.errors import LoadError

# What numpy raises for a file that is cut short or overwritten: its parser of headers, zip and zlib have their own.
_DAMAGED = (EOFError, ValueError, KeyError, TokenError, zipfile.BadZipFile, zlib.error)


@contextmanager
def resuming(path: Path, todo: str = "remove it to make it anew") -> Iterator[None]:
    """What fails inside has failed to read this file of an earlier run as arrays.

    Raises:
        LoadError: Something did.
    """
    try:
        yield
    except _DAMAGED as error:
        raise LoadError(f"cannot resume from {path}", "the file is damaged", todo) from error


class replacing:
    """A temporary path beside `path` that takes its place when the block ends well; a full disk is one clear line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.part = path.with_name(f"{path.name}.{os.getpid()}.part")

    def __enter__(self) -> Path:
        return self.part

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if kind is None:
            self.part.replace(self.path)
            return
        self.part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            kept = "the last one stays; " if self.path.is_file() else ""
            reason = error.strerror or f"only a part of it was written ({error})"  # numpy's error has no more words
            raise LoadError(f"cannot write {self.path}", reason, f"{kept}make room and add --resume") from error
