"""The verdict: every candidate is re-checked outside the attack, on draws that took no part in making it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rbfbench.attacks.losses import margin
from rbfbench.attacks.norms import NORMS
from rbfbench.attacks.rng import Keys
from rbfbench.evaluation.target import Target


@dataclass(frozen=True)
class Verdict:
    """What the verifier found for N candidates.

    Attributes:
        valid: (N,) bool: finite, in the box, and within eps (1 + 1e-5) + 1e-6.
        answered: (N,) bool: the model gave finite logits for the candidate.
        prediction: (N,) class by the first fresh decision.
        correct: (N,) mean correctness over the fresh decisions.
        wrong_any: (N,) bool: wrong in at least one of them.
        correct_8bit: (N,) the same on the 1/255 grid: `correct`, unless rounding changes the answer on the
            first draws; then that answer.
        selection: (N,) `leaning` of as many more decisions, which score nothing; lower is a stronger candidate.
        lengths: Norm name to (N,) float64 ||x_adv - x||.
    """

    valid: Tensor
    answered: Tensor
    prediction: Tensor
    correct: Tensor
    wrong_any: Tensor
    correct_8bit: Tensor
    selection: Tensor
    lengths: dict[str, Tensor]


def float64(x: Tensor) -> Tensor:
    """The same in float64; on the CPU where the device has no such numbers (Apple's)."""
    return (x.cpu() if x.device.type == "mps" else x).double()


def within_budget(x: Tensor, x_adv: Tensor, norm: str, eps: float) -> tuple[Tensor, dict[str, Tensor]]:
    """(N,) bool whether candidates keep to box and budget, and their lengths in every norm, in float64."""
    delta = float64(x_adv) - float64(x)
    lengths = {name: geometry.length(delta) for name, geometry in NORMS.items()}
    finite = torch.isfinite(x_adv).flatten(1).all(1)
    box = ((x_adv >= 0) & (x_adv <= 1)).flatten(1).all(1)
    return finite & box & (lengths[norm] <= eps * (1 + 1e-5) + 1e-6).to(x.device), lengths


def leaning(decisions: Tensor, y: Tensor) -> Tensor:
    """How far decisions (k, N, n_classes) lean to the classes y, (N,) float64 in [-1,1].

    The mean of tanh(margin of y): the share of decisions that are right minus those that are wrong, where margins are
    wide. Where all agree, the wider margin still tells; the mean of margins alone would prefer one that is very wrong
    at times to one that is wrong always.
    """
    margins = torch.stack([margin(logits, y) for logits in decisions])
    return -float64(margins).tanh().mean(0)


def eight_bit(x: Tensor, x_adv: Tensor) -> Tensor:
    """Candidates on the 1/255 grid, rounded towards x, but never beyond it, so that they stay in the ball."""
    levels = x_adv * 255
    # A value that float32 holds a hair off its level is on it, and must not fall to the next one.
    nearest = levels.round()
    levels = torch.where((levels - nearest).abs() < 1e-4, nearest, levels)
    # Where x itself lies off the grid, a level beyond it is farther away than the candidate was.
    return torch.where(x_adv > x, (levels.floor() / 255).maximum(x), (levels.ceil() / 255).minimum(x))


def verify(
    target: Target, x: Tensor, x_adv: Tensor, y: Tensor, *, norm: str, eps: float, keys: Keys, passes: int
) -> Verdict:
    """Judge candidates x_adv (N, C, H, W) for images x with labels y (N,).

    Args:
        target: The model, asked in eval mode as a user would ask it.
        x: Clean images.
        x_adv: What an attack returned for them.
        y: True classes.
        norm: Norm of the budget.
        eps: The budget.
        keys: (N,) keys of this row's verdict.
        passes: Fresh decisions a stochastic model is scored on; as many others choose among candidates.
    """
    valid, lengths = within_budget(x, x_adv, norm, eps)
    # Candidates that are not images are not shown to the model.
    shown = torch.where(valid[:, None, None, None], x_adv, x)
    if target.stochastic:
        decisions = target.decide(shown, keys, 2 * passes)
        fresh, selecting = decisions[:passes], decisions[passes:]
    else:
        fresh = selecting = target.decide(shown, keys)
    rounded = eight_bit(x, shown)
    on_grid = target.decide(rounded, keys)[0].argmax(1) == y  # on the draws of the first fresh decision
    rounded_valid, _ = within_budget(x, rounded, norm, eps)
    right = fresh.argmax(2) == y
    correct = float64(right).mean(0)
    correct_8bit = torch.where((on_grid == right[0]).to(correct.device), correct, float64(on_grid))
    return Verdict(
        valid=valid,
        answered=torch.isfinite(fresh).all(2).all(0) & torch.isfinite(selecting).all(2).all(0),
        prediction=fresh[0].argmax(1),
        correct=correct,
        wrong_any=~right.all(0),
        correct_8bit=torch.where(rounded_valid.to(correct.device), correct_8bit, 1.0),
        selection=leaning(selecting, y),
        lengths=lengths,
    )
