"""The paper's tables, run again.

Usage: python benchmarks/reproduce.py TABLE --dataset mnist [--scale small] [--limit N] [--work DIR]

TABLE is one of

  1                        attacks under linf
  2                        what an epoch of training costs
  3, 3-l1, 3-l2            the worst case of each model under a norm, from the result files of all tables of that norm
  4                        within and beyond the bound
  5-l1, 5-l2               attacks under l1 and l2
  6                        certificates
  claim-1                  what the reconstruction passes on of a change of its input
  7, 7-l1, 7-l2            noise against accuracy under a norm
  beyond-linf, -l2, -l1    what the paper did not try: margin losses through the noise, noise that is known, black boxes
  autoattack, -l2, -l1     AutoAttack under a norm; its suite for random models where the model is one
  union                    each image under the strongest attack of all three norms, from those files
  quick                    1, 4 and 6 by the quick suite and few draws, in minutes with --dataset digits
  all                      every table but 2, which wants a machine for itself, and quick

Each model of a table is one command of rbfbench with a folder of its own under --work, so a run that was killed goes
on with the same command. --scale small takes fewer images, draws and steps where a row would take hours on two cores;
the commands in the result files say what benchmarks/RESULTS.md took. A GPU is used if there is one. Full data sets
have to be there: `rbfbench data` says where, and `rbfbench attack --dataset mnist --limit 1 --download` fetches one.
Table 2 takes all models in one run, and --limit training images of each, in --rounds trainings of --epochs epochs.
Writes benchmarks/results/table-TABLE-DATASET.json; benchmarks/results_page.py makes RESULTS.md of these files. A column
of the same name makes way, even if it was of more images; --results FOLDER keeps those that are shipped.

--weights FOLDER takes models that benchmarks/train_models.py wrote there in place of the shipped ones, and keeps runs
and results in it too, unless told otherwise: python benchmarks/results_page.py FOLDER/results makes their page.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from math import fsum
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import msgspec
from outcomes import kept, kept_radii, ran, worst_of
from paper import BETA2, BOUNDS, CERTIFIED, COUNTED, RADII
from scripts import called, ended, make_folder
from training_time import measure

from rbfbench.cli.options import pick_device
from rbfbench.defenses import shipped_path
from rbfbench.errors import LoadError, raised
from rbfbench.evaluation.environment import describe_environment
from rbfbench.results.atomic import write_atomic
from rbfbench.results.certificates import Certificate

RESULTS = Path(__file__).parent / "results"
WORK = Path("~/.cache/rbfbench/tables").expanduser()
AUTHORS = ("rcnn-authors", "rcnn+-authors")  # fixed noise in their scripts; drawn anew in the paper, and here
RANDOM = ("rcnn", "rcnn+", *AUTHORS)
MODELS = ("cnn", "cnn-ls", "cnn-ls-noise", "fast", "trades", "madry", "madry-l2", "madry-l1", *RANDOM)
BOUNDED = ("madry", *RANDOM)
BY = {  # columns whose examples a surrogate makes, and its file
    "rcnn+ by its smoothed self": "benchmarks/smoothed.py",
    "rcnn+ by its reconstructions": "benchmarks/nearest.py",
}
NORMS = ("linf", "l2", "l1")
ATTACKED = {"1": ("linf", "paper-linf"), "5-l1": ("l1", "paper-l1"), "5-l2": ("l2", "paper-l2")}
BEYOND = {f"beyond-{norm}": norm for norm in NORMS}
AUTOATTACK = {"autoattack": "linf", "autoattack-l2": "l2", "autoattack-l1": "l1"}
OF_NORM = {
    norm: (table, f"beyond-{norm}", next(name for name, of in AUTOATTACK.items() if of == norm))
    for table, (norm, _) in ATTACKED.items()
}
COMPUTED = {"3": ("linf",), "3-l1": ("l1",), "3-l2": ("l2",), "union": NORMS}
TRADED = {"7": ("linf", "cw"), "7-l1": ("l1", "ead"), "7-l2": ("l2", "cw-l2")}  # beside PGD and its transfer
SURVIVORS = ("--suite", "autoattack", "--worst-case")  # as its authors run it: nothing random can be broken for sure
GRADIENTS = ("--attack", "apgd-ce", "--attack", "apgd-t", "--attack", "fab-t")  # of AutoAttack
UNSEEN, KNOWN = ("--gradient", "static", *GRADIENTS), ("--gradient", "eot", *GRADIENTS)
THROUGH = ("--gradient", "eot", "--objective", "mean-of-losses")
TARGETED = {"targeted": "apgd-t", "nearest": "fab-t"}  # what the suite for random models leaves out, through the noise
UNSEEN_SMALL = ("--cap", "apgd-t/static=200", "--cap", "fab-t/static=200")
TRANSFER = (
    *("--attack", "transfer", "--set", "transfer.loss=ce"),
    *("--set", "transfer.steps=100", "--set", "transfer.decay=0"),
)

# What --scale small changes: images, draws, and starts, steps and pairs where a row would take hours. The suites cap
# rows that look through the noise, or at groups, or for the nearest example, to 200 images, and Square to 50.
LIMITS = {"mnist": 100, "cifar10": 50, "digits": 100}
LIMITS_OF = {
    "mnist": dict.fromkeys(OF_NORM["linf"], 200) | {"7-l2": 50, "7-l1": 50},
    "cifar10": {"1": 100, "beyond-linf": 100, "claim-1": 100, "6": 20},
}
DRAWS = {"small": 2000, "full": COUNTED}
_GROUPS = tuple(
    word for kind in ("daa-blob", "daa-dgf") for word in ("--set", f"{kind}.restarts=1", "--set", f"{kind}.steps=100")
)
NEAREST_SMALL = {"ead": ("--set", "ead.steps=200"), "cw-l2": ("--set", "cw-l2.steps=200")}
SMALL: dict[str, tuple[str, ...]] = {
    "1": (*_GROUPS, "--set", "spsa.pairs=64"),
    "5-l1": NEAREST_SMALL["ead"],
    "5-l2": NEAREST_SMALL["cw-l2"],
}
RANDOM_SMALL: dict[str, tuple[str, ...]] = {
    "1": (*_GROUPS, "--cap", "spsa=20", "--set", "spsa.pairs=32", "--set", "spsa.steps=50"),
    "5-l1": SMALL["5-l1"],
    "5-l2": SMALL["5-l2"],
    **dict.fromkeys(TRADED, ("--cap", "apgd-ce/eot=200")),
    **dict.fromkeys(AUTOATTACK, ("--cap", "apgd-ce/eot=200", "--cap", "apgd-dlr/eot=200")),
}


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


class Plan(NamedTuple):
    """What the commands of a table share.

    Attributes:
        table: Its name.
        dataset: Data set.
        models: Those that are shipped for it.
        limit: Images.
        draws: Of a certificate.
        scale: "full" or "small".
        weights: Folder of the models; None takes the shipped ones.
    """

    table: str
    dataset: str
    models: Sequence[str]
    limit: int
    draws: int
    scale: str
    weights: Path | None = None

    def model(self, name: str, scope: str | None = None) -> tuple[str, ...]:
        """Which model, of which data set, and whom a draw of its noise belongs to (None: as it was made)."""
        path = weights_path(self.weights, self.dataset, name)
        if scope is None and (name in AUTHORS or (self.weights and name in RANDOM)):
            scope = "image"
        drawn = ("--noise-scope", scope) if scope else ()
        return "--model", str(path) if self.weights else name, "--dataset", self.dataset, *drawn

    def attack(self, model: str, norm: str, *words: str, scope: str | None = None) -> tuple[str, ...]:
        """An attack at the paper's radius."""
        budget = ("--limit", str(self.limit), "--norm", norm, "--eps", RADII[self.dataset][norm])
        return ("attack", *self.model(model, scope), *budget, *words, *self.small(model))

    def adaptive(self, model: str) -> tuple[str, ...]:
        """The adaptive suite, with random search on all images where it is cheap: adversarial training falls to it."""
        every = () if model in RANDOM else ("--cap", f"square={self.limit}")
        return "--suite", "adaptive", "--passes", "10", *every

    def transferred(self) -> tuple[str, ...]:
        """Whose examples are carried over: those of the cnn among own weights; else of the shipped one."""
        return ("--surrogate", str(weights_path(self.weights, self.dataset, "cnn"))) if self.weights else ()

    def small(self, model: str) -> tuple[str, ...]:
        """What --scale small changes."""
        rows = RANDOM_SMALL if model in RANDOM else SMALL
        return rows.get(self.table, ()) if self.scale == "small" else ()


