"""The claims of the paper, each judged by the numbers of our tables, by a rule that is written beside it.

Two accuracies differ where their 95% intervals lie apart. A number of the paper is reached where it does not lie above
our interval. Intervals wider than 15 points show neither that two are alike nor that a number is reached: where nothing
else decides, the verdict is "cannot tell".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from statistics import median
from typing import Any, NamedTuple

from paper import BEYOND_BOUND, BOUNDS, CERTIFIED, PAPER, STRONGEST, TRADE_OFF, TRAINING
from training_time import seconds_to, shared_accuracy

from rbfbench.training.recipes import RECIPES, adversary_of

Score = Mapping[str, Any]
Tables = Mapping[str, Mapping[str, Any]]  # table -> its columns, of one data set
Needs = Mapping[str, tuple[str, ...]]  # table -> columns

THROUGH_NOISE = ("pgd/eot", "pgd-margin/eot", "apgd-dlr/eot")
REPRODUCED, PARTLY, NOT, UNSURE = "reproduced", "partly", "not reproduced", "cannot tell"
UNTESTED = "not tested"
NARROW = 0.15
EQUAL = 0.5  # the least accuracy at which to ask for the time until then


class Claim(NamedTuple):
    """A claim.

    Attributes:
        text: In our words.
        needs: Columns without which it is not judged, of a data set.
        judge: From the data set and the tables to a verdict and the numbers that say so.
        datasets: Those that the paper makes it of.
    """

    text: str
    needs: Callable[[str], Needs]
    judge: Callable[[str, Tables], tuple[str, str]]
    datasets: tuple[str, ...] = ("mnist", "cifar10")


class Judged(NamedTuple):
    """A claim with its verdict and evidence."""

    claim: str
    verdict: str
    evidence: str


def spelled(found: Score) -> str:
    """An accuracy in percent with its interval and n."""
    low, high = found["ci95"]
    return f"{100 * found['accuracy']:.1f} ({100 * low:.1f} to {100 * high:.1f}, n {found['n']})"


def narrow(found: Score) -> bool:
    """Whether an interval is narrow enough for "alike" to say something."""
    return bool(found["ci95"][1] - found["ci95"][0] <= NARROW)


def reached(found: Score, paper: float) -> bool | None:
    """Whether we come to a number of the paper; None where our interval is too wide to tell."""
    low, high = found["ci95"]
    return False if 100 * high < paper else True if 100 * low >= paper or narrow(found) else None


def above(one: Score, other: Score) -> bool | None:
    """Whether one accuracy is higher than another; None where intervals overlap that are too wide to tell."""
    if one["ci95"][0] > other["ci95"][1]:
        return True
    apart = one["ci95"][1] < other["ci95"][0]
    return False if apart or (narrow(one) and narrow(other)) else None


def opposite(held: bool | None) -> bool | None:
    """Not, of what may be unknown."""
    return None if held is None else not held


def verdict(*held: bool | None) -> str:
    """Of the parts of a claim: all shown, some shown and some refuted, none shown and some refuted, or neither."""
    if all(held):
        return REPRODUCED
    if False in held:
        return PARTLY if True in held else NOT
    return UNSURE


def lowest(rows: Mapping[str, Score], names: Iterator[str] | None = None) -> tuple[str, Score]:
    """The row that leaves least, among some."""
    return min(((name, rows[name]) for name in names or rows if name in rows), key=lambda item: item[1]["accuracy"])


def of_the_paper(table: str, dataset: str, model: str, tables: Tables) -> tuple[float, str, Score]:
    """The paper's lowest number of a model in a table, and our lowest among the same rows."""
    numbers = {row: by[model] for row, by in PAPER[table, dataset].items() if row != "clean"}
    said = min(number for number in numbers.values() if number is not None)
    return said, *lowest(tables[table][model]["rows"], iter(numbers))


def mitigated(dataset: str, tables: Tables) -> tuple[str, str]:
    """Of random changes, and of the worst that was found: none may pass with its whole length."""
    passed: dict[str, list[float]] = {"random": [], "adversarial": []}
    pieces = []
    for row in tables["claim-1"]["rcnn+"]["ratios"]:
        passed[row["kind"]].append(row["largest"])
        pieces.append(f"{row['kind']} under {row['norm']} {row['mean']:.2f} (at most {row['largest']:.2f})")
    return (
        verdict(*(max(largest) < 1 for largest in passed.values())),
        f"share of the Euclidean length that rcnn+ without noise passes on, mean over "
        f"{tables['claim-1']['rcnn+']['n']} images: {', '.join(pieces)}; mitigated is less than 1",
    )


