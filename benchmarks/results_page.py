"""RESULTS.md from the result files: our numbers beside the paper's.

Usage: python benchmarks/results_page.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import fsum
from pathlib import Path
from statistics import median
from typing import Any

from claims import judged
from paper import BEYOND_BOUND, CERTIFIED, PAPER, STRONGEST, TRADE_OFF, TRAINING, Numbers
from reproduce import COMPUTED, MODELS
from training_time import common_accuracy, seconds_to

DATASETS = ("mnist", "cifar10")
HERE = Path(__file__).parent
TITLES = {
    "claim-1": "Claim 1: what the reconstruction passes on of a change of its input",
    "1": "Table I: attacks under linf",
    "2": "Table II: time of training",
    "3": "Table III: the strongest of all attacks under linf",
    "3-l1": "As Table III, under l1: the strongest of all attacks",
    "3-l2": "As Table III, under l2: the strongest of all attacks",
    "4": "Table IV: within and beyond the bound, linf",
    "5-l1": "Table V, first half: attacks under l1",
    "5-l2": "Table V, second half: attacks under l2",
    "6": "Table VI: certified accuracy under l2",
    "7": "Table VII: noise against accuracy, linf",
    "beyond-linf": "Beyond the paper: linf",
    "autoattack": "Beyond the paper: AutoAttack, linf",
    "beyond-l2": "Beyond the paper: l2",
    "beyond-l1": "Beyond the paper: l1",
    "union": "Union over l1, l2 and linf: each image meets the strongest of all attacks under all three norms",
    "quick": "Quick run, linf (no numbers of the paper)",
}
INTRO = """# Results

The tables of *Approximate Manifold Defense Against Multiple Adversarial Perturbations* (arXiv 2004.02183), run again
with the models shipped here. Made by `python benchmarks/results_page.py` from the files in `benchmarks/results/`; each
of them names its commands, seed, commit, versions, hardware and times. A cell is our accuracy in percent with its 95%
interval; where the paper has a number, it follows after "paper". An empty cell was not run.

The models are smaller than the paper's, and were trained for fewer epochs (see their cards): a difference to the paper
can come from that. The columns of one table share images, attacks and, on MNIST, the classifier behind the defence; how
long each was trained is on its card.

Attacks are on the first images of the test file; "n" beside a cell says where a row took fewer than its column, and the
commands say which steps were shortened. A worst case over attacks that ran on fewer images holds those attacks for
those images only. On a random model each image's strongest candidate is chosen on some draws and scored on others, so
that luck does not pass for strength; such a worst case can lie above that of its strongest row.
"""


def score(found: dict[str, Any] | None) -> str:
    """An accuracy with its interval, and n."""
    if found is None:
        return ""
    low, high = found["ci95"]
    return f"{100 * found['accuracy']:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def beside(found: dict[str, Any] | None, paper: float | None) -> str:
    """Ours, and the paper's if there is one."""
    return (score(found) + (f" paper {paper:g}" if paper is not None and found else "")).strip()


def page(results: list[dict[str, Any]]) -> str:
    """The whole page."""
    return "\n".join([INTRO, *claimed(results), *(line for result in results for line in section(result))]) + "\n"


def claimed(results: list[dict[str, Any]]) -> Iterator[str]:
    """The paper's claims and what our numbers say of them."""
    yield "## What holds of the paper's claims\n"
    yield (
        "Judged by a rule for each claim (`benchmarks/claims.py`): accuracies differ where their 95% intervals lie\n"
        "apart, and a number of the paper is reached where it does not lie above our interval.\n"
    )
    for dataset in DATASETS:
        tables = {result["table"]: result["columns"] for result in results if result["dataset"] == dataset}
        found = list(judged(dataset, tables))
        if not found:
            yield f"### {dataset}: not tested yet\n"
            continue
        yield f"### {dataset}\n"
        yield "| claim | verdict | the numbers |"
        yield "|---|---|---|"
        for each in found:
            yield f"| {each.claim} | {each.verdict} | {each.evidence} |"
        yield ""


