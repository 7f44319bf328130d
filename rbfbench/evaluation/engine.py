"""A run is one straight line: images and target -> for each attack: candidates -> verifier -> cell -> run."""

from __future__ import annotations

import hashlib
import math
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from math import fsum
from typing import TypeVar, cast

import msgspec
import numpy as np
import torch
from torch import Tensor

from rbfbench.attacks import NOISY_VIEWS, Row
from rbfbench.attacks.oracle import Objective, Oracle
from rbfbench.attacks.rng import Keys
from rbfbench.data.images import Images
from rbfbench.errors import ModelError, RbfbenchError
from rbfbench.evaluation.asked_again import answers_changed, noise_shared, null_off_clean
from rbfbench.evaluation.checks import run_checks
from rbfbench.evaluation.environment import describe_environment
from rbfbench.evaluation.examples import Examples
from rbfbench.evaluation.input_range import suspected
from rbfbench.evaluation.memory import choose_batch_size, is_out_of_memory
from rbfbench.evaluation.nearest import candidates_within, verified_distance
from rbfbench.evaluation.samples import Unattacked, better, nested, spared
from rbfbench.evaluation.spec import RunSpec
from rbfbench.evaluation.target import Target, View
from rbfbench.evaluation.verify import Verdict, float64, leaning, verify
from rbfbench.evaluation.work import (
    AGAIN,
    BACKWARD,
    CLEAN,
    NULL,
    RANGES,
    Meter,
    Progress,
    draws_of,
    images_of_row,
    ranges_work,
    recorded_parameters,
    repeated_work,
    row_work,
    verdict_work,
    view_of,
    work_ahead,
)
from rbfbench.interop import attack_info
from rbfbench.precision import full_precision
from rbfbench.results.intervals import score
from rbfbench.results.records import AttackRow, Category, Cell, Check, Norm, Run, Sample, Score
from rbfbench.results.records import View as ViewName
from rbfbench.results.store import RunFolder, cell_key
from rbfbench.results.summary import enters_worst_case, summarise, worst_case

T = TypeVar("T")
FINE = 0.95  # clean accuracy from which nobody asks whether a model expects other pixels
SURE = math.tanh(
    1.0
)  # leaning, that of a margin of 1, beyond which an image of a random model may count as broken for good


@dataclass(frozen=True)
class Outcome:
    """A run, its samples, and what stopped it before its end: the user, or a model that no longer answers."""

    run: Run
    samples: list[Sample]
    interrupted: bool
    lost: ModelError | None = None

    def whole(self) -> Outcome:
        """This, for those who can use no part of a run.

        Raises:
            KeyboardInterrupt: The user stopped it.
            ModelError: The model no longer answered.
        """
        if self.interrupted:
            raise KeyboardInterrupt
        if self.lost:
            raise self.lost
        return self


