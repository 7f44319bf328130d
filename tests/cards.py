"""What the cards of shipped weights say, for tests of the pages that repeat it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

WEIGHTS = Path(__file__).parents[1] / "rbfbench" / "defenses" / "weights"
LINE = re.compile(r"\| test: .* \| ([\d.]+%) \| ([\d.]+)% to ([\d.]+)% \| (\d+) \| (.*) \|")
LEARNT = re.compile(r"training accuracy ([\d.]+)")


@dataclass(frozen=True)
class Card:
    """Of one weights file: clean accuracies on its test set, as written there.

    Attributes:
        noisy: With noise, "78.09% (77.27 to 78.89)"; empty for a model that has none.
        quiet: Without noise.
        n: Test images.
        training: Training accuracy in the last epoch.
    """

    noisy: str
    quiet: str
    n: int
    training: str


def cards() -> dict[tuple[str, str], Card]:
    """(model, data set) to card, of all that is shipped."""
    return {(path.stem.partition("-")[2], path.stem.partition("-")[0]): card(path) for path in WEIGHTS.glob("*.md")}


def card(path: Path) -> Card:
    text = path.read_text(encoding="utf-8")
    lines = {how: (f"{accuracy} ({low} to {high})", int(n)) for accuracy, low, high, n, how in LINE.findall(text)}
    noisy = [line for how, line in lines.items() if "beta2 1.75, m 10" in how]
    ((quiet, n),) = [line for how, line in lines.items() if how == "one pass" or "beta2 0," in how]
    return Card(noisy[0][0] if noisy else "", quiet, n, LEARNT.findall(text)[0])