def section(result: dict[str, Any]) -> Iterator[str]:
    """One table of one data set."""
    table, dataset = result["table"], result["dataset"]
    models = {model: place for place, model in enumerate(MODELS)}
    columns = dict(sorted(result["columns"].items(), key=lambda item: models.get(item[0].partition(" ")[0], 0)))
    yield f"## {TITLES[table]}, {dataset}\n"
    if table == "6":
        yield from certified(dataset, columns)
    elif table == "2":
        yield from timed(dataset, columns)
    elif table == "claim-1":
        yield from passed_on(columns)
    elif table in COMPUTED:
        yield from strongest(dataset, columns, table)
    else:
        yield from attacked(columns, _paper(table, dataset, list(columns)))
    yield ""
    if table == "2":
        one = next(iter(columns.values()))
        yield f"- all: `{one['command']}`, {one['wall_s']:.0f} s on {where(one)}\n"
    elif table not in COMPUTED:
        yield from provenance(columns)


def timed(dataset: str, columns: dict[str, Any]) -> Iterator[str]:
    """Seconds an epoch and until equal accuracy, in units of rcnn+, beside the paper's."""
    said, ours = TRAINING[dataset], columns["rcnn+"]
    common = common_accuracy(columns)
    some = next(iter(columns.values()))
    yield (
        f"Epochs and what is done once are scaled from {some['images']} to all {some['of']} training images; an epoch "
        f"is the median of {len(some['epoch_s'])} with their range. The last ratio is of the time in epochs until "
        f"{100 * common:.1f}% of the held-out images are right without attack, which every training reached.\n"
    )
    yield "| | seconds an epoch | over rcnn+ | paper | seconds once | paper | to equal accuracy, over rcnn+ |"
    yield "|---|---|---|---|---|---|---|"
    for name, column in columns.items():
        low, middle, high = min(column["epoch_s"]), median(column["epoch_s"]), max(column["epoch_s"])
        epochs = f"{middle:.0f} ({low:.0f} to {high:.0f}) | {middle / median(ours['epoch_s']):.2f}"
        ratio, once = (f"{said[name][1] / said['rcnn+'][1]:.2f}", f"{said[name][2]:g}") if name in said else ("", "")
        until, unit = seconds_to(column, common), seconds_to(ours, common)
        equal = f"{until / unit:.2f}" if until and unit else ""
        yield f"| {name} | {epochs} | {ratio} | {column['besides_s']:.0f} | {once} | {equal} |"


def passed_on(columns: dict[str, Any]) -> Iterator[str]:
    """Ratios of Euclidean lengths, after over before: random changes, and those that pass best."""
    yield "| | norm | eps | change | mean | largest | images |"
    yield "|---|---|---|---|---|---|---|"
    for name, column in columns.items():
        for row in column["ratios"]:
            ratios = f"{row['mean']:.3f} | {row['largest']:.3f} | {row['n']}"
            yield f"| {name} | {row['norm']} | {row['eps']:g} | {row['kind']} | {ratios} |"


def strongest(dataset: str, columns: dict[str, Any], table: str) -> Iterator[str]:
    """The worst case over tables, a model a row; what the paper cites of others is not run."""
    said = STRONGEST[dataset] if table == "3" else {}
    yield "| | accuracy | strongest alone | attacks | paper | its strongest |"
    yield "|---|---|---|---|---|---|"
    for name in dict.fromkeys([*columns, *said]):
        paper = f"{said[name][0]:g} | {said[name][1]}" if name in said else " | "
        found = columns.get(name)
        if found is None:
            yield f"| {name} (not run) | | | | {paper} |"
            continue
        alone = found["strongest"]
        where = f"{alone['row']} under {alone['norm']}, {100 * alone['accuracy']:.1f}"
        yield f"| {name} | {score(found)}, n {found['n']} | {where} | {found['attacks']} | {paper} |"


