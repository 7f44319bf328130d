"""The claims of the paper, each judged by the numbers of our tables, by a rule that is written beside it.

One accuracy is higher than another where the 95% interval of their difference lies above 0 (Newcombe 1998, method 10);
not higher where that interval ends below 5 points; no worse where it begins above -15 points and reaches 0. Worst cases
are compared on the images that both are on. A number of the paper is reached where it does not lie above our interval.
Where an interval is too wide for either, and nothing else decides, the verdict is "cannot tell". Where a model was
trained with the authors' constants as well, the claims that it is robust, or as robust as adversarial training, are
judged by the one that does better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from math import fsum, hypot
from statistics import median
from typing import Any, NamedTuple

from paper import BETA2, BEYOND_BOUND, BOTH, BOUNDS, CERTIFIED, PAPER, STRONGEST, TRAINING
from reproduce import COMPUTED, TRADED
from training_time import seconds_to, shared_accuracy, taken_by

from rbfbench.results.intervals import score
from rbfbench.training.recipes import RECIPES, adversary_of

Score = Mapping[str, Any]
Tables = Mapping[str, Mapping[str, Any]]  # table -> its columns, of one data set
Needs = Mapping[str, tuple[str, ...]]  # table -> columns

THROUGH_NOISE = ("pgd/eot", "pgd-margin/eot", "apgd-dlr/eot")
REPRODUCED, PARTLY, NOT, UNSURE = "reproduced", "partly", "not reproduced", "cannot tell"
UNTESTED = "not tested"
CERTIFIED_AS = {
    "cnn": ("cnn",),
    "cnn-ls-noise": ("cnn-ls-noise",),
    "rcnn": ("rcnn", "rcnn beta2=0"),
    "rcnn+": ("rcnn+", "rcnn+ beta2=0"),
}
MARGIN = 0.15  # what accuracies may differ by and still count as alike; the widest interval that says so
SMALL = 0.05  # an effect that a claim is not about
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


def reached(found: Score, paper: float) -> bool | None:
    """Whether we come to a number of the paper; None where our interval is too wide to tell."""
    low, high = found["ci95"]
    return False if 100 * high < paper else True if 100 * low >= paper or high - low <= MARGIN else None


def on_common(one: Score, other: Score) -> tuple[Score, Score]:
    """Both on the images that both are on, where they keep what was left of each; of others nothing is known."""
    if not ("images" in one and "images" in other):
        return one, other
    shared = one["images"].keys() & other["images"].keys()
    found = [score(fsum(each["images"][image] for image in shared), len(shared)) for each in (one, other)]
    first, second = ({"accuracy": each.accuracy, "ci95": each.ci95, "n": each.n} for each in found)
    return first, second


def difference(one: Score, other: Score) -> tuple[float, float]:
    """95% interval of the difference of two accuracies: Newcombe's method 10 (1998), of their own ones.

    It takes the images for different ones. Ours are the same, and where models fail on the same ones it is too wide.
    """
    (low, high), (other_low, other_high) = one["ci95"], other["ci95"]
    middle = one["accuracy"] - other["accuracy"]
    down = hypot(one["accuracy"] - low, other_high - other["accuracy"])
    up = hypot(high - one["accuracy"], other["accuracy"] - other_low)
    return middle - down, middle + up


def above(one: Score, other: Score) -> bool | None:
    """Whether one accuracy is higher than another; None where the images are too few to tell."""
    low, high = difference(*on_common(one, other))
    return True if low > 0 else False if high < SMALL else None


def no_worse(one: Score, other: Score) -> bool | None:
    """Whether one accuracy is not shown to be lower, and not by more than the margin; None where one cannot tell."""
    low, high = difference(*on_common(one, other))
    return False if high < 0 else True if low > -MARGIN else None


def trainings(model: str, *columns: Mapping[str, Any]) -> list[str]:
    """A model of the paper, and the one that is trained with its authors' constants where that has run as well."""
    return [name for name in (model, f"{model}-authors") if all(name in column for column in columns)]


def verdict(*held: bool | None) -> str:
    """Of the parts of a claim: all shown, some shown and some refuted, none shown and some refuted, or neither."""
    if held and all(held):
        return REPRODUCED
    if False in held:
        return PARTLY if True in held else NOT
    return UNSURE


def best(verdicts: Iterable[str]) -> str:
    """Of two trainings of one model, what the one comes to that bears the claim out more."""
    return min(verdicts, key=(REPRODUCED, PARTLY, UNSURE, NOT).index)


def lowest(rows: Mapping[str, Score], names: Iterator[str] | None = None) -> tuple[str, Score]:
    """The row that leaves least, among some."""
    return min(((name, rows[name]) for name in names or rows if name in rows), key=lambda item: item[1]["accuracy"])


