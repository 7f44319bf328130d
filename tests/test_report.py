"""Reports: the numbers of the run, whole and readable, as a page, Markdown, CSV and LaTeX."""

from __future__ import annotations

import base64
import csv
import io
import json
import random
import re
import resource
import shlex
import shutil
import subprocess
import sys
import tracemalloc
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from rbfbench.cli import cli
from rbfbench.errors import IncompleteError, LoadError, UsageError
from rbfbench.reporting.gallery import gallery, picture
from rbfbench.reporting.notes import QUESTIONS
from rbfbench.results.certificates import Certification
from rbfbench.results.intervals import score
from rbfbench.results.records import AttackRow, Environment, Run, Sample, WorstCase
from rbfbench.results.store import RunFolder, example_file, read_run
from rbfbench.results.sweep import Sweep

DIGITS = ("--dataset", "digits", "--limit", "20", "--device", "cpu")


def rbfbench(*words: str):
    return CliRunner().invoke(cli, [str(word) for word in words])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Finished runs of the command line on the digits: two models, two radii, a sweep, certificates."""
    place = tmp_path_factory.mktemp("runs")
    attack = ("attack", *DIGITS, "--suite", "quick")
    for name, words in {
        "cnn": (*attack, "--model", "cnn", "--eps", "0.1"),
        "rcnn+": (*attack, "--model", "rcnn+", "--eps", "0.1"),
        "wide": (*attack, "--model", "cnn", "--eps", "0.2"),
        "nearest": ("attack", *DIGITS, "--norm", "l2", "--eps", "1", "--model", "cnn", "--attack", "deepfool"),
        "sweep": ("sweep", *DIGITS, "--over", "eps", "--values", "0.05,0.1", "--model", "cnn", "--attack", "fgsm"),
        "certified": ("certify", *DIGITS, "--model", "cnn", "--sigma", "0.25", "--n", "200", "--radii", "0.2,9"),
    }.items():
        done = rbfbench(*words, "--out", place / name)
        assert done.exit_code == 0, done.output
    return place


def written(folders: Path, out: Path, *names: str) -> str:
    done = rbfbench("report", *(folders / name for name in names), "--out", out)
    assert done.exit_code == 0, (done.output, done.exception)
    return out.read_text(encoding="utf-8")


class Page(HTMLParser):
    """Text and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.inside: dict[str, str] = {}
        self.open: list[str | None] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "line", "circle", "rect", "br", "link"):
            self.open.append(dict(attrs).get("id"))

    def handle_endtag(self, tag):
        if self.open and tag not in ("line", "circle", "rect"):
            self.open.pop()

    def handle_data(self, data):
        self.texts.append(data)
        if self.open and self.open[-1]:
            self.inside[self.open[-1]] = self.inside.get(self.open[-1], "") + data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def page(folders, tmp_path_factory):
    return written(folders, tmp_path_factory.mktemp("page") / "report.html", "cnn", "rcnn+")


# the page -------------------------------------------------------------------------------------------------------------


def test_the_page_needs_nothing_but_itself(page):
    parsed = Page(page)
    assert not parsed.of("script")
    assert not parsed.of("link")
    for _, attributes in parsed.tags:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#"))
        assert not [name for name in attributes if name.startswith("on")]
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_the_raw_run_is_in_the_page_whole(page, folders):
    parsed = Page(page)
    for number, name in enumerate(("cnn", "rcnn+"), start=1):
        embedded = msgspec.json.decode(parsed.inside[f"run-json-{number}"], type=Run)
        assert embedded == read_run(folders / name)


def test_every_number_of_the_table_is_in_the_page(page, folders):
    text = " ".join(Page(re.sub(r"<pre id=.*?</pre>", "", page, flags=re.DOTALL)).texts)
    for name in ("cnn", "rcnn+"):
        run = read_run(folders / name)
        for row in [run.clean, run.worst_case, *run.attacks]:
            assert f"{100 * row.accuracy:.1f}%" in text
            assert f"{100 * row.ci95[0]:.1f}-{100 * row.ci95[1]:.1f}" in text
        for check in run.checks:
            assert check.code in text
            assert QUESTIONS[check.code] in text
            assert (check.detail in text) == check.fired


def test_every_check_of_the_program_has_its_question():
    source = "".join(path.read_text() for path in Path("rbfbench").rglob("*.py"))
    assert set(re.findall(r'code="([a-z0-9-]+)"', source)) == set(QUESTIONS)


