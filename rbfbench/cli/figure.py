"""`rbfbench figure`: see what a defence does, with the numbers in the captions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from rbfbench.cli.options import (
    NORMS,
    check_norm,
    check_writable,
    data_options,
    default_radius,
    device_option,
    knob_options,
    knobs_of,
    parse_eps,
    parse_limit,
    pick_device,
)
from rbfbench.defenses import DEFAULT_MODEL, shipped_path
from rbfbench.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

    from rbfbench.data import Images
    from rbfbench.evaluation.pictures import Decided, Expansion, FilterBank, Reconstructed
    from rbfbench.evaluation.target import Target

F = TypeVar("F", bound=Callable[..., Any])

SIDE_BY_SIDE = ("cnn", "rcnn", "rcnn+")  # models whose loss gradients are compared, where they are shipped
USE_IMAGES = 50  # on which the use of filters is counted
FRACTIONS = (0.5, 1, 2, 4)  # of the default radius, in a gallery
BRIEF = 12  # letters


class Scene(NamedTuple):
    """What every figure needs: the images chosen, their names for people, all images, and the models."""

    chosen: Images
    names: list[str]
    everything: Images
    targets: list[Target]


@click.group()
def figure() -> None:
    """Draw what a defence does: filters, reconstructions, loss gradients, adversarial images.

    \b
    rbfbench figure filters
    rbfbench figure reconstruction --index 7 --out horse.svg
    rbfbench figure reconstruction --claim --limit 32
    rbfbench figure saliency --model cnn --model rcnn --dataset mnist
    rbfbench figure gallery --norm l2 --eps 1 --eps 2 --eps 4
    """  # noqa: D301  (click's sign for lines that stay as they are)


def _common(kind: str, indices: tuple[int, ...] = (), *, models: bool = False) -> Callable[[F], F]:
    """Options that all figures have; `indices` are the default images, none for figures of no image."""

    def decorate(command: F) -> F:
        options: list[Callable[[F], F]] = [
            click.option(
                "--model",
                multiple=models,
                default=None if models else DEFAULT_MODEL,
                show_default=not models,
                help="Shipped name, .safetensors, or module:factory"
                + (f"; may be repeated.  [default: {' '.join(SIDE_BY_SIDE)}]" if models else "."),
            ),
            click.option("--dataset", default="cifar10", show_default=True, help="Name, npz:FILE or folder:DIR."),
            click.option(
                "--out",
                type=click.Path(path_type=Path),
                default=None,
                help=f"Picture to write, .png or .svg.  [default: {kind}.png]",
            ),
            knob_options,
            click.option("--seed", type=int, default=0, show_default=True, help="Seed of everything random."),
            device_option,
            data_options,
        ]
        if indices:
            option = click.option(
                "--index",
                "indices",
                type=int,
                multiple=True,
                help=f"Image to show, counted from 0; may be repeated.  [default: {' '.join(map(str, indices))}]",
            )
            options.insert(2, option)
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@figure.command()
@_common("filters")
def filters(**given: Any) -> None:  # noqa: ANN401  (click passes the options declared above)
    """Filter means with their variances (the paper's figure 2).

    All of them, the most used first.
    """
    out = _out(given, "filters")
    scene = _scene(given, ())

    from rbfbench.evaluation.pictures import filter_bank
    from rbfbench.reporting.figures import filter_tiles

    target, counted = scene.targets[0], scene.everything.head(USE_IMAGES)
    bank = filter_bank(target, counted)
    caption = _filters_caption(target, bank, counted)
    _write(filter_tiles(bank.means, bank.variances, bank.use, caption), out, caption)


@figure.command()
@_common("reconstruction", (0,))
@click.option("--norm", default=None, help=f"Only this norm: {', '.join(NORMS)}.  [default: all]")
@click.option("--eps", "eps_text", default=None, help="Radius for --norm, such as 0.031; the paper's if not given.")
@click.option("--claim", is_flag=True, help="Print how much change passes the reconstruction, in place of a picture.")
@click.option("--limit", default=None, help="With --claim: first N images, or all.  [default: 16]")
@click.option("--json", "json_path", default=None, metavar="FILE", help="With --claim: write it there; - for stdout.")
def reconstruction(**given: Any) -> None:  # noqa: ANN401
    """Before and after reconstruction (figure 3).

    Images attacked under each norm, and distances. With --claim, Claim 1 of the paper is tested instead, on random
    and on adversarial changes.
    """
    norms = [given["norm"]] if given["norm"] else list(NORMS)
    if given["eps_text"] and not given["norm"]:
        raise UsageError("--eps needs --norm", "a radius belongs to one norm", "add --norm linf")
    radii = {norm: _radius(given["dataset"], norm, given["eps_text"]) for norm in norms}
    if given["claim"]:
        _claim(given, radii)
        return
    if stray := [f"--{name}" for name, key in (("limit", "limit"), ("json", "json_path")) if given[key] is not None]:
        raise UsageError(f"{stray[0]} changes nothing", "it belongs to --claim", "add --claim, or leave it out")
    out = _out(given, "reconstruction")
    scene = _scene(given, (0,))

    from rbfbench.cli.progress import ProgressLine
    from rbfbench.evaluation.pictures import rbf_front, reconstructed, reconstructed_clean
    from rbfbench.reporting.figures import image_grid, magnification, rows_before_and_after

    target, images, seed = scene.targets[0], scene.chosen, given["seed"]
    rbf_front(target)
    parts = []
    with ProgressLine() as line:
        for done, (norm, eps) in enumerate(radii.items()):
            line.update(f"attack {norm}", done, len(radii))
            parts.append(reconstructed(target, images, norm=norm, eps=eps, seed=seed))
    x, rec = reconstructed_clean(target, images, seed)
    gain = magnification([part.x_adv - x for part in parts])
    rows = [
        row
        for i, name in enumerate(scene.names)
        for row in rows_before_and_after(
            name, (x[i], rec[i]), [(part.x_adv[i], part.rec_adv[i]) for part in parts], gain=gain
        )
    ]
    caption = _reconstruction_caption(scene, parts, seed)
    heads = ["clean", *[f"{norm} ≤ {eps:.3g}" for norm, eps in radii.items()]]
    _write(image_grid(rows, heads, caption), out, caption)


@figure.command()
@_common("saliency", (0, 1, 4, 7), models=True)
def saliency(**given: Any) -> None:  # noqa: ANN401
    """Loss gradients of several models side by side (figure 5)."""
    out = _out(given, "saliency")
    given["model"] = given["model"] or _shipped_for(given["dataset"])
    scene = _scene(given, (0, 1, 4, 7))

    from rbfbench.evaluation.pictures import CLIP, to_display
    from rbfbench.evaluation.pictures import saliency as gradients
    from rbfbench.reporting.figures import GridRow, Panel, image_grid

    images = scene.chosen
    x = to_display(images.batch(0, len(images))[0])
    maps = [gradients(target, images, given["seed"]) for target in scene.targets]
    rows = [
        GridRow(name, [Panel(x[i]), *[Panel(part.shown[i], f"length {part.lengths[i]:.2g}") for part in maps]])
        for i, name in enumerate(scene.names)
    ]
    noise = ", through the noise of a decision (m draws)" if any("eot" in t.views for t in scene.targets) else ""
    caption = (
        f"Gradients of the cross-entropy at the clean image, in one step{noise}. Each is clipped at "
        f"±{CLIP:g} standard deviations of its own values and scaled: mid-grey is 0, "
        f"{'colours are the three channels' if x.shape[3] == 3 else 'where lighter, more light raises the loss'}. "
        "Below each: its Euclidean length before scaling. "
        f"{', '.join(_about(target) for target in scene.targets)}. {_source(scene, given['seed'])}"
    )
    _write(image_grid(rows, ["image", *[_heading(target.name) for target in scene.targets]], caption), out, caption)


@figure.command()
@_common("gallery", (0, 1, 4, 7))
@click.option("--norm", default="l2", show_default=True, help=f"Norm of the perturbation: {', '.join(NORMS)}.")
@click.option(
    "--eps",
    "eps_texts",
    multiple=True,
    help="Radius of one column; may be repeated.  [default: 1/2, 1, 2 and 4 times the paper's]",
)
def gallery(**given: Any) -> None:  # noqa: ANN401
    """Adversarial images at growing radii (figures 4 and 6).

    Below each: what the model makes of it.
    """
    out = _out(given, "gallery")
    norm, texts = given["norm"], given["eps_texts"]
    radii = [_radius(given["dataset"], norm, text) for text in texts]
    radii = sorted(set(radii)) or [share * _radius(given["dataset"], norm, None) for share in FRACTIONS]
    scene = _scene(given, (0, 1, 4, 7))

    from rbfbench.cli.progress import ProgressLine
    from rbfbench.evaluation.pictures import STEPS
    from rbfbench.evaluation.pictures import gallery as shows
    from rbfbench.reporting.figures import GridRow, Panel, image_grid

    target, images = scene.targets[0], scene.chosen
    columns = []
    with ProgressLine() as line:
        for shown in shows(target, images, norm=norm, radii=radii, seed=given["seed"]):
            columns.append(shown)
            if len(columns) <= len(radii):
                line.update(f"attack {norm}", len(columns), len(radii) + 1)

    def panel(i: int, column: Decided) -> Panel:
        answer = int(column.prediction[i])
        words = f"{_brief(_class_name(images, answer))} {column.confidence[i]:.0%}"
        return Panel(column.images[i], words, right=answer == int(images.labels[i]))

    rows = [GridRow(name, [panel(i, column) for column in columns]) for i, name in enumerate(scene.names)]
    heads = ["clean", *[f"{norm} ≤ {eps:.3g}" for eps in radii]]
    right = [
        f"{head}: {sum((column.prediction == images.labels).tolist())}"
        for head, column in zip(heads, columns, strict=True)
    ]
    caption = (
        f"PGD of {STEPS} steps on the cross-entropy{_through(target)}, each radius by itself. Below each image: what "
        "the model decides, and how surely; ✓ and a solid blue frame: right, ✗ and a dashed orange frame: wrong. "
        f"Right of {len(rows)}: {'; '.join(right)}. {_about(target)}. {_source(scene, given['seed'])}"
    )
    _write(image_grid(rows, heads, caption), out, caption)


# What all figures share -----------------------------------------------------------------------------------------------
def _out(given: dict[str, Any], kind: str) -> Path:
    from rbfbench.reporting.figures import check_file

    path: Path = given["out"] or Path(f"{kind}.png")
    check_file(path)
    return path


def _scene(given: dict[str, Any], indices: Sequence[int]) -> Scene:
    from rbfbench.data import load_data
    from rbfbench.evaluation.loading import load_target
    from rbfbench.evaluation.pictures import pick

    device = pick_device(given["device"])
    everything = load_data(given["dataset"], data_root=given["data_root"], download=given["download"])
    # A default image that a small data set lacks is left out; one that was asked for is an error.
    asked = given.get("indices") or [i for i in indices if i < len(everything)]
    knobs = knobs_of(given)
    names = [given["model"]] if isinstance(given["model"], str) else given["model"]
    load = partial(load_target, images=everything, device=device)
    chosen = pick(everything, asked)
    titles = [
        f"{_class_name(everything, label)} (index {i})" for label, i in zip(chosen.labels.tolist(), asked, strict=True)
    ]
    return Scene(chosen, titles, everything, _load_all(load, names, knobs))


def _load_all(load: Callable[..., Target], names: Sequence[str], knobs: dict[str, Any]) -> list[Target]:
    """The models, the constants of RBF-CNN changed in those that have them; at least one must."""
    if not knobs or len(names) == 1:
        return [load(name, knobs=knobs) for name in names]

    from rbfbench.defenses.rbfcnn import RBFCNN

    targets = [load(name) for name in names]
    with_front = [isinstance(target.model, RBFCNN) for target in targets]
    if not any(with_front):
        return [load(name, knobs=knobs) for name in names]  # says why not
    return [
        load(name, knobs=knobs) if has else target for name, target, has in zip(names, targets, with_front, strict=True)
    ]


def _shipped_for(dataset: str) -> list[str]:
    names = [name for name in SIDE_BY_SIDE if shipped_path(name, dataset)]
    if not names:
        raise UsageError("--model is missing", f"no model is shipped for {dataset}", "give one or several")
    return names


def _radius(dataset: str, norm: str, text: str | None) -> float:
    """The radius that was given, or the paper's. Raises UsageError where there is neither."""
    check_norm(norm)
    if text is None:
        return default_radius(dataset, norm)
    if (eps := parse_eps(text)) > 0:
        return eps
    raise UsageError(f"--eps {text} shows nothing", "images stay as they are", "give a radius above 0")


def _write(drawn: Figure, out: Path, caption: str) -> None:
    from rbfbench.reporting.figures import write_figure

    width, height = write_figure(drawn, out)
    click.echo(f"wrote {out} ({width} x {height} pixels)")
    click.echo(caption)


def _class_name(images: Images, label: int) -> str:
    """Name of a class; a model may have more outputs than the data set has names."""
    return images.classes[label] if label < len(images.classes) else str(label)


def _brief(name: str) -> str:
    """A name that leaves room for a percentage below an image."""
    return name if len(name) <= BRIEF else f"{name[: BRIEF - 1]}…"


def _heading(name: str) -> str:
    """A model's name above a column; weights files are called by theirs."""
    return Path(name).stem if name.endswith(".safetensors") else name


def _source(scene: Scene, seed: int) -> str:
    return f"{scene.everything.name} ({scene.everything.source}), seed {seed}."


def _about(target: Target) -> str:
    """Name of a model, and its constants if it is an RBF-CNN: those that matter most, and what is not as usual."""
    from rbfbench.defenses.rbf import RBFConfig
    from rbfbench.defenses.rbfcnn import RBFCNN

    if not isinstance(target.model, RBFCNN):
        return target.name + (" (gradients through a stand-in)" if target.card["approximated"] else "")
    config = target.model.config
    draws = f", m {config.m}" if config.beta2 > 0 else ""
    usual = vars(RBFConfig())
    others = "".join(
        f", {name} {value:g}" if isinstance(value, float) else f", {name} {value}"
        for name, value in vars(config).items()
        if name not in ("beta1", "beta2", "m") and value != usual[name]
    )
    return f"{target.name} (beta1 {config.beta1:g}, beta2 {config.beta2:g}{draws}{others})"


def _through(target: Target) -> str:
    """How attacks met the noise."""
    return f" through the noise ({target.m} draws a step)" if "eot" in target.views else ""


# Filters --------------------------------------------------------------------------------------------------------------
def _filters_caption(target: Target, bank: FilterBank, counted: Images) -> str:
    from rbfbench.evaluation.pictures import rbf_front

    config = rbf_front(target).config
    k, height, width, channels = bank.means.shape
    middle = sorted(bank.variances.tolist())[k // 2]
    low = int((bank.variances < config.var_floor).sum())
    half = int((bank.use.cumsum() < 0.5).sum()) + 1
    return (
        f"The {k} filter means of {target.name} ({height}x{width} pixels, {channels} channel{'s' * (channels > 1)}), "
        f"by rows from the most to the least used. Their variances σ² go from {bank.variances.min():.2g} to "
        f"{bank.variances.max():.2g}, median {middle:.2g}; {low} of them {'is' if low == 1 else 'are'} raised to the "
        f"floor {config.var_floor:g}. Use is the mean weight in the reconstruction at beta1 {config.beta1:g} over all "
        f"patches of {len(counted)} images: {bank.use[0]:.1%} for the first filter, {bank.use[-1]:.2%} for the last; "
        f"half of the weight lies on {half} of them. {counted.name} ({counted.source}; the first {len(counted)})."
    )


# Reconstruction -------------------------------------------------------------------------------------------------------
def _reconstruction_caption(scene: Scene, parts: list[Reconstructed], seed: int) -> str:
    from rbfbench.evaluation.pictures import STEPS

    target = scene.targets[0]
    noisy = " Clean and attacked images share one draw of noise." if "eot" in target.views else ""
    left = ", ".join(f"{part.norm} {(part.after / part.before).mean():.0%}" for part in parts)
    return (
        f"PGD of {STEPS} steps on the cross-entropy{_through(target)}. Distances are Euclidean: from the clean image "
        "before reconstruction, from its reconstruction after it; in brackets the share that is left "
        f"({left}{' on average' * (len(scene.names) > 1)}).{noisy} Changes: mid-grey is none. This attack aims at the "
        f"class; for the worst that the reconstruction lets pass see --claim. {_about(target)}. "
        f"{_source(scene, seed)}"
    )


# Claim 1 --------------------------------------------------------------------------------------------------------------
def _claim(given: dict[str, Any], radii: dict[str, float]) -> None:
    if given["out"] or given["indices"]:
        stray = "--out" if given["out"] else "--index"
        raise UsageError(f"{stray} does not go with --claim", "it prints a table", "leave one of them out")
    limit = parse_limit(given["limit"] or "16")
    check_writable("--json", given["json_path"])
    scene = _scene(given, (0,))

    from rbfbench.cli.progress import ProgressLine
    from rbfbench.evaluation.pictures import claim_ratios, rbf_front

    target = scene.targets[0]
    rbf_front(target)
    images = scene.everything if limit is None else scene.everything.head(limit)
    if limit is not None and limit > len(images):
        click.echo(f"note: there are {len(images)} images, so --limit {limit} takes all", err=True)
    rows: list[Expansion] = []
    with ProgressLine() as line:
        for done, (norm, eps) in enumerate(radii.items()):
            line.update(norm, done, len(radii))
            rows += claim_ratios(target, images, norm=norm, eps=eps, seed=given["seed"])
    _print_claim(given, target, images, rows)


def _print_claim(given: dict[str, Any], target: Target, images: Images, rows: list[Expansion]) -> None:
    import dataclasses
    import json

    from rich.console import Console

    from rbfbench.evaluation.pictures import STEPS, conclusion

    document = {
        "model": target.name,
        "dataset": images.name,
        "source": images.source,
        "n": len(images),
        "seed": given["seed"],
        "steps": STEPS,
        "rows": [dataclasses.asdict(row) for row in rows],
        "conclusion": conclusion(rows),
    }
    text = json.dumps(document, indent=2, allow_nan=False)
    if given["json_path"] == "-":
        click.echo(text)
        return
    console = Console(highlight=False)
    console.print(
        f"||rec(x+d) - rec(x)|| / ||d||, Euclidean: what the reconstruction of {target.name} passes on of a change d.\n"
        f"Noise off; adversarial d: {STEPS} steps of ascent on the change itself, from one random start.\n"
        f"{images.name} ({images.source}), the first {len(images)}, seed {given['seed']}.",
        markup=False,
        soft_wrap=True,
    )
    console.print(_claim_table(rows))
    console.print(conclusion(rows), markup=False, soft_wrap=True)
    if given["json_path"]:
        from rbfbench.results.atomic import write_atomic

        write_atomic(Path(given["json_path"]), f"{text}\n".encode())


def _claim_table(rows: list[Expansion]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("norm", "eps", "beta1", "d"):
        table.add_column(name)
    for name in ("mean", "max", "n"):
        table.add_column(name, justify="right")
    for row in rows:
        ratios = (f"{row.mean:.3f}", f"{row.largest:.3f}", str(row.n))
        table.add_row(row.norm, f"{row.eps:g}", f"{row.beta1:g}", row.kind, *ratios)
    return table
