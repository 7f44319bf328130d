"""The claims of the paper, each judged by the numbers of our tables, by a rule that is written beside it.

Two accuracies differ where their 95% intervals lie apart. A number of the paper is reached where it does not lie above
our interval.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from statistics import median
from typing import Any, NamedTuple

from paper import BEYOND_BOUND, BOUNDS, CERTIFIED, PAPER, STRONGEST, TRADE_OFF, TRAINING
from training_time import common_accuracy, seconds_to

Score = Mapping[str, Any]
Tables = Mapping[str, Mapping[str, Any]]  # table -> its columns, of one data set

THROUGH_NOISE = ("pgd/eot", "pgd-margin/eot", "apgd-dlr/eot")
REPRODUCED, PARTLY, NOT, UNSURE = "reproduced", "partly", "not reproduced", "cannot tell"


class Judged(NamedTuple):
    """A claim.

    Attributes:
        claim: In our words.
        verdict: "reproduced", "partly", "not reproduced", or "cannot tell" where there are too few images.
        evidence: The numbers that say so.
    """

    claim: str
    verdict: str
    evidence: str


def spelled(found: Score) -> str:
    """An accuracy in percent with its interval and n."""
    low, high = found["ci95"]
    return f"{100 * found['accuracy']:.1f} ({100 * low:.1f} to {100 * high:.1f}, n {found['n']})"


def reached(found: Score, paper: float) -> bool:
    """Whether a number of the paper does not lie above our interval."""
    return bool(100 * found["ci95"][1] >= paper)


def narrow(*found: Score) -> bool:
    """Whether intervals are narrow enough, 15 points, for "no worse" to say something."""
    return all(each["ci95"][1] - each["ci95"][0] <= 0.15 for each in found)


def above(one: Score, other: Score) -> bool:
    """Whether one interval lies above another."""
    return bool(one["ci95"][0] > other["ci95"][1])


def verdict(*held: bool) -> str:
    """All, some or none."""
    return REPRODUCED if all(held) else PARTLY if any(held) else NOT


def mitigated(dataset: str, tables: Tables) -> Judged:
    """Claim 1: of random changes, and of the worst that was found."""
    passed: dict[str, list[float]] = {"random": [], "adversarial": []}
    pieces = []
    for row in tables["claim-1"]["rcnn+"]["ratios"]:
        passed[row["kind"]].append(row["largest"])
        pieces.append(f"{row['kind']} under {row['norm']} {row['mean']:.2f} (at most {row['largest']:.2f})")
    return Judged(
        "the reconstruction mitigates minor perturbations in every norm (Claim 1)",
        verdict(*(max(largest) < 1 for largest in passed.values())),
        f"share of the Euclidean length that rcnn+ passes on, mean over {tables['claim-1']['rcnn+']['n']} images: "
        f"{', '.join(pieces)}; mitigated is less than 1",
    )


def robust_under_linf(model: str, claim: str) -> Callable[[str, Tables], Judged]:
    """By the paper's own attacks, and by all of ours."""

    def judge(dataset: str, tables: Tables) -> Judged:
        paper = STRONGEST[dataset][model][0]
        own, every = tables["1"][model]["worst_case"], tables["3"][model]
        return Judged(
            claim,
            verdict(reached(own, paper), reached(every, paper)),
            f"paper {paper:g} under the strongest of its attacks; ours {spelled(own)} under all of those, "
            f"{spelled(every)} with those beyond it as well",
        )

    return judge


def no_worse_than_adversarial_training(dataset: str, tables: Tables) -> Judged:
    """rcnn+ against madry under all attacks."""
    ours, madry = tables["3"]["rcnn+"], tables["3"]["madry"]
    return Judged(
        "under linf it does as well as adversarial training",
        NOT if above(madry, ours) else REPRODUCED if narrow(ours, madry) else UNSURE,
        f"rcnn+ {spelled(ours)}, madry {spelled(madry)}; paper {STRONGEST[dataset]['rcnn+'][0]:g} and "
        f"{STRONGEST[dataset]['madry'][0]:g}",
    )