def test_the_gallery_shows_what_was_kept_the_fooled_first(page, folders):
    with np.load(example_file(folders / "cnn", "pgd/static")) as file:
        kept = {name: file[name] for name in file.files}
    block = page[page.index("<summary>pgd/static</summary>") :]
    block = block[: block.index("</details>")]
    pictures = re.findall(r'<img src="data:image/png;base64,([^"]+)"', block)
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", block)
    order = np.argsort(kept["correct"], kind="stable")[:6]
    assert len(pictures) == 3 * len(captions) == 18
    for shown, i in enumerate(order):
        for encoded, image in zip(pictures[3 * shown : 3 * shown + 2], (kept["x"][i], kept["x_adv"][i]), strict=True):
            pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))), np.float64) / 255
            assert np.abs(pixels - image[0]).max() <= 0.5 / 255 + 1e-9
        difference = np.asarray(Image.open(io.BytesIO(base64.b64decode(pictures[3 * shown + 2]))), np.float64) / 255
        delta = kept["x_adv"][i] - kept["x"][i]
        assert np.abs(difference - (0.5 + delta[0] * 0.5 / np.abs(delta).max())).max() <= 0.5 / 255 + 1e-6
        wrong = kept["prediction"][i] != kept["label"][i]
        assert captions[shown].startswith("✗" if wrong else "✓")
        assert f"seen as {kept['classes'][kept['prediction'][i]]}" in captions[shown]


def test_models_on_the_same_images_stand_side_by_side_and_radii_make_a_curve(folders, tmp_path):
    assert "Side by side" in written(folders, tmp_path / "two.html", "cnn", "rcnn+")
    radii = written(folders, tmp_path / "radii.html", "cnn", "wide")
    assert "Side by side" not in radii
    assert "cnn on digits, linf, 20 images, seed 0: accuracy by eps" in radii
    curve = re.search(r'class="curve" src="data:image/svg\+xml;base64,([^"]+)"', radii)
    assert "WORST CASE" in base64.b64decode(curve[1]).decode()


@pytest.mark.parametrize(("name", "file"), [("sweep", "sweep.json"), ("certified", "certify.json")])
def test_the_file_of_a_folder_stands_for_it(name, file, folders, tmp_path):
    texts = [written(folders, tmp_path / "a.md", given) for given in (name, f"{name}/{file}")]
    assert texts[0] == texts[1]


def test_sweeps_certificates_and_distances_are_shown(folders, tmp_path):
    text = written(folders, tmp_path / "all.html", "sweep", "certified", "nearest")
    certification = json.loads((folders / "certified" / "certify.json").read_text())
    for row in certification["certified"]:
        assert f"<td>{100 * row['accuracy']:.1f}</td>" in text
    assert text.count("above the ceiling") == 1
    assert text.count('class="curve"') == 2
    assert "Accuracy over the radius" in text


def test_a_sweep_is_in_the_page_whole_once(folders, tmp_path):
    parsed = Page(written(folders, tmp_path / "both.html", "sweep", "cnn", "wide"))  # cnn and wide make another
    document = msgspec.json.decode((folders / "sweep" / "sweep.json").read_bytes(), type=Sweep)
    assert msgspec.json.decode(parsed.inside["sweep-json-1"], type=Sweep) == document
    assert "sweep-2" in parsed.inside
    assert "sweep-json-2" not in parsed.inside
    assert {"run-json-1", "run-json-2"} <= parsed.inside.keys()


def test_names_from_outside_cannot_become_markup(folders, tmp_path):
    shutil.copytree(folders / "cnn", tmp_path / "run")
    document = json.loads((tmp_path / "run" / "run.json").read_text())
    document["model"]["name"] = "<img src=x onerror=alert(1)>"
    (tmp_path / "run" / "run.json").write_text(json.dumps(document))
    text = written(tmp_path, tmp_path / "r.html", "run")
    assert "<img src=x" not in text
    assert "&lt;img src=x" in text


# other spellings ------------------------------------------------------------------------------------------------------


def test_csv_holds_the_numbers_as_they_are(folders, tmp_path):
    text = written(folders, tmp_path / "r.csv", "cnn", "rcnn+", "sweep", "certified")
    rows = list(csv.DictReader(io.StringIO(text)))
    for name in ("cnn", "rcnn+"):
        run = read_run(folders / name)
        for row in run.attacks:
            (line,) = [r for r in rows if r["row"] == row.id and r["model"] == name and r["eps"] == "0.1"][:1]
            assert float(line["accuracy"]) == row.accuracy
            assert (float(line["ci95_low"]), float(line["ci95_high"])) == row.ci95
            assert int(line["n"]) == row.n
            assert float(line["forwards"]) == row.forwards
    certified = [line for line in rows if line["kind"] == "certificate"]
    assert len(certified) == len(json.loads((folders / "certified" / "certify.json").read_text())["certified"])
    assert sum(line["row"] == "fgsm/static" and line["eps"] == "0.05" for line in rows) == 1


