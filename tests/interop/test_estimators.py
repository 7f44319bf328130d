"""RBF-CNN inside ART and foolbox, their models inside rbfbench, and our own attacks beside theirs."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rbfbench
from rbfbench.attacks import ATTACKS
from rbfbench.attacks.losses import margin
from rbfbench.attacks.oracle import Oracle
from rbfbench.attacks.rng import Keys
from rbfbench.errors import UsageError
from rbfbench.interop.adapt import adapted
from rbfbench.interop.viewed import Viewed

EPS = 0.15


def digits(n: int = 20) -> tuple[Tensor, Tensor]:
    return rbfbench.load_data("digits").batch(0, n)


def defence(**constants: object) -> nn.Module:
    return rbfbench.load_model("rcnn+", "digits", **constants)


# the view -------------------------------------------------------------------------------------------------------------
def test_without_gradient_a_view_is_the_decision():
    model = defence()
    x, _ = digits(3)
    for view in ("static", "eot", "bpda", "bpda-eot"):
        viewed = Viewed(model, view, 4).eval()
        torch.manual_seed(0)
        first = viewed(x)
        torch.manual_seed(0)
        assert torch.equal(first, model(x))
        assert not torch.equal(first, viewed(x))  # fresh noise


def test_the_static_view_is_the_noise_free_graph():
    model = defence()
    x, _ = digits(3)
    leaf = x.clone().requires_grad_()
    seen = Viewed(model, "static").eval()(leaf)
    assert torch.allclose(seen, model.classify(model.front_static(x)).log_softmax(1), atol=1e-6)


@pytest.mark.parametrize("view", ["eot", "bpda-eot"])
def test_averaging_views_are_the_mean_probability_with_their_own_gradients(view):
    model = defence()
    x, _ = digits(2)
    leaf = x.clone().requires_grad_()
    torch.manual_seed(0)
    seen = Viewed(model, view, 5).eval()(leaf)
    torch.manual_seed(0)
    with torch.no_grad():
        runs = model.classify(model.front(x, draws=5)).softmax(1).view(2, 5, -1)
    assert torch.allclose(seen.exp(), runs.mean(1), atol=1e-6)
    (gradient,) = torch.autograd.grad(seen[:, 0].sum(), leaf)
    assert (gradient.flatten(1).abs().sum(1) > 0).all()


def test_wrong_views_are_refused():
    with pytest.raises(UsageError, match="did you mean 'eot'"):
        Viewed(defence(), "eott")
    with pytest.raises(UsageError, match="averages nothing"):
        Viewed(defence(), "eot", 0)


# ART ------------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def art() -> type:
    warnings.simplefilter("ignore")
    from rbfbench.interop.art_classifier import RBFCNNClassifier

    return RBFCNNClassifier


def ours(model: nn.Module, x: Tensor, y: Tensor, **parameters: object) -> Tensor:
    info = ATTACKS["pgd"]
    settled = {key: p.default for key, p in info.parameters.items()} | parameters
    oracle = Oracle(lambda x, keys: model.classify(model.front_static(x)), None, len(x), exact=False)
    keys = Keys.of([str(i) for i in range(len(x))], 0)
    return info.resolve()(oracle, x, y, norm="linf", eps=EPS, rng=keys, **settled)


def same_walk(model: nn.Module, x: Tensor, y: Tensor, theirs: Tensor) -> None:
    """Ten steps of our PGD end where theirs did, or at an earlier point with a higher margin: ours keeps its best."""
    mine = ours(model, x, y, steps=10, step_size=0.02, random_start=False)
    with torch.no_grad():
        further = margin(model(mine), y) > margin(model(theirs), y)
        assert (margin(model(theirs), y) > margin(model(x), y)).double().mean() > 0.9
    equal = (mine - theirs).flatten(1).abs().amax(1) < 1e-6
    assert (equal | further).all()
    assert equal.double().mean() > 0.5


def test_art_pgd_on_the_static_view_is_our_pgd(art):
    """The same steps from the same point, on the model without noise, so that nothing is random."""
    from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent

    model = defence(beta2=0.0)
    x, y = digits()
    estimator = art(model, (1, 8, 8), 10, view="static", device_type="cpu")
    made = ProjectedGradientDescent(estimator, eps=EPS, eps_step=0.02, max_iter=10, verbose=False).generate(
        x.numpy(), y.numpy()
    )
    same_walk(model, x, y, torch.from_numpy(made))
    single = FastGradientMethod(estimator, eps=EPS).generate(x.numpy(), y.numpy())
    assert np.abs(single - x.numpy()).max() <= EPS + 1e-6


def test_art_sees_the_decision_and_the_gradients_of_the_view(art):
    model = defence()
    x, y = digits(4)
    quiet = defence(beta2=0.0)
    with torch.no_grad():
        answers = quiet(x).numpy()
    assert np.allclose(art(quiet, (1, 8, 8), 10, device_type="cpu").predict(x.numpy()), answers, atol=1e-6)
    estimator = art(model, (1, 8, 8), 10, view="eot", draws=3, device_type="cpu")
    predicted = estimator.predict(x.numpy())
    assert not np.allclose(predicted, estimator.predict(x.numpy()), atol=1e-3)  # fresh noise each time
    assert np.allclose(np.exp(predicted).sum(1), 1, atol=1e-5)  # logarithms of the mean probability
    assert isinstance(predicted, np.ndarray)
    assert predicted.dtype == np.float32
    torch.manual_seed(2)
    gradient = estimator.loss_gradient(x.numpy(), np.eye(10, dtype=np.float32)[y.numpy()])
    torch.manual_seed(2)
    leaf = x.clone().requires_grad_()
    loss = nn.functional.cross_entropy(Viewed(model, "eot", 3).eval()(leaf), y)
    assert np.allclose(gradient, torch.autograd.grad(loss, leaf)[0].numpy(), atol=1e-6)
    assert estimator.class_gradient(x.numpy()).shape == (4, 10, 1, 8, 8)
    assert estimator.class_gradient(x.numpy(), label=3).shape == (4, 1, 1, 8, 8)


def test_arts_own_attacks_run_unmodified(art):
    from art.attacks import evasion

    x, y = digits(3)
    estimator = art(defence(m=2), (1, 8, 8), 10, view="eot", draws=2, device_type="cpu")
    attacks = {
        "cw": evasion.CarliniL2Method(estimator, max_iter=2, binary_search_steps=1, verbose=False),
        "ead": evasion.ElasticNet(estimator, max_iter=2, binary_search_steps=1, verbose=False),
        "apgd": evasion.AutoProjectedGradientDescent(estimator, eps=EPS, max_iter=3, nb_random_init=1, verbose=False),
        "hsj": evasion.HopSkipJump(estimator, max_iter=1, max_eval=20, init_eval=10, init_size=20, verbose=False),
        "square": evasion.SquareAttack(estimator, eps=EPS, max_iter=10, nb_restarts=1, verbose=False),
    }
    for name, attack in attacks.items():
        made = attack.generate(x.numpy(), np.eye(10, dtype=np.float32)[y.numpy()])
        assert made.shape == (3, 1, 8, 8), name
        assert np.isfinite(made).all(), name
        assert made.min() >= 0, name
        assert made.max() <= 1, name
        if name in ("apgd", "square"):
            length = np.abs(made - x.numpy()).max()
            assert 0.5 * EPS < length <= EPS + 1e-6, name  # it walked, and kept to its budget


def test_arts_preprocessing_and_postprocessing_and_metrics_work(art):
    from art.defences.postprocessor import Rounded
    from art.defences.preprocessor import SpatialSmoothing
    from art.metrics import clever_u, empirical_robustness

    x, _ = digits(4)
    estimator = art(
        defence(beta2=0.0),
        (1, 8, 8),
        10,
        view="static",
        preprocessing_defences=[SpatialSmoothing(window_size=3, channels_first=True)],
        postprocessing_defences=[Rounded(decimals=1)],
        device_type="cpu",
    )
    predicted = estimator.predict(x.numpy())
    assert np.allclose(predicted, predicted.round(1))
    plain = art(defence(beta2=0.0), (1, 8, 8), 10, view="static", device_type="cpu")
    assert not np.allclose(predicted, plain.predict(x.numpy()), atol=0.2)
    assert 0 <= empirical_robustness(plain, x.numpy(), "fgsm", {"eps_step": 0.1, "eps": 0.5}) < 1
    assert 0 <= clever_u(plain, x[0].numpy(), 2, 4, 0.2, norm=2, verbose=False) <= 0.2


def test_an_art_estimator_is_saved_and_loaded(art, tmp_path, monkeypatch):
    import pickle

    from art import config

    monkeypatch.setattr(config, "ART_DATA_PATH", str(tmp_path))
    monkeypatch.setattr("art.estimators.classification.pytorch.config.ART_DATA_PATH", str(tmp_path))
    x, _ = digits(3)
    estimator = art(defence(beta2=0.0), (1, 8, 8), 10, view="static", device_type="cpu")
    estimator.save("rcnn", str(tmp_path))
    assert (tmp_path / "rcnn.model").is_file()
    again = pickle.loads(pickle.dumps(estimator))
    assert np.allclose(again.predict(x.numpy()), estimator.predict(x.numpy()))
    assert again.model.view == "static"


# foolbox --------------------------------------------------------------------------------------------------------------
def test_foolbox_attacks_of_every_kind_run_unmodified():
    import foolbox

    from rbfbench.interop.foolbox_model import RBFCNNModel

    x, y = digits(4)
    noisy, quiet = RBFCNNModel(defence(m=2), draws=2), RBFCNNModel(defence(beta2=0.0))
    kinds = {
        "fixed": (noisy, foolbox.attacks.LinfPGD(steps=3), [0.05, EPS]),
        "minimisation": (noisy, foolbox.attacks.L2CarliniWagnerAttack(binary_search_steps=1, steps=3), None),
        # Foolbox gives up where noise takes its starting point back, so this one is asked without noise.
        "decision": (quiet, foolbox.attacks.BoundaryAttack(steps=2), None),
        "repeated": (noisy, foolbox.attacks.LinfPGD(steps=2).repeat(2), EPS),
    }
    for name, (model, attack, epsilons) in kinds.items():
        _, clipped, success = attack(model, x, y, epsilons=epsilons)
        for points in clipped if isinstance(clipped, list) else [clipped]:
            assert points.shape == x.shape, name
            assert points.device == x.device
            assert 0 <= points.min() <= points.max() <= 1, name
        assert success.shape[-1] == 4
    averaged = foolbox.models.ExpectationOverTransformationWrapper(noisy, n_steps=2)
    assert foolbox.attacks.LinfPGD(steps=2)(averaged, x, y, epsilons=EPS)[1].shape == x.shape


def test_foolbox_pgd_on_the_static_view_is_our_pgd():
    import foolbox

    from rbfbench.interop.foolbox_model import RBFCNNModel

    model = defence(beta2=0.0)
    x, y = digits()
    pgd = foolbox.attacks.LinfPGD(steps=10, abs_stepsize=0.02, random_start=False)
    made = pgd(RBFCNNModel(model, view="static"), x, y, epsilons=EPS)[1]
    same_walk(model, x, y, made)


def test_foolbox_bounds_and_preprocessing():
    from rbfbench.interop.foolbox_model import RBFCNNModel

    model = defence(beta2=0.0)
    x, _ = digits(3)
    shifted = RBFCNNModel(model, view="static", preprocessing={"mean": [0.1], "std": [0.9], "axis": -3})
    with torch.no_grad():
        assert torch.allclose(shifted(x), model((x - 0.1) / 0.9), atol=1e-5)


# their models in rbfbench ---------------------------------------------------------------------------------------------
def net() -> nn.Module:
    return rbfbench.load_model("cnn", "digits")


def from_foolbox() -> Callable[[Tensor], Tensor]:
    import foolbox

    scaled = nn.Sequential(Halved(), net()).eval()
    return adapted(foolbox.PyTorchModel(scaled, bounds=(0, 2)))


class Halved(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 2


def from_art() -> Callable[[Tensor], Tensor]:
    from art.estimators.classification import PyTorchClassifier

    scaled = nn.Sequential(Halved(), net()).eval()
    return adapted(
        PyTorchClassifier(scaled, nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0.0, 2.0), device_type="cpu")
    )


@pytest.mark.parametrize("made", [from_foolbox, from_art])
def test_models_of_other_libraries_are_attacked_as_their_own_nets_are(made):
    """The range that they declare is heeded, and gradients flow: the verified worst case is that of the net itself."""
    x, y = digits()
    theirs = rbfbench.attack(made(), x, y, norm="linf", eps=0.1)
    itself = rbfbench.attack(net(), x, y, norm="linf", eps=0.1)
    assert theirs.clean == itself.clean
    assert abs(theirs.worst_case.k - itself.worst_case.k) <= 1  # scaling by 2 and 1/2 is exact; signs of zero are not


def test_models_of_other_libraries_can_be_given_as_they_are():
    import foolbox
    from art.estimators.classification import PyTorchClassifier

    x, y = digits()
    itself = rbfbench.attack(net(), x, y, norm="linf", eps=0.1)
    scaled = nn.Sequential(Halved(), net()).eval()
    of_art = PyTorchClassifier(scaled, nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0.0, 2.0), device_type="cpu")
    for model in (foolbox.PyTorchModel(scaled, bounds=(0, 2)), of_art):
        run = rbfbench.attack(model, x, y, norm="linf", eps=0.1)
        assert run.clean == itself.clean
        assert abs(run.worst_case.k - itself.worst_case.k) <= 1
        assert rbfbench.certify(model, x[:2], y[:2], sigma=0.1, n0=5, n=10).model["name"] == type(model).__name__


@pytest.mark.filterwarnings("ignore:The PyTorch model is in training mode")
def test_the_net_of_a_foolbox_model_is_attacked_in_eval_mode_and_put_back():
    import foolbox

    x, y = digits()
    learning = nn.Sequential(nn.Dropout(0.5), net()).train()
    model = foolbox.PyTorchModel(learning, bounds=(0, 1))
    run = rbfbench.attack(model, x, y, norm="linf", eps=0.1)
    assert not run.model["stochastic"]
    assert learning.training
    assert adapted(model).weights is learning


def test_an_art_black_box_is_asked_for_predictions_only():
    from art.estimators.classification import BlackBoxClassifier

    inner = net()

    def predict(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return inner(torch.from_numpy(x)).softmax(1).numpy()

    model = adapted(BlackBoxClassifier(predict, (1, 8, 8), 10, clip_values=(0.0, 1.0)))
    x, _ = digits(5)
    with torch.no_grad():
        assert torch.equal(model(x).argmax(1), inner(x).argmax(1))


def test_what_art_does_to_predictions_counts():
    """Randomised smoothing predicts in its own way, and postprocessing changes predictions: not the bare net."""
    from art.defences.postprocessor import ClassLabels
    from art.estimators.certification.randomized_smoothing import PyTorchRandomizedSmoothing
    from art.estimators.classification import PyTorchClassifier

    x, _ = digits(6)
    classified = PyTorchClassifier(
        net(), nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0, 1), postprocessing_defences=[ClassLabels()],
        device_type="cpu",
    )  # fmt: skip
    assert np.array_equal(adapted(classified)(x).numpy(), classified.predict(x.numpy()))
    smoothed = adapted(
        PyTorchRandomizedSmoothing(
            net(),
            nn.CrossEntropyLoss(),
            (1, 8, 8),
            10,
            sample_size=20,
            scale=0.4,
            clip_values=(0, 1),
            device_type="cpu",
        )
    )
    with torch.no_grad():
        assert not torch.allclose(smoothed(x).softmax(1), net()(x).softmax(1), atol=1e-3)


def test_other_models_are_left_as_they_are():
    inner = net()
    assert adapted(inner) is inner
