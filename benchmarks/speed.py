"""What attacks cost, ours against other libraries': wall time as ratios, and passes per image.

For each attack that libraries share: the same model, images and parameters, one after the other in one process, over
and over. The ratio of each round's times is what counts (median and quartiles), since the machine may be busy. Passes
are counted in the model. Writes benchmarks/results/speed.json.

Usage: python benchmarks/speed.py [--rounds 20] [--images 64] [--case "pgd l2"]     (needs the extra `bench`)
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from peers import Attack, Watched, art, foolbox, ours, seeded, torchattacks
from scripts import origin
from torch import Tensor, nn

import rbfbench
from rbfbench.evaluation.environment import describe_environment

RESULT = Path(__file__).parent / "results" / "speed.json"
SEED = 0
EPS, STEP, STEPS = 0.1, 0.01, 20
EPS2, STEP2 = 1.0, 0.1


def art_pgd(norm: str | int, eps: float, step: float) -> Attack:
    """ART's PGD without random start."""
    return art(
        "ProjectedGradientDescentPyTorch",
        norm=norm,
        eps=eps,
        eps_step=step,
        max_iter=STEPS,
        num_random_init=0,
        verbose=False,
    )


FIXED: dict[str, dict[str, Attack]] = {
    "fgsm linf": {
        "ours": ours("fgsm", norm="linf", eps=EPS),
        "foolbox": foolbox("LinfFastGradientAttack", eps=EPS, random_start=False),
        "ART": art("FastGradientMethod", norm="inf", eps=EPS),
        "torchattacks": torchattacks("FGSM", eps=EPS),
    },
    "pgd linf": {
        "ours": ours("pgd", norm="linf", eps=EPS, steps=STEPS, step_size=STEP, random_start=False),
        "foolbox": foolbox("LinfPGD", eps=EPS, steps=STEPS, abs_stepsize=STEP, random_start=False),
        "ART": art_pgd("inf", EPS, STEP),
        "torchattacks": torchattacks("PGD", eps=EPS, alpha=STEP, steps=STEPS, random_start=False),
    },
    "pgd l2": {
        "ours": ours("pgd", norm="l2", eps=EPS2, steps=STEPS, step_size=STEP2, random_start=False),
        "foolbox": foolbox("L2PGD", eps=EPS2, steps=STEPS, abs_stepsize=STEP2, random_start=False),
        "ART": art_pgd(2, EPS2, STEP2),
        "torchattacks": torchattacks("PGDL2", eps=EPS2, alpha=STEP2, steps=STEPS, random_start=False),
    },
    "mi-fgsm linf": {
        "ours": ours("mi-fgsm", norm="linf", eps=EPS, steps=STEPS),
        "foolbox": foolbox(
            "LinfMomentumIterativeFastGradientMethod",
            eps=EPS,
            steps=STEPS,
            abs_stepsize=EPS / STEPS,
            random_start=False,
        ),
        "ART": art("MomentumIterativeMethod", norm="inf", eps=EPS, eps_step=EPS / STEPS, max_iter=STEPS, verbose=False),
        "torchattacks": torchattacks("MIFGSM", eps=EPS, alpha=EPS / STEPS, steps=STEPS),
    },
    "cw-l2, one search step": {
        "ours": ours("cw-l2", norm="l2", eps=1.0, steps=STEPS, search_steps=1, initial_c=1.0),
        "foolbox": foolbox(
            "L2CarliniWagnerAttack",
            eps=None,
            steps=STEPS,
            binary_search_steps=1,
            initial_const=1.0,
            abort_early=False,
        ),
        "torchattacks": torchattacks("CW", c=1.0, steps=STEPS),
    },
    "ead, one search step": {
        "ours": ours("ead", norm="l1", eps=1.0, steps=STEPS, search_steps=1, initial_c=1.0),
        "foolbox": foolbox(
            "EADAttack", eps=None, steps=STEPS, binary_search_steps=1, initial_const=1.0, abort_early=False
        ),
    },
}
RESTARTS = 5


