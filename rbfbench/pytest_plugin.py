"""A pytest plugin: the fixture `robustness` attacks a model in a test, and judges it against a committed baseline.

Every pytest run in an environment with rbfbench imports this page, so nothing heavy is imported before it is used.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from rbfbench.results.records import Run


class RobustnessWarning(UserWarning):
    """A check of a run that fired: a reason to distrust its accuracies."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the gate."""
    group = parser.getgroup("rbfbench", "robustness of classifiers")
    group.addoption("--rbfbench-baselines", default=None, metavar="DIR", help="Folder of baselines, one a test.")
    group.addoption("--rbfbench-save", action="store_true", help="Write these baselines instead of judging by them.")
    group.addoption("--rbfbench-max-drop", type=float, default=1.0, help="Allowed fall, in points.")
    group.addoption("--rbfbench-alpha", type=float, default=0.05, help="Chance of failing an unchanged model.")


@pytest.fixture
def robustness(request: pytest.FixtureRequest) -> Callable[..., Run]:
    """Attack a model: `robustness(model, x, y, norm="linf", eps=8 / 255, min_accuracy=0.4)` gives the verified run.

    Takes what `rbfbench.attack` takes. The test fails where the worst case is below `min_accuracy`, with
    --rbfbench-baselines DIR where robustness fell against the baseline of this test, and where a check of the run says
    that its accuracies prove nothing. Other checks that fire are warnings.
    """
    asked = 0

    def judged(model: Any, x: Any, y: Any, *, min_accuracy: float | None = None, **options: Any) -> Run:  # noqa: ANN401
        nonlocal asked
        asked += 1
        from rbfbench.errors import LoadError, UsageError
        from rbfbench.evaluation.api import attack_samples
        from rbfbench.results.gate import baseline_of, images_of, judge, same_attacks, same_terms

        if min_accuracy is not None and not 0 <= min_accuracy <= 1:
            raise UsageError(f"min_accuracy {min_accuracy} cannot be met", "it is not from 0 to 1", "write 0.4 for 40%")
        path, saves = _baseline_path(request, asked), request.config.getoption("--rbfbench-save")
        if path and not saves and not path.is_file():
            why = "there is no such file: this test has no baseline yet"
            raise LoadError(f"cannot read {path}", why, "run pytest with --rbfbench-save once")
        before = _read(path) if path and not saves else None

        def agree(target: Any, spec: Any, images: Any) -> None:  # noqa: ANN401  (a Target, a RunSpec, Images)
            from rbfbench.evaluation.work import planned

            if before:
                same_terms(before, spec.document(), data_digest=images.digest, n=len(images))
                same_attacks(before, planned(target, spec.rows, len(images)))

        run, samples = attack_samples(model, x, y, **options, agree=agree)
        after = baseline_of(run, samples, f"pytest {request.node.nodeid}")
        if path and saves:
            _save(path, after)
            before = after
        gate = judge(
            before,
            after,
            images=images_of(samples),
            max_drop=request.config.getoption("--rbfbench-max-drop") / 100,
            alpha=request.config.getoption("--rbfbench-alpha"),
            floors={} if min_accuracy is None else {"": min_accuracy},
        )
        if not gate.passed:
            pytest.fail(_said(gate), pytrace=False)
        for code, detail in gate.checks.items():
            warnings.warn(f"{code}: {detail}", RobustnessWarning, stacklevel=2)
        return run

    return judged


def _baseline_path(request: pytest.FixtureRequest, asked: int) -> Path | None:
    """Where the baseline of a test lies: named after the test, with a digest of its id and of which of its attacks.

    Without that, ids that differ in what no file can be called would share one.
    """
    folder = request.config.getoption("--rbfbench-baselines")
    if folder is None:
        return None
    name = re.sub(r"[^\w.-]+", "-", request.node.nodeid).strip("-")
    digest = hashlib.sha256(f"{request.node.nodeid}\n{asked}".encode()).hexdigest()
    return Path(folder) / f"{name}{f'-{asked}' if asked > 1 else ''}-{digest[:8]}.json"


def _save(path: Path, made: Any) -> None:  # noqa: ANN401  (a Baseline; not imported on this page)
    import msgspec

    from rbfbench.results.atomic import write_atomic
    from rbfbench.results.records import encode

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, msgspec.json.format(encode(made), indent=1) + b"\n")


def _read(path: Path) -> Any:  # noqa: ANN401  (likewise)
    from rbfbench.results.gate import read_baseline

    return read_baseline(path)


def _said(gate: Any) -> str:  # noqa: ANN401  (a Gate)
    from rich.console import Console

    from rbfbench.reporting.gate_table import gate_table

    console = Console(width=100, highlight=False, color_system=None)
    with console.capture() as captured:
        console.print(gate_table(gate))
    return captured.get()
