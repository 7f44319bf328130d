"""The attacks of other libraries under one signature, every parameter given: what parity.py and speed.py compare with.

Needs the extra `bench` (torchattacks, pyautoattack); foolbox and ART come with rbfbench.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from rbfbench.attacks import ATTACKS
from rbfbench.attacks.oracle import Oracle
from rbfbench.attacks.rng import Keys

Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]  # (model, images, labels) -> candidates


class Watched(nn.Module):
    """A model that counts the rows it is asked about, forward and backward, and remembers the last ones.

    Args:
        model: From images to logits.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.forwards = self.backwards = 0
        self.last = torch.empty(0)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Logits of x."""
        self.forwards += len(x)
        self.last = x.detach()
        logits: Tensor = self.model(x)
        if logits.requires_grad:
            logits.register_hook(self._count)
        return logits

    def _count(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


def ours(name: str, *, norm: str, eps: float, **parameters: object) -> Attack:
    """An attack of rbfbench, with its parameters changed where given."""

    def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        info = ATTACKS[name]
        settled = {key: parameter.default for key, parameter in info.parameters.items()} | parameters
        keys = Keys.of([str(i) for i in range(len(x))], 0)
        oracle = Oracle(lambda x, keys: model(x), None, len(x), max_rows=len(x))
        x_adv: Tensor = info.resolve()(oracle, x, y, norm=norm, eps=eps, rng=keys, **settled)
        return x_adv

    return attack


def foolbox(name: str, *, eps: float | None, **parameters: object) -> Attack:
    """A foolbox attack; eps None for those that look for the nearest adversarial example."""

    def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
        import foolbox as library

        wrapped = library.PyTorchModel(model, bounds=(0, 1), device=x.device)
        raw, clipped, _ = getattr(library.attacks, name)(**parameters)(wrapped, x, y, epsilons=eps)
        found: Tensor = clipped if eps is None else raw
        return found

    return attack


def art(name: str, **parameters: object) -> Attack:
    """An attack of the Adversarial Robustness Toolbox."""

    def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        from art.attacks import evasion
        from art.estimators.classification import PyTorchClassifier

        classes = model(x[:1]).shape[1]
        estimator = PyTorchClassifier(
            model,
            nn.CrossEntropyLoss(),
            tuple(x.shape[1:]),
            classes,
            clip_values=(0.0, 1.0),
            device_type="gpu" if x.is_cuda else "cpu",
        )
        made = getattr(evasion, name)(estimator, **({"batch_size": len(x)} | parameters))
        return torch.from_numpy(made.generate(x.cpu().numpy(), y.cpu().numpy())).to(x)

    return attack


def torchattacks(name: str, **parameters: object) -> Attack:
    """An attack of torchattacks."""

    def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        import torchattacks as library

        made: Tensor = getattr(library, name)(model, **parameters)(x, y)
        return made.detach()

    return attack


def autoattack(*, norm: str, eps: float) -> Attack:
    """AutoAttack standard of pyautoattack, a packaging of its authors' code."""

    def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        from pyautoattack import AutoAttack

        names = {"linf": "Linf", "l2": "L2", "l1": "L1"}
        adversary = AutoAttack(model, norm=names[norm], eps=eps, version="standard", device=str(x.device), seed=0)
        made: Tensor = adversary.run_standard_evaluation(x, y, batch_size=len(x))[0]
        return made.detach()

    return attack


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The global generators, which other libraries draw from, from a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        np.random.seed(seed)
        yield
