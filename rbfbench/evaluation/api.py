"""What Python users call: attack or certify a model on tensors, load a shipped model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rbfbench.attacks import DRAWS, Row, load_suite, single_rows, through_noise
from rbfbench.attacks.table import Value
from rbfbench.data.catalogue import DATASETS
from rbfbench.data.images import Images
from rbfbench.defenses import SHIPPED, shipped_path
from rbfbench.defenses.checkpoint import load
from rbfbench.defenses.rbfcnn import RBFCNN
from rbfbench.errors import DataError, UsageError, unknown_name
from rbfbench.evaluation.certify import CertifySpec
from rbfbench.evaluation.certify import certify as certify_target
from rbfbench.evaluation.engine import evaluate
from rbfbench.evaluation.spec import RunSpec
from rbfbench.evaluation.target import Target, inspect
from rbfbench.interop import attack_info
from rbfbench.interop.adapt import adapted
from rbfbench.results.certificates import Certification
from rbfbench.results.records import Run, Sample


def attack(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    *,
    norm: str,
    eps: float,
    suite: str | None = None,
    attacks: Mapping[str, Mapping[str, Value]] | None = None,
    gradient: str | None = None,
    seed: int = 0,
    passes: int = 3,
    batch_size: int | None = None,
) -> Run:
    """Attack a model on images and return the verified run; `run.worst_case.accuracy` is the headline.

    Args:
        model: From images (N, C, H, W) in [0,1] to logits (N, classes); normalisation belongs inside it. Or one of ART
            or foolbox, whose range and preprocessing count.
        x: Images (N, C, H, W), float in [0,1].
        y: (N,) true classes.
        norm: "linf", "l2" or "l1".
        eps: Radius of the ball on [0,1] pixels.
        suite: Name of a frozen list of attacks; "quick" if nothing is named.
        attacks: Single attacks in its place, each with the parameters to change: {"pgd": {"steps": 200}, "square": {}}.
        gradient: View of these attacks, such as "eot"; "static" if None, or through the noise where it cannot be
            switched off.
        seed: Seed of everything random; results do not depend on the global generators.
        passes: Fresh decisions that a stochastic model is scored on.
        batch_size: Rows in one pass; chosen from memory if None.

    Raises:
        UsageError: Unknown suite, attack, parameter or view, an attack that does not serve the norm or wants a
            surrogate, a radius that is none.
        DataError: x and y are not labelled images in [0,1].
        ModelError: The model does not classify them.
    """
    return attack_samples(
        model,
        x,
        y,
        norm=norm,
        eps=eps,
        suite=suite,
        attacks=attacks,
        gradient=gradient,
        seed=seed,
        passes=passes,
        batch_size=batch_size,
    )[0]


def attack_samples(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    *,
    norm: str,
    eps: float,
    suite: str | None = None,
    attacks: Mapping[str, Mapping[str, Value]] | None = None,
    gradient: str | None = None,
    seed: int = 0,
    passes: int = 3,
    batch_size: int | None = None,
    agree: Callable[[Target, RunSpec, Images], None] = lambda target, spec, images: None,
) -> tuple[Run, list[Sample]]:
    """The same run with its samples, a row for each image and attack; takes and raises what `attack` does.

    `agree` is called before anything is attacked, and may refuse.
    """
    if passes < 1:
        raise UsageError(f"passes = {passes} scores nothing", "a random model needs decisions", "give at least 1")
    rows = _rows(norm, suite, attacks, gradient)
    if not isinstance(eps, int | float):
        raise UsageError(f"eps = {eps!r} is no number", f"it is of type {type(eps).__name__}", "write 8 / 255 or 0.031")
    if not 0 <= eps < float("inf"):
        raise UsageError(f"eps = {eps} is no radius", "it must be finite and at least 0", "give such a number")
    images, name = _images(x, y), type(model).__name__
    device, model = _device_of(model, x), adapted(model)
    with _left_as_it_was(model):
        target = inspect(model, name, images, device)
        if gradient is None:
            rows = through_noise(rows, target.views, attacks or ())
        spec = RunSpec(
            model=name,
            dataset="tensors",
            source=f"{len(images)} images given as tensors",
            norm=norm,
            eps=eps,
            eps_text=f"{eps:.6g}",
            suite="" if attacks else suite or "quick",
            rows=tuple(rows),
            limit=len(images),
            available=len(images),
            seed=seed,
            passes=passes,
            batch_size=batch_size,
            device=str(device),
        )
        agree(target, spec, images)
        outcome = evaluate(target, images, spec).whole()
    return outcome.run, outcome.samples


def _rows(
    norm: str, suite: str | None, attacks: Mapping[str, Mapping[str, Value]] | None, gradient: str | None
) -> list[Row]:
    """The attacks to run, every parameter settled."""
    if attacks is None:
        if gradient is not None:
            raise UsageError("gradient has no attack", "the rows of a suite have their views", "give attacks too")
        rows = load_suite(suite or "quick", norm)
    elif suite is not None:
        raise UsageError("attacks and suite exclude each other", "a suite is a frozen list", "give one of them")
    elif not isinstance(attacks, Mapping) or not all(isinstance(given, Mapping) for given in attacks.values()):
        raise UsageError(f"attacks = {attacks!r} names none", "it is no table of parameters", 'write {"pgd": {}}')
    elif not attacks:
        raise UsageError("there is nothing to attack with", "attacks is empty", 'name one: {"pgd": {}}')
    else:
        rows = single_rows({name: attack_info(name) for name in attacks}, gradient or "static", DRAWS)
        rows = [replace(row, parameters=row.parameters | _parameters(row.attack, attacks[row.attack])) for row in rows]
    for row in rows:
        info = attack_info(row.attack)
        if norm not in info.norms:
            raise unknown_name(f"norm of {row.attack}", norm, info.norms)
        if attacks and info.surrogate:
            why = "there is none to give here"
            raise UsageError(f"{row.attack} wants a surrogate", why, "use rbfbench attack --surrogate")
    return rows


def _parameters(attack: str, given: Mapping[str, Value]) -> dict[str, Value]:
    """Values of parameters, read as the command line reads them."""
    texts = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in given.items()}
    return {name: attack_info(attack).parse(attack, name, text) for name, text in texts.items()}


def certify(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    *,
    sigma: float,
    n0: int = 100,
    n: int = 10_000,
    alpha: float = 0.001,
    radii: tuple[float, ...] = (),
    seed: int = 0,
) -> Certification:
    """Certify a model on images by randomised smoothing (arXiv 1902.02918); `certified` holds the accuracies.

    Args:
        model: From images (N, C, H, W) in [0,1] to logits (N, classes), or one of ART or foolbox.
        x: Images (N, C, H, W), float in [0,1].
        y: (N,) true classes.
        sigma: Standard deviation of the noise.
        n0: Draws that choose the class of an image.
        n: Draws that count it.
        alpha: Probability that a certificate is wrong.
        radii: l2 radii to report; multiples of sigma up to the ceiling if none are given.
        seed: Seed of every draw.

    Raises:
        UsageError: A number that has no meaning.
        DataError: x and y are not labelled images in [0,1].
        ModelError: The model does not classify them.
    """
    name = type(model).__name__
    spec = CertifySpec(
        model=name, dataset="tensors", sigma=sigma, n0=n0, n=n, alpha=alpha, radii=radii, seed=seed
    )  # fmt: skip
    images, device, model = _images(x, y), _device_of(model, x), adapted(model)
    with _left_as_it_was(model):
        made = certify_target(inspect(model, name, images, device), images, spec)
    if made.status == "started":
        raise KeyboardInterrupt
    return made


def _device_of(model: Callable[[Tensor], Tensor], x: Tensor) -> torch.device:
    first = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    return x.device if first is None else first.device


@contextmanager
def _left_as_it_was(model: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Give a module, or that of a model of another library, back its modes and its parameters' need for gradients."""
    net = model if isinstance(model, nn.Module) else getattr(model, "weights", None)
    if not isinstance(net, nn.Module):
        yield
        return
    modes = [(module, module.training) for module in net.modules()]
    learning = [(parameter, parameter.requires_grad) for parameter in net.parameters()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, needed in learning:
            parameter.requires_grad_(needed)


def _images(x: Tensor, y: Tensor) -> Images:
    what = "these are not labelled images"
    if not (isinstance(x, Tensor) and isinstance(y, Tensor)):
        raise DataError(what, f"x is {type(x).__name__} and y {type(y).__name__}", "give torch tensors")
    if x.ndim != 4 or len(x) == 0 or y.shape != x.shape[:1]:
        shapes = f"x is {tuple(x.shape)} and y {tuple(y.shape)}"
        raise DataError(what, shapes, "give x as (N,C,H,W) with N > 0 and y as (N,)")
    if not x.is_floating_point() or not bool(((x >= 0) & (x <= 1)).all()):
        raise DataError(
            what, "x is not float, or has values outside [0,1]", "scale images to [0,1]; normalise in the model"
        )
    if y.is_floating_point() or bool((y < 0).any()):
        raise DataError(what, "y is not made of class indices", "give integers from 0")
    pixels = np.ascontiguousarray(x.detach().permute(0, 2, 3, 1).to("cpu", torch.float32).numpy())
    return Images(
        name="tensors",
        source="",
        pixels=pixels,
        labels=y.cpu().numpy().astype(np.int64),
        indices=np.arange(len(x)),
        classes=tuple(str(i) for i in range(int(y.max()) + 1)),
    )


def load_model(name: str, dataset: str, **constants: Any) -> nn.Module:  # noqa: ANN401
    """A shipped model in eval mode, from [0,1] images to logits.

    Args:
        name: "rcnn+", "cnn" ...; see `rbfbench ls models`.
        dataset: "cifar10", "mnist" or "digits".
        constants: Of RBF-CNN, to change: any field of `rbfbench.defenses.rbf.RBFConfig`, as beta2=0.0 or m=50.

    Raises:
        UsageError: No such model is shipped for the data set, or it has no such constant or not this value of it.
    """
    if dataset not in DATASETS:
        raise unknown_name("data set", dataset, DATASETS)
    path = shipped_path(name, dataset) if name in SHIPPED else None
    if path is None:
        raise unknown_name(f"model for {dataset}", name, [key for key in SHIPPED if shipped_path(key, dataset)])
    model = load(path)[0]
    if not constants:
        return model
    if not isinstance(model, RBFCNN):
        raise UsageError(f"{name} has no {', '.join(constants)}", "it is not an RBF-CNN", "leave the constants out")
    for constant in constants:
        if constant not in vars(model.config):
            raise unknown_name("constant of RBF-CNN", constant, vars(model.config))
    model.config = replace(model.config, **constants)
    return model