def _paper(table: str, dataset: str, columns: list[str]) -> Numbers:
    """The paper's numbers by row and column."""
    found: Numbers = {}
    if table == "4":
        for column in columns:
            model, _, eps = column.partition(" eps=")
            found.setdefault("worst case", {})[column] = BEYOND_BOUND[dataset][model][eps]
        return found
    if table != "7":
        return PAPER.get((table, dataset), {})
    for column in columns:
        for row, by_model in TRADE_OFF[dataset][column.rpartition("=")[2]].items():
            found.setdefault(row, {})[column] = by_model["rcnn+"]
    return found


def attacked(columns: dict[str, Any], paper: Numbers) -> Iterator[str]:
    """Clean, every attack, the worst case and the null control."""
    rows = list(dict.fromkeys(row for column in columns.values() for row in column["rows"]))
    yield f"| | {' | '.join(columns)} |"
    yield f"|---|{'---|' * len(columns)}"
    for row in ("clean", *rows, "worst case", "null control"):
        cells = []
        for name, column in columns.items():
            found = {
                "clean": column["clean"],
                "worst case": column["worst_case"],
                "null control": column["null_attack"],
            } | column["rows"]
            capped = f", n {found[row]['n']}" if found.get(row) and found[row]["n"] != column["clean"]["n"] else ""
            cells.append(beside(found.get(row), paper.get(row, {}).get(name)) + capped)
        yield f"| {row} | {' | '.join(cells)} |"


def certified(dataset: str, columns: dict[str, Any]) -> Iterator[str]:
    """Certified accuracy by radius, with the ceiling of each column."""
    radii = [row["radius"] for row in next(iter(columns.values()))["certified"]]
    yield f"| | {' | '.join(f'{radius:g}' if radius else 'answer right' for radius in radii)} | ceiling | abstained |"
    yield f"|---|{'---|' * (len(radii) + 2)}"
    for name, column in columns.items():
        model, _, sigma = name.partition(" sigma=")
        noise, numbers = CERTIFIED[dataset].get(model, (None, {}))
        said = numbers if noise == float(sigma) else {}
        cells = [beside(row, said.get(row["radius"])) for row in column["certified"]]
        yield f"| {name} | {' | '.join(cells)} | {column['ceiling']:.3g} | {column['abstained']} |"


def headline(results: list[dict[str, Any]]) -> Iterator[str]:
    """The table of the README: what is left under all attacks of all tables, a model a row."""
    yield "| model | data | clean | worst case, linf | images | attacks |"
    yield "|---|---|---|---|---|---|"
    for dataset in DATASETS:
        tables = {result["table"]: result["columns"] for result in results if result["dataset"] == dataset}
        for model, found in tables.get("3", {}).items():
            clean = tables["1"][model]["clean"]
            yield f"| `{model}` | {dataset} | {score(clean)} | {score(found)} | {found['n']} | {found['attacks']} |"


def provenance(columns: dict[str, Any]) -> Iterator[str]:
    """Commands, and where and how long they ran."""
    for name, column in columns.items():
        # A command that went on where it was killed took longer than its last run: attacks keep their own times.
        spent = fsum(row["wall_s"] for row in column["rows"].values()) if "rows" in column else column["wall_s"]
        n = column["n"] if "n" in column else (column.get("clean") or column["certified"][0])["n"]
        checks = f"; fired: {', '.join(sorted(column['checks']))}" if column.get("checks") else ""
        yield (
            f"- {name}: {n} images ({column['source']}), `{column['command']}`, {spent:.0f} s on "
            f"{where(column)}{checks}"
        )
    yield ""


def where(column: dict[str, Any]) -> str:
    """Hardware, versions and commit."""
    made = column["environment"]
    return f"{made['device']}, {made['threads']} threads, torch {made['torch']}, commit {made['git']}"


def results() -> list[dict[str, Any]]:
    """All result files, in the order of the page."""
    order = list(TITLES)
    found = [json.loads(path.read_text(encoding="utf-8")) for path in (HERE / "results").glob("table-*.json")]
    return sorted(found, key=lambda result: (order.index(result["table"]), result["dataset"]))


def main() -> None:
    """Write the page."""
    (HERE / "RESULTS.md").write_text(page(results()), encoding="utf-8")


if __name__ == "__main__":
    main()
