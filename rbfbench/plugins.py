"""Attacks, defences and data sets of other packages, which announce them as entry points. Standard library only.

A package that writes

    [project.entry-points."rbfbench.defenses"]
    mine = "my_package.nets:build"

makes `--model mine` work; the groups are rbfbench.attacks, rbfbench.defenses and rbfbench.datasets. Nothing of a
package is imported before one of its names is used.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Literal, get_args

from rbfbench.errors import LoadError, UsageError, raised

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

Group = Literal["attacks", "defenses", "datasets"]
GROUPS: tuple[Group, ...] = get_args(Group)


@cache
def plugins(group: Group) -> dict[str, EntryPoint]:
    """What other packages announce in a group, by name.

    Raises:
        UsageError: Two packages announce different things under one name.
    """
    from importlib.metadata import entry_points  # slower than the rest of --help together

    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=f"rbfbench.{group}"):
        other = found.setdefault(point.name, point)
        if other.value != point.value:
            raise UsageError(
                f"two packages announce {point.name!r} in rbfbench.{group}",
                f"{other.value} and {point.value}",
                "uninstall one of them",
            )
    return found


def load_plugin(group: Group, name: str) -> Any:  # noqa: ANN401  (whatever the package announces)
    """The object behind a name; this runs the package's code.

    Raises:
        LoadError: It cannot be imported.
    """
    point = plugins(group)[name]
    try:
        return point.load()
    except (Exception, SystemExit) as error:  # the import runs foreign code, which may raise anything
        raise LoadError(
            f"cannot load the plugin {name}",
            f"importing {point.value} raised {raised(error)}",
            f"update or uninstall {package(point)}",
        ) from error


def package(point: EntryPoint) -> str:
    """Name and version of the package that announces something."""
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.module