def of_the_paper(
    table: str, dataset: str, model: str, tables: Tables, column: str | None = None
) -> tuple[float, str, Score]:
    """The paper's lowest number of a model in a table, and our lowest among the same rows (of `column` if given)."""
    numbers = {row: by[model] for row, by in PAPER[table, dataset].items() if row != "clean"}
    said = min(number for number in numbers.values() if number is not None)
    return said, *lowest(tables[table][column or model]["rows"], iter(numbers))


def mitigated(dataset: str, tables: Tables) -> tuple[str, str]:
    """Under each norm the worst changes that were found: none may pass with its whole length."""
    passed, pieces = [], []
    for row in tables["claim-1"]["rcnn+"]["ratios"]:
        passed += [row["largest"]] if row["kind"] == "adversarial" else []
        pieces.append(f"{row['kind']} under {row['norm']} {row['mean']:.2f} (at most {row['largest']:.2f})")
    return (
        verdict(*(largest < 1 for largest in passed)),
        f"share of the Euclidean length that rcnn+ without noise passes on, mean over "
        f"{tables['claim-1']['rcnn+']['n']} images: {', '.join(pieces)}; mitigated is less than 1",
    )


def robust(model: str, table: str, every: str) -> Callable[[str, Tables], tuple[str, str]]:
    """The strongest of the paper's attacks against the paper's number, then each image under all attacks."""

    def judge(dataset: str, tables: Tables) -> tuple[str, str]:
        pieces, verdicts = [], []
        for name in trainings(model, tables[table], tables[every]):
            said, row, own = of_the_paper(table, dataset, model, tables, name)
            found = tables[every][name]
            verdicts.append(verdict(reached(own, said), reached(found, said)))
            pieces.append(f"{row} leaves {name} {spelled(own)}, all attacks together {spelled(found)}")
        return (
            best(verdicts),
            f"paper {said:g} under the strongest of its attacks; of those, {'; '.join(pieces)}",
        )

    return judge


def robust_without_linf(norm: str) -> Callable[[str, Tables], tuple[str, str]]:
    """As `robust`, and higher than the model of adversarial training under linf."""
    table, every = f"5-{norm}", f"3-{norm}"

    def judge(dataset: str, tables: Tables) -> tuple[str, str]:
        madry, pieces, verdicts = tables[every]["madry"], [], []
        for name in trainings("rcnn+", tables[table], tables[every]):
            said, row, own = of_the_paper(table, dataset, "rcnn+", tables, name)
            ours = tables[every][name]
            verdicts.append(verdict(reached(own, said), reached(ours, said), above(ours, madry)))
            pieces.append(f"{row} leaves {name} {spelled(own)}, all attacks together {spelled(ours)}")
        trained = tables[every].get(f"madry-{norm}")
        beside = f", and trained under {norm} itself {spelled(trained)}" if trained else ""
        return (
            best(verdicts),
            f"paper {said:g} under the strongest of its attacks; of those, {'; '.join(pieces)}; all attacks leave "
            f"madry {spelled(madry)}{beside}",
        )

    return judge


def no_worse_than_adversarial_training(dataset: str, tables: Tables) -> tuple[str, str]:
    """rcnn+ against madry under all attacks."""
    madry = tables["3"]["madry"]
    ours = {name: tables["3"][name] for name in trainings("rcnn+", tables["3"])}
    return (
        best(verdict(no_worse(found, madry)) for found in ours.values()),
        f"{', '.join(f'{name} {spelled(found)}' for name, found in ours.items())}, madry {spelled(madry)}; paper "
        f"{STRONGEST[dataset]['rcnn+'][0]:g} and {STRONGEST[dataset]['madry'][0]:g}",
    )


def at_once(dataset: str, tables: Tables) -> tuple[str, str]:
    """Each image under the strongest attack of all three norms."""
    del dataset  # the paper gives no such number
    madry = tables["union"]["madry"]
    ours = {name: tables["union"][name] for name in trainings("rcnn+", tables["union"])}
    return (
        best(verdict(above(found, madry)) for found in ours.values()),
        f"{', '.join(f'{name} {spelled(found)}' for name, found in ours.items())}, madry {spelled(madry)}; the paper "
        "gives no number",
    )


def copies_matter(dataset: str, tables: Tables) -> tuple[str, str]:
    """rcnn+ against rcnn, under the strongest of the paper's attacks and under all."""
    said = [of_the_paper("1", dataset, model, tables) for model in BOTH]
    own, every = [found for _, _, found in said], [tables["3"][model] for model in BOTH]
    return (
        verdict(above(own[1], own[0]), above(every[1], every[0])),
        f"the strongest of the paper's attacks leaves rcnn+ {spelled(own[1])}, rcnn {spelled(own[0])} (paper "
        f"{said[1][0]:g} and {said[0][0]:g}); all attacks {spelled(every[1])} and {spelled(every[0])}",
    )


