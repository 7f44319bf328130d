"""`rbfbench figure`: pictures that open, captions with numbers, the table of Claim 1, and every bad input."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from rbfbench.cli import cli
from rbfbench.data import load_data
from rbfbench.defenses import shipped_path
from rbfbench.errors import LoadError, ModelError, RbfbenchError, UsageError
from rbfbench.reporting import figures
from rbfbench.results.records import Score

SVG = "{http://www.w3.org/2000/svg}"

SMALL = {"--dataset": "digits", "--device": "cpu"}


@pytest.fixture
def figure(tmp_path, monkeypatch):
    """Run `rbfbench figure` in this process, in an empty folder and without full data sets."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RBFBENCH_DATA_ROOT", str(tmp_path / "no-data"))

    def run(kind: str, *arguments: str) -> Result:
        small = [word for pair in SMALL.items() for word in pair]
        return CliRunner().invoke(cli, ["figure", kind, *small, *arguments])

    return run


def check_picture(result: Result, path: Path) -> str:
    """The file has the size that the command said; returns the caption."""
    assert result.exit_code == 0, result.output
    first, caption = result.stdout.split("\n", 1)
    said = re.fullmatch(rf"wrote {re.escape(path.name)} \((\d+) x (\d+) pixels\)", first)
    size = tuple(map(int, said.groups()))
    if path.suffix == ".png":
        with Image.open(path) as picture:
            picture.load()
            assert picture.size == pytest.approx(size, abs=1)
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 20
    else:
        root = ET.fromstring(path.read_text())  # noqa: S314  (our own file)
        assert root.tag.endswith("svg")
        assert float(root.get("width").removesuffix("pt")) / 72 * 150 == pytest.approx(size[0], abs=1)
    return caption


# Pictures -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("ending", ["png", "svg"])
def test_filters(figure, tmp_path, ending):
    caption = check_picture(figure("filters", "--out", f"f.{ending}"), tmp_path / f"f.{ending}")
    for words in ("The 17 filter means", "1e-20", "floor 0.001", "beta1 25", "50 images", "weight lies on 7 of them"):
        assert words in caption


def test_the_default_file_is_named_after_the_figure(figure, tmp_path):
    check_picture(figure("filters"), tmp_path / "filters.png")


def test_reconstruction(figure, tmp_path):
    done = figure("reconstruction", "--norm", "l2", "--eps", "0.5", "--index", "3", "--index", "0", "--out", "r.svg")
    caption = check_picture(done, tmp_path / "r.svg")
    assert "Euclidean" in caption
    assert "beta2 1.75" in caption
    drawn = (tmp_path / "r.svg").read_text()
    for words in ("l2 ≤ 0.5", "(index 3):", "reconstruction", "clean"):
        assert words in drawn
    assert len(re.findall(r"distance \d+\.\d\d", drawn)) >= 4


def test_saliency_shows_all_shipped_models_side_by_side(figure, tmp_path):
    caption = check_picture(figure("saliency", "--index", "0", "--beta2", "0", "--out", "s.svg"), tmp_path / "s.svg")
    assert "±3 standard deviations" in caption
    assert "cnn, " in caption
    assert "rcnn (beta1 25, beta2 0)" in caption  # the constant went to the model that has it
    assert "length" in (tmp_path / "s.svg").read_text()


def test_gallery_says_by_symbol_who_is_right(figure, tmp_path):
    radii = ("--norm", "linf", "--eps", "0.9", "--eps", "0.02")
    done = figure("gallery", "--model", "cnn", *radii, "--index", "0", "--out", "g.svg")
    caption = check_picture(done, tmp_path / "g.svg")
    assert "Right of 1: clean: 1; linf ≤ 0.02: 1; linf ≤ 0.9: 0." in caption
    drawn = (tmp_path / "g.svg").read_text()
    assert re.search(r"✓ 7 \d+%", drawn)
    assert re.search(r"✗ [^7] \d+%", drawn)
    assert figures.RIGHT.lower() in drawn
    assert figures.WRONG.lower() in drawn


