"""From verdicts to samples: one record an image and row."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
import torch
from torch import Tensor

from rbfbench.attacks.oracle import Counts
from rbfbench.data.images import Images
from rbfbench.evaluation.verify import Verdict
from rbfbench.results.records import Sample


@dataclass(frozen=True)
class Unattacked:
    """What the model says of the images themselves.

    Attributes:
        images: All images asked for.
        correct: (N,) mean correctness over the clean decisions.
        prediction: (N,) class by the first of them.
    """

    images: Images
    correct: np.ndarray
    prediction: np.ndarray

    def judged(
        self, row: str, where: np.ndarray, y: Tensor, verdict: Verdict, *, counts: Counts, distance: Tensor | None
    ) -> list[Sample]:
        """Samples of the images at positions `where` that an attack has been at.

        Args:
            row: Id of the row.
            where: (k,) positions.
            y: (k,) true classes.
            verdict: On the k candidates.
            counts: What they cost.
            distance: (k,) of the nearest verified adversarial example, inf where there is none; None where the attack
                does not look for it.
        """
        valid = verdict.valid.tolist()
        # A model that did not answer on the attack's way is not known to be robust, unless it was broken all the same.
        silent = torch.from_numpy(counts.lost > 0) & (verdict.correct.cpu() > 0)
        answered = (verdict.answered.cpu() & ~silent).tolist()
        lengths = {name: length.tolist() for name, length in verdict.lengths.items()}
        found = [None] * len(where) if distance is None else [d if np.isfinite(d) else None for d in distance.tolist()]
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
            clean = float(self.correct[i])
            samples.append(
                Sample(
                    attack=row,
                    image=self.images.ids[i],
                    label=label,
                    clean_prediction=int(self.prediction[i]),
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
                    distance=found[j],
                )
            )
        return samples

    def clean_error(self, row: str, i: int) -> Sample:
        """The image is wrong without any attack, and was not attacked."""
        return self._sample(row, i, correct=0.0)

    def unknown(self, row: str, i: int) -> Sample:
        """The attack crashed on this image."""
        sample = self._sample(row, i, correct=float(self.correct[i]))
        return msgspec.structs.replace(
            sample, status="unknown", adversarial_prediction=-1, wrong_any=False, linf=None, l2=None, l1=None
        )

    def _sample(self, row: str, i: int, *, correct: float) -> Sample:
        return Sample(
            attack=row,
            image=self.images.ids[i],
            label=int(self.images.labels[i]),
            clean_prediction=int(self.prediction[i]),
            adversarial_prediction=int(self.prediction[i]),
            clean_correct=float(self.correct[i]),
            correct=correct,
            correct_8bit=correct,
            wrong_any=True,
            selection=0.0,
            status="clean-error",
            linf=0.0,
            l2=0.0,
            l1=0.0,
            forwards=0,
            backwards=0,
        )


def nested(broken: Sample) -> Sample:
    """The sample of an image that the same row broke within a smaller ball, which this one holds."""
    return msgspec.structs.replace(broken, status="spared", forwards=0, backwards=0)


def better(found: Sample, smaller: Sample | None) -> Sample:
    """The stronger of the candidates of one row within two balls, by the selection draws, which score nothing.

    What went wrong in the larger ball stays: an invalid candidate or a crash must not hide behind an older one.
    """
    if smaller is None or found.status != "ok" or found.selection <= smaller.selection:
        return found
    return msgspec.structs.replace(
        smaller, status=found.status, forwards=found.forwards, backwards=found.backwards, distance=found.distance
    )


def spared(row: str, broken: Sample) -> Sample:
    """The sample of an image that an earlier row broke, in a row that did not attack it again."""
    return msgspec.structs.replace(broken, attack=row, status="spared", forwards=0, backwards=0, distance=None)
