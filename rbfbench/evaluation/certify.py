"""Randomised smoothing (Cohen, Rosenfeld, Kolter, arXiv 1902.02918): certificates by sampling, image by image."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import fsum
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rbfbench.attacks.rng import Keys
from rbfbench.data.images import Images
from rbfbench.errors import ModelError, RbfbenchError, UsageError, raised
from rbfbench.evaluation.environment import describe_environment
from rbfbench.evaluation.memory import choose_batch_size
from rbfbench.evaluation.target import Target
from rbfbench.precision import full_precision
from rbfbench.results.atomic import write_atomic
from rbfbench.results.certificates import ABSTAIN, Certificate, Certification, certified, radius_of
from rbfbench.results.records import Amount, Record, encode
from rbfbench.results.store import cell_key, claim

CHUNK = 1000  # draws that share a key; fixed, so that a certificate does not depend on the batch size
LEAST_ALPHA = 1e-12  # 1 - 2 alpha, the confidence of the bound, has no digits left for much less
SHARES = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)  # radii, in standard deviations of the noise, where none are named


@dataclass(frozen=True, kw_only=True)
class CertifySpec:
    """Everything that decides certificates.

    Attributes:
        model: What the user called the model.
        dataset: What the user called the images.
        sigma: Standard deviation of the noise, on [0,1] pixels.
        n0: Draws that choose the class.
        n: Draws that count it.
        alpha: Probability that a certificate is wrong.
        radii: l2 radii to report.
        seed: Seeds every draw.
        knobs: Constants of the defence that were changed.
        loading: What was said about the model beside its name.
    """

    model: str
    dataset: str
    sigma: float
    n0: int = 100
    n: int = 10_000
    alpha: float = 0.001
    radii: tuple[float, ...] = ()
    seed: int = 0
    knobs: dict[str, Any] = dataclasses.field(default_factory=dict)
    loading: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse numbers that have no meaning (`UsageError`)."""
        for name, holds, wanted in (
            ("sigma", 0 < self.sigma < float("inf"), "above 0 and finite"),
            ("n0", self.n0 >= 1, "at least 1"),
            ("n", self.n >= 1, "at least 1"),
            ("alpha", LEAST_ALPHA <= self.alpha < 0.5, f"at least {LEAST_ALPHA:g} and below 0.5"),
            ("radii", all(0 < radius < float("inf") for radius in self.radii), "above 0 and finite"),
        ):
            if not holds:
                raise UsageError(
                    f"{name} = {getattr(self, name)} certifies nothing", f"it must be {wanted}", "change it"
                )
        if not self.radii:
            ceiling = radius_of(self.n, self.n, sigma=self.sigma, alpha=self.alpha)
            asked = tuple(share * self.sigma for share in SHARES if share * self.sigma <= ceiling)
            object.__setattr__(self, "radii", asked)


