"""The hot loop of RBF-CNN under torch's transforms, in passes of any size, and what it costs in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from rbfbench.data import load_data
from rbfbench.defenses import mixing, shipped_path
from rbfbench.defenses.checkpoint import load
from rbfbench.defenses.rbf import NoiseScope, RBFConfig, RBFReconstruction
from rbfbench.errors import ModelError

# Filters that are not square, images that are not square, two channels: every exchange of axes changes the result.
N, C, H, W, K = 3, 2, 5, 7, 6
SCOPES: tuple[NoiseScope | None, ...] = (None, "model", "image", "patch")  # None: no noise
ROUNDING = 1e-12  # float64: 1e-16 a term, a few hundred terms, and softmax inputs up to 17


def layer_of(scope: NoiseScope | None, device: torch.device | str) -> RBFReconstruction:
    generator = torch.Generator().manual_seed(0)
    means = torch.rand(K, C, 3, 2, dtype=torch.float64, generator=generator)
    variances = torch.rand(K, dtype=torch.float64, generator=generator) * 0.3 + 0.05
    config = RBFConfig(beta2=0.0 if scope is None else 1.75, noise_scope=scope or "image", clip=False)
    return RBFReconstruction(means, variances, config).eval().to(device)


def images(device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Images and a cotangent."""
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(N, C, H, W, dtype=torch.float64, generator=generator)
    cotangent = torch.randn(N, C, H, W, dtype=torch.float64, generator=generator)
    return x.to(device), cotangent.to(device)


class Fixed:
    """Keys of known noise."""

    def __init__(self, noise: Tensor) -> None:
        self.noise = noise

    def __len__(self) -> int:
        return len(self.noise)

    def normal(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """The known noise."""
        assert self.noise.shape[1:] == shape
        return self.noise


def noise_of(scope: NoiseScope | None, device: torch.device | str, draws: int = 1) -> Tensor:
    shape = ((H - 2) * (W - 1), 6 * C) if scope == "patch" else (K, 6 * C)
    generator = torch.Generator().manual_seed(2)
    return torch.randn(N * draws, *shape, dtype=torch.float64, generator=generator).to(device)


def by_autograd(layer: RBFReconstruction, x: Tensor, noise: Tensor) -> Tensor:
    """The same reconstruction from `weights`, every operation left to autograd; one draw."""
    config, n = layer.config, len(x)
    weights = layer.weights(layer.patches(x))
    means = (layer.means - 0.5).flatten(1)
    std = config.beta2 * layer.variances[:, None]
    if config.beta2 == 0:
        patches = weights @ means
    elif config.noise_scope == "patch":
        spread = (weights.square() @ std.square()).sqrt()
        patches = weights @ means + spread * noise
    else:
        drawn = layer._model_noise(1, x) if config.noise_scope == "model" else noise
        patches = weights @ (means + std * drawn).expand(n, -1, -1)
    return layer.stitch(patches, (H, W))


@pytest.mark.parametrize("scope", SCOPES)
def test_values_and_gradients_are_those_of_autograd(scope: NoiseScope | None, device: torch.device) -> None:
    layer, (x, cotangent), noise = layer_of(scope, device), images(device), noise_of(scope, device)
    results = []
    for reconstruct in (lambda a: layer(a, Fixed(noise)), lambda a: by_autograd(layer, a, noise)):
        leaf = x.clone().requires_grad_()
        out = reconstruct(leaf)
        results.append((out.detach(), torch.autograd.grad((out * cotangent).sum(), leaf)[0]))
    (values, gradient), (expected, expected_gradient) = results
    torch.testing.assert_close(values, expected, rtol=0, atol=ROUNDING)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-10, atol=ROUNDING)
    assert float(gradient.abs().max()) > 0.1