def measure(attacks: dict[str, Attack], model: nn.Module, x: Tensor, y: Tensor, rounds: int) -> dict[str, Any]:
    """Ratio of our time to each library's over the rounds, and passes per image."""
    times: dict[str, list[float]] = {name: [] for name in attacks}
    passes = {}
    for round_ in range(rounds + 1):
        for name, attack in attacks.items():
            watched, began = Watched(model), time.perf_counter()
            with seeded(SEED):
                attack(watched, x, y)
            if round_:  # the first warms up
                times[name].append(time.perf_counter() - began)
            passes[name] = (watched.forwards / len(x), watched.backwards / len(x))
    fastest = min((name for name in attacks if name != "ours"), key=lambda name: statistics.median(times[name]))
    return {
        "passes_per_image": passes,
        "ours_over": {name: quartiles(times["ours"], times[name]) for name in attacks if name != "ours"},
        "fastest_peer": fastest,
    }


def quartiles(above: list[float], below: list[float]) -> dict[str, float]:
    """Quartiles of the ratios of rounds."""
    low, middle, high = statistics.quantiles((a / b for a, b in zip(above, below, strict=True)), n=4)
    return {"median": middle, "low": low, "high": high, "n": len(above)}


def restarts(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Any]:
    """Passes per image of five random restarts on an undefended model at a radius that breaks nearly all of it."""
    attacks = {
        "ours": ours("pgd", norm="linf", eps=0.3, steps=STEPS, step_size=0.03, restarts=RESTARTS),
        "foolbox": repeated(),
        "ART": art(
            "ProjectedGradientDescentPyTorch",
            norm="inf",
            eps=0.3,
            eps_step=0.03,
            max_iter=STEPS,
            num_random_init=RESTARTS,
            verbose=False,
        ),
    }
    passes, broken = {}, {}
    for name, attack in attacks.items():
        watched = Watched(model)
        with seeded(SEED):
            x_adv = attack(watched, x, y)
        passes[name] = (watched.forwards + watched.backwards) / len(x)
        with torch.no_grad():
            broken[name] = float((model(x_adv).argmax(1) != y).double().mean())
    return {"passes_per_image": passes, "broken": broken, "restarts": RESTARTS}


def repeated() -> Attack:
    """Foolbox's PGD under its own `.repeat`."""

    def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        import foolbox as library

        wrapped = library.PyTorchModel(model, bounds=(0, 1), device=x.device)
        made = library.attacks.LinfPGD(steps=STEPS, abs_stepsize=0.03).repeat(RESTARTS)
        found: Tensor = made(wrapped, x, y, epsilons=0.3)[0]
        return found

    return attack


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument(
        "--case", choices=[*FIXED, "restarts"], action="append", help="measure it alone, and keep others"
    )
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    images = rbfbench.load_data(given.dataset)
    x, y = images.batch(0, given.images)
    model = rbfbench.load_model("cnn", given.dataset)
    began, environment = time.monotonic(), describe_environment(torch.device("cpu"))
    earlier = json.loads(RESULT.read_text()) if given.case and RESULT.exists() else {}
    results: dict[str, Any] = {
        "model": f"{given.dataset} cnn, as shipped",
        "images": f"{images.source}, the first {given.images}",
        "fixed": earlier.get("fixed", {}),
        "restarts": earlier.get("restarts"),
    }
    for name, attacks in FIXED.items():
        if given.case and name not in given.case:
            continue
        results["fixed"][name] = measured = measure(attacks, model, x, y, given.rounds)
        print(name, json.dumps(measured), flush=True)
    if not given.case or "restarts" in given.case:
        results["restarts"] = restarts(model, x, y)
        print("restarts", json.dumps(results["restarts"]))
    RESULT.write_text(json.dumps(results | origin(began, SEED, environment), indent=1) + "\n")


if __name__ == "__main__":
    main()