def weights_path(weights: Path | None, dataset: str, name: str) -> Path | None:
    """The file of a model in a folder of own ones, or of the shipped ones; None where there is none."""
    if weights is None:
        return shipped_path(name, dataset)
    path = weights / f"{dataset}-{name}.safetensors"
    return path if path.is_file() else None


def jobs(plan: Plan) -> Iterator[Job]:
    """The commands of a table; models that have no weights for a data set have none."""
    there = [model for model in MODELS if model in plan.models and weights_path(plan.weights, plan.dataset, model)]
    yield from COMMANDS[plan.table](plan._replace(models=there))


def attacked(plan: Plan) -> Iterator[Job]:
    """Tables I and V."""
    norm, suite = ATTACKED[plan.table]
    words = ("--suite", suite, "--passes", "10", *plan.transferred())
    for model in plan.models:
        yield Job(model, plan.attack(model, norm, *words))


def bounds(plan: Plan) -> Iterator[Job]:
    """Table IV."""
    values = ",".join(BOUNDS[plan.dataset])
    for model in [model for model in plan.models if model in BOUNDED]:
        words = ("sweep", "--over", "eps", "--values", values, *plan.model(model))
        rest = ("--limit", str(plan.limit), "--norm", "linf", *plan.adaptive(model), *plan.small(model))
        yield Job(model, (*words, *rest), "sweep.json")


