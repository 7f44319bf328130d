"""`rbfbench train`: train a recipe, write weights and a card."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from rbfbench.cli.options import check_norm, data_options, device_option, pick_device
from rbfbench.cli.settings import changed
from rbfbench.defenses import PRESET_NAMES, shipped_path
from rbfbench.errors import UsageError, unknown_name
from rbfbench.training.recipes import DATASETS, LIGHT, RECIPES, Noise, Recipe, adversary_of, noise_of, schedule_of

if TYPE_CHECKING:
    from torch import nn

    from rbfbench.training.recipes import Norm


@click.command()
@click.argument("recipe", metavar=f"[{'|'.join(RECIPES)}]")
@click.option("--dataset", default="cifar10", show_default=True, help=f"One of {', '.join(DATASETS)}.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="The .safetensors to write.")
@click.option(
    "--preset",
    default="default",
    show_default=True,
    help=f"Constants of RBF-CNN and of its training: {', '.join(PRESET_NAMES)}.",
)
@click.option("--classifier", default=None, help="Net behind the front: small, vgg16, mnist-cnn or digits-cnn.")
@click.option("--epochs", type=int, default=None, help="Passes over the images.")
@click.option("--lr", type=float, default=None, help="Peak learning rate.")
@click.option("--batch-size", type=int, default=None, help="Clean images a step.")
@click.option("--norm", default=None, help="Of the ball of adversarial training: linf, l2 or l1.  [default: linf]")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="PART.NAME=VALUE",
    help="Any other constant, as noise.copies=60; --show lists them.",
)
@click.option(
    "--source",
    default=None,
    help="Trained .safetensors that makes the adversarial noise.  [default: the shipped one]",
)
@click.option("--start", default=None, help="Trained .safetensors, or shipped name, whose weights are trained on.")
@click.option("--show", is_flag=True, help="Print every constant in force, and train nothing.")
@click.option("--resume", is_flag=True, help="Go on from the checkpoint beside --out.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of everything random.")
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Arithmetic of the net; bfloat16 is faster where the processor or GPU has it.",
)
@device_option
@data_options
def train(**given: Any) -> None:  # noqa: ANN401  (click passes the options declared above)
    """Train a recipe and write its weights and a card.

    A checkpoint after every epoch lies in the folder OUT.work; --resume goes on from it with the same result.

    \b
    rbfbench train rcnn+ --dataset mnist --out rcnn+.safetensors
    rbfbench train rcnn+ --preset authors --precision bfloat16 --out a.safetensors
    rbfbench train madry --dataset mnist --norm l2 --out madry-l2.safetensors
    rbfbench train cnn-ls-noise --source cnn-ls.safetensors --out b.safetensors
    rbfbench train rcnn+ --start rcnn+ --lr 0.05 --out tuned.safetensors
    rbfbench train rcnn+ --set schedule.shift=1 --set noise.copies=60 --show
    """  # noqa: D301  (click's sign for lines that stay as they are)
    recipe, dataset, out = given["recipe"], given["dataset"], given["out"]
    if recipe not in RECIPES:
        raise unknown_name("recipe", recipe, RECIPES)
    if dataset not in DATASETS:
        raise unknown_name("data set to train on", dataset, DATASETS)
    if given["preset"] not in PRESET_NAMES:
        raise unknown_name("preset", given["preset"], PRESET_NAMES)
    parts = _parts(given)
    if given["show"]:
        for part, constants in parts.items():
            for name, value in vars(constants).items() if constants else ():
                click.echo(f"{part}.{name}={'none' if value is None else value}")
        return
    _train(given, parts, _work_folder(out, recipe, resume=given["resume"]))


def _work_folder(out: Path | None, recipe: str, *, resume: bool) -> Path:
    """Where the checkpoint lies, once it is sure that nothing of the user's is lost to the files of --out."""
    if out is None:
        raise UsageError("there is nowhere to write the weights", "--out is missing", f"add --out {recipe}.safetensors")
    if out.suffix != ".safetensors":
        raise UsageError(f"--out {out} is no weights file", "its name must end in .safetensors", "add the ending")
    card = out.with_suffix(".md")
    if card.exists() and not out.exists():
        raise UsageError(f"--out {out} would replace {card}", "the card takes that name", "choose another --out")
    work = out.with_name(f"{out.name}.work")
    if (work / "checkpoint.pt").exists() and not resume:
        raise UsageError(f"{work} holds a checkpoint", "it would be lost", "add --resume, or remove that folder")
    if out.exists() and not (work / "checkpoint.pt").exists():
        raise UsageError(f"--out {out} exists", "its weights would be lost", "choose another --out, or remove it")
    return work


