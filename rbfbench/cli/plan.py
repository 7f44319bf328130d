"""What attack and sweep share: the options that name a run, and the run that they name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

from rbfbench.attacks import (
    AVERAGING,
    DRAWS,
    OBJECTIVES,
    SUITES,
    VIEWS,
    AttackInfo,
    Row,
    load_suite,
    single_rows,
    through_noise,
)
from rbfbench.cli.configuration import rank
from rbfbench.cli.models import any_model, off_stdout, one_model, options_of
from rbfbench.cli.options import (
    NORMS,
    check_norm,
    data_options,
    default_radius,
    device_option,
    knob_options,
)
from rbfbench.defenses import shipped_path
from rbfbench.errors import UsageError, unknown_name
from rbfbench.interop import attack_info

if TYPE_CHECKING:
    from rbfbench.data import Images
    from rbfbench.evaluation.spec import RunSpec
    from rbfbench.evaluation.target import Target

F = TypeVar("F", bound=Callable[..., Any])

GRADIENTS = tuple(name for name in VIEWS if name != "none")


def run_options(command: F) -> F:
    """Model, images, budget, attacks, and how to run them."""
    return one_model(question_options(command))


def question_options(command: F) -> F:
    """The same without the model."""
    options: list[Callable[[F], F]] = [
        click.option(
            "--dataset", default="cifar10", show_default=True, help="Name, npz:FILE or folder:DIR; see `rbfbench data`."
        ),
        click.option(
            "--norm", default="linf", show_default=True, help=f"Norm of the perturbation: {', '.join(NORMS)}."
        ),
        click.option(
            "--eps",
            "eps_text",
            default=None,
            help="Radius, such as 0.031 or 8/255; the paper's if the data set has one.",
        ),
        click.option("--attack", "attacks", multiple=True, help="Attack to run instead of a suite; may be repeated."),
        click.option("--suite", default=None, help="Frozen list of attacks.  [default: quick]"),
        click.option(
            "--set",
            "settings",
            multiple=True,
            metavar="ATTACK.NAME=VALUE",
            help="Change a parameter, as pgd.steps=100.",
        ),
        click.option(
            "--cap",
            "caps",
            multiple=True,
            metavar="ATTACK=N",
            help="Take only the first N images for a costly attack or row, as spsa=20 or pgd/eot=100.",
        ),
        click.option("--gradient", default=None, help=f"View for --attack: {', '.join(GRADIENTS)}.  [default: static]"),
        click.option("--eot-samples", type=click.IntRange(1), default=None, help="Draws averaged in eot rows."),
        click.option(
            "--objective",
            default=None,
            help=f"What averaged rows raise: {', '.join(OBJECTIVES)}.  [default: loss-of-mean]",
        ),
        click.option(
            "--passes",
            type=click.IntRange(1),
            default=3,
            show_default=True,
            help="Fresh decisions to score a random model on; as many choose its strongest candidate.",
        ),
        click.option(
            "--surrogate",
            "surrogates",
            multiple=True,
            help="Model that transfer rows attack; several make an ensemble.  [default: cnn of the data set]",
        ),
        click.option("--include-transfer", is_flag=True, help="Let transfer rows enter the worst case."),
        click.option(
            "--worst-case", is_flag=True, help="Run each attack on the survivors of those before it only: cheaper."
        ),
        knob_options,
        click.option("--limit", default="100", show_default=True, help="First N images, or all."),
        click.option("--seed", type=int, default=0, show_default=True, help="Seed of everything random."),
        click.option(
            "--batch-size",
            type=click.IntRange(1),
            default=None,
            help="Images in one pass; chosen from memory if not given.",
        ),
        device_option,
        any_model,
        data_options,
    ]
    for option in reversed(options):
        command = option(command)
    return command


def rows_of(given: dict[str, Any]) -> list[Row]:
    """The attacks to run, every parameter settled. Raises UsageError for whatever the names and numbers get wrong."""
    check_norm(given["norm"])
    _let_the_weaker_give_way(given)
    attacks, suite = given["attacks"], given["suite"]
    if attacks and suite:
        raise UsageError("--attack and --suite exclude each other", "a suite is a frozen list", "give one of them")
    if given["gradient"] and not attacks:
        raise UsageError("--gradient needs --attack", "the rows of a suite have their views", "name attacks")
    view, draws, objective = given["gradient"] or "static", given["eot_samples"], given["objective"]
    if view not in GRADIENTS:
        raise unknown_name("view", view, GRADIENTS)
    if objective not in (None, *OBJECTIVES):
        raise unknown_name("objective", objective, OBJECTIVES)
    if len(set(attacks)) < len(attacks):
        raise UsageError("the same attack is named twice", f"--attack {' --attack '.join(attacks)}", "name each once")
    rows = (
        single_rows({name: _named(name) for name in attacks}, view, draws or DRAWS)
        if attacks
        else load_suite(suite or "quick", given["norm"])
    )
    _check_rows(given, rows)
    rows = [
        replace(row, draws=draws or row.draws, objective=objective or row.objective) if row.view in AVERAGING else row
        for row in rows
    ]
    for setting in given["settings"]:
        rows = _changed(rows, setting)
    for cap in given["caps"]:
        rows = _capped(rows, cap)
    return rows


def _named(name: str) -> AttackInfo:
    """The attack of this name; whoever typed that of a suite, or of a row in a table, is told what to type."""
    try:
        return attack_info(name)
    except UsageError:
        if name in SUITES:
            why = "--attack takes single attacks"
            raise UsageError(f"{name} is a suite of attacks", why, f"write --suite {name}") from None
        rows = [row for suite in SUITES for row in load_suite(suite)]
        row = next((row for row in rows if name in (row.id, row.id.partition("/")[0])), None)
        if row is None:
            raise
        usual = attack_info(row.attack).parameters
        changed = [
            f" --set {row.attack}.{key}={str(value).lower()}"
            for key, value in row.parameters.items()
            if value != usual[key].default
        ]
        view = f" --gradient {row.view}" if "/" in name else ""
        todo = f"write --attack {row.attack}{''.join(changed)}{view}"
        raise UsageError(f"{name} is a row of a suite", "--attack takes single attacks", todo) from None


def _let_the_weaker_give_way(given: dict[str, Any]) -> None:
    """Drop a suite of rbfbench.toml, in place, where attacks were typed, and the other way round.

    So it is with the environment, which stands between the two. What is set and capped there was meant for what is
    dropped, and goes with it.
    """
    if given["attacks"] and given["suite"] and rank("suite") != rank("attacks"):
        dropped = min("suite", "attacks", key=rank)
        given |= {"suite": None} if dropped == "suite" else {"attacks": ()}
        given |= {name: () for name in ("settings", "caps") if rank(name) <= rank(dropped)}


def _check_rows(given: dict[str, Any], rows: list[Row]) -> None:
    """Refuse a norm that a row does not serve, and options that no row heeds."""
    for row in rows:
        if given["norm"] not in attack_info(row.attack).norms:
            serves = ", ".join(attack_info(row.attack).norms)
            raise UsageError(
                f"{row.attack} does not serve {given['norm']}", f"it serves {serves}", "choose another norm"
            )
    transfers = any(attack_info(row.attack).surrogate for row in rows)
    averages = any(row.view in AVERAGING for row in rows)
    follows = any(row.view != "none" for row in rows)
    for option, value, heeded, why, todo in (
        ("--surrogate", given["surrogates"], transfers, "no row transfers", "add --attack transfer"),
        ("--include-transfer", given["include_transfer"], transfers, "no row transfers", "add --attack transfer"),
        ("--gradient", given["gradient"], follows, "these attacks follow no gradient", "leave it out"),
        ("--eot-samples", given["eot_samples"], averages, "no row averages over noise", "add --gradient eot"),
        ("--objective", given["objective"], averages, "no row averages over noise", "add --gradient eot"),
    ):
        if value and not heeded:
            raise UsageError(f"{option} changes nothing", why, todo)


def _changed(rows: list[Row], setting: str) -> list[Row]:
    """Rows with one ATTACK.NAME=VALUE applied; ATTACK is an attack or the name of a row such as pgd-margin."""
    target, _, value = setting.partition("=")
    attack, dot, name = target.partition(".")
    if not (dot and name and value):
        raise UsageError(f"--set {setting} cannot be read", "it is not ATTACK.NAME=VALUE", "write pgd.steps=100")
    chosen = [row for row in rows if attack in (row.attack, row.id.partition("/")[0])]
    if not chosen:
        raise unknown_name("attack of this run", attack, {row.attack for row in rows})
    parsed = attack_info(chosen[0].attack).parse(attack, name, value)
    return [replace(row, parameters=row.parameters | {name: parsed}) if row in chosen else row for row in rows]


def _capped(rows: list[Row], cap: str) -> list[Row]:
    """Rows with one ATTACK=N applied; ATTACK is an attack, or the name of a row with or without its view."""
    name, _, number = cap.partition("=")
    if not (number.isascii() and number.isdigit() and int(number) > 0):
        raise UsageError(f"--cap {cap} cannot be read", "it is not ATTACK=N with N above 0", "write spsa=20")
    chosen = [row for row in rows if name in (row.attack, row.id, row.id.partition("/")[0])]
    if not chosen:
        raise unknown_name("attack of this run", name, {row.id for row in rows})
    return [replace(row, limit=int(number)) if row in chosen else row for row in rows]


def eps_text_of(given: dict[str, Any]) -> str:
    """The radius as it was given, or the paper's."""
    if given["eps_text"] is not None:
        return str(given["eps_text"])
    return f"{default_radius(given['dataset'], given['norm']):g}"


