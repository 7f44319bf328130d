"""The model under attack: loading it, describing it, deciding with it, and the views of it that attacks may take."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rbfbench.attacks.bpda import with_gradient_of
from rbfbench.attacks.oracle import Forward
from rbfbench.attacks.rng import Keys, borrowed
from rbfbench.data.images import Images
from rbfbench.defenses import is_purifier
from rbfbench.errors import ModelError, RbfbenchError, UsageError
from rbfbench.evaluation.scaled import Scaled
from rbfbench.interop.defended import Defended
from rbfbench.precision import full_precision

PROBE = 8  # images of the behaviour fingerprint
PASSES = 8  # over copies of one image, that show whose the noise is


@dataclass(frozen=True)
class View:
    """One way for an attack to look at the model.

    Attributes:
        forward: The view.
        noisy: It needs keys.
        draws: Draws that are fixed by the model; None lets the attack choose.
        exact: It decides like the model itself.
    """

    forward: Forward
    noisy: bool = False
    draws: int | None = None
    exact: bool = True


@dataclass
class Target:
    """A classifier and what was found out about it.

    A model that offers `front(x, keys, draws=)`, `front_static(x)`, `classify(images)` and `config` (see `RBFCNN`) has
    its noise keyed for each image. Any other callable from images to logits is taken as it is; if two passes over the
    same images differ it is treated as stochastic, and called and seeded once for each draw of a chunk.

    Attributes:
        model: The callable.
        name: What the user asked for.
        device: Where it lives.
        n_classes: Columns of its output.
        stochastic: Its answers differ from pass to pass.
        m: Passes averaged for one decision.
        max_rows: Rows that one forward pass may hold.
        probabilities: Its outputs look like probabilities, not logits.
        differentiable: Gradients reach the image.
        card: What the table and run.json say about it.
    """

    model: Callable[[Tensor], Tensor]
    name: str
    device: torch.device
    n_classes: int = 0
    stochastic: bool = False
    m: int = 1
    max_rows: int = 128
    probabilities: bool = False
    differentiable: bool = True
    card: dict[str, Any] = field(default_factory=dict)

    @property
    def keyed(self) -> bool:
        """The model takes keys for its noise."""
        return is_purifier(self.model)

    @property
    def views(self) -> dict[str, View]:
        """The views that this model has, by name; `static` of a model without noise is the model itself.

        `none`, without gradients, is what an outsider sees: the scores.
        """
        if not self.keyed:
            plain = View(self._seeded, noisy=True, exact=False) if self.stochastic else View(self._plain)
            views = {"none": replace(plain, draws=self.m if self.stochastic else None)}
            if self.differentiable:
                stand_in = "bpda" if getattr(self.model, "approximated", False) else "static"
                views["eot" if self.stochastic else stand_in] = plain
            return views
        model: Any = self.model
        noisy = model.config.beta2 > 0
        static = View(lambda x, keys: model.classify(model.front_static(x)), exact=not noisy)
        views = {"static": static, "none": static}
        if noisy:
            # Noise that is fixed in the model has so many draws as the decision; averaging them is the decision.
            draws = None if self.stochastic else self.m
            views["eot"] = View(self._keyed, noisy=True, draws=draws, exact=not self.stochastic)
            views["none"] = replace(views["eot"], draws=self.m)
            views["bpda"] = views["bpda-eot"] = View(
                self._as_if_quiet, noisy=True, draws=draws, exact=not self.stochastic
            )
        return views

    def _plain(self, x: Tensor, keys: Keys | None) -> Tensor:
        return self.model(x)

    def _keyed(self, x: Tensor, keys: Keys | None) -> Tensor:
        model: Any = self.model
        logits: Tensor = model.classify(model.front(x, keys))
        return logits

    def _as_if_quiet(self, x: Tensor, keys: Keys | None) -> Tensor:
        """Forward through the noise, backward through the front without it (z~ = mu in Eq. 4)."""
        model: Any = self.model
        rows = len(keys) if keys is not None else len(x)
        with torch.no_grad():
            noisy = model.front(x, keys)
        quiet = model.front_static(x).repeat_interleave(rows // max(len(x), 1), dim=0)
        logits: Tensor = model.classify(with_gradient_of(noisy, quiet))
        return logits

    def _seeded(self, x: Tensor, keys: Keys | None) -> Tensor:
        """A model that draws from global generators, which are seeded from the keys of each draw, then put back.

        A call for each draw: noise that a model draws once a call would be the same in all draws of one.
        """
        if keys is None:
            raise ValueError("without keys, what a random model draws would depend on the global generators")
        draws, passes = len(keys) // len(x) if len(x) else 1, []
        with borrowed(self.device) as seed:
            for i in range(draws):
                seed(keys[i::draws])
                passes.append(self.model(x))
        return torch.stack(passes, dim=1).flatten(0, 1)

    @property
    def draws(self) -> int:
        """Noisy passes behind one decision; 1 for a model without noise."""
        return self.m if self.views["none"].noisy else 1

    def decide(self, x: Tensor, keys: Keys, decisions: int = 1) -> Tensor:
        """Independent decisions (decisions, N, n_classes), without a graph.

        Log-probabilities of the mean over m passes, or plain logits where one pass decides.

        Args:
            x: Images (N, C, H, W) in [0,1].
            keys: (N,), one an image; the noise of all its passes follows from it.
            decisions: How many; they share whatever does not depend on the noise.
        """
        # Each draw of a model that takes no keys is a call, and belongs to all images of that call: which they are must
        # not depend on the number of decisions.
        size = max(1, self.max_rows // (self.draws * decisions if self.keyed else 1))
        with torch.no_grad():
            parts = [self._decide(x[i : i + size], keys[i : i + size], decisions) for i in range(0, len(x), size)]
        return torch.cat(parts, dim=1)

    def _decide(self, x: Tensor, keys: Keys, decisions: int) -> Tensor:
        view = self.views["none"]
        if not view.noisy:
            return view.forward(x, None)[None].expand(decisions, -1, -1)
        at_once = max(1, self.max_rows // (self.m * len(x))) if self.keyed else decisions
        parts = []
        for first in range(0, decisions, at_once):
            here = min(at_once, decisions - first)
            draws = keys.spread(here * self.m, np.full(len(x), first * self.m))
            logits = view.forward(x, draws).view(len(x), here, self.m, -1)
            parts.append((logits.log_softmax(dim=3).logsumexp(dim=2) - math.log(self.m)).transpose(0, 1))
        return torch.cat(parts)

    def fingerprint(self, images: Images) -> str:
        """Digest of the weights, if they can be seen, and of the answers near the first images with fixed keys.

        A factory that changed its code or its constants cannot pass for the model of an earlier run, nor can one whose
        way back alone is another. The probes lie off the grid of 8-bit values, on which a rounding step would not show.
        """
        head = images.head(PROBE)
        x, keys = head.batch(0, PROBE)[0].to(self.device), Keys.of(head.ids, 0)
        probe = 0.8 * x + 0.2 * keys.fold("probe").uniform(tuple(x.shape[1:]), x)
        with torch.no_grad():  # all in one pass, whatever else may be cut: rounding follows the batch
            logits = self._decide(probe, keys, 1)[0].cpu().double().numpy()
        parts = list(_parts_of(self.model))
        seen = [part if isinstance(part, nn.Module) else getattr(part, "weights", None) for part in parts]
        if is_ours(self.model):
            # Rounded: the same weights on another thread count differ in the last bits.
            digest = hashlib.sha256(np.round(logits, 2).tobytes())
        elif isinstance(seen[-1], nn.Module) and not self.probabilities:
            largest = np.abs(logits).max(axis=1, keepdims=True, initial=1e-300)
            digest = hashlib.sha256(np.round(logits / largest, 2).tobytes())
            digest.update(" ".join(f"{logit:.3g}" for logit in largest.flat).encode())
        else:
            # Three digits of each answer, however small: sure models differ in the answers that they are sure against.
            digest = hashlib.sha256(" ".join(f"{logit:.3g}" for logit in logits.flat).encode())
        if not is_ours(self.model):
            digest.update(" ".join(self._ways_back(probe, keys)).encode())
        for part, module in zip(parts, seen, strict=True):
            digest.update(str(getattr(part, "identity", "")).encode())
            for name, value in module.state_dict().items() if isinstance(module, nn.Module) else ():
                digest.update(name.encode() + _bytes_of(value))
        return digest.hexdigest()

    def _ways_back(self, x: Tensor, keys: Keys) -> Iterator[str]:
        """How long the gradient of each view is at each image, to two digits."""
        weights = torch.arange(self.n_classes, device=x.device).cos()  # a plain sum of probabilities has no gradient
        for name, view in sorted(self.views.items()):
            if name == "none":
                continue
            for i in range(len(x)):  # one at a time: a model may have no memory for the ways back of more
                leaf = x[i : i + 1].clone().requires_grad_()
                with torch.enable_grad(), borrowed(self.device) as seed:
                    seed(keys[i : i + 1])  # a way back may be random where the answer is not
                    try:
                        logits = view.forward(leaf, keys[i : i + 1] if view.noisy else None)
                        (gradient,) = torch.autograd.grad((logits * weights).sum(), leaf, allow_unused=True)
                    except RbfbenchError:
                        raise
                    except Exception:  # whatever a foreign model raises here is for the attack to record
                        yield f"{name} fails"
                        break
                yield f"{name} {0.0 if gradient is None else gradient.norm().item():.1e}"


def _parts_of(model: Any) -> Iterator[Any]:  # noqa: ANN401  (any callable)
    """A model, and what it is wrapped around."""
    yield model
    while isinstance(model, Defended | Scaled):
        model = model.model
        yield model


def is_ours(model: Any) -> bool:  # noqa: ANN401  (any callable)
    """Whether a model, whatever stands before it, is of this package in all its parts: its release tells its code."""
    *_, inner = _parts_of(model)
    known = ("rbfbench.defenses.", "torch.nn.modules.")
    first = type(inner).__module__.startswith(known[0])
    return first and all(type(part).__module__.startswith(known) for part in inner.modules())


def _bytes_of(value: Any) -> bytes:  # noqa: ANN401  (whatever a module keeps as its state)
    if not isinstance(value, Tensor):
        return repr(value).encode()
    plain = value.dequantize() if value.is_quantized else value
    return plain.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def ensemble(targets: Sequence[Target]) -> View:
    """The mean logits of several models, noise switched off where it can be (arXiv 1710.06081, section 3.4).

    Where it cannot, each look draws once.
    """
    views = [target.views.get("static", target.views["none"]) for target in targets]

    def forward(x: Tensor, keys: Keys | None) -> Tensor:
        return torch.stack([view.forward(x, keys) for view in views]).mean(0)

    return View(forward, noisy=any(view.noisy for view in views), draws=1, exact=False)


def _two_answers(model: Callable[[Tensor], Tensor], x: Tensor, what: str) -> tuple[Tensor, Tensor]:
    """The model's answers to the same images, asked twice; ModelError unless they are logits."""
    try:
        with torch.no_grad():
            first, second = model(given := x.clone()), model(x.clone())
    except ModelError as error:  # ours already says what the model takes
        raise ModelError(what, error.why, error.todo) from error
    except Exception as error:  # whatever a foreign model raises, its user needs one line, not its stack
        reason = " ".join(str(error).split())[:160]
        raise ModelError(
            what,
            f"on images of shape {tuple(x.shape)} it raised {type(error).__name__}: {reason}",
            "check that it takes (N,C,H,W) images in [0,1] of this data set",
        ) from error
    if not isinstance(first, Tensor) or first.ndim != 2 or len(first) != len(x):
        shape = tuple(first.shape) if isinstance(first, Tensor) else type(first).__name__
        raise ModelError(what, f"it returned {shape}, not ({len(x)}, classes)", "return one row of logits an image")
    if not torch.equal(given, x):
        raise ModelError(
            what, "it changes the images that it is given", "compute on a copy, without in-place operations"
        )
    if not first.is_floating_point():
        raise ModelError(what, f"its output is {first.dtype}", "return logits in floating point")
    if not torch.isfinite(first).all():
        raise ModelError(what, "its logits are NaN or infinite", "check the weights and the input range ([0,1])")
    return first, second