def test_a_figure_is_the_same_file_every_time(tmp_path):
    for name in ("one.svg", "two.svg", "one.png", "two.png"):
        grid = figures.image_grid([figures.GridRow("one", [figures.Panel(np.eye(4)[..., None])])], ["a"], "caption")
        figures.write_figure(grid, tmp_path / name)
    for ending in ("svg", "png"):
        assert (tmp_path / f"one.{ending}").read_bytes() == (tmp_path / f"two.{ending}").read_bytes()


def test_cifar_has_default_radii_and_colours(figure, tmp_path):
    done = figure("reconstruction", "--dataset", "cifar10", "--beta2", "0", "--norm", "linf", "--out", "c.png")
    check_picture(done, tmp_path / "c.png")
    with Image.open(tmp_path / "c.png") as picture:
        pixels = np.asarray(picture.convert("RGB"), np.int64)
    assert np.abs(pixels[..., 0] - pixels[..., 2]).max() > 50


# Claim 1 --------------------------------------------------------------------------------------------------------------
def test_claim_prints_a_table_and_writes_the_same_numbers(figure, tmp_path):
    asked = ("--claim", "--norm", "l2", "--eps", "0.5", "--limit", "2", "--beta1", "40", "--json", "claim.json")
    done = figure("reconstruction", *asked)
    assert done.exit_code == 0, done.output
    document = json.loads((tmp_path / "claim.json").read_text())
    assert document["n"] == 2
    assert [(r["beta1"], r["kind"]) for r in document["rows"]] == [
        (25.0, "random"), (25.0, "adversarial"), (40.0, "random"), (40.0, "adversarial"),
    ]  # fmt: skip
    for row in document["rows"]:
        assert row["n"] == 2
        assert 0 < row["mean"] <= row["largest"]
        assert f"{row['mean']:.3f}" in done.stdout
    assert "Claim 1" in document["conclusion"]
    assert document["conclusion"] in done.stdout
    assert not (tmp_path / "reconstruction.png").exists()


def test_claim_as_json_alone(figure):
    done = figure(
        "reconstruction", "--claim", "--norm", "linf", "--eps", "0.1", "--limit", "1", "--beta2", "0", "--json", "-"
    )
    assert json.loads(done.stdout)["rows"][0]["norm"] == "linf"


# Bad input ------------------------------------------------------------------------------------------------------------
L2 = ("--norm", "l2", "--eps", "0.5")
BAD = {
    "filters of a plain model": (["filters", "--model", "cnn"], "cnn has no RBF filters"),
    "reconstruction of a plain model": (["reconstruction", *L2, "--model", "cnn"], "cnn has no RBF filters"),
    "claim on a plain model": (["reconstruction", *L2, "--claim", "--model", "cnn"], "cnn has no RBF filters"),
    "knob of a plain model": (["gallery", *L2, "--model", "cnn", "--beta1", "9"], "beta1"),
    "knob of plain models": (["saliency", "--model", "cnn", "--model", "cnn", "--beta2", "9"], "beta2"),
    "index beyond the end": (["gallery", *L2, "--index", "597"], "0 to 596"),
    "negative index": (["saliency", "--index", "-1"], "--index -1"),
    "unknown ending": (["filters", "--out", "f.jpeg"], ".png"),
    "no ending": (["filters", "--out", "f"], "picture format"),
    "no such folder": (["filters", "--out", "nowhere/f.png"], "nowhere"),
    "a folder": (["filters", "--out", "folder.png"], "it is a folder"),
    "json in no folder": (["reconstruction", *L2, "--claim", "--json", "nowhere/c.json"], "nowhere"),
    "unknown norm": (["gallery", "--norm", "linff"], "linf"),
    "radius without norm": (["reconstruction", "--eps", "0.1"], "--norm"),
    "no default radius": (["gallery"], "--eps is missing"),
    "no default radius for all norms": (["reconstruction"], "--norm linf"),
    "radius zero": (["gallery", "--eps", "0"], "above 0"),
    "radius in words": (["gallery", "--eps", "small"], "small"),
    "limit without claim": (["reconstruction", *L2, "--limit", "5"], "--claim"),
    "json without claim": (["reconstruction", *L2, "--json", "-"], "--claim"),
    "limit zero": (["reconstruction", *L2, "--claim", "--limit", "0"], "--limit 0"),
    "picture of a claim": (["reconstruction", *L2, "--claim", "--out", "c.png"], "--out"),
    "image of a claim": (["reconstruction", *L2, "--claim", "--index", "1"], "--index"),
    "unknown data": (["gallery", "--dataset", "digit"], "digits"),
    "unknown model": (["filters", "--model", "rcn"], "rcnn"),
    "no model for own data": (["saliency", "--dataset", "npz:x.npz"], "--model"),
}