def test_rows_of_a_csv_are_told_apart(tmp_path):
    """Runs that differ in a constant of the defence, or in the seed, have no two rows alike."""
    runs = {"a": ("--beta2", "1"), "b": ("--beta2", "1.5"), "c": ("--beta2", "1", "--seed", "7")}
    words = ["attack", "--model", "rcnn", "--dataset", "digits", "--limit", "4", "--eps", "0.1", "--attack", "fgsm"]
    for name, more in runs.items():
        done = CliRunner().invoke(cli, [*words, *more, "--out", str(tmp_path / name)])
        assert done.exit_code == 0, done.output
    rows = list(csv.DictReader(io.StringIO(written(tmp_path, tmp_path / "r.csv", *runs))))
    keys = [tuple(row[name] for name in ("model", "constants", "seed", "norm", "eps", "row")) for row in rows]
    assert len(set(keys)) == len(keys) == 3 * len({row["row"] for row in rows})
    assert {row["constants"] for row in rows} == {"beta1 25, beta2 1, m 10", "beta1 25, beta2 1.5, m 10"}


def test_certificates_of_several_constants_are_told_apart_and_can_be_made_again(tmp_path):
    asked = ("certify", "--model", "rcnn+", *DIGITS, "--limit", "2", "--n", "20", "--n0", "5", "--alpha", "0.01")
    fixed = ("--beta2", "0", "--radii", "0.1,0.2", "--seed", "3")
    for name, more in {"default": (), "fixed": fixed}.items():
        done = rbfbench(*asked, *more, "--out", tmp_path / name)
        assert done.exit_code == 0, done.output
        assert ("beta1 25, beta2 0, m" in " ".join(done.stdout.split())) == (name == "fixed")
    runs = ("default", "fixed")
    rows = list(csv.DictReader(io.StringIO(written(tmp_path, tmp_path / "r.csv", *runs))))
    assert len({row["constants"] for row in rows}) == 2
    assert "beta2 0," in rows[-1]["constants"]
    markdown = written(tmp_path, tmp_path / "r.md", *runs)
    assert len({line for line in markdown.splitlines() if line.startswith("## ")}) == 2
    text = written(tmp_path, tmp_path / "r.html", *runs)
    parsed = Page(text)
    for number, name in enumerate(runs, start=1):
        document = msgspec.json.decode((tmp_path / name / "certify.json").read_bytes(), type=Certification)
        assert msgspec.json.decode(parsed.inside[f"certify-json-{number}"], type=Certification) == document
        made = document.environment
        assert f"seed {document.spec['seed']}, rbfbench {made.rbfbench}, torch {made.torch}" in text
    commands = [line.strip("`") for line in markdown.splitlines() if line.startswith("`rbfbench certify")]
    assert all(command in parsed.texts for command in commands)
    for command, name in zip(commands, runs, strict=True):
        again = json.loads(rbfbench(*shlex.split(command)[1:], "--device", "cpu", "--json", "-").stdout)
        before = json.loads((tmp_path / name / "certify.json").read_text())
        assert (again["spec"], again["certificates"]) == (before["spec"], before["certificates"])


def test_markdown_and_latex_hold_the_table(folders, tmp_path):
    run = read_run(folders / "cnn")
    markdown = written(folders, tmp_path / "r.md", "cnn")
    row = run.attacks[0]
    cells = f"{100 * row.accuracy:.1f} | {100 * row.ci95[0]:.1f}-{100 * row.ci95[1]:.1f} | {row.k:g}/{row.n}"
    assert f"| {row.id} | {row.category} | {cells} |" in markdown
    table = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    assert "rbfbench attack --model cnn" in markdown
    latex = written(folders, tmp_path / "r.tex", "cnn", "sweep", "certified")
    assert latex.count(r"\begin{tabular}") == latex.count(r"\bottomrule") == 3
    uncommented = [line for line in latex.splitlines() if not line.startswith("%")]
    assert not [line for line in uncommented if re.search(r"(?<!\\)[%#]", line)]


PDFLATEX = shutil.which("pdflatex")


@pytest.mark.skipif(PDFLATEX is None, reason="no pdflatex on this machine")
def test_latex_compiles(folders, tmp_path):
    latex = written(folders, tmp_path / "r.tex", "cnn")
    whole = r"\documentclass{article}\usepackage{booktabs}\begin{document}" + latex + r"\end{document}"
    (tmp_path / "whole.tex").write_text(whole)
    done = subprocess.run([PDFLATEX, "-interaction=batchmode", "whole.tex"], cwd=tmp_path, check=False)
    assert done.returncode == 0


