"""The claims of the paper, each judged by the numbers of our tables, by a rule that is written beside it.

One accuracy is higher or lower than another where the exact sign-flip test says so at 5%, image by image, as for worst
cases; else where the 95% interval of their difference leaves out 0 (Newcombe 1998, method 10). Not higher is also what
ends below 5 points, unless less than that is left of both, which tells nothing; no worse is what begins above -15. A
number of the paper is reached where it does not lie above our interval. Where an interval is too wide for either, and
nothing else decides, the verdict is "cannot tell". Where a model was trained with the authors' constants as well, the
claims that it is robust, or as robust as adversarial training, are judged by the one that does better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import fsum, hypot
from statistics import median
from typing import Any, NamedTuple

from paper import BETA2, BEYOND_BOUND, BOTH, BOUNDS, CERTIFIED, PAPER, STRONGEST, TRAINING
from reproduce import AUTOATTACK, COMPUTED, TRADED
from training_time import taken_by, to_equal_accuracy

from rbfbench.results.intervals import score
from rbfbench.results.paired import compare
from rbfbench.training.recipes import RECIPES, adversary_of

Score = Mapping[str, Any]
Tables = Mapping[str, Mapping[str, Any]]  # table -> its columns, of one data set
Needs = Mapping[str, tuple[str, ...]]  # table -> columns

THROUGH_NOISE = ("pgd/eot", "pgd-margin/eot", "apgd-dlr/eot")
WORST = {norms[0]: table for table, norms in COMPUTED.items() if len(norms) == 1}  # norm -> worst cases
SUITES = {norm: table for table, norm in AUTOATTACK.items()}
REPRODUCED, PARTLY, NOT, UNSURE = "reproduced", "partly", "not reproduced", "cannot tell"
UNTESTED = "not tested"
LAYERED = (("rcnn", "cnn"), ("rcnn+", "cnn-ls-noise"))  # with the layers, and without
MARGIN = 0.15  # what accuracies may differ by and still count as alike; the widest interval that says so
SMALL = 0.05  # an effect that a claim is not about
ALPHA, DECISIONS = 0.05, 10  # of the paired test; behind what is left of an image
HALF = 0.5  # the least accuracy to speak of: of a model that withstands, and to ask for the time until then


class Found(NamedTuple):
    """What our tables say of a claim.

    Attributes:
        verdict: One of those above.
        paper: The paper's number; empty where it gives none.
        here: Ours beside it, in few words.
        evidence: All numbers that the verdict is made of, in pieces that a semicolon parts.
    """

    verdict: str
    paper: str
    here: str
    evidence: str


class Claim(NamedTuple):
    """A claim.

    Attributes:
        text: In our words.
        needs: Columns without which it is not judged, of a data set.
        judge: From the data set and the tables to what they say.
        datasets: Those that the paper makes it of.
    """

    text: str
    needs: Callable[[str], Needs]
    judge: Callable[[str, Tables], Found]
    datasets: tuple[str, ...] = ("mnist", "cifar10")


class Judged(NamedTuple):
    """A claim, and what our tables say of it; see `Found`."""

    claim: str
    verdict: str
    paper: str
    here: str
    evidence: str


def in_percent(found: Score) -> str:
    """An accuracy in percent with its interval."""
    low, high = found["ci95"]
    return f"{100 * found['accuracy']:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def each_in_percent(found: Mapping[str, Score]) -> str:
    """Accuracies by model."""
    return ", ".join(f"{model} {in_percent(one)}" for model, one in found.items())


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
    images = shared(one, other)
    if images is None:
        return one, other
    found = [score(fsum(each["images"][image] for image in images), len(images)) for each in (one, other)]
    first, second = ({"accuracy": each.accuracy, "ci95": each.ci95, "n": each.n} for each in found)
    return first, second


def shared(one: Score, other: Score) -> list[str] | None:
    """Images that both are on, None where they do not say."""
    return sorted(one["images"].keys() & other["images"].keys()) if "images" in one and "images" in other else None


def side_by_side(one: Score, other: Score) -> str:
    """The two as they are compared, where that is not as they stand."""
    if shared(one, other) == []:
        return " (no image of both)"
    first, second = on_common(one, other)
    if one["n"] == other["n"] == first["n"]:
        return ""
    return f" (on the {first['n']} images of both {100 * first['accuracy']:.1f} against {100 * second['accuracy']:.1f})"


def apart(one: Score, other: Score) -> bool | None:
    """Whether the first is higher, or lower, beyond chance; None where neither is shown.

    Image by image where both say what is left of each (exact sign-flip test at 5%), else by the interval.
    """
    images = shared(one, other)
    if images is None:
        low, high = difference(one, other)
        return True if low > 0 else False if high < 0 else None
    if not images:
        return None
    left = [[each["images"][image] for image in images] for each in (other, one)]
    found = compare(*left, decisions=DECISIONS)
    return found.difference > 0 if found.p < ALPHA else None


def half(found: Score) -> bool | None:
    """Whether at least half is left; None where the images are too few to tell."""
    low, high = found["ci95"]
    return True if low >= HALF else False if high < HALF else None


def difference(one: Score, other: Score) -> tuple[float, float]:
    """95% interval of the difference of two accuracies: Newcombe's method 10 (1998), of their own ones.

    It takes the images for different ones. Ours are the same, and where models fail on the same ones it is too wide.
    """
    if shared(one, other) == []:
        return -1.0, 1.0
    one, other = on_common(one, other)
    (low, high), (other_low, other_high) = one["ci95"], other["ci95"]
    middle = one["accuracy"] - other["accuracy"]
    down = hypot(one["accuracy"] - low, other_high - other["accuracy"])
    up = hypot(high - one["accuracy"], other["accuracy"] - other_low)
    return middle - down, middle + up


def above(one: Score, other: Score) -> bool | None:
    """Whether one accuracy is higher than another; None where images are too few to tell, or too little is left."""
    higher = apart(one, other)
    if higher is None and nothing_left(one, other):
        return None
    return higher if higher is not None else False if difference(one, other)[1] < SMALL else None


def nothing_left(one: Score, other: Score) -> bool:
    """Whether so little is left of both that an attack less strong would have to compare them."""
    return shared(one, other) != [] and max(each["accuracy"] for each in on_common(one, other)) < SMALL


def no_worse(one: Score, other: Score) -> bool | None:
    """Whether one accuracy is not shown to be lower, and not by more than the margin; None where one cannot tell."""
    higher = apart(one, other)
    return higher if higher is not None else True if difference(one, other)[0] > -MARGIN else None


def every(held: Iterable[bool | None]) -> bool | None:
    """Whether all hold: not if one does not, unknown if one is."""
    known = list(held)
    return False if False in known else None if None in known else True


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


class OfThePaper(NamedTuple):
    """What the paper's attacks leave of a model.

    Attributes:
        said: The paper's lowest number.
        row: Ours that leaves least, among the same attacks.
        own: What it leaves.
        reached: Whether all of these attacks leave as much as the paper says.
    """

    said: float
    row: str
    own: Score
    reached: bool | None


def of_the_paper(table: str, dataset: str, model: str, tables: Tables, column: str | None = None) -> OfThePaper:
    """The paper's attacks of a table on a model (on `column` of ours if given)."""
    numbers = {row: by[model] for row, by in PAPER[table, dataset].items() if row != "clean"}
    said = min(number for number in numbers.values() if number is not None)
    rows = {row: found for row, found in tables[table][column or model]["rows"].items() if row in numbers}
    return OfThePaper(said, *lowest(rows), every(reached(found, said) for found in rows.values()))


