"""What each recipe trains: one row a recipe; for each data set and preset, its schedule and its noise.

`paper` and `authors` are the two descriptions that exist of RBF-CNN's training: the text (arXiv 2004.02183, section IV)
and the published scripts. Where the text is silent (optimiser, batch, learning rate), `paper` follows the scripts of
rCNN. `default` is for a machine without a GPU: a small net and a short schedule; what the shipped weights changed of it
is on their cards.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from rbfbench.data.catalogue import DATASETS as CATALOGUE
from rbfbench.errors import UsageError

Norm = Literal["linf", "l2", "l1"]


def _check(name: str, value: object, holds: bool, wanted: str) -> None:
    if not holds:
        raise UsageError(f"{name} = {value} cannot be used", f"it must be {wanted}", "give such a number")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A model to train.

    Attributes:
        rbf: Put the RBF and reconstruction layers in front.
        smoothing: Label smoothing; the true class keeps 1 - smoothing of the target (authors' clipping, 0.1).
        source: Recipe whose trained model makes the stored adversarial noise, unless `Noise.made_at` lets the model in
            training make it; None trains without noisy copies.
        about: One line for people.
        adversary: Kind of adversarial examples made in each step (see `ADVERSARIES`), or None.
    """

    rbf: bool
    smoothing: float
    source: str | None
    about: str
    adversary: Literal["madry", "fast", "trades"] | None = None

    def __post_init__(self) -> None:
        """Refuse values that have no meaning (`UsageError`)."""
        _check("smoothing", self.smoothing, 0 <= self.smoothing < 1, "at least 0 and below 1")


