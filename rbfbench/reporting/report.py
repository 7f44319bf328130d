"""What a report holds, and its spellings as Markdown, CSV and LaTeX; `page.py` makes the HTML."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rbfbench.reporting.certificate_table import unfinished as unfinished_certificates
from rbfbench.reporting.compare_table import cells as compared_cells
from rbfbench.reporting.compare_table import reading
from rbfbench.reporting.grid import Grid
from rbfbench.reporting.notes import caption, constants, explain, warnings
from rbfbench.reporting.sweep_table import capped, distrust, lines_of, unfinished
from rbfbench.reporting.table import Line, sections
from rbfbench.reporting.words import FEWER, count, duration, interval, percent, plural, titled
from rbfbench.results.certificates import Certification
from rbfbench.results.comparison import Comparison
from rbfbench.results.records import AttackRow, Run, Score
from rbfbench.results.sweep import Sweep, SweepPoint

OF_ATTACK = ("decisions", "accuracy_8bit", "wrong_any", "invalid", "unknown", "forwards", "backwards", "wall_s")
COLUMNS = (
    *(
        "model",
        "constants",
        "dataset",
        "seed",
        "norm",
        "eps",
        "row",
        "kind",
        "accuracy",
        "ci95_low",
        "ci95_high",
        "k",
        "n",
    ),
    *OF_ATTACK,
    "status",
    "checks",
)

# What runs share that differ in their radius alone.
SAME = ("norm", "suite", "rows", "seed", "passes", "knobs", "worst_case", "include_transfer")


@dataclass(frozen=True)
class Entry:
    """One run.

    Attributes:
        run: Its document.
        command: What makes it again.
        folder: Where its adversarial examples are; None where there is only a run.json.
    """

    run: Run
    command: str
    folder: Path | None = None


@dataclass(frozen=True)
class Certificates:
    """Certificates of one model.

    Attributes:
        done: Their document.
        command: What makes them again.
    """

    done: Certification
    command: str


@dataclass(frozen=True)
class Report:
    """Everything that one report shows.

    Attributes:
        entries: Runs.
        sweeps: Sweeps, with those that the runs make together (`sweeps_of`).
        certifications: Certificates.
        comparison: Of the runs, if they can be compared.
    """

    entries: Sequence[Entry]
    sweeps: Sequence[Sweep]
    certifications: Sequence[Certificates]
    comparison: Comparison | None


def sweeps_of(runs: Sequence[Run]) -> list[Sweep]:
    """Runs of one model and suite on the same images under one norm, at several radii: accuracy over eps."""
    groups: dict[tuple[object, ...], dict[float, Run]] = {}
    for run in runs:
        spec = run.spec
        key = (run.model_digest, run.data_digest, *(str(spec.get(field)) for field in SAME))
        groups.setdefault(key, {})[float(spec["eps"])] = run
    return [
        Sweep(
            over="eps",
            points=[SweepPoint(value=eps, text=run.spec["eps_text"], run=run) for eps, run in sorted(group.items())],
            checks=[],
        )
        for group in groups.values()
        if len(group) > 1
    ]


def headline(run: Run) -> str:
    """The result in one sentence."""
    clean = f"Without attack {percent(run.clean.accuracy)}% of {plural(run.clean.n, 'image')} are right"
    if run.worst_case is None:
        return f"{clean}; nothing attacked the model itself."
    return (
        f"{clean}; {percent(run.worst_case.accuracy)}% (95% interval {interval(run.worst_case)}) when each image meets "
        f"the strongest of {plural(len(run.attacks), 'attack')}."
    )


def run_grid(run: Run) -> Grid:
    """The table of one run."""
    rows, rules = list[list[str]](), set[int]()
    for section in sections(run):
        rules.add(len(rows))
        rows += [_cells(line) for line in section]
    head = ["attack", "kind", "accuracy", "95% interval", "k/n", "8-bit", "passes", "time"]
    return Grid(head, rows, frozenset(rules - {0, len(rows)}))


def _cells(line: Line) -> list[str]:
    score, row = line.score, line.attack
    measured = [percent(score.accuracy), interval(score), f"{count(score.k)}/{score.n}"]
    if row is None:
        return [line.label, "", *measured, "", "", ""]
    passes = f"{row.forwards:.0f}+{row.backwards:.0f}"
    return [line.label, row.category, *measured, percent(row.accuracy_8bit), passes, duration(row.wall_s)]


def sweep_grid(sweep: Sweep) -> Grid:
    """Accuracies of a sweep, a column a value; those of clean and worst case with their intervals."""

    def cells(name: str, scores: Sequence[Score | None]) -> Iterator[str]:
        for score in scores:
            text = "" if score is None else percent(score.accuracy)
            yield f"{text} ({interval(score)})" if score and name in ("clean", "WORST CASE") else text

    n = sweep.points[0].run.clean.n
    rows = [[titled(name, scores, n), *cells(name, scores)] for name, scores in lines_of(sweep.points).items()]
    return Grid([sweep.over, *(point.text for point in sweep.points)], rows)


def certificate_grid(done: Certification) -> Grid:
    """Certified accuracy by radius, the ceiling told in each row that lies above it."""
    rows = [
        [
            f"{row.radius:g}",
            percent(row.accuracy),
            interval(row),
            f"{count(row.k)}/{row.n}",
            "above the ceiling" if row.radius > done.ceiling else "",
        ]
        for row in done.certified
    ]
    return Grid(["l2 radius", "certified", "95% interval", "k/n", ""], rows)


def certificate_caption(done: Certification) -> list[str]:
    """Model, noise, images, draws and the radius that no model could pass; then where it was made, what is missing."""
    spec, made = done.spec, done.environment
    name = done.model["name"] + (f" ({fixed})" if (fixed := constants(done)) else "")
    title = (
        f"{name} on {spec['dataset']}, smoothed with sigma {spec['sigma']:g}, "
        f"{plural(len(done.certificates), 'image')}, {spec['n']:,} draws, alpha {spec['alpha']:g}; "
        f"no radius above {done.ceiling:.3g} can be certified with so many draws, {done.abstained} abstained"
    )
    origin = (
        f"{spec['source']}, {spec['n0']:,} draws to choose, seed {spec['seed']}, rbfbench {made.rbfbench}, "
        f"torch {made.torch}, {made.device}"
    )
    return [title, origin, *([unfinished_certificates(done)] if done.status == "started" else [])]


def sweep_caption(sweep: Sweep) -> list[str]:
    """Model, images and budget of a sweep, then where it was made, what is missing, and which rows met fewer images."""
    title, *origin = [text.plain for text in caption(sweep.points[0].run, swept=sweep.over)]
    if sweep.status == "started":
        origin.append(unfinished(sweep))
    return [f"{title}: accuracy by {sweep.over}", *origin, *([FEWER] if capped(sweep.points) else [])]


def markdown(report: Report) -> str:
    """Everything but pictures, for a pull request or a wiki."""
    parts = []
    if report.comparison:
        parts.append(compared_cells(report.comparison).markdown() + "\n" + "\n".join(reading(report.comparison)))
    for entry in report.entries:
        title, *origin = [text.plain for text in caption(entry.run)]
        doubts = [f"- {text.plain}" for text in warnings(entry.run) if text.plain]
        terms = [f"- {term}: {text}" for term, text in explain(entry.run)]
        blocks = (f"## {title}", headline(entry.run), *origin, run_grid(entry.run).markdown())
        parts.append(
            "\n\n".join([*blocks, *(["\n".join(doubts)] if doubts else []), "\n".join(terms), f"`{entry.command}`"])
        )
    for sweep in report.sweeps:
        title, *origin = sweep_caption(sweep)
        doubts = [f"- ! {reason}" for reason in distrust(sweep)]
        grid = sweep_grid(sweep).markdown()
        parts.append("\n\n".join([f"## {title}", *origin, grid, *(["\n".join(doubts)] if doubts else [])]))
    for made in report.certifications:
        title, *origin = certificate_caption(made.done)
        blocks = (f"## {title}", *origin, certificate_grid(made.done).markdown(), f"`{made.command}`")
        parts.append("\n\n".join(blocks))
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def latex(report: Report) -> str:
    """Tables for a paper; they want the booktabs package."""
    tables = [("\n".join(reading(report.comparison)), compared_cells(report.comparison))] if report.comparison else []
    for entry in report.entries:
        said = [text.plain for text in (*caption(entry.run), *warnings(entry.run)) if text.plain]
        tables.append(("\n".join(said), run_grid(entry.run)))
    for sweep in report.sweeps:
        doubts = [f"! {reason}" for reason in distrust(sweep)]
        tables.append(("\n".join([*sweep_caption(sweep), *doubts]), sweep_grid(sweep)))
    tables += [("\n".join(certificate_caption(c.done)), certificate_grid(c.done)) for c in report.certifications]
    return "\n".join("".join(f"% {line}\n" for line in text.splitlines()) + grid.latex() for text, grid in tables)


def spreadsheet(report: Report) -> str:
    """CSV: a line for each row of each run and for each certified radius, numbers as they were measured.

    The status is that of the run, of the certificates, or of the sweep where that was stopped; "checks" are the codes
    of those that fired in the run.
    """
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    runs = [(entry.run, entry.run.status) for entry in report.entries]
    alone = [run for run, _ in runs]
    runs += [
        (point.run, "started" if sweep.status == "started" else point.run.status)
        for sweep in report.sweeps
        for point in sweep.points
        if point.run not in alone
    ]
    for run, status in runs:
        fired = " ".join(check.code for check in run.checks if check.fired)
        about = {"model": run.model.get("name"), "constants": constants(run), "status": status, "checks": fired}
        about |= {name: run.spec[name] for name in ("dataset", "seed", "norm", "eps")}
        for line in [line for section in sections(run) for line in section]:
            writer.writerow(about | {"row": line.label} | _numbers(line.score) | _of_row(line.attack))
    for done in [made.done for made in report.certifications]:
        about = {"model": done.model["name"], "constants": constants(done), "norm": "l2", "status": done.status}
        about |= {name: done.spec[name] for name in ("dataset", "seed")}
        for certified in done.certified:
            row = {"eps": certified.radius, "row": f"certified, sigma {done.spec['sigma']:g}", "kind": "certificate"}
            writer.writerow(about | row | _numbers(certified))
    return buffer.getvalue()


def _numbers(score: Score) -> dict[str, object]:
    low, high = score.ci95
    return {"accuracy": score.accuracy, "ci95_low": low, "ci95_high": high, "k": score.k, "n": score.n}


def _of_row(row: AttackRow | None) -> dict[str, object]:
    return {"kind": row.category} | {name: getattr(row, name) for name in OF_ATTACK} if row else {}
