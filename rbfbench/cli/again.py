"""What to type to make a run again."""

from __future__ import annotations

import shlex
from typing import Any

from rbfbench.interop.preprocessings import PREPROCESSINGS


def command_of(spec: dict[str, Any]) -> str:
    """What to type for a run with such a spec."""
    from rbfbench.attacks import AVERAGING, load_suite
    from rbfbench.interop import attack_info

    suite, changed = str(spec.get("suite", "")).partition(" ")[::2]
    words = [f"rbfbench attack --model {shlex.quote(spec['model'])} --dataset {shlex.quote(spec['dataset'])}"]
    words.append(f"--norm {spec['norm']} --eps {spec['eps_text']}")
    frozen = load_suite(suite, spec["norm"]) if suite else []
    if suite:
        words.append(f"--suite {suite}")
        usual = {row.id: row.parameters for row in frozen} if changed else {}
    else:
        words += [f"--attack {row['attack']}" for row in spec["rows"]]
        views = {row["view"] for row in spec["rows"]} - {"none", "static"}
        words += [f"--gradient {view}" for view in sorted(views)]
        usual = {
            _id(row): {name: p.default for name, p in attack_info(row["attack"]).parameters.items()}
            for row in spec["rows"]
        }
    caps = {row.id: row.limit for row in frozen}
    for row in spec["rows"]:
        if row.get("limit") is not None and row["limit"] != caps.get(_id(row)):
            words.append(f"--cap {_id(row) if suite else row['attack']}={row['limit']}")
    for row in spec["rows"] if usual else ():
        name = row["attack"] + (f"-{row['label']}" if row["label"] else "")
        for key, value in row["parameters"].items():
            if value != usual.get(_id(row), {}).get(key):
                words.append(f"--set {name}.{key}={str(value).lower() if isinstance(value, bool) else value}")
    averaged = [row for row in spec["rows"] if row["view"] in AVERAGING]
    if averaged and (changed or not suite):
        words.append(f"--eot-samples {averaged[0]['draws']} --objective {averaged[0]['objective']}")
    words += [_flag(name, value) for name, value in {**spec.get("knobs", {}), **spec.get("loading", {})}.items()]
    words += [f"--{flag.replace('_', '-')}" for flag in ("worst_case", "include_transfer") if spec.get(flag)]
    words += [f"--surrogate {shlex.quote(name)}" for name in spec.get("surrogates", ())]
    return " ".join([*words, f"--limit {spec['limit']} --seed {spec['seed']} --passes {spec['passes']}"])


def _flag(name: str, value: Any) -> str:  # noqa: ANN401  (a knob or a loading option)
    option = f"--{name.replace('_', '-')}"
    if name == "clip":
        return option if value else "--no-clip"
    if name == "defenses":
        return " ".join(
            f"--defense {defense}:{PREPROCESSINGS[defense].parameter}={number}" for defense, number in value
        )
    return f"{option}={','.join(map(str, value)) if isinstance(value, list | tuple) else value}"


def _id(row: dict[str, Any]) -> str:
    view = "" if row["view"] == "none" else f"/{row['view']}"
    return f"{row['attack']}{'-' + row['label'] if row['label'] else ''}{view}"