SURROGATE = "cnn"  # what transfer rows attack if nothing else is named


def surrogates_of(
    given: dict[str, Any],
    rows: Sequence[Row],
    images: Images,
    device: Any,  # noqa: ANN401
) -> list[Target]:
    """The models that transfer rows attack; none where nothing was named and no `cnn` of the data set is shipped."""
    from rbfbench.evaluation.load_options import LoadOptions
    from rbfbench.evaluation.loading import load_target

    if not any(attack_info(row.attack).surrogate for row in rows):
        return []
    names = given["surrogates"] or ((SURROGATE,) if shipped_path(SURROGATE, images.name) else ())
    if not names and given["attacks"]:
        raise UsageError(
            "the transfer attack has no surrogate", f"no {SURROGATE} is shipped for {images.name}", "add --surrogate"
        )
    options = LoadOptions(trust=given["trust"], download=given["download"], timeout=given["timeout"])
    with off_stdout():
        return [load_target(name, images, device, options=options) for name in names]


def spec_of(
    given: dict[str, Any],
    target: Target,
    images: Images,
    available: int,
    rows: list[Row],
    **deciding: Any,  # noqa: ANN401
) -> RunSpec:
    """The spec of a run on a loaded model; `deciding` holds eps, eps_text and knobs."""
    from rbfbench.evaluation.spec import RunSpec

    if not given["gradient"]:
        rows = through_noise(rows, target.views, given["attacks"] or ())
    suite = given["suite"] or "quick"
    if not (target.differentiable or given["attacks"] or given["suite"]):
        click.echo(f"note: no gradient reaches the input of {given['model']}: the suite is black-box", err=True)
        suite, rows = "black-box", rows_of(given | {"suite": "black-box"})
    frozen = not (given["settings"] or given["caps"] or given["eot_samples"] or given["objective"])
    return RunSpec(
        model=given["model"],
        dataset=images.name,
        source=images.source,
        norm=given["norm"],
        suite="" if given["attacks"] else suite + ("" if frozen else " (changed)"),
        rows=tuple(rows),
        limit=len(images),
        available=available,
        seed=given["seed"],
        passes=given["passes"],
        batch_size=given["batch_size"],
        device=str(target.device),
        worst_case=given["worst_case"],
        include_transfer=given["include_transfer"],
        surrogates=given["surrogates"],
        loading=options_of(given).record(),
        **deciding,
    )