def mitigated(dataset: str, tables: Tables) -> Found:
    """Random and adversarial changes under each norm, at the radius of the attacks: none may pass with its length."""
    del dataset
    found = tables["claim-1"]["rcnn+"]
    pieces = [
        f"{row['kind']} under {row['norm']} {row['mean']:.2f} (at most {row['largest']:.2f})" for row in found["ratios"]
    ]
    means = [row["mean"] for row in found["ratios"]]
    return Found(
        verdict(*(row["largest"] < 1 for row in found["ratios"])),
        "below 1",
        f"{min(means):.2f} to {max(means):.2f} of the length passes",
        f"share of the Euclidean length that rcnn+ without noise passes on, mean over {found['n']} images, at the "
        f"radii of the tables: {', '.join(pieces)}; mitigated is less than 1 on every image",
    )


def robust(model: str, table: str, worst: str) -> Callable[[str, Tables], Found]:
    """The strongest of the paper's attacks against the paper's number, then each image under all attacks."""

    def judge(dataset: str, tables: Tables) -> Found:
        pieces, verdicts, left = [], [], {}
        for name in trainings(model, tables[table], tables[worst]):
            theirs, found = of_the_paper(table, dataset, model, tables, name), tables[worst][name]
            said = theirs.said
            verdicts.append(verdict(theirs.reached, reached(found, said)))
            left[name] = found
            pieces.append(f"{theirs.row} leaves {name} {spelled(theirs.own)}, all attacks together {spelled(found)}")
        return Found(
            best(verdicts),
            f"{said:g}",
            each_in_percent(left),
            f"paper {said:g} under the strongest of its attacks; of those, {'; '.join(pieces)}",
        )

    return judge


