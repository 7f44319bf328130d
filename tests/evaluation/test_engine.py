"""The engine: what a run says of models whose robustness is known."""

from __future__ import annotations

import dataclasses
import tracemalloc
from contextlib import closing, contextmanager

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rbfbench.attacks import ATTACKS, Row, load_suite
from rbfbench.attacks.table import AttackInfo
from rbfbench.data.images import Images
from rbfbench.defenses.rbf import PRESETS, RBFReconstruction
from rbfbench.defenses.rbfcnn import RBFCNN
from rbfbench.errors import DataError, LoadError, ModelError, UsageError
from rbfbench.evaluation import certify as certification
from rbfbench.evaluation import engine
from rbfbench.evaluation.api import attack
from rbfbench.evaluation.certify import CertifySpec, certify
from rbfbench.evaluation.engine import Outcome, evaluate
from rbfbench.evaluation.environment import describe_environment
from rbfbench.evaluation.examples import Examples
from rbfbench.evaluation.spec import RunSpec
from rbfbench.evaluation.target import Target, inspect
from rbfbench.evaluation.verify import Verdict
from rbfbench.results import summary
from rbfbench.results.store import RunFolder, read_run, read_samples

CPU = torch.device("cpu")


def images(n: int = 40, seed: int = 0) -> Images:
    """Dark and bright noise images, labelled by which they are."""
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    pixels = generator.integers(0, 100, (n, 6, 6, 1)) + 140 * labels[:, None, None, None]
    return Images(
        name="toy",
        source="made here",
        pixels=pixels.astype(np.uint8),
        labels=labels.astype(np.int64),
        indices=np.arange(n),
        classes=("dark", "bright"),
    )


class Brightness(nn.Module):
    """Class by mean brightness: the linf distance of an image to the boundary is |mean - 1/2|."""

    def forward(self, x: Tensor) -> Tensor:
        brightness = 20 * (x.flatten(1).mean(1) - 0.5)
        return torch.stack([-brightness, brightness], 1)


class NoisyBrightness(Brightness):
    """Wrong by noise alone in about a quarter of all passes."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 9 * torch.randn(len(x), 1) * torch.tensor([[1.0, -1.0]])


def spec(rows: list[Row], data: Images, **changes) -> RunSpec:
    fields = {"norm": "linf", "eps": 0.3, "eps_text": "0.3", "suite": "", "batch_size": 16, **changes}
    return RunSpec(
        model="toy", dataset="toy", source="", rows=tuple(rows), limit=len(data), available=len(data), **fields
    )


def row(attack: str, view: str = "static", draws: int = 1, **parameters) -> Row:
    defaults = {name: parameter.default for name, parameter in ATTACKS[attack].parameters.items()}
    return Row(attack, view, defaults | parameters, draws)


def run(model, rows, data=None, folder=None, **changes):
    data = data or images()
    return evaluate(inspect(model, "toy", data, CPU), data, spec(rows, data, **changes), folder=folder)


def test_robust_accuracy_is_the_share_of_images_farther_than_eps():
    data = images()
    x, _ = data.batch(0, len(data))
    distance = (x.flatten(1).mean(1) - 0.5).abs()
    eps = float(distance.sort().values[19:21].mean())  # between two images, far from either
    outcome = run(Brightness(), [row("fgsm"), row("pgd", steps=10)], data, eps=eps)
    robust = int((distance > eps).sum())
    assert robust == 20
    assert [r.k for r in outcome.run.attacks] == [robust, robust]
    assert outcome.run.clean.k == len(data)
    assert outcome.run.worst_case.k == robust
    assert outcome.run.status == "complete"


def test_worst_case_is_taken_per_image():
    class TwoHoles(nn.Module):
        """Even images fall to brightening, odd ones to darkening; an attack with one direction gets half."""

        def forward(self, x: Tensor) -> Tensor:
            return Brightness()(x)

    def brighten(oracle, x, y, *, norm, eps, rng):
        return (x + eps).clamp(0, 1)

    def darken(oracle, x, y, *, norm, eps, rng):
        return (x - eps).clamp(0, 1)

    with pytest.MonkeyPatch.context() as patch:
        for name in ("up", "down"):
            info = AttackInfo(function=name, passes=lambda p: (0, 0), reference="", about="", gradient=False)
            patch.setitem(ATTACKS, name, info)
        patch.setattr(AttackInfo, "resolve", lambda self: {"up": brighten, "down": darken}[self.function])
        outcome = run(TwoHoles(), [Row("up", "none", {}), Row("down", "none", {})], eps=0.45)
    assert [r.accuracy for r in outcome.run.attacks] == [0.5, 0.5]
    assert outcome.run.worst_case.accuracy == 0.0


class NoisyAsAWhole(Brightness):
    """The same noise for all images of a call, as in a random resizing of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 9 * torch.randn(1, 1) * torch.tensor([[1.0, -1.0]])


@pytest.mark.parametrize("model", [NoisyBrightness, NoisyAsAWhole])
def test_a_noisy_model_under_an_attack_that_can_do_nothing_keeps_its_accuracy(model):
    """Peers report 26 to 46% here for a model that is right in three passes of four: the minimum over lucky draws."""
    data = images(200)
    rows = [row("pgd", "eot", draws=2, steps=3), row("mi-fgsm", "eot", draws=2, steps=3), row("fgsm", "eot")]
    outcome = run(model(), rows, data, eps=1e-6, passes=10, batch_size=1)
    # Ten decisions on each of 200 images: standard error of the mean below 0.02; five of them allow for the pick.
    for result in [*outcome.run.attacks, outcome.run.worst_case, outcome.run.null_attack]:
        assert abs(result.accuracy - outcome.run.clean.accuracy) < 0.1
    assert 0.6 < outcome.run.clean.accuracy < 0.9
    assert all(r.wrong_any > 100 for r in outcome.run.attacks)