def layer_matters(dataset: str, tables: Tables) -> Judged:
    """rcnn+ against the same training without the layer."""
    ours, control = tables["3"]["rcnn+"], tables["3"]["cnn-ls-noise"]
    return Judged(
        "the robustness comes from the RBF layer (label smoothing and noisy copies alone do not give it)",
        REPRODUCED if above(ours, control) else NOT,
        f"rcnn+ {spelled(ours)}, cnn-ls-noise {spelled(control)}, under all attacks",
    )


def beyond_the_bound(dataset: str, tables: Tables) -> Judged:
    """Just outside the radius of training."""
    wide = BOUNDS[dataset][1]
    ours, madry = (tables["4"][f"{model} eps={wide}"]["worst_case"] for model in ("rcnn+", "madry"))
    paper = BEYOND_BOUND[dataset]
    return Judged(
        f"beyond the bound, at {wide}, it keeps what adversarial training loses",
        verdict(above(ours, madry), reached(ours, paper["rcnn+"][wide])),
        f"rcnn+ {spelled(ours)}, madry {spelled(madry)}; paper {paper['rcnn+'][wide]:g} and {paper['madry'][wide]:g}",
    )


def robust_under(norm: str) -> Callable[[str, Tables], Judged]:
    """The same model under another norm."""
    table = f"5-{norm}"

    def judge(dataset: str, tables: Tables) -> Judged:
        paper = min(by["rcnn+"] for by in PAPER[table, dataset].values() if by.get("rcnn+") is not None)
        own = tables[table]["rcnn+"]["worst_case"]
        ours, madry = (tables[f"3-{norm}"][model] for model in ("rcnn+", "madry"))
        return Judged(
            f"the same model is robust under {norm}, where linf adversarial training is less so",
            verdict(above(ours, madry), reached(own, paper), reached(ours, paper)),
            f"paper {paper:g} under the strongest of its attacks; rcnn+ {spelled(own)} under all of those, "
            f"{spelled(ours)} with those beyond it as well; madry {spelled(madry)} under all",
        )

    return judge


def certified_radius(dataset: str, tables: Tables) -> Judged:
    """At equal noise, which the paper's MNIST columns do not have."""
    pieces, held = [], []
    for sigma in sorted({sigma for sigma, _ in CERTIFIED[dataset].values()}):
        cells = {model: tables["6"][f"{model} sigma={sigma:g}"]["certified"][1] for model in ("cnn", "rcnn", "rcnn+")}
        held += [above(cells["rcnn"], cells["cnn"]), above(cells["rcnn+"], cells["cnn"])]
        words = ", ".join(f"{model} {spelled(cell)}" for model, cell in cells.items())
        pieces.append(f"sigma {sigma:g}, radius {cells['cnn']['radius']:g}: {words}")
    return Judged("the layers raise certified accuracy, at equal noise", verdict(*held), "; ".join(pieces))


def noise_buys_robustness(dataset: str, tables: Tables) -> Judged:
    """The same attack, PGD, without noise, blind to the noise, and through it."""
    values = list(dict.fromkeys(name.rpartition("=")[2] for name in tables["7"]))
    none, most = values[0], values[-1]
    still, blind = (tables["7"][f"rcnn+ beta2={beta2}"]["rows"]["pgd/static"] for beta2 in (none, most))
    seen = tables["7"][f"rcnn+ adaptive, beta2={most}"]["rows"]["pgd/bpda-eot"]
    return Judged(
        "more noise at run time (beta2) buys robustness",
        verdict(above(blind, still), above(seen, still)),
        f"under PGD, beta2 {none}: {spelled(still)}; beta2 {most}: {spelled(blind)} where the attack does not see the "
        f"noise, {spelled(seen)} where it does (BPDA+EoT)",
    )


