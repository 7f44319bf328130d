"""Randomised smoothing: a linear model's true radius, fresh draws, resuming, and independence of the batch."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import time

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy.stats import norm
from torch import Tensor, nn

import rbfbench
from rbfbench.attacks.rng import Keys
from rbfbench.cli import cli
from rbfbench.errors import LoadError, ModelError, UsageError
from rbfbench.evaluation.certify import CertifySpec, _Kept, _Store, certify, counts
from rbfbench.evaluation.certify import certificate as certify_one
from rbfbench.evaluation.loading import load_target
from rbfbench.evaluation.target import inspect
from rbfbench.results.certificates import Certificate

CPU = torch.device("cpu")


class HalfSpace(nn.Module):
    """Class 1 where the mean pixel is above a level; the true smoothed radius is the distance to that plane."""

    def __init__(self, level: float) -> None:
        super().__init__()
        self.level = level

    def forward(self, x: Tensor) -> Tensor:
        side = x.flatten(1).mean(1) - self.level
        return torch.stack([-side, side], dim=1)

    def radius(self, x: Tensor) -> Tensor:
        """Distance (N,)."""
        flat = x.flatten(1).double()
        return (flat.mean(1) - self.level).abs() * math.sqrt(flat.shape[1])


def digits(n: int):
    return rbfbench.load_data("digits").head(n)


def spec(**changed: object) -> CertifySpec:
    return CertifySpec(**({"model": "toy", "dataset": "digits", "sigma": 0.2, "n": 2000} | changed))


def two_classes(n: int):
    """The digits with labels by the half space itself."""
    images = digits(n)
    x, _ = images.batch(0, n)
    labels = HalfSpace(0.3)(x).argmax(1).numpy()
    return dataclasses.replace(images, labels=labels, classes=("dark", "bright"))


def test_certified_radii_of_a_half_space_are_below_its_distance(device):
    """At alpha 0.05, at most 5% of certificates may be too large; 40 images leave room for seven at four deviations."""
    images = two_classes(40)
    model = HalfSpace(0.3)
    target = inspect(model, "toy", images, device)
    done = certify(target, images, spec(alpha=0.05))
    true = model.radius(images.batch(0, 40)[0])
    found = torch.tensor([each.radius for each in done.certificates], dtype=torch.float64)
    assert int((found > true).sum()) <= 40 * 0.05 + 4 * math.sqrt(40 * 0.05 * 0.95)
    # Where the plane is within reach, the bound is near: the count is binomial with a known share.
    for certificate, distance in zip(done.certificates, true.tolist(), strict=True):
        share = norm.cdf(distance / 0.2)
        if certificate.top == certificate.label:
            assert abs(certificate.k - 2000 * share) <= 6 * math.sqrt(2000 * share * (1 - share)) + 1
    assert done.certified[0].k + done.abstained <= 40


def smoothed_attack(model: nn.Module, x: Tensor, label: int, radius: float, sigma: float) -> Tensor:
    """The point of the l2 sphere that gradients of the smoothed class probability find (arXiv 1906.04584, Eq. 6)."""
    generator = torch.Generator().manual_seed(1)
    delta = 1e-3 * torch.randn(x.shape, generator=generator)
    for _ in range(15):
        delta.requires_grad_()
        noise = sigma * torch.randn(64, *x.shape[1:], generator=generator)
        lost = -model(x + delta + noise).softmax(1)[:, label].mean().log()
        (gradient,) = torch.autograd.grad(lost, delta)
        delta = delta.detach() + radius * gradient / gradient.norm()
        delta = radius * delta / delta.norm()
    return x + delta


def test_no_attack_on_the_smoothed_model_wins_within_its_certificates():
    """The theorem holds in all of space: the attack is not bound to the box. Outside, it does win."""
    images, sigma, n = digits(16), 0.25, 1000
    model = rbfbench.load_model("cnn", "digits").eval().requires_grad_(False)
    target = inspect(model, "cnn", images, CPU)
    done = certify(target, images, spec(sigma=sigma, n=n))
    certified = [(i, each) for i, each in enumerate(done.certificates) if each.radius > 0]
    assert len(certified) >= 10

    def answer(i: int, x: Tensor) -> int:
        keys = Keys.of(images.ids, 0)[slice(i, i + 1)].fold("afterwards")
        return int(counts(target, x, keys, n=n, sigma=sigma).argmax())

    lost = 0
    for i, each in certified:
        x = images.batch(i, i + 1)[0]
        assert answer(i, smoothed_attack(model, x, each.prediction, 0.99 * each.radius, sigma)) == each.prediction
        lost += answer(i, smoothed_attack(model, x, each.prediction, 4 * each.radius, sigma)) != each.prediction
    assert lost >= len(certified) / 2, "the attack is one"


def test_choosing_and_counting_use_different_draws():
    images = two_classes(1)
    target = inspect(HalfSpace(float(images.batch(0, 1)[0].mean())), "toy", images, CPU)
    x, keys = images.batch(0, 1)[0], Keys.of(images.ids, 0).fold("certify")
    first = counts(target, x, keys.fold("choose"), n=1000, sigma=0.2)
    second = counts(target, x, keys.fold("count"), n=1000, sigma=0.2)
    assert first.sum() == second.sum() == 1000
    assert (first != second).any()


def test_counts_do_not_depend_on_the_batch_and_longer_runs_begin_alike():
    images = digits(1)
    target = load_target("rcnn+", images, CPU)
    x, keys = images.batch(0, 1)[0], Keys.of(images.ids, 0)
    found = []
    for rows in (7, 1000):
        target.max_rows = rows
        found.append(counts(target, x, keys, n=60, sigma=0.3))
    assert np.array_equal(*found)


def test_a_random_model_draws_anew_in_every_pass():
    """With the same Gaussian noise, answers of a very noisy rcnn+ scatter more than those of its noise-free self."""
    images = digits(12)
    loud, quiet = (load_target("rcnn+", images, CPU, knobs={"beta2": beta2}) for beta2 in (6.0, 0.0))
    keys = Keys.of(images.ids, 0)
    spread = [
        [counts(target, images.batch(i, i + 1)[0], keys[slice(i, i + 1)], n=40, sigma=0.05).max() for i in range(12)]
        for target in (loud, quiet)
    ]
    assert np.mean(spread[0]) < np.mean(spread[1])


def test_draws_of_a_model_that_draws_once_a_call_are_independent():
    """Tossing a coin, once for all images of a call: the count is binomial, not all or nothing."""

    class Coin(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits = torch.zeros(len(x), 2)
            logits[:, int(torch.rand(()) < 0.5)] = 1
            return logits

    images = two_classes(8)
    target = inspect(Coin(), "toy", images, CPU)
    target.stochastic, target.max_rows = True, 1000  # two answers can agree by chance
    heads, _ = counts(target, images.batch(0, 1)[0], Keys.of(images.ids, 0)[:1], n=1000, sigma=0.2)
    assert abs(heads - 500) < 5 * math.sqrt(1000 / 4)


def test_a_model_whose_noise_is_fixed_answers_by_all_its_passes():
    """Almost without Gaussian noise every draw gets the model's own answer, which is not that of its first pass."""
    images = digits(40)
    target = load_target("rcnn+", images, CPU, knobs={"noise_scope": "model", "beta2": 4.0, "m": 5})
    assert not target.stochastic
    x, _ = images.batch(0, 40)
    keys = Keys.of(images.ids, 0)
    answers = target.decide(x, keys)[0].argmax(1)
    first = target.views["none"].forward(x, keys).argmax(1)
    assert (answers != first).any()
    for i in range(40):
        found = counts(target, x[i : i + 1], keys[slice(i, i + 1)], n=3, sigma=1e-9)
        assert found[answers[i]] == 3