def certified(plan: Plan) -> Iterator[Job]:
    """Table VI, each model at the noise of the others too."""
    sigmas = {sigma for sigma, _ in CERTIFIED[plan.dataset].values()}
    radii = ",".join(f"{radius:g}" for radius in CERTIFIED[plan.dataset]["rcnn+"][1])
    for model in plan.models:
        for sigma in sorted(sigmas):
            how = ("--sigma", f"{sigma:g}", "--n", str(plan.draws), "--radii", radii)
            words = ("certify", *plan.model(model), "--limit", str(plan.limit), *how)
            noise = f"sigma={sigma:g} n={plan.draws}"
            yield Job(f"{model} {noise}", words, "certify.json")
            # The paper does not say whether its layers keep their noise under that of the certificate.
            if model in RANDOM:
                yield Job(f"{model} beta2=0 {noise}", (*words, "--beta2", "0"), "certify.json")


def traded(plan: Plan) -> Iterator[Job]:
    """Table VII, and for each noise what is stronger: through the noise where there is any, else AutoAttack.

    Otherwise levels of noise would be compared under attacks that are weak on all of them.
    """
    plain, (norm, nearest) = plan._replace(scale="full"), TRADED[plan.table]
    few = NEAREST_SMALL.get(nearest, ()) if plan.scale == "small" else ()
    for beta2 in BETA2[plan.dataset] if "rcnn+" in plan.models else ():
        words = ("--passes", "10", "--beta2", beta2)
        blind = ("--attack", "pgd", "--attack", nearest, *few, *TRANSFER, *plan.transferred())
        yield Job(f"rcnn+ beta2={beta2}", plain.attack("rcnn+", norm, *words, *blind))
        if float(beta2):
            adaptive = ("--attack", "pgd", "--gradient", "bpda-eot", "--objective", "mean-of-losses")
            paper = (*adaptive, "--eot-samples", "50")
            yield Job(f"rcnn+ adaptive, beta2={beta2}", plain.attack("rcnn+", norm, *words, *paper))
            through = ("--attack", "apgd-ce", "--gradient", "eot")
            yield Job(f"rcnn+ stronger, beta2={beta2}", plan.attack("rcnn+", norm, *words, *through))
        else:
            yield Job(f"rcnn+ stronger, beta2={beta2}", plain.attack("rcnn+", norm, *words, *SURVIVORS))


def contracted(plan: Plan) -> Iterator[Job]:
    """Claim 1."""
    for model in [model for model in plan.models if model in RANDOM]:
        words = ("figure", "reconstruction", "--claim", *plan.model(model), "--limit", str(plan.limit))
        yield Job(model, words, "claim.json")