def robust_without_linf(norm: str) -> Callable[[str, Tables], Found]:
    """As `robust`, and higher than the model of adversarial training under linf."""
    table, worst = f"5-{norm}", f"3-{norm}"

    def judge(dataset: str, tables: Tables) -> Found:
        madry, pieces, verdicts, left = tables[worst]["madry"], [], [], {}
        for name in trainings("rcnn+", tables[table], tables[worst]):
            theirs, ours = of_the_paper(table, dataset, "rcnn+", tables, name), tables[worst][name]
            said = theirs.said
            verdicts.append(verdict(theirs.reached, reached(ours, said), above(ours, madry)))
            left[name] = ours
            beside = side_by_side(ours, madry).replace("against", "against madry")
            pieces.append(
                f"{theirs.row} leaves {name} {spelled(theirs.own)}, all attacks together {spelled(ours)}{beside}"
            )
        trained = tables[worst].get(f"madry-{norm}")
        itself = f", and trained under {norm} itself {spelled(trained)}" if trained else ""
        return Found(
            best(verdicts),
            f"{said:g}",
            each_in_percent(left | {"madry": madry}),
            f"paper {said:g} under the strongest of its attacks; of those, {'; '.join(pieces)}; all attacks leave "
            f"madry {spelled(madry)}{itself}",
        )

    return judge


def no_worse_than_adversarial_training(dataset: str, tables: Tables) -> Found:
    """rcnn+ against madry under all attacks."""
    madry = tables["3"]["madry"]
    ours = {name: tables["3"][name] for name in trainings("rcnn+", tables["3"])}
    said = " and ".join(f"{STRONGEST[dataset][model][0]:g}" for model in ("rcnn+", "madry"))
    return Found(
        best(verdict(no_worse(found, madry)) for found in ours.values()),
        said,
        each_in_percent(ours | {"madry": madry}),
        f"{listed(ours, madry)}, madry {spelled(madry)}; paper {said}",
    )


def listed(ours: Mapping[str, Score], other: Score) -> str:
    """Each with its numbers, and as it is compared."""
    return ", ".join(f"{name} {spelled(found)}{side_by_side(found, other)}" for name, found in ours.items())


def at_once(dataset: str, tables: Tables) -> Found:
    """Each image under the strongest attack of all three norms: at least half of them, and more than madry."""
    del dataset  # the paper gives no such number
    madry = tables["union"]["madry"]
    ours = {name: tables["union"][name] for name in trainings("rcnn+", tables["union"])}
    return Found(
        best(verdict(half(found), above(found, madry)) for found in ours.values()),
        "",
        each_in_percent(ours | {"madry": madry}),
        f"{listed(ours, madry)}, madry {spelled(madry)}; the paper gives no number, and half of the "
        "images are taken for the least",
    )