def test_certificates_of_single_passes_are_not_taken_for_those_of_fixed_noise(tmp_path):
    """Earlier releases kept such certificates under a name without the number of passes."""
    images = digits(1)
    target = load_target("rcnn+", images, CPU, knobs={"noise_scope": "model", "m": 2})
    old = _Store(tmp_path, spec(n=100), target.fingerprint(images), None, None)
    bogus = Certificate(image=images.ids[0], label=0, prediction=0, top=0, k=77, radius=9.0)
    old.write(_Kept(certificate=bogus, wall_s=1.0))
    assert old.read(bogus.image, 0) == _Kept(certificate=bogus, wall_s=1.0)
    (found,) = certify(target, images, spec(n=100), folder=tmp_path).certificates
    assert found.radius != bogus.radius
    again = _Store(tmp_path, spec(n=100), target.fingerprint(images), None, 2)
    assert again.read(bogus.image, found.label).certificate == found


def test_python_users_certify_tensors():
    images = two_classes(2)
    x, y = images.batch(0, 2)
    model = HalfSpace(0.3).train()
    done = rbfbench.certify(model, x, y, sigma=0.2, n=1000, radii=(0.1,))
    assert [row.radius for row in done.certified] == [0.0, 0.1]
    assert done.spec["n"] == 1000
    assert model.training
    with pytest.raises(UsageError, match="sigma = 0 certifies nothing"):
        rbfbench.certify(model, x, y, sigma=0)


