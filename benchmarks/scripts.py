"""What the scripts here share: how they end, what they call, where they write, and what they say of themselves."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from rbfbench.cli import INTERRUPTED
from rbfbench.errors import RbfbenchError, UsageError
from rbfbench.results.records import Environment

PATIENCE = 5.0  # seconds, for a command to end in order after a Ctrl-C that went to it too


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def ended(main: Callable[[], None]) -> None:
    """Run a script, whose errors are one line and whose exit codes are those of rbfbench."""
    signal.signal(signal.SIGTERM, _interrupt)  # as rbfbench does: otherwise the command in progress would run on
    try:
        main()
    except RbfbenchError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error
    except KeyboardInterrupt as stop:
        print("interrupted", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from stop


def called(program: Sequence[str]) -> None:
    """Run a command to its end.

    Raises:
        SystemExit: It failed, and has said why; with its exit code.
        KeyboardInterrupt: We were interrupted; the command has ended too, but has not said so.
    """
    with subprocess.Popen(program) as process:  # noqa: S603
        try:
            code = process.wait()
        except KeyboardInterrupt:
            try:
                code = process.wait(PATIENCE)
            except subprocess.TimeoutExpired:  # the signal was for us alone
                process.terminate()
                code = process.wait()
            if code != INTERRUPTED:
                raise
    if code:
        raise SystemExit(code)


def origin(began: float, seed: int, environment: Environment) -> dict[str, Any]:
    """What a result file names beside its numbers, of a script that ends now: command, seed, seconds, and on what.

    Args:
        began: `time.monotonic()` at its beginning.
        seed: Of everything random in it.
        environment: As it was then: results that were written since are changes of the checkout.
    """
    return {
        "command": shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "seed": seed,
        "wall_s": time.monotonic() - began,
        "environment": msgspec.to_builtins(environment),
    }


def make_folder(option: str, folder: Path) -> None:
    """Make a folder to write into, before the work that would be lost without it.

    Raises:
        UsageError: It cannot be one.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        why = "" if os.access(folder, os.W_OK) else "its permissions forbid it"
    except OSError as error:
        blocked = isinstance(error, FileExistsError | NotADirectoryError)
        why = "a file is in its place" if blocked else error.strerror or str(error)
    if why:
        raise UsageError(f"{option} {folder} is no folder to write into", why, "give another")