def _parts(given: dict[str, Any]) -> dict[str, Any]:
    """Every constant of the training, by part: the preset's, changed by the options. Raises UsageError."""
    preset, dataset = given["preset"], given["dataset"]
    recipe = RECIPES[given["recipe"]]
    schedule = schedule_of(preset, dataset, recipe)
    options = {"epochs": given["epochs"], "lr": given["lr"], "batch": given["batch_size"]}
    schedule = dataclasses.replace(schedule, **{name: value for name, value in options.items() if value is not None})

    from rbfbench.defenses.classifiers import CLASSIFIERS
    from rbfbench.defenses.em import EM_PRESETS
    from rbfbench.defenses.rbf import PRESETS

    if given["classifier"]:
        schedule = dataclasses.replace(schedule, classifier=given["classifier"])
    parts: dict[str, Any] = {
        "recipe": recipe,
        "schedule": schedule,
        "noise": noise_of(preset, dataset, recipe),
        "adversary": adversary_of(dataset, recipe, cast("Norm", check_norm(given["norm"] or "linf"))),
        "rbf": PRESETS[preset] if recipe.rbf else None,
        "em": EM_PRESETS[dataset] if recipe.rbf and recipe.source is None and not given["start"] else None,
    }
    if given["norm"] and not parts["adversary"]:
        named = [name for name, row in RECIPES.items() if row.adversary]
        raise UsageError(
            "--norm changes nothing", f"{given['recipe']} has no adversarial training", f"train {', '.join(named)}"
        )
    parts = changed(parts, given["settings"])
    if parts["recipe"] != dataclasses.replace(recipe, smoothing=parts["recipe"].smoothing):
        raise UsageError(
            "--set of recipe cannot be used", "of its constants only smoothing can change", "choose another recipe"
        )
    if parts["schedule"].classifier not in CLASSIFIERS:
        raise unknown_name("classifier", parts["schedule"].classifier, CLASSIFIERS)
    lit = [name for name in LIGHT if getattr(parts["schedule"], name)]
    if parts["adversary"] and lit:
        raise UsageError(
            f"schedule.{lit[0]} cannot be used",
            "images of other light leave [0,1], and the ball with them",
            "set it to 0",
        )
    made_at, epochs = getattr(parts["noise"], "made_at", None), parts["schedule"].epochs
    if made_at is not None and made_at >= epochs:
        raise UsageError(
            f"noise.made_at = {made_at} cannot be used",
            f"no copy would have adversarial noise in {epochs} epochs",
            "train longer, or add --set noise.made_at=none",
        )
    return parts


def _takes_source(parts: dict[str, Any]) -> bool:
    """Whether another model makes the stored noise."""
    return parts["noise"] is not None and parts["noise"].made_at is None