# what cannot be shown -------------------------------------------------------------------------------------------------


def refused(*words):
    return rbfbench("report", *words).exception


def test_what_cannot_be_shown_is_told(folders, tmp_path):
    assert isinstance(refused(folders / "cnn", "--out", tmp_path / "r.pdf"), UsageError)
    assert isinstance(refused(folders / "cnn", "--out", tmp_path / "none" / "r.html"), LoadError)
    assert isinstance(refused(tmp_path / "nowhere", "--out", tmp_path / "r.html"), LoadError)
    assert rbfbench("report").exit_code == 2
    (tmp_path / "begun" / "cells").mkdir(parents=True)
    assert isinstance(refused(tmp_path / "begun", "--out", tmp_path / "r.html"), IncompleteError)
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.json").write_text('{"schema_version": 1, "over"')
    assert "sweep.json" in str(refused(tmp_path / "sweep", "--out", tmp_path / "r.html"))
    assert not (tmp_path / "r.html").exists()


def test_damaged_examples_are_named_and_old_ones_left_out(folders, tmp_path):
    shutil.copytree(folders / "cnn", tmp_path / "run")
    file = example_file(tmp_path / "run", "fgsm/static")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    error = refused(tmp_path / "run", "--out", tmp_path / "r.html")
    assert isinstance(error, LoadError)
    assert "fgsm-static.npz" in str(error)
    with np.load(io.BytesIO(whole)) as arrays:
        np.savez(file, x_adv=arrays["x_adv"], position=arrays["position"])
    text = written(tmp_path, tmp_path / "r.html", "run")
    assert "<summary>fgsm/static</summary>" not in text
    assert "<summary>pgd/static</summary>" in text


def test_a_gallery_of_many_examples_reads_those_that_it_shows(tmp_path):
    n, shape = 4_000, (3, 32, 32)
    x = np.broadcast_to((np.arange(n, dtype=np.float32) % 250 / 255)[:, None, None, None], (n, *shape)).copy()
    x[:, :, :16] *= 0.5
    correct = np.ones(n)
    correct[[3_999, 7, 2_000]] = 0
    file = example_file(tmp_path, "pgd/static")
    file.parent.mkdir()
    label = np.zeros(n, np.int64)
    np.savez_compressed(
        file, x=x, x_adv=1 - x, label=label, prediction=label + 1, correct=correct, position=np.arange(n),
        classes=np.array(["cat", "dog"]),
    )  # fmt: skip
    tracemalloc.start()
    try:
        shown = gallery(tmp_path, ["pgd/static", "fgsm/static"])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert list(shown) == ["pgd/static"]
    assert peak < x.nbytes  # of twice as much; zipfile skips in steps of 16 MiB
    assert [one.position for one in shown["pgd/static"]] == [7, 2_000, 3_999, 0, 1, 2]
    for one in shown["pgd/static"]:
        assert (one.clean, one.adversarial) == (picture(x[one.position]), picture(1 - x[one.position]))
        assert (one.label, one.answer, one.fooled) == ("cat", "dog", True)


# speed ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A run of 20 attacks on 10,000 images."""
    n, rng = 10_000, random.Random(0)
    folder = RunFolder(tmp_path_factory.mktemp("large") / "run")
    samples, rows = [], []
    for number in range(20):
        correct = [float(rng.random() < 0.5) for _ in range(n)]
        found = score(sum(correct), n)
        numbers = {"accuracy": found.accuracy, "k": found.k, "n": n, "ci95": found.ci95}
        rows.append(
            AttackRow(
                **numbers,
                id=f"a{number}/static",
                name=f"a{number}",
                view="static",
                category="white-box",
                norm="linf",
                eps=0.1,
                decisions=1,
                invalid=0,
                unknown=0,
                forwards=1,
                backwards=1,
                wall_s=1,
                params={},
                accuracy_8bit=found.accuracy,
                wrong_any=None,
                attacked=n,
            )
        )
        samples += [
            Sample(
                attack=f"a{number}/static",
                image=f"image-{i}",
                label=0,
                clean_prediction=0,
                adversarial_prediction=int(not right),
                clean_correct=1.0,
                correct=right,
                correct_8bit=right,
                wrong_any=not right,
                selection=right - 0.5,
                status="ok",
                linf=0.1,
                l2=0.2,
                l1=0.3,
                forwards=1,
                backwards=1,
            )
            for i, right in enumerate(correct)
        ]
    clean = score(n, n)
    spec = {"model": "m", "dataset": "d", "norm": "linf", "eps": 0.1, "eps_text": "0.1", "suite": "", "rows": []}
    run = Run(
        status="complete",
        spec=spec | {"limit": n, "seed": 0, "passes": 1, "source": "s", "available": n},
        spec_digest="x",
        model_digest="y",
        data_digest="z",
        model={"name": "m", "stochastic": False},
        environment=Environment(rbfbench="1", python="3", torch="2", device="cpu", threads=1, git=None),
        clean=clean,
        attacks=rows,
        worst_case=WorstCase(accuracy=0.0, k=0, n=n, ci95=score(0, n).ci95, strongest="a0/static"),
        null_attack=None,
        checks=[],
    )
    folder.finish(run, samples)
    return folder.path