def noisy_rbfcnn() -> RBFCNN:
    generator = torch.Generator().manual_seed(0)
    front = RBFReconstruction(
        torch.rand(5, 1, 3, 3, generator=generator), 0.05 + 0.1 * torch.rand(5, generator=generator)
    )
    front.config = dataclasses.replace(PRESETS["default"], m=3)
    return RBFCNN(front, Brightness())


def agree(one: Outcome, another: Outcome) -> None:
    first, second = ({(s.attack, s.image): s for s in outcome.samples} for outcome in (one, another))
    assert first.keys() == second.keys()
    for key, sample in first.items():
        other = second[key]
        # Sums in another order differ by rounding; verdicts may differ only on the fence.
        assert sample.selection == pytest.approx(other.selection, abs=1e-3)
        if abs(sample.selection) > 1e-2:
            assert sample.correct == other.correct
        assert (sample.forwards, sample.backwards) == (other.forwards, other.backwards)


def test_results_do_not_depend_on_the_batch_size():
    rows = [row("pgd", steps=4), row("pgd", "eot", draws=3, steps=3)]
    agree(*(run(noisy_rbfcnn(), rows, batch_size=size) for size in (5, 64)))


def test_every_device_gives_the_verdicts_of_the_processor(device: torch.device):
    """The draws are the same on all of them; on the processor itself, a run repeats itself."""
    rows = [row("pgd", steps=4), row("pgd", "eot", draws=3, steps=3)]
    data = images()
    targets = (inspect(noisy_rbfcnn(), "toy", data, where) for where in (CPU, device))
    agree(*(evaluate(target, data, spec(rows, data)) for target in targets))


def test_stochastic_rows_are_scored_on_fresh_decisions_with_a_null_control():
    outcome = run(noisy_rbfcnn(), [row("pgd", "eot", draws=3, steps=3)], passes=4)
    assert outcome.run.model["stochastic"] is True
    assert outcome.run.attacks[0].decisions == 4
    assert outcome.run.null_attack is not None


@pytest.mark.parametrize(("passes", "right", "spared"), [(10, 0, True), (10, 1, False), (3, 1, False), (1, 0, True)])
def test_survivors_are_attacked_until_all_decisions_that_choose_are_wrong(passes, right, spared):
    """However wrong the others are: an image that is right at times may still get worse."""
    data = images(8)
    target = inspect(NoisyBrightness(), "toy", data, CPU)

    def decide(x, keys, decisions=1):
        """Right without attack; in a verdict, `right` of the decisions that choose are barely so, others very wrong."""
        _, y = data.batch(0, len(data))
        true = torch.nn.functional.one_hot(y, 2).float()
        logits = torch.stack([-30 * true] * decisions)
        if decisions > passes:
            logits[decisions - right :] = 0.001 * true
        return logits if decisions != passes else torch.stack([true] * decisions)

    target.decide = decide
    rows = [row("fgsm", "eot"), row("mi-fgsm", "eot", steps=1)]
    outcome = evaluate(target, data, spec(rows, data, passes=passes, worst_case=True, batch_size=64))
    assert {s.status for s in outcome.samples if s.attack == "mi-fgsm/eot"} == {"spared" if spared else "ok"}


def test_convolutions_are_exact_while_a_model_is_judged_and_as_before_afterwards():
    seen = []

    class Watching(Brightness):
        def forward(self, x: Tensor) -> Tensor:
            seen.append((torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic))
            return super().forward(x)

    data, model = images(4), Watching()
    target = inspect(model, "toy", data, CPU)
    before = (torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic)
    seen.clear()
    evaluate(target, data, spec([row("fgsm")], data))
    certify(target, data, CertifySpec(model="toy", dataset="toy", sigma=0.25, n0=2, n=5))
    assert set(seen) == {(False, True)}
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic) == before


@pytest.mark.parametrize("judge", ["evaluate", "certify"])
def test_the_commit_is_that_of_the_code_that_runs(judge, monkeypatch):
    """A checkout that moves on during a run does not change what the run is of."""
    made, commit = describe_environment(CPU), ["before"]

    class Moving(Brightness):
        def forward(self, x: Tensor) -> Tensor:
            commit[0] = "after"
            return super().forward(x)

    data = images(4)
    target = inspect(Moving(), "toy", data, CPU)
    commit[0] = "before"
    for module in (engine, certification):
        monkeypatch.setattr(module, "describe_environment", lambda _: msgspec.structs.replace(made, git=commit[0]))
    if judge == "evaluate":
        done = evaluate(target, data, spec([row("fgsm")], data)).run
    else:
        done = certify(target, data, CertifySpec(model="toy", dataset="toy", sigma=0.25, n0=2, n=5))
    assert (done.environment.git, commit[0]) == ("before", "after")


def test_counts_are_those_of_the_attack_alone():
    outcome = run(Brightness(), [row("pgd", steps=7, restarts=1)])
    assert (outcome.run.attacks[0].forwards, outcome.run.attacks[0].backwards) == (8, 7)


def test_out_of_memory_halves_the_batch_and_changes_no_result():
    class Greedy(Brightness):
        """Fits five rows."""

        largest = 0

        def forward(self, x: Tensor) -> Tensor:
            if len(x) > 5 and torch.is_grad_enabled():
                raise torch.OutOfMemoryError("tried to allocate too much")
            Greedy.largest = max(Greedy.largest, len(x))
            return super().forward(x)

    rows = [row("pgd", steps=4)]
    spared = run(Brightness(), rows, eps=0.2)
    halved = run(Greedy(), rows, eps=0.2)
    assert [s.correct for s in halved.samples] == [s.correct for s in spared.samples]
    assert halved.run.status == "complete"