def beyond(plan: Plan) -> Iterator[Job]:
    """What the paper did not try, under one norm."""
    norm = BEYOND[plan.table]
    for model in plan.models:
        yield Job(model, plan.attack(model, norm, *plan.adaptive(model)))
    for model in [model for model in RANDOM if model in plan.models]:
        yield Job(f"{model} with known noise", plan.attack(model, norm, *plan.adaptive(model), scope="model"))
    if "rcnn+" in plan.models and plan.weights is None:  # the surrogates are made of the shipped rcnn+
        for name, file in BY.items():
            surrogate = ("--surrogate", f"{file}:{plan.dataset}", "--include-transfer", "--passes", "10")
            words = ("--attack", "transfer", "--set", "transfer.loss=margin", *surrogate)
            yield Job(name, plan._replace(scale="full").attack("rcnn+", norm, *words))


def autoattacked(plan: Plan) -> Iterator[Job]:
    """AutoAttack, under one norm."""
    for model in plan.models:
        suite = ("--suite", "autoattack-rand") if model in RANDOM else SURVIVORS
        yield Job(model, plan.attack(model, AUTOATTACK[plan.table], "--passes", "10", *suite))
    norm, plain, small = AUTOATTACK[plan.table], plan._replace(scale="full"), plan.scale == "small"
    kinds: dict[str, tuple[str, ...]] = {"static": (*UNSEEN, *(UNSEEN_SMALL if small else ()))}
    for kind, attack in TARGETED.items():
        amount = ("--eot-samples", "10", "--set", f"{attack}.targets=5") if small else ("--eot-samples", "20")
        kinds[kind] = (*THROUGH, "--attack", attack, *amount)
    for model in [model for model in plan.models if model in RANDOM]:
        for kind, words in kinds.items():
            yield Job(f"{model} {kind}", plain.attack(model, norm, "--passes", "10", *words))
        yield Job(f"{model} with known noise", plain.attack(model, norm, "--worst-case", *KNOWN, scope="model"))


def quick(plan: Plan) -> Iterator[Job]:
    """Tables I, IV and VI in minutes: the quick suite, the same beyond the bound, and certificates of few draws."""
    for model in plan.models:
        yield Job(model, plan.attack(model, "linf", "--suite", "quick"))
    shared = ("--limit", str(plan.limit))
    for model in [model for model in plan.models if model in ("cnn-ls-noise", "rcnn+")]:
        words = ("sweep", "--over", "eps", "--values", ",".join(BOUNDS[plan.dataset]), *plan.model(model), *shared)
        yield Job(f"{model} bounds", (*words, "--norm", "linf", "--suite", "quick"), "sweep.json")
        how = ("--sigma", "0.25", "--n0", "20", "--n", "200", "--radii", "0.25")
        yield Job(f"{model} sigma=0.25", ("certify", *plan.model(model), *shared, *how), "certify.json")


COMMANDS: dict[str, Callable[[Plan], Iterator[Job]]] = {
    **dict.fromkeys(ATTACKED, attacked),
    **dict.fromkeys(BEYOND, beyond),
    **dict.fromkeys(AUTOATTACK, autoattacked),
    "4": bounds,
    "6": certified,
    **dict.fromkeys(TRADED, traded),
    "claim-1": contracted,
    "quick": quick,
}


def from_here(word: str) -> str:
    """A word of a command: a surrogate of ours, named from the root of the repository, as it is found from here."""
    ours = word.partition(":")[0] in BY.values()
    return os.path.relpath(Path(__file__).resolve().parents[1] / word) if ours else word


