"""The paper's tables, run again.

Usage: python benchmarks/reproduce.py TABLE --dataset mnist [--limit 1000] [--work DIR]

TABLE is 1 (linf attacks), 5-l1, 5-l2, 6 (certificates), 7 (noise against accuracy), or quick: short attacks on
the digits, in minutes. Each model of a table is one command of rbfbench with a folder of its own under
--work, so a run that was killed goes on with the same command. Writes benchmarks/results/table-TABLE-DATASET.json;
benchmarks/results_page.py makes RESULTS.md of these files.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from paper import CERTIFIED, RADII, TRADE_OFF

from rbfbench.defenses import shipped_path

RESULTS = Path(__file__).parent / "results"
MODELS = ("cnn", "cnn-ls", "cnn-ls-noise", "madry", "rcnn", "rcnn+")
ATTACKED = {"1": ("linf", "paper-linf"), "5-l1": ("l1", "paper-l1"), "5-l2": ("l2", "paper-l2")}
TRADE_OFF_ROWS = ("pgd", "cw")
QUICK = ("--set", "pgd.steps=10", "--set", "pgd.restarts=1", "--set", "cw.steps=10", "--set", "cw.restarts=1")


class Job(NamedTuple):
    """One command.

    Attributes:
        name: Of its folder and of its column, such as "rcnn+" or "rcnn+ beta2=1.75".
        words: The command without `rbfbench`.
        document: File in the folder that holds its result.
    """

    name: str
    words: tuple[str, ...]
    document: str = "run.json"


def jobs(table: str, dataset: str, limit: int, draws: int) -> Iterator[Job]:
    """The commands of a table; models that are not shipped for a data set have none."""
    there = [model for model in MODELS if shipped_path(model, dataset)]
    common = ("--dataset", dataset, "--limit", str(limit))
    if table == "quick":
        for model in there:
            attacks = ("--attack", "fgsm", "--attack", "pgd", "--attack", "cw", *QUICK)
            yield Job(model, ("attack", "--model", model, *common, "--norm", "linf", "--eps", "0.15", *attacks))
    elif table == "6":
        for model in there:
            sigmas = {sigma for sigma, _ in CERTIFIED[dataset].values()}  # each at the others' too
            radii = ",".join(f"{radius:g}" for radius in CERTIFIED[dataset]["rcnn+"][1])
            for sigma in sorted(sigmas):
                how = ("--sigma", f"{sigma:g}", "--n", str(draws), "--radii", radii)
                yield Job(f"{model} sigma={sigma:g}", ("certify", "--model", model, *common, *how), "certify.json")
    elif table == "7":
        for beta2 in TRADE_OFF[dataset]:
            attacks = tuple(word for name in TRADE_OFF_ROWS for word in ("--attack", name))
            words = ("attack", "--model", "rcnn+", *common, "--norm", "linf", "--eps", RADII[dataset]["linf"])
            yield Job(f"rcnn+ beta2={beta2}", (*words, "--beta2", beta2, *attacks))
            if float(beta2):
                adaptive = ("--attack", "pgd", "--gradient", "bpda-eot", "--objective", "mean-of-losses")
                yield Job(f"rcnn+ adaptive, beta2={beta2}", (*words, "--beta2", beta2, *adaptive))
    else:
        norm, suite = ATTACKED[table]
        for model in there:
            words = ("attack", "--model", model, *common, "--norm", norm, "--eps", RADII[dataset][norm])
            yield Job(model, (*words, "--suite", suite, "--passes", "10"))


def run(job: Job, folder: Path, extra: Sequence[str]) -> dict[str, Any]:
    """The result of a command, which goes on where an earlier one was killed."""
    out = folder / job.name.replace(" ", "_")
    words = [*job.words, *extra, "--out", str(out)]
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "from rbfbench.cli import main; main()", *words], check=True)  # noqa: S603
    document = json.loads((out / job.document).read_text(encoding="utf-8"))
    return brief(document) | {"command": " ".join(["rbfbench", *job.words]), "wall_s": time.monotonic() - began}


def brief(document: dict[str, Any]) -> dict[str, Any]:
    """What the tables need of run.json or certify.json."""
    kept: dict[str, Any] = {name: document[name] for name in ("model_digest", "data_digest", "environment")}
    kept["seed"], kept["source"] = document["spec"]["seed"], document["spec"]["source"]
    if "certified" in document:
        return kept | {name: document[name] for name in ("certified", "ceiling", "abstained")}
    fields = ("accuracy", "k", "n", "ci95", "wall_s")
    rows = {row["id"]: {name: row[name] for name in fields} for row in document["attacks"]}
    fired = {check["code"]: check["detail"] for check in document["checks"] if check["fired"]}
    return kept | {
        "clean": document["clean"],
        "rows": rows,
        "worst_case": document["worst_case"],
        "null_attack": document["null_attack"],
        "checks": fired,
        "status": document["status"],
    }


def main() -> None:
    """Run a table and write its file after every command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=[*ATTACKED, "6", "7", "quick"])
    parser.add_argument("--dataset", choices=["mnist", "cifar10"], default="mnist")
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=50_000, help="of a certificate")
    parser.add_argument("--work", type=Path, default=Path("~/.cache/rbfbench/tables").expanduser())
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("extra", nargs="*", help="after --: options for every command, as --device cuda")
    given = parser.parse_args()
    dataset = "digits" if given.table == "quick" else given.dataset
    target = given.results / f"table-{given.table}-{dataset}.json"
    results: dict[str, Any] = {"table": given.table, "dataset": dataset, "columns": {}}
    for job in jobs(given.table, dataset, given.limit, given.draws):
        folder = given.work / f"{given.table}-{dataset}-{given.limit}"
        results["columns"][job.name] = run(job, folder, given.extra)
        target.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print(f"{job.name}: {results['columns'][job.name]['wall_s']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