def test_a_model_that_does_not_fit_with_one_image_ends_the_run_in_one_line():
    class Hopeless(Brightness):
        def forward(self, x: Tensor) -> Tensor:
            if torch.is_grad_enabled():
                raise torch.OutOfMemoryError("tried to allocate too much")
            return super().forward(x)

    with pytest.raises(ModelError, match="memory"):
        run(Hopeless(), [row("pgd", steps=2)])


def test_a_crashed_batch_is_unknown_and_the_run_partial(tmp_path):
    class Fragile(Brightness):
        def forward(self, x: Tensor) -> Tensor:
            if torch.is_grad_enabled() and float(x.detach().sum()) > 0:
                raise ValueError("no gradients today")
            return super().forward(x)

    folder = RunFolder(tmp_path / "run")
    outcome = run(Fragile(), [row("fgsm")], folder=folder)
    assert outcome.run.status == "partial"
    assert outcome.run.attacks[0].unknown == outcome.run.attacks[0].n
    assert any("no gradients today" in check.detail for check in outcome.run.checks)
    assert not list((tmp_path / "run" / "cells").iterdir())  # a crash may not repeat itself


def test_nan_logits_on_clean_images_are_an_error():
    class Nan(Brightness):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * torch.nan

    with pytest.raises(ModelError, match="NaN"):
        run(Nan(), [row("fgsm")])


def test_a_model_without_gradients_is_an_error_that_says_so():
    class Rounded(Brightness):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.detach())

    with pytest.raises(ModelError, match="gradient"):
        run(Rounded(), [row("pgd", steps=2)])


def test_an_interrupt_keeps_the_finished_attacks_and_the_next_run_goes_on(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path / "run")
    rows = [row("fgsm"), row("mi-fgsm", steps=3), row("pgd", steps=3)]
    resolve, calls = AttackInfo.resolve, []

    def interrupted(self):
        calls.append(self.function)
        if len(calls) > 3 and "pgd" in self.function:
            raise KeyboardInterrupt
        return resolve(self)

    monkeypatch.setattr(AttackInfo, "resolve", interrupted)
    stopped = run(Brightness(), rows, folder=folder)
    assert stopped.interrupted
    assert [r.id for r in stopped.run.attacks] == ["fgsm/static", "mi-fgsm/static"]
    assert read_run(tmp_path / "run").status == "started"

    monkeypatch.setattr(AttackInfo, "resolve", lambda self: calls.append("again:" + self.function) or resolve(self))
    resumed = run(Brightness(), rows, folder=folder)
    again = {call for call in calls if call.startswith("again")}
    assert again == {"again:rbfbench.attacks.gradient:pgd"}
    whole = run(Brightness(), rows)
    assert [r.k for r in resumed.run.attacks] == [r.k for r in whole.run.attacks]
    assert len(read_samples(tmp_path / "run")) == 3 * len(images())


def test_an_unfinished_run_does_not_miss_an_attack_on_the_noise_that_was_still_to_come(monkeypatch):
    resolve = AttackInfo.resolve

    def interrupted(self):
        if "mi_fgsm" in self.function:
            raise KeyboardInterrupt
        return resolve(self)

    def fired(*rows: Row) -> bool:
        checks = run(noisy_rbfcnn(), rows).run.checks
        return next(check.fired for check in checks if check.code == "noise-not-attacked")

    assert fired(row("fgsm"))
    monkeypatch.setattr(AttackInfo, "resolve", interrupted)
    assert not fired(row("fgsm"), row("mi-fgsm", "eot", draws=2, steps=1))


def test_a_changed_model_does_not_resume_the_old_results(tmp_path):
    class Other(Brightness):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + torch.tensor([0.5, -0.5])

    folder = RunFolder(tmp_path / "run")
    first = run(Brightness(), [row("fgsm")], folder=folder)
    second = run(Other(), [row("fgsm")], folder=folder)
    assert first.run.model_digest != second.run.model_digest
    assert len(list((tmp_path / "run" / "cells").iterdir())) == 2


def test_examples_are_kept_and_are_what_was_verified(tmp_path):
    folder = RunFolder(tmp_path / "run")
    data = images()
    target = inspect(Brightness(), "toy", data, CPU)
    outcome = evaluate(target, data, spec([row("pgd", steps=4)], data), folder=folder, save_examples=7)
    with np.load(tmp_path / "run" / "examples" / "pgd-static.npz") as file:
        x_adv, position = torch.from_numpy(file["x_adv"]), file["position"]
        kept = {name: file[name] for name in ("x", "label", "prediction", "correct", "classes")}
    assert len(x_adv) == 7
    x, y = data.batch(0, len(data))
    assert np.array_equal(kept["x"], x[position])
    assert np.array_equal(kept["label"], y[position])
    assert kept["prediction"].tolist() == [outcome.samples[i].adversarial_prediction for i in position]
    assert kept["correct"].tolist() == [outcome.samples[i].correct for i in position]
    assert tuple(kept["classes"]) == data.classes
    wrong = (Brightness()(x_adv).argmax(1) != y[position]).tolist()
    assert wrong == [outcome.samples[i].correct == 0 for i in position]
    assert (x_adv - x[position]).abs().max() <= 0.3 * (1 + 1e-5) + 1e-6


