"""The card of a weights file: how it was made, and what it scores as it was written."""

from __future__ import annotations

import json
from math import fsum
from pathlib import Path
from typing import Any

import torch

from rbfbench.attacks.rng import Keys
from rbfbench.data.images import Images
from rbfbench.defenses.em import EM_PRESETS
from rbfbench.defenses.rbf import PRESETS
from rbfbench.evaluation.environment import describe_environment
from rbfbench.evaluation.loading import load_target
from rbfbench.evaluation.target import Target
from rbfbench.precision import full_precision
from rbfbench.results.atomic import write_atomic
from rbfbench.results.intervals import score
from rbfbench.training.recipes import RECIPES, adversary_of, noise_of, schedule_of
from rbfbench.training.trainer import Trained


@full_precision()
def clean_accuracy(target: Target, images: Images, batch: int = 100) -> tuple[int, int]:
    """(right, asked) over all images, one decision each."""
    keys = Keys.of(images.ids, 0).fold("card")
    right = 0
    for start in range(0, len(images), batch):
        x, y = images.batch(start, start + batch)
        logits = target.decide(x.to(target.device), keys[start : start + batch])[0]
        right += int((logits.argmax(1).cpu() == y).sum())
    return right, len(images)


def command(recipe: dict[str, Any]) -> str:
    """What to type to train a blueprint's recipe again: the preset, and whatever differs from it."""
    name, dataset, preset = recipe["name"], recipe["dataset"], recipe["preset"]
    words = [f"rbfbench train {name} --dataset {dataset}"]
    norm = (recipe.get("adversary") or {"norm": "linf"})["norm"]
    words += [f"--norm {norm}"] if norm != "linf" else []
    usual: dict[str, Any] = {
        "recipe": RECIPES[name],
        "schedule": schedule_of(preset, dataset, RECIPES[name]),
        "noise": noise_of(preset, dataset, RECIPES[name]),
        "adversary": adversary_of(dataset, RECIPES[name], norm),
        "rbf": PRESETS[preset],
        "em": EM_PRESETS[dataset],
    }
    words += [f"--preset {preset}"] if preset != "default" else []
    for part, constants in usual.items():
        for key, value in (recipe.get(part) or {}).items():
            if value != getattr(constants, key):
                words.append(f"--set {part}.{key}={'none' if value is None else value}")
    return " ".join([*words, f"--precision {recipe['precision']} --seed {recipe['seed']}"])


def write_card(path: Path, trained: Trained, sets: dict[str, Images], device: torch.device) -> str:
    """Measure the file at `path` on some sets of images, write `path` with the ending .md, and return its text.

    Args:
        path: Weights as they will be shipped: the numbers are theirs, not those of the model in memory.
        trained: What the training tells.
        sets: Name to images.
        device: Where to measure.

    Raises:
        LoadError: The card cannot be written.
    """
    recipe = trained.blueprint.recipe
    about = recipe["recipe"]["about"]
    given = [f"the model of digest {recipe[name][:12]} as --{name}" for name in ("source", "start") if recipe[name]]
    lines = [
        f"# {path.stem}",
        "",
        f"{about[0].upper()}{about[1:]}. Trained by",
        f"`{command(recipe)}`{', with ' if given else ''}{' and '.join(given)}.",
        "",
        "| images | accuracy | 95% interval | n | decision |",
        "|---|---|---|---|---|",
    ]
    for name, images in sets.items():
        target = load_target(str(path), images, device)
        lines.append(_line(f"{name}: {images.source}", target, images))
        if "eot" in target.views:
            quiet = load_target(str(path), images, device, knobs={"beta2": 0.0})
            lines.append(_line(f"{name}: {images.source}", quiet, images))
    last = trained.history[-1]
    made = describe_environment(device)
    seen = "adversarial" if recipe["adversary"] and not recipe["adversary"]["beta"] else "augmented"
    threads = "1 thread" if made.threads == 1 else f"{made.threads} threads"
    copies = f" and {last['copies_accuracy']:.4f} (noisy copies)" if "copies_accuracy" in last else ""
    lines += [
        "",
        f"Last epoch: loss {last['loss']:.4f}, training accuracy {last['train_accuracy']:.4f} ({seen} images)"
        f"{copies}, held-out accuracy {last['validation_accuracy']:.4f} without noise.",
        f"{len(trained.history)} epochs in {trained.wall_s / 60:.1f} minutes on {made.device}, "
        f"{threads}, torch {made.torch}.",
        "",
        "```json",
        json.dumps(recipe, indent=2, sort_keys=True),
        "```",
        "",
    ]
    text = "\n".join(lines)
    write_atomic(path.with_suffix(".md"), text.encode())
    return text


def _line(name: str, target: Target, images: Images) -> str:
    right, n = clean_accuracy(target, images)
    measured = score(fsum([right]), n)
    low, high = measured.ci95
    config = getattr(target.model, "config", None)
    how = f"beta1 {config.beta1:g}, beta2 {config.beta2:g}, m {target.m}" if config else "one pass"
    return f"| {name} | {measured.accuracy:.2%} | {low:.2%} to {high:.2%} | {n} | {how} |"