@full_precision()
def evaluate(
    target: Target,
    images: Images,
    spec: RunSpec,
    *,
    surrogates: Sequence[Target] = (),
    smaller: Sequence[Sample] = (),
    folder: RunFolder | None = None,
    save_examples: int | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Outcome:
    """Run every attack of the spec on the target, verify, and summarise.

    Args:
        target: The model.
        images: The images asked for, already limited.
        spec: What to run.
        surrogates: Models that transfer rows attack in its place; several make an ensemble.
        smaller: Samples of the same rows within a smaller ball: what broke an image there breaks it here, and is not
            attacked again. On a random model, where an example that worked once may not work again, every image is
            attacked, and the better candidate of the two balls is taken.
        folder: Where to keep cells and results, resuming from those that are there.
        save_examples: Adversarial examples to keep for each attack in the folder; None keeps all. A cell whose earlier
            run kept fewer is computed again.
        progress: Told how much of the work is done.

    Raises:
        RbfbenchError: The model cannot be judged on the images at all. A crash within an attack is no error: its
            images are `unknown`, and the run is `partial`. A model that fails as a whole after some attacks ends the
            run, which keeps them.
    """
    environment = describe_environment(target.device)  # now: a checkout can move on while its code runs
    if folder:
        folder.claim(spec.question())
    with _answering(target):
        job = _Job(target, images, spec, surrogates, progress)
        job.nest(smaller)
        clean = job.clean_pass()
    digest = cell_key(spec.deciding() | {"rows": [job.key(row) for row in job.rows]})
    cells: list[Cell] = []
    null: Score | None = None
    noise: list[Check] = []
    suspicion, interrupted, lost = "", False, None
    try:
        for row in job.rows:
            key = job.key(row)
            examples = Examples(folder.path if folder else None, row.id, key, images.classes, save_examples)
            cell = job.stored(folder, row, examples)
            if cell is None:
                with closing(examples):
                    cell = job.attack(row, examples)
                    examples.write()
                if folder and cell.row.unknown == 0:  # a crash may not repeat itself: try such a cell again
                    folder.write_cell(key, cell)
            job.learn(row, cell)
            cells.append(cell)
        if target.stochastic:
            with _answering(target):
                entered = (enters_worst_case(cell.row, include_transfer=spec.include_transfer) for cell in cells)
                null = job.null_control(max(1, sum(entered)))
            noise = [noise_shared(target), null_off_clean(clean, null, job.passes)]
        else:
            with _answering(target):
                noise = [job.asked_again()]
        with _answering(target):
            suspicion = job.suspicion(clean)
    except KeyboardInterrupt:
        interrupted = True
    except ModelError as error:
        if not cells:
            raise
        lost = error
    finished = not (interrupted or lost)
    unknown = any(cell.row.unknown for cell in cells)
    run = Run(
        status="started" if not finished else "partial" if unknown else "complete",
        spec=spec.document(),
        spec_digest=digest,
        model_digest=job.model_digest,
        data_digest=images.digest,
        model=target.card,
        environment=environment,
        clean=clean,
        attacks=[cell.row for cell in cells],
        worst_case=worst_case(
            cells, stochastic=target.stochastic, include_transfer=spec.include_transfer, cumulative=spec.worst_case
        ),
        null_attack=null,
        checks=job.crashes
        + run_checks(
            target,
            images,
            clean,
            cells,
            job.left_out,
            suspicion=suspicion,
            cut=spec.limit < spec.available,
            finished=finished,
        )
        + noise
        + ([job.surrogate_check()] if surrogates else []),
    )
    samples = [sample for cell in cells for sample in cell.samples]
    if folder:
        folder.finish(run, samples)
    return Outcome(run, samples, interrupted, lost)


@contextmanager
def _answering(target: Target) -> Iterator[None]:
    """Outside an attack there is nothing to record a crash of the model in: it becomes one line for the user."""
    try:
        yield
    except RbfbenchError:
        raise
    except Exception as error:
        why = "there is no memory for one image" if is_out_of_memory(error) else f"{type(error).__name__}: {error}"
        raise ModelError(
            f"{target.name} failed on clean images", " ".join(why.split())[:200], "check it with these images"
        ) from error


class _Job:
    """One run in progress: what its steps share."""

    def __init__(
        self, target: Target, images: Images, spec: RunSpec, surrogates: Sequence[Target], progress: Progress
    ) -> None:
        self.target, self.images, self.spec, self.surrogates = target, images, spec, surrogates
        self.keys = Keys.of(images.ids, spec.seed)
        self.views = target.views
        self.passes = spec.passes if target.stochastic else 1
        self.model_digest = target.fingerprint(images)
        self.surrogate_digests = [surrogate.fingerprint(images) for surrogate in surrogates]
        self.rows = [row for row in spec.rows if row.view in self.views and self._has_surrogate(row)]
        if not self.rows:
            has = ", ".join(target.card["views"]) or "none, since no gradient reaches the image"
            raise ModelError(
                f"none of the attacks can look at {target.name}",
                f"they want the view {spec.rows[0].view}, and it has {has}",
                "name one of its views with --gradient" if target.card["views"] else "use --suite black-box",
            )
        exact = all(view.exact for view in self.views.values())
        # Averaging over the noise of a model that has none is what the other rows do already.
        self.left_out = [row for row in spec.rows if row not in self.rows and not (row.view in NOISY_VIEWS and exact)]
        self.crashes: list[Check] = []
        self.broken: dict[int, Sample] = {}  # by position: what broke an image for good, where survivors are attacked
        self.nested: dict[str, dict[int, Sample]] = {}  # by row and position: what is known from a smaller ball
        target.max_rows = spec.batch_size or choose_batch_size(target, images.batch(0, 1)[0].to(target.device))
        self.meter = Meter(progress, work_ahead(target, self.rows, images, self.passes))

    def nest(self, smaller: Sequence[Sample]) -> None:
        """Take over what the same rows have broken within a smaller ball; all candidates on a random model."""
        position = {image: i for i, image in enumerate(self.images.ids)}
        for sample in smaller:
            if sample.status in ("ok", "spared") and (sample.correct == 0 or self.target.stochastic):
                self.nested.setdefault(sample.attack, {})[position[sample.image]] = sample

    def _has_surrogate(self, row: Row) -> bool:
        return bool(self.surrogates) or not attack_info(row.attack).surrogate

    def suspicion(self, clean: Score) -> str:
        """What the model seems to expect in place of [0,1], where it is wrong on more than a few images."""
        work = ranges_work(self.target, self.images)
        if clean.accuracy >= FINE or not work:
            self.meter.skip(RANGES)
            self.meter.tick(0)
            return ""
        self.meter.begin(RANGES, work)

        def tell(asked: int) -> None:
            self.meter.tick(asked)
            self.meter.settle(asked)

        return suspected(self.target, self.images, tell)

    def surrogate_check(self) -> Check:
        """Whether a surrogate is the target itself: then its examples are made on the model that they are scored on."""
        same = [
            s.name
            for s, digest in zip(self.surrogates, self.surrogate_digests, strict=True)
            if digest == self.model_digest
        ]
        return Check(
            code="surrogate-is-target",
            fired=bool(same),
            detail=f"the surrogate {', '.join(same)} is the model itself: nothing is transferred",
        )

    def key(self, row: Row) -> str:
        """Content address of a row's cell, as things stand before it runs."""
        info = attack_info(row.attack)
        asked = [self.target, *(self.surrogates if info.surrogate else ())]
        invariant = all(target.card["batch_invariant"] for target in asked) and info.batch_invariant
        # Parts that most rows do not have stay out of the digest.
        parts = {
            "release": info.release or None,
            "surrogates": self.surrogate_digests if info.surrogate else None,
            "limit": row.limit,
            "nested": sorted(self._from_smaller(row)) or None,
            "broken": sorted(self.images.ids[i] for i in self.broken) or None if self._spares(row) else None,
        }
        return cell_key(
            self.spec.deciding()
            | {
                "schema": 6,
                "rbfbench": version("rbfbench"),
                "model": self.model_digest,
                "data": self.images.digest,
                "batch": None if invariant else self.target.max_rows,
                "row": {
                    "id": row.id,
                    "attack": row.attack,
                    "view": row.view,
                    "draws": row.draws,
                    "objective": row.objective,
                },
                "parameters": row.parameters,
            }
            | {name: part for name, part in parts.items() if part is not None}
        )

    def _from_smaller(self, row: Row) -> Iterator[str]:
        """What decides how a row goes on from a smaller ball."""
        for i, sample in self.nested.get(row.id, {}).items():
            yield f"{self.images.ids[i]} {sample.selection}" if self.target.stochastic else self.images.ids[i]

    def stored(self, folder: RunFolder | None, row: Row, examples: Examples) -> Cell | None:
        """The row's cell if an earlier run of this folder finished it, and kept as many examples as are wanted now."""
        cell = folder.read_cell(self.key(row)) if folder else None
        if cell is None or not examples.kept_before(cell):
            return None
        self.meter.skip(row.id)
        self.flat = cell.row.flat
        # Summed up anew: the samples are what was measured, and what rows make of them may have changed since.
        return Cell(row=self._summary(row, cell.samples, cell.row.wall_s), samples=cell.samples)

    def _spares(self, row: Row) -> bool:
        """Whether a row attacks survivors only: not if it stays out of the worst case, and stands for itself."""
        info = attack_info(row.attack)
        enters = info.kind != "control" and (self.spec.include_transfer or not info.surrogate)
        return self.spec.worst_case and enters

    def learn(self, row: Row, cell: Cell) -> None:
        """Let later rows spare what this one has broken, if survivors only are attacked."""
        if not self._spares(row):
            return
        position = {image: i for i, image in enumerate(self.images.ids)}
        for sample in cell.samples:
            # Draws that score a random model must not decide what is attacked: that would be luck.
            lost = sample.selection < -self._sure() if self.target.stochastic else sample.correct == 0
            if lost and sample.status in ("ok", "spared"):
                self.broken[position[sample.image]] = sample

    def _sure(self) -> float:
        """Beyond this leaning all decisions that chose are wrong: a right one leaves at least -(passes - 1)/passes."""
        return max(SURE, (self.passes - 1) / self.passes)

    def batches(self, where: np.ndarray, rows_an_image: int) -> Iterator[np.ndarray]:
        """Positions `where`, cut so that a batch has at most `max_rows` rows; the cut follows a lowered limit."""
        start = 0
        while start < len(where):
            size = max(1, self.target.max_rows // rows_an_image)
            yield where[start : start + size]
            start += size

    def groups(self, taken: np.ndarray, alive: np.ndarray, size: int) -> Iterator[np.ndarray]:
        """Positions `alive` in groups of images that act on each other: fixed by the ids of all that the row takes."""
        ids = [self.images.ids[i] for i in taken.tolist()]
        order = taken[np.argsort([hashlib.blake2b(image.encode(), digest_size=8).hexdigest() for image in ids])]
        for start in range(0, len(order), size):
            group = np.intersect1d(order[start : start + size], alive)
            if len(group):
                yield group

    def load(self, where: np.ndarray) -> tuple[Tensor, Tensor]:
        """Images and labels at positions, on the device."""
        x, y = self.images.at(where)
        device = self.target.device
        return x.to(device), y.to(device)

    def clean_pass(self) -> Score:
        """Decide on the clean images: who is right without any attack, and how often."""
        n = len(self.images)
        correct, prediction = np.zeros(n), np.zeros(n, np.int64)
        keys = self.keys.fold("clean")
        self.meter.begin(CLEAN, self.meter.ahead[CLEAN])
        for where in self.batches(np.arange(n), 1):

            def decide(where: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
                x, y = self.load(where)
                logits = self.target.decide(x, keys[where], self.passes)
                if not torch.isfinite(logits).all():
                    raise ModelError(
                        f"{self.target.name} does not classify these images",
                        "its logits are NaN or infinite on some of them",
                        "check the weights and the input range ([0,1])",
                    )
                fresh = logits.argmax(2)
                self.meter.tick(len(where) * self.passes * self.target.draws)
                return [(float64(fresh == y).mean(0).cpu().numpy(), fresh[0].cpu().numpy())]

            parts = self._halving(decide, where)
            correct[where] = np.concatenate([part[0] for part in parts])
            prediction[where] = np.concatenate([part[1] for part in parts])
            self.meter.settle(len(where) * self.passes * self.target.draws)
        self.clean = Unattacked(self.images, correct, prediction)
        self.worth = (correct > 0) | self.target.stochastic
        return score(fsum(correct), n)

    def attack(self, row: Row, examples: Examples) -> Cell:
        """Attack the images that are right without attack, and verify what comes back.

        All images of a stochastic model: leaving out those that a few decisions got wrong would be a selection by luck.
        """
        began = time.monotonic()
        self.flat = 0
        info = attack_info(row.attack)
        taken = np.arange(images_of_row(row, len(self.images)))
        smaller = self.nested.get(row.id, {})
        known = {} if self.target.stochastic else {i: nested(sample) for i, sample in smaller.items()}
        if self._spares(row):
            known |= {i: spared(row.id, sample) for i, sample in self.broken.items()}
        gone = np.array([i in known for i in taken.tolist()], bool)
        alive = taken[self.worth[taken] & ~gone]
        samples = [self.clean.clean_error(row.id, i) for i in taken[~self.worth[taken]].tolist()]
        samples += [known[i] for i in taken[gone].tolist()]
        each = row_work(self.target, row, self.passes)
        self.meter.begin(row.id, len(alive) * each)
        view = view_of(self.target, row, self.surrogates)
        work = partial(self._attack_batch, row, view, examples)
        if info.coupled:
            parts = self.groups(taken, alive, cast(int, row.parameters["particles"]))
        else:
            parts = self.batches(alive, draws_of(self.target, row))
        for where in parts:
            samples += self._halving(work, where, whole=info.coupled)
            self.meter.settle(len(where) * each)
        order = {image: position for position, image in enumerate(self.images.ids)}
        if self.target.stochastic:
            samples = [better(sample, smaller.get(order[sample.image])) for sample in samples]
        samples.sort(key=lambda sample: order[sample.image])
        return Cell(row=self._summary(row, samples, time.monotonic() - began), samples=samples)

    def null_control(self, copies: int) -> Score:
        """The worst case over so many copies of the unattacked images: the same choice, scored on fresh decisions."""
        correct = np.zeros(len(self.images))
        each = self.target.draws * self.passes * (copies + 1)
        self.meter.begin(NULL, len(correct) * each)
        for where in self.batches(np.arange(len(self.images)), 1):

            def judge(where: np.ndarray) -> list[np.ndarray]:
                x, y = self.load(where)
                keys = self.keys[where].fold("null")
                copied = (self.target.decide(x, keys.fold("copy", i), self.passes) for i in range(copies))
                chosen = torch.stack([leaning(decisions, y) for decisions in copied]).argmin(0).cpu().numpy()
                fresh = self.target.decide(x, keys.fold("score").draw(chosen), self.passes).argmax(2)
                self.meter.tick(len(where) * each)
                return [float64(fresh == y).mean(0).cpu().numpy()]

            correct[where] = np.concatenate(self._halving(judge, where))
            self.meter.settle(len(where) * each)
        return score(fsum(correct), len(correct))

    def asked_again(self) -> Check:
        """Ask a model that passes for deterministic about the first images twice more."""
        self.meter.begin(AGAIN, repeated_work(self.target, len(self.images)))

        def tell(asked: int) -> None:
            self.meter.tick(asked * self.target.draws)
            self.meter.settle(asked * self.target.draws)

        return answers_changed(self.target, self.images, self.keys.fold("clean"), self.clean.prediction, tell)

    def _attack_batch(self, row: Row, view: View, examples: Examples, where: np.ndarray) -> list[Sample]:
        x, y = self.load(where)
        keys = self.keys[where].fold("attack", row.id)
        info, spec, target = attack_info(row.attack), self.spec, self.target
        draws = view.draws or row.draws
        oracle = Oracle(
            view.forward,
            keys.fold("noise") if view.noisy else None,
            len(where),
            draws=draws,
            objective=cast(Objective, row.objective),
            exact=view.exact,
            # Draws that are fixed in the model are one ensemble: cut into passes, each would see its first members.
            max_rows=max(target.max_rows, draws) if view.draws else target.max_rows,
            spent=lambda forwards, backwards: self.meter.tick(forwards + BACKWARD * backwards),
        )
        verdict_keys = self.keys[where].fold("verdict", row.id)
        try:
            x_adv = info.resolve()(oracle, x, y, norm=spec.norm, eps=spec.eps, rng=keys, **row.parameters)
            distance = None
            if info.kind == "minimum-norm":
                nearest = x_adv
                x_adv = candidates_within(
                    target,
                    x,
                    nearest,
                    y,
                    norm=spec.norm,
                    eps=spec.eps,
                    keys=verdict_keys.fold("choose"),
                    passes=self.passes,
                )
            verdict = self._verdict(x, x_adv, y, verdict_keys)
            if info.kind == "minimum-norm" and not target.stochastic:
                distance_keys = verdict_keys.fold("distance")
                distance = verified_distance(target, x, (nearest, x_adv), y, norm=spec.norm, keys=distance_keys)
        except RbfbenchError:
            raise
        except Exception as error:
            # The one place where a crash becomes a record: these images are unknown, never robust.
            if is_out_of_memory(error):
                raise
            detail = f"{row.id}: {''.join(traceback.format_exception_only(error)).strip()}"
            crash = Check(code="attack-crashed", fired=True, detail=detail)
            self.crashes += [crash] if crash not in self.crashes else []
            return [self.clean.unknown(row.id, i) for i in where.tolist()]
        self.meter.tick(len(where) * verdict_work(target, row, self.passes))
        examples.add(where, x, x_adv, y, verdict)
        self.flat += int(((oracle.counts.looks > 0) & (oracle.counts.flat == oracle.counts.looks)).sum())
        return self.clean.judged(row.id, where, y, verdict, counts=oracle.counts, distance=distance)

    def _verdict(self, x: Tensor, x_adv: Tensor, y: Tensor, keys: Keys) -> Verdict:
        spec = self.spec
        return verify(self.target, x, x_adv, y, norm=spec.norm, eps=spec.eps, keys=keys, passes=self.passes)

    def _halving(self, work: Callable[[np.ndarray], list[T]], where: np.ndarray, *, whole: bool = False) -> list[T]:
        """`work(where)`; when memory runs out, with smaller batches from then on, and in halves unless `whole`."""
        try:
            return work(where)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if (whole or len(where) == 1) and self.target.max_rows == 1:
                raise ModelError(
                    f"{self.target.name} does not fit into memory", "not even one image does", "take a larger machine"
                ) from error
        self.target.max_rows = max(1, self.target.max_rows // 2)
        if self.target.device.type == "cuda":
            torch.cuda.empty_cache()
        middle = len(where) if whole else max(1, len(where) // 2)
        parts = (where[:middle], where[middle:])
        return [result for part in parts if len(part) for result in self._halving(work, part, whole=whole)]

    def _summary(self, row: Row, samples: list[Sample], wall_s: float) -> AttackRow:
        spec = self.spec
        summary = summarise(
            samples,
            images_of_row(row, len(self.images)),
            id=row.id,
            name=row.attack,
            view=cast(ViewName, row.view),
            category=_category(row, self.views),
            norm=cast(Norm, spec.norm),
            eps=spec.eps,
            decisions=self.passes,
            wall_s=wall_s,
            params=recorded_parameters(self.target, row),
        )
        cumulative = summary.accuracy if self._spares(row) else None
        return msgspec.structs.replace(summary, flat=self.flat, cumulative_accuracy=cumulative)


def _category(row: Row, views: dict[str, View]) -> Category:
    if attack_info(row.attack).surrogate:
        return "transfer"
    if not attack_info(row.attack).gradient:
        return "black-box"
    if row.view in NOISY_VIEWS:
        return "adaptive"
    return "white-box" if views[row.view].exact else "static"