def robust(model: str, table: str, every: str) -> Callable[[str, Tables], tuple[str, str]]:
    """The strongest of the paper's attacks against the paper's number, then each image under all attacks."""

    def judge(dataset: str, tables: Tables) -> tuple[str, str]:
        said, row, own = of_the_paper(table, dataset, model, tables)
        found = tables[every][model]
        return (
            verdict(reached(own, said), reached(found, said)),
            f"paper {said:g} under the strongest of its attacks; of those, {row} leaves us {spelled(own)}, and all "
            f"attacks together {spelled(found)}",
        )

    return judge


def robust_without_linf(norm: str) -> Callable[[str, Tables], tuple[str, str]]:
    """As `robust`, and higher than the model of adversarial training under linf."""

    def judge(dataset: str, tables: Tables) -> tuple[str, str]:
        said, row, own = of_the_paper(f"5-{norm}", dataset, "rcnn+", tables)
        ours, madry = (tables[f"3-{norm}"][model] for model in ("rcnn+", "madry"))
        return (
            verdict(reached(own, said), reached(ours, said), above(ours, madry)),
            f"paper {said:g} under the strongest of its attacks; of those, {row} leaves us {spelled(own)}, and all "
            f"attacks together {spelled(ours)}; madry {spelled(madry)}",
        )

    return judge


def no_worse_than_adversarial_training(dataset: str, tables: Tables) -> tuple[str, str]:
    """rcnn+ against madry under all attacks."""
    ours, madry = tables["3"]["rcnn+"], tables["3"]["madry"]
    return (
        verdict(opposite(above(madry, ours))),
        f"rcnn+ {spelled(ours)}, madry {spelled(madry)}; paper {STRONGEST[dataset]['rcnn+'][0]:g} and "
        f"{STRONGEST[dataset]['madry'][0]:g}",
    )


def at_once(dataset: str, tables: Tables) -> tuple[str, str]:
    """Each image under the strongest attack of all three norms."""
    del dataset  # the paper gives no such number
    ours, madry = tables["union"]["rcnn+"], tables["union"]["madry"]
    return verdict(above(ours, madry)), f"rcnn+ {spelled(ours)}, madry {spelled(madry)}; the paper gives no number"


def copies_matter(dataset: str, tables: Tables) -> tuple[str, str]:
    """rcnn+ against rcnn, under the strongest of the paper's attacks and under all."""
    said = [of_the_paper("1", dataset, model, tables) for model in BOTH]
    own, every = [found for _, _, found in said], [tables["3"][model] for model in BOTH]
    return (
        verdict(above(*own), above(*every)),
        f"the strongest of the paper's attacks leaves rcnn+ {spelled(own[0])}, rcnn {spelled(own[1])} (paper "
        f"{said[0][0]:g} and {said[1][0]:g}); all attacks {spelled(every[0])} and {spelled(every[1])}",
    )


def layer_matters(dataset: str, tables: Tables) -> tuple[str, str]:
    """rcnn+ against the same training without the layer: without noise under PGD, and with it under all attacks."""
    del dataset
    ours, control = tables["3"]["rcnn+"], tables["3"]["cnn-ls-noise"]
    quiet = tables["7"]["rcnn+ beta2=0"]["rows"]["pgd/static"]
    plain = tables["1"]["cnn-ls-noise"]["rows"]["pgd/static"]
    return (
        verdict(above(quiet, plain), above(ours, control)),
        f"under PGD, rcnn+ without noise {spelled(quiet)}, cnn-ls-noise {spelled(plain)}; under all attacks, rcnn+ "
        f"with its noise {spelled(ours)}, cnn-ls-noise {spelled(control)}",
    )


def beyond_the_bound(dataset: str, tables: Tables) -> tuple[str, str]:
    """Just outside the radius of training, under PGD as in the paper, and under all attacks of Table IV."""
    wide = BOUNDS[dataset][1]
    columns = [tables["4"][f"{model} eps={wide}"] for model in ("rcnn+", "madry")]
    own = [column["rows"]["pgd-margin/static"] for column in columns]
    every = [column["worst_case"] for column in columns]
    paper = BEYOND_BOUND[dataset]
    return (
        verdict(above(*own), above(*every), reached(every[0], paper["rcnn+"][wide])),
        f"under PGD alone rcnn+ {spelled(own[0])}, madry {spelled(own[1])} (paper's madry {paper['madry'][wide]:g}); "
        f"under all attacks {spelled(every[0])} and {spelled(every[1])} (paper's rcnn+ {paper['rcnn+'][wide]:g})",
    )


