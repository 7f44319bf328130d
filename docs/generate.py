"""Pages of the site that are made from the tables: one for each attack and each shipped model, with their lists."""

from __future__ import annotations

import math
import re
import shutil
import sys
from collections.abc import Iterable
from inspect import getdoc
from pathlib import Path

from rbfbench.attacks import ATTACKS, SUITES, AttackInfo, Parameter, load_suite
from rbfbench.attacks.table import POSITIVE
from rbfbench.defenses import SHIPPED, WEIGHTS, shipped_for
from rbfbench.interop.preprocessings import PREPROCESSINGS

KINDS = {
    "budget": "budget: it keeps to the ball and to [0,1]",
    "minimum-norm": "minimum-norm: it looks for the nearest adversarial example, whatever the radius",
    "control": "control: it knows nothing of the model, and never enters the worst case",
}
TYPES = {"int": "whole number", "float": "number", "bool": "switch", "choice": "choice"}
RADII = {"linf": "0.1", "l2": "1", "l1": "3"}  # for the digits of the example commands
ARXIV = re.compile(r"(?:arXiv )?\b(\d{4}\.\d{4,5})\b")


def write(folder: Path) -> None:
    """Write all pages into a folder; whatever was in it goes, so that no page outlives what it is about."""
    shutil.rmtree(folder, ignore_errors=True)
    for place, text in pages().items():
        file = folder / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


def pages() -> dict[str, str]:
    """Path of each page in the folder, and its Markdown."""
    made = {"attacks/index.md": attack_list(), "defences/index.md": defence_list()}
    made |= {f"attacks/{name}.md": attack_page(name) for name in ATTACKS}
    return made | {f"defences/{stem(name)}.md": model_page(name) for name in SHIPPED}


def attack_list() -> str:
    """All attacks and all suites."""
    attacks = [
        (f"[{name}]({name}.md)", info.kind, " ".join(info.norms), linked(info.reference), linked(info.about))
        for name, info in ATTACKS.items()
    ]
    suites = [
        (
            f"`{name}`",
            linked(about),
            ", ".join(dict.fromkeys(f"[{row.id}]({row.attack}.md)" for row in load_suite(name))),
        )
        for name, about in SUITES.items()
    ]
    return f"""# Attacks

`--attack NAME` runs one of these; `--suite NAME` a frozen list of them. Attacks of foolbox and ART are on [another
page](../../foreign-attacks.md).

{table(("attack", "kind", "norms", "reference", "about"), attacks)}

## Suites

{table(("suite", "about", "rows"), suites)}

{hidden(ATTACKS)}
"""


def attack_page(name: str) -> str:
    """What the table and the docstrings say about one attack."""
    info = ATTACKS[name]
    function = info.resolve()
    text, arguments, returns = sections(getdoc(function) or "")
    module, _, called = info.function.partition(":")
    forwards, backwards = info.passes({key: parameter.default for key, parameter in info.parameters.items()})
    rows = [
        (f"`{key}`", f"`{shown(p)}`", TYPES[p.kind], bounds(p), linked(arguments[key]))
        for key, p in info.parameters.items()
    ]
    given = "\n".join(f"- `{key}`: {linked(said)}" for key, said in arguments.items() if key not in info.parameters)
    return f"""# {name}

{sentence(info.about)}

- **Reference**: {linked(info.reference)}
- **Norms**: {", ".join(info.norms)}
- **Kind**: {KINDS[info.kind]}
- **Needs**: {needs(info)}
- **Most passes by the defaults**, for each image and draw: {forwards:,} forward, {backwards:,} backward
- **Suites**: {suites_with(name)}

```
{example(name)}
```

## Parameters

{table(("parameter", "default", "kind", "range", "meaning"), rows) if rows else "There is nothing to set."}

## How it works

`{module}`: {linked(getdoc(sys.modules[module]) or "")}

`{module}.{called}`: {linked(text)}

What the function is given by the run:

{given}

Returns: {linked(returns)}

[All attacks](index.md)
"""


def needs(info: AttackInfo) -> str:
    """What an attack must see."""
    if info.surrogate:
        return "other models, on which it walks; its candidates are scored on the target"
    seen = "gradients of the model" if info.gradient else "no gradient"
    return seen + ("; images in groups, since those of a batch act on each other" if info.coupled else "")


def suites_with(name: str) -> str:
    """The suites that hold an attack, with the rows in which they do."""
    found = {suite: dict.fromkeys(row.id for row in load_suite(suite) if row.attack == name) for suite in SUITES}
    return ", ".join(f"`{suite}` ({', '.join(ids)})" for suite, ids in found.items() if ids) or "none"