@pytest.mark.parametrize("command", [["report", "--out", "r.html"], ["check", "--baseline"]], ids=["report", "check"])
def test_stored_runs_are_read_in_two_seconds_without_torch(large, tmp_path, command):
    if command[0] == "check":
        assert rbfbench("baseline", "save", large, tmp_path / "b.json").exit_code == 0
        command = [*command, str(tmp_path / "b.json")]
    code = (
        "import sys\nfrom rbfbench.cli import main\n"
        "try:\n    main()\nfinally:\n    assert 'torch' not in sys.modules, 'torch was loaded'\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    words = [command[0], str(large), *command[1:]]
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr.decode()
    # Seconds of the processor: those of the clock depend on what else the machine does.
    assert (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime) < 2


# in a browser ---------------------------------------------------------------------------------------------------------

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

MEASURE = """
<script>
addEventListener("load", () => {
  const frame = document.querySelector("iframe"), inner = frame.contentDocument, root = inner.documentElement;
  inner.querySelectorAll("details").forEach(each => each.open = true);
  const seen = each => { const box = each.getBoundingClientRect(); return box.width > 0 && box.height > 0; };
  const style = getComputedStyle(inner.body);
  document.title = JSON.stringify({
    wide: root.scrollWidth, room: root.clientWidth,
    broken: [...inner.images].filter(each => each.naturalWidth === 0).length, images: inner.images.length,
    hidden: [...inner.querySelectorAll("h1, h2, h3, td, th, figcaption")]
      .filter(each => each.textContent.trim() && !seen(each)).length,
    stuck: [...inner.querySelectorAll(".scroll")].filter(e => e.scrollWidth > e.clientWidth && e.tabIndex < 0).length,
    reachable: [...inner.querySelectorAll("summary, a, .scroll")].filter(e => e.tabIndex >= 0).length,
    ink: style.color, paper: style.backgroundColor,
  });
});
</script>
"""


def rendered(page: str, place: Path, width: int, *, dark: bool) -> dict:
    """What a browser makes of the page in a window of this width."""
    escaped = page.replace("&", "&amp;").replace('"', "&quot;")
    frame = f'<iframe style="width:{width}px;height:900px;border:0" srcdoc="{escaped}"></iframe>'
    (place / "frame.html").write_text(f"<!doctype html><meta charset=utf-8><title>-</title>{MEASURE}{frame}")
    scheme = "--blink-settings=preferredColorScheme=0" if dark else "--blink-settings=preferredColorScheme=1"
    words = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={place}/profile", scheme]
    done = subprocess.run(
        [CHROMIUM, *words, "--virtual-time-budget=8000", "--dump-dom", (place / "frame.html").as_uri()],
        capture_output=True,
        check=True,
        timeout=120,
    )
    found = re.search(r"<title>(\{.*?\})</title>", done.stdout.decode())
    assert found, done.stderr.decode()[-2000:]
    return json.loads(found[1].replace("&quot;", '"').replace("&amp;", "&"))


def luminance(colour: str) -> float:
    """Relative luminance of "rgb(r, g, b)" (WCAG 2.2)."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@in_a_browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200], ids=["phone", "wide"])
def test_the_page_in_a_browser(folders, tmp_path, width, dark):
    text = written(folders, tmp_path / "r.html", "cnn", "rcnn+", "wide", "nearest", "sweep", "certified")
    found = rendered(text, tmp_path, width, dark=dark)
    assert found["wide"] <= found["room"] <= width, "the page must not scroll sideways"
    assert found["images"] > 100
    assert found["broken"] == 0
    assert found["hidden"] == 0
    assert found["stuck"] == 0, "what scrolls must be reachable by the keyboard"
    assert found["reachable"] > 20
    ink, paper = luminance(found["ink"]), luminance(found["paper"])
    assert (paper < 0.1) == dark
    assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) >= 7
