"""Other libraries through the same door; this page is torch-free, and a library is imported when it is named."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from rbfbench.attacks.table import ATTACKS, AttackInfo
from rbfbench.errors import unknown_name
from rbfbench.interop.info import ForeignAttackInfo

LIBRARIES = ("foolbox", "art")

__all__ = ["LIBRARIES", "ForeignAttackInfo", "attack_info"]


def attack_info(name: str) -> AttackInfo:
    """The row of an attack: of the own table, or made from the constructor of `foolbox:NAME` or `art:NAME`.

    Raises:
        UsageError: There is no such attack, or it cannot be run on an image classifier under these norms.
    """
    library, colon, attack = name.partition(":")
    if colon and library in LIBRARIES:
        return _foreign(library, attack)
    if name not in ATTACKS:
        raise unknown_name("library", library, LIBRARIES) if colon else unknown_name("attack", name, ATTACKS)
    return ATTACKS[name]


@cache
def _foreign(library: str, attack: str) -> ForeignAttackInfo:
    info: ForeignAttackInfo = import_module(f"rbfbench.interop.{library}").foreign_attack(attack)
    return info