def test_memory_does_not_grow_with_the_number_of_examples(tmp_path):
    n, batches = 16, 256
    x = torch.full((n, 3, 32, 32), 0.25)
    y = torch.arange(n)
    yes, half = torch.ones(n, dtype=torch.bool), torch.full((n,), 0.5)
    verdict = Verdict(
        valid=yes,
        answered=yes,
        prediction=y + 1,
        correct=half,
        wrong_any=yes,
        correct_8bit=half,
        selection=half,
        lengths={},
    )
    tracemalloc.start()
    try:
        with closing(Examples(tmp_path, "pgd/static", "key", ("a", "b"), None)) as examples:
            for i in range(batches):
                examples.add(np.arange(i * n, (i + 1) * n), x, x.to(memory_format=torch.channels_last) + i, y, verdict)
            examples.write()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    with np.load(tmp_path / "examples" / "pgd-static.npz") as file:
        arrays = {name: file[name] for name in file.files}
    assert peak < (arrays["x"].nbytes + arrays["x_adv"].nbytes) / 2
    assert {name: array.dtype.kind for name, array in arrays.items()} == {
        "x": "f", "x_adv": "f", "label": "i", "prediction": "i", "correct": "f", "position": "i", "classes": "U",
        "cell": "U",
    }  # fmt: skip
    assert arrays["x"].shape == arrays["x_adv"].shape == (n * batches, 3, 32, 32)
    assert np.array_equal(arrays["position"], np.arange(n * batches))
    assert np.array_equal(arrays["x_adv"], arrays["x"] + (arrays["position"] // n)[:, None, None, None])
    assert np.array_equal(arrays["prediction"], np.tile(y + 1, batches))
    assert [path.name for path in (tmp_path / "examples").iterdir()] == ["pgd-static.npz"]


def test_examples_are_those_of_the_model_that_the_folder_tells_of(tmp_path):
    """A factory that loads new weights asks the same question: its cells stand beside those of the old ones."""
    folder, data = RunFolder(tmp_path / "run"), images()
    file = tmp_path / "run" / "examples" / "pgd-static.npz"
    rows = [row("pgd", steps=4)]

    def kept(model) -> np.ndarray | None:
        target = inspect(model, "toy", data, CPU)
        evaluate(target, data, spec(rows, data), folder=folder, save_examples=7)
        if not file.is_file():
            return None
        with np.load(file) as arrays:
            return arrays["x_adv"]

    bright = kept(Brightness())
    gamma = kept(lambda x: Brightness()(x**2))
    assert gamma is not None
    assert not np.array_equal(bright, gamma)
    for _ in range(2):  # made anew, and found
        assert np.array_equal(kept(Brightness()), bright)
        assert kept(lambda x: Brightness()(1 - x)) is None  # wrong everywhere: nothing is attacked


def test_examples_that_cannot_be_written_are_one_line(tmp_path):
    folder = RunFolder(tmp_path / "run")
    (tmp_path / "run" / "examples").write_text("in the way")
    with pytest.raises(LoadError, match=r"cannot write .*fgsm-static\.npz"):
        run(Brightness(), [row("fgsm")], folder=folder)


def test_more_examples_than_a_finished_run_has_kept_are_made(tmp_path, monkeypatch):
    folder, file = RunFolder(tmp_path / "run"), tmp_path / "run" / "examples" / "pgd-static.npz"
    data = images()
    target = inspect(Brightness(), "toy", data, CPU)
    resolve, calls = AttackInfo.resolve, []
    monkeypatch.setattr(AttackInfo, "resolve", lambda self: calls.append(self.function) or resolve(self))

    def kept(most: int | None) -> np.ndarray:
        calls.clear()
        outcome = evaluate(target, data, spec([row("pgd", steps=4)], data), folder=folder, save_examples=most)
        assert outcome.run.attacks[0].n == len(data)
        with np.load(file) as arrays:
            return arrays["x_adv"]

    few = kept(7)
    assert (len(few), len(calls)) == (7, 3)  # 40 images in batches of 16
    every = kept(None)
    assert (len(every), len(calls)) == (40, 3)
    assert np.array_equal(every[:7], few)
    for most in (None, 41, 7):  # nobody can keep more than were attacked, and what is there stays
        assert (len(kept(most)), len(calls)) == (40, 0)
    file.write_bytes(file.read_bytes()[:100])
    assert (len(kept(7)), len(calls)) == (7, 3)


def test_images_that_were_not_attacked_leave_no_examples_to_wait_for(tmp_path, monkeypatch):
    """Wrong without any attack, or broken by an earlier row."""
    data = dataclasses.replace(images(), labels=np.r_[0, 0, np.arange(2, 40) % 2])
    folder = RunFolder(tmp_path / "run")
    resolve, calls = AttackInfo.resolve, []
    monkeypatch.setattr(AttackInfo, "resolve", lambda self: calls.append(self.function) or resolve(self))
    rows = [row("fgsm"), row("pgd", steps=4)]
    first = run(Brightness(), rows, data, folder, worst_case=True, eps=0.27)
    assert {sample.status for sample in first.samples} == {"ok", "spared", "clean-error"}
    assert calls
    calls.clear()
    run(Brightness(), rows, data, folder, worst_case=True, eps=0.27)
    assert not calls


def fired(outcome) -> set[str]:
    return {check.code for check in outcome.run.checks if check.fired}


def test_rows_that_a_model_has_no_view_for_are_left_out_and_said_unless_others_cover_them():
    plain = run(Brightness(), load_suite("quick"))
    assert [r.view for r in plain.run.attacks] == ["static"] * 4
    assert "rows-left-out" not in fired(plain)  # averaging over no noise is the static row
    noisy = run(NoisyBrightness(), load_suite("quick"))
    assert [r.view for r in noisy.run.attacks] == ["eot"]
    assert "rows-left-out" in fired(noisy)
    with pytest.raises(ModelError, match="static"):
        run(NoisyBrightness(), [row("pgd")])


def test_target_describes_probabilities_and_noise():
    data = images()
    assert inspect(lambda x: Brightness()(x).softmax(1), "p", data, CPU).probabilities
    assert not inspect(Brightness(), "l", data, CPU).probabilities
    assert inspect(NoisyBrightness(), "n", data, CPU).stochastic
    assert isinstance(inspect(Brightness(), "l", data, CPU), Target)


@pytest.mark.parametrize(("smallest", "floor", "told"), [(1e-20, 0.0, True), (1e-20, 1e-3, False), (1e-3, 0.0, False)])
def test_a_filter_without_variance_is_told(smallest, floor, told):
    model = noisy_rbfcnn()
    model.reconstruction.variances[0] = smallest
    model.config = dataclasses.replace(model.config, var_floor=floor)
    outcome = run(model, [row("fgsm", "eot")])
    assert ("degenerate-filters" in fired(outcome)) is told
    (check,) = [check for check in outcome.run.checks if check.code == "degenerate-filters"]
    assert check.detail.startswith("1 RBF filter has" if told else "0 RBF filters have")


def test_noise_fixed_in_the_model_is_one_ensemble_whatever_the_batch_size():
    model = noisy_rbfcnn()
    model.config = dataclasses.replace(model.config, noise_scope="model", m=6)
    rows = [row("fgsm", "eot")]
    whole, cut = (run(model, rows, batch_size=size) for size in (240, 2))
    assert whole.run.model["stochastic"] is False
    assert [s.selection for s in cut.samples] == pytest.approx([s.selection for s in whole.samples], abs=1e-4)
    assert cut.run.attacks[0].forwards == 6


def test_luck_on_clean_images_selects_no_image_of_a_random_model():
    """With one decision an image, a model right in three of four would keep 0.75^2 if lucky images alone went on."""
    outcome = run(NoisyBrightness(), [row("fgsm", "eot")], images(400), eps=0.0, passes=1)
    # Standard error of 400 single decisions: 0.022.
    for result in (outcome.run.attacks[0], outcome.run.worst_case, outcome.run.null_attack):
        assert abs(result.accuracy - outcome.run.clean.accuracy) < 0.1


def test_a_model_that_stops_answering_near_the_images_is_unknown_not_robust():
    class Shy(Brightness):
        """Answers on the 8-bit grid only."""

        def forward(self, x: Tensor) -> Tensor:
            off = ((x * 255 - (x * 255).round()).abs() > 1e-3).flatten(1).any(1)
            return torch.where(off[:, None], torch.nan, super().forward(x))

    outcome = run(Shy(), [row("pgd", steps=4)], batch_size=16)
    assert outcome.run.attacks[0].unknown == 40
    assert outcome.run.status == "partial"


def test_a_model_that_hides_its_gradient_is_told():
    class Rounding(Brightness):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward((x * 255).round() / 255)

    outcome = run(Rounding(), [row("pgd", steps=4)])
    assert outcome.run.attacks[0].flat == 40
    assert "zero-gradient" in fired(outcome)
    assert "zero-gradient" not in fired(run(Brightness(), [row("pgd", steps=4)]))


def test_nan_on_clean_images_after_the_first_is_an_error():
    class Late(Brightness):
        def forward(self, x: Tensor) -> Tensor:
            bright = x.flatten(1).mean(1) > 0.8
            return torch.where(bright[:, None], torch.nan, super().forward(x))

    data = images()
    data.pixels[30] = 255
    with pytest.raises(ModelError, match="NaN"):
        run(Late(), [row("fgsm")], data)


def test_rounding_that_changes_nothing_changes_no_accuracy():
    outcome = run(noisy_rbfcnn(), [Row("null", "none", {})], passes=2)
    assert outcome.run.attacks[0].accuracy_8bit == outcome.run.attacks[0].accuracy


def test_a_model_that_declares_itself_deterministic_is_still_watched():
    class Liar(NoisyBrightness):
        stochastic = False

    assert inspect(Liar(), "liar", images(), CPU).stochastic


def test_a_model_that_edits_its_input_is_refused():
    class Careless(Brightness):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.sub_(0.1)) + 1

    with pytest.raises(ModelError, match="in-place"):
        inspect(Careless(), "careless", images(), CPU)


def test_a_defence_whose_whole_is_not_its_parts_is_refused():
    class TwoFaced(RBFCNN):
        def forward(self, x: Tensor) -> Tensor:
            return -super().forward(x)

    with pytest.raises(ModelError, match="agree"):
        inspect(TwoFaced(noisy_rbfcnn().reconstruction, Brightness()), "two-faced", images(), CPU)


def test_rounding_added_to_a_factory_shows_in_the_fingerprint():
    """On 8-bit images it changes nothing; the attacks it changes completely."""

    class Rounding(Brightness):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward((x * 15).round() / 15)

    data = images()
    # All pixels on the coarse grid, so that clean answers agree.
    data.pixels[:] = (data.pixels // 17) * 17
    plain, rounding = (inspect(model, "m", data, CPU) for model in (Brightness(), Rounding()))
    assert plain.fingerprint(data) != rounding.fingerprint(data)


def test_a_run_folder_answers_one_question(tmp_path):
    folder = RunFolder(tmp_path / "run")
    run(Brightness(), [row("fgsm")], folder=folder)
    with pytest.raises(LoadError, match="other settings"):
        run(Brightness(), [row("fgsm")], folder=folder, eps=0.1)
    again = run(Brightness(), [row("fgsm")], folder=folder, batch_size=5)  # the same question, cut otherwise
    assert again.run.status == "complete"


def test_the_python_api_leaves_a_model_as_it_was():
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 2), nn.Dropout(0.5)).train()
    x, y = images().batch(0, 8)
    first = attack(model, x, y, norm="linf", eps=0.05)
    assert model.training
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert first.clean.n == 8
    for wrong in ({"passes": 0}, {"eps": -1.0}, {"norm": "l7"}, {"suite": "none"}):
        with pytest.raises(UsageError):
            attack(model, x, y, **({"norm": "linf", "eps": 0.05} | wrong))
    for bad in (x.numpy(), x * 255, x[0], (x * 255).to(torch.uint8)):
        with pytest.raises(DataError):
            attack(model, bad, y, norm="linf", eps=0.05)


