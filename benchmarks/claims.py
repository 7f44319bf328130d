"""The claims of the paper, each judged by the numbers of our tables, by a rule that is written beside it.

One accuracy is higher or lower than another where the exact sign-flip test says so at 5%, image by image, as for worst
cases; where outcomes are not kept, where the 95% interval of their difference leaves out 0. One is not higher than
another also where that interval ends below 5 points, and no worse where it begins above -15. A number of the paper is
reached where it does not lie above our interval. Where an interval is too wide for either, a part of a claim is
undecided. So it is where more seems to be left of a random model than of one without noise that met more attacks: what
attacks leave is at most what there is. Where a model was trained with the authors' constants as well, the claims that
it is robust, or as robust as adversarial training, are judged by the one that does better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from math import fsum, sqrt
from statistics import median
from typing import Any, NamedTuple

from paper import BETA2, BEYOND_BOUND, BOTH, BOUNDS, CERTIFIED, COUNTED, FIGURE_3, PAPER, STRONGEST, TRADE_OFF, TRAINING
from reproduce import AUTOATTACK, COMPUTED, NORMS, OF_NORM, TARGETED, TRADED, met_by
from training_time import to_equal_accuracy

from rbfbench.results.intervals import score
from rbfbench.results.paired import compare
from rbfbench.training.recipes import RECIPES, adversary_of

Score = Mapping[str, Any]
Tables = Mapping[str, Mapping[str, Any]]  # table -> its columns, of one data set
Needs = Mapping[str, tuple[str, ...]]  # table -> columns

CONTROL = "cnn-ls-noise"  # of rcnn+: the same training without the layers
WORST = {norms[0]: table for table, norms in COMPUTED.items() if len(norms) == 1}  # norm -> worst cases
SUITES = {norm: table for table, norm in AUTOATTACK.items()}
REPRODUCED, PARTLY, NOT, UNSURE = "reproduced", "partly", "not reproduced", "cannot tell"
UNTESTED = "not tested"
ELSEWHERE = {"transfer-fgsm": "fgsm/static", "transfer-pgd": "pgd/static", "transfer-cw": "cw/static"}
LAYERED = (("rcnn", "cnn"), ("rcnn+", CONTROL))  # with the layers, and without
MARGIN = 0.15  # what accuracies may differ by and still count as alike; the widest interval that says so
SMALL = 0.05  # an effect that a claim is not about
ALPHA, DECISIONS = 0.05, 10  # of the paired test; behind what is left of an image
ENOUGH = 50  # images; a row on fewer can refute a number of the paper, and is no ground to doubt it
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
    """

    text: str
    needs: Callable[[str], Needs]
    judge: Callable[[str, Tables], Found]


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
    images = shared(one, other)
    if not images:
        return " (not image by image)" if images is None else " (no image of both)"
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
    """95% interval of the difference of two accuracies, of their own intervals.

    Newcombe, Statistics in Medicine 17 (1998): method 10 of pages 873-890, and where both say what is left of each
    image method 10 of pages 2635-2650, which subtracts what the two share. There phi is the correlation of two
    proportions; parts of decisions vary less than those, and their phi is the share of that variance which is common.
    """
    if shared(one, other) == []:
        return -1.0, 1.0
    phi = correlation(one, other)
    one, other = on_common(one, other)
    (low, high), (other_low, other_high) = one["ci95"], other["ci95"]
    middle = one["accuracy"] - other["accuracy"]
    down = apart_by(one["accuracy"] - low, other_high - other["accuracy"], phi)
    up = apart_by(high - one["accuracy"], other["accuracy"] - other_low, phi)
    return middle - down, middle + up


def apart_by(one: float, other: float, phi: float) -> float:
    """Half the width of the interval of a difference, of those of two correlated numbers."""
    return sqrt(max(0.0, one**2 - 2 * phi * one * other + other**2))