def _differentiable(model: Callable[[Tensor], Tensor], x: Tensor) -> bool:
    """Whether a gradient reaches the image, zero or not."""
    with torch.enable_grad():
        leaf = x.clone().requires_grad_()
        try:
            logits = model(leaf)
            return logits.requires_grad and torch.autograd.grad(logits.sum(), leaf, allow_unused=True)[0] is not None
        except RbfbenchError:
            raise
        except Exception as error:
            # A tensor that wants its gradient cannot be made an array. Whatever else a foreign model raises here is for
            # the attack to record.
            return "requires grad" not in str(error)


def _shares_noise(model: Callable[[Tensor], Tensor], copies: Tensor) -> bool:
    """Whether copies of one image get one answer in a pass, and another in the next: a draw serves the whole pass."""
    with torch.no_grad():
        passes = [model(copies.clone()) for _ in range(PASSES)]
    alike = all(torch.allclose(logits, logits[:1].expand_as(logits), atol=1e-4) for logits in passes)
    return alike and any(not torch.allclose(logits, passes[0], atol=1e-4) for logits in passes)


def _same_decision(target: Target, x: Tensor, answers: tuple[Tensor, Tensor], what: str) -> None:
    """Refuse a purifying model whose parts, which are attacked and judged, are not what it answers as a whole."""
    decided = target.decide(x, Keys.of([str(i) for i in range(len(x))], 0))[0]
    first, second = (answer.argmax(1) for answer in answers)
    agree = (decided.argmax(1) == first).float().mean().item()
    if agree < 0.5 * (first == second).float().mean().item():  # noise tips some, and it tips the whole as often
        raise ModelError(
            what,
            f"its forward and its classify(front()) agree on {agree:.0%} of them",
            "let forward decide by front and classify",
        )