# nearest adversarial examples, survivors, surrogates, capped rows -----------------------------------------------------
@contextmanager
def patched(**functions):
    """A table with attacks of the test's own, by name: (function, fields of its row)."""
    with pytest.MonkeyPatch.context() as patch:
        for name, (_, fields) in functions.items():
            fields = {"passes": lambda p: (0, 0), "reference": "", "about": "", "gradient": False, **fields}
            patch.setitem(ATTACKS, name, AttackInfo(function=name, **fields))
        whole = AttackInfo.resolve
        patch.setattr(AttackInfo, "resolve", lambda self: functions.get(self.function, (None,))[0] or whole(self))
        yield


def to_the_border(oracle, x, y, *, norm, eps, rng):
    """The nearest wrong image of `Brightness`, a hair beyond its border, whatever the budget; dark images only."""
    mean = x.flatten(1).mean(1)[:, None, None, None]
    return torch.where(y[:, None, None, None] == 0, x + (0.5 - mean) + 1e-4, x)


def test_a_search_for_the_nearest_example_is_judged_under_the_budget_and_gives_the_curve():
    data = images()
    x, y = data.batch(0, len(data))
    distance = (x.flatten(1).mean(1) - 0.5).abs() + 1e-4
    dark = y == 0
    eps = float(distance[dark].sort().values[9:11].mean())
    with patched(border=(to_the_border, {"kind": "minimum-norm"})):
        outcome = run(Brightness(), [Row("border", "none", {})], data, eps=eps)
    result = outcome.run.attacks[0]
    assert result.invalid == 0  # farther ones are projected, not reported as cheats
    broken = dark & (distance <= eps)
    assert int(broken.sum()) == 10
    assert result.k == len(data) - 10
    for sample, d, there in zip(outcome.samples, distance.tolist(), dark.tolist(), strict=True):
        assert (sample.distance is not None) == there
        assert sample.distance is None or sample.distance == pytest.approx(d, abs=1e-6)
        assert sample.linf <= eps * (1 + 1e-5) + 1e-6
    for radius, accuracy in result.curve:
        assert accuracy == float((~dark | (distance > radius)).double().mean())
    assert dict(result.curve)[eps] == result.accuracy
    assert result.median_distance == pytest.approx(float(distance[dark].max()), abs=1e-6)  # half the images withstand


