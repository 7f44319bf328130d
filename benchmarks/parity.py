"""Our attacks against those of other libraries, on the same weights and images.

Three parts, each a section of benchmarks/results/parity.json and of the table on stdout:

- iterates: where definitions agree, equal parameters must give equal points (to 1e-6);
- distances: median distance of the nearest adversarial examples, each verified here;
- autoattack: what survives our standard AutoAttack and that of pyautoattack, image by image.

Usage: python benchmarks/parity.py [--part iterates] [--images 50] [--threads 2]     (needs the extra `bench`)
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from peers import Attack, Watched, art, foolbox, ours, seeded, torchattacks
from peers import autoattack as peer_autoattack
from scripts import origin
from torch import Tensor, nn

import rbfbench
from rbfbench.attacks import load_suite
from rbfbench.attacks.norms import NORMS, SHRINK  # ours aim a hair inside eps: here at eps itself
from rbfbench.evaluation.environment import describe_environment

RESULT = Path(__file__).parent / "results" / "parity.json"
SEED = 0
AGREE = 1e-6  # largest difference of a pixel

EPS, STEP, STEPS = 0.1, 0.02, 10
EPS2, STEP2 = 1.0, 0.2


class Case(NamedTuple):
    """One definition, ours and theirs.

    Attributes:
        name: For the table.
        ours: Our attack.
        peers: Library to attack.
        differs: Library to how its definition departs from ours.
        interior: On images pulled away from the box, where all projections are the same.
    """

    name: str
    ours: Attack
    peers: dict[str, Attack]
    differs: Mapping[str, str] = MappingProxyType({})
    interior: bool = False


SCALES = "scales onto the ball, then clips: not the projection onto ball and box"
PLAIN_PGD = {"steps": STEPS, "step_size": STEP, "random_start": False}
ITERATES = [
    Case(
        "fgsm linf",
        ours("fgsm", norm="linf", eps=EPS / SHRINK),
        {
            "foolbox": foolbox("LinfFastGradientAttack", eps=EPS, random_start=False),
            "ART": art("FastGradientMethod", norm="inf", eps=EPS, num_random_init=0),
            "torchattacks": torchattacks("FGSM", eps=EPS),
        },
    ),
    Case(
        "pgd linf",
        ours("pgd", norm="linf", eps=EPS / SHRINK, **PLAIN_PGD),
        {
            "foolbox": foolbox("LinfPGD", eps=EPS, steps=STEPS, abs_stepsize=STEP, random_start=False),
            "ART": art(
                "ProjectedGradientDescentPyTorch",
                norm="inf",
                eps=EPS,
                eps_step=STEP,
                max_iter=STEPS,
                num_random_init=0,
                verbose=False,
            ),
            "torchattacks": torchattacks("PGD", eps=EPS, alpha=STEP, steps=STEPS, random_start=False),
        },
    ),
    *(
        Case(
            f"pgd l2{where}",
            ours("pgd", norm="l2", eps=EPS2 / SHRINK, **{**PLAIN_PGD, "step_size": STEP2}),
            {
                "foolbox": foolbox("L2PGD", eps=EPS2, steps=STEPS, abs_stepsize=STEP2, random_start=False),
                "ART": art(
                    "ProjectedGradientDescentPyTorch",
                    norm=2,
                    eps=EPS2,
                    eps_step=STEP2,
                    max_iter=STEPS,
                    num_random_init=0,
                    verbose=False,
                ),
                "torchattacks": torchattacks("PGDL2", eps=EPS2, alpha=STEP2, steps=STEPS, random_start=False),
            },
            dict.fromkeys(("foolbox", "ART", "torchattacks"), SCALES) if not interior else {},
            interior,
        )
        for where, interior in (("", False), (", away from the box", True))
    ),
    Case(
        "mi-fgsm linf",
        ours("mi-fgsm", norm="linf", eps=EPS / SHRINK, steps=STEPS, decay=1.0),
        {
            "foolbox": foolbox(
                "LinfMomentumIterativeFastGradientMethod",
                eps=EPS,
                steps=STEPS,
                abs_stepsize=EPS / STEPS,
                momentum=1.0,
                random_start=False,
            ),
            "ART": art(
                "MomentumIterativeMethod",
                norm="inf",
                eps=EPS,
                eps_step=EPS / STEPS,
                decay=1.0,
                max_iter=STEPS,
                verbose=False,
            ),
            "torchattacks": torchattacks("MIFGSM", eps=EPS, alpha=EPS / STEPS, steps=STEPS, decay=1.0),
        },
        {"foolbox": "accumulates signs, not l1-normalised gradients"},
    ),
]

SEARCH, SLOW = 9, 500
DISTANCES = [
    (
        ours("cw-l2", norm="l2", eps=1.0, steps=SLOW, search_steps=SEARCH),
        foolbox("L2CarliniWagnerAttack", eps=None, steps=SLOW, binary_search_steps=SEARCH, stepsize=0.01),
        ("cw-l2", "l2"),
    ),
    (
        ours("ead", norm="l1", eps=1.0, steps=SLOW, search_steps=SEARCH, beta=1e-2),
        foolbox(
            "EADAttack",
            eps=None,
            steps=SLOW,
            binary_search_steps=SEARCH,
            regularization=1e-2,
            decision_rule="L1",
        ),
        ("ead", "l1"),
    ),
    (
        ours("deepfool", norm="l2", eps=1.0, steps=50),
        foolbox("L2DeepFoolAttack", eps=None, steps=50, candidates=10),
        ("deepfool", "l2"),
    ),
    (
        ours("deepfool", norm="linf", eps=1.0, steps=50),
        foolbox("LinfDeepFoolAttack", eps=None, steps=50, candidates=10),
        ("deepfool", "linf"),
    ),
]


def iterates(model: nn.Module, images: Tensor, y: Tensor) -> list[dict[str, Any]]:
    """The last point of our walk against what each library returns."""
    rows = []
    for case in ITERATES:
        watched = Watched(model)
        x = 0.25 + 0.5 * images if case.interior else images
        made = case.ours(watched, x, y)
        end = made if case.name.startswith("fgsm") else watched.last  # others keep their best point, and end elsewhere
        for library, attack in case.peers.items():
            with seeded(SEED):
                theirs = attack(model, x, y)
            off = (end - theirs).abs().flatten(1)
            rows.append(
                {
                    "attack": case.name,
                    "library": library,
                    "largest_difference": float(off.max()),
                    "pixels_apart": float((off > AGREE).double().mean()),
                    "agrees": bool(off.max() <= AGREE),
                    "definition": case.differs.get(library, "same"),
                }
            )
    return rows


def median_distance(model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor, norm: str) -> tuple[float, float]:
    """(median length, share found): images whose candidate the model gets right count as infinitely far."""
    with torch.no_grad():
        wrong = model(x_adv.float()).argmax(1) != y
    boxed = ((x_adv >= 0) & (x_adv <= 1)).flatten(1).all(1)
    length = torch.where(wrong & boxed, NORMS[norm].length((x_adv - x).double()), torch.inf)
    return float(length.sort().values[(len(x) - 1) // 2]), float(torch.isfinite(length).double().mean())


def distances(model: nn.Module, x: Tensor, y: Tensor) -> list[dict[str, Any]]:
    """Nearest adversarial examples, ours and foolbox's."""
    rows = []
    for mine, theirs, (name, norm) in DISTANCES:
        measured = {}
        for who, attack in (("ours", mine), ("foolbox", theirs)):
            watched, began = Watched(model), time.monotonic()
            with seeded(SEED):
                found = attack(watched, x, y)
            median, share = median_distance(model, x, found, y, norm)
            measured[who] = {
                "median": median,
                "found": share,
                "forwards_per_image": watched.forwards / len(x),
                "wall_s": time.monotonic() - began,
            }
        ratio = measured["ours"]["median"] / measured["foolbox"]["median"]
        rows.append({"attack": f"{name} {norm}", "ratio": ratio, **measured})
    return rows


