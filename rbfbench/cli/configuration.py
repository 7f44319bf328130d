"""rbfbench.toml: options kept in a file. A flag beats the environment, which beats the file, which beats the default.

[options]                # of every command that has them
dataset = "npz:images.npz"
limit = 500

[attack]                 # of one command
suite = "quick"

[gate.linf]              # of `check --gate linf`
norm = "linf"
eps = "8/255"
baseline = "robust-linf.json"
min-accuracy = 0.4
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from rbfbench.errors import UsageError, unknown_name

FILE = "rbfbench.toml"
EVERYWHERE, GATES = "options", "gate"
JUDGE = "check"  # the command that gates are of


@dataclass(frozen=True)
class Configuration:
    """What a file says.

    Attributes:
        path: The file; None where there is none.
        commands: Command to parameter to value, as click's `default_map` takes it.
        gates: Name to parameter to value, for `check`.
    """

    path: Path | None = None
    commands: dict[str, Any] = field(default_factory=dict)
    gates: dict[str, dict[str, Any]] = field(default_factory=dict)


def read_configuration(path: Path | None, cli: click.Group) -> Configuration:
    """The named file, or rbfbench.toml of the working directory if there is one.

    Raises:
        UsageError: It cannot be read, or holds a section or an option that no command has.
    """
    if path is None:
        path = Path(FILE)
        if not path.exists():
            return Configuration()
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UsageError(f"cannot read {path}", why, "write TOML, as in docs/ci.md") from error
    commands = dict(_commands(cli))
    sections = {"" if "." in name else name: None for name in commands}
    for name in tables:
        if name not in (*sections, EVERYWHERE, GATES):
            raise unknown_name(f"section of {path}", name, [*filter(None, sections), EVERYWHERE, GATES])
    found: dict[str, Any] = {}
    for name, command in commands.items():
        options = _options(command)
        shared = {key: value for key, value in _table(path, tables, EVERYWHERE).items() if key in options}
        own = _values(path, name, _own(path, tables, name, command), options, command)
        _place(found, name, _over(_values(path, EVERYWHERE, shared, options), own))
    known = {key for command in commands.values() for key in _options(command)}
    for key in _table(path, tables, EVERYWHERE):
        if key not in known:
            raise unknown_name(f"option in [{EVERYWHERE}] of {path}", key, known)
    judge = _options(commands[JUDGE])
    gates = {
        name: _values(path, f"{GATES}.{name}", _table(path, _table(path, tables, GATES), name), judge)
        for name in _table(path, tables, GATES)
    }
    return Configuration(path, found, gates)


def _commands(group: click.Group, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command, those of a group as "figure.filters"."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is not None:
            yield prefix + name, command
        if isinstance(command, click.Group):
            yield from _commands(command, f"{prefix}{name}.")


def _options(command: click.Command) -> dict[str, click.Parameter]:
    """Options by the names they have in the file: those of the command line without dashes in front."""
    return {
        option.lstrip("-"): parameter
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for option in parameter.opts
        if option.startswith("--")
    }


def _table(path: Path, tables: Mapping[str, Any], name: str) -> dict[str, Any]:
    table = tables.get(name, {})
    if not isinstance(table, dict):
        raise UsageError(f"{name} in {path} is no table", "it holds a value", "write its name in [ ] above its options")
    return table


def _own(path: Path, tables: Mapping[str, Any], name: str, command: click.Command) -> dict[str, Any]:
    """The options of one command, without the tables of its subcommands."""
    parent, _, child = name.partition(".")
    table = _table(path, tables, parent)
    table = _table(path, table, child) if child else table
    subcommands = command.commands if isinstance(command, click.Group) else {}
    return {key: value for key, value in table.items() if key not in subcommands}


def _values(
    path: Path,
    section: str,
    table: Mapping[str, Any],
    options: Mapping[str, click.Parameter],
    command: click.Command | None = None,
) -> dict[str, Any]:
    """Values by parameter, in the shapes that click takes."""
    found = {}
    for key, value in table.items():
        if key not in options:
            subcommands = command.commands if isinstance(command, click.Group) else {}
            raise unknown_name(f"option in [{section}] of {path}", key, [*options, *subcommands])
        parameter = options[key]
        if isinstance(value, dict):  # NAME=VALUE pairs, such as set and min-accuracy
            value = [f"{name}={part}" for name, part in value.items()]
        if isinstance(value, list) != parameter.multiple:
            if isinstance(value, list):
                raise UsageError(f"{key} in [{section}] of {path} takes one value", "it is a list", "give one")
            value = [value]
        for part in value if isinstance(value, list) else [value]:
            _check_kind(path, section, key, part, parameter)
        found[str(parameter.name)] = value
    return found


def _check_kind(path: Path, section: str, key: str, value: object, parameter: click.Parameter) -> None:
    """Refuse what click would bend without a word, as 2.7 to 2, or stumble over, as 7 for a flag."""
    flag = isinstance(parameter.type, click.types.BoolParamType)
    whole = isinstance(parameter.type, click.types.IntParamType)
    kinds = (bool, str) if flag else (int, str) if whole else (int, float, str)
    if not isinstance(value, kinds) or (not isinstance(value, str) and isinstance(value, bool) != flag):
        wanted = "true or false" if flag else "a whole number" if whole else "a number or a text"
        raise UsageError(f"{key} = {value} in [{section}] of {path} cannot be used", f"it wants {wanted}", "give that")


def _over(general: Mapping[str, Any], special: dict[str, Any]) -> dict[str, Any]:
    """Both, the special ones before the general: attacks there replace a suite here, and the other way round."""
    replaced = {"attacks": "suite", "suite": "attacks"}
    gone = {replaced[name] for name in special if name in replaced}
    return {name: value for name, value in general.items() if name not in gone} | special


def _place(found: dict[str, Any], name: str, values: dict[str, Any]) -> None:
    parent, _, child = name.partition(".")
    if child:
        found.setdefault(parent, {})[child] = values
    else:
        found.setdefault(parent, {}).update(values)


def choose_gate(context: click.Context, parameter: click.Parameter, name: str | None) -> str | None:
    """Let a gate of the file speak before the options of all commands; a callback of an eager option.

    Raises:
        UsageError: There is no such gate.
    """
    if name is None:
        return None
    configuration = context.find_root().obj or Configuration()
    if not configuration.gates:
        where = configuration.path or FILE
        raise UsageError(f"there is no gate {name!r}", f"{where} has no [gate.{name}]", "write one, as in docs/ci.md")
    if name not in configuration.gates:
        raise unknown_name("gate", name, configuration.gates)
    context.default_map = _over(context.default_map or {}, configuration.gates[name])
    context.meta[GATES] = configuration.gates[name]
    return name


def asked_by_the_gate() -> dict[str, Any]:
    """The options of the gate that was chosen; none without one."""
    found: dict[str, Any] = click.get_current_context().meta.get(GATES, {})
    return found


def rank(name: str) -> int:
    """Where a parameter of the command at hand comes from: 0 the file, 1 the environment, 2 the command line."""
    context, source = click.get_current_context(silent=True), click.core.ParameterSource
    found = context and context.get_parameter_source(name)
    return {source.DEFAULT_MAP: 0, source.ENVIRONMENT: 1}.get(found, 2) if found else 2