def copies_matter(dataset: str, tables: Tables) -> Found:
    """rcnn+ against rcnn: under the strongest of the paper's attacks, and under all, of every norm that has run."""
    (without, own), (said, ours) = [
        (found.said, found.own) for found in (of_the_paper("1", dataset, model, tables) for model in BOTH)
    ]
    norms = of_norms(tables, *reversed(BOTH))
    pieces = [f"under {norm} {one_against_other(*pair)}" for norm, pair in norms.items()]
    return Found(
        verdict(*told([(ours, own), *norms.values()])),
        f"{said:g} and {without:g}",
        f"{each_in_percent({'rcnn+': ours, 'rcnn': own})} under the strongest of the paper's attacks",
        f"the strongest of the paper's attacks under linf leaves rcnn+ {spelled(ours)}, rcnn {spelled(own)}"
        f"{side_by_side(ours, own)} (paper {said:g} and {without:g}); all attacks leave {', '.join(pieces)}",
    )


def layer_matters(dataset: str, tables: Tables) -> Found:
    """rcnn+ against the control without the layers: without noise under AutoAttack, and with it under all attacks."""
    del dataset
    norms, ours = of_norms(tables, "rcnn+", "cnn-ls-noise"), "rcnn+ stronger, beta2=0"
    quiet = {
        norm: (tables[table][ours]["worst_case"], tables[SUITES[norm]]["cnn-ls-noise"]["worst_case"])
        for table, (norm, _) in TRADED.items()
        if ours in tables.get(table, {}) and "cnn-ls-noise" in tables.get(SUITES[norm], {})
    }
    pieces = [
        "; ".join(f"under {norm} {one_against_other(*pair)}" for norm, pair in pairs.items()) or "not run"
        for pairs in (quiet, norms)
    ]
    return Found(
        verdict(*told([*quiet.values(), *norms.values()])),
        "",
        "; ".join(
            f"{norm}: {in_percent(one)} with it, {in_percent(other)} without" for norm, (one, other) in norms.items()
        ),
        f"AutoAttack leaves rcnn+ without noise, and cnn-ls-noise, {pieces[0]}; all attacks leave rcnn+ with its "
        f"noise, and cnn-ls-noise, {pieces[1]}",
    )


def of_norms(tables: Tables, one: str, other: str) -> dict[str, tuple[Score, Score]]:
    """What all attacks leave of two models, by norm; norms that have not run for both are left out."""
    of = {norm: tables.get(table, {}) for norm, table in WORST.items()}
    return {norm: (columns[one], columns[other]) for norm, columns in of.items() if {one, other} <= set(columns)}


def told(pairs: Sequence[tuple[Score, Score]]) -> list[bool | None]:
    """Whether the first is higher, of each pair; pairs of which nothing is left are left out, if others remain."""
    return [above(*pair) for pair in pairs if not nothing_left(*pair)] or [None]


def one_against_other(one: Score, other: Score) -> str:
    """Two accuracies, and as they are compared."""
    return f"{spelled(one)} and {spelled(other)}{side_by_side(one, other)}"


def beyond_the_bound(dataset: str, tables: Tables) -> Found:
    """Just outside the radius of training, under PGD as in the paper, and under all attacks of Table IV."""
    wide = BOUNDS[dataset][1]
    columns = [tables["4"][f"{model} eps={wide}"] for model in ("rcnn+", "madry")]
    own = [column["rows"]["pgd-margin/static"] for column in columns]
    worst = [column["worst_case"] for column in columns]
    paper = BEYOND_BOUND[dataset]
    return Found(
        verdict(above(*own), above(*worst), reached(worst[0], paper["rcnn+"][wide])),
        f"{paper['rcnn+'][wide]:g} and {paper['madry'][wide]:g}",
        each_in_percent(dict(zip(("rcnn+", "madry"), worst, strict=True))),
        f"under PGD alone rcnn+ {spelled(own[0])}, madry {spelled(own[1])}{side_by_side(*own)} (paper's madry "
        f"{paper['madry'][wide]:g}); under all attacks {one_against_other(*worst)} (paper's rcnn+ "
        f"{paper['rcnn+'][wide]:g})",
    )