RECIPES: dict[str, Recipe] = {
    "cnn": Recipe(
        rbf=False, smoothing=0.0, source=None, about="plain classifier, cross-entropy: the undefended baseline"
    ),
    "cnn-ls": Recipe(
        rbf=False, smoothing=0.1, source=None, about="classifier with label smoothing: the control for rcnn"
    ),
    "cnn-ls-noise": Recipe(
        rbf=False,
        smoothing=0.1,
        source="cnn-ls",
        about="classifier with label smoothing and noisy copies: the control for rcnn+",
    ),
    "madry": Recipe(
        rbf=False,
        smoothing=0.0,
        source=None,
        adversary="madry",
        about="classifier trained on adversarial examples by PGD (arXiv 1706.06083)",
    ),
    "fast": Recipe(
        rbf=False,
        smoothing=0.0,
        source=None,
        adversary="fast",
        about="classifier trained on one step from a random start (arXiv 2001.03994)",
    ),
    "trades": Recipe(
        rbf=False,
        smoothing=0.0,
        source=None,
        adversary="trades",
        about="classifier trained to answer alike within the ball (arXiv 1901.08573)",
    ),
    "rcnn": Recipe(rbf=True, smoothing=0.1, source=None, about="RBF-CNN trained without noise or adversarial examples"),
    "rcnn+": Recipe(
        rbf=True, smoothing=0.1, source="rcnn", about="RBF-CNN trained with Gaussian and adversarial noise as well"
    ),
}


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Optimisation of one data set's classifier.

    Attributes:
        classifier: Name in `rbfbench.defenses.classifiers.CLASSIFIERS`.
        optimizer: `sgd` (Nesterov) or `adam`.
        policy: Learning rate over time: `cycle` (linear warm-up over a fifth, linear decay), `cosine`, or `halving`.
        epochs: Passes over the training images.
        batch: Clean images a step.
        lr: Peak learning rate.
        halve_every: Epochs after which `halving` halves.
        lr_least: Where `halving` stops, ...
        lr_then: ... and the rate from there on, if not `lr_least`.
        fade: The rate of `halving` is divided by 1 + fade * steps (the decay of Keras).
        momentum: Of `sgd`.
        weight_decay: L2 factor (`sgd`).
        decay_on: Weights that decay: all parameters, or the kernels of all layers but the last.
        shift: Random shifts up to this many pixels, reflected at the border.
        flip: Random horizontal flips.
        contrast: Contrast of an image is multiplied by up to 1 +- this.
        colour: Standard deviation of an offset for each channel.
        shading: Standard deviation of smooth offsets that vary over the image, at most: each image draws its share.
        shading_grid: Side of the grid between whose points those offsets are interpolated.
        settle: Training images whose noisy reconstructions set the batch-norm statistics behind an RBF layer after the
            last epoch; 0 keeps those of the noise-free reconstructions of training.
    """

    classifier: str
    optimizer: Literal["sgd", "adam"]
    policy: Literal["cycle", "cosine", "halving"]
    epochs: int
    batch: int
    lr: float
    halve_every: int = 10
    lr_least: float = 1e-6
    lr_then: float | None = None
    fade: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 0.0
    decay_on: Literal["all", "kernels"] = "all"
    shift: int = 0
    flip: bool = False
    contrast: float = 0.0
    colour: float = 0.0
    shading: float = 0.0
    shading_grid: int = 8
    settle: int = 0

    def __post_init__(self) -> None:
        """Refuse values that have no meaning (`UsageError`)."""
        for name in ("epochs", "batch", "halve_every"):
            _check(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")
        _check("shading_grid", self.shading_grid, self.shading_grid >= 2, "at least 2")
        for name in ("lr", "lr_least"):
            _check(name, getattr(self, name), 0 < getattr(self, name) < float("inf"), "above 0 and finite")
        for name in ("fade", "weight_decay", "shift", "contrast", "colour", "shading", "settle"):
            _check(name, getattr(self, name), 0 <= getattr(self, name) < float("inf"), "at least 0 and finite")
        _check("momentum", self.momentum, 0 <= self.momentum < 1, "at least 0 and below 1")
        _check("settle", self.settle, self.settle != 1, "0, or at least 2")
        then = self.lr_then
        _check("lr_then", then, then is None or 0 < then < float("inf"), "above 0 and finite")


@dataclass(frozen=True, kw_only=True)
class Noise:
    """The noisy copies beside the clean images of each step.

    Attributes:
        copies: Images of a step that get a Gaussian and an adversarial copy (all of a smaller last step).
        gaussian_std: Standard deviation of the Gaussian noise, on [0,1] pixels.
        gaussian_bound: Largest absolute value that it is clipped to.
        gaussian_bound_low: If given, the bound is drawn once for the training, uniformly from here to gaussian_bound.
        adversarial_eps: linf radius of the stored adversarial noise.
        adversarial_steps: Steps of the PGD that makes it.
        stored: Training images that it is made from, from the first; None takes all.
        made_at: Epoch after which the model in training makes it of itself; None makes it with the source.
        pairing: `mismatched` gives an image the noise of a random other one, `matched` its own.
        rotate: Noise is rotated by up to this many degrees, ...
        shift: ... shifted by up to this share of the image, ...
        flip: ... and flipped horizontally, at random.
    """

    copies: int
    gaussian_std: float
    gaussian_bound: float
    gaussian_bound_low: float | None = None
    adversarial_eps: float
    adversarial_steps: int
    stored: int | None
    made_at: int | None = None
    pairing: Literal["mismatched", "matched"] = "mismatched"
    rotate: float = 0.0
    shift: float = 0.0
    flip: bool = False

    def __post_init__(self) -> None:
        """Refuse values that have no meaning (`UsageError`)."""
        for name in ("copies", "adversarial_steps", "stored", "made_at"):
            value = getattr(self, name)
            _check(name, value, value is None or value >= 1, "at least 1")
        for name in ("gaussian_std", "gaussian_bound", "adversarial_eps", "rotate", "shift"):
            _check(name, getattr(self, name), 0 <= getattr(self, name) < float("inf"), "at least 0 and finite")
        low = self.gaussian_bound_low
        _check("gaussian_bound_low", low, low is None or 0 <= low <= self.gaussian_bound, "from 0 up to gaussian_bound")
        if self.pairing == "matched" and (self.stored is not None or self.rotate or self.shift or self.flip):
            raise UsageError(
                "pairing = matched cannot be used",
                "an image's own noise must be stored and stay in place",
                "set stored=none, rotate=0, shift=0 and flip=false as well",
            )


@dataclass(frozen=True, kw_only=True)
class Adversary:
    """Adversarial examples made anew in each step, of the model in training.

    Attributes:
        norm: "linf", "l2" or "l1".
        eps: Radius of the ball, on [0,1] pixels.
        steps: Steps of gradient ascent from a random start.
        step_size: Length of each in the norm.
        beta: Weight of the divergence of TRADES; None trains on the adversarial examples alone.
    """

    norm: Norm
    eps: float
    steps: int
    step_size: float
    beta: float | None = None

    def __post_init__(self) -> None:
        """Refuse values that have no meaning (`UsageError`)."""
        _check("steps", self.steps, self.steps >= 1, "at least 1")
        for name in ("eps", "step_size"):
            _check(name, getattr(self, name), 0 < getattr(self, name) < float("inf"), "above 0 and finite")
        _check("beta", self.beta, self.beta is None or 0 < self.beta < float("inf"), "above 0 and finite")


_CIFAR_RCNN = Schedule(
    classifier="vgg16",
    optimizer="sgd",
    policy="halving",
    epochs=50,
    batch=128,
    lr=0.1,
    halve_every=10,
    weight_decay=1e-3,
    decay_on="kernels",
    flip=True,
)
_MNIST_RCNN = Schedule(
    classifier="mnist-cnn",
    optimizer="adam",
    policy="halving",
    epochs=150,
    batch=128,
    lr=1e-3,
    halve_every=20,
    fade=1e-6,
)

LIGHT = ("contrast", "colour", "shading")  # what may move pixels out of [0,1]

# (preset, data set, with noisy copies) -> schedule; without a row for the last, that of False.
SCHEDULES: dict[tuple[str, str, bool], Schedule] = {
    ("default", "cifar10", False): Schedule(
        classifier="small",
        optimizer="sgd",
        policy="cycle",
        epochs=10,
        batch=500,
        lr=0.4,
        weight_decay=5e-4,
        shift=2,
        flip=True,
        contrast=0.3,
        colour=0.1,
        shading=0.15,
        shading_grid=16,
        settle=5000,
    ),
    ("default", "mnist", False): Schedule(
        classifier="mnist-cnn", optimizer="adam", policy="cosine", epochs=8, batch=128, lr=1e-3
    ),
    ("default", "digits", False): Schedule(
        classifier="digits-cnn", optimizer="adam", policy="cosine", epochs=40, batch=64, lr=3e-3
    ),
    # As many halvings in the paper's number of epochs as in the scripts'.
    ("paper", "cifar10", False): replace(_CIFAR_RCNN, epochs=600, halve_every=120),
    ("paper", "mnist", False): replace(_MNIST_RCNN, epochs=100, halve_every=13),
    ("authors", "cifar10", False): _CIFAR_RCNN,
    # Below 1e-6 their rate jumps back to the first one.
    ("authors", "cifar10", True): replace(_CIFAR_RCNN, epochs=450, batch=68, lr=1e-5, lr_then=1e-5),
    ("authors", "mnist", False): _MNIST_RCNN,
    ("authors", "mnist", True): replace(_MNIST_RCNN, halve_every=25),
}

_CIFAR_NOISE = Noise(
    copies=30,
    gaussian_std=0.03,
    gaussian_bound=0.03,
    gaussian_bound_low=0.005,
    adversarial_eps=0.05,
    adversarial_steps=20,
    stored=None,
    flip=True,
)
_MNIST_NOISE = Noise(
    copies=30,
    gaussian_std=0.35,
    gaussian_bound=0.4,
    gaussian_bound_low=0.15,
    adversarial_eps=0.3,
    adversarial_steps=20,
    stored=None,
    rotate=25,
    shift=0.25,
    flip=True,
)

NOISES: dict[tuple[str, str], Noise] = {
    ("default", "cifar10"): Noise(
        copies=120,
        gaussian_std=0.05,
        gaussian_bound=0.03,
        adversarial_eps=0.03,
        adversarial_steps=10,
        stored=3000,
        flip=True,
    ),
    ("default", "mnist"): Noise(
        copies=30,
        gaussian_std=0.35,
        gaussian_bound=0.3,
        adversarial_eps=0.3,
        adversarial_steps=20,
        stored=6000,
        rotate=25,
        shift=0.25,
        flip=True,
    ),
    ("default", "digits"): Noise(
        copies=15, gaussian_std=0.2, gaussian_bound=0.15, adversarial_eps=0.15, adversarial_steps=10, stored=None
    ),
    ("paper", "cifar10"): Noise(
        copies=30,
        gaussian_std=0.05,
        gaussian_bound=0.03,
        adversarial_eps=0.03,
        adversarial_steps=20,
        stored=None,
        made_at=200,
    ),
    ("paper", "mnist"): Noise(
        copies=30,
        gaussian_std=0.35,
        gaussian_bound=0.3,
        adversarial_eps=0.3,
        adversarial_steps=20,
        stored=None,
        made_at=25,
    ),
    ("authors", "cifar10"): _CIFAR_NOISE,
    ("authors", "mnist"): _MNIST_NOISE,
}

# The radii are those of the RBF-CNN paper; steps and step sizes those of each method's own paper, or in proportion.
ADVERSARIES: dict[tuple[str, str], Adversary] = {
    ("madry", "mnist"): Adversary(norm="linf", eps=0.3, steps=40, step_size=0.01),
    ("madry", "cifar10"): Adversary(norm="linf", eps=0.031, steps=7, step_size=0.0078),
    ("madry", "digits"): Adversary(norm="linf", eps=0.15, steps=10, step_size=0.03),
    ("fast", "mnist"): Adversary(norm="linf", eps=0.3, steps=1, step_size=0.375),
    ("fast", "cifar10"): Adversary(norm="linf", eps=0.031, steps=1, step_size=0.0388),
    ("fast", "digits"): Adversary(norm="linf", eps=0.15, steps=1, step_size=0.1875),
    ("trades", "mnist"): Adversary(norm="linf", eps=0.3, steps=40, step_size=0.01, beta=1.0),
    ("trades", "cifar10"): Adversary(norm="linf", eps=0.031, steps=10, step_size=0.007, beta=6.0),
    ("trades", "digits"): Adversary(norm="linf", eps=0.15, steps=10, step_size=0.03, beta=6.0),
}

# The radii of other norms: the RBF-CNN paper's, and for the digits, which it has not, ones that an image can tell.
RADII = {(name, norm): eps for name, info in CATALOGUE.items() for norm, eps in info.eps.items()}
RADII |= {("digits", "l2"): 1.0, ("digits", "l1"): 3.0}

DATASETS = tuple(dict.fromkeys(dataset for _, dataset, _ in SCHEDULES))


def schedule_of(preset: str, dataset: str, recipe: Recipe) -> Schedule:
    """The schedule of a recipe; presets that have none for a data set take the default one."""
    noisy = recipe.source is not None
    for key in ((preset, dataset, noisy), (preset, dataset, False), ("default", dataset, False)):
        if key in SCHEDULES:
            # A ball around an image of other light would leave [0,1].
            schedule = SCHEDULES[key]
            return replace(schedule, contrast=0.0, colour=0.0, shading=0.0) if recipe.adversary else schedule
    raise KeyError(dataset)


def adversary_of(dataset: str, recipe: Recipe, norm: Norm = "linf") -> Adversary | None:
    """The adversarial examples of a recipe, None for those without; steps are in the same proportion to any radius."""
    if recipe.adversary is None:
        return None
    under_linf = ADVERSARIES[recipe.adversary, dataset]
    if norm == "linf":
        return under_linf
    eps = RADII[dataset, norm]
    return replace(under_linf, norm=norm, eps=eps, step_size=under_linf.step_size * eps / under_linf.eps)


def noise_of(preset: str, dataset: str, recipe: Recipe) -> Noise | None:
    """The noisy copies of a recipe, None for those without; presets that have none for a data set take the default."""
    if recipe.source is None:
        return None
    return NOISES.get((preset, dataset)) or NOISES["default", dataset]
