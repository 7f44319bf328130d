"""What to type to make a run again."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from rbfbench.interop.preprocessings import PREPROCESSINGS

if TYPE_CHECKING:
    from rbfbench.attacks import Row


def command_of(spec: dict[str, Any]) -> str:
    """What to type for a run with such a spec."""
    from rbfbench.attacks import AVERAGING, load_suite, single_rows
    from rbfbench.interop import attack_info

    suite, changed = str(spec.get("suite", "")).partition(" ")[::2]
    words = [f"rbfbench attack --model {shlex.quote(spec['model'])} --dataset {shlex.quote(spec['dataset'])}"]
    words.append(f"--norm {spec['norm']} --eps {spec['eps_text']}")
    if suite:
        words.append(f"--suite {suite}")
        usual = load_suite(suite, spec["norm"])
    else:
        words += [f"--attack {row['attack']}" for row in spec["rows"]]
        views = {row["view"] for row in spec["rows"]} - {"none", "static"}
        words += [f"--gradient {view}" for view in sorted(views)]
        usual = single_rows({row["attack"]: attack_info(row["attack"]) for row in spec["rows"]}, "static", 1)
    # Row by row: a run may have changed a row's view, and with it the id that the suite gave it.
    pairs = list(zip(spec["rows"], usual, strict=True))
    for row, before in pairs:
        if row.get("limit") is not None and row["limit"] != before.limit:
            words.append(f"--cap {before.id if suite else before.attack}={row['limit']}")
    words += _settings(pairs)
    averaged = [row for row in spec["rows"] if row["view"] in AVERAGING]
    if averaged and (changed or not suite):
        words.append(f"--eot-samples {averaged[0]['draws']} --objective {averaged[0]['objective']}")
    words += _changes(spec)
    words += [f"--{flag.replace('_', '-')}" for flag in ("worst_case", "include_transfer") if spec.get(flag)]
    words += [f"--surrogate {shlex.quote(name)}" for name in spec.get("surrogates", ())]
    return " ".join([*words, f"--limit {spec['limit']} --seed {spec['seed']} --passes {spec['passes']}"])


def certify_command_of(spec: dict[str, Any]) -> str:
    """What to type for certificates with such a spec."""
    words = [f"rbfbench certify --model {shlex.quote(spec['model'])} --dataset {shlex.quote(spec['dataset'])}"]
    words += [f"--{name} {spec[name]}" for name in ("sigma", "n0", "n", "alpha")]
    if spec["radii"]:
        words.append(f"--radii {','.join(map(str, spec['radii']))}")
    words += _changes(spec)
    return " ".join([*words, f"--limit {spec['limit']} --seed {spec['seed']}"])


def _changes(spec: dict[str, Any]) -> list[str]:
    """The options that change the model."""
    return [_flag(name, value) for name, value in {**spec.get("knobs", {}), **spec.get("loading", {})}.items()]


def _settings(pairs: list[tuple[dict[str, Any], Row]]) -> list[str]:
    """What to set where rows of a run differ from what they usually are, each name and parameter once."""
    named: dict[str, str] = {}
    changed: set[tuple[str, str]] = set()
    # Rows without a label come first: their name is the attack of those with one as well, and sets these too, so that
    # these must be set after it, to whatever they have.
    for row, before in sorted(pairs, key=lambda pair: pair[1].label != ""):
        name = before.id.partition("/")[0]
        for key, value in row["parameters"].items():
            if value == before.parameters.get(key) and (row["attack"], key) not in changed:
                continue
            if name == row["attack"]:
                changed.add((name, key))
            named[f"{name}.{key}"] = str(value).lower() if isinstance(value, bool) else str(value)
    return [f"--set {target}={value}" for target, value in named.items()]


def _flag(name: str, value: Any) -> str:  # noqa: ANN401  (a knob or a loading option)
    option = f"--{name.replace('_', '-')}"
    if name == "clip":
        return option if value else "--no-clip"
    if name == "defenses":
        return " ".join(
            f"--defense {defense}:{PREPROCESSINGS[defense].parameter}={number}" for defense, number in value
        )
    return f"{option}={','.join(map(str, value)) if isinstance(value, list | tuple) else value}"
