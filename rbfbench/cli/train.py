"""`rbfbench train`: train a recipe, write weights and a card."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from rbfbench.cli.options import data_options, device_option, pick_device
from rbfbench.defenses import PRESET_NAMES
from rbfbench.errors import UsageError, unknown_name
from rbfbench.training.recipes import RECIPES, SCHEDULES


@click.command()
@click.argument("recipe", metavar=f"[{'|'.join(RECIPES)}]")
@click.option("--dataset", default="cifar10", show_default=True, help=f"One of {', '.join(SCHEDULES)}.")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The .safetensors to write."
)
@click.option(
    "--epochs", type=click.IntRange(1), default=None, help="Passes over the images; the schedule's if not given."
)
@click.option(
    "--lr",
    type=click.FloatRange(0, min_open=True),
    default=None,
    help="Peak learning rate; the schedule's if not given.",
)
@click.option(
    "--preset", default="default", show_default=True, help=f"Constants of RBF-CNN: {', '.join(PRESET_NAMES)}."
)
@click.option("--resume", is_flag=True, help="Go on from the checkpoint beside --out.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of everything random.")
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Arithmetic of the net; bfloat16 is faster where the processor has it.",
)
@device_option
@data_options
def train(**given: Any) -> None:  # noqa: ANN401  (click passes the options declared above)
    """Train a recipe and write its weights and a card.

    A checkpoint after every epoch lies in the folder OUT.work; --resume goes on from it with the same result.
    """
    recipe, dataset, out = given["recipe"], given["dataset"], given["out"]
    if recipe not in RECIPES:
        raise unknown_name("recipe", recipe, RECIPES)
    if dataset not in SCHEDULES:
        raise unknown_name("data set to train on", dataset, SCHEDULES)
    if given["preset"] not in PRESET_NAMES:
        raise unknown_name("preset", given["preset"], PRESET_NAMES)
    if out.suffix != ".safetensors":
        raise UsageError(f"--out {out} is no weights file", "its name must end in .safetensors", "add the ending")
    work = out.with_name(f"{out.name}.work")
    if (work / "checkpoint.pt").exists() and not given["resume"]:
        raise UsageError(f"{work} holds a checkpoint", "it would be lost", "add --resume, or remove that folder")
    _train(given, work)


def _train(given: dict[str, Any], work: Path) -> None:
    from rbfbench.cli.progress import ProgressLine
    from rbfbench.data import load_data, load_training
    from rbfbench.defenses.checkpoint import save
    from rbfbench.defenses.rbf import PRESETS
    from rbfbench.evaluation.card import write_card
    from rbfbench.training.trainer import TrainSpec
    from rbfbench.training.trainer import train as fit

    device = pick_device(given["device"])
    root, download, dataset = given["data_root"], given["download"], given["dataset"]
    images, validation = load_training(dataset, data_root=root, download=download)
    changes = {name: given[name] for name in ("epochs", "lr") if given[name] is not None}
    spec = TrainSpec(
        name=given["recipe"],
        dataset=dataset,
        recipe=RECIPES[given["recipe"]],
        schedule=dataclasses.replace(SCHEDULES[dataset], **changes),
        rbf=PRESETS[given["preset"]] if RECIPES[given["recipe"]].rbf else None,
        seed=given["seed"],
        precision=given["precision"],
        data_digest=images.digest,
    )
    with ProgressLine() as line:

        def show(stage: str, done: int, total: int, remark: str) -> None:
            if stage == "epochs":
                line.console.print(f"epoch {done}/{total}: {remark}")
            else:
                line.update(f"{stage} {remark}", done, total)

        trained = fit(spec, images, validation, work, device=device, progress=show)
        save(trained.model, trained.blueprint, given["out"])
        line.update("accuracy", 0, 1)
        card = write_card(
            given["out"], trained, {"test": load_data(dataset, data_root=root), "held out": validation}, device
        )
    click.echo(card)
