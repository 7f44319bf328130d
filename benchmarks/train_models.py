"""Train the models of the tables on the full schedules, which wants a GPU.

Usage: python benchmarks/train_models.py FOLDER --dataset mnist [--preset authors] [-- OPTIONS OF rbfbench train]

Writes FOLDER/DATASET-MODEL.safetensors with a card each, one after another; the same command goes on where it was
killed. Then python benchmarks/reproduce.py 1 --dataset mnist --weights FOLDER runs a table on them.

The presets are two descriptions of the same training: the published scripts (authors), and the text of the paper, whose
noise in the RBF layer is far larger taken by its letter. Both put VGG-16 behind the layers on CIFAR-10. Adversarial
training takes the number of epochs that the paper gives for it, and halves its learning rate as many times as the
others. --preset default is the short schedule of the shipped models.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from paper import TRAINING
from reproduce import MODELS, split
from scripts import called, ended, make_folder

from rbfbench.defenses import PRESET_NAMES
from rbfbench.training.recipes import DATASETS, RECIPES, noise_of, schedule_of

RECIPE_OF = {name: tuple(name.rsplit("-", 1)) for name in ("madry-l2", "madry-l1")}  # a recipe under another norm
FROM_SCRATCH = 1e-4  # learning rates below do not train a net of random weights
TRAINED = [name for name in MODELS if name in RECIPES or name in RECIPE_OF]


def commands(folder: Path, dataset: str, preset: str) -> Iterator[tuple[str, ...]]:
    """Words of `rbfbench`, a model each; those that make the noise of others come before them."""
    for name in TRAINED:
        trained, norm = RECIPE_OF.get(name, (name, None))
        recipe = RECIPES[trained]
        noise = noise_of(preset, dataset, recipe)
        words = ("--dataset", dataset, "--preset", preset, "--out", str(folder / f"{dataset}-{name}.safetensors"))
        # Behind the RBF layers the filters are the source's, whoever makes the noise.
        if recipe.source and noise and (noise.made_at is None or recipe.rbf):
            words += ("--source", str(folder / f"{dataset}-{recipe.source}.safetensors"))
        words += ("--norm", norm) if norm else ()
        # Their rate for noisy copies on CIFAR-10 is one to go on with, though the authors' script loads nothing.
        if schedule_of(preset, dataset, recipe).lr < FROM_SCRATCH:
            first = "rcnn" if recipe.rbf else "cnn-ls"
            words += ("--start", str(folder / f"{dataset}-{first}.safetensors"))
        if preset != "default" and trained in TRAINING.get(dataset, {}) and not recipe.rbf:
            schedule, epochs = schedule_of(preset, dataset, recipe), TRAINING[dataset][trained][0]
            halve = round(schedule.halve_every * epochs / schedule.epochs)
            words += ("--epochs", str(epochs), "--set", f"schedule.halve_every={halve}")
        yield ("train", trained, *words, "--resume")


def main() -> None:
    """Train one model after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dataset", choices=DATASETS, default="mnist")
    parser.add_argument("--preset", choices=PRESET_NAMES, default="authors")
    words, extra = split(sys.argv[1:])
    given = parser.parse_args(words)
    make_folder("FOLDER", given.folder)
    for command in commands(given.folder, given.dataset, given.preset):
        out = Path(command[command.index("--out") + 1])
        if out.is_file() and not out.with_name(f"{out.name}.work").is_dir():
            print(f"{out} is there", flush=True)  # whole, and tidied up
            continue
        print(" ".join(["rbfbench", *command, *extra]), flush=True)
        program = [sys.executable, "-c", "from rbfbench.cli import main; main()"]
        called([*program, *command, *extra])


if __name__ == "__main__":
    ended(main)
