"""The suspicion that a model expects other numbers than [0,1]."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from rbfbench.attacks.rng import Keys, borrowed
from rbfbench.data.images import Images
from rbfbench.evaluation.checks import chance_of
from rbfbench.evaluation.load_options import LoadOptions
from rbfbench.evaluation.scaled import Scaled
from rbfbench.evaluation.target import Target, is_ours
from rbfbench.interop.command import CommandModel
from rbfbench.interop.defended import Defended
from rbfbench.results.intervals import wilson
from rbfbench.results.paired import compare

IMAGES = 200  # on which other ranges are tried
MORE, SELDOM = 0.05, 0.01  # how much more often a model must be right in one, and how rarely chance may do that

# What people train on most, by the flags that say it.
SUSPECTS: dict[str, LoadOptions] = {
    "--input-range 0,255": LoadOptions(input_range=(0.0, 255.0)),
    "--input-range=-1,1": LoadOptions(input_range=(-1.0, 1.0)),
    "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225": LoadOptions(
        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    ),
    "--mean 0.4914,0.4822,0.4465 --std 0.2470,0.2435,0.2616": LoadOptions(
        mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)
    ),
    "--mean 0.1307 --std 0.3081": LoadOptions(mean=(0.1307,), std=(0.3081,)),
}


def _fitting(target: Target, images: Images) -> dict[str, LoadOptions]:
    """The ranges that can be tried: none where a model is promised images in [0,1], or is one of ours."""
    inner = target.model
    while isinstance(inner, Defended):
        inner = inner.model
    if target.keyed or isinstance(inner, Scaled | CommandModel) or is_ours(target.model):
        return {}
    fits = (1, images.shape[0])
    return {flags: options for flags, options in SUSPECTS.items() if len(options.mean or (0.0,)) in fits}


def tries(target: Target, images: Images) -> int:
    """Passes over an image that `suspected` takes: one in each range, and one as the model stands."""
    ranges = len(_fitting(target, images))
    return ranges + 1 if ranges else 0


def suspected(target: Target, images: Images, tell: Callable[[int], None] = lambda asked: None) -> str:
    """Flags with which a model is right more often than it is as it stands, and than guessing, beyond chance, or "".

    Args:
        target: A model that is wrong on some images.
        images: The images it failed on; the first ones are tried.
        tell: Told how many images were just asked about.
    """
    ranges = _fitting(target, images)
    if not ranges:
        return ""
    found: dict[str, float] = {}
    head = images.head(IMAGES)
    plain = _right(target.model, head, target)
    tell(len(head))
    for flags, options in ranges.items():
        try:
            right = _right(_scaled(target.model, options, images.shape[0]).to(target.device), head, target)
        except Exception:  # noqa: S112  (a foreign model may refuse numbers that are not its own in any way it likes)
            continue
        finally:
            tell(len(head))
        gain, sure = compare(plain, right), wilson(sum(right), len(right))[0] > chance_of(target, head)
        if sure and gain.difference >= MORE and gain.p < SELDOM:
            found[flags] = sum(right) / len(right)
    best = max(found, key=lambda flags: found[flags], default="")
    return f"with {best} it is right on {found[best]:.1%} of the first {len(head)}" if best else ""


def _scaled(model: Callable[[Tensor], Tensor], options: LoadOptions, channels: int) -> nn.Module:
    """The model in another range, behind the same transformations."""
    if isinstance(model, Defended):
        return Defended(_scaled(model.model, options, channels), model.step)
    return Scaled(model, options, channels)


def _right(model: Callable[[Tensor], Tensor], images: Images, target: Target) -> list[float]:
    """1 for each image that one pass of the model is right on, else 0."""
    right: list[float] = []
    with torch.no_grad(), borrowed(target.device) as seed:
        seed(Keys.of(images.ids, 0))  # a random model draws from the global generators
        for start in range(0, len(images), target.max_rows):
            x, y = images.batch(start, start + target.max_rows)
            right += (model(x.to(target.device)).argmax(1).cpu() == y).double().tolist()
    return right
