"""RESULTS.md from the result files: our numbers beside the paper's.

Usage: python benchmarks/results_page.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from paper import CERTIFIED, PAPER, TRADE_OFF, Numbers

HERE = Path(__file__).parent
TITLES = {
    "1": "Table I: attacks under linf",
    "5-l1": "Table V, first half: attacks under l1",
    "5-l2": "Table V, second half: attacks under l2",
    "6": "Table VI: certified accuracy under l2",
    "7": "Table VII: noise against accuracy, linf",
    "quick": "Quick run on the digits, linf 0.15 (no numbers of the paper)",
}
INTRO = """# Results

The tables of *Approximate Manifold Defense Against Multiple Adversarial Perturbations* (arXiv 2004.02183), run again
with the models shipped here. Made by `python benchmarks/results_page.py` from the files in `benchmarks/results/`; each
of them names its commands, seed, commit, versions, hardware and times. A cell is our accuracy in percent with its 95%
interval; where the paper has a number, it follows after "paper". An empty cell was not run.

The models are smaller than the paper's, and were trained for fewer epochs (see their cards): a difference to the paper
can come from that. What does not depend on it is how the columns of one table compare: they were trained alike.
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
    return "\n".join([INTRO, *(line for result in results for line in section(result))]) + "\n"


def section(result: dict[str, Any]) -> Iterator[str]:
    """One table of one data set."""
    table, dataset, columns = result["table"], result["dataset"], result["columns"]
    yield f"## {TITLES[table]}, {dataset}\n"
    if table == "6":
        yield from certified(dataset, columns)
    else:
        yield from attacked(columns, _paper(table, dataset, list(columns)))
    yield ""
    yield from provenance(columns)


def _paper(table: str, dataset: str, columns: list[str]) -> Numbers:
    """The paper's numbers by row and column."""
    if table != "7":
        return PAPER.get((table, dataset), {})
    found: Numbers = {}
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


def provenance(columns: dict[str, Any]) -> Iterator[str]:
    """Commands, and where and how long they ran."""
    for name, column in columns.items():
        made = column["environment"]
        n = (column.get("clean") or column["certified"][0])["n"]
        checks = f"; fired: {', '.join(sorted(column['checks']))}" if column.get("checks") else ""
        yield (
            f"- {name}: {n} images ({column['source']}), `{column['command']}`, {column['wall_s']:.0f} s on "
            f"{made['device']}, {made['threads']} threads, torch {made['torch']}, commit {made['git']}{checks}"
        )
    yield ""


def main() -> None:
    """Write the page."""
    order = list(TITLES)
    results = [json.loads(path.read_text(encoding="utf-8")) for path in (HERE / "results").glob("table-*.json")]
    results.sort(key=lambda result: (order.index(result["table"]), result["dataset"]))
    (HERE / "RESULTS.md").write_text(page(results), encoding="utf-8")


if __name__ == "__main__":
    main()
