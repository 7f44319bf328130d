"""PART.NAME=VALUE: constants of dataclasses changed from the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, get_type_hints

from rbfbench.errors import UsageError, unknown_name


def changed(parts: dict[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """Dataclasses with all settings applied at once, so that their order means nothing; of two for one, the last holds.

    Args:
        parts: Part name to frozen dataclass, or None for a part that is not in use.
        settings: As `noise.copies=60`; the field's type decides how its value is read.

    Raises:
        UsageError: Unknown part or name, a value of another type, or one that the dataclass refuses.
    """
    changes: dict[str, dict[str, Any]] = {}
    for setting in settings:
        part, name, value = _read(parts, setting)
        changes.setdefault(part, {})[name] = value
    return parts | {part: dataclasses.replace(parts[part], **values) for part, values in changes.items()}


def _read(parts: dict[str, Any], setting: str) -> tuple[str, str, Any]:
    import msgspec

    target, _, text = setting.partition("=")
    part, dot, name = target.partition(".")
    if not (dot and name and text):
        raise UsageError(f"--set {setting} cannot be read", "it is not PART.NAME=VALUE", "write schedule.batch=128")
    there = {key for key, constants in parts.items() if constants is not None}
    if part not in parts:
        raise unknown_name("part", part, there)
    if part not in there:
        raise UsageError(f"--set {setting} changes nothing", f"this training has no {part}", "leave it out")
    types = get_type_hints(type(parts[part]))
    if name not in types:
        raise unknown_name(f"constant of {part}", name, types)
    try:
        return part, name, msgspec.convert(None if text == "none" else text, types[name], strict=False)
    except msgspec.ValidationError as error:
        raise UsageError(f"--set {setting} cannot be used", str(error), f"see --show for {target}") from None