@full_precision()
def inspect(
    model: Callable[[Tensor], Tensor], name: str, images: Images, device: torch.device, *, m: int | None = None
) -> Target:
    """Find out what a model is by asking it about a few images.

    Args:
        model: From (N, C, H, W) images in [0,1] to (N, classes) logits.
        name: What the user calls it.
        images: The images it will be attacked on.
        device: Where to put it.
        m: Passes a decision averages; None asks a model that purifies its input, and is 1 for any other.

    Raises:
        ModelError: It fails on these images, or its output is not finite logits for their classes.
        UsageError: `m` is given, and it answers the same every time.
    """
    if isinstance(model, nn.Module):
        model = model.eval().requires_grad_(False).to(device)
    elif isinstance(net := getattr(model, "weights", None), nn.Module):  # inside a model of another library
        net.eval()
    x = images.batch(0, PROBE)[0].to(device)
    what = f"{name} does not classify these images"
    with borrowed(device) as seed:  # what a random model draws here must not follow from the global generators
        seed(Keys.of(["inspection"], 0))
        first, second = _two_answers(model, x, what)
        differentiable = _differentiable(model, x)
        stochastic = bool(getattr(model, "stochastic", False)) or not torch.equal(first, second)
        noise_shared = stochastic and not is_purifier(model) and _shares_noise(model, x[:1].repeat(len(x), 1, 1, 1))
    if first.shape[1] < max(2, images.n_classes):
        raise ModelError(
            what,
            f"it has {first.shape[1]} outputs and the labels have {images.n_classes} classes",
            "give a model of this data set",
        )
    target = Target(model, name, device, n_classes=first.shape[1], differentiable=differentiable)
    target.stochastic = stochastic
    config: Any = getattr(model, "config", None)
    target.m = m or (config.m if target.keyed else 1)
    if m and not target.stochastic:
        raise UsageError(f"{name} has no --m", "it gives the same answer every time", "leave the option out")
    in_unit = bool(((first >= 0) & (first <= 1)).all())
    target.probabilities = in_unit and bool((first.sum(1) - 1).abs().max() < 1e-4)
    if target.keyed:
        _same_decision(target, x, (first, second), what)
    target.card = {
        "name": name,
        "stochastic": target.stochastic,
        "differentiable": target.differentiable,
        "probabilities": target.probabilities,
        "n_classes": target.n_classes,
        "input_shape": list(images.shape),
        "approximated": getattr(model, "approximated", False),
        "m": target.m,
        "batch_invariant": target.keyed or not target.stochastic,
        "noise_shared": noise_shared,
        "views": sorted(set(target.views) - {"none"}),
        "constants": {name: value for name, value in vars(config).items() if not name.endswith("_train")}
        | {"m": target.m}
        if target.keyed
        else {},
    }
    return target