def test_a_nearest_example_that_is_not_finite_is_invalid():
    """Put right on the way, it would pass for an image that withstood."""
    lost = 0

    def breaks_down(oracle, x, y, *, norm, eps, rng):
        nonlocal lost
        lost += 1
        x_adv = to_the_border(oracle, x, y, norm=norm, eps=eps, rng=rng)
        x_adv[0, 0, 0, 0] = torch.nan
        return x_adv

    with patched(down=(breaks_down, {"kind": "minimum-norm"})):
        outcome = run(Brightness(), [Row("down", "none", {})], eps=1.0)
    (row,) = outcome.run.attacks
    assert row.invalid == lost > 0
    assert [s.status for s in outcome.samples].count("invalid") == lost


def test_the_nearest_example_of_a_random_model_has_no_distance():
    """It lies where half of all decisions take it back, so luck decides what length is found."""
    model, data = NoisyBrightness(), images()
    with patched(border=(to_the_border, {"kind": "minimum-norm"})):
        outcome = run(model, [Row("border", "none", {})], data, eps=1.0)
    (row,) = outcome.run.attacks
    assert outcome.run.model["stochastic"]
    assert (row.curve, row.median_distance) == (None, None)
    assert all(sample.distance is None for sample in outcome.samples)
    assert row.accuracy < 1


def test_a_claimed_nearest_example_that_the_model_gets_right_has_no_distance():
    def boast(oracle, x, y, *, norm, eps, rng):
        return (x + 1e-3).clamp(0, 1)

    with patched(boast=(boast, {"kind": "minimum-norm"})):
        outcome = run(Brightness(), [Row("boast", "none", {})], eps=0.01)
    assert outcome.run.attacks[0].accuracy == 1
    assert outcome.run.attacks[0].curve is None
    assert "moved-nothing" not in fired(outcome)
    assert all(sample.distance is None for sample in outcome.samples)


def test_an_attack_that_changes_no_image_is_told():
    def nothing(oracle, x, y, *, norm, eps, rng):
        return x.clone()

    with patched(nothing=(nothing, {})):
        outcome = run(Brightness(), [Row("nothing", "none", {}), row("fgsm")])
    assert "moved-nothing" in fired(outcome)
    assert outcome.run.attacks[0].unmoved == outcome.run.attacks[0].attacked == 40
    assert outcome.run.attacks[1].unmoved == 0


def test_survivors_only_get_later_attacks_and_the_worst_case_is_the_same(tmp_path):
    data = images()
    rows = [row("fgsm"), row("pgd", steps=10), row("mi-fgsm")]
    whole = run(Brightness(), rows, data, eps=0.25)
    folder = RunFolder(tmp_path / "run")
    spare = run(Brightness(), rows, data, folder=folder, eps=0.25, worst_case=True)
    assert 0 < spare.run.worst_case.k < len(data)
    assert spare.run.worst_case.k == whole.run.worst_case.k == spare.run.attacks[-1].k
    first, *later = spare.run.attacks
    assert first.k == whole.run.attacks[0].k
    assert all(r.cumulative_accuracy == r.accuracy for r in spare.run.attacks)
    broken = {s.image for s in spare.samples if s.attack == "fgsm/static" and s.correct == 0}
    for s in spare.samples:
        if s.attack != "fgsm/static":
            assert (s.status == "spared") == (s.image in broken)
            assert s.status != "spared" or s.forwards == 0
    assert later[0].forwards == whole.run.attacks[1].forwards  # the mean is over attacked images
    again = run(Brightness(), rows, data, folder=RunFolder(tmp_path / "run"), eps=0.25, worst_case=True)
    assert again.samples == spare.samples