def certified_radius(dataset: str, tables: Tables) -> Found:
    """At equal noise, which the paper's MNIST columns do not have, at every radius that so many draws can certify.

    rcnn against cnn as in the paper, rcnn+ against the control that saw the same noise in training as well, by the most
    draws that both had. Of the certificates of rcnn or rcnn+ with and without its own noise those that ran count, and
    of two the better.
    """
    pieces, held, here = [], [], ""
    their_sigma, theirs = CERTIFIED[dataset]["rcnn"]
    near = min(theirs)
    for sigma in sigmas(dataset):
        for layered, plain in LAYERED:
            ours, others = certificates(tables["6"], layered, sigma), certificates(tables["6"], plain, sigma)
            draws = max(set(ours) & set(others), default=0)
            for place, row in enumerate(others[draws][0]["certified"] if draws else ()):
                if not 0 < row["radius"] <= others[draws][0]["ceiling"]:
                    continue
                one = max((column["certified"][place] for column in ours[draws]), key=lambda cell: cell["accuracy"])
                held.append(above(one, row))
                pieces.append(
                    f"sigma {sigma:g}, radius {row['radius']:g}, {draws:,} draws: {layered} {spelled(one)}, "
                    f"{plain} {spelled(row)}"
                )
                if (layered, sigma, row["radius"]) == ("rcnn", their_sigma, near):
                    here = f"rcnn {in_percent(one)}, cnn {in_percent(row)} there; "
    return Found(
        verdict(*held),
        f"{theirs[near]:g} and {CERTIFIED[dataset]['cnn'][1][near]:g} at sigma {their_sigma:g}, radius {near:g}",
        f"{here}higher in {held.count(True)} of {len(held)} comparisons, not higher in {held.count(False)}",
        f"{'; '.join(pieces)} (of rcnn and rcnn+ with and without their noise the better that ran)",
    )


def certificates(table: Mapping[str, Any], model: str, sigma: float) -> dict[int, list[Any]]:
    """The columns of a model at one noise, with its own and without, by the number of their draws."""
    found: dict[int, list[Any]] = {}
    for name, column in table.items():
        if without_draws(name) in (f"{model} sigma={sigma:g}", f"{model} beta2=0 sigma={sigma:g}"):
            found.setdefault(column["draws"], []).append(column)
    return found


def without_draws(name: str) -> str:
    """The name of a column of certificates, whatever the number of its draws."""
    return name.partition(" n=")[0]


def sigmas(dataset: str) -> list[float]:
    """Noise of the paper's certificates."""
    return sorted({sigma for sigma, _ in CERTIFIED[dataset].values()})


def noise_buys_robustness(dataset: str, tables: Tables) -> Found:
    """Examples that do not see the noise, by CW or EAD as in the paper; and the strongest attack with and without it.

    Under l2 and l1 as well, where those halves of Table VII have run with and without noise.
    """
    none, *_, most = BETA2[dataset]
    pieces, held, left = [], [], []
    for table, (norm, nearest) in TRADED.items():
        if not {*traded(none), *traded(most)} <= set(tables.get(table, {})):
            continue
        quiet, noisy = (
            {row: found for name in traded(beta2) for row, found in tables[table][name]["rows"].items()}
            for beta2 in (none, most)
        )
        suite = tables[table][f"rcnn+ stronger, beta2={none}"]  # its rows are on survivors: they count together
        quiet = {row: found for row, found in quiet.items() if row not in suite["rows"]}
        quiet = {"AutoAttack": suite["worst_case"], **quiet}
        (through, without), (row, within) = lowest(quiet), lowest(noisy)
        if every := tables.get(WORST[norm], {}).get("rcnn+"):  # which has the most noise
            row, within = "all attacks", every
        blind = [rows[f"{nearest}/static"] for rows in (quiet, noisy)]
        held += [above(blind[1], blind[0]), above(within, without)]
        left.append(f"{norm}: {in_percent(without)} at {none}, {in_percent(within)} at {most}")
        pieces.append(
            f"{norm}: {nearest.upper()} that does not see the noise leaves {spelled(blind[0])} at beta2 {none} and "
            f"{spelled(blind[1])} at {most}, the strongest attack {spelled(without)} ({through}) and "
            f"{spelled(within)} ({row})"
        )
    return Found(verdict(*held), "", "; ".join(left), "; ".join(pieces))