def _source(given: dict[str, Any], parts: dict[str, Any]) -> nn.Module | None:
    """The model that makes the stored noise, None where none is needed."""
    recipe: Recipe = parts["recipe"]
    noise: Noise | None = parts["noise"]
    if noise is None or (noise.made_at is not None and not recipe.rbf):
        if given["source"]:
            why = "has no noisy copies" if noise is None else "makes its noise itself (noise.made_at)"
            raise UsageError("--source changes nothing", f"{given['recipe']} {why}", "leave it out")
        return None

    from rbfbench.defenses.checkpoint import load

    path = Path(given["source"]) if given["source"] else shipped_path(recipe.source or "", given["dataset"])
    if path is None:
        raise UsageError(
            f"{given['recipe']} needs a trained {recipe.source}",
            f"none is shipped for {given['dataset']}",
            "train one, and name it with --source",
        )
    model, blueprint = load(path)
    if blueprint.recipe.get("name") != recipe.source or blueprint.dataset != given["dataset"]:
        raise UsageError(
            f"--source {path} cannot be used",
            f"it is no {recipe.source} of {given['dataset']}",
            "train one, and name it with --source",
        )
    return model.requires_grad_(False)


def _start(given: dict[str, Any], parts: dict[str, Any]) -> nn.Module | None:
    """The model that is trained on, None where weights start at random."""
    if given["start"] is None:
        return None

    from rbfbench.defenses.checkpoint import load
    from rbfbench.defenses.rbfcnn import RBFCNN

    name, dataset = given["start"], given["dataset"]
    model, blueprint = load(shipped_path(name, dataset) or Path(name))
    wanted = (parts["schedule"].classifier, dataset, parts["rbf"] is not None)
    found = (blueprint.classifier, blueprint.dataset, isinstance(model, RBFCNN))
    if found != wanted:
        spelled = [
            f"{net} on {data} {'behind' if rbf else 'without'} an RBF layer" for net, data, rbf in (found, wanted)
        ]
        raise UsageError(f"--start {name} cannot be used", f"it is {spelled[0]}", f"give a {spelled[1]}")
    return model


@contextmanager
def _told_how_to_go_on(work: Path) -> Iterator[None]:
    """After an interrupt, say that the work folder, if it is there already, can be used."""
    try:
        yield
    except KeyboardInterrupt:
        if not work.exists():
            raise
        from rbfbench.cli import INTERRUPTED

        click.echo(f"interrupted: {work} keeps what is done; the same command with --resume goes on", err=True)
        raise click.exceptions.Exit(INTERRUPTED) from None


def _train(given: dict[str, Any], parts: dict[str, Any], work: Path) -> None:
    from rbfbench.cli.progress import ProgressLine
    from rbfbench.data import load_data, load_training
    from rbfbench.defenses.checkpoint import save
    from rbfbench.evaluation.card import write_card
    from rbfbench.training.trainer import TrainSpec, model_digest
    from rbfbench.training.trainer import train as fit

    device = pick_device(given["device"])
    root, download, dataset = given["data_root"], given["download"], given["dataset"]
    source, start = _source(given, parts), _start(given, parts)
    images, validation = load_training(dataset, data_root=root, download=download)
    if given["resume"] and not work.exists():
        click.echo(f"note: {work} holds nothing to resume: the training starts anew", err=True)
    spec = TrainSpec(
        name=given["recipe"],
        dataset=dataset,
        preset=given["preset"],
        source=model_digest(source) if source else None,
        start=model_digest(start) if start else None,
        seed=given["seed"],
        precision=given["precision"],
        data_digest=images.digest,
        **parts,
    )
    with ProgressLine() as line, _told_how_to_go_on(work):

        def show(stage: str, done: int, total: int, remark: str) -> None:
            if stage == "epochs":
                line.console.print(f"epoch {done}/{total}: {remark}")
            else:
                line.update(f"{stage} {remark}", done, total)

        trained = fit(spec, images, validation, work, source=source, start=start, device=device, progress=show)
        save(trained.model, trained.blueprint, given["out"])
        line.update("accuracy", 0, 1)
        card = write_card(
            given["out"], trained, {"test": load_data(dataset, data_root=root), "held out": validation}, device
        )
    click.echo(card)