def test_certificates_are_kept_and_damaged_ones_made_again(tmp_path):
    images = two_classes(3)
    target = inspect(HalfSpace(0.3), "toy", images, CPU)
    first = certify(target, images, spec(), folder=tmp_path)
    files = sorted((tmp_path / "certificates").iterdir())
    assert len(files) == 3
    files[0].write_text("{")
    files[1].unlink()
    asked = []
    again = certify(target, images, spec(), folder=tmp_path, progress=lambda done, total: asked.append(done))
    assert again.certificates == first.certificates
    with pytest.raises(LoadError, match="it holds a run with other settings"):
        certify(target, images, spec(sigma=0.1), folder=tmp_path)
    assert len(list((tmp_path / "certificates").iterdir())) == 3


def test_kept_certificates_are_judged_by_the_labels_of_the_images_at_hand(tmp_path):
    """A certificate does not depend on the label: it is found again, and nothing of the old label with it."""
    images = two_classes(3)
    flipped = dataclasses.replace(images, labels=1 - images.labels)
    target = inspect(HalfSpace(0.3), "toy", images, CPU)
    first = certify(target, images, spec(), folder=tmp_path)
    assert first.certified[0].k == 2  # and one abstains
    again = certify(target, flipped, spec(), folder=tmp_path)
    assert again.certificates == certify(target, flipped, spec()).certificates
    assert again.certified[0].k == 0
    assert again.wall_s == first.wall_s, "and nothing was computed anew"


def test_a_run_that_finds_its_certificates_counts_the_time_that_they_took(tmp_path):
    images = two_classes(3)
    target = inspect(HalfSpace(0.3), "toy", images, CPU)
    began = time.monotonic()
    first = certify(target, images, spec(), folder=tmp_path)
    assert 0 < first.wall_s <= time.monotonic() - began
    assert certify(target, images, spec(), folder=tmp_path).wall_s == first.wall_s