def certified_radius(dataset: str, tables: Tables) -> tuple[str, str]:
    """At equal noise, which the paper's MNIST columns do not have; layers with or without their noise."""
    pieces, held = [], []
    for sigma in sigmas(dataset):
        cells = {
            model: max(
                (tables["6"][f"{name} sigma={sigma:g}"]["certified"][1] for name in names), key=lambda c: c["accuracy"]
            )
            for model, names in CERTIFIED_AS.items()
        }
        held += [above(cells["rcnn"], cells["cnn"]), above(cells["rcnn+"], cells["cnn"])]
        words = ", ".join(f"{model} {spelled(cell)}" for model, cell in cells.items())
        pieces.append(f"sigma {sigma:g}, radius {cells['cnn']['radius']:g}: {words}")
    return verdict(*held), f"{'; '.join(pieces)} (of beta2 0 and 1.75 what certifies more)"


def sigmas(dataset: str) -> list[float]:
    """Noise of the paper's certificates."""
    return sorted({sigma for sigma, _ in CERTIFIED[dataset].values()})


def noise_buys_robustness(dataset: str, tables: Tables) -> tuple[str, str]:
    """Examples that do not see the noise, by CW as in the paper; and the strongest attack with and without noise."""
    values = list(TRADE_OFF[dataset])
    none, most = values[0], values[-1]
    quiet, noisy, adaptive = (
        tables["7"][name]["rows"]
        for name in (f"rcnn+ beta2={none}", f"rcnn+ beta2={most}", f"rcnn+ adaptive, beta2={most}")
    )
    (_, without), (row, within) = lowest(quiet), lowest({**noisy, **adaptive})
    blind = noisy["cw/static"], quiet["cw/static"]
    return (
        verdict(above(*blind), above(within, without)),
        f"under CW that does not see the noise, beta2 {none}: {spelled(blind[1])}, beta2 {most}: {spelled(blind[0])}; "
        f"under the strongest attack {spelled(without)} and {spelled(within)} ({row})",
    )


def gradients_are_not_masked(dataset: str, tables: Tables) -> tuple[str, str]:
    """Signs of masked gradients: black boxes, or another loss, that break more."""
    del dataset
    stronger = {
        f"on {model}": tables[table][model]["checks"]["black-box-stronger"].partition(" without")[0]
        for table in ("1", "beyond-linf")
        for model in BOTH
        if "black-box-stronger" in tables[table][model]["checks"]
    }
    rows, more = tables["1"]["rcnn+"]["rows"], tables["beyond-linf"]["rcnn+"]["rows"]
    name, exact = lowest(more, iter(THROUGH_NOISE))
    said = "; ".join(f"{where} {detail}" for where, detail in stronger.items()) or "none"
    return (
        verdict(not stronger, opposite(above(rows["pgd/static"], more["apgd-dlr/static"]))),
        f"black boxes that break more than gradients on the same images: {said}; on rcnn+ PGD leaves "
        f"{spelled(rows['pgd/static'])}, a loss that label smoothing does not flatten "
        f"{spelled(more['apgd-dlr/static'])}; BPDA+EoT {spelled(rows['pgd/bpda-eot'])}, exact gradients through the "
        f"noise {spelled(exact)} ({name})",
    )


def cheaper_training(dataset: str, tables: Tables) -> tuple[str, str]:
    """Per epoch, and in all with the paper's numbers of epochs, measured in one run on one machine."""
    ours, madry = tables["2"]["rcnn+"], tables["2"]["madry"]
    paper, adversary = TRAINING[dataset], adversary_of(dataset, RECIPES["madry"])
    steps = adversary.steps if adversary else 0
    ratio = median(madry["epoch_s"]) / median(ours["epoch_s"])
    totals = [
        epochs * median(column["epoch_s"]) + column["besides_s"]
        for column, (epochs, _, _) in ((madry, paper["madry"]), (ours, paper["rcnn+"]))
    ]
    said = [epochs * seconds + once for epochs, seconds, once in (paper["madry"], paper["rcnn+"])]
    common = shared_accuracy(ours, madry)
    until = [seconds_to(column, common) for column in (madry, ours)]
    equal = (
        f"; until {100 * common:.0f}% of held-out images are right, {until[0] / until[1]:.1f} in time in epochs"
        if until[0] and until[1] and common >= EQUAL
        else "; no accuracy above 50% was reached by both within so few steps, so that equal accuracy was not compared"
    )
    return (
        verdict(ratio > 2, totals[0] / totals[1] > 2),
        f"madry with {steps} steps a batch over rcnn+: {ratio:.1f} in time an epoch "
        f"(paper {paper['madry'][1] / paper['rcnn+'][1]:.1f}), "
        f"{totals[0] / totals[1]:.1f} in all with the paper's numbers of epochs (paper {said[0] / said[1]:.1f}){equal}",
    )