@pytest.mark.parametrize("case", BAD, ids=str)
def test_bad_input_is_refused_in_one_line(figure, tmp_path, case):
    (tmp_path / "folder.png").mkdir()
    arguments, named = BAD[case]
    done = figure(*arguments)
    assert isinstance(done.exception, LoadError if case == "json in no folder" else UsageError), done.output
    assert named in str(done.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


def test_an_unknown_figure_is_refused(figure):
    assert figure("filtres").exit_code == 2


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_that_may_not_be_written_is_refused(figure, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    assert isinstance(figure("filters", "--out", "locked/f.png").exception, UsageError)


def test_a_disk_that_fails_leaves_nothing(tmp_path, monkeypatch):
    grid = figures.image_grid([figures.GridRow("one", [figures.Panel(np.zeros((4, 4, 1)))])], ["a"], "caption")
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(LoadError, match="No space left"):
        figures.write_figure(grid, tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


# Drawing --------------------------------------------------------------------------------------------------------------
def test_captions_are_text_not_mathematics(tmp_path):
    caption = "a_b $x$ <&> " * 20
    grid = figures.image_grid([figures.GridRow("$r$", [figures.Panel(np.ones((4, 6, 3)), "a_$")])], ["c$"], caption)
    figures.write_figure(grid, tmp_path / "a.svg")
    words = "".join(ET.fromstring((tmp_path / "a.svg").read_text()).itertext())  # noqa: S314
    assert "a_b $x$ <&>" in words


def test_text_stays_inside_the_picture():
    row = figures.GridRow("automobile (index 9999): before reconstruction", [figures.Panel(np.ones((4, 4, 3)))] * 3)
    grid = figures.image_grid([row, row], ["linf ≤ 0.031"] * 3, "The quick brown fox W " * 30)
    grid.canvas.draw()
    width, height = grid.get_size_inches() * grid.dpi
    for text in grid.texts:
        box = text.get_window_extent()
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= width
        assert box.y1 <= height


def boxes(figure, texts):
    figure.canvas.draw()
    return [text.get_window_extent() for text in texts]


def test_long_headings_do_not_run_into_each_other():
    heads = ["image", "my_first_model_with_a_long_name", "package.nets:build_the_second", "linf ≤ 0.031"]
    row = figures.GridRow("one", [figures.Panel(np.ones((4, 4, 3)))] * len(heads))
    grid = figures.image_grid([row], heads, "caption")
    found = [text for text in grid.texts if text.get_weight() == "bold"]
    assert ["".join(text.get_text().split()) for text in found] == ["".join(head.split()) for head in heads]
    places = sorted(boxes(grid, found), key=lambda box: box.x0)
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(places))
    highest = min(axes.get_window_extent().y1 for axes in grid.axes)
    assert all(highest <= box.y0 and box.y1 <= grid.get_size_inches()[1] * grid.dpi for box in places)


def test_models_given_as_files_are_headed_by_their_names(figure, tmp_path):
    (tmp_path / "kept").mkdir()
    path = tmp_path / "kept" / "mine.safetensors"
    path.write_bytes(shipped_path("cnn", "digits").read_bytes())
    done = figure("saliency", "--model", str(path), "--model", "cnn", "--index", "0", "--out", "s.svg")
    caption = check_picture(done, tmp_path / "s.svg")
    assert str(path) in caption  # in full
    drawn = ["".join(node.itertext()) for node in ET.fromstring((tmp_path / "s.svg").read_text()).iter(f"{SVG}text")]  # noqa: S314
    assert "mine" in drawn


def test_saliency_says_what_became_of_the_noise(figure, tmp_path):
    noisy = figure("saliency", "--model", "rcnn", "--index", "0", "--out", "s.png")
    assert "in one step, through the noise of a decision (m draws)." in check_picture(noisy, tmp_path / "s.png")
    quiet = figure("saliency", "--model", "rcnn", "--beta2", "0", "--index", "0", "--out", "s.png")
    assert "through the noise" not in check_picture(quiet, tmp_path / "s.png")


def test_captions_name_every_constant_that_is_not_the_usual_one(figure, tmp_path):
    knobs = ("--noise-scope", "patch", "--var-floor", "0.01", "--no-clip")
    done = figure("gallery", "--norm", "l2", "--eps", "0.1", "--index", "0", "--m", "2", *knobs, "--out", "g.png")
    expected = "rcnn+ (beta1 25, beta2 1.75, m 2, var_floor 0.01, noise_scope patch, clip False)"
    assert expected in check_picture(done, tmp_path / "g.png")


def test_words_below_images_can_be_read_and_do_not_run_into_each_other(figure, tmp_path, monkeypatch):
    """Black on white: the frame's colours are too light for small letters. Names of classes may be long."""
    drawn = []
    monkeypatch.setattr(figures, "write_figure", lambda picture, path: drawn.append(picture) or (1, 1))
    names = tuple(f"some_class_of_a_long_name_{i}" for i in range(10))
    monkeypatch.setattr(
        "rbfbench.data.load_data", lambda *_, **__: dataclasses.replace(load_data("digits"), classes=names)
    )
    done = figure("gallery", "--model", "cnn", "--norm", "linf", "--eps", "0.02", "--eps", "0.9", "--index", "0")
    assert done.exit_code == 0, done.output
    below = [text for text in drawn[0].texts if text.get_text()[:1] in "✓✗"]
    assert len(below) == 3
    assert {text.get_color() for text in below} == {"black"}
    assert all("%" in text.get_text() for text in below)
    places = sorted(boxes(drawn[0], below), key=lambda box: box.x0)
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(places))


# Curves ---------------------------------------------------------------------------------------------------------------
def score(accuracy):
    return Score(accuracy=accuracy, k=10 * accuracy, n=10, ci95=(max(0, accuracy - 0.1), min(1, accuracy + 0.1)))


def curve_of(values, n_lines):
    lines = {"clean": [score(1.0)] * len(values)}
    lines |= {f"attack-{i}/static": [score(i / n_lines)] * len(values) for i in range(n_lines)}
    return figures.curves("beta2", values, lines | {"WORST CASE": [score(0.0)] * len(values)}, "caption")


def test_many_lines_can_be_told_apart_and_are_all_in_the_legend():
    drawn = curve_of([0, 1, 2], 24)
    (axes,) = drawn.axes
    assert len(axes.lines) == 26
    assert len({(line.get_color(), line.get_marker()) for line in axes.lines}) == 26
    assert len({line.get_marker() for line in axes.lines[:9]}) == 9  # for whom colours are alike
    (box,) = boxes(drawn, [axes.get_legend()])
    width, height = drawn.get_size_inches() * drawn.dpi
    assert 0 <= box.x0 < box.x1 <= width
    assert 0 <= box.y0 < box.y1 <= height


def test_markers_at_the_ends_of_the_scale_are_whole():
    (axes,) = curve_of([0, 1, 2], 1).axes
    low, high = axes.get_ylim()
    assert low < -1
    assert high > 101
    assert [tick for tick in axes.get_yticks() if low <= tick <= high] == [0, 20, 40, 60, 80, 100]


@pytest.mark.parametrize(
    ("values", "scale"), [([1e-20, 1e-6, 1e-3], "log"), ([0, 1, 1.75], "linear"), ([10, 25, 125], "linear")]
)
def test_values_over_decades_are_not_drawn_on_one_spot(values, scale):
    (axes,) = curve_of(values, 1).axes
    assert axes.get_xscale() == scale


def test_filters_of_one_variance_can_be_drawn(tmp_path):
    tiles = figures.filter_tiles(np.ones((2, 3, 3, 1)), np.zeros(2), np.array([0.5, 0.5]), "flat")
    figures.write_figure(tiles, tmp_path / "flat.png")
    assert (tmp_path / "flat.png").stat().st_size > 0


def test_magnification_is_round_and_never_shrinks():
    assert figures.magnification([np.full(9, 0.031)]) == 10
    assert figures.magnification([np.full(9, 0.3)]) == 1
    assert figures.magnification([np.full(9, 0.9)]) == 1
    assert figures.magnification([np.full(9, 0.0012)]) == 400


def test_distances_below_the_images_are_those_of_the_arrays():
    generator = np.random.default_rng(0)
    x, rec, x_adv, rec_adv = generator.random((4, 5, 5, 3))
    rows = figures.rows_before_and_after("cat", (x, rec), [(x_adv, rec_adv)], gain=2)
    before, after = np.linalg.norm(x_adv - x), np.linalg.norm(rec_adv - rec)
    assert rows[0].panels[1].text == f"distance {before:.2f}"
    assert rows[2].panels[1].text == f"distance {after:.2f} ({after / before:.0%})"
    np.testing.assert_allclose(rows[3].panels[1].image, 0.5 + 2 * (rec_adv - rec))


def test_errors_are_ours():
    with pytest.raises(RbfbenchError, match="gif"):
        figures.check_file(Path("a.gif"))


# Models that hide their gradient --------------------------------------------------------------------------------------
FACTORIES = """
from torch import nn

from rbfbench.interop.defended import Defended


class Detached(nn.Linear):
    def forward(self, x):
        return super().forward(x.detach().flatten(1))


def opaque():
    return Detached(64, 10)


def approximated():
    return Defended(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), lambda x: x)
"""
ONE = {"saliency": ("--index", "0"), "gallery": ("--index", "0", "--norm", "linf", "--eps", "0.2")}


@pytest.mark.parametrize("kind", ONE)
def test_a_model_that_no_gradient_passes_is_refused_in_one_line(figure, tmp_path, kind):
    (tmp_path / "mine.py").write_text(FACTORIES)
    done = figure(kind, "--model", "mine.py:opaque", *ONE[kind], "--out", "f.png")
    assert isinstance(done.exception, ModelError), done.output
    assert done.exception.exit_code == 3
    assert "no gradient reaches the input" in str(done.exception)
    assert "\n" not in str(done.exception)
    assert not (tmp_path / "f.png").exists()


@pytest.mark.parametrize("kind", ONE)
def test_a_model_with_a_stand_in_is_seen_through_it(figure, tmp_path, kind):
    (tmp_path / "mine.py").write_text(FACTORIES)
    done = figure(kind, "--model", "mine.py:approximated", *ONE[kind], "--out", "f.png")
    caption = check_picture(done, tmp_path / "f.png")
    assert "mine.py:approximated (gradients through a stand-in)" in caption
