"""Pictures from plain arrays: grids of labelled images, and filters with their variances.

Images are (H, W, C) in [0,1]. Sizes follow from the content alone, in inches, so that text is never cut or shrunk.
Colours are of the Okabe-Ito set and cividis, and no meaning is carried by colour alone.
"""

from __future__ import annotations

import io
import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from rbfbench.errors import UsageError, unknown_name
from rbfbench.reporting.words import titled
from rbfbench.results.atomic import write_atomic
from rbfbench.results.records import Score

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

FORMATS = (".png", ".svg")
DPI = 150

RIGHT, WRONG = "#0072B2", "#D55E00"  # Okabe-Ito blue and vermillion
# Colour of the Okabe-Ito set, marker, dashes. The other lines take turns in each; 5 colours and 9 markers come together
# again after 45 lines.
CLEAN, WORST = ("#000000", "o", "-"), (WRONG, "X", "-")
COLOURS = (RIGHT, "#009E73", "#E69F00", "#CC79A7", "#56B4E9")
MARKERS = ("s", "^", "D", "v", "P", "<", "*", ">", "p")
DASHES = ("--", ":", "-.")
SYMBOLS = {True: "✓", False: "✗"}

IMAGE = 1.25  # inches of one image in a grid
GAP = 0.12
LINE = 0.165  # of one line of text
NAMES = 1.15  # for the names of rows
LEAST_WIDTH = 5.0
LETTERS_AN_INCH = 17.0  # of the caption
HEADING = 15  # bold letters above an image


@dataclass(frozen=True)
class Panel:
    """One image of a grid.

    Attributes:
        image: (H, W, 1 or 3), values in [0,1]; others are clipped.
        text: Line below it.
        right: Whether the model is right on it, shown by a symbol and a frame; None shows neither.
    """

    image: Array
    text: str = ""
    right: bool | None = None


@dataclass(frozen=True)
class GridRow:
    """A row of a grid; None leaves a place empty."""

    name: str
    panels: Sequence[Panel | None]


def check_file(path: Path, option: str = "--out") -> None:
    """Refuse before the work what could not be written after it.

    Raises:
        UsageError: The ending is no known format, or the place cannot hold a file.
    """
    if path.suffix.lower() not in FORMATS:
        raise unknown_name("picture format", path.suffix, FORMATS)
    check_place(option, path)


def check_place(option: str, path: Path) -> None:
    """Refuse a path, given with `option`, that can hold no file.

    Raises:
        UsageError: It is a folder, or lies in none, or in one that is not ours to write.
    """
    if path.is_dir():
        why = "it is a folder"
    elif not path.parent.is_dir():
        why = f"there is no folder {path.parent}"
    elif not os.access(path.parent, os.W_OK):
        why = f"the folder {path.parent} may not be written"
    else:
        return
    raise UsageError(f"{option} {path} cannot be written", why, "choose another file")


def write_figure(figure: Figure, path: Path) -> tuple[int, int]:
    """Write a picture, whole or not at all, the same bytes for the same figure.

    Args:
        figure: What a function of this module drew.
        path: Ends in .png or .svg.

    Returns:
        Width and height in pixels at `DPI`.

    Raises:
        LoadError: It cannot be written.
    """
    write_atomic(path, drawn(figure, path.suffix.lower().removeprefix(".")))
    width, height = figure.get_size_inches()
    return int(width * DPI + 1e-6), int(height * DPI + 1e-6)  # matplotlib cuts off what is left of a pixel