def traded(beta2: str) -> list[str]:
    """Columns of Table VII at one level of noise."""
    kinds = ("", "adaptive, ", "stronger, ") if float(beta2) else ("", "stronger, ")
    return [f"rcnn+ {kind}beta2={beta2}" for kind in kinds]


def gradients_are_not_masked(dataset: str, tables: Tables) -> Found:
    """The sign of masked gradients: a black box that leaves less than every attack with gradients, under any norm.

    Then the same of rcnn+ in Table I, for the attacks by which the paper judges it and which do not see its noise.
    Where the same one does so on a model without the layers, the gradient attacks of that table are weak, and the
    layers need not be the reason. Tables of rcnn+ alone have no such model to compare with.
    """
    pieces, by_layers = [], False
    for table, columns in tables.items():
        bare = {name: column for name, column in columns.items() if not name.startswith("rcnn")}
        weak = {row: name for name, column in bare.items() for row in black_boxes(column)}
        for name, column in columns.items() if bare else ():
            for row in black_boxes(column) if name not in bare else ():
                by_layers = by_layers or row not in weak
                also = f" (but on {weak[row]} as well)" if row in weak else ""
                pieces.append(f"{table}: {row} {100 * column['rows'][row]['accuracy']:.1f} on {name}{also}")
    fired: dict[bool, list[str]] = {True: [], False: []}  # by whether a model has the layers
    for table, columns in tables.items():
        for name, column in columns.items():
            if "black-box-stronger" in column.get("checks", {}):
                fired[name.startswith("rcnn")].append(f"{table} {name}")
    rows, more = tables["1"]["rcnn+"]["rows"], tables["beyond-linf"]["rcnn+"]["rows"]
    name, exact = lowest(more, iter(THROUGH_NOISE))
    _, transferred = lowest(rows, iter(row for row in rows if row.startswith("transfer")))
    blind = [row for row in PAPER["1", dataset] if row.endswith("/static")]
    bare = [column for model, column in tables["1"].items() if not model.startswith("rcnn")]
    as_weak = {row for column in bare for row in black_boxes(column, blind)}
    sharper = [row for row in black_boxes(tables["1"]["rcnn+"], blind) if row not in as_weak]
    square = more["square"]
    seen = square["ci95"][1] - square["ci95"][0] <= MARGIN  # on fewer images random search shows nothing by failing
    return Found(
        verdict(False if by_layers else True if seen else None, *([False] if sharper else [])),
        "",
        f"{in_percent(square)} by random search, {in_percent(transferred)} by examples made on cnn, "
        f"{in_percent(rows['pgd/static'])} by PGD that does not see the noise, {in_percent(exact)} by gradients "
        "through it",
        f"black boxes that leave less than all gradients, beyond chance, by table: {'; '.join(pieces) or 'none'}; "
        f"less, be it by chance (black-box-stronger): {', '.join(fired[True]) or 'none'}, and {len(fired[False])} "
        f"columns of models without the layers; black boxes that leave less of rcnn+, and not of models without the "
        f"layers, than all of the paper's attacks that do not see the noise: {', '.join(sharper) or 'none'}; on rcnn+ "
        f"under linf random search leaves {spelled(square)}, "
        f"examples made on cnn {spelled(transferred)}, PGD that does not see the noise {spelled(rows['pgd/static'])}, "
        f"APGD {spelled(more['apgd-dlr/static'])}, BPDA+EoT {spelled(rows['pgd/bpda-eot'])}, "
        f"exact gradients through the noise {spelled(exact)} ({name})",
    )


def black_boxes(column: Mapping[str, Any], against: Sequence[str] | None = None) -> list[str]:
    """The rows without gradients of a column that leave less than every row with them, or `against`, beyond chance."""
    rows = column.get("rows", {})
    gradients = [row for row in rows if "/" in row]  # such rows name their view
    others = [rows[row] for row in (gradients if against is None else against) if row in rows]
    return [
        row
        for row, found in rows.items()
        if row not in gradients and others and all(above(other, found) for other in others)
    ]