def correlation(one: Score, other: Score) -> float:
    """Of what is left of the images that both are on; 0 where they do not say, or where one is all or nothing.

    With the continuity correction of the method: a positive covariance is less by half an image.
    """
    images = shared(one, other)
    if not images:
        return 0.0
    pairs = [(one["images"][image], other["images"][image]) for image in images]
    n = len(pairs)
    p, q = fsum(a for a, _ in pairs) / n, fsum(b for _, b in pairs) / n
    both = fsum(a * b for a, b in pairs) / n - p * q
    spread = sqrt(p * (1 - p) * q * (1 - q))
    return (max(both - 0.5 / n, 0.0) if both > 0 else both) / spread if spread > 0 else 0.0


def above(one: Score, other: Score, small: float = SMALL) -> bool | None:
    """Whether one accuracy is higher than another; not either where it can be so by less than `small` at most.

    None where neither is shown.
    """
    higher = apart(one, other)
    return higher if higher is not None else False if difference(one, other)[1] < small else None


def met_as_much(model: str, norm: str, tables: Tables) -> bool:
    """Whether a random model met under a norm what AutoAttack runs on those without noise.

    That is targeted APGD and FAB through its noise, with as many targets, and random search on all images of its worst
    case.
    """
    every = tables.get(WORST[norm], {}).get(model)
    if every is None:
        return False
    suite, beyond = tables.get(SUITES[norm], {}), f"beyond-{norm}"
    met = {f"{SUITES[norm]} ({model} {kind})": suite.get(f"{model} {kind}") for kind in TARGETED}
    met[beyond] = tables.get(beyond, {}).get(model)
    ours = [column for table, column in met.items() if table in every.get("tables", ()) and column is not None]
    fewer_images = [
        row
        for column in ours
        for row, found in column["rows"].items()
        if row.partition("/")[0] in ("square", *TARGETED.values()) and found["n"] < every["n"]
    ]
    changed = [column for column in ours if any(word in column["command"] for word in (".targets=", ".queries="))]
    return len(ours) == len(met) and not fewer_images and not changed


def if_met(found: bool | None, *, as_much: bool) -> bool | None:
    """What was found of a random model against one without noise; nothing, if it is more left by fewer attacks."""
    return None if found and not as_much else found


def fewer(model: str, norms: Iterable[str], tables: Tables) -> str:
    """What to say of a comparison under norms where a random model met fewer attacks; nothing where it met as many."""
    under = [norm for norm in norms if not met_as_much(model, norm, tables)]
    if not under:
        return ""
    return (
        f"; under {', '.join(under)} {model} met fewer attacks than models without noise, and is not called higher "
        "where more is left of it"
    )


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


def least_said(table: str, dataset: str, model: str) -> float:
    """The paper's lowest number of a model in a table of attacks."""
    numbers = [by.get(model) for row, by in PAPER[table, dataset].items() if row != "clean"]
    return min(number for number in numbers if number is not None)


def of_the_paper(table: str, dataset: str, model: str, tables: Tables, column: str | None = None) -> OfThePaper:
    """The paper's attacks of a table on a model (on `column` of ours if given)."""
    said, numbers = least_said(table, dataset, model), PAPER[table, dataset].keys() - {"clean"}
    rows = {row: found for row, found in tables[table][column or model]["rows"].items() if row in numbers}
    parts = [(reached(found, said), found["n"]) for found in rows.values()]
    counted = [part for part, n in parts if part is not None or n >= ENOUGH]
    return OfThePaper(said, *lowest(rows), every(counted) if counted else None)