@pytest.mark.parametrize("scope", SCOPES)
def test_the_transforms_of_torch_func_give_the_same_gradient(scope: NoiseScope | None, device: torch.device) -> None:
    layer, (x, cotangent), noise = layer_of(scope, device), images(device), noise_of(scope, device)

    def value(a: Tensor, c: Tensor, eta: Tensor) -> Tensor:
        return (layer(a, Fixed(eta)) * c).sum()

    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(value(leaf, cotangent, noise), leaf)
    torch.testing.assert_close(torch.func.grad(value)(x, cotangent, noise), expected, rtol=0, atol=ROUNDING)
    each = torch.func.vmap(torch.func.grad(lambda a, c, eta: value(a[None], c[None], eta[None])))
    torch.testing.assert_close(each(x, cotangent, noise), expected, rtol=0, atol=ROUNDING)
    jacobian = torch.func.jacrev(lambda a: layer(a, Fixed(noise[:1])))(x[:1])  # vmap over cotangents only
    torch.testing.assert_close(
        (jacobian * cotangent[:1].view(1, C, H, W, 1, 1, 1, 1)).sum((0, 1, 2, 3)), expected[:1], rtol=0, atol=ROUNDING
    )


def test_vmap_over_filters_says_that_it_is_not_possible() -> None:
    layer, (x, _) = layer_of(None, "cpu"), images("cpu")

    def moved(means: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"means": means}, (x,))

    with pytest.raises(ModelError, match=r"^vmap over RBF filters is not possible: "):
        torch.func.vmap(moved)(torch.stack([layer.means, layer.means]))


def test_functional_call_swaps_the_filters() -> None:
    layer, other, (x, _) = layer_of(None, "cpu"), layer_of(None, "cpu"), images("cpu")
    means = layer.means.flip(0)
    swapped = torch.func.functional_call(layer, {"means": means}, (x,))
    other.load_state_dict({"means": means, "variances": layer.variances})
    assert torch.equal(swapped, other(x))
    assert float((swapped - layer(x)).abs().max()) > 0.01


@pytest.mark.parametrize("scope", SCOPES)
def test_a_second_derivative_is_refused_in_one_line(scope: NoiseScope | None) -> None:
    layer, (x, _) = layer_of(scope, "cpu"), images("cpu")
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(layer(leaf).square().sum(), leaf, create_graph=True)
    with pytest.raises(ModelError, match=r"^the RBF layer was differentiated twice: .*; build .*\.$"):
        torch.autograd.grad(gradient.sum(), leaf)


@pytest.mark.parametrize("scope", SCOPES)
def test_forward_mode_is_refused_in_one_line(scope: NoiseScope | None) -> None:
    """Also as the outer half of a Hessian, which torch.func takes forward over reverse."""
    layer, (x, _), noise = layer_of(scope, "cpu"), images("cpu"), noise_of(scope, "cpu")

    def value(a: Tensor) -> Tensor:
        return layer(a, Fixed(noise)).square().sum()

    for transform in (lambda: torch.func.jvp(value, (x,), (x,)), lambda: torch.func.hessian(value)(x)):
        with pytest.raises(ModelError, match=r"^the RBF layer was differentiated in forward mode: .*; .*\.$"):
            transform()


def test_weights_can_be_differentiated_twice() -> None:
    """As the refusal advises."""
    layer, (x, _) = layer_of(None, "cpu"), images("cpu")
    patches = layer.patches(x[:1])[:, :2].clone().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda z: layer.weights(z), patches)


@pytest.mark.parametrize("scope", ["image", None])
def test_it_compiles_without_a_break(scope: NoiseScope | None) -> None:
    layer, (x, cotangent), noise = layer_of(scope, "cpu"), images("cpu"), noise_of(scope, "cpu")

    def value(a: Tensor) -> Tensor:
        out: Tensor = layer(a, Fixed(noise))
        return (out * cotangent).sum()

    compiled = torch.compile(value, backend="aot_eager", fullgraph=True)
    results = []
    for function in (value, compiled):
        leaf = x.clone().requires_grad_()
        out = function(leaf)
        results.append((out.detach(), torch.autograd.grad(out, leaf)[0]))
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("r", [0, 2])
def test_the_operators_keep_the_rules_of_torch_library(shared: bool, r: int, device: torch.device) -> None:
    layer, (x, _) = layer_of(None, device), images(device)
    samples = torch.rand(1 if shared else N, K, 4, 3, 2, dtype=torch.float64, device=device)
    squares = torch.rand(K, r, dtype=torch.float64, device=device)
    filters = mixing.prepared((layer.means - 0.5).flatten(1), layer.variances, log2pi=False)
    given = (layer.patches(x), samples, squares, 3.0, H - 2, *filters)
    # Autograd is not theirs: _Mix differentiates. The other rules: schema, no hidden aliasing, shapes for the compiler.
    rules = ("test_schema", "test_faketensor")
    torch.library.opcheck(mixing._mix, given, test_utils=rules)
    sums, spread = mixing._mix(*given)
    torch.library.opcheck(mixing._mix_gradient, (sums, spread, *given), test_utils=rules)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("held", [1, 2 * 18 * K, 1 << 30])  # one image a pass, two, all
