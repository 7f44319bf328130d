"""How a model is to be loaded, beside its name. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

TIMEOUT = 300.0  # seconds that a command may take for one answer


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """What the user said about a model that does not follow from its name.

    Attributes:
        weights: File with the weights of a module that a factory builds.
        trust: Files may be unpickled, which can run code.
        download: Weights may be fetched.
        timeout: Seconds that a command may take for one answer.
        mean: Subtracted from the pixels, channel by channel, after `input_range`; None subtracts nothing.
        std: Divides them then, channel by channel.
        input_range: Range that the model expects, in place of [0,1].
        defenses: (name, number) of transformations in front of the model, the outermost first.
    """

    weights: Path | None = None
    trust: bool = False
    download: bool = False
    timeout: float = TIMEOUT
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    input_range: tuple[float, float] | None = None
    defenses: tuple[tuple[str, int], ...] = ()

    def record(self) -> dict[str, Any]:
        """What run.json says of it: what was given, and nothing that decides no number."""
        found = {
            "weights": str(self.weights) if self.weights else None,
            "mean": self.mean,
            "std": self.std,
            "input_range": self.input_range,
            "defenses": self.defenses or None,
        }
        return {name: value for name, value in found.items() if value is not None}
