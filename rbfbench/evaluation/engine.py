"""A run is one straight line: images and target -> for each attack: candidates -> verifier -> cell -> run."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from math import fsum
from typing import TypeVar, cast

import msgspec
import numpy as np
import torch
from torch import Tensor

from rbfbench.attacks import ATTACKS, AVERAGING, NOISY_VIEWS, Row
from rbfbench.attacks.losses import margin
from rbfbench.attacks.oracle import Counts, Objective, Oracle
from rbfbench.attacks.rng import Keys
from rbfbench.data.images import Images
from rbfbench.errors import ModelError, RbfbenchError
from rbfbench.evaluation.checks import run_checks
from rbfbench.evaluation.environment import describe_environment
from rbfbench.evaluation.examples import Examples
from rbfbench.evaluation.memory import choose_batch_size, is_out_of_memory
from rbfbench.evaluation.spec import RunSpec
from rbfbench.evaluation.target import Target, View
from rbfbench.evaluation.verify import Verdict, verify
from rbfbench.results.intervals import score
from rbfbench.results.records import AttackRow, Category, Cell, Check, Norm, Run, Sample, Score
from rbfbench.results.records import View as ViewName
from rbfbench.results.store import RunFolder, cell_key
from rbfbench.results.summary import enters_worst_case, summarise, worst_case

T = TypeVar("T")
Progress = Callable[[str, float, float], None]  # (what, work done, all work), work in passes over one image


@dataclass(frozen=True)
class Outcome:
    """A run, its samples, and whether the user stopped it before its end."""

    run: Run
    samples: list[Sample]
    interrupted: bool


def evaluate(
    target: Target,
    images: Images,
    spec: RunSpec,
    *,
    folder: RunFolder | None = None,
    save_examples: int | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Outcome:
    """Run every attack of the spec on the target, verify, and summarise.

    Args:
        target: The model.
        images: The images asked for, already limited.
        spec: What to run.
        folder: Where to keep cells and results, resuming from those that are there.
        save_examples: Adversarial examples to keep for each attack in the folder; None keeps all.
        progress: Told how much of the work is done.

    Raises:
        RbfbenchError: The model cannot be judged on the images at all. A crash within an attack is no error: its
            images are `unknown`, and the run is `partial`.
    """
    if folder:
        folder.claim(spec.question())
    with _answering(target):
        job = _Job(target, images, spec, progress)
        clean = job.clean_pass()
    cells: list[Cell] = []
    null: Score | None = None
    interrupted = False
    try:
        for row in job.rows:
            cell = job.stored(folder, row)
            if cell is None:
                examples = Examples(folder.path if folder else None, row.id, save_examples)
                cell = job.attack(row, examples)
                examples.write()
                if folder and cell.row.unknown == 0:  # a crash may not repeat itself: try such a cell again
                    folder.write_cell(job.key(row), cell)
            cells.append(cell)
        if target.stochastic:
            with _answering(target):
                null = job.null_control(max(1, sum(enters_worst_case(cell.row) for cell in cells)))
    except KeyboardInterrupt:
        interrupted = True
    unknown = any(cell.row.unknown for cell in cells)
    run = Run(
        status="started" if interrupted else "partial" if unknown else "complete",
        spec=spec.document(),
        spec_digest=cell_key(spec.deciding() | {"rows": [job.key(row) for row in job.rows]}),
        model_digest=job.model_digest,
        data_digest=images.digest,
        model=target.card,
        environment=describe_environment(target.device),
        clean=clean,
        attacks=[cell.row for cell in cells],
        worst_case=worst_case(cells, len(images), stochastic=target.stochastic),
        null_attack=null,
        checks=job.crashes + run_checks(target, clean, [cell.row for cell in cells], job.left_out),
    )
    samples = [sample for cell in cells for sample in cell.samples]
    if folder:
        folder.finish(run, samples)
    return Outcome(run, samples, interrupted)


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

    def __init__(self, target: Target, images: Images, spec: RunSpec, progress: Progress) -> None:
        self.target, self.images, self.spec, self.progress = target, images, spec, progress
        self.keys = Keys.of(images.ids, spec.seed)
        self.views = target.views
        self.exact = all(view.exact for view in self.views.values())
        self.passes = spec.passes if target.stochastic else 1
        self.model_digest = target.fingerprint(images)
        self.rows = [row for row in spec.rows if row.view in self.views]
        if not self.rows:
            raise ModelError(
                f"none of the attacks can look at {target.name}",
                f"they want the view {spec.rows[0].view}, and it has {', '.join(target.card['views'])}",
                "leave --gradient out, or name one of its views",
            )
        # Averaging over the noise of a model that has none is what the other rows do already.
        self.left_out = [
            row for row in spec.rows if row not in self.rows and not (row.view in NOISY_VIEWS and self.exact)
        ]
        self.crashes: list[Check] = []
        target.max_rows = spec.batch_size or choose_batch_size(target, images.batch(0, 1)[0].to(target.device))
        self.done = 0.0
        self.work = work_ahead(target, self.rows, len(images), self.passes)

    def _tell(self, what: str, work: float) -> None:
        self.done += work
        self.progress(what, self.done, max(self.work, self.done))

    def key(self, row: Row) -> str:
        """Content address of a row's cell."""
        return cell_key(
            self.spec.deciding()
            | {
                "schema": 1,
                "rbfbench": version("rbfbench"),
                "model": self.model_digest,
                "data": self.images.digest,
                "batch": None if self.target.card["batch_invariant"] else self.target.max_rows,
                "row": {
                    "id": row.id,
                    "attack": row.attack,
                    "view": row.view,
                    "draws": row.draws,
                    "objective": row.objective,
                },
                "parameters": row.parameters,
            }
        )

    def stored(self, folder: RunFolder | None, row: Row) -> Cell | None:
        """The row's cell if an earlier run of this folder finished it."""
        cell = folder.read_cell(self.key(row)) if folder else None
        if cell:
            self._tell(row.id, row_work(self.target, row, self.passes) * len(self.images))
        return cell

    def batches(self, where: np.ndarray, rows_an_image: int) -> Iterator[np.ndarray]:
        """Positions `where`, cut so that a batch has at most `max_rows` rows; the cut follows a lowered limit."""
        start = 0
        while start < len(where):
            size = max(1, self.target.max_rows // rows_an_image)
            yield where[start : start + size]
            start += size

    def load(self, where: np.ndarray) -> tuple[Tensor, Tensor]:
        """Images and labels at sorted positions, on the device."""
        x, y = self.images.batch(int(where[0]), int(where[-1]) + 1)
        pick = torch.from_numpy(where - where[0])
        device = self.target.device
        return x[pick].to(device), y[pick].to(device)

    def clean_pass(self) -> Score:
        """Decide on the clean images: who is right without any attack, and how often."""
        n = len(self.images)
        self.clean_correct = np.zeros(n)
        self.clean_prediction = np.zeros(n, np.int64)
        keys = self.keys.fold("clean")
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
                return [((fresh == y).double().mean(0).cpu().numpy(), fresh[0].cpu().numpy())]

            parts = self._halving(decide, where)
            self.clean_correct[where] = np.concatenate([part[0] for part in parts])
            self.clean_prediction[where] = np.concatenate([part[1] for part in parts])
            self._tell("clean", len(where) * self.passes * self.target.draws)
        self.worth = (self.clean_correct > 0) | self.target.stochastic
        return score(fsum(self.clean_correct), n)

    def attack(self, row: Row, examples: Examples) -> Cell:
        """Attack the images that are right without attack, and verify what comes back.

        All images of a stochastic model: leaving out those that a few decisions got wrong would be a selection by luck.
        """
        began = time.monotonic()
        self.flat = 0
        view = self.views[row.view]
        draws = view.draws or row.draws
        samples = [self._clean_error(row, i) for i in np.flatnonzero(~self.worth).tolist()]
        for where in self.batches(np.flatnonzero(self.worth), draws if view.noisy else 1):
            samples += self._halving(partial(self._attack_batch, row, view, draws, examples), where)
            self._tell(row.id, len(where) * row_work(self.target, row, self.passes))
        order = {image: position for position, image in enumerate(self.images.ids)}
        samples.sort(key=lambda sample: order[sample.image])
        return Cell(row=self._summary(row, draws, samples, time.monotonic() - began), samples=samples)

    def null_control(self, copies: int) -> Score:
        """The worst case over so many copies of the unattacked images: the same choice, scored on fresh decisions."""
        correct = np.zeros(len(self.images))
        for where in self.batches(np.arange(len(self.images)), 1):

            def judge(where: np.ndarray) -> list[np.ndarray]:
                x, y = self.load(where)
                keys = self.keys[where].fold("null")
                chance = [margin(self.target.decide(x, keys.fold("copy", i))[0], y) for i in range(copies)]
                chosen = torch.stack(chance).argmax(0).cpu().numpy()
                fresh = self.target.decide(x, keys.fold("score").draw(chosen), self.passes).argmax(2)
                return [(fresh == y).double().mean(0).cpu().numpy()]

            correct[where] = np.concatenate(self._halving(judge, where))
            self._tell("null control", len(where) * self.target.draws * (copies + self.passes))
        return score(fsum(correct), len(correct))

    def _attack_batch(self, row: Row, view: View, draws: int, examples: Examples, where: np.ndarray) -> list[Sample]:
        x, y = self.load(where)
        keys = self.keys[where].fold("attack", row.id)
        oracle = Oracle(
            view.forward,
            keys.fold("noise") if view.noisy else None,
            len(where),
            draws=draws,
            objective=cast(Objective, row.objective),
            exact=view.exact,
            # Draws that are fixed in the model are one ensemble: cut into passes, each would see its first members.
            max_rows=max(self.target.max_rows, draws) if view.draws else self.target.max_rows,
        )
        try:
            x_adv = ATTACKS[row.attack].resolve()(
                oracle, x, y, norm=self.spec.norm, eps=self.spec.eps, rng=keys, **row.parameters
            )
            verdict = self._verdict(x, x_adv, y, self.keys[where].fold("verdict", row.id))
        except RbfbenchError:
            raise
        except Exception as error:
            # The one place where a crash becomes a record: these images are unknown, never robust.
            if is_out_of_memory(error):
                raise
            detail = f"{row.id}: {''.join(traceback.format_exception_only(error)).strip()}"
            crash = Check(code="attack-crashed", fired=True, detail=detail)
            self.crashes += [crash] if crash not in self.crashes else []
            return [self._unknown(row, i) for i in where]
        examples.add(where, x_adv)
        self.flat += int(((oracle.counts.looks > 0) & (oracle.counts.flat == oracle.counts.looks)).sum())
        return self._samples(row, where, y, verdict, oracle.counts)

    def _verdict(self, x: Tensor, x_adv: Tensor, y: Tensor, keys: Keys) -> Verdict:
        spec = self.spec
        return verify(self.target, x, x_adv, y, norm=spec.norm, eps=spec.eps, keys=keys, passes=self.passes)

    def _halving(self, work: Callable[[np.ndarray], list[T]], where: np.ndarray) -> list[T]:
        """`work(where)`; when memory runs out, in halves, and with the smaller batch from then on."""
        try:
            return work(where)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(where) == 1 and self.target.max_rows == 1:
                raise ModelError(
                    f"{self.target.name} does not fit into memory", "not even one image does", "take a larger machine"
                ) from error
        self.target.max_rows = max(1, self.target.max_rows // 2)
        if self.target.device.type == "cuda":
            torch.cuda.empty_cache()
        middle = max(1, len(where) // 2)
        parts = (where[:middle], where[middle:])
        return [result for part in parts if len(part) for result in self._halving(work, part)]

    def _samples(self, row: Row, where: np.ndarray, y: Tensor, verdict: Verdict, counts: Counts) -> list[Sample]:
        valid = verdict.valid.tolist()
        # A model that did not answer on the attack's way is not known to be robust, unless it was broken all the same.
        silent = torch.from_numpy(counts.lost > 0) & (verdict.correct.cpu() > 0)
        answered = (verdict.answered.cpu() & ~silent).tolist()
        lengths = {name: length.tolist() for name, length in verdict.lengths.items()}
        columns = zip(
            where.tolist(),
            y.tolist(),
            verdict.prediction.tolist(),
            verdict.correct.tolist(),
            verdict.correct_8bit.tolist(),
            verdict.wrong_any.tolist(),
            verdict.selection.tolist(),
            counts.forwards.tolist(),
            counts.backwards.tolist(),
            strict=True,
        )
        samples = []
        for j, (i, label, prediction, correct, on_grid, wrong, selection, forwards, backwards) in enumerate(columns):
            verified = valid[j] and answered[j]
            clean = float(self.clean_correct[i])
            samples.append(
                Sample(
                    attack=row.id,
                    image=self.images.ids[i],
                    label=label,
                    clean_prediction=int(self.clean_prediction[i]),
                    adversarial_prediction=prediction if verified else -1,
                    clean_correct=clean,
                    correct=correct if verified else clean,
                    correct_8bit=on_grid if verified else clean,
                    wrong_any=wrong if verified else False,
                    selection=selection if verified else 0.0,
                    status="ok" if verified else "unknown" if valid[j] else "invalid",
                    **{name: length[j] if np.isfinite(length[j]) else None for name, length in lengths.items()},
                    forwards=forwards,
                    backwards=backwards,
                )
            )
        return samples

    def _clean_error(self, row: Row, i: int) -> Sample:
        return self._unattacked(row, i, status="clean-error", correct=0.0)

    def _unknown(self, row: Row, i: int) -> Sample:
        return self._unattacked(row, i, status="unknown", correct=float(self.clean_correct[i]))

    def _unattacked(self, row: Row, i: int, *, status: str, correct: float) -> Sample:
        missing = status == "unknown"
        return Sample(
            attack=row.id,
            image=self.images.ids[i],
            label=int(self.images.labels[i]),
            clean_prediction=int(self.clean_prediction[i]),
            adversarial_prediction=-1 if missing else int(self.clean_prediction[i]),
            clean_correct=float(self.clean_correct[i]),
            correct=correct,
            correct_8bit=correct,
            wrong_any=not missing,
            selection=0.0,
            status="unknown" if missing else "clean-error",
            linf=None if missing else 0.0,
            l2=None if missing else 0.0,
            l1=None if missing else 0.0,
            forwards=0,
            backwards=0,
        )

    def _summary(self, row: Row, draws: int, samples: list[Sample], wall_s: float) -> AttackRow:
        spec = self.spec
        averaged = {"draws": draws, "objective": row.objective} if row.view in AVERAGING else {}
        parameters = dict(row.parameters) | averaged
        summary = summarise(
            samples,
            len(self.images),
            id=row.id,
            name=row.attack,
            view=cast(ViewName, row.view),
            category=_category(row, self.views),
            norm=cast(Norm, spec.norm),
            eps=spec.eps,
            decisions=self.passes,
            wall_s=wall_s,
            params=parameters,
        )
        return msgspec.structs.replace(summary, flat=self.flat)


def _category(row: Row, views: dict[str, View]) -> Category:
    if not ATTACKS[row.attack].gradient:
        return "black-box"
    if row.view in NOISY_VIEWS:
        return "adaptive"
    return "white-box" if views[row.view].exact else "static"


def _verdict_work(target: Target, passes: int) -> float:
    return target.draws * ((passes + 2) if target.stochastic else 2)


def row_work(target: Target, row: Row, passes: int) -> float:
    """Passes that one image costs under a row, its verdict included; a backward pass counts as one and a half."""
    view = target.views[row.view]
    draws = (view.draws or row.draws) if view.noisy else 1
    forwards, backwards = ATTACKS[row.attack].passes(row.parameters)
    return draws * (forwards + 1.5 * backwards) + _verdict_work(target, passes)


def work_ahead(target: Target, rows: list[Row], n: int, passes: int) -> float:
    """Passes that a run over n images will cost at most."""
    work = passes * target.draws + sum(row_work(target, row, passes) for row in rows)
    if target.stochastic:
        work += target.draws * (passes + sum(ATTACKS[row.attack].kind != "control" for row in rows))
    return n * work
