"""`rbfbench certify`: randomised smoothing, an accuracy that no perturbation of a size can lower."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rbfbench.cli.documents import hand_over
from rbfbench.cli.models import any_model, load, off_stdout, one_model, options_of
from rbfbench.cli.options import (
    check_writable,
    data_options,
    device_option,
    images_of,
    knob_options,
    knobs_of,
    parse_limit,
    pick_device,
)
from rbfbench.errors import UsageError

if TYPE_CHECKING:
    from rbfbench.results.certificates import Certification


@click.command()
@one_model
@click.option(
    "--dataset", default="cifar10", show_default=True, help="Name, npz:FILE or folder:DIR; see `rbfbench data`."
)
@click.option("--sigma", type=float, default=0.25, show_default=True, help="Standard deviation of the noise.")
@click.option("--n0", type=int, default=100, show_default=True, help="Draws that choose the class of an image.")
@click.option("--n", "draws", type=int, default=10_000, show_default=True, help="Draws that count it.")
@click.option("--alpha", type=float, default=0.001, show_default=True, help="Probability that a certificate is wrong.")
@click.option("--radii", default=None, help="l2 radii to report.  [default: multiples of sigma up to the ceiling]")
@knob_options
@click.option("--limit", default="20", show_default=True, help="First N images, or all.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of everything random.")
@click.option("--batch-size", type=click.IntRange(1), default=None, help="Draws in one pass; chosen from memory.")
@any_model
@device_option
@data_options
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default=None, help="Folder to keep and resume."
)
@click.option("--json", "json_path", default=None, metavar="FILE", help="Write certify.json there; - for stdout alone.")
def certify(**given: Any) -> None:  # noqa: ANN401  (click passes the options declared above)
    """Certify a classifier by randomised smoothing (arXiv 1902.02918).

    Its answer is the class it gives most often under Gaussian noise. An RBF-CNN draws its own noise anew each time.

    \b
    rbfbench certify --dataset mnist --sigma 0.3 --limit 100
    rbfbench certify --model cnn --sigma 0.1 --n 50000 --radii 0.25,0.3,0.35
    """  # noqa: D301  (click's sign for lines that stay as they are)
    parse_limit(given["limit"])
    radii = _radii(given["radii"])
    check_writable("--json", given["json_path"])
    done = _run(given, radii)

    from rbfbench.reporting.certificate_table import certificate_table
    from rbfbench.results.store import CERTIFY_FILE

    hand_over(done, given, CERTIFY_FILE, lambda: certificate_table(done))
    if done.status == "started":
        from rbfbench.cli import INTERRUPTED

        kept = "shown and kept" if given["out"] else "shown"
        done_of = f"{len(done.certificates)} of {done.spec['limit']}"
        click.echo(f"interrupted: {done_of} images are done and {kept}", err=True)
        raise click.exceptions.Exit(INTERRUPTED)


def _radii(text: str | None) -> tuple[float, ...]:
    try:
        return tuple(sorted(float(part) for part in text.split(","))) if text else ()
    except ValueError:
        raise UsageError(f"--radii {text} cannot be read", "it is no list of numbers", "write 0.25,0.5") from None


def _run(given: dict[str, Any], radii: tuple[float, ...]) -> Certification:
    from rbfbench.cli.progress import ProgressLine
    from rbfbench.evaluation.certify import CertifySpec
    from rbfbench.evaluation.certify import certify as sample

    options, knobs = options_of(given), knobs_of(given)
    spec = CertifySpec(
        model=given["model"],
        dataset=given["dataset"],
        sigma=given["sigma"],
        n0=given["n0"],
        n=given["draws"],
        alpha=given["alpha"],
        radii=radii,
        seed=given["seed"],
        knobs=knobs,
        loading=options.record(),
    )
    device = pick_device(given["device"])
    images, _ = images_of(given)
    target = load(given["model"], images, device, options, knobs)
    with ProgressLine() as line, off_stdout():
        return sample(
            target,
            images,
            spec,
            batch_size=given["batch_size"],
            folder=given["out"],
            progress=lambda done, total: line.update("draws", done, total),
        )
