"""RESULTS.md from the result files: our numbers beside the paper's.

Usage: python benchmarks/results_page.py [FOLDER]

Reads the files in FOLDER (default benchmarks/results) and writes RESULTS.md beside it.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterator
from math import ceil, fsum
from pathlib import Path
from statistics import median
from typing import Any

from claims import (
    ALPHA,
    ENOUGH,
    HALF,
    MARGIN,
    NOT,
    PARTLY,
    REPRODUCED,
    SMALL,
    UNSURE,
    UNTESTED,
    WORST,
    Judged,
    above,
    in_percent,
    judged,
    least_said,
    reached,
    spelled,
    without_draws,
)
from outcomes import with_images
from paper import BEYOND_BOUND, BOUNDS, CERTIFIED, COUNTED, PAPER, RADII, STRONGEST, TRADE_OFF, TRAINING, Numbers
from reproduce import ATTACKED, AUTOATTACK, BEYOND, COMPUTED, MODELS, NORMS, OF_NORM, RESULTS, TRADED, read
from scripts import ended
from training_time import taken_by, to_equal_accuracy

from rbfbench.defenses import shipped_path
from rbfbench.errors import LoadError
from rbfbench.training.recipes import RECIPES, adversary_of, noise_of, schedule_of

VERDICTS = (REPRODUCED, PARTLY, NOT, UNSURE, UNTESTED)
DATASETS = ("mnist", "cifar10")
TITLES = {
    "claim-1": "Claim 1: what the reconstruction passes on of a change of its input",
    "1": "Table I: attacks",
    "2": "Table II: time of training",
    "3": "Table III: the strongest of all attacks",
    "3-l1": "As Table III: the strongest of all attacks",
    "3-l2": "As Table III: the strongest of all attacks",
    "4": "Table IV: within and beyond the bound, linf",
    "5-l1": "Table V, first half: attacks",
    "5-l2": "Table V, second half: attacks",
    "6": "Table VI: certified accuracy under l2",
    "7": "Table VII: noise against accuracy",
    "7-l1": "Table VII: noise against accuracy",
    "7-l2": "Table VII: noise against accuracy",
    **{f"beyond-{norm}": "Beyond the paper: margin losses, exact gradients, random search" for norm in NORMS},
    **dict.fromkeys(AUTOATTACK, "Beyond the paper: AutoAttack (unless random, on survivors of the attacks above)"),
    "union": "Union over l1, l2 and linf: each image meets the strongest of all attacks under all three norms",
    "quick": "Quick run (no numbers of the paper)",
}
INTRO = """# Results

