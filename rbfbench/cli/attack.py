"""`rbfbench attack`: attack one model under one norm and budget, verify, print."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rbfbench.attacks import ATTACKS, Row, load_suite, single_rows
from rbfbench.cli.options import data_options, device_option, parse_eps, parse_limit, pick_device
from rbfbench.data import DATASETS
from rbfbench.defenses import DEFAULT_MODEL
from rbfbench.errors import IncompleteError, LoadError, UsageError, unknown_name

if TYPE_CHECKING:
    from rbfbench.evaluation.engine import Outcome

NORMS = ("linf", "l2", "l1")
DRAWS = 20  # averaged by attacks given by name under --gradient eot


@click.command()
@click.option(
    "--model", default=DEFAULT_MODEL, show_default=True, help="Shipped name, .safetensors, or module:factory."
)
@click.option(
    "--dataset", default="cifar10", show_default=True, help="Name, npz:FILE or folder:DIR; see `rbfbench data`."
)
@click.option("--norm", default="linf", show_default=True, help=f"Norm of the perturbation: {', '.join(NORMS)}.")
@click.option(
    "--eps", "eps_text", default=None, help="Radius, such as 0.031 or 8/255; the paper's if the data set has one."
)
@click.option("--attack", "attacks", multiple=True, help="Attack to run instead of a suite; may be repeated.")
@click.option("--suite", default=None, help="Frozen list of attacks.  [default: quick]")
@click.option(
    "--set", "settings", multiple=True, metavar="ATTACK.NAME=VALUE", help="Change a parameter, as pgd.steps=100."
)
@click.option("--gradient", default=None, help="View for --attack: static or eot.  [default: static]")
@click.option("--eot-samples", type=click.IntRange(1), default=None, help="Draws averaged in eot rows.")
@click.option(
    "--passes", type=click.IntRange(1), default=3, show_default=True, help="Fresh decisions to score a random model on."
)
@click.option("--beta1", type=float, default=None, help="RBF-CNN: sharpness of the weights.")
@click.option("--beta2", type=float, default=None, help="RBF-CNN: noise level.")
@click.option("--m", type=click.IntRange(1), default=None, help="Passes averaged in one decision.")
@click.option("--limit", default="100", show_default=True, help="First N images, or all.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of everything random.")
@click.option(
    "--batch-size", type=click.IntRange(1), default=None, help="Images in one pass; chosen from memory if not given."
)
@device_option
@data_options
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default=None, help="Run folder to keep and resume."
)
@click.option("--save-examples", is_flag=True, help="Keep all adversarial examples in --out, not the first 16.")
@click.option("--json", "json_path", default=None, metavar="FILE", help="Write run.json there; - for stdout alone.")
def attack(**given: Any) -> None:  # noqa: ANN401  (click passes the options declared above)
    r"""Attack a classifier and print how robust it is.

    Every adversarial example is verified outside the attack that made it; accuracies carry 95% intervals.

    \b
    rbfbench attack --norm linf --eps 0.031
    rbfbench attack --dataset mnist --norm l2 --limit 1000
    rbfbench attack --model mypackage.nets:build --dataset npz:images.npz --eps 8/255
    """
    rows = _rows(given)
    eps_text = _eps_text(given)
    limit = parse_limit(given["limit"])
    if given["save_examples"] and given["out"] is None:
        raise UsageError("--save-examples has nowhere to write", "there is no --out", "add --out DIR")
    outcome = _run(given, rows, eps_text=eps_text, eps=parse_eps(eps_text), limit=limit)
    _print(outcome, given["json_path"])
    if outcome.interrupted:
        from rbfbench.cli import INTERRUPTED

        click.echo("interrupted: finished attacks are shown" + (" and kept" if given["out"] else ""), err=True)
        raise click.exceptions.Exit(INTERRUPTED)
    if crashed := [row.id for row in outcome.run.attacks if row.unknown]:
        raise IncompleteError(
            "the run is partial", f"{', '.join(crashed)} crashed on some images", "see the checks above"
        )


def _rows(given: dict[str, Any]) -> list[Row]:
    """The attacks to run, every parameter settled. Raises UsageError for whatever the names and numbers get wrong."""
    if given["norm"] not in NORMS:
        raise unknown_name("norm", given["norm"], NORMS)
    attacks, suite = given["attacks"], given["suite"]
    if attacks and suite:
        raise UsageError("--attack and --suite exclude each other", "a suite is a frozen list", "give one of them")
    if given["gradient"] and not attacks:
        raise UsageError("--gradient needs --attack", "the rows of a suite have their views", "name attacks")
    view, draws = given["gradient"] or "static", given["eot_samples"]
    if view not in ("static", "eot"):
        raise unknown_name("view", view, ("static", "eot"))
    rows = single_rows(attacks, view, draws or DRAWS) if attacks else load_suite(suite or "quick")
    for row in rows:
        if given["norm"] not in ATTACKS[row.attack].norms:
            serves = ", ".join(ATTACKS[row.attack].norms)
            raise UsageError(
                f"{row.attack} does not serve {given['norm']}", f"it serves {serves}", "choose another norm"
            )
    if draws and not any(row.view == "eot" for row in rows):
        raise UsageError("--eot-samples changes nothing", "no row averages over noise", "add --gradient eot")
    rows = [replace(row, draws=draws) if draws and row.view == "eot" else row for row in rows]
    for setting in given["settings"]:
        rows = _changed(rows, setting)
    return rows


def _changed(rows: list[Row], setting: str) -> list[Row]:
    """Rows with one ATTACK.NAME=VALUE applied; ATTACK is an attack or the name of a row such as pgd-margin."""
    target, _, value = setting.partition("=")
    attack, dot, name = target.partition(".")
    if not (dot and name and value):
        raise UsageError(f"--set {setting} cannot be read", "it is not ATTACK.NAME=VALUE", "write pgd.steps=100")
    chosen = [row for row in rows if attack in (row.attack, row.id.partition("/")[0])]
    if not chosen:
        raise unknown_name("attack of this run", attack, {row.attack for row in rows})
    parameters = ATTACKS[chosen[0].attack].parameters
    if name not in parameters:
        raise (
            unknown_name(f"parameter of {attack}", name, parameters)
            if parameters
            else UsageError(f"{attack} has no parameter {name!r}", "it has none at all", "leave --set out")
        )
    parsed = parameters[name].parse(f"{attack}.{name}", value)
    return [replace(row, parameters=row.parameters | {name: parsed}) if row in chosen else row for row in rows]


def _eps_text(given: dict[str, Any]) -> str:
    if given["eps_text"] is not None:
        return str(given["eps_text"])
    info = DATASETS.get(given["dataset"])
    if info is None and ":" not in given["dataset"]:
        raise unknown_name("data set", given["dataset"], DATASETS)
    if info is None or given["norm"] not in info.eps:
        raise UsageError(
            "--eps is missing",
            f"{given['dataset']} has no default radius for {given['norm']}",
            "give one, as --eps 8/255",
        )
    return f"{info.eps[given['norm']]:g}"


def _run(given: dict[str, Any], rows: list[Row], *, eps_text: str, eps: float, limit: int | None) -> Outcome:
    from rbfbench.cli.progress import ProgressLine
    from rbfbench.data import load_data
    from rbfbench.evaluation.engine import evaluate
    from rbfbench.evaluation.loading import load_target
    from rbfbench.evaluation.spec import RunSpec
    from rbfbench.results.store import RunFolder

    device = pick_device(given["device"])
    everything = load_data(given["dataset"], data_root=given["data_root"], download=given["download"])
    images = everything if limit is None else everything.head(limit)
    if limit is not None and limit > len(everything):
        click.echo(f"note: there are {len(everything)} images, so --limit {limit} takes all", err=True)
    _writable(given["json_path"])
    knobs = {name: given[name] for name in ("beta1", "beta2", "m") if given[name] is not None}
    target = load_target(given["model"], images, device, knobs=knobs)
    if not given["gradient"] and "static" not in target.views:
        # The noise of a foreign model cannot be switched off: attacks given by name look through it.
        named = given["attacks"] or ()
        rows = [
            replace(row, view="eot", draws=DRAWS) if row.attack in named and row.view == "static" else row
            for row in rows
        ]
    frozen = not given["settings"] and not given["eot_samples"]
    suite = "" if given["attacks"] else (given["suite"] or "quick") + ("" if frozen else " (changed)")
    spec = RunSpec(
        model=given["model"],
        dataset=images.name,
        source=images.source,
        norm=given["norm"],
        eps=eps,
        eps_text=eps_text,
        suite=suite,
        rows=tuple(rows),
        limit=len(images),
        available=len(everything),
        seed=given["seed"],
        passes=given["passes"],
        batch_size=given["batch_size"],
        device=str(device),
        knobs=knobs,
    )
    folder = RunFolder(given["out"]) if given["out"] else None
    keep = None if given["save_examples"] else 16
    with ProgressLine() as line:
        return evaluate(target, images, spec, folder=folder, save_examples=keep, progress=line.update)


def _writable(json_path: str | None) -> None:
    """Refuse before the work what could not be written after it."""
    if json_path is None or json_path == "-":
        return
    path = Path(json_path)
    if not json_path or path.is_dir() or not path.parent.is_dir():
        raise LoadError(
            f"cannot write --json {json_path!r}", "it is no file in an existing folder", "give another path"
        )


def _print(outcome: Outcome, json_path: str | None) -> None:
    from rbfbench.results.records import encode_run

    if json_path == "-":
        sys.stdout.buffer.write(encode_run(outcome.run))
        sys.stdout.flush()
        return
    from rich.console import Console

    from rbfbench.reporting.table import attack_table

    Console(highlight=False).print(attack_table(outcome.run))
    if json_path:
        from rbfbench.results.atomic import write_atomic

        write_atomic(Path(json_path), encode_run(outcome.run))
