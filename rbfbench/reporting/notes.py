"""What stands around the table: which run this is, what to distrust in it, how to read it, how to get more."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from rich.table import Table
from rich.text import Text

from rbfbench.reporting.words import duration, percent, plural
from rbfbench.results.certificates import Certification
from rbfbench.results.intervals import wilson
from rbfbench.results.records import Run

GOES_ON = "what was started with --out goes on by the same command"
STATUS = {
    "started": f"UNFINISHED RUN: only the attacks below are done; {GOES_ON}.",
    "partial": "PARTIAL RUN: some images could not be decided; they count as robust, so the numbers may be too high.",
    "failed": "FAILED RUN: do not use these numbers.",
}
VIEWS = {
    "static": "/static with the noise switched off",
    "eot": "/eot averaged over random draws",
    "bpda": "/bpda through a smooth stand-in for what has no gradient",
    "bpda-eot": "/bpda-eot averaged, through a smooth stand-in",
}
KINDS = {
    "white-box": "white-box knows everything about the model",
    "static": "static knows all but the noise",
    "adaptive": "adaptive is built against this defense",
    "black-box": "black-box sees its answers only",
    "transfer": "transfer attacks another model",
}
# What each check asks, for people who do not know its code.
QUESTIONS = {
    "answers-changed": "Does the model answer an image otherwise when it is asked again, beside other images?",
    "attack-crashed": "Did an attack crash on some images?",
    "black-box-stronger": "Do attacks without gradients break more than those with them? They are masked or weak.",
    "budgets-do-not-nest": "Does accuracy rise with the radius? Then an attack is too weak.",
    "clean-at-chance": "Is the model no better than guessing on unattacked images?",
    "degenerate-filters": "Are there RBF filters almost without variance, around which the model jumps?",
    "few-classes": "Are there too few classes for an attack to be what its name says?",
    "large-radius": "Is the radius so large that every image can be made grey?",
    "lost-in-8-bit": "Does rounding to the 256 levels of an image file undo attacks?",
    "moved-nothing": "Did an attack change no image at all?",
    "noise-not-attacked": "Is the model random, and did no attack average over its noise?",
    "noise-shared": "Does one draw of the model's noise serve many images?",
    "null-off-clean": "Is clean accuracy another when it is measured again?",
    "other-input-range": "Would the model be right more often on pixels of another range?",
    "probabilities": "Does the model return probabilities, which flatten the loss?",
    "rows-left-out": "Did attacks of the suite not run?",
    "single-step-stronger": "Does one step break more than many? Then gradients mislead.",
    "sorted-images": "Are the images of far fewer classes than their set has?",
    "static-stronger": "Does an attack that does not see the noise break more than those that do?",
    "surrogate-is-target": "Was a transfer attack made on the model itself?",
    "zero-gradient": "Did images give an attack no gradient at all?",
}
ALWAYS_SHOWN = ("beta1", "beta2", "m")  # of a defence's constants; the others where they were changed
ROOM_TO_GROW = 10  # suggested are this many times the images, which narrows intervals about threefold


def caption(run: Run, *, swept: str | None = None) -> Iterator[Text]:
    """Model, data, budget, size and seed, so that the table can be quoted on its own; without what a sweep varies."""
    spec, made = run.spec, run.environment
    model = run.model.get("name") or spec.get("model", "model")
    eps = spec.get("eps_text") or f"{spec.get('eps', '?')}"
    budget = f"{spec.get('norm', '')}" if swept == "eps" else f"{spec.get('norm', '')} eps {eps}"
    task = f"{model} on {spec.get('dataset', 'images')}, {budget}"
    yield Text(f"{task}, {plural(run.clean.n, 'image')}, seed {spec.get('seed', 0)}", style="bold")
    origin = [f"rbfbench {made.rbfbench}", f"torch {made.torch}", made.device, plural(made.threads, "thread")]
    if defence := constants(run, swept=swept):
        origin.insert(0, defence)
    if suite := spec.get("suite"):
        origin.insert(0, f"suite {suite}")
    if source := spec.get("source"):
        origin.insert(0, str(source))
    yield Text(", ".join(origin), style="dim")
    if run.status in STATUS:
        yield Text(STATUS[run.status], style="bold yellow")


def constants(run: Run | Certification, *, swept: str | None = None) -> str:
    """A defence's constants in force, without what a sweep varies; empty for a model that has none."""
    shown = (*ALWAYS_SHOWN, *run.spec.get("knobs", {}))
    return ", ".join(
        f"{name} {f'{value:g}' if isinstance(value, float) else value}"
        for name, value in run.model.get("constants", {}).items()
        if name in shown and name != swept
    )


def warnings(run: Run) -> Iterator[Text]:
    """What a reader must know before quoting a number: undecided and invalid candidates, checks that fired."""
    lines = []
    for row in run.attacks:
        if row.unknown:
            lines.append(f"{row.id}: {plural(row.unknown, 'image')} undecided after an error, counted as robust")
        if row.invalid:
            lines.append(f"{row.id}: {plural(row.invalid, 'candidate')} outside the budget, counted as robust")
    lines += [f"check {check.code}: {check.detail}" for check in run.checks if check.fired]
    for line in lines:
        yield Text(f"! {line}", style="yellow")
    if lines:
        yield Text()