def mitigated(dataset: str, tables: Tables) -> Found:
    """Random changes, and such as pass best, under each norm, at the radius of the attacks: none may pass whole.

    The paper's are attacks on the class, which need not seek the changes that pass.
    """
    found = tables["claim-1"]["rcnn+"]
    pieces = [
        f"{row['kind']} under {row['norm']} {row['mean']:.2f} (at most {row['largest']:.2f})" for row in found["ratios"]
    ]
    means: dict[str, list[float]] = {}
    for row in found["ratios"]:
        means.setdefault(row["kind"], []).append(row["mean"])
    said = {"random": "of random changes", "adversarial": "of changes sought to pass"}
    theirs = [after / before for before, after in FIGURE_3.get(dataset, {}).values()]
    return Found(
        verdict(*(row["largest"] < 1 for row in found["ratios"])),
        "below 1"
        + (
            f"; {min(theirs):.2f} to {max(theirs):.2f} of attacks on the class (Fig. 3), which are not measured here"
            if theirs
            else ""
        ),
        ", ".join(f"{min(of):.2f} to {max(of):.2f} {said[kind]}" for kind, of in means.items()),
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
        others = {model: least_said(table, dataset, model) for model in ("madry", "rcnn")}
        for name in trainings("rcnn+", tables[table], tables[worst]):
            theirs, ours = of_the_paper(table, dataset, "rcnn+", tables, name), tables[worst][name]
            said = theirs.said
            higher = if_met(above(ours, madry), as_much=met_as_much(name, norm, tables))
            verdicts.append(verdict(theirs.reached, reached(ours, said), higher))
            left[name] = ours
            beside = side_by_side(ours, madry).replace("against", "against madry")
            pieces.append(
                f"{theirs.row} leaves {name} {spelled(theirs.own)}, all attacks together {spelled(ours)}{beside}"
            )
        trained = tables[worst].get(f"madry-{norm}")
        itself = f", and trained under {norm} itself {spelled(trained)}" if trained else ""
        return Found(
            best(verdicts),
            f"{said:g}, madry {others['madry']:g}",
            each_in_percent(left | {"madry": madry}),
            f"paper {said:g} under the strongest of its attacks, {others['rcnn']:g} of rcnn and {others['madry']:g} of "
            f"madry; of those, {'; '.join(pieces)}; all attacks leave madry {spelled(madry)}{itself}"
            f"{''.join(fewer(name, [norm], tables) for name in left)}",
        )

    return judge


def no_worse_than_adversarial_training(dataset: str, tables: Tables) -> Found:
    """rcnn+ against madry under all attacks."""
    madry = tables["3"]["madry"]
    ours = {name: tables["3"][name] for name in trainings("rcnn+", tables["3"])}
    said = " and ".join(f"{STRONGEST[dataset][model][0]:g}" for model in ("rcnn+", "madry"))
    return Found(
        best(
            verdict(if_met(no_worse(found, madry), as_much=met_as_much(name, "linf", tables)))
            for name, found in ours.items()
        ),
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
        best(
            verdict(
                half(found),
                if_met(above(found, madry), as_much=all(met_as_much(name, norm, tables) for norm in NORMS)),
            )
            for name, found in ours.items()
        ),
        "",
        each_in_percent(ours | {"madry": madry}),
        f"{listed(ours, madry)}, madry {spelled(madry)}; the paper gives no number, and half of the "
        f"images are taken for the least{''.join(fewer(name, NORMS, tables) for name in ours)}",
    )


def copies_matter(dataset: str, tables: Tables) -> Found:
    """rcnn+ against rcnn: under the strongest of the paper's attacks, and under all, of every norm that has run."""
    (without, own), (said, ours) = [
        (found.said, found.own) for found in (of_the_paper("1", dataset, model, tables) for model in BOTH)
    ]
    norms = of_norms(tables, *reversed(BOTH))
    pieces = [f"under {norm} {one_against_other(*pair)}" for norm, pair in norms.items()]
    return Found(
        verdict(*(above(*pair) for pair in [(ours, own), *norms.values()])),
        f"{said:g} and {without:g}",
        f"{each_in_percent({'rcnn+': ours, 'rcnn': own})} under the strongest of the paper's attacks",
        f"the strongest of the paper's attacks under linf leaves rcnn+ {spelled(ours)}, rcnn {spelled(own)}"
        f"{side_by_side(ours, own)} (paper {said:g} and {without:g}"
        f"{'' if said > without else ': its own numbers do not say so'}); all attacks leave {', '.join(pieces)}",
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
        verdict(
            *(above(*pair) for pair in quiet.values()),
            *(if_met(above(*pair), as_much=met_as_much("rcnn+", norm, tables)) for norm, pair in norms.items()),
        ),
        "",
        "; ".join(
            f"{norm}: {in_percent(one)} with it, {in_percent(other)} without" for norm, (one, other) in norms.items()
        ),
        f"AutoAttack leaves rcnn+ without noise, and cnn-ls-noise, {pieces[0]}; all attacks leave rcnn+ with its "
        f"noise, and cnn-ls-noise, {pieces[1]}{fewer('rcnn+', norms, tables)}",
    )


def of_norms(tables: Tables, one: str, other: str) -> dict[str, tuple[Score, Score]]:
    """What all attacks leave of two models, by norm; norms that have not run for both are left out."""
    of = {norm: tables.get(table, {}) for norm, table in WORST.items()}
    return {norm: (columns[one], columns[other]) for norm, columns in of.items() if {one, other} <= set(columns)}


def one_against_other(one: Score, other: Score) -> str:
    """Two accuracies, and as they are compared."""
    return f"{spelled(one)} and {spelled(other)}{side_by_side(one, other)}"


def beyond_the_bound(dataset: str, tables: Tables) -> Found:
    """Just outside the radius of training, under PGD as in the paper, and under all attacks of Table IV."""
    wide = BOUNDS[dataset][1]
    models = ("rcnn+", "madry")
    columns = [tables["4"][f"{model} eps={wide}"] for model in models]
    own = [column["rows"]["pgd-margin/static"] for column in columns]
    worst = [column["worst_case"] for column in columns]
    paper = BEYOND_BOUND[dataset]
    as_much = all(row["n"] >= worst[0]["n"] for name, row in columns[0]["rows"].items() if name == "square")
    return Found(
        verdict(above(*own), if_met(above(*worst), as_much=as_much), reached(worst[0], paper["rcnn+"][wide])),
        f"{paper['rcnn+'][wide]:g}, and {paper['madry'][wide]:g} by PGD",
        f"by all of Table IV {each_in_percent(dict(zip(models, worst, strict=True)))}; by PGD "
        f"{each_in_percent(dict(zip(models, own, strict=True)))}",
        f"under PGD alone rcnn+ {spelled(own[0])}, madry {spelled(own[1])}{side_by_side(*own)} (paper's madry "
        f"{paper['madry'][wide]:g}); under all attacks {one_against_other(*worst)} (paper's rcnn+ "
        f"{paper['rcnn+'][wide]:g})",
    )


def certified_higher(*pairs: tuple[str, str]) -> Callable[[str, Tables], Found]:
    """The first of each pair against the second, at equal noise, which the paper's MNIST columns do not have.

    At every radius that so many draws can certify, by the most draws that both had; and the first of each pair against
    the paper's number, where as many draws were taken as there. Of the certificates of a model with
    and without its own noise those that ran count, and of two the better. The paper's differences are as small as a
    point: not higher is only what is lower. Its numbers stand beside those of the first pair.
    """

    def judge(dataset: str, tables: Tables) -> Found:
        (one, other), paper = pairs[0], CERTIFIED[dataset]
        (sigma, theirs), (other_sigma, others) = paper[one], paper[other]
        near = min(theirs)
        said = f"{theirs[near]:g}{f' (sigma {sigma:g})' if sigma != other_sigma else ''} and {others[near]:g}"
        pieces, held, here = [], [], ""
        for pair in pairs:
            for at in at_equal_noise(dataset, tables["6"], *pair):
                held.append(above(at.one, at.other, small=0))
                pieces.append(
                    f"sigma {at.sigma:g}, radius {at.radius:g}, {at.draws:,} draws: {at.called[0]} {spelled(at.one)}, "
                    f"{at.called[1]} {spelled(at.other)}"
                )
                if (*pair, at.sigma, at.radius) == (one, other, other_sigma, near):
                    here = f"{each_in_percent(dict(zip(at.called, (at.one, at.other), strict=True)))} there; "
        pieces += as_certified(dataset, tables["6"], {model for pair in pairs for model in pair})
        compared = list(held)
        for model in dict.fromkeys(pair[0] for pair in pairs):
            held += certified_as_said(dataset, tables["6"], model)
        return Found(
            verdict(*held),
            f"{said} at sigma {other_sigma:g}, radius {near:g}",
            f"{here}higher in {compared.count(True)} of {len(compared)} comparisons, lower in {compared.count(False)}",
            f"{'; '.join(pieces)}; of a model's certificates with and without its own noise the better that ran is "
            "compared",
        )

    return judge


def as_certified(dataset: str, table: Mapping[str, Any], models: Iterable[str]) -> Iterator[str]:
    """Beside the paper's numbers, where as many draws were taken as there."""
    for model, (sigma, theirs) in CERTIFIED[dataset].items():
        for column in certificates(table, model, sigma).get(COUNTED, []) if model in models else ():
            cells = [
                f"{spelled(cell)} to radius {cell['radius']:g} (paper {theirs[cell['radius']]:g})"
                for cell in column["certified"]
                if cell["radius"] in theirs
            ]
            yield f"{column['called']} at sigma {sigma:g}, by {COUNTED:,} draws as in the paper: {', '.join(cells)}"


def certified_as_said(dataset: str, table: Mapping[str, Any], model: str) -> Iterator[bool | None]:
    """Whether a model's certificates come to the paper's numbers, radius by radius, by as many draws as there."""
    sigma, theirs = CERTIFIED[dataset].get(model, (0.0, {}))
    columns = certificates(table, model, sigma).get(COUNTED, [])
    for place, row in enumerate(columns[0]["certified"] if columns else ()):
        if theirs.get(row["radius"]) and row["radius"] <= columns[0]["ceiling"]:
            best_of = max((column["certified"][place] for column in columns), key=lambda cell: cell["accuracy"])
            part = reached(best_of, theirs[row["radius"]])
            if part is not None or best_of["n"] >= ENOUGH:
                yield part


class AtEqualNoise(NamedTuple):
    """Two models certified to one radius under the same noise, by as many draws, and what to call them."""

    sigma: float
    radius: float
    draws: int
    one: Score
    other: Score
    called: tuple[str, str]


def at_equal_noise(dataset: str, table: Mapping[str, Any], one: str, other: str) -> Iterator[AtEqualNoise]:
    """What there is to compare of two models in Table VI."""
    for sigma in sigmas(dataset):
        ours, others = certificates(table, one, sigma), certificates(table, other, sigma)
        draws = max(set(ours) & set(others), default=0)
        for place, row in enumerate(others[draws][0]["certified"] if draws else ()):
            if 0 < row["radius"] <= others[draws][0]["ceiling"]:
                better = [
                    max(found[draws], key=lambda column: column["certified"][place]["accuracy"])
                    for found in (ours, others)
                ]
                cells = (column["certified"][place] for column in better)
                yield AtEqualNoise(sigma, row["radius"], draws, *cells, (better[0]["called"], better[1]["called"]))


def certificates(table: Mapping[str, Any], model: str, sigma: float) -> dict[int, list[Any]]:
    """The columns of a model at one noise, with its own and without, by the number of their draws.

    Each with what to call the model in it.
    """
    called = {f"{model} sigma={sigma:g}": model, f"{model} beta2=0 sigma={sigma:g}": f"{model} without its own noise"}
    found: dict[int, list[Any]] = {}
    for name, column in table.items():
        if (of := without_draws(name)) in called:
            found.setdefault(column["draws"], []).append(column | {"called": called[of]})
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
    pieces, held, left, theirs, under = [], [], [], [], []
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
        as_much = met_as_much("rcnn+", norm, tables)
        held += [above(blind[1], blind[0]), if_met(above(within, without), as_much=as_much)]
        under.append(norm)
        left.append(f"{norm}: {in_percent(without)} at {none}, {in_percent(within)} at {most}")
        said = TRADE_OFF[table, dataset][f"{nearest}/static"]
        theirs.append(f"{norm}: {said[none]:g} at {none}, {said[most]:g} at {most} by {nearest.upper()}")
        pieces.append(
            f"{norm}: {nearest.upper()} that does not see the noise leaves {spelled(blind[0])} at beta2 {none} and "
            f"{spelled(blind[1])} at {most}, the strongest attack {spelled(without)} ({through}) and "
            f"{spelled(within)} ({row})"
        )
    evidence = "; ".join(pieces) + fewer("rcnn+", under, tables)
    return Found(verdict(*held), "; ".join(theirs), "; ".join(left), evidence)


def robust_without_noise(dataset: str, tables: Tables) -> Found:
    """At beta2 0, under each norm of Table VII: the strongest of its attacks, and AutoAttack, against its number."""
    none, *_ = BETA2[dataset]
    pieces, held, left, theirs = [], [], [], []
    for table, (norm, _) in TRADED.items():
        if not set(traded(none)) <= set(tables.get(table, {})):
            continue
        numbers = {row: by[none] for row, by in TRADE_OFF[table, dataset].items() if row != "clean"}
        said = min(number for number in numbers.values() if number is not None)
        plain, stronger = (tables[table][name] for name in traded(none))
        row, own = lowest({row: found for row, found in plain["rows"].items() if row in numbers})
        held += [reached(own, said), reached(stronger["worst_case"], said)]
        theirs.append(f"{norm}: {said:g}")
        left.append(f"{norm}: {in_percent(stronger['worst_case'])}")
        pieces.append(
            f"{norm}: of its attacks {row} leaves {spelled(own)}, AutoAttack {spelled(stronger['worst_case'])} (paper "
            f"{said:g})"
        )
    return Found(verdict(*held), "; ".join(theirs), "; ".join(left), "; ".join(pieces))


def traded(beta2: str) -> list[str]:
    """Columns of Table VII at one level of noise."""
    kinds = ("", "adaptive, ", "stronger, ") if float(beta2) else ("", "stronger, ")
    return [f"rcnn+ {kind}beta2={beta2}" for kind in kinds]


def gradients_are_not_masked(dataset: str, tables: Tables) -> Found:
    """Whether attacks without gradients find less than those with them, in four places.

    In every table: the sign of masked gradients is a black box that leaves less than every attack with gradients. On
    rcnn+ with its noise fixed, where that ran, for noise blinds random search: gradients are to leave no more. In
    Table I: no black box is to leave less of rcnn+ than all gradients, of any table, that do not see its noise. And
    there, as the paper judges: an attack is not to leave less by examples that were made elsewhere than by the model's
    own gradient, which does not see the noise. What a black box does on the control as well is no sign: there the
    gradient attacks are weak.
    """
    signs = list(signs_of_masking(tables))
    found_there = [
        f"{sign.text}{' (but on the control as well)' if sign.control else ''}" for sign in signs if sign.judged
    ]
    unjudged = [sign.text for sign in signs if not sign.judged]
    rows, searched = tables["1"]["rcnn+"]["rows"], tables["beyond-linf"]
    known = "rcnn+ with known noise"
    found = dict(searched.get(known, searched["rcnn+"])["rows"])
    if known in searched and (suite := tables.get("autoattack", {}).get(known)):
        found["AutoAttack's gradients/eot"] = suite["worst_case"]  # on survivors: they count together
    square, (gradient, least) = found["square"], lowest(found, iter(row for row in found if "/" in row))
    where = "rcnn+ with its noise fixed" if known in searched else "rcnn+"
    blind, transfers = (
        [row for row in PAPER["1", dataset] if row.endswith("/static")],
        [row for row in rows if row.startswith("transfer")],
    )
    unseeing = {model: unseen(model, tables) for model in ("rcnn+", CONTROL)}
    as_weak = black_boxes(tables["1"].get(CONTROL, {}), unseeing[CONTROL])
    sharper = [row for row in black_boxes(tables["1"]["rcnn+"], unseeing["rcnn+"]) if row not in as_weak]
    strongest_blind, blindly = lowest(unseeing["rcnn+"])
    exact, through = lowest(
        {
            f"{row} of {table}": score
            for table in OF_NORM["linf"]
            for row, score in tables.get(table, {}).get("rcnn+", {"rows": {}})["rows"].items()
            if row.endswith("eot")
        }
    )
    _, transferred = lowest(rows, iter(transfers))
    said = {
        how: min(by["rcnn+"] or 100 for row, by in PAPER["1", dataset].items() if row in names)
        for how, names in {"transferred": transfers, "blind": blind, "adaptive": ["pgd/bpda-eot"]}.items()
    }
    more = above(least, square)  # gradients leave more than random search
    weaker = own_is_weaker(rows, tables["1"].get(CONTROL, {"rows": {}})["rows"])
    blunt = [elsewhere for elsewhere, found in weaker.items() if found]
    theirs = PAPER["1", dataset]
    said_by_pairs = ", ".join(
        f"{elsewhere} {theirs[elsewhere]['rcnn+']:g} against {theirs[own]['rcnn+']:g}"
        for elsewhere, own in ELSEWHERE.items()
    )
    return Found(
        verdict(
            False if any(sign.judged and not sign.control for sign in signs) else None if more is None else not more,
            *([False] if sharper else []),
            False if blunt else None if None in weaker.values() else True,
        ),
        f"{said['transferred']:g} by examples made elsewhere, {said['blind']:g} by attacks that do not see the noise, "
        f"{said['adaptive']:g} by BPDA+EoT",
        f"{in_percent(transferred)} by examples made elsewhere, {in_percent(rows['pgd/static'])} by PGD that does not "
        f"see the noise, {in_percent(blindly)} by the strongest such attack, {in_percent(through)} by gradients "
        f"through it; on {where} {in_percent(square)} by random "
        f"search, {in_percent(least)} by gradients",
        f"black boxes that leave less than all gradients, beyond chance, by table: {'; '.join(found_there) or 'none'}; "
        f"not judged, for the table has no control to compare with: {', '.join(unjudged) or 'none'}; on {where}, "
        f"random search leaves {spelled(square)}, the strongest gradient {spelled(least)} ({gradient})"
        f"{side_by_side(square, least)}; black boxes that leave less of rcnn+, and not of the control, than all "
        f"gradients that do not see the noise: {', '.join(sharper) or 'none'}; examples made elsewhere that leave less "
        f"of rcnn+, and not of the control, than the same attack by its own gradient, which does not see the noise: "
        f"{', '.join(blunt) or 'none'} (the paper's own: {said_by_pairs}); on rcnn+ under linf random search "
        f"leaves {spelled(searched['rcnn+']['rows']['square'])}, examples made elsewhere {spelled(transferred)}, PGD "
        f"that does not see the noise {spelled(rows['pgd/static'])}, the strongest such attack {spelled(blindly)} "
        f"({strongest_blind}), BPDA+EoT {spelled(rows['pgd/bpda-eot'])}, "
        f"gradients through the noise {spelled(through)} ({exact})",
    )


def own_is_weaker(rows: Mapping[str, Score], control: Mapping[str, Score]) -> dict[str, bool | None]:
    """By transfer row of Table I: whether it leaves less than the same attack by the model's own gradient.

    False where it does so on the control too; None where either cannot be told, or has not run.
    """
    found = {}
    for elsewhere, own in ELSEWHERE.items():
        less, there = (above(of[own], of[elsewhere]) if {own, elsewhere} <= set(of) else None for of in (rows, control))
        found[elsewhere] = False if there else None if there is None and less else less
    return found


def unseen(model: str, tables: Tables) -> dict[str, Score]:
    """What gradients that do not see the noise of a model leave of it under linf, of all tables."""
    columns = met_by(model, {table: dict(tables.get(table, {})) for table in OF_NORM["linf"]})
    return {
        f"{row} of {table}": found
        for table, column in columns.items()
        for row, found in standing_alone(column).items()
        if row.endswith("/static")
    }


class Sign(NamedTuple):
    """A black box that leaves less of a model with the layers than every attack with gradients.

    Attributes:
        text: Table, row, accuracy and column.
        judged: Whether the table has the control to compare with.
        control: Whether the same black box does so there.
    """

    text: str
    judged: bool
    control: bool


def signs_of_masking(tables: Tables) -> Iterator[Sign]:
    """Of every table, for every column of a model with the layers."""
    for table, columns in tables.items():
        weak = black_boxes(columns.get(CONTROL, {}))
        for name, column in columns.items():
            for row in black_boxes(column) if name.startswith("rcnn") else ():
                text = f"{table}: {row} {100 * column['rows'][row]['accuracy']:.1f} on {name}"
                yield Sign(text, CONTROL in columns, row in weak)


def black_boxes(column: Mapping[str, Any], against: Mapping[str, Score] | None = None) -> list[str]:
    """The rows without gradients of a column that leave less than every row with them, or `against`, beyond chance."""
    rows = standing_alone(column)
    gradients = {row: found for row, found in rows.items() if "/" in row}  # such rows name their view
    others = (gradients if against is None else against).values()
    return [
        row
        for row, found in rows.items()
        if row not in gradients and others and all(above(other, found) for other in others)
    ]


def standing_alone(column: Mapping[str, Any]) -> dict[str, Score]:
    """The rows of a column, without those on the survivors of others: what those broke is in them."""
    met = column.get("outcomes", {}).get("rows", {})
    return {row: found for row, found in column.get("rows", {}).items() if met.get(row, {}).get("alone", True)}


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
        f"until {100 * alike.accuracy:.0f}% of held-out images are right, {alike.ratio:.1f} in time in epochs (in "
        f"{alike.rounds} of {alike.of} rounds)"
        if alike and alike.tells
        else f"both came to an accuracy above {100 * HALF:.0f}% in {alike.rounds if alike else 0} of "
        f"{len(table['madry']['rounds'])} rounds, so that equal accuracy was not compared"
    )
    # The paper's rcnn+ makes its noise itself; filters are fitted once, for the rcnn here.
    without, alone = total["rcnn+"] + table["rcnn"]["besides_s"], total["rcnn+"] + total["rcnn"]
    return Found(
        verdict(ratio > 2, total["madry"] / alone > 2, *((alike.ratio > 2,) if alike and alike.tells else ())),
        f"{said['madry'] / said['rcnn+']:.1f} times",
        f"{total['madry'] / without:.1f} times, {total['madry'] / alone:.1f} with the rcnn that makes its noise here",
        f"madry with {adversary.steps if adversary else 0} steps a batch over rcnn+: {ratio:.1f} in time an epoch "
        f"(paper {paper['madry'][1] / paper['rcnn+'][1]:.1f}); with the paper's numbers of epochs "
        f"{total['madry'] / without:.1f} in all, {total['madry'] / alone:.1f} with the training of the rcnn that makes "
        f"its noise here (paper {said['madry'] / said['rcnn+']:.1f}); {equal}; adversarial training need not take so "
        f"many steps: that of one (fast) takes {epoch['fast'] / epoch['rcnn+']:.1f} of the time an epoch",
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
    ),
    Claim(
        "the RBF layer adds to what label smoothing and noisy copies do alone",
        lambda _: {"3": ("rcnn+", "cnn-ls-noise")},
        layer_matters,
    ),
    Claim(
        "the layers raise certified accuracy, at equal noise",
        lambda d: {"6": tuple(f"{model} sigma={sigma:g}" for pair in LAYERED for model in pair for sigma in sigmas(d))},
        certified_higher(*LAYERED),
    ),
    Claim(
        "noisy copies raise certified accuracy further, at equal noise",
        lambda d: {"6": tuple(f"{model} sigma={sigma:g}" for model in BOTH for sigma in sigmas(d))},
        certified_higher(("rcnn+", "rcnn")),
    ),
    Claim(
        "more noise at run time (beta2) buys robustness",
        lambda d: {"7": tuple(name for beta2 in (BETA2[d][0], BETA2[d][-1]) for name in traded(beta2))},
        noise_buys_robustness,
    ),
    Claim(
        "rCNN+ stays robust without noise at run time (beta2 0)",
        lambda d: {"7": tuple(traded(BETA2[d][0]))},
        robust_without_noise,
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
        needs = claim.needs(dataset).items()
        missing = [table for table, columns in needs if not set(columns) <= there.get(table, set())]
        if missing:
            yield Judged(claim.text, UNTESTED, "", "", f"columns are missing in table {', '.join(missing)}")
        else:
            yield Judged(claim.text, *claim.judge(dataset, tables))