@full_precision()
def certify(
    target: Target,
    images: Images,
    spec: CertifySpec,
    *,
    batch_size: int | None = None,
    folder: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Certification:
    """Certify each image; Ctrl-C ends with those that are done.

    The smoothed classifier answers with the class that the model gives most often to the image under Gaussian noise. A
    model that is random itself draws its own noise anew in every pass, one pass a draw; one whose noise is fixed
    answers as it always does, by all its passes. Noise is not clipped.

    Args:
        target: The model.
        images: The images asked for, already limited.
        spec: How.
        batch_size: Draws in one pass; chosen from memory if None. A random model that takes no keys is called for each.
        folder: Where certificates are kept, one file an image, and found again.
        progress: Told (done, total) draws.

    Raises:
        ModelError: The model fails, or its answers are not finite.
        LoadError: The folder cannot be written.
    """
    environment = describe_environment(target.device)
    target.max_rows = batch_size or choose_batch_size(target, images.batch(0, 1)[0].to(target.device))
    digest = target.fingerprint(images)
    batch = None if target.card["batch_invariant"] or _alone(target) else target.max_rows
    store = _Store(folder, spec, digest, batch, target.draws if _fixed(target) else None)
    keys = Keys.of(images.ids, spec.seed).fold("certify")
    done: list[_Kept] = []
    each, status = spec.n0 + spec.n, "complete"
    try:
        for i, image in enumerate(images.ids):
            label = int(images.labels[i])
            found = store.read(image, label)
            if found is None:
                x, _ = images.batch(i, i + 1)
                here = keys[slice(i, i + 1)]

                def tell(draws: int, start: int = i * each) -> None:
                    progress(start + draws, len(images) * each)

                began = time.monotonic()
                made = certificate(target, x.to(target.device), here, spec, image=image, label=label, tell=tell)
                found = _Kept(certificate=made, wall_s=time.monotonic() - began)
                store.write(found)
            done.append(found)
    except KeyboardInterrupt:
        if not done:
            raise
        status = "started"
    certificates = [kept.certificate for kept in done]
    return Certification(
        status=status,  # type: ignore[arg-type]
        spec=dataclasses.asdict(spec) | {"source": images.source, "limit": len(images)},
        model_digest=digest,
        data_digest=images.digest,
        model=target.card,
        environment=environment,
        wall_s=fsum(kept.wall_s for kept in done),
        ceiling=radius_of(spec.n, spec.n, sigma=spec.sigma, alpha=spec.alpha),
        abstained=sum(each.prediction == ABSTAIN for each in certificates),
        certified=certified(certificates, spec.radii),
        certificates=certificates,
    )


def certificate(
    target: Target,
    x: Tensor,
    keys: Keys,
    spec: CertifySpec,
    *,
    image: str,
    label: int,
    tell: Callable[[int], None] = lambda draws: None,
) -> Certificate:
    """CERTIFY of arXiv 1902.02918 for one image x (1, C, H, W): the draws that count are not those that chose."""
    chosen = int(counts(target, x, keys.fold("choose"), n=spec.n0, sigma=spec.sigma, tell=tell).argmax())

    def tell_more(draws: int) -> None:
        tell(spec.n0 + draws)

    k = int(counts(target, x, keys.fold("count"), n=spec.n, sigma=spec.sigma, tell=tell_more)[chosen])
    radius = radius_of(k, spec.n, sigma=spec.sigma, alpha=spec.alpha)
    return Certificate(
        image=image, label=label, prediction=chosen if radius > 0 else ABSTAIN, top=chosen, k=k, radius=radius
    )


@torch.no_grad()
def counts(
    target: Target,
    x: Tensor,
    keys: Keys,
    *,
    n: int,
    sigma: float,
    tell: Callable[[int], None] = lambda draws: None,
) -> NDArray[np.int64]:
    """How often each class is the answer to x (1, C, H, W) under n draws of noise; (n_classes,).

    Args:
        target: The model.
        x: One image.
        keys: One key.
        n: Draws.
        sigma: Standard deviation of the noise.
        tell: Told how many draws are done.

    Raises:
        ModelError: It fails, or its answers are not finite.
    """
    view = target.views["none"]
    fixed = _fixed(target)
    rows = 1 if _alone(target) else target.max_rows
    found = np.zeros(target.n_classes, np.int64)
    for start in range(0, n, CHUNK):
        size = min(CHUNK, n - start)
        chunk = keys.draw(np.array([start // CHUNK]))
        noise = sigma * chunk.fold("gaussian").normal((size, *x.shape[1:]), x)[0]
        own = chunk.fold("model").spread(size)
        for first in range(0, size, rows):
            part = slice(first, min(first + rows, size))
            try:
                if fixed:
                    logits = target.decide(x + noise[part], own[part])[0]
                else:
                    logits = view.forward(x + noise[part], own[part] if view.noisy else None)
            except RbfbenchError:
                raise
            except Exception as error:  # whatever a foreign model raises, its user needs one line
                raise ModelError(
                    f"{target.name} cannot be certified",
                    f"under noise it raised {raised(error)}",
                    "noise leaves [0,1]: let the model clip, or lower --batch-size if memory ran out",
                ) from error
            if not torch.isfinite(logits).all():
                raise ModelError(
                    f"{target.name} cannot be certified",
                    "its logits are NaN or infinite under noise",
                    "check the model",
                )
            found += np.bincount(logits.argmax(1).cpu().numpy(), minlength=target.n_classes)
        tell(start + size)
    return found


def _alone(target: Target) -> bool:
    """Whether each draw needs a call of its own: a model may draw once a call, and draws must be independent."""
    return target.stochastic and not target.keyed


def _fixed(target: Target) -> bool:
    """Whether what the model draws is part of its weights."""
    view = target.views["none"]
    return view.noisy and view.exact


class _Kept(Record, frozen=True, kw_only=True):
    """What the file of an image holds: a run that goes on counts the time of those before it."""

    certificate: Certificate
    wall_s: Amount


class _Store:
    """One file an image, named after everything that decides its certificate."""

    def __init__(
        self, folder: Path | None, spec: CertifySpec, digest: str, batch: int | None, passes: int | None
    ) -> None:
        self.folder = folder and folder / "certificates"
        kept = {name: getattr(spec, name) for name in ("sigma", "n0", "n", "alpha", "seed", "knobs", "loading")}
        if folder and self.folder:
            claim(folder, kept | {"certified": [spec.model, spec.dataset]})
            self.folder.mkdir(parents=True, exist_ok=True)
        self.decides = {"schema": 4, "model": digest, "batch": batch} | kept
        if passes is not None:  # of each answer; others answer by one
            self.decides["passes"] = passes

    def _path(self, image: str) -> Path | None:
        return self.folder and self.folder / f"{cell_key(self.decides | {'image': image})}.json"

    def read(self, image: str, label: int) -> _Kept | None:
        """The certificate of an image, and what it took, if it is there and whole.

        No certificate depends on the label, and images may have been given others since: it is that of today.
        """
        path = self._path(image)
        if path is None or not path.is_file():
            return None
        try:
            found = msgspec.json.decode(path.read_bytes(), type=_Kept)
        except (msgspec.DecodeError, UnicodeDecodeError):  # damaged: computed again, and written anew
            return None
        if found.certificate.image != image:
            return None
        return msgspec.structs.replace(found, certificate=msgspec.structs.replace(found.certificate, label=label))

    def write(self, found: _Kept) -> None:
        """Keep a certificate."""
        path = self._path(found.certificate.image)
        if path:
            write_atomic(path, encode(found))