def cheaper_training(dataset: str, tables: Tables) -> Found:
    """Less than half: per epoch, in all with the paper's numbers of epochs, and to equal accuracy if known."""
    table, paper = tables["2"], TRAINING[dataset]
    epoch = {name: median(column["epoch_s"]) for name, column in table.items()}
    adversary = adversary_of(dataset, RECIPES["madry"])
    ratio = epoch["madry"] / epoch["rcnn+"]
    total = {name: paper[name][0] * epoch[name] + table[name]["besides_s"] for name in ("madry", "rcnn", "rcnn+")}
    said = {name: epochs * seconds + once for name, (epochs, seconds, once) in paper.items()}
    alike = to_equal_accuracy(table["madry"], table["rcnn+"], HALF)
    equal = (
        "no accuracy above 50% was reached by both, so that equal accuracy was not compared"
        if alike is None
        else f"until {100 * alike.accuracy:.0f}% of held-out images are right, {alike.ratio:.1f} in time in epochs (in "
        f"{alike.rounds} of {alike.of} rounds, for in others one of them stayed below 50%)"
    )
    taken = {name: taken_by(name, dataset) for name in ("madry", "rcnn", "rcnn+")}
    here = ", ".join(
        f"{name} {each.minutes:.0f}{f' after a model of {each.before} epochs' if each.before else ''}"
        for name, each in taken.items()
    )
    # The paper's rcnn+ makes its noise itself; filters are fitted once, for the rcnn here.
    without, alone = total["rcnn+"] + table["rcnn"]["besides_s"], total["rcnn+"] + total["rcnn"]
    most = alike is not None and 2 * alike.rounds > alike.of
    return Found(
        verdict(ratio > 2, total["madry"] / alone > 2, *((alike.ratio > 2,) if alike and most else ())),
        f"{said['madry'] / said['rcnn+']:.1f} times",
        f"{total['madry'] / alone:.1f} times",
        f"madry with {adversary.steps if adversary else 0} steps a batch over rcnn+: {ratio:.1f} in time an epoch "
        f"(paper {paper['madry'][1] / paper['rcnn+'][1]:.1f}); with the paper's numbers of epochs "
        f"{total['madry'] / without:.1f} in all, {total['madry'] / alone:.1f} with the training of the rcnn that makes "
        f"its noise here (paper {said['madry'] / said['rcnn+']:.1f}); {equal}; adversarial training need not take so "
        f"many steps: that of one (fast) takes {epoch['fast'] / epoch['rcnn+']:.1f} of the time an epoch, and the "
        f"madry of the other tables took {taken['madry'].epochs} epochs of {taken['madry'].steps} steps; by the cards, "
        f"in thread-minutes: {here}",
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
        lambda _: {"3": ("rcnn+", "cnn-ls-noise")},
        layer_matters,
    ),
    Claim(
        "the layers raise certified accuracy, at equal noise",
        lambda d: {"6": tuple(f"{model} sigma={sigma:g}" for pair in LAYERED for model in pair for sigma in sigmas(d))},
        certified_radius,
    ),
    Claim(
        "more noise at run time (beta2) buys robustness",
        lambda d: {"7": tuple(name for beta2 in (BETA2[d][0], BETA2[d][-1]) for name in traded(beta2))},
        noise_buys_robustness,
    ),
    Claim(
        "the layers do not mask gradients",
        lambda _: {"1": ("rcnn+",), "beyond-linf": ("rcnn+",)},
        gradients_are_not_masked,
    ),
    Claim(
        "training costs a fraction of adversarial training by PGD, with the steps that its authors take",
        lambda _: {"2": ("rcnn+", "rcnn", "madry", "fast")},
        cheaper_training,
    ),
)


def judged(dataset: str, tables: Tables) -> Iterator[Judged]:
    """Every claim; those whose columns are not there say which they need."""
    there = {table: {without_draws(name) for name in columns} for table, columns in tables.items()}
    for claim in CLAIMS:
        if dataset not in claim.datasets:
            continue
        needs = claim.needs(dataset).items()
        missing = [table for table, columns in needs if not set(columns) <= there.get(table, set())]
        if missing:
            yield Judged(claim.text, UNTESTED, "", "", f"columns are missing in table {', '.join(missing)}")
        else:
            yield Judged(claim.text, *claim.judge(dataset, tables))