def layer_matters(dataset: str, tables: Tables) -> tuple[str, str]:
    """rcnn+ against the control without the layers: without noise under AutoAttack, and with it under all attacks."""
    del dataset
    ours, control = tables["3"]["rcnn+"], tables["3"]["cnn-ls-noise"]
    without, bare = (
        tables["7"]["rcnn+ stronger, beta2=0"]["worst_case"],
        tables["autoattack"]["cnn-ls-noise"]["worst_case"],
    )
    return (
        verdict(above(without, bare), above(ours, control)),
        f"AutoAttack leaves rcnn+ without noise {spelled(without)}, cnn-ls-noise {spelled(bare)}; all attacks leave "
        f"rcnn+ with its noise {spelled(ours)}, cnn-ls-noise {spelled(control)}",
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
    """At equal noise, which the paper's MNIST columns do not have, at every radius that so many draws can certify.

    rcnn against cnn as in the paper, rcnn+ against the control that saw the same noise in training as well. Of each the
    better of its certificates with and without its own noise counts.
    """
    pieces, held = [], []
    for sigma in sigmas(dataset):
        columns = {
            model: [tables["6"][f"{name} sigma={sigma:g}"] for name in names] for model, names in CERTIFIED_AS.items()
        }
        ceiling = columns["cnn"][0]["ceiling"]
        for place, row in enumerate(columns["cnn"][0]["certified"]):
            if not 0 < row["radius"] <= ceiling:
                continue
            cells = {
                model: max((column["certified"][place] for column in found), key=lambda cell: cell["accuracy"])
                for model, found in columns.items()
            }
            held += [above(cells["rcnn"], cells["cnn"]), above(cells["rcnn+"], cells["cnn-ls-noise"])]
            words = ", ".join(f"{model} {spelled(cell)}" for model, cell in cells.items())
            pieces.append(f"sigma {sigma:g}, radius {row['radius']:g}: {words}")
    return verdict(*held), f"{'; '.join(pieces)} (of rcnn and rcnn+ with and without their noise the better)"


def sigmas(dataset: str) -> list[float]:
    """Noise of the paper's certificates."""
    return sorted({sigma for sigma, _ in CERTIFIED[dataset].values()})


def noise_buys_robustness(dataset: str, tables: Tables) -> tuple[str, str]:
    """Examples that do not see the noise, by CW or EAD as in the paper; and the strongest attack with and without it.

    Under l2 and l1 as well, where those halves of Table VII have run whole.
    """
    none, *_, most = BETA2[dataset]
    pieces, held = [], []
    for table, (norm, nearest) in TRADED.items():
        if not {*traded(none), *traded(most)} <= set(tables.get(table, {})):
            continue
        quiet, noisy = (
            {row: found for name in traded(beta2) for row, found in tables[table][name]["rows"].items()}
            for beta2 in (none, most)
        )
        quiet["AutoAttack"] = tables[table][f"rcnn+ stronger, beta2={none}"]["worst_case"]
        (through, without), (row, within) = lowest(quiet), lowest(noisy)
        blind = [rows[f"{nearest}/static"] for rows in (quiet, noisy)]
        held += [above(blind[1], blind[0]), above(within, without)]
        pieces.append(
            f"{norm}: {nearest.upper()} that does not see the noise leaves {spelled(blind[0])} at beta2 {none} and "
            f"{spelled(blind[1])} at {most}, the strongest attack {spelled(without)} ({through}) and "
            f"{spelled(within)} ({row})"
        )
    return verdict(*held), "; ".join(pieces)


def traded(beta2: str) -> list[str]:
    """Columns of Table VII at one level of noise."""
    kinds = ("", "adaptive, ", "stronger, ") if float(beta2) else ("", "stronger, ")
    return [f"rcnn+ {kind}beta2={beta2}" for kind in kinds]


def gradients_are_not_masked(dataset: str, tables: Tables) -> tuple[str, str]:
    """The sign of masked gradients: a black box that leaves less than every attack with gradients, under any norm.

    Where one does so on a model without the layers too, the gradient attacks of that table are weak, and the layers
    need not be the reason.
    """
    del dataset
    pieces, by_layers = [], False
    for table, columns in tables.items():
        if table in COMPUTED:
            continue
        found = {name: stronger for name, column in columns.items() if (stronger := black_boxes(column))}
        bare = [name for name in found if not name.startswith("rcnn")]
        layered = [f"{found[name]} on {name}" for name in found if name not in bare]
        by_layers = by_layers or bool(layered and not bare)
        if layered:
            pieces.append(f"{table}: {', '.join(layered)}" + (f" (but on {', '.join(bare)} as well)" if bare else ""))
    rows, more = tables["1"]["rcnn+"]["rows"], tables["beyond-linf"]["rcnn+"]["rows"]
    name, exact = lowest(more, iter(THROUGH_NOISE))
    _, transferred = lowest(rows, iter(row for row in rows if row.startswith("transfer")))
    square = more["square"]
    seen = square["ci95"][1] - square["ci95"][0] <= MARGIN  # on fewer images random search shows nothing by failing
    return (
        verdict(False if by_layers else True if seen else None),
        f"black boxes that leave less than all gradients, beyond chance, by table: {'; '.join(pieces) or 'none'}; on "
        f"rcnn+ under linf random search leaves {spelled(square)}, examples made on cnn {spelled(transferred)}, PGD "
        f"that does not see the noise {spelled(rows['pgd/static'])}, APGD {spelled(more['apgd-dlr/static'])}, BPDA+EoT "
        f"{spelled(rows['pgd/bpda-eot'])}, exact gradients through the noise {spelled(exact)} ({name})",
    )


def black_boxes(column: Mapping[str, Any]) -> str:
    """The rows without gradients of a column that leave less than every row with gradients, beyond chance."""
    rows = column.get("rows", {})
    gradients = {row: found for row, found in rows.items() if "/" in row}  # such rows name their view
    if not gradients:
        return ""
    _, best_gradient = lowest(gradients)
    stronger = [row for row, found in rows.items() if row not in gradients and above(best_gradient, found)]
    return ", ".join(f"{row} ({100 * rows[row]['accuracy']:.1f}%)" for row in stronger)


def cheaper_training(dataset: str, tables: Tables) -> tuple[str, str]:
    """Less than half: an epoch, all of the paper's epochs, as the shipped ones were trained, and to equal accuracy."""
    table, paper = tables["2"], TRAINING[dataset]
    epoch = {name: median(column["epoch_s"]) for name, column in table.items()}
    adversary = adversary_of(dataset, RECIPES["madry"])
    ratio = epoch["madry"] / epoch["rcnn+"]
    total = {name: paper[name][0] * epoch[name] + table[name]["besides_s"] for name in ("madry", "rcnn", "rcnn+")}
    said = {name: epochs * seconds + once for name, (epochs, seconds, once) in paper.items()}
    common = shared_accuracy(table["rcnn+"], table["madry"])
    until = [seconds_to(table[name], common) for name in ("madry", "rcnn+")]
    alike = until[0] / until[1] if until[0] and until[1] and common >= EQUAL else None
    equal = (
        "no accuracy above 50% was reached by both, so that equal accuracy was not compared"
        if alike is None
        else f"until {100 * common:.0f}% of held-out images are right, {alike:.1f} in time in epochs"
    )
    taken = {name: taken_by(name, dataset) for name in ("madry", "rcnn", "rcnn+")}
    ours = taken["madry"].minutes / (taken["rcnn"].minutes + taken["rcnn+"].minutes)
    whole = not any(each.before for each in taken.values())
    here = (
        f"as they were trained for the other tables, madry in {taken['madry'].epochs} epochs of "
        f"{taken['madry'].steps} steps, {ours:.1f} with that rcnn; "
    )
    # The paper's rcnn+ makes its noise itself; filters are fitted once, for the rcnn here.
    without, alone = total["rcnn+"] + table["rcnn"]["besides_s"], total["rcnn+"] + total["rcnn"]
    return (
        verdict(
            ratio > 2,
            total["madry"] / alone > 2,
            *((ours > 2,) if whole else ()),
            *(() if alike is None else (alike > 2,)),
        ),
        f"madry with {adversary.steps if adversary else 0} steps a batch over rcnn+: {ratio:.1f} in time an epoch "
        f"(paper {paper['madry'][1] / paper['rcnn+'][1]:.1f}); with the paper's numbers of epochs "
        f"{total['madry'] / without:.1f} in all, {total['madry'] / alone:.1f} with the training of the rcnn that makes "
        f"its noise here (paper {said['madry'] / said['rcnn+']:.1f}); {here if whole else ''}{equal}",
    )


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
        lambda _: {
            **{"3": ("rcnn+", "cnn-ls-noise"), "autoattack": ("cnn-ls-noise",)},
            "7": ("rcnn+ stronger, beta2=0",),
        },
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
        lambda d: {"7": tuple(name for beta2 in BETA2[d] for name in traded(beta2))},
        noise_buys_robustness,
    ),
    Claim(
        "the layers do not mask gradients",
        lambda _: {"1": ("rcnn+",), "beyond-linf": ("rcnn+",)},
        gradients_are_not_masked,
    ),
    Claim(
        "training costs a fraction of adversarial training",
        lambda _: {"2": ("rcnn+", "rcnn", "madry")},
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