def test_the_size_of_a_pass_changes_nothing(
    held: int, scope: NoiseScope | None, monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    layer, (x, cotangent) = layer_of(scope, device), images(device)
    noise = noise_of(scope, device, draws=2)

    def both() -> tuple[Tensor, Tensor]:
        leaf = x.clone().requires_grad_()
        out = layer(leaf, Fixed(noise))
        return out.detach(), torch.autograd.grad((out * cotangent.repeat_interleave(2, dim=0)).sum(), leaf)[0]

    expected = both()
    monkeypatch.setattr(mixing, "CPU_WEIGHTS", held)
    monkeypatch.setattr(mixing, "GPU_WEIGHTS", held)
    torch.testing.assert_close(both(), expected, rtol=0, atol=ROUNDING)


def test_passes_cover_every_image_once() -> None:
    for n in (0, 1, 2, 5):
        patches = torch.zeros(n, 4, 3)
        for k in (1, 1 << 15, 1 << 17):
            passes = list(mixing._passes(patches, k))
            assert [i for here in passes for i in range(here.start, here.stop)] == list(range(n))
            assert all((here.stop - here.start) * 4 * k <= max(mixing.CPU_WEIGHTS, 4 * k) for here in passes)


@pytest.mark.parametrize(("beta1", "allowed"), [(25.0, 1e-4), (125.0, 5e-4)])
def test_float32_is_accurate_on_real_images_and_filters(beta1: float, allowed: float, device: torch.device) -> None:
    """Relative L2 error of a batch, values and gradients, against float64: promised at both sharpnesses."""
    path = shipped_path("rcnn", "cifar10")
    assert path
    layer = load(path)[0].reconstruction.to(device)
    layer.config = RBFConfig(beta1=beta1)
    x, _ = load_data("cifar10").batch(0, 6)
    cotangent = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(device)
    found = []
    for dtype in (torch.float64, torch.float32):
        layer.to(dtype)
        leaf = x.to(device, dtype).requires_grad_()
        out = layer.static(leaf)
        found.append((out.detach(), torch.autograd.grad((out * cotangent.to(dtype)).sum(), leaf)[0]))
    for exact, rounded in zip(*found, strict=True):
        assert rounded.dtype == torch.float32
        assert float((rounded - exact).norm() / exact.norm()) < allowed


def test_only_patches_and_samples_are_kept_for_the_backward_pass() -> None:
    """Nothing of the size (patches, filters), which is what plain autograd keeps four of."""
    layer, (x, _) = layer_of("image", "cpu"), images("cpu")
    kept: list[tuple[int, ...]] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tuple(tensor.shape))
        return tensor

    def keeps(reconstruct: Callable[[Tensor], Tensor]) -> bool:
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            reconstruct(x.clone().requires_grad_()).sum()
        return any(shape[-1:] == (K,) and len(shape) == 3 for shape in kept)

    assert not keeps(layer.static)
    assert not keeps(layer)
    assert keeps(lambda a: layer.weights(layer.patches(a)))  # the same question to autograd


def test_state_dict_holds_the_filters_and_nothing_else() -> None:
    layer = layer_of("image", "cpu")
    state = layer.state_dict()
    assert sorted(state) == ["means", "variances"]
    twin = RBFReconstruction(torch.zeros_like(layer.means), torch.ones_like(layer.variances), layer.config).eval()
    twin.load_state_dict(state)
    x, _ = images("cpu")
    assert torch.equal(twin.static(x), layer.static(x))
    state["means"].zero_()  # a state dict shares memory with its own module only
    assert torch.equal(twin.means, layer_of("image", "cpu").means)
    wrong = nn.ParameterDict({"means": torch.zeros(K + 1, C, 3, 2), "variances": torch.ones(K + 1)}).state_dict()
    with pytest.raises(RuntimeError, match="size mismatch for means"):
        twin.load_state_dict(wrong)
    floored = dataclasses.replace(layer.config, var_floor=0.5)
    twin.config = floored
    assert torch.equal(twin.state_dict()["variances"], layer.variances)  # constants never reach the filters