def test_only_a_search_that_was_at_all_images_gives_a_curve(tmp_path, monkeypatch):
    rows = [row("fgsm"), row("fab-t")]
    whole = run(Brightness(), rows, eps=0.25).run.attacks[1]
    assert whole.accuracy == 0.725
    assert whole.curve[2:5] == [(0.1875, 1.0), (0.25, 0.725), (0.375, 0.0)]
    assert whole.median_distance == pytest.approx(0.2771, abs=1e-4)
    with monkeypatch.context() as patch:  # a cell of a release that summed up otherwise
        patch.setattr(summary, "_searched", lambda samples: True)
        old = run(Brightness(), rows, eps=0.25, worst_case=True, folder=RunFolder(tmp_path / "run")).run.attacks[1]
    assert old.curve is not None
    for folder in (None, RunFolder(tmp_path / "run")):
        spare = run(Brightness(), rows, eps=0.25, worst_case=True, folder=folder).run.attacks[1]
        assert (spare.accuracy, spare.attacked) == (0.725, 29)
        assert (spare.curve, spare.median_distance) == (None, None)
    assert spare.wall_s == old.wall_s  # resumed
    first = run(Brightness(), rows[::-1], eps=0.25, worst_case=True).run.attacks[0]
    assert (first.curve, first.median_distance) == (whole.curve, whole.median_distance)


def test_a_search_that_goes_on_from_a_smaller_ball_gives_the_whole_curve():
    data, rows = images(), [row("fab-t")]
    target = inspect(Brightness(), "toy", data, CPU)
    smaller = evaluate(target, data, spec(rows, data, eps=0.25)).samples
    nested = evaluate(target, data, spec(rows, data, eps=0.28), smaller=smaller).run.attacks[0]
    alone = evaluate(target, data, spec(rows, data, eps=0.28)).run.attacks[0]
    assert (nested.attacked, alone.attacked) == (29, 40)
    assert nested.curve == alone.curve
    assert dict(nested.curve)[0.28] == nested.accuracy == 0.5
    assert nested.median_distance == alone.median_distance
    rows = [row("fgsm"), row("fab-t")]
    smaller = evaluate(target, data, spec(rows, data, eps=0.25, worst_case=True)).samples
    survivors = evaluate(target, data, spec(rows, data, eps=0.28, worst_case=True), smaller=smaller).run.attacks[1]
    assert (survivors.accuracy, survivors.curve, survivors.median_distance) == (0.5, None, None)


@pytest.mark.parametrize("transfer", [False, True])
def test_the_null_control_has_a_copy_for_each_row_of_the_worst_case(transfer, monkeypatch):
    """A choice among more candidates is luckier, so the control has to choose among as many."""
    copies = []
    control = engine._Job.null_control
    monkeypatch.setattr(engine._Job, "null_control", lambda job, n: copies.append(n) or control(job, n))
    data = images(8)
    surrogate = inspect(Brightness(), "other", data, CPU)
    rows = [row("fgsm", "eot"), row("transfer", "none", steps=1), row("noise", "none")]
    asked = spec(rows, data, passes=2, include_transfer=transfer)
    evaluate(inspect(NoisyBrightness(), "toy", data, CPU), data, asked, surrogates=[surrogate])
    assert copies == [2 if transfer else 1]


def test_what_a_random_surrogate_draws_follows_from_the_seed_alone(tmp_path):
    data, folder = images(12), RunFolder(tmp_path / "run")
    surrogate = inspect(NoisyBrightness(), "other", data, CPU)
    target = inspect(Brightness(), "toy", data, CPU)
    rows = [row("transfer", "none", steps=3)]
    made = []
    for seed, kept in ((1, folder), (2, None)):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        outcome = evaluate(target, data, spec(rows, data, eps=0.2), surrogates=[surrogate], folder=kept)
        assert torch.equal(torch.get_rng_state(), before)
        made.append([(s.linf, s.l2, s.l1) for s in outcome.samples])
    assert made[0] == made[1]
    # What it draws belongs to a batch: the cells of one size do not serve another.
    evaluate(target, data, spec(rows, data, eps=0.2, batch_size=4), surrogates=[surrogate], folder=folder)
    assert len(list((tmp_path / "run" / "cells").iterdir())) == 2


def test_rows_outside_the_worst_case_stand_for_themselves_among_survivors_only():
    data = images()
    surrogate = inspect(Brightness(), "other", data, CPU)
    target = inspect(Contrary(), "toy", data, CPU)
    rows = [row("fgsm"), row("transfer", "none", steps=5), row("noise", "none"), row("pgd", steps=5)]
    spare = evaluate(target, data, spec(rows, data, eps=0.2, worst_case=True), surrogates=[surrogate]).run
    whole = evaluate(target, data, spec(rows, data, eps=0.2), surrogates=[surrogate]).run
    assert 0 < spare.attacks[0].k < spare.clean.k
    for i, cumulative in enumerate((True, False, False, True)):
        assert (spare.attacks[i].cumulative_accuracy is not None) == cumulative
        assert cumulative or spare.attacks[i].attacked == spare.clean.k
    assert [r.k for r in spare.attacks[1:3]] == [r.k for r in whole.attacks[1:3]]
    assert spare.attacks[3].attacked == spare.attacks[0].k


def test_a_black_box_that_does_better_than_gradients_is_told():
    class Hidden(Brightness):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.detach() + 0 * x)

    rows = [row("pgd", steps=5), row("square", "none", queries=100)]
    assert "black-box-stronger" in fired(run(Hidden(), rows))
    assert "black-box-stronger" not in fired(run(Brightness(), rows))
    capped = [rows[0], dataclasses.replace(rows[1], limit=20)]  # compared on the images that both hold
    assert "black-box-stronger" in fired(run(Hidden(), capped))
    assert "black-box-stronger" not in fired(run(Brightness(), capped))
    assert "black-box-stronger" in fired(run(Hidden(), capped[::-1]))
    few = [rows[0], dataclasses.replace(rows[1], limit=5)]
    assert "black-box-stronger" not in fired(run(Hidden(), few)), "2^-5 is not seldom"
    short = [*rows, dataclasses.replace(row("mi-fgsm"), limit=3)]
    assert "black-box-stronger" in fired(run(Hidden(), short)), "three images cannot tell, and do not gainsay"
    one_step = [row("fgsm"), *rows]
    assert "black-box-stronger" in fired(run(Hidden(), [one_step[0], one_step[2]])), "there is no other"
    assert "black-box-stronger" not in fired(run(Brightness(), one_step))
    assert "black-box-stronger" not in fired(run(Brightness(), [dataclasses.replace(rows[0], limit=8), rows[1]]))