def run(job: Job, folder: Path, extra: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The columns of a command, which goes on where an earlier one was killed."""
    out = folder / job.name.replace(" ", "_")
    began = time.monotonic()
    where = ("--json", str(out / job.document)) if job.words[0] == "figure" else ("--out", str(out))
    out.mkdir(parents=True, exist_ok=True)
    words = [*map(from_here, job.words), *extra, *where]
    called([sys.executable, "-c", "from rbfbench.cli import main; main()", *words])
    command = {"command": " ".join(["rbfbench", *job.words, *extra]), "wall_s": time.monotonic() - began}
    made = json.loads((out / job.document).read_text(encoding="utf-8"))
    if job.words[0] == "figure":
        environment = msgspec.to_builtins(describe_environment(pick_device("auto")))
        kept = {name: made[name] for name in ("source", "n", "seed", "steps")}
        return {job.name: kept | {"ratios": made["rows"], "environment": environment} | command}
    if job.words[0] == "sweep":
        points = {point["text"]: brief(point["run"], out / f"eps={point['text']}") for point in made["points"]}
        return {f"{job.name.removesuffix(' bounds')} eps={text}": command | column for text, column in points.items()}
    return {job.name: command | brief(made, out)}


def brief(document: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What the tables need of run.json or certify.json, and of the samples beside it."""
    origin: dict[str, Any] = {name: document[name] for name in ("model_digest", "data_digest", "environment")}
    origin["seed"], origin["source"] = document["spec"]["seed"], document["spec"]["source"]
    if "certified" in document:
        draws = {"n0": document["spec"]["n0"], "draws": document["spec"]["n"], "alpha": document["spec"]["alpha"]}
        certificates = msgspec.convert(document["certificates"], list[Certificate])
        found = {name: document[name] for name in ("certified", "ceiling", "abstained", "wall_s")}
        return origin | draws | found | {"outcomes": kept_radii(certificates)}
    fields = ("accuracy", "k", "n", "ci95", "wall_s")
    rows = {row["id"]: {name: row[name] for name in fields} for row in document["attacks"]}
    # A command that goes on took longer than its last run: its rows keep their own time, as certificates do.
    origin["wall_s"] = fsum(row["wall_s"] for row in rows.values())
    fired = {check["code"]: check["detail"] for check in document["checks"] if check["fired"]}
    column = origin | {
        "clean": document["clean"],
        "rows": rows,
        "worst_case": document["worst_case"],
        "null_attack": document["null_attack"],
        "checks": fired,
        "status": document["status"],
    }
    if outcomes := kept(folder):
        column["outcomes"] = outcomes
        column["worst_case"] = worst_of([ran(column)])
    return column


def timed(dataset: str, limit: int, epochs: int, rounds: int) -> dict[str, dict[str, Any]]:
    """The columns of Table II, which take turns in one process."""
    began, device = time.monotonic(), pick_device("auto")
    columns = measure(dataset, limit=limit, epochs=epochs, rounds=rounds, device=device)
    environment = msgspec.to_builtins(describe_environment(device))
    seeds = f"0 to {rounds - 1}"
    amount = f"--limit {limit} --epochs {epochs} --rounds {rounds}"
    command = f"python benchmarks/reproduce.py 2 --dataset {dataset} {amount}"
    shared = {"command": command, "seed": seeds, "wall_s": time.monotonic() - began, "environment": environment}
    return {name: column | shared for name, column in columns.items()}


def together(norms: Sequence[str], results: Path, dataset: str, target: Path) -> dict[str, dict[str, Any]]:
    """Of each model: accuracy when every image meets the strongest of all attacks that ran, over tables and norms.

    A model that cannot be put together keeps the column that `target` has of it, if the runs behind it are unchanged.

    Raises:
        SystemExit: No model has run in all tables, or runs do not belong together.
    """
    tables = [table for norm in norms for table in OF_NORM[norm]]
    has = {table: columns_of(results / f"table-{table}-{dataset}.json") for table in tables}
    before, columns = columns_of(target), {}
    for model in MODELS:
        found = met_by(model, has)
        if missing := [table for table in tables if table not in found]:
            why = f"table {', '.join(missing)} has not run for it"
        elif bare := [name for name, column in found.items() if "outcomes" not in column]:
            why = f"table {', '.join(bare)} keeps no outcomes of it"
        else:
            columns[model] = joined(model, found)
            continue
        if model in before and unchanged(before[model], found):
            columns[model] = before[model]
            print(f"{model} stands as it was: {why}", file=sys.stderr)
        else:
            print(f"{model} is left out: {why}", file=sys.stderr)
    if not columns:
        raise SystemExit("no model is in all of the tables above: run them first")
    return columns


def met_by(model: str, has: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The columns that belong to a model, of all tables that have it."""
    kinds = ("static", *TARGETED)
    names = [model, *(f"{model} {kind}" for kind in kinds), *(BY if model == "rcnn+" else ())]
    return {
        table if name == model else f"{table} ({name})": columns[name]
        for name in names
        for table, columns in has.items()
        if name in columns
    }


def unchanged(column: dict[str, Any], found: dict[str, dict[str, Any]]) -> bool:
    """Whether what a worst case was made of is what is there now: the same tables, weights and commits.

    Not where a table that it is not made of has found less: then it is no worst case.
    """
    outside = [each for table, each in found.items() if table not in column["tables"]]
    if any(each["worst_case"]["accuracy"] < column["accuracy"] for each in outside):
        return False
    of = [found[table] for table in column["tables"] if table in found]
    alike = {each["model_digest"] for each in of} == {column["model_digest"]}
    return len(of) == len(column["tables"]) and alike and joint(of, "git") == column["environment"]["git"]


def joint(columns: Sequence[dict[str, Any]], name: str) -> str:
    """What the environments of columns say of commit, device, and the like."""
    return ", ".join(sorted({str(column["environment"][name]) for column in columns}))


def joined(model: str, found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The column of a model, of those of several tables."""
    runs = [ran(column) for column in found.values()]
    try:
        column = worst_of(runs)
    except ValueError as error:
        raise SystemExit(f"{model}, {', '.join(found)}: {error}") from error
    columns = list(found.values())
    origin = {
        "tables": list(found),
        "model_digest": columns[0]["model_digest"],
        "seed": columns[0]["seed"],
        "environment": {name: joint(columns, name) for name in columns[0]["environment"]},
        "wall_s": fsum(row.wall_s for run in runs for row in run.rows),
    }
    return column | origin


def columns_of(file: Path) -> dict[str, Any]:
    """The columns of a result file; none where it is not there."""
    return read(file)["columns"] if file.is_file() else {}


class Result(TypedDict):
    """A result file: columns by their name, which differ by table."""

    table: str
    dataset: str
    columns: dict[str, dict[str, Any]]


def read(file: Path) -> Result:
    """A result file.

    Raises:
        LoadError: It is none, or damaged.
    """
    try:
        return msgspec.convert(json.loads(file.read_text(encoding="utf-8")), Result)
    except (ValueError, msgspec.ValidationError) as error:
        raise LoadError(f"cannot read {file}", raised(error), "remove it, and run reproduce.py for it again") from error


def split(words: list[str]) -> tuple[list[str], list[str]]:
    """Our own words, and those after --, which are options for every command."""
    at = words.index("--") if "--" in words else len(words)
    return words[:at], words[at + 1 :]


def take_amounts(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    """Images, draws of a certificate, epochs and rounds: those asked for, or the table's own."""
    small = given.scale == "small"
    if given.table == "all" and (given.limit, given.draws) != (None, None):
        parser.error("all takes of each table its own images and draws: leave out --limit and --draws")
    if given.limit is None:
        of_table = LIMITS_OF.get(given.dataset, {}).get(given.table, LIMITS[given.dataset])
        given.limit = of_table if small and given.table != "2" else 1000
    if given.draws is None:
        given.draws = DRAWS[given.scale]
    given.epochs = 2 if given.epochs is None else given.epochs
    given.rounds = 3 if given.rounds is None else given.rounds
    if min(given.limit, given.draws, given.epochs, given.rounds) < 1:
        parser.error("--limit, --draws, --epochs and --rounds must be at least 1: nothing is measured otherwise")


def asked(argv: Sequence[str]) -> argparse.Namespace:
    """The command line, checked; `models` and `jobs` are lists, `extra` options of every command, `target` the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=["2", *COMMANDS, *COMPUTED, "all"])
    parser.add_argument("--dataset", choices=list(RADII), default="mnist")
    parser.add_argument("--scale", choices=["full", "small"], default="full")
    parser.add_argument("--models", default=",".join(MODELS), help="those to run now; other columns stay")
    parser.add_argument("--limit", type=int, help="images (default 1000; with --scale small of each table its own)")
    parser.add_argument("--draws", type=int, help="of a certificate (default 50000; with --scale small 2000)")
    parser.add_argument("--epochs", type=int, help="of each training that table 2 times (default 2)")
    parser.add_argument("--rounds", type=int, help="of these trainings, one of each recipe in turn (default 3)")
    parser.add_argument("--weights", type=Path, help="folder of models to take in place of the shipped ones")
    parser.add_argument("--work", type=Path, help="folder of the runs (default ~/.cache/rbfbench/tables)")
    parser.add_argument("--results", type=Path, help="folder of the result files (default benchmarks/results)")
    words, extra = split(list(argv))
    given = parser.parse_args(words)
    table, dataset, weights = given.table, given.dataset, given.weights
    models = given.models.split(",")
    if dataset == "digits" and table != "quick":
        parser.error("the paper has no table of the digits: only quick runs on them")
    if table in ("2", "all", *COMPUTED) and (extra or models != list(MODELS)):
        parser.error(f"table {table} takes all models at once: leave out --models and options after --")
    if table != "2" and (given.epochs, given.rounds) != (None, None):
        parser.error("--epochs and --rounds are of table 2, which times trainings")
    if table == "2" and weights:
        parser.error("table 2 times trainings of its own: leave out --weights")
    if strange := set(models) - set(MODELS):
        parser.error(f"--models: there is no {', '.join(sorted(strange))}; choose of {', '.join(MODELS)}")
    if weights and not any(weights_path(weights, dataset, model) for model in models):
        parser.error(f"--weights: there is no {dataset}-{models[0]}.safetensors in {weights}: train_models.py makes it")
    if weights and table in (*ATTACKED, *TRADED) and not weights_path(weights, dataset, "cnn"):
        parser.error(f"--weights: table {table} transfers from {dataset}-cnn.safetensors, which is not in {weights}")
    take_amounts(parser, given)
    plan = Plan(table, dataset, models, given.limit, given.draws, given.scale, weights)
    given.jobs = list(jobs(plan)) if table in COMMANDS else []
    if table in COMMANDS and not given.jobs:
        parser.error(f"table {table} has nothing to run for {', '.join(models)} on {dataset}: it is of other models")
    given.models, given.extra = models, extra
    given.work = given.work or (weights / "tables" if weights else WORK)
    given.results = given.results or (weights / "results" if weights else RESULTS)
    given.target = given.results / f"table-{table}-{dataset}.json"
    return given


def main() -> None:
    """Run a table and write its file after every command."""
    given = asked(sys.argv[1:])
    make_folder("--results", given.results)
    make_folder("--work", given.work)
    table, dataset, weights, target = given.table, given.dataset, given.weights, given.target
    results: Result = {"table": table, "dataset": dataset, "columns": {}}
    if table == "all":
        for each in (name for name in (*COMMANDS, *COMPUTED) if name != "quick"):
            words = [each if word == "all" else word for word in sys.argv[1:]]
            called([sys.executable, __file__, *words])
        return
    if table == "2":
        write(target, {**results, "columns": timed(dataset, given.limit, given.epochs, given.rounds)})
        return
    if table in COMPUTED:
        command = f"python benchmarks/reproduce.py {table} --dataset {dataset}"
        command += f" --weights {weights}" if weights else ""
        columns = together(COMPUTED[table], given.results, dataset, target)
        write(target, {**results, "columns": {name: {"command": command} | each for name, each in columns.items()}})
        return
    columns_of(target)  # a damaged one is told now, not after hours of work
    for job in given.jobs:
        made = run(job, given.work / f"{table}-{dataset}-{given.limit}", given.extra)
        # Read anew each time: another run may have written its models meanwhile.
        write(target, {**results, "columns": merged(columns_of(target), made, target)})
        print(f"{job.name}: {fsum(column['wall_s'] for column in made.values()):.0f} s", flush=True)


def merged(columns: dict[str, Any], made: dict[str, Any], target: Path) -> dict[str, Any]:
    """Columns with new ones; SystemExit where one is not of the first images of the others: a table compares them."""
    both = columns | made
    seen: dict[
        str, list[str]
    ] = {}  # by digest, the images that outcomes name: all, or where every row is capped the first
    for column in both.values():
        if "data_digest" in column:
            images = column.get("outcomes", {}).get("images", "").split()
            seen[column["data_digest"]] = max(seen.get(column["data_digest"], []), images, key=len)
    ordered = sorted(seen.values(), key=len)
    if not all(less and more[: len(less)] == less for less, more in pairwise(ordered)):
        raise SystemExit(f"{target} holds columns of other images: give the same --limit, or another --results")
    return both


def write(target: Path, results: Result) -> None:
    """Keep what is there so far."""
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(target, (json.dumps(results, indent=1) + "\n").encode())


if __name__ == "__main__":
    ended(main)