def autoattack(model: nn.Module, x: Tensor, y: Tensor, *, norm: str, eps: float) -> dict[str, Any]:
    """Survivors of both AutoAttacks, each verified on the plain model."""
    with torch.no_grad():
        right = model(x).argmax(1) == y
    alive, x_adv, began, trail = right.clone(), x.clone(), time.monotonic(), {}
    for row in load_suite("autoattack", norm):
        where = alive.nonzero()[:, 0]
        if len(where):
            attack = ours(row.attack, norm=norm, eps=eps, **row.parameters)
            x_adv[where] = attack(model, x[where], y[where])
            alive[where] = _right(model, x[where], x_adv[where], y[where], norm=norm, eps=eps)
        trail[row.id] = int(alive.sum())
    our_s, began = time.monotonic() - began, time.monotonic()
    theirs = _right(model, x, peer_autoattack(norm=norm, eps=eps)(model, x, y), y, norm=norm, eps=eps) & right
    return {
        "norm": norm,
        "eps": eps,
        "n": len(x),
        "clean": int(right.sum()),
        "ours": int(alive.sum()),
        "pyautoattack": int(theirs.sum()),
        "only_ours_breaks": int((theirs & ~alive).sum()),
        "only_theirs_breaks": int((alive & ~theirs).sum()),
        "our_survivors_after": trail,
        "our_wall_s": our_s,
        "their_wall_s": time.monotonic() - began,
    }


def _right(model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor, *, norm: str, eps: float) -> Tensor:
    """(N,) bool: not a verified adversarial example within the budget (projected there first, if it is too long)."""
    inside = (x + NORMS[norm].project(x, x_adv - x, eps)).clamp(0, 1)
    kept = NORMS[norm].length((x_adv - x).double()) <= eps * (1 + 1e-5) + 1e-6
    candidate = torch.where(kept[:, None, None, None], x_adv, inside)
    with torch.no_grad():
        return model(candidate).argmax(1) == y


AUTOATTACK = [("linf", 0.1), ("l2", 1.0)]


def main() -> None:
    """Run the parts asked for and add their results to the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("iterates", "distances", "autoattack"), action="append")
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dataset", default="mnist")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    images = rbfbench.load_data(given.dataset)
    x, y = images.batch(0, given.images)
    model = rbfbench.load_model("cnn", given.dataset)
    results = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    made = {
        "model": f"{given.dataset} cnn, as shipped",
        "images": f"{images.source}, the first {given.images}",
    }
    environment = describe_environment(torch.device("cpu"))
    for part in given.part or ("iterates", "distances", "autoattack"):
        began = time.monotonic()
        if part == "autoattack":
            rows: Any = [autoattack(model, x, y, norm=norm, eps=eps) for norm, eps in AUTOATTACK]
        else:
            rows = {"iterates": iterates, "distances": distances}[part](model, x, y)
        results[part] = made | origin(began, SEED, environment) | {"rows": rows}
        RESULT.write_text(json.dumps(results, indent=1) + "\n")
        for row in rows:
            print(part, json.dumps(row))


if __name__ == "__main__":
    main()