def test_an_interrupt_keeps_what_is_done(tmp_path):
    images = two_classes(3)
    target = inspect(HalfSpace(0.3), "toy", images, CPU)

    def stop(done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    done = certify(target, images, spec(), folder=tmp_path, progress=stop)
    assert done.status == "started"
    assert len(done.certificates) == 1
    whole = certify(target, images, spec(), folder=tmp_path)
    assert whole.status == "complete"
    assert whole.certificates == certify(target, images, spec()).certificates


def test_answers_that_are_not_finite_are_an_error():
    images = two_classes(2)
    model = HalfSpace(0.3)
    target = inspect(model, "toy", images, CPU)
    target.model = lambda x: model(x) / (x.amin() >= 0).float()  # noise leaves [0,1]
    with pytest.raises(ModelError, match="NaN or infinite under noise"):
        certify(target, images, spec())


def test_a_model_that_fails_under_noise_gets_one_line():
    images = two_classes(2)
    model = HalfSpace(0.3)
    target = inspect(model, "toy", images, CPU)

    def strict(x: Tensor) -> Tensor:
        if x.min() < 0:
            raise ValueError("not an\nimage")
        return model(x)

    target.model = strict
    with pytest.raises(ModelError, match="under noise it raised ValueError: not an image"):
        certify(target, images, spec())


def test_certificates_of_a_model_that_takes_no_keys_do_not_depend_on_the_batch(tmp_path):
    """Each draw is a call of its own, so a certificate of another batch is found again."""
    images = two_classes(1)
    target = inspect(lambda x: HalfSpace(0.3)(x) + torch.randn(len(x), 2), "toy", images, CPU)
    assert not target.card["batch_invariant"]
    apart = [certify(target, images, spec(n=50), batch_size=size).certificates for size in (7, 1000)]
    assert apart[0] == apart[1]
    for size in (7, 1000):
        certify(target, images, spec(n=50), batch_size=size, folder=tmp_path)
    assert len(list((tmp_path / "certificates").iterdir())) == 1


@pytest.mark.parametrize(
    "wrong",
    [{"sigma": 0.0}, {"n": 0}, {"n0": 0}, {"alpha": 0.5}, {"alpha": 1e-17}, {"alpha": math.nan}, {"radii": (-1.0,)}],
)
def test_numbers_without_meaning_are_refused(wrong):
    with pytest.raises(UsageError, match="certifies nothing"):
        spec(**wrong)


def test_the_command_prints_the_ceiling_and_writes_its_document(tmp_path):
    asked = ["certify", "--model", "cnn", "--dataset", "digits", "--sigma", "0.1", "--n", "500", "--limit", "5"]
    asked += ["--device", "cpu", "--radii", "0.1,0.5", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(cli, asked)
    assert done.exit_code == 0, (done.output, done.exception)
    assert "above the ceiling" in done.stdout
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    document = json.loads((tmp_path / "out" / "certify.json").read_text())
    assert document["status"] == "complete"
    assert document["ceiling"] == pytest.approx(0.1 * norm.ppf(0.001 ** (1 / 500)))
    assert [row["radius"] for row in document["certified"]] == [0.0, 0.1, 0.5]
    assert document["certified"][2]["k"] == 0
    again = CliRunner().invoke(cli, [*asked, "--json", "-"])
    assert json.loads(again.stdout)["certificates"] == document["certificates"]


@pytest.mark.parametrize("out", [("--out", "kept"), ()], ids=["kept", "shown"])
def test_certificates_that_were_stopped_are_marked_wherever_they_are_shown(tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    make, calls = certify_one, []

    def stopping(*arguments, **named):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return make(*arguments, **named)

    monkeypatch.setattr("rbfbench.evaluation.certify.certificate", stopping)
    asked = ["certify", "--model", "cnn", "--dataset", "digits", "--n", "50", "--limit", "5", "--device", "cpu"]
    done = CliRunner().invoke(cli, [*asked, *out])
    assert done.exit_code == 130
    assert f"interrupted: 2 of 5 images are done and {'shown and kept' if out else 'shown'}\n" in done.stderr
    marked = "UNFINISHED: 2 of 5 images certified, the first ones"
    assert marked in " ".join(done.stdout.split())
    assert "the same --out goes on" not in done.stdout
    if not out:
        return
    for ending in ("md", "tex", "html"):
        assert CliRunner().invoke(cli, ["report", "kept", "--out", f"r.{ending}"]).exit_code == 0
        assert marked in (tmp_path / f"r.{ending}").read_text()
    assert CliRunner().invoke(cli, ["report", "kept", "--out", "r.csv"]).exit_code == 0
    rows = list(csv.DictReader((tmp_path / "r.csv").read_text().splitlines()))
    assert {row["status"] for row in rows} == {"started"}