def gradients_are_not_masked(dataset: str, tables: Tables) -> Judged:
    """Masked gradients show where a black box, or a better loss, breaks more, on whatever images it ran."""
    paper = tables["1"]["rcnn+"]["rows"]["pgd/bpda-eot"]
    blind = {
        f"{row} on {model}": tables[table][model]["rows"][row]
        for table, rows in {"1": ("spsa", "transfer-pgd", "transfer-cw"), "beyond-linf": ("square",)}.items()
        for model in ("rcnn", "rcnn+")
        for row in rows
    }
    own = {model: tables["1"][model]["rows"]["pgd/static"] for model in ("rcnn", "rcnn+")}
    better = [name for name, found in blind.items() if above(own[name.rpartition(" ")[2]], found)]
    margin = min(
        (tables["beyond-linf"]["rcnn+"]["rows"][row] for row in THROUGH_NOISE), key=lambda row: row["accuracy"]
    )
    return Judged(
        "the layers do not mask gradients",
        verdict(not better, not above(paper, margin)),
        f"attacks without gradients of the model that break more than static PGD does: {', '.join(better) or 'none'}; "
        f"rcnn+ under the paper's BPDA+EoT {spelled(paper)}, under the best exact gradients through the noise "
        f"{spelled(margin)}",
    )


def cheaper_training(dataset: str, tables: Tables) -> Judged:
    """Per epoch, and to equal accuracy, measured in one run on one machine."""
    columns = {name: dict(column) for name, column in tables["2"].items()}
    ours, madry = columns["rcnn+"], columns["madry"]
    ratio = median(madry["epoch_s"]) / median(ours["epoch_s"])
    common = common_accuracy(columns)
    until = [seconds_to(column, common) for column in (ours, madry)]
    equal = until[1] / until[0] if until[0] and until[1] else 0.0
    paper = TRAINING[dataset]
    return Judged(
        "training costs a fraction of adversarial training",
        verdict(ratio > 2, equal > 2),
        f"madry over rcnn+: {ratio:.1f} in time an epoch (paper {paper['madry'][1] / paper['rcnn+'][1]:.1f}), "
        f"{equal:.1f} in time until {100 * common:.1f}% of held-out images are right without attack",
    )


# The columns that each needs, by table.
CLAIMS: dict[Callable[[str, Tables], Judged], Callable[[str], dict[str, tuple[str, ...]]]] = {
    mitigated: lambda _: {"claim-1": ("rcnn+",)},
    robust_under_linf("rcnn", "rCNN, trained on clean images alone, is robust under linf"): lambda _: {
        "1": ("rcnn",),
        "3": ("rcnn",),
    },
    robust_under_linf("rcnn+", "rCNN+ is robust under linf without adversarial training"): lambda _: {
        "1": ("rcnn+",),
        "3": ("rcnn+",),
    },
    no_worse_than_adversarial_training: lambda _: {"3": ("rcnn+", "madry")},
    layer_matters: lambda _: {"3": ("rcnn+", "cnn-ls-noise")},
    beyond_the_bound: lambda d: {"4": tuple(f"{model} eps={BOUNDS[d][1]}" for model in ("rcnn+", "madry"))},
    robust_under("l1"): lambda _: {"5-l1": ("rcnn+",), "3-l1": ("rcnn+", "madry")},
    robust_under("l2"): lambda _: {"5-l2": ("rcnn+",), "3-l2": ("rcnn+", "madry")},
    certified_radius: lambda d: {
        "6": tuple(
            f"{model} sigma={sigma:g}"
            for model in ("cnn", "rcnn", "rcnn+")
            for sigma in {sigma for sigma, _ in CERTIFIED[d].values()}
        )
    },
    noise_buys_robustness: lambda d: {
        "7": (
            "rcnn+ beta2=0",
            *(f"rcnn+ {kind}beta2={b}" for b in TRADE_OFF[d] if float(b) for kind in ("", "adaptive, ")),
        )
    },
    gradients_are_not_masked: lambda _: {"1": ("rcnn", "rcnn+"), "beyond-linf": ("rcnn", "rcnn+")},
    cheaper_training: lambda _: {"2": ("rcnn+", "madry")},
}


def judged(dataset: str, tables: Tables) -> Iterator[Judged]:
    """The claims whose columns are there."""
    for judge, needs in CLAIMS.items():
        if all(column in tables.get(table, {}) for table, columns in needs(dataset).items() for column in columns):
            yield judge(dataset, tables)