def example(name: str) -> str:
    """A command that runs an attack, with one parameter changed if there is one."""
    info = ATTACKS[name]
    norm = info.norms[0]
    command = f"rbfbench attack --attack {name} --norm {norm} --eps {RADII[norm]} --dataset digits"
    for key, p in info.parameters.items():
        if isinstance(p.default, str):
            return f"{command} --set {name}.{key}={p.choices[-1]}"
        if p.default is not None:
            return f"{command} --set {name}.{key}={2 * p.default}"
    return command


def shown(parameter: Parameter) -> str:
    """Its default, as `--set` takes it."""
    if parameter.default is None:
        return "none"
    return str(parameter.default).lower() if parameter.kind == "bool" else str(parameter.default)


def bounds(parameter: Parameter) -> str:
    """The values that a parameter takes."""
    if parameter.kind == "bool":
        return "true, false"
    if parameter.kind == "choice":
        return ", ".join(parameter.choices)
    special = {-math.inf: "any", POSITIVE: "above 0"}
    least = special.get(parameter.least, f"at least {parameter.least:g}")
    return least + (f", at most {parameter.most:g}" if parameter.most < math.inf else "")


def sections(docstring: str) -> tuple[str, dict[str, str], str]:
    """Text, arguments and result of a Google-style docstring."""
    text, _, rest = docstring.partition("\nArgs:\n")
    arguments, _, returns = rest.partition("\nReturns:\n")
    entries = re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", arguments, re.MULTILINE)
    return text.strip(), {key: " ".join(said.split()) for key, said in entries}, " ".join(returns.split())


def defence_list() -> str:
    """The shipped models, and what can stand before any model."""
    models = [
        (f"[{name}]({stem(name)}.md)", ", ".join(shipped_for(name)), linked(about)) for name, about in SHIPPED.items()
    ]
    before = [
        (f"`{name}`", f"`{p.parameter}={p.default}`", f"{p.least} to {p.most}{', odd' * p.odd}", linked(p.about))
        for name, p in PREPROCESSINGS.items()
    ]
    commands = "\n".join(
        f"rbfbench attack --model cnn --defense {name}:{p.parameter}={p.default} --dataset digits --eps {RADII['linf']}"
        for name, p in PREPROCESSINGS.items()
    )
    return f"""# Defences

## Shipped models

`--model NAME` takes one of these; without it the first. How RBF-CNN works is explained in [RBF-CNN, line by
line](../../rbf-cnn.md). Your own defence is a [model from elsewhere](../../models.md).

{table(("model", "data sets", "about"), models)}

## In front of any model

`--defense NAME` puts one of these before the model; it may be repeated, and the first one sees the image first.

{table(("defence", "default", "range", "about"), before)}

```
{commands}
```

{hidden(map(stem, SHIPPED))}
"""


def model_page(name: str) -> str:
    """What a shipped model is, and its card for each data set."""
    datasets = shipped_for(name)
    images = f"digits --eps {RADII['linf']}" if "digits" in datasets else datasets[0]
    return f"""# {name}

{sentence(SHIPPED[name])}

- **Data sets**: {", ".join(datasets)}
- **How it works**: [RBF-CNN, line by line](../../rbf-cnn.md), with its controls and their training

```
rbfbench attack --model {name} --dataset {images}
```

{"".join(map(card, (WEIGHTS / f"{dataset}-{name}.md" for dataset in datasets)))}
[All defences](index.md)
"""


def card(file: Path) -> str:
    """The card of a weights file as a section; its constants can be folded out."""
    _, _, text = file.read_text(encoding="utf-8").partition("\n")
    said, _, constants = text.partition("```json")
    dataset = file.stem.partition("-")[0]
    return (
        f"## On {dataset}\n{said}<details><summary>All constants of the training</summary>\n\n"
        f"```json{constants.rstrip()}\n\n</details>\n\n"
    )


def stem(name: str) -> str:
    """Name of the page of a model, without what addresses do not take well."""
    return name.replace("+", "-plus")


def sentence(text: str) -> str:
    """A line of a table, to stand alone."""
    return f"{linked(text[0].upper() + text[1:])}."


def linked(text: str) -> str:
    """The text, with arXiv numbers as links."""
    return ARXIV.sub(r"[\g<0>](https://arxiv.org/abs/\1)", text)


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    heads = list(heads)
    cells = [heads, ["---"] * len(heads), *([cell.replace("|", r"\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def hidden(names: Iterable[str]) -> str:
    """A table of contents for the side bar only."""
    return "\n".join(("```{toctree}", ":hidden:", "", *names, "```"))