def notes(run: Run) -> Table:
    """One line for each thing in the table that a newcomer could misread."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column()
    for term, text in explain(run):
        grid.add_row(Text(term), Text(text))
    return grid


def explain(run: Run) -> Iterator[tuple[str, str]]:
    """(term, meaning) of the same notes."""
    images = plural(run.clean.n, "image")
    yield "accuracy", f"Share of the {images} still classified correctly; one wrong without any attack is never robust."
    yield (
        "interval",
        "Covers the choice of images, not the strength of the attack. A stronger attack can only lower "
        "a robust accuracy: read it as an upper bound.",
    )
    if run.worst_case:
        yield "worst case", _worst_case(run)
    if any(row.cumulative_accuracy is not None for row in run.attacks):
        yield (
            "rows",
            "Each attack ran on the images that those above it had left; its accuracy is what all of them left.",
        )
    yield from _curves(run)
    if transfer := _transfer(run):
        yield "transfer", transfer
    if controls := _controls(run):
        yield "controls", controls
    if views := _only({row.view for row in run.attacks}, VIEWS):
        yield "attack", f"Name and the gradient it follows: {views}."
    if kinds := _only({row.category for row in run.attacks}, KINDS):
        yield "kind", f"{kinds[0].upper()}{kinds[1:]}."
        yield "8-bit", "Accuracy when the attacked images are rounded to the 256 levels of an image file."
        yield "passes", "Forward and backward passes per attacked image; a random draw counts as one."
    if more := _more(run):
        yield "more", more


def _only(present: Collection[str], meanings: Mapping[str, str]) -> str:
    return "; ".join(meaning for word, meaning in meanings.items() if word in present)


def _worst_case(run: Run) -> str:
    strongest = f" Strongest alone: {run.worst_case.strongest}." if run.worst_case else ""
    if not run.model.get("stochastic"):
        return "An image counts as robust only if none of the attacks broke it." + strongest
    decisions = max((row.decisions for row in run.attacks), default=1)
    return (
        "Each image meets its strongest attack, picked on one set of random draws and scored on "
        f"{plural(decisions, 'fresh decision')}, so that luck does not pass for strength; k can be a fraction."
        + strongest
        + _above(run)
    )


def _above(run: Run) -> str:
    """What to make of a worst case above a row that met the same images."""
    worst = run.worst_case
    rows = [row.accuracy for row in run.attacks if worst and row.id == worst.strongest and row.n == worst.n]
    if not (worst and rows and worst.accuracy > rows[0]):
        return ""
    return " It stands above that row: the choice erred on some images, or the row's draws were lucky."


def _curves(run: Run) -> Iterator[tuple[str, str]]:
    """Accuracy over the radius, for attacks that look for the nearest adversarial example."""
    for row in run.attacks:
        if row.curve:
            points = ", ".join(f"{eps:.3g}: {percent(accuracy)}%" for eps, accuracy in row.curve)
            middle = "none for half of the images" if row.median_distance is None else f"{row.median_distance:.4g}"
            yield "distances", f"{row.id}, accuracy by {row.norm} radius {points}. Median distance {middle}."


def _transfer(run: Run) -> str:
    parts = [
        f"{row.id}: {percent(row.accuracy_of_right)}% of those that are right without attack"
        for row in run.attacks
        if row.accuracy_of_right is not None
    ]
    names = ", ".join(run.spec.get("surrogates", ())) or "cnn"
    return f"Made on {names}, scored here; {'; '.join(parts)}." if parts else ""


def _controls(run: Run) -> str:
    names = {row.name for row in run.attacks}
    parts = []
    if any(row.category == "transfer" for row in run.attacks) and not run.spec.get("include_transfer"):
        parts.append("Transfer rows stay out of the worst case.")
    if run.null_attack or "null" in names:
        parts.append("null is the unattacked image, picked and scored in the same way: its gap to clean is luck.")
    if "noise" in names:
        parts.append("noise is a random change within the same budget: an attack must do better than that.")
    return " ".join(parts)


def _more(run: Run) -> str:
    """What a larger run would bring and cost, from this run's own times.

    Empty if all images were used, and for an unfinished run: what its other attacks take is not known.
    """
    if run.status == "started":
        return ""
    n = run.clean.n
    available = run.spec.get("available")
    wanted = ROOM_TO_GROW * n if available is None else min(ROOM_TO_GROW * n, int(available))
    if wanted <= n or not run.attacks or run.spec.get("limit") == "all":
        return ""
    headline = run.worst_case or run.clean
    low, high = wilson(headline.accuracy * wanted, wanted)
    time = duration(sum(row.wall_s for row in run.attacks) * wanted / n)
    return f"--limit {wanted} takes about {time} on this machine and tells to within {50 * (high - low):.1f} points."
