"""A model that is a command: a defence in any framework or language, asked through files. No gradient reaches it.

The command is started once. For each batch it reads a line from its standard input: two paths with a tab between. It
takes the images from the first, an npz file with `x` (N, C, H, W) float32 in [0,1], writes an npz file with `logits`
(N, classes) to the second, and prints that second path on a line of its own. Whatever else it prints is passed over.
"""

from __future__ import annotations

import os
import queue
import shlex
import signal
import subprocess
import tempfile
import threading
import time
import weakref
import zipfile
from pathlib import Path
from typing import IO, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rbfbench.errors import LoadError, ModelError, raised

GRACE = 2.0  # seconds to end in, for a command that has closed its output
LAST_WORDS = 200  # characters of the last line of its standard error, shown when it has ended


class CommandModel:
    """Logits (N, classes) of images (N, C, H, W) in [0,1], by a process of its own.

    Args:
        command: As typed in a shell, without a shell's expansions.
        timeout: Seconds to wait for one answer; the first one includes the start.

    Raises:
        LoadError: The command cannot be started.
    """

    def __init__(self, command: str, timeout: float) -> None:
        if not command.strip():
            raise LoadError("cannot start cmd:", "no command follows it", "write cmd:COMMAND")
        self.command, self.timeout = command, timeout
        self.asked = 0
        self._folder = tempfile.TemporaryDirectory(prefix="rbfbench-")
        self._errors = (Path(self._folder.name) / "stderr").open("w+b")
        try:
            # In a session of its own: an interrupt ends our attack in order, not the command under it.
            self._process = subprocess.Popen(  # noqa: S603  (the user's own command)
                shlex.split(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise LoadError(f"cannot start cmd:{command}", raised(error), "check the command") from error
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=_listen, args=(self._process.stdout, self._lines), daemon=True).start()
        self._end = weakref.finalize(self, _end, self._process)

    def __call__(self, x: Tensor) -> Tensor:
        """Ask about a batch.

        Raises:
            ModelError: No answer in time, the process has ended, or its answer is not logits of these images.
        """
        self.asked += 1
        folder = Path(self._folder.name)
        question, answer = folder / f"{self.asked}-x.npz", folder / f"{self.asked}-logits.npz"
        np.savez(question, x=x.detach().cpu().numpy().astype(np.float32, copy=False))
        self._say(f"{question}\t{answer}\n")
        self._wait_for(str(answer))
        logits = self._read(answer, len(x))
        question.unlink(missing_ok=True)
        answer.unlink(missing_ok=True)
        return torch.from_numpy(logits).to(x.device)

    def _say(self, line: str) -> None:
        pipe = cast(IO[bytes], self._process.stdin)
        try:
            pipe.write(line.encode())
            pipe.flush()
        except OSError as error:  # nobody reads any more
            raise self._lost() from error

    def _wait_for(self, expected: str) -> None:
        """Pass over lines until the expected one."""
        until, passed_over = time.monotonic() + self.timeout, ""
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                self._end()
                said = self._last_words()
                printed = f"; it printed {passed_over[-LAST_WORDS:]!r}, not the path" if passed_over else ""
                raise ModelError(
                    f"cmd:{self.command} did not answer",
                    f"{self.timeout:g} s passed on a batch{printed}" + (f"; it said: {said}" if said else ""),
                    "print the second path and flush, raise --timeout, or lower --batch-size",
                ) from None
            if line is None:
                raise self._lost()
            if line == expected:
                return
            passed_over = line

    def _lost(self) -> ModelError:
        try:
            code = self._process.wait(GRACE)
        except subprocess.TimeoutExpired:  # it has closed its ends, and lives on
            self._end()
            code = self._process.wait()
        said = self._last_words()
        return ModelError(
            f"cmd:{self.command} has ended",
            f"exit code {code}, after {self.asked - 1} answers" + (f"; it said: {said}" if said else ""),
            "it must answer one line after another until its input ends",
        )

    def _last_words(self) -> str:
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace").strip().rpartition("\n")[2][-LAST_WORDS:]

    def _read(self, answer: Path, n: int) -> NDArray[np.float32]:
        what, todo = f"cmd:{self.command} gave no logits", "write numpy.savez(path, logits=array of (N, classes))"
        if not zipfile.is_zipfile(answer):
            raise ModelError(what, "it wrote no npz file" if answer.exists() else "it wrote no file", todo)
        try:
            with np.load(answer, allow_pickle=False) as file:
                logits = file["logits"] if "logits" in file.files else None
        except Exception as error:  # zip and header parser each have errors of their own
            raise ModelError(what, raised(error), todo) from error
        if logits is None:
            raise ModelError(what, "its file has no array 'logits'", todo)
        if logits.ndim != 2 or len(logits) != n or logits.dtype.kind != "f":
            raise ModelError(what, f"it wrote {logits.dtype} {logits.shape} for {n} images", todo)
        if not np.isfinite(logits).all():
            raise ModelError(what, "its logits are NaN or infinite", "check what it computes on images in [0,1]")
        return np.asarray(logits, np.float32)


def _listen(output: IO[bytes], lines: queue.SimpleQueue[str | None]) -> None:
    """Hand over each line, and None when there will be no more."""
    for line in output:
        lines.put(line.decode(errors="replace").strip())
    lines.put(None)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and whatever it has started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()