The tables of *Approximate Manifold Defense Against Multiple Adversarial Perturbations* (arXiv 2004.02183), run again
with {models}.
"""
FILES = """\
This page is made by `python benchmarks/results_page.py` from the files of `benchmarks/reproduce.py`; each of them names
its commands, seed, commit, versions, hardware and times, and the commands stand folded below each table. A cell is our
accuracy in percent with its 95% interval over the choice of images; where the paper has a number, it follows after
"paper". An empty cell was not run, or not under all attacks that the table is over.
"""
KINDS = """\
**The models.** `cnn` has no defence. `rcnn` is RBF-CNN trained on clean images, `rcnn+` on noisy copies as well, and
`cnn-ls-noise` its control: the same smoothed labels and noisy copies without the layers. `madry` is adversarial
training by PGD under linf.{authors} All of them stand [below](#how-to-read-the-tables).
"""
SINCE = "Tables I and V (l2) of `rcnn+` on MNIST, and all of `rcnn-authors`"
OF_AUTHORS = " `rcnn-authors` and `rcnn+-authors` have the constants of the authors' scripts."
WHOLE = re.compile(r"^\| test: .*? \| ([\d.]+)% ", re.MULTILINE)  # of a card: accuracy on the whole test set
SHIPPED = "the models shipped here"
OWN = "models trained by `benchmarks/train_models.py`"
OF_SHIPPED = """\
- `rcnn` and `rcnn+` are RBF-CNN as shipped here: with its sharpness beta1 the same in training as at run time, no
  filter of zero variance, and noise drawn anew for every image, as the paper's text has it. `rcnn-authors` and
  `rcnn+-authors` have the constants of the authors' scripts, but for a shorter schedule and, in the latter, adversarial
  noise of fewer images; they are attacked with noise drawn anew. "Known noise" fixes the ten draws, as those scripts
  do. `cnn-ls-noise` is the control of `rcnn+`: smoothed labels and noisy copies without the layers, for fewer epochs.
- Each model is one set of weights, trained once and for fewer epochs than in the paper (its card says how); on CIFAR-10
  a smaller net stands behind the defence than the paper's. `madry` took 7 steps a batch on MNIST and 3 on CIFAR-10,
  where its authors take 40 and 7. A difference to the paper can come from that. `trades` was trained in bfloat16 when
  the first steps of its walk were lost to rounding, mended since: its training met weaker examples than TRADES has.
- SPSA and DAA, and in columns of fewer images PGD and CW, ran with fewer starts, steps and pairs than in the suites
  (the commands say which), and SPSA and DAA on few images: what they leave is a loose bound and no sign of robustness.
  In columns of 1,000 images DAA moved groups of about 40 images where it says 200: a fault, mended since.
  In most columns of random models PGD and SPSA through the noise are weaker than they are now: they returned the point
  that seemed best in the few draws they saw on their way, and return the end of the way since. Made since are {since};
  in Table I that took BPDA+EoT on `rcnn+` from 18.2 to 17.2, and all attacks of the table from 16.0 to 14.8. APGD goes
  back to its best point by its rule, and is as it was.
  `/bpda-eot` averages 50 draws a look in Tables I and V, as the paper's, and 20 in columns of Table VII; the commands
  say so. The paper's transferred EAD and CW stand beside `transfer-margin`, which goes to the rim of the ball; its DAA,
  of a kind it does not name, beside `daa-blob`; its CW under linf is PGD on a margin here.
  In columns made on a GPU, several runs shared it: their times say little. Table IV and the columns of known noise
  leave out AutoAttack; madry beyond its bound met PGD on a margin where the paper's met PGD.
- The images are the first of the test files. On CIFAR-10 those are easier than the rest: the column "whole test set"
  says what is right of all of it. Intervals do not cover this.
"""
OF_OWN = """\
- Each model is one set of weights, trained once; its card says how. Noise is drawn anew for every image; "known noise"
  fixes the draws. `cnn-ls-noise` is the control of `rcnn+`: smoothed labels and noisy copies without the layers.
"""
GUIDE = """\
- `cnn` is the classifier without defence, `cnn-ls` with smoothed labels; `fast`, `trades` and `madry` are adversarial
  training under linf (one step, the loss of TRADES, PGD), `madry-l2` and `madry-l1` under those norms. beta2 scales the
  noise of the reconstruction, 1.75 as in the paper; a decision is the mean over m = 10 passes, as in its authors' code.
- The columns of one table are of the same images, or of the first of them ("images" says how many), and on one data
  set of one classifier. "n" beside a cell says where a row took fewer images than its column: random models answer
  slowly. The first images are easier than the next: compare columns of different n by the claims above, which do so
  image by image where that was kept.
- `/static` follows gradients with the noise switched off. `/bpda-eot` is the paper's adaptive attack: it looks through
  drawn noise, and back as if there were none. `/eot` follows the exact gradient through drawn noise. `transfer`
  carries over what was made on `cnn`. Every candidate is scored with fresh noise, 10 decisions of 10 passes each (3 in
  the quick run).
- "rcnn+ by its smoothed self" and "by its reconstructions" are attacked by examples of two stand-ins, made to be
  smoother than it is: rcnn+ under larger variances of its filters, and a classifier by the nearest reconstruction of a
  class. In Table VII "adaptive" is BPDA+EoT and "stronger" APGD through the noise, or AutoAttack where there is none.
  `daa-blob` and `daa-dgf` are the two kinds of DAA, `slide` is PGD for l1.
- Of a certificate: nothing can be certified beyond the "ceiling", which follows from sigma and the number of draws;
  "abstained" counts images of which no class came often enough.
- AutoAttack has a suite of its own for random models, of untargeted attacks. What it runs on the others they meet made
  without the noise in the column "static", and its targeted APGD and FAB through the noise in the columns "targeted"
  and "nearest", where they are there.
- In a **worst case** each image meets the strongest attack of its table, examples made on other models included; in
  Table III and the union, of all tables. On a random model it is over the images that every attack through the noise
  has met, and each image's strongest candidate is chosen by some decisions and scored by others, so that luck does not
  pass for strength: it may end a little above its strongest row, the more so the fewer decisions chose. In Table III
  and the union, "of tables" says whose attacks are in it, and how many decisions chose in those; where some chose by
  ten and some by one, they are not mixed, and the choice that leaves less counts, or, where it leaves less still, the
  one attack that by those decisions is the strongest on all images together. DAA, SPSA, Square and the attacks
  that look for the nearest example count for the images they ran on.
- **null control**: unattacked images, chosen among copies and scored by the same rule; it must stand at clean.
- **fired** checks: `black-box-stronger`, attacks without gradients broke more than those with, on the same images;
  `noise-not-attacked`, no attack looked through the noise; `lost-in-8-bit`, rounding to 256 levels undoes some attacks;
  `surrogate-is-target`, the transferred examples were made on the model itself; `zero-gradient`, some images gave an
  attack no gradient at any point; `degenerate-filters`, a filter of no variance makes the reconstruction jump;
  `static-stronger`, an attack that does not see the noise broke more than those that do.
"""


def score(found: dict[str, Any] | None) -> str:
    """An accuracy with its interval; nothing where there is none."""
    return "" if found is None else in_percent(found)


def beside(found: dict[str, Any] | None, paper: float | None) -> str:
    """Ours, and the paper's if there is one."""
    return (score(found) + (f" paper {paper:g}" if paper is not None and found else "")).strip()


def page(results: list[dict[str, Any]], *, own: bool = False) -> str:
    """The whole page, of the shipped models or of the reader's own."""
    sections = (line for result in results for line in section(result, own=own))
    models, guide = (OWN, OF_OWN + GUIDE) if own else (SHIPPED, OF_SHIPPED.format(since=SINCE) + GUIDE)
    first = (
        f"All attacks of all tables together, each image under the strongest ({radii()}). Beside it stands what the "
        'strongest of the paper\'s attacks leaves there. An empty cell was not run; "without" names a table of attacks '
        "that a cell lacks:\n"
    )
    parts = [
        INTRO.format(models=models),
        *([] if own else answer(results)),
        KINDS.format(authors="" if own else OF_AUTHORS),
        first,
    ]
    parts += [*headline(results, own=own), "", FILES, *claimed(results, models)]
    return "\n".join([*parts, "## How to read the tables\n", guide, *sections]) + "\n"


def answer(results: list[dict[str, Any]]) -> Iterator[str]:
    """What a reader takes away who stops here: the shipped rcnn+ beside the paper's, and why they differ."""
    tables = {
        dataset: {result["table"]: result["columns"] for result in results if result["dataset"] == dataset}
        for dataset in DATASETS
    }
    left, trained, blind = [], [], []
    for dataset, of in tables.items():
        cells = [
            f"{100 * of[WORST[norm]]['rcnn+']['accuracy']:.1f}% under {norm} {RADII[dataset][norm]} (paper "
            f"{said_of('rcnn+', norm, dataset):g})"
            for norm in NORMS
            if "rcnn+" in of.get(WORST[norm], {})
        ]
        if not cells or "madry" not in of.get("3", {}) or "rcnn+" not in of.get("1", {}):
            continue
        left.append(f"on {dataset} {', '.join(cells)}")
        trained.append(f"{100 * of['3']['madry']['accuracy']:.1f}% on {dataset}")
        taken, epochs = taken_by("rcnn+", dataset), TRAINING[dataset]["rcnn+"][0]
        own = of["1"]["rcnn+"]["rows"]["pgd/static"]["accuracy"]
        theirs = PAPER["1", dataset]["pgd/static"]["rcnn+"]
        blind.append(
            f"on {dataset} it is of {taken.epochs + taken.before} epochs where the paper's is of {epochs}, and PGD "
            f"that does not see the noise already leaves {100 * own:.1f}% of it (paper {theirs:g})"
        )
    if not left:
        return
    yield (
        "**In short.** Once attacks follow the gradient through the noise, the RBF-CNN trained here (`rcnn+`) keeps "
        f"{'; '.join(left)}. Adversarial training under linf (`madry`) keeps {' and '.join(trained)} under linf. What "
        "the numbers come to, claim by claim, stands [below](#what-holds-of-the-papers-claims).\n"
    )
    yield (
        f"**What this does not show.** These are not the paper's weights: {'; '.join(blind)}. On CIFAR-10 its net is "
        f"smaller, too.{stronger_here(tables['mnist'])} So part of what is missing may be training, and part the "
        "attacks of the paper. Intervals cover the choice of images, not that of a training or of attacks.\n"
    )


def stronger_here(tables: dict[str, Any]) -> str:
    """Rows of the paper by which ours leave less of adversarial training too, where no layer hides a gradient."""
    said = PAPER["5-l1", "mnist"]
    rows = tables.get("5-l1", {}).get("madry", {"rows": {}})["rows"]
    ours = {
        name: f"{name} leaves {100 * rows[row]['accuracy']:.1f} (paper {said[row]['madry']:g})"
        for name, row in {"PGD": "pgd/static", "EAD": "ead/static"}.items()
        if row in rows and reached(rows[row], said[row]["madry"] or 0) is False
    }
    if not ours:
        return ""
    said_so = ", ".join(ours.values())
    return f" Our attacks are stronger than the paper's as well: of adversarial training under l1, {said_so}."


def said_of(model: str, norm: str, dataset: str) -> float | None:
    """What the strongest of the paper's attacks under a norm leaves of a model; None where it says nothing."""
    if norm == "linf":
        return STRONGEST[dataset][model][0] if model in STRONGEST[dataset] else None
    table = f"5-{norm}"
    known = any(by.get(model) is not None for by in PAPER[table, dataset].values())
    return least_said(table, dataset, model) if known else None


def claimed(results: list[dict[str, Any]], models: str) -> Iterator[str]:
    """The paper's claims and what our numbers say of them."""
    yield "## What holds of the paper's claims\n"
    yield (
        "**Reproduced**: every part of a claim holds. **Partly**: some hold and some fail. **Not reproduced**: some\n"
        "fail and none holds. **Cannot tell**: none fails, and some are undecided. The claims overlap: most that say\n"
        '"robust" fall by the same attack, so that their number is no score. Under "here" stands what all attacks\n'
        'together leave, in percent, unless it says otherwise; under "paper" what the strongest of its attacks leaves\n'
        f"there, of the same models in the same order. The verdicts are on {models}, one training of each.\n\n"
        "Not tested: that loss gradients show a human what matters (its section IV-B, a matter of looking; `rbfbench\n"
        "figure saliency` draws them), and that RBF-CNN does better than Schott et al., whose model is not here.\n"
    )
    for dataset in DATASETS:
        tables = {result["table"]: result["columns"] for result in results if result["dataset"] == dataset}
        found = list(judged(dataset, tables))
        yield f"### {dataset}\n"
        yield f"{in_short(found, tables, dataset if models == SHIPPED else None)}\n"
        yield "| claim | paper | here | verdict |"
        yield "|---|---|---|---|"
        for each in found:
            yield f"| {each.claim} | {each.paper} | {each.here} | **{each.verdict}** |"
        yield "\n<details><summary>The numbers behind the verdicts</summary>\n"
        for each in found:
            yield f"- **{each.claim}**: {each.verdict}."
            yield from (f"  - {piece}" for piece in each.evidence.split("; "))
        yield "\n</details>\n"
    yield "### How a claim is judged\n"
    yield (
        "Each claim has parts, judged by a rule that is written beside it (`benchmarks/claims.py`).\n\n"
        "One accuracy is higher than another where an exact sign-flip test over the images that both are on says so\n"
        f"at {100 * ALPHA:g}%. It is not higher where the test says the contrary, or where the 95% interval of their\n"
        f"difference ends below {100 * SMALL:g} points; it is no worse where that interval begins above\n"
        f'-{100 * MARGIN:g}; else it is undecided. Where it was not kept what is left of each image ("not image by\n'
        'image"), the interval of the difference decides all of it. Each comparison is at that level by itself: among\n'
        "so many, some go wrong. What attacks leave is at most what there is: where a random model met fewer attacks\n"
        "than one without noise (AutoAttack through its noise with fewer targets, or random search on fewer images),\n"
        "it is not called higher, however much is left of it.\n\n"
        "A number of the paper is reached where it does not lie above our interval; a row of fewer than\n"
        f"{ENOUGH} images can refute it, and where it cannot, it does not count. That a model is robust, or as robust\n"
        "as adversarial training, is judged by the better of the one here and the one with its authors' constants.\n"
    )


def in_short(found: list[Judged], tables: dict[str, Any], shipped: str | None = None) -> str:
    """How many claims came to what, and what it means for whoever would rely on the defence.

    Args:
        found: The claims.
        tables: Of the data set.
        shipped: The data set, if the models are the shipped ones, whose cards say how long they were trained.
    """
    counts = Counter(each.verdict for each in found)
    said = ", ".join(f"{counts[word]} {word}" for word in VERDICTS if counts[word])
    text = f"Of {len(found)} claims: {said}."
    every, first = tables.get("3", {}), tables.get("1", {})
    if not ({"rcnn+", "cnn-ls-noise", "madry"} <= set(every) and {"rcnn+", "cnn-ls-noise"} <= set(first)):
        return text
    ours, control, madry = (every[model] for model in ("rcnn+", "cnn-ls-noise", "madry"))
    blind = [first[model]["rows"]["pgd/static"] for model in ("rcnn+", "cnn-ls-noise")]
    text += (
        f"\n\nUnder linf, PGD that does not see the noise leaves rcnn+ {spelled(blind[0])} and its control "
        f"without the layers {spelled(blind[1])}. All attacks together leave rcnn+ {spelled(ours)}, "
        f"the control {spelled(control)}, and adversarial training {spelled(madry)}; on rcnn+ "
        f"{ours['strongest']['row']} is the strongest alone."
    )
    if above(madry, ours):
        text += " Under linf this rcnn+ is less robust than adversarial training."
        if not above(madry, blind[0]):
            text += (
                " Attacks that do not look through the noise, or take fixed steps from one start, measure themselves "
                "there, not the model."
            )
    if shipped and reached(blind[0], paper := PAPER["1", shipped]["pgd/static"]["rcnn+"] or 0) is False:
        taken = taken_by("rcnn+", shipped)
        after = f", after {taken.before} of an earlier run," if taken.before else ""
        text += (
            f" Already PGD that does not see the noise leaves less than the paper's {paper:g}: this rcnn+ is of "
            f"{taken.epochs} epoch{'s' * (taken.epochs > 1)}{after} where the paper's is of "
            f"{TRAINING[shipped]['rcnn+'][0]}, and how its PGD was set is not known. What was not reproduced with it "
            "is not thereby refuted for the paper's."
        )
    return text + (cost_of(shipped) if shipped else "")


def cost_of(dataset: str) -> str:
    """What the models that are compared took to train, by their cards."""
    taken = {name: taken_by(name, dataset) for name in ("madry", "rcnn+", "rcnn")}
    minutes = {
        name: f"{each.minutes:.0f}{f' after a model of {each.before} epochs' if each.before else ''}"
        for name, each in taken.items()
    }
    return (
        f" By the cards, training took madry {minutes['madry']} thread-minutes ({taken['madry'].epochs} epochs of "
        f"{taken['madry'].steps} steps), rcnn+ {minutes['rcnn+']}, and the rcnn that makes its noise {minutes['rcnn']}."
    )


def section(result: dict[str, Any], *, own: bool = False) -> Iterator[str]:
    """One table of one data set."""
    table, dataset = result["table"], result["dataset"]
    models = {model: place for place, model in enumerate(MODELS)}
    columns = dict(sorted(result["columns"].items(), key=lambda item: models.get(item[0].partition(" ")[0], 0)))
    yield f"## {TITLES[table]}, {dataset}{radius(table, dataset)}\n"
    if table == "6":
        yield from certified(dataset, columns)
    elif table == "2":
        yield from timed(dataset, columns, own=own)
    elif table == "claim-1":
        yield from passed_on(columns)
    elif table in COMPUTED:
        yield from strongest(dataset, columns, table)
    else:
        rows = {name: column for name, column in columns.items() if "rows" in column}
        yield from attacked(rows, _paper(table, dataset, list(rows)))
        if certificates := {name: column for name, column in columns.items() if name not in rows}:
            yield ""
            yield from certified(dataset, certificates)
    yield ""
    if table == "2":
        one = next(iter(columns.values()))
        places = "; ".join(dict.fromkeys(where(column) for column in columns.values()))
        yield f"- all: `{one['command']}`, seed {one['seed']}, {one['wall_s']:.0f} s on {places}\n"
    elif table in COMPUTED:
        one = next(iter(columns.values()))
        yield "<details><summary>Command, machines and time of the attacks</summary>\n"
        yield f"- all: `{one['command']}`, seed {one['seed']}"
        yield from (f"- {name}: {column['wall_s']:.0f} s on {where(column)}" for name, column in columns.items())
        yield "\n</details>\n"
    else:
        yield from provenance(columns)


def radius(table: str, dataset: str) -> str:
    """The radius of a table that has one."""
    norm = {**{name: norm for name, (norm, _) in (*ATTACKED.items(), *TRADED.items())}, **BEYOND, **AUTOATTACK}
    norm |= {name: norms[0] for name, norms in COMPUTED.items() if len(norms) == 1} | {"quick": "linf"}
    return f", {norm[table]} {RADII[dataset][norm[table]]}" if table in norm else ""


def timed(dataset: str, columns: dict[str, Any], *, own: bool = False) -> Iterator[str]:
    """Seconds an epoch and until equal accuracy, in units of rcnn+, beside the paper's."""
    said, ours, adversary = TRAINING[dataset], columns["rcnn+"], adversary_of(dataset, RECIPES["madry"])
    noise = noise_of("default", dataset, RECIPES["rcnn+"])
    fewer = ""
    if noise and noise.stored:
        fewer = (
            f" The noise of rcnn+ is made for {noise.stored:,} images, as its recipe here has it; the paper's for all."
        )
    batch = schedule_of("default", dataset, RECIPES["rcnn+"]).batch
    yield (
        f"Scaled from {ours['images']} training images, which are {ceil(ours['images'] / batch)} "
        f"step{'s' * (ours['images'] > batch)} of {batch}, to all {ours['of']}; an epoch is the median of "
        f"{len(ours['epoch_s'])}, with their range. What is done once leaves out the training of the model that makes "
        "the noise of rcnn+, an rcnn, and its filters. The last column is time in epochs until as many held-out images "
        "are right without attack as this recipe and rcnn+ both came to, and that accuracy: the median over rounds, a "
        "training of each in turn, of which those count where both came to "
        f"{100 * HALF:.0f}%, if they are most of them.{fewer}\n"
    )
    yield "| | seconds an epoch | over rcnn+ | paper | seconds once | paper | to equal accuracy, over rcnn+ |"
    yield "|---|---|---|---|---|---|---|"
    for name, column in columns.items():
        low, middle, high = min(column["epoch_s"]), median(column["epoch_s"]), max(column["epoch_s"])
        epochs = f"{middle:.0f} ({low:.0f} to {high:.0f}) | {middle / median(ours['epoch_s']):.2f}"
        ratio, once = (f"{said[name][1] / said['rcnn+'][1]:.2f}", f"{said[name][2]:g}") if name in said else ("", "")
        alike = to_equal_accuracy(column, ours, HALF)
        shown = alike and alike.tells
        equal = f"{alike.ratio:.2f} ({100 * alike.accuracy:.0f}%), {alike.rounds} of {alike.of}" if shown else ""
        yield f"| {name} | {epochs} | {ratio} | {column['besides_s']:.0f} | {once} | {equal} |"
    yield (
        "\nThe paper's times are of one GPU. Adversarial training by "
        f"{adversary.steps if adversary else 0} steps makes that many gradients and one more for each of a training "
        f"without: of the same net at most {(adversary.steps if adversary else 0) + 1} times the time, where the paper "
        f"has {said['madry'][1] / said['rcnn'][1]:.0f} times that of rcnn."
    )
    if own:
        return
    yield (
        "\nWhat the models that are shipped took, by their cards: minutes times threads on machines that did other "
        "work too. Steps, epochs and arithmetic differ; where a training went on from another model, the time is that "
        "of the last part alone.\n"
    )
    yield "| | epochs | steps of its adversary | thread-minutes | device |"
    yield "|---|---|---|---|---|"
    for name in MODELS:
        if shipped_path(name, dataset):
            taken = taken_by(name, dataset)
            epochs = f"{taken.epochs} after {taken.before}" if taken.before else f"{taken.epochs}"
            yield f"| {name} | {epochs} | {taken.steps or ''} | {taken.minutes:.0f} | {taken.device} |"


def passed_on(columns: dict[str, Any]) -> Iterator[str]:
    """Ratios of Euclidean lengths, after over before: random changes, and those that pass best."""
    yield (
        "Euclidean length of a change after the reconstruction over that before, without noise. Changes are as long as "
        "those of the attacks, random or sought by gradient ascent to pass whole, which is no attack on the class.\n"
    )
    change = {"random": "random", "adversarial": "sought to pass"}
    yield "| | norm | eps | change | mean | largest | images |"
    yield "|---|---|---|---|---|---|---|"
    same: dict[str, list[str]] = {}
    for name, column in columns.items():
        same.setdefault(str(column["ratios"]), []).append(name)
    for names in same.values():
        name, column = ", ".join(names), columns[names[0]]
        for row in column["ratios"]:
            ratios = f"{row['mean']:.3f} | {row['largest']:.3f} | {row['n']}"
            yield f"| {name} | {row['norm']} | {row['eps']:g} | {change[row['kind']]} | {ratios} |"


def strongest(dataset: str, columns: dict[str, Any], table: str) -> Iterator[str]:
    """The worst case over tables, a model a row; what the paper cites of others is not run."""
    said = STRONGEST[dataset] if table == "3" else {}
    yield "| | accuracy | strongest of those on all images | attacks | of tables | paper | its strongest |"
    yield "|---|---|---|---|---|---|---|"
    for name in dict.fromkeys([*columns, *said]):
        paper = f"{said[name][0]:g} | {said[name][1]}" if name in said else " | "
        found = columns.get(name)
        if found is None:
            yield f"| {name} (not run) | | | | | {paper} |"
            continue
        alone = found["strongest"]
        by = f"{alone['row']} under {alone['norm']}, {100 * alone['accuracy']:.1f}"
        of = ", ".join(found["tables"])
        if chosen := found.get("choosing"):  # of a random model
            of += f"; chosen by {' or '.join(map(str, chosen))}"
        yield f"| {name} | {score(found)}, n {found['n']} | {by} | {found['attacks']} | {of} | {paper} |"


def _paper(table: str, dataset: str, columns: list[str]) -> Numbers:
    """The paper's numbers by row and column."""
    found: Numbers = {}
    if table == "4":
        for column in columns:
            model, _, eps = column.partition(" eps=")
            # The paper's madry beyond its bound met PGD alone.
            row = "pgd-margin/static" if model == "madry" and eps == BOUNDS[dataset][1] else "worst case"
            found.setdefault(row, {})[column] = BEYOND_BOUND[dataset].get(model, {}).get(eps)
        return found
    if (table, dataset) not in TRADE_OFF:
        return PAPER.get((table, dataset), {})
    rows = TRADE_OFF[table, dataset].items()
    return {row: {column: by_noise[column.rpartition("=")[2]] for column in columns} for row, by_noise in rows}


def attacked(columns: dict[str, Any], paper: Numbers) -> Iterator[str]:
    """Clean, every attack, the worst case and the null control."""
    rows = list(dict.fromkeys(row for column in columns.values() for row in column["rows"]))
    yield f"| | {' | '.join(columns)} |"
    yield f"|---|{'---|' * len(columns)}"
    yield f"| images | {' | '.join(str(column['clean']['n']) for column in columns.values())} |"
    for row in ("clean", *rows, "worst case", "null control"):
        cells = []
        for name, column in columns.items():
            found = {
                "clean": column["clean"],
                "worst case": column["worst_case"],
                "null control": column["null_attack"],
            } | column["rows"]
            capped = f", n {found[row]['n']}" if found.get(row) and found[row]["n"] != column["clean"]["n"] else ""
            cells.append(beside(found.get(row), paper.get(row, {}).get(name)) + capped)
        yield f"| {row} | {' | '.join(cells)} |"


def certified(dataset: str, columns: dict[str, Any]) -> Iterator[str]:
    """Certified accuracy, a table for each number of draws."""
    by_draws: dict[tuple[int, int, float], dict[str, Any]] = {}
    for name, column in columns.items():
        counted = by_draws.setdefault((column["draws"], column["n0"], column["alpha"]), {})
        counted[without_draws(name)] = column
    for (draws, n0, alpha), of in sorted(by_draws.items(), reverse=True):
        said = f"{n0:,} draws choose a class and {draws:,} count it, alpha {alpha:g}; one pass of the model a draw."
        said += f" The paper took {'as many' if draws == COUNTED else f'{COUNTED:,}'} to count."
        if draws < COUNTED:
            said += (
                " More draws certify more at the same robustness: near the ceiling our numbers and the paper's cannot "
                "be compared."
            )
        yield f"{said} Rows of one sigma can be compared.\n"
        yield from by_radius(dataset, of)
        yield ""


def by_radius(dataset: str, columns: dict[str, Any]) -> Iterator[str]:
    """Certified accuracy by radius, with the ceiling of each row: no count of so many draws certifies more."""
    radii = [row["radius"] for row in next(iter(columns.values()))["certified"]]
    yield f"| | {' | '.join(f'{radius:g}' if radius else 'answer right' for radius in radii)} | ceiling | abstained |"
    yield f"|---|{'---|' * (len(radii) + 2)}"
    for name, column in columns.items():
        model, _, sigma = name.partition(" sigma=")
        # The paper does not say whether its layers keep their noise.
        noise, numbers = CERTIFIED.get(dataset, {}).get(model.removesuffix(" beta2=0"), (None, {}))
        theirs = numbers if noise == float(sigma) else {}
        cells = [
            beside(row, theirs.get(row["radius"]))
            if row["radius"] <= column["ceiling"]
            else "above the ceiling" + (f" paper {theirs[row['radius']]:g}" if row["radius"] in theirs else "")
            for row in column["certified"]
        ]
        yield f"| {name} | {' | '.join(cells)} | {column['ceiling']:.3g} | {column['abstained']} |"


def radii() -> str:
    """Of all norms and data sets, in words."""
    return "; ".join(
        f"{dataset} {', '.join(f'{norm} {RADII[dataset][norm]}' for norm in NORMS)}" for dataset in DATASETS
    )


def whole_test(model: str, dataset: str) -> str:
    """Accuracy of a shipped model on the whole test set, by its card, with its noise where it has any."""
    card = shipped_path(model, dataset)
    found = WHOLE.search(card.with_suffix(".md").read_text(encoding="utf-8")) if card else None
    return found[1] if found else ""


def headline(results: list[dict[str, Any]], *, own: bool = False) -> Iterator[str]:
    """What is left under all attacks of all tables, a model a row; each norm at the paper's radius."""
    norms = {"linf": "3", "l2": "3-l2", "l1": "3-l1", "all three norms": "union"}
    yield f"| model | data | whole test set | clean | {' | '.join(norms)} |"
    yield "|---|---|---|---|---|---|---|---|"
    for dataset in DATASETS:
        tables = {result["table"]: result["columns"] for result in results if result["dataset"] == dataset}
        for model in MODELS:
            found = [tables.get(table, {}).get(model) for table in norms.values()]
            if any(found):
                clean = (tables.get(table, {}).get(model, {}).get("clean") for table in ATTACKED)
                first = next(filter(None, clean), None)
                cells = [f"{score(first)}, n {first['n']}" if first else ""]
                cells += [
                    all_of(cell, table, said_of(model, norm, dataset) if norm in NORMS else None)
                    for (norm, table), cell in zip(norms.items(), found, strict=True)
                ]
                whole = "" if own else whole_test(model, dataset)
                yield f"| `{model}` | {dataset} | {whole} | {' | '.join(cells)} |"


def all_of(found: dict[str, Any] | None, table: str, paper: float | None) -> str:
    """What all attacks of the norms of a table left, the paper's number, and which tables of attacks are not in it."""
    if found is None:
        return ""
    lacking = [each for norm in COMPUTED[table] for each in OF_NORM[norm] if each not in found["tables"]]
    theirs = "" if paper is None else f", paper {paper:g}"
    return f"{score(found)}, n {found['n']}{theirs}" + (f", without {', '.join(lacking)}" if lacking else "")


def provenance(columns: dict[str, Any]) -> Iterator[str]:
    """Commands, and where and how long they ran; folded, because they are long."""
    yield "<details><summary>Commands, machine and time</summary>\n"
    for name, column in columns.items():
        # A command that went on where it was killed took longer than its last run: attacks keep their own times.
        spent = fsum(row["wall_s"] for row in column["rows"].values()) if "rows" in column else column["wall_s"]
        n = column["n"] if "n" in column else (column.get("clean") or column["certified"][0])["n"]
        checks = f"; fired: {', '.join(sorted(column['checks']))}" if column.get("checks") else ""
        yield (
            f"- {name}: {n} images ({column['source']}), seed {column['seed']}, `{column['command']}`, {spent:.0f} s "
            f"on {where(column)}{checks}"
        )
    yield "\n</details>\n"


def where(column: dict[str, Any]) -> str:
    """Hardware, versions and commit."""
    made = column["environment"]
    threads = "1 thread" if str(made["threads"]) == "1" else f"{made['threads']} threads"
    return f"{made['device']}, {threads}, torch {made['torch']}, commit {made['git']}"


def results(folder: Path = RESULTS) -> list[dict[str, Any]]:
    """All result files, in the order of the page, with what was left of each image where they keep it.

    Raises:
        LoadError: One of them is damaged, or no result file.
    """
    order = list(TITLES)
    found: list[dict[str, Any]] = []
    for path in folder.glob("table-*.json"):
        result = read(path)
        if result["table"] not in TITLES:
            raise LoadError(f"cannot use {path}", f"there is no table {result['table']!r}", "remove it")
        columns = {name: with_images(column) for name, column in result["columns"].items()}
        found.append({**result, "columns": columns})
    return sorted(found, key=lambda result: (order.index(result["table"]), result["dataset"]))


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=RESULTS)
    folder = parser.parse_args().folder.resolve()
    if not (found := results(folder)):
        parser.error(f"there is no table-*.json in {folder}: reproduce.py writes them")
    folder.with_name("RESULTS.md").write_text(page(found, own=folder != RESULTS.resolve()), encoding="utf-8")


if __name__ == "__main__":
    ended(main)
