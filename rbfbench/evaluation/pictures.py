"""The arrays behind the figures: filters, attacked and rebuilt images, loss gradients, and the test of Claim 1."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rbfbench.attacks.gradient import pgd
from rbfbench.attacks.losses import cross_entropy
from rbfbench.attacks.norms import NORMS, SHRINK
from rbfbench.attacks.oracle import Oracle
from rbfbench.attacks.rng import Keys
from rbfbench.data.images import Images
from rbfbench.defenses.rbf import RBFReconstruction
from rbfbench.defenses.rbfcnn import RBFCNN
from rbfbench.errors import ModelError, UsageError
from rbfbench.evaluation.target import Target
from rbfbench.evaluation.verify import within_budget

Array = NDArray[np.float64]
Map = Callable[[Tensor], Tensor]  # images (N, C, H, W) -> images (N, C, H, W)

STEPS = 40  # of gradient ascent in every attack here
CLIP = 3.0  # standard deviations of its own image at which a displayed gradient saturates
CHUNK = 16  # images in one pass of the test of Claim 1


@dataclass(frozen=True)
class FilterBank:
    """Filters of an RBF front, the most used first.

    Attributes:
        means: (K, h, w, C) in [0,1].
        variances: (K,) sigma^2.
        use: (K,) mean weight over all patches of some images; sums to 1.
    """

    means: Array
    variances: Array
    use: Array


@dataclass(frozen=True)
class Reconstructed:
    """Images attacked under one norm, before and after reconstruction; images are (N, H, W, C), distances (N,) in l2.

    Attributes:
        norm: Norm of the attack.
        eps: Its radius.
        x_adv: Attacked images.
        rec_adv: Their reconstructions.
        before: ||x_adv - x||.
        after: ||rec(x_adv) - rec(x)||, both with the same draw of noise.
    """

    norm: str
    eps: float
    x_adv: Array
    rec_adv: Array
    before: Array
    after: Array


@dataclass(frozen=True)
class Decided:
    """Images (N, H, W, C) that a model decided on, with its class (N,) and the probability (N,) that it gave it."""

    images: Array
    prediction: NDArray[np.int64]
    confidence: Array


@dataclass(frozen=True)
class Saliency:
    """Loss gradients for display.

    Attributes:
        shown: (N, H, W, C): 0.5 where the gradient is zero, 0 and 1 where it is `CLIP` standard deviations or more.
        lengths: (N,) l2 norms of the gradients before scaling.
    """

    shown: Array
    lengths: Array


@dataclass(frozen=True)
class Expansion:
    """How much a reconstruction passes on: ||rec(x + d) - rec(x)||_2 / ||d||_2 for one kind of perturbation d.

    Attributes:
        norm: Norm of the ball that d is taken from.
        eps: Its radius.
        beta1: Sharpness of the weights.
        kind: "random" or "adversarial".
        mean: Mean ratio over images.
        largest: Largest ratio.
        n: Number of images.
    """

    norm: str
    eps: float
    beta1: float
    kind: str
    mean: float
    largest: float
    n: int


def pick(images: Images, positions: Sequence[int]) -> Images:
    """The images at these positions, in this order.

    Raises:
        UsageError: There is no image at one of them.
    """
    for position in positions:
        if not 0 <= position < len(images):
            raise UsageError(
                f"--index {position} is not there", f"{images.name} has images 0 to {len(images) - 1}", "choose one"
            )
    where = np.array(positions, np.intp)
    return dataclasses.replace(
        images, pixels=images.pixels[where], labels=images.labels[where], indices=images.indices[where]
    )


def rbf_front(target: Target) -> RBFReconstruction:
    """The RBF and reconstruction layers of a model.

    Raises:
        UsageError: It has none.
    """
    if not isinstance(target.model, RBFCNN):
        raise UsageError(f"{target.name} has no RBF filters", "it is not an RBF-CNN", "choose one, such as rcnn")
    return target.model.reconstruction


def to_display(x: Tensor) -> Array:
    """Images (N, C, H, W) as an array (N, H, W, C)."""
    array: Array = x.detach().permute(0, 2, 3, 1).double().cpu().numpy()
    return array


def filter_bank(target: Target, images: Images) -> FilterBank:
    """The filters of a model and how much reconstructions of `images` use each.

    Raises:
        UsageError: The model has no RBF front.
    """
    front = rbf_front(target)
    total = torch.zeros(len(front.means), dtype=torch.float64, device=target.device)
    for i in range(len(images)):  # image by image: the weights of one are (patches, K)
        weights = front.weights(front.patches(images.batch(i, i + 1)[0].to(target.device)))
        total += weights.double().mean(dim=(0, 1))
    use = (total / len(images)).cpu().numpy()
    order = np.argsort(-use, kind="stable")
    return FilterBank(to_display(front.means)[order], front.variances.double().cpu().numpy()[order], use[order])


def _oracle(target: Target, keys: Keys) -> Oracle:
    """The view that decides most like the model: through its noise, with the draws of a decision, if it has any.

    Raises:
        ModelError: It has no view with a gradient.
    """
    views = target.views
    view = views.get("eot") or views.get("static") or views.get("bpda")
    if view is None:
        raise ModelError(
            f"{target.name} cannot be drawn",
            "no gradient reaches the input, and these figures follow it",
            "choose a model that is differentiable",
        )
    draws = target.draws if view.noisy else 1
    noise = keys.fold("look") if view.noisy else None
    return Oracle(view.forward, noise, len(keys), draws=draws, exact=view.exact, max_rows=target.max_rows)


def attacked(target: Target, images: Images, *, norm: str, eps: float, seed: int) -> Tensor:
    """PGD of `STEPS` steps on cross-entropy, through the noise if there is any; (N, C, H, W) within the budget."""
    x, y = (t.to(target.device) for t in images.batch(0, len(images)))
    keys = Keys.of(images.ids, seed)
    x_adv = pgd(_oracle(target, keys), x, y, norm=norm, eps=eps, rng=keys, steps=STEPS)
    valid, _ = within_budget(x, x_adv, norm, eps)
    return torch.where(valid[:, None, None, None], x_adv, x)  # nothing is shown that breaks its budget


def decided(target: Target, x: Tensor, keys: Keys) -> Decided:
    """What the model makes of images (N, C, H, W): one decision each, on noise that no attack has seen."""
    out = target.decide(x, keys.fold("decision"))[0]
    answers_probabilities = target.probabilities and not target.keyed and "eot" not in target.views
    confidence, prediction = (out if answers_probabilities else out.softmax(1)).max(1)
    return Decided(to_display(x), prediction.cpu().numpy(), confidence.double().cpu().numpy())


def gallery(target: Target, images: Images, *, norm: str, radii: Sequence[float], seed: int) -> Iterator[Decided]:
    """The clean images, then adversarial ones at each radius, with what the model makes of them."""
    keys = Keys.of(images.ids, seed)
    yield decided(target, images.batch(0, len(images))[0].to(target.device), keys)
    for eps in radii:
        yield decided(target, attacked(target, images, norm=norm, eps=eps, seed=seed), keys)


def saliency(target: Target, images: Images, seed: int) -> Saliency:
    """Gradients of the cross-entropy at the images themselves, clipped at `CLIP` standard deviations for each image."""
    x, y = (t.to(target.device) for t in images.batch(0, len(images)))
    seen = _oracle(target, Keys.of(images.ids, seed)).value_and_grad(x, partial(cross_entropy, y=y))
    gradient = to_display(seen.gradient)
    spread = gradient.std(axis=(1, 2, 3), keepdims=True)
    scaled = gradient / np.maximum(CLIP * spread, np.finfo(np.float64).tiny)
    return Saliency(0.5 + 0.5 * scaled.clip(-1, 1), np.sqrt((gradient**2).sum(axis=(1, 2, 3))))


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """(N,) Euclidean distances in float64."""
    return NORMS["l2"].length(a.double() - b.double())


def reconstruct(target: Target, x: Tensor, images: Images, seed: int) -> Tensor:
    """One reconstruction of each x (N, C, H, W), a version of `images`; versions share their noise."""
    keys = Keys.of(images.ids, seed).fold("reconstruction")
    with torch.no_grad():
        rebuilt: Tensor = rbf_front(target)(x, keys)
    return rebuilt


def reconstructed_clean(target: Target, images: Images, seed: int) -> tuple[Array, Array]:
    """The images and their reconstructions, (N, H, W, C)."""
    x = images.batch(0, len(images))[0].to(target.device)
    return to_display(x), to_display(reconstruct(target, x, images, seed))


def reconstructed(target: Target, images: Images, *, norm: str, eps: float, seed: int) -> Reconstructed:
    """Images attacked under one norm, reconstructed, and how far both are from where they would be without attack.

    Raises:
        UsageError: The model has no RBF front.
    """
    x = images.batch(0, len(images))[0].to(target.device)
    x_adv = attacked(target, images, norm=norm, eps=eps, seed=seed)
    rec, rec_adv = (reconstruct(target, version, images, seed) for version in (x, x_adv))
    before, after = (_distance(*pair).cpu().numpy() for pair in ((x_adv, x), (rec_adv, rec)))
    return Reconstructed(norm, eps, to_display(x_adv), to_display(rec_adv), before, after)


def random_perturbation(x: Tensor, keys: Keys, *, norm: str, eps: float) -> Tensor:
    """Random signs for linf, a uniform point of the ball for the other norms; cut to the box."""
    geometry, budget = NORMS[norm], eps * SHRINK
    delta = geometry.start(keys.fold("random"), x, budget)
    return geometry.project(x, budget * delta.sign() if norm == "linf" else delta, budget)


def worst_perturbation(rec: Map, x: Tensor, keys: Keys, *, norm: str, eps: float, steps: int) -> Tensor:
    """Projected gradient ascent on the change of the reconstruction, from a random point; the best point visited."""
    geometry, budget = NORMS[norm], eps * SHRINK
    with torch.no_grad():
        clean = rec(x)
    # Not from zero, where the gradient of a distance vanishes.
    delta = geometry.project(x, geometry.start(keys.fold("start"), x, budget), budget)
    best, record = delta, torch.full((len(x),), -1.0, dtype=x.dtype, device=x.device)
    for step in range(steps + 1):
        moved = (x + delta).detach().requires_grad_()
        change = (rec(moved) - clean).square().flatten(1).sum(1)
        better = change.detach() > record
        best = torch.where(better[:, None, None, None], delta, best)
        record = torch.where(better, change.detach(), record)
        if step < steps:
            gradient = torch.autograd.grad(change.sum(), moved)[0]
            ascent = geometry.step(moved.detach(), gradient, 2.5 * eps / steps)
            delta = geometry.project(x, delta + ascent, budget)
    return best


def expansion(rec: Map, x: Tensor, delta: Tensor) -> Array:
    """(N,) ratios ||rec(x + delta) - rec(x)||_2 / ||delta||_2, in float64."""
    with torch.no_grad():
        moved = x + delta
        ratio = _distance(rec(moved), rec(x)) / _distance(moved, x)
    values: Array = ratio.cpu().numpy()
    return values


def claim_ratios(
    target: Target, images: Images, *, norm: str, eps: float, seed: int, steps: int = STEPS
) -> Iterator[Expansion]:
    """Random and adversarial perturbations through the noise-free reconstruction, at each sharpness the model has.

    Args:
        target: An RBF-CNN; both its beta1 and its beta1_train are tried.
        images: What to perturb.
        norm: Norm of the perturbations.
        eps: Their radius, above 0.
        seed: Of everything random.
        steps: Gradient steps to the adversarial ones.

    Raises:
        UsageError: The model has no RBF front, or the radius is less than the images can hold.
    """
    front = rbf_front(target)
    for beta1 in sorted({front.config.beta1, front.config.beta1_train}):
        # A copy: the model under test keeps its constants.
        config = dataclasses.replace(front.config, beta1=beta1)
        rec: Map = RBFReconstruction(front.means, front.variances, config).eval().static
        # The ratio of small changes is no matter of float32, whose rounding would be most of the numerator.
        exact: Map = RBFReconstruction(front.means.double(), front.variances.double(), config).eval().static
        makers: dict[str, Callable[[Tensor, Keys], Tensor]] = {
            "random": partial(random_perturbation, norm=norm, eps=eps),
            "adversarial": partial(worst_perturbation, rec, norm=norm, eps=eps, steps=steps),
        }
        for kind, make in makers.items():
            ratios = np.concatenate(
                [expansion(exact, x.double(), make(x, keys).double()) for x, keys in _chunks(target, images, seed)]
            )
            if not np.isfinite(ratios).all():
                raise UsageError(
                    f"eps = {eps:g} changes nothing", "float32 pixels do not hold so little", "give a larger radius"
                )
            yield Expansion(norm, eps, beta1, kind, float(ratios.mean()), float(ratios.max()), len(ratios))


def _chunks(target: Target, images: Images, seed: int) -> Iterator[tuple[Tensor, Keys]]:
    keys = Keys.of(images.ids, seed)
    for start in range(0, len(images), CHUNK):
        stop = start + CHUNK
        yield images.batch(start, stop)[0].to(target.device), keys[start:stop]


def conclusion(rows: Sequence[Expansion]) -> str:
    """What the ratios say about Claim 1 of the paper, in one or two sentences."""
    typical, worst = ([row for row in rows if row.kind == kind] for kind in ("random", "adversarial"))
    low, high = min(row.mean for row in typical), max(row.mean for row in typical)
    peak = max(worst, key=lambda row: row.largest)
    at = f"{peak.largest:.2f} ({peak.norm}, beta1 {peak.beta1:g})"
    span = " to ".join(dict.fromkeys((f"{low:.0%}", f"{high:.0%}")))
    kept = f"Random perturbations leave the reconstruction with {span} of their length on average"
    if high >= 1:
        return f"{kept}: Claim 1 does not hold, not even for typical shifts. The largest ratio found is {at}."
    if peak.largest >= 1:
        return (
            f"{kept}, but one chosen to pass is amplified, up to {at}: Claim 1 describes typical shifts, not the worst."
        )
    return (
        f"{kept}; of those chosen to pass, none grows, the largest ratio being {at}: "
        "consistent with Claim 1, no proof of it, since the ascent finds a lower bound only."
    )
