"""Input transformations of the Adversarial Robustness Toolbox that can stand in front of a model. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from rbfbench.errors import UsageError, unknown_name


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """A transformation with one whole number to set.

    Attributes:
        parameter: What the number is called.
        default: Its value if none is given.
        least: Smallest value.
        most: Largest value.
        odd: It must be odd.
        about: One line for people; says what attacks take it for.
    """

    parameter: str
    default: int
    least: int
    most: int
    odd: bool = False
    about: str


PREPROCESSINGS = {
    "art:jpeg": Preprocessing(
        parameter="quality",
        default=50,
        least=1,
        most=95,
        about="JPEG compression (arXiv 1608.00853); attacks take it for the identity",
    ),
    "art:spatial-smoothing": Preprocessing(
        parameter="window",
        default=3,
        least=3,
        most=15,
        odd=True,
        about="median over a window (arXiv 1704.01155); attacks follow the pixel that is the median",
    ),
}


def parse_preprocessing(text: str) -> tuple[str, int]:
    """Name and number of `art:jpeg` or `art:jpeg:quality=75`.

    Raises:
        UsageError: There is no such transformation or parameter, or the number makes no sense.
    """
    library, _, rest = text.partition(":")
    name, colon, setting = rest.partition(":")
    name = f"{library}:{name}"
    if name not in PREPROCESSINGS:
        raise unknown_name("defense", text, PREPROCESSINGS)
    info = PREPROCESSINGS[name]
    if not colon:
        return name, info.default
    key, _, value = setting.partition("=")
    if key != info.parameter:
        raise unknown_name(f"parameter of {name}", key, [info.parameter])
    if not value.isdecimal() or not info.least <= int(value) <= info.most or (info.odd and int(value) % 2 == 0):
        bounds = f"from {info.least} to {info.most}" + (", and odd" if info.odd else "")
        raise UsageError(
            f"--defense {text} makes no sense", f"{key} is a whole number {bounds}", "give one, or leave it out"
        )
    return name, int(value)