BOTH = ("rcnn+", "rcnn")
CERTIFIED_AS = {"cnn": ("cnn",), "rcnn": ("rcnn", "rcnn beta2=0"), "rcnn+": ("rcnn+", "rcnn+ beta2=0")}

CLAIMS = (
    Claim(
        "the reconstruction mitigates minor perturbations in every norm (Claim 1)",
        lambda _: {"claim-1": ("rcnn+",)},
        mitigated,
    ),
    Claim(
        "rCNN, trained on clean images alone, is robust under linf",
        lambda _: {"1": ("rcnn",), "3": ("rcnn",)},
        robust("rcnn", "1", "3"),
    ),
    Claim(
        "rCNN+ is robust under linf without adversarial training",
        lambda _: {"1": ("rcnn+",), "3": ("rcnn+",)},
        robust("rcnn+", "1", "3"),
    ),
    Claim(
        "under linf it does as well as adversarial training",
        lambda _: {"3": ("rcnn+", "madry")},
        no_worse_than_adversarial_training,
    ),
    Claim(
        "beyond the bound it keeps what adversarial training loses",
        lambda d: {"4": tuple(f"{model} eps={BOUNDS[d][1]}" for model in ("rcnn+", "madry"))},
        beyond_the_bound,
    ),
    *(
        Claim(
            f"the same model is robust under {norm}, where linf adversarial training is less so",
            lambda _, norm=norm: {f"5-{norm}": ("rcnn+",), f"3-{norm}": ("rcnn+", "madry")},  # type: ignore[misc]
            robust_without_linf(norm),
        )
        for norm in ("l1", "l2")
    ),
    Claim(
        "one model withstands l1, l2 and linf at once, better than linf adversarial training",
        lambda _: {"union": ("rcnn+", "madry")},
        at_once,
    ),
    Claim(
        "training on noisy copies makes rCNN+ more robust than rCNN",
        lambda _: {"1": BOTH, "3": BOTH},
        copies_matter,
        ("mnist",),  # on CIFAR-10 its rCNN+ is no more robust than its rCNN
    ),
    Claim(
        "the RBF layer adds to what label smoothing and noisy copies do alone",
        lambda _: {"1": ("cnn-ls-noise",), "3": ("rcnn+", "cnn-ls-noise"), "7": ("rcnn+ beta2=0",)},
        layer_matters,
    ),
    Claim(
        "the layers raise certified accuracy, at equal noise",
        lambda d: {
            "6": tuple(
                f"{name} sigma={sigma:g}" for names in CERTIFIED_AS.values() for name in names for sigma in sigmas(d)
            )
        },
        certified_radius,
    ),
    Claim(
        "more noise at run time (beta2) buys robustness",
        lambda d: {
            "7": tuple(
                f"rcnn+ {kind}beta2={b}" for b in TRADE_OFF[d] for kind in ("", "adaptive, ") if float(b) or not kind
            )
        },
        noise_buys_robustness,
    ),
    Claim(
        "the layers do not mask gradients",
        lambda _: {"1": BOTH, "beyond-linf": BOTH},
        gradients_are_not_masked,
    ),
    Claim(
        "training costs a fraction of adversarial training",
        lambda _: {"2": ("rcnn+", "madry")},
        cheaper_training,
    ),
)


def judged(dataset: str, tables: Tables) -> Iterator[Judged]:
    """Every claim; those whose columns are not there say which they need."""
    for claim in CLAIMS:
        if dataset not in claim.datasets:
            continue
        needs = claim.needs(dataset).items()
        missing = [table for table, columns in needs if not set(columns) <= set(tables.get(table, {}))]
        if missing:
            yield Judged(claim.text, UNTESTED, f"columns are missing in table {', '.join(missing)}")
        else:
            yield Judged(claim.text, *claim.judge(dataset, tables))