def test_a_model_without_gradients_is_described_so_and_met_by_black_boxes():
    class Rounded(Brightness):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(torch.from_numpy(np.round(x.detach().numpy() * 255) / 255).float())

    class Demanding(Brightness):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(torch.from_numpy(x.numpy()))  # torch refuses while x wants its gradient

    data = images()
    for model in (Rounded(), Demanding()):
        target = inspect(model, "toy", data, CPU)
        assert not target.differentiable
        assert target.card["differentiable"] is False
        assert target.card["views"] == []
        outcome = run(model, [row("pgd"), row("square", "none", queries=100)])
        assert [r.id for r in outcome.run.attacks] == ["square"]
        assert outcome.run.attacks[0].k < outcome.run.clean.k
        assert "rows-left-out" in fired(outcome)
    assert inspect(Brightness(), "toy", data, CPU).differentiable


def test_draws_that_score_a_random_model_do_not_decide_who_is_attacked_on():
    data = images(200)
    rows = [row("fgsm", "eot"), row("pgd", "eot", draws=2, steps=2)]
    outcome = run(NoisyBrightness(), rows, data, eps=1e-6, passes=10, worst_case=True)
    # As above: nothing was attacked for real, so whatever is missing from clean accuracy is luck.
    assert abs(outcome.run.worst_case.accuracy - outcome.run.clean.accuracy) < 0.1


def test_a_capped_row_takes_the_first_images_and_says_so():
    data = images()
    capped = dataclasses.replace(row("pgd", steps=10), limit=10)
    outcome = run(Brightness(), [row("fgsm"), capped], data, eps=0.25)
    assert [(r.n, r.id) for r in outcome.run.attacks] == [(len(data), "fgsm/static"), (10, "pgd/static")]
    assert {s.image for s in outcome.samples if s.attack == "pgd/static"} == set(data.ids[:10])
    assert outcome.run.worst_case.n == len(data)


class Contrary(Brightness):
    """Rises with brightness like `Brightness`, but its border lies elsewhere."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.tensor([[-2.0, 2.0]])


def test_transfer_attacks_the_surrogate_and_scores_the_target_in_both_conventions():
    data = images()
    target = inspect(Contrary(), "toy", data, CPU)
    surrogate = inspect(Brightness(), "other", data, CPU)
    rows = [row("transfer", "none", steps=5), row("fgsm")]
    outcome = evaluate(target, data, spec(rows, data, eps=0.2), surrogates=[surrogate])
    transferred, fgsm = outcome.run.attacks
    assert transferred.category == "transfer"
    # Both gradients are the same for all images, so a sign attack on either makes the same images.
    assert transferred.k == fgsm.k
    assert transferred.accuracy_of_right == pytest.approx(transferred.k / outcome.run.clean.k)
    assert transferred.forwards == 6
    assert outcome.run.worst_case.strongest == "fgsm/static"
    only = evaluate(target, data, spec(rows[:1], data, eps=0.2), surrogates=[surrogate])
    assert only.run.worst_case is None
    included = evaluate(target, data, spec(rows[:1], data, eps=0.2, include_transfer=True), surrogates=[surrogate])
    assert included.run.worst_case.k == transferred.k
    itself = evaluate(surrogate, data, spec(rows[:1], data, eps=0.2), surrogates=[surrogate])
    assert "surrogate-is-target" in fired(itself)
    assert "surrogate-is-target" not in fired(outcome)
    alone = evaluate(target, data, spec(rows, data, eps=0.2))
    assert "rows-left-out" in fired(alone)


def test_coupled_attacks_get_the_same_groups_whatever_the_batch():
    seen: list[frozenset] = []

    def herd(oracle, x, y, *, norm, eps, rng, particles=6):
        seen.append(frozenset(rng.images.tolist()))
        return x.clone()

    data = images()
    with patched(herd=(herd, {"coupled": True})):
        for size in (4, 64):
            run(Brightness(), [Row("herd", "none", {"particles": 6})], data, batch_size=size)
    first, second = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    assert first == second
    assert [len(group) for group in first] == [6] * 6 + [4]
    seen.clear()
    with patched(herd=(herd, {"coupled": True})):
        run(Contrary(), [Row("herd", "none", {"particles": 6})], data)
    assert all(any(group <= other for other in first) for group in seen)  # a wrong image leaves its group, no more


def test_a_capped_coupled_attack_does_what_a_run_of_its_images_does(monkeypatch):
    few, many = images(40), images(200)
    assert many.ids[:40] == few.ids
    whole = row("daa-blob", steps=20, step_size=0.1, particles=16, weight=0.1)
    capped = dataclasses.replace(whole, limit=40)
    groups = []
    attack_batch = engine._Job._attack_batch

    def watched(job, row, view, examples, where):
        groups.append({job.images.ids[i] for i in where})
        return attack_batch(job, row, view, examples, where)

    monkeypatch.setattr(engine._Job, "_attack_batch", watched)
    alone = run(Brightness(), [whole], few, eps=0.4)
    within = run(Brightness(), [capped], many, eps=0.4)
    assert groups[:3] == groups[3:]
    assert [len(group) for group in groups] == [16, 16, 8] * 2
    assert within.samples == alone.samples
    assert within.run.attacks[0].k == 20