def drawn(figure: Figure, kind: str) -> bytes:
    """A picture as "png" or "svg", the same bytes for the same figure."""
    from matplotlib import rc_context

    buffer = io.BytesIO()
    # Text stays text in SVG: it can be searched, and read aloud.
    with rc_context({"svg.hashsalt": "rbfbench", "svg.fonttype": "none"}):
        figure.savefig(buffer, format=kind, dpi=DPI, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


def image_grid(rows: Sequence[GridRow], columns: Sequence[str], caption: str) -> Figure:
    """Images in rows and columns, each with its line of text, above a caption.

    Args:
        rows: As many panels each as there are columns.
        columns: Headings, wrapped to the width of an image.
        caption: Wrapped to the width of the picture.
    """
    columns = [textwrap.fill(heading, HEADING) for heading in columns]
    head = LINE * max(heading.count("\n") + 1 for heading in columns) + 0.1
    pitch = IMAGE + LINE + GAP
    width = max(LEAST_WIDTH, NAMES + len(columns) * (IMAGE + GAP) + GAP)
    figure, top = _page(width, head + len(rows) * pitch, caption)
    for j, heading in enumerate(columns):
        x = NAMES + j * (IMAGE + GAP) + IMAGE / 2
        _text(figure, x, top - head + 0.06, heading, ha="center", va="bottom", weight="bold")
    for i, row in enumerate(rows):
        y = top - head - i * pitch - IMAGE
        _text(figure, NAMES - 0.1, y + IMAGE / 2, textwrap.fill(row.name, 15), ha="right", va="center")
        for j, panel in enumerate(row.panels):
            if panel is not None:
                _draw(figure, NAMES + j * (IMAGE + GAP), y, panel)
    return figure


def rows_before_and_after(
    name: str, clean: tuple[Array, Array], attacked: Sequence[tuple[Array, Array]], *, gain: float
) -> list[GridRow]:
    """Four rows for one image: inputs, what was changed, reconstructions, what that changed; distances below them.

    Args:
        name: Of the image.
        clean: The image and its reconstruction, the first column.
        attacked: Attacked versions and their reconstructions, a column each.
        gain: Magnification of differences, which are drawn around mid-grey.
    """
    rows = []
    for step, title in enumerate((f"{name}: before reconstruction", "after reconstruction")):
        origin = clean[step]
        changes = [pair[step] - origin for pair in attacked]
        texts = [f"distance {_length(change):.2f}" for change in changes]
        if step == 1:
            before = [_length(pair[0] - clean[0]) for pair in attacked]
            shares = [_length(change) / max(was, 1e-12) for change, was in zip(changes, before, strict=True)]
            texts = [f"{text} ({share:.0%})" for text, share in zip(texts, shares, strict=True)]
        panels = [Panel(pair[step], text) for pair, text in zip(attacked, texts, strict=True)]
        rows.append(GridRow(title, [Panel(origin), *panels]))
        rows.append(GridRow(f"change, x{gain:g}", [None, *[Panel(0.5 + gain * change) for change in changes]]))
    return rows


def _length(change: Array) -> float:
    return math.sqrt(float((change**2).sum()))


def magnification(differences: Sequence[Array]) -> float:
    """A round number of times, at least once, that takes most of the differences close to +-1/2."""
    import numpy as np

    # The median over attacks: sparse ones change few pixels by much, dense ones all by little.
    largest = float(np.median([np.quantile(np.abs(difference), 0.98) for difference in differences]))
    exact = max(1.0, 0.5 / max(largest, 1e-6))
    unit = 10.0 ** math.floor(math.log10(exact))
    return float(unit * math.floor(exact / unit))


def filter_tiles(means: Array, variances: Array, use: Array, caption: str) -> Figure:
    """Filter means as tiles, first to last by rows, framed in the colour of their sigma^2; its scale is below.

    Args:
        means: (K, h, w, 1 or 3) in [0,1].
        variances: (K,) sigma^2.
        use: (K,) share of the reconstruction, written below the tiles where they are few enough to have room.
        caption: Wrapped to the width of the picture.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Rectangle

    roomy = len(means) <= 60
    across = min(len(means), 10 if roomy else 20)
    size, gap, line = (0.55, 0.22, 2 * LINE) if roomy else (0.28, 0.13, 0.0)
    down = math.ceil(len(means) / across)
    scale = 0.65
    width = max(LEAST_WIDTH, across * (size + gap) + 0.4)
    figure, top = _page(width, down * (size + gap + line) + scale + 0.2, caption)
    highest = float(variances.max())
    # Filters of (almost) no variance would take the scale to 1e-20; three decades tell the others apart.
    norm = LogNorm(max(float(variances.min()), highest * 1e-3, 1e-30), max(highest, 2e-30))
    colours = colormaps["cividis"]
    left = (width - across * (size + gap) + gap) / 2
    for k, mean in enumerate(means):
        x, y = left + k % across * (size + gap), top - 0.1 - k // across * (size + gap + line) - size
        axes = _axes(figure, x, y, size, size)
        _show(axes, mean)
        axes.axis("off")
        # White between tile and frame: next to each other, their colours would mix in the eye.
        frame = Rectangle((-0.12, -0.12), 1.24, 1.24, fill=False, transform=axes.transAxes, clip_on=False)
        frame.set_edgecolor(colours(norm(float(variances[k]))))
        frame.set_linewidth(3.0 if roomy else 2.2)
        axes.add_patch(frame)
        if roomy:
            words = f"σ² {variances[k]:.2g}\n{use[k]:.1%}"
            _text(figure, x + size / 2, y - 0.11, words, ha="center", va="top", size=6.5)
    bar = _axes(figure, 0.2 * width, top - down * (size + gap + line) - scale + 0.2, 0.6 * width, 0.12)
    extend = "min" if variances.min() < highest * 1e-3 else "neither"
    figure.colorbar(ScalarMappable(norm, colours), cax=bar, orientation="horizontal", extend=extend)
    bar.tick_params(labelsize=7.5)
    bar.set_title("frame: filter variance σ²", fontsize=8, pad=3)
    return figure


def curves(over: str, values: Sequence[float], lines: Mapping[str, Sequence[Score | None]], caption: str) -> Figure:
    """Accuracies over a quantity, a line each; bands are the intervals of clean and worst case.

    Args:
        over: Name of the quantity.
        values: Where it was measured.
        lines: Name to scores, one a value; None leaves a gap. "clean" and "WORST CASE" are drawn thick.
        caption: Wrapped to the width of the picture.
    """
    height, width = max(3.4, 0.18 * len(lines) + 0.7), 6.4  # the legend is beside the axes
    figure, top = _page(width, height, caption)
    axes = _axes(figure, 0.6, top - height + 0.45, width - 2.5, height - 0.55)
    looks = {"clean": CLEAN, "WORST CASE": WORST}
    others = [name for name in lines if name not in looks]
    turns = zip(cycle(COLOURS), cycle(MARKERS), cycle(DASHES), strict=False)  # none ends
    looks |= dict(zip(others, turns, strict=False))
    n = max((score.n for scores in lines.values() for score in scores if score), default=0)
    for name, scores in lines.items():
        colour, marker, dashes = looks[name]
        shown = [(value, score) for value, score in zip(values, scores, strict=True) if score is not None]
        at = [value for value, _ in shown]
        thick = name not in others
        axes.plot(
            at,
            [100 * score.accuracy for _, score in shown],
            color=colour,
            marker=marker,
            linestyle=dashes,
            linewidth=2.4 if thick else 1.2,
            markersize=5,
            label=titled(name, scores, n),
        )
        if thick:
            low, high = ([100 * score.ci95[end] for _, score in shown] for end in (0, 1))
            axes.fill_between(at, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set_ylim(-3, 103)  # markers at 0 and 100 are whole
    axes.set_yticks(range(0, 101, 20))
    if min(values) > 0 and max(values) > 100 * min(values):
        axes.set_xscale("log")
    axes.set_xlabel(over, fontsize=9)
    axes.set_ylabel("accuracy, %", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=8, frameon=False)
    return figure


def _page(width: float, height: float, caption: str) -> tuple[Figure, float]:
    """An empty figure for content of this size (inches), its caption at the foot, and the height of its top."""
    from matplotlib.figure import Figure

    lines = textwrap.wrap(caption, int((width - 0.3) * LETTERS_AN_INCH), break_on_hyphens=False)
    foot = LINE * len(lines) + 0.25
    figure = Figure(figsize=(width, height + foot + 0.1), facecolor="white")
    _text(figure, 0.15, foot - 0.1, "\n".join(lines), ha="left", va="top")
    return figure, height + foot


def _text(figure: Figure, x: float, y: float, words: str, *, size: float = 8, **style: str) -> None:
    """Text at a place in inches. A dollar sign or underscore in a file name is no mathematics."""
    width, height = figure.get_size_inches()
    figure.text(x / width, y / height, words, fontsize=size, parse_math=False, linespacing=1.3, **style)  # type: ignore[arg-type]


def _axes(figure: Figure, x: float, y: float, width: float, height: float) -> Axes:
    """Axes at a place in inches."""
    across, up = figure.get_size_inches()
    return figure.add_axes((x / across, y / up, width / across, height / up))


def _show(axes: Axes, image: Array) -> None:
    shown = image.clip(0, 1)
    grey = {"cmap": "gray", "vmin": 0, "vmax": 1} if shown.shape[2] == 1 else {}
    axes.imshow(shown[..., 0] if grey else shown, interpolation="nearest", **grey)  # type: ignore[arg-type]
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("0.6")
        spine.set_linewidth(0.5)


def _draw(figure: Figure, x: float, y: float, panel: Panel) -> None:
    axes = _axes(figure, x, y, IMAGE, IMAGE)
    _show(axes, panel.image)
    words = panel.text
    if panel.right is not None:
        words = f"{SYMBOLS[panel.right]} {words}"
        for spine in axes.spines.values():
            spine.set_color(RIGHT if panel.right else WRONG)
            spine.set_linewidth(2)
            spine.set_linestyle("-" if panel.right else (0, (3, 1.5)))
    _text(figure, x + IMAGE / 2, y - 0.05, words, ha="center", va="top", size=7.5)
