"""Other libraries through the same door; this page is torch-free, and a library is imported when it is named."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from importlib import import_module

from rbfbench.attacks.table import ATTACKS, AttackInfo
from rbfbench.errors import LoadError, unknown_name
from rbfbench.interop.info import ForeignAttackInfo
from rbfbench.plugins import load_plugin, package, plugins

LIBRARIES = ("foolbox", "art")

__all__ = ["LIBRARIES", "ForeignAttackInfo", "attack_info"]


def attack_info(name: str) -> AttackInfo:
    """The row of an attack: of the own table, of a plugin, or made from what `foolbox:NAME` or `art:NAME` takes.

    Raises:
        UsageError: There is no such attack, or it cannot be run on an image classifier under these norms.
        LoadError: A plugin cannot be imported, or is no row.
    """
    library, colon, attack = name.partition(":")
    if colon and library in LIBRARIES:
        return _foreign(library, attack)
    if name in ATTACKS:
        return ATTACKS[name]
    if name in plugins("attacks"):
        return _of_plugin(name)
    known = [*ATTACKS, *plugins("attacks")]
    raise unknown_name("library", library, LIBRARIES) if colon else unknown_name("attack", name, known)


@cache
def _of_plugin(name: str) -> AttackInfo:
    info, point = load_plugin("attacks", name), plugins("attacks")[name]
    if not isinstance(info, AttackInfo):
        raise LoadError(
            f"the plugin {name} is no attack",
            f"{point.value} is {type(info).__name__}",
            "announce an rbfbench.attacks.AttackInfo",
        )
    return replace(info, release=package(point))


@cache
def _foreign(library: str, attack: str) -> ForeignAttackInfo:
    info: ForeignAttackInfo = import_module(f"rbfbench.interop.{library}").foreign_attack(attack)
    return info
