"""The RBF and reconstruction layers against loops written from the paper's equations 2 to 4, and their properties."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from rbfbench.attacks.rng import Keys
from rbfbench.defenses.rbf import PRESETS, NoiseScale, NoiseScope, RBFConfig, RBFReconstruction
from rbfbench.errors import ModelError, RbfbenchError, UsageError

Array = NDArray[np.float64]

# Two channels, windows and images that are not square: every exchange of axes changes the result.
N, C, H, W, WINDOW, K, DRAWS = 2, 2, 5, 6, (3, 2), 4, 3
SCALES: tuple[NoiseScale, ...] = ("variance", "sigma", "sqrt")
SCOPES: tuple[NoiseScope, ...] = ("model", "image", "patch")
DOUBLE, SINGLE = 2.0**-53, 2.0**-24  # unit roundoff


class Given:
    """Keys whose noise is known."""

    def __init__(self, noise: Tensor) -> None:
        self.noise = noise

    def __len__(self) -> int:
        return len(self.noise)

    def normal(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """The known noise, which must be of the shape asked for."""
        assert self.noise.shape[1:] == shape
        return self.noise.to(like)


def example(device: torch.device | str = "cpu", *, smallest: float = 0.05) -> tuple[Tensor, Tensor, Tensor]:
    """Images, means and variances in float64 that float32 holds exactly; some patches lie close to a mean."""
    rng = np.random.default_rng(1)
    means = rng.random((K, C, *WINDOW))
    x = rng.random((N, C, H, W))
    x[0, :, :3, :2] = np.clip(means[0] + 0.05 * rng.standard_normal(means[0].shape), 0, 1)
    variances = np.array([smallest, 0.1, 0.4, 0.9])
    return tuple(torch.from_numpy(a.astype(np.float32).astype(np.float64)).to(device) for a in (x, means, variances))  # type: ignore[return-value]


def positions() -> list[tuple[int, int]]:
    return [(i, j) for i in range(H - WINDOW[0] + 1) for j in range(W - WINDOW[1] + 1)]


def written_out(x: Array, means: Array, variances: Array, config: RBFConfig, noise: Array | None) -> Array:
    """Reconstructions (N * draws, C, H, W) from Eq. 2 to 4; `noise` is indexed by what `noise_scope` gives it to."""
    draws = 1 if noise is None else len(noise) // (1 if config.noise_scope == "model" else len(x))
    out = np.zeros((len(x) * draws, C, H, W))
    for image in range(len(x)):
        for draw in range(draws):
            row = image * draws + draw
            total, count = np.zeros((C, H, W)), np.zeros((C, H, W))
            for number, (i, j) in enumerate(positions()):
                z = x[image, :, i : i + WINDOW[0], j : j + WINDOW[1]]
                u, spread = np.zeros(K), np.zeros(K)
                for k in range(K):
                    sigma = math.sqrt(max(variances[k], config.var_floor))
                    score = -math.log(sigma) - ((z - means[k]) ** 2).sum() / (2 * sigma**2)
                    if config.log2pi:
                        score -= math.log(math.sqrt(2 * math.pi))
                    gate = 1 / (1 + math.exp(-score)) if score > -700 else 0.0
                    u[k] = config.base ** (config.beta1 * gate)
                    spread[k] = {
                        "variance": config.beta2 * sigma**2,
                        "sigma": config.beta2 * sigma,
                        "sqrt": math.sqrt(config.beta2 * sigma),
                    }[config.noise_scale]
                w = u / u.sum()
                patch = np.zeros_like(z)
                for k in range(K):
                    eta = np.zeros(z.size)
                    if noise is not None and config.noise_scope != "patch":
                        eta = spread[k] * noise[draw if config.noise_scope == "model" else row, k]
                    patch += w[k] * (means[k] + eta.reshape(z.shape))
                if noise is not None and config.noise_scope == "patch":
                    patch += math.sqrt(((w * spread) ** 2).sum()) * noise[row, number].reshape(z.shape)
                total[:, i : i + WINDOW[0], j : j + WINDOW[1]] += patch
                count[:, i : i + WINDOW[0], j : j + WINDOW[1]] += 1
            out[row] = total / count
    return np.clip(out, 0, 1) if config.clip else out


def error_bound(variances: Array, config: RBFConfig, unit: float, noise: float) -> float:
    """First-order bound on the rounding error of a pixel, for pixels and means in [0,1].

    The squared distance is |z|^2 + |mu|^2 - 2<z,mu> of n centred numbers: terms of total size <= n, each with at most
    n + 3 roundings. A score divides it by 2V; the gate has slope <= 1/4; a softmax turns an error d of its inputs into
    a relative error <= 2d of its outputs, which multiplies samples of size <= 0.5 + std * noise. The factor 8 outside
    stands for the last sums (K filters, 6 patches and the centre), whose terms are rounded once or twice each.
    """
    n, v = C * math.prod(WINDOW), max(float(variances.min()), config.var_floor)
    score = (n + 3) * n * unit / (2 * v) + 4 * unit * (n / (2 * v) + abs(math.log(v)))
    weight = math.expm1(2 * config.beta1 * math.log(config.base) * score / 4)
    std = {
        "variance": config.beta2 * float(variances.max()),
        "sigma": config.beta2 * math.sqrt(variances.max()),
        "sqrt": math.sqrt(config.beta2 * math.sqrt(variances.max())),
    }[config.noise_scale]
    return (weight + 8 * unit) * (1 + std * noise)


def noise_for(config: RBFConfig) -> Tensor:
    n = C * math.prod(WINDOW)
    shape = {"model": (DRAWS, K, n), "image": (N * DRAWS, K, n), "patch": (N * DRAWS, len(positions()), n)}
    return torch.from_numpy(np.random.default_rng(2).standard_normal(shape[config.noise_scope]))


def noisy(layer: RBFReconstruction, x: Tensor, noise: Tensor) -> Tensor:
    """The layer's output with this noise, whatever the scope."""
    if layer.config.noise_scope != "model":
        return layer.forward(x, Given(noise))
    layer._model_noise = lambda draws, like: noise[:draws].to(like)  # type: ignore[method-assign]
    return layer.forward(x, draws=len(noise))


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("preset", PRESETS)
def test_noisy_reconstruction_is_the_written_out_formula(
    preset: str, scale: NoiseScale, scope: NoiseScope, device: torch.device
) -> None:
    config = dataclasses.replace(PRESETS[preset], noise_scale=scale, noise_scope=scope)
    x, means, variances = example(device, smallest=1e-4)  # below the floor of `default`, above that of the others
    noise = noise_for(config)
    expected = written_out(x.cpu().numpy(), means.cpu().numpy(), variances.cpu().numpy(), config, noise.numpy())
    got = noisy(RBFReconstruction(means, variances, config).eval(), x, noise).cpu().numpy()
    tolerance = error_bound(variances.cpu().numpy(), config, DOUBLE, float(noise.abs().max()))
    assert tolerance < 1e-8
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance)
    # The noise is on the scale of the image, and the clip bites where there is one: neither is tested on nothing.
    still = written_out(x.cpu().numpy(), means.cpu().numpy(), variances.cpu().numpy(), config, None)
    assert np.abs(got - still.repeat(DRAWS, axis=0)).max() > 0.05
    assert (got.min() == 0 or got.max() == 1) == config.clip


@pytest.mark.parametrize("preset", PRESETS)
def test_static_reconstruction_is_the_written_out_formula(preset: str, device: torch.device) -> None:
    config = PRESETS[preset]
    x, means, variances = example(device, smallest=1e-4)
    expected = written_out(x.cpu().numpy(), means.cpu().numpy(), variances.cpu().numpy(), config, None)
    got = RBFReconstruction(means, variances, config).eval().static(x).cpu().numpy()
    np.testing.assert_allclose(got, expected, rtol=0, atol=error_bound(variances.cpu().numpy(), config, DOUBLE, 0))


def test_training_uses_its_own_sharpness() -> None:
    x, means, variances = example()
    layer = RBFReconstruction(means, variances, PRESETS["authors"]).train()
    config = dataclasses.replace(PRESETS["authors"], beta1=125.0)
    expected = written_out(x.numpy(), means.numpy(), variances.numpy(), config, None)
    bound = error_bound(variances.numpy(), config, DOUBLE, 0)
    np.testing.assert_allclose(layer.static(x).numpy(), expected, rtol=0, atol=bound)
    assert (layer.eval().static(x).numpy() - expected).__abs__().max() > 1e-3


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("scope", SCOPES)
def test_float32_is_as_near_to_float64_as_its_rounding_allows(
    preset: str, scope: NoiseScope, device: torch.device
) -> None:
    config = dataclasses.replace(PRESETS[preset], noise_scope=scope)
    x, means, variances = example(device)
    noise = noise_for(config).float().double()
    exact = noisy(RBFReconstruction(means, variances, config).eval(), x, noise)
    layer = RBFReconstruction(means.float(), variances.float(), config).eval()
    rounded = noisy(layer, x.float(), noise.float())
    assert rounded.dtype == torch.float32
    bound = error_bound(variances.cpu().numpy(), config, SINGLE, float(noise.abs().max()))
    assert bound < 0.02
    # The bound adds up worst cases; independent roundings gather like their root, so a hundredth of it must do as well.
    assert float((rounded.double() - exact).abs().max()) <= bound / 100


@pytest.mark.parametrize("scope", [None, *SCOPES])
def test_gradient_is_the_central_difference(scope: NoiseScope | None, device: torch.device) -> None:
    config = dataclasses.replace(PRESETS["default"], noise_scope=scope or "image", clip=False)
    x, means, variances = example(device, smallest=0.0)  # lifted to var_floor = 1e-3
    layer = RBFReconstruction(means, variances, config).eval()
    noise = noise_for(config)

    def loss(images: Tensor) -> Tensor:
        out = layer.static(images) if scope is None else noisy(layer, images, noise)
        return (out * torch.sin(torch.arange(out.numel(), device=device)).view_as(out)).sum()

    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf), leaf)
    step = 1e-6
    for index in np.random.default_rng(3).integers(0, x.numel(), 30):
        shift = torch.zeros_like(x).view(-1)
        shift[index] = step
        shift = shift.view_as(x)
        difference = float((loss(x + shift) - loss(x - shift)) / (2 * step))
        # step^2 times a third derivative of about (beta1 * ln 2 / 4 * |z-mu| / V)^3 ~ 1e7 at 0.05 from the sharp mean,
        # and rounding 1e-14 / step (weights amplify it): both below 1e-5, where gradients are 0.01 to 10.
        assert difference == pytest.approx(float(gradient.view(-1)[index]), rel=1e-5, abs=1e-5)
    assert float(gradient[0, :, :3, :2].abs().max()) > 1  # the sharp filter is in play


def test_no_gradient_flows_where_the_clip_holds() -> None:
    x, means, variances = example()
    config = dataclasses.replace(PRESETS["default"], noise_scale="sqrt")
    layer = RBFReconstruction(means, variances, config).eval()
    leaf = x.clone().requires_grad_()
    out = noisy(layer, leaf, noise_for(config))
    clipped = (out == 0) | (out == 1)
    assert clipped.any()
    (gradient,) = torch.autograd.grad(out[clipped].sum(), leaf)
    assert (gradient == 0).all()


@pytest.mark.parametrize("scale", SCALES)
def test_patch_noise_has_the_variance_of_a_draw_for_every_filter(scale: NoiseScale, device: torch.device) -> None:
    """Two patches, two shared columns: their noise is independent, and each has variance sum_k (w_k std_k)^2."""
    x, means, variances = example(device)
    x = x[:1, :, :3, :3]
    config = dataclasses.replace(PRESETS["default"], noise_scale=scale, noise_scope="patch", clip=False)
    layer = RBFReconstruction(means, variances, config).eval()
    draws = 20_000
    torch.manual_seed(0)
    out = layer(x, draws=draws) - layer.static(x)
    weights = layer.weights(layer.patches(x))[0].cpu()  # (2, K)
    v = variances.cpu()
    std = {"variance": 1.75 * v, "sigma": 1.75 * v.sqrt(), "sqrt": (1.75 * v.sqrt()).sqrt()}[scale]
    # Eq. 4 drawn literally: one normal a filter and a patch, one pixel of each patch.
    generator = torch.Generator().manual_seed(1)
    literal = (weights * std * torch.randn(draws, 2, K, generator=generator, dtype=torch.float64)).sum(-1)
    for columns, sampled in (
        (slice(0, 1), literal[:, 0]),
        (slice(1, 2), literal.mean(1)),
        (slice(2, 3), literal[:, 1]),
    ):
        pixels = out[:, :, :, columns]
        # A variance from s normals has relative standard deviation sqrt(2/s); 5 of them, s = pixels and literal draws.
        tolerance = 5 * (math.sqrt(2 / pixels.numel()) + math.sqrt(2 / draws))
        assert float(pixels.var()) == pytest.approx(float(sampled.var()), rel=tolerance)
        mean = float(pixels.mean())
        assert abs(mean) < 5 * float(pixels.std()) / math.sqrt(pixels.numel())


def constant_noise(scope: NoiseScope, draws: int = 2) -> Tensor:
    """Noise (N, draws, 3, 3) in the pixels that nine patches share, for two equal constant images."""
    _, means, variances = example()
    means = torch.cat([means, means[:, :, :, :1]], dim=3)  # 3x3 windows
    layer = RBFReconstruction(means, variances, RBFConfig(noise_scope=scope, clip=False)).eval()
    x = torch.full((2, C, 7, 7), 0.3, dtype=torch.float64)
    torch.manual_seed(0)
    out: Tensor = layer(x, draws=draws) - layer.static(x).repeat_interleave(draws, dim=0)
    return out.view(2, draws, C, 7, 7)[:, :, 0, 2:5, 2:5]


def test_image_noise_is_one_draw_for_all_patches_of_an_image_and_draw() -> None:
    noise = constant_noise("image")
    assert float(noise.flatten(2).std(dim=2).max()) < 1e-14  # nine equal sums, in whatever order
    values = noise[:, :, 0, 0].flatten()
    assert float((values[:, None] - values).abs().fill_diagonal_(1).min()) > 1e-3


def test_patch_noise_differs_between_patches() -> None:
    assert float(constant_noise("patch").flatten(2).std(dim=2).min()) > 1e-3


def test_model_noise_is_one_constant_a_draw() -> None:
    noise = constant_noise("model", draws=3)
    assert torch.equal(noise[0], noise[1])
    assert float(noise.flatten(2).std(dim=2).max()) < 1e-14
    assert len(set(noise[0, :, 0, 0].tolist())) == 3
    # Draw j is the same however many there are, and in another model object.
    np.testing.assert_allclose(constant_noise("model", draws=1)[:, 0], noise[:, 0], atol=1e-14)
    np.testing.assert_allclose(constant_noise("model", draws=11)[:, :3], noise, atol=1e-14)


def test_model_noise_is_standard_normal_and_ignores_keys() -> None:
    x, means, variances = example()
    layer = RBFReconstruction(means, variances, RBFConfig(noise_scope="model")).eval()
    draws = layer._model_noise(200, x)
    assert draws.shape == (200, K, C * math.prod(WINDOW))
    assert draws.dtype == x.dtype
    # 9,600 normals: standard deviation of the mean 0.0102, of the variance 0.0144; 5 of them
    assert abs(float(draws.mean())) < 0.051
    assert float(draws.var()) == pytest.approx(1, abs=0.072)
    first, second = (Keys.of(ids, 0).spread(2) for ids in (["a", "b"], ["c", "d"]))
    assert torch.equal(layer(x, first), layer(x, second))
    assert torch.equal(layer(x, first), layer(x, draws=2))


@pytest.mark.parametrize("scope", ["image", "patch"])
def test_keyed_noise_does_not_depend_on_the_batch(scope: NoiseScope, device: torch.device) -> None:
    x, means, variances = example(device)
    x = torch.cat([x, x.flip(3), x.flip(2)])
    layer = RBFReconstruction(means, variances, RBFConfig(noise_scope=scope)).eval()
    keys = Keys.of([f"image {i}" for i in range(len(x))], seed=4)
    together = layer(x, keys.spread(DRAWS)).view(len(x), DRAWS, C, H, W)
    order = np.array([4, 0, 3])
    apart = layer(x[order], keys[order].spread(DRAWS)).view(3, DRAWS, C, H, W)
    # Equal noise; the products may be summed in another order, an error far below any difference of noise (> 1e-3).
    np.testing.assert_allclose(apart.cpu(), together[order].cpu(), rtol=0, atol=1e-12)
    torch.manual_seed(99)
    assert torch.equal(layer(x, keys.spread(DRAWS)).view_as(together), together)
    same_images = layer(x[:1].repeat(2, 1, 1, 1), keys[:2])
    assert float((same_images[0] - same_images[1]).abs().max()) > 1e-3


def test_noise_without_keys_is_fresh_at_each_call() -> None:
    x, means, variances = example()
    layer = RBFReconstruction(means, variances).eval()
    assert float((layer(x) - layer(x)).abs().max()) > 1e-3


@pytest.mark.parametrize("scope", SCOPES)
def test_draws_share_the_weights_and_lie_image_by_image(scope: NoiseScope, monkeypatch: pytest.MonkeyPatch) -> None:
    x, means, variances = example()
    layer = RBFReconstruction(means, variances, RBFConfig(beta2=1e-3, noise_scope=scope)).eval()
    static = layer.static(x)
    cut, calls = layer.patches, []

    def counted(images: Tensor) -> Tensor:
        calls.append(images.shape)
        return cut(images)

    monkeypatch.setattr(layer, "patches", counted)
    out = layer(x, draws=DRAWS)
    assert calls == [x.shape]  # once for each image, not for each draw
    # So little noise (std <= 1e-3) that each row shows whose it is: the images differ by far more.
    assert float((static[0] - static[1]).abs().max()) > 0.1
    assert float((out - static.repeat_interleave(DRAWS, dim=0)).abs().max()) < 0.01


@pytest.mark.parametrize("scope", SCOPES)
def test_without_noise_level_the_reconstruction_is_static(scope: NoiseScope) -> None:
    x, means, variances = example()
    layer = RBFReconstruction(means, variances, RBFConfig(beta2=0.0, noise_scope=scope)).eval()
    expected = layer.static(x).repeat_interleave(2, dim=0)
    assert torch.equal(layer(x, draws=2), expected)
    assert torch.equal(layer(x, Keys.of(["a", "b"], 0).spread(2)), expected)
    tiny = dataclasses.replace(layer.config, beta2=1e-9)
    layer.config = tiny
    assert float((layer(x, draws=2) - expected).abs().max()) < 1e-7  # continuous at 0: noise of std <= 1e-9, 5 sigma


@pytest.mark.parametrize("change", [{"beta1": 60.0}, {"beta2": 0.4}, {"base": math.e}, {"var_floor": 0.2}])
def test_constants_changed_on_a_built_layer_take_effect(change: dict[str, float]) -> None:
    x, means, variances = example()
    layer = RBFReconstruction(means, variances).eval()
    noise = noise_for(layer.config)
    before = noisy(layer, x, noise)
    layer.config = dataclasses.replace(layer.config, **change)  # type: ignore[arg-type]
    after = noisy(layer, x, noise)
    assert float((after - before).abs().max()) > 1e-3
    assert torch.equal(after, noisy(RBFReconstruction(means, variances, layer.config).eval(), x, noise))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("floor", [0.0, 1e-20, 1e-3])
@pytest.mark.parametrize("scope", [None, *SCOPES])
def test_a_filter_of_no_variance_gives_finite_images_and_gradients(
    scope: NoiseScope | None, floor: float, dtype: torch.dtype, device: torch.device
) -> None:
    """The authors' sets hold one: an all-black patch of variance 1e-20, and most MNIST patches are exactly that."""
    _, means, _ = example(device)
    means = means.to(dtype)
    means[0] = 0
    variances = torch.tensor([0.0, 1e-20, 0.1, 0.4], dtype=dtype, device=device)
    x = example(device)[0].to(dtype)
    x[:, :, :4, :4] = 0
    x.requires_grad_()
    layer = RBFReconstruction(means, variances, RBFConfig(var_floor=floor, noise_scope=scope or "image")).eval()
    out = layer.static(x) if scope is None else layer(x, draws=2)
    (gradient,) = torch.autograd.grad(out.square().sum(), x)
    assert out.isfinite().all()
    assert gradient.isfinite().all()
    weights = layer.weights(layer.patches(x.detach()))[0]
    # The black filter wins the black patch, and of the last patch, which is no filter's mean, it sees nothing.
    assert int(weights[0].argmax()) == 0
    assert float(weights[-1, 0]) == pytest.approx(float(weights[-1].min()), rel=1e-5)
    assert float(weights[-1, 0]) < 0.5 * float(weights[-1].max())


def bad_filters(**changes: Tensor) -> Callable[[], object]:
    _, means, variances = example()
    return lambda: RBFReconstruction(changes.get("means", means), changes.get("variances", variances))


def bad_images(*shape: int) -> Callable[[], object]:
    _, means, variances = example()
    layer = RBFReconstruction(means, variances)
    return lambda: layer(torch.zeros(shape, dtype=torch.float64))


def spoilt(position: int, value: float, name: str) -> Callable[[], object]:
    _, means, variances = example()
    tensors = {"means": means, "variances": variances}
    tensors[name].view(-1)[position] = value
    return bad_filters(**tensors)


ERRORS: dict[str, tuple[Callable[[], object], type[RbfbenchError], str]] = {
    "patch higher than image": (bad_images(1, C, 2, 6), ModelError, "do not fit"),
    "patch wider than image": (bad_images(1, C, 5, 1), ModelError, "do not fit"),
    "channels": (bad_images(1, C + 1, H, W), ModelError, "do not fit"),
    "no batch axis": (bad_images(C, H, W), ModelError, "do not fit"),
    "means NaN": (spoilt(3, math.nan, "means"), ModelError, "not finite"),
    "means infinite": (spoilt(3, math.inf, "means"), ModelError, "not finite"),
    "variance NaN": (spoilt(1, math.nan, "variances"), ModelError, "not finite"),
    "variance negative": (spoilt(1, -1e-9, "variances"), ModelError, "negative"),
    "no filters": (bad_filters(means=torch.zeros(0, C, 3, 2), variances=torch.zeros(0)), ModelError, "K > 0"),
    "numbers differ": (bad_filters(variances=torch.ones(K + 1)), ModelError, f"({K + 1},)"),
    "means flat": (bad_filters(means=torch.zeros(K, 12)), ModelError, f"({K}, 12)"),
    "m 0": (lambda: RBFConfig(m=0), UsageError, "m = 0"),
    "m in part": (lambda: RBFConfig(m=2.5), UsageError, "m = 2.5"),  # type: ignore[arg-type]
    "beta2 in words": (lambda: RBFConfig(beta2="1"), UsageError, "beta2 = '1'"),  # type: ignore[arg-type]
    "beta1 negative": (lambda: RBFConfig(beta1=-1.0), UsageError, "beta1 = -1.0"),
    "beta1_train NaN": (lambda: RBFConfig(beta1_train=math.nan), UsageError, "beta1_train = nan"),
    "beta2 negative": (lambda: RBFConfig(beta2=-0.5), UsageError, "beta2 = -0.5"),
    "beta2 infinite": (lambda: RBFConfig(beta2=math.inf), UsageError, "beta2 = inf"),
    "floor negative": (lambda: RBFConfig(var_floor=-1.0), UsageError, "var_floor = -1.0"),
    "beta1 overflows": (lambda: RBFConfig(beta1=1e7), UsageError, "above 1.44e+06"),
    "beta1_train overflows": (lambda: RBFConfig(beta1_train=1e300, base=math.e), UsageError, "above 1e+06"),
    "base 1": (lambda: RBFConfig(base=1.0), UsageError, "base = 1.0"),
    "base 0": (lambda: RBFConfig(base=0.0), UsageError, "base = 0.0"),
    "scale": (lambda: RBFConfig(noise_scale="sigmas"), UsageError, "did you mean 'sigma'"),  # type: ignore[arg-type]
    "scope": (lambda: RBFConfig(noise_scope="batch"), UsageError, "noise scope 'batch'"),  # type: ignore[arg-type]
    "changed later": (lambda: dataclasses.replace(RBFConfig(), m=-3), UsageError, "m = -3"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_bad_states_are_refused_in_one_line(name: str) -> None:
    call, kind, words = ERRORS[name]
    with pytest.raises(kind) as caught:
        call()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_sharpest_weights_are_still_numbers() -> None:
    x, means, variances = (t.float() for t in example())
    layer = RBFReconstruction(means, variances, RBFConfig(beta1=1.44e6, clip=False)).eval()
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(layer.static(leaf).sum(), leaf)
    assert gradient.isfinite().all()
    weights = layer.weights(layer.patches(x))
    assert float(weights.max(dim=-1).values.min()) > 0.999  # a hard choice: no two gates here lie within 1e-5


NUMBERS = st.floats(0, 1, width=32)


@settings(max_examples=200, deadline=None)
@given(
    patch=st.lists(NUMBERS, min_size=9, max_size=9),
    mean=st.lists(NUMBERS, min_size=9, max_size=9),
    delta=st.lists(st.floats(-1, 1, width=32), min_size=9, max_size=9),
    size=st.floats(1e-3, 0.3),
    variance=st.floats(1e-3, 1.0),
)
def test_a_perturbation_moves_a_score_within_claim_1(
    patch: list[float], mean: list[float], delta: list[float], size: float, variance: float
) -> None:
    """Eq. 8 bounds the change of a match score; Eq. 6 gives it exactly."""
    z, mu, step = (torch.tensor(values, dtype=torch.float64) for values in (patch, mean, delta))
    step *= size
    layer = RBFReconstruction(
        mu.view(1, 1, 3, 3), torch.tensor([variance], dtype=torch.float64), RBFConfig(var_floor=0.0)
    )
    before, after = (float(layer.scores(layer.patches(p.view(1, 1, 3, 3)))) for p in (z, z + step))
    largest, distance = float(step.abs().max()), float((z - mu).norm())
    slope = largest * math.sqrt(9) * distance / variance
    rounding = 1e-13 / variance  # 12 roundings of terms up to 9, divided by 2V: see error_bound
    assert -9 * largest**2 / (2 * variance) - slope - rounding <= after - before <= slope + rounding
    exact = -float(step.square().sum()) / (2 * variance) - float((step * (z - mu)).sum()) / variance
    assert after - before == pytest.approx(exact, abs=rounding)


@settings(max_examples=200, deadline=None)
@given(
    patch=st.lists(NUMBERS, min_size=9, max_size=9),
    mean=st.lists(NUMBERS, min_size=9, max_size=9),
    delta=st.lists(st.floats(-1, 1, width=32), min_size=9, max_size=9),
    size=st.floats(1e-3, 0.3),
    variance=st.floats(1e-3, 1.0),
)
def test_a_far_filter_scores_a_perturbed_patch_at_most_as_claim_1_says(
    patch: list[float], mean: list[float], delta: list[float], size: float, variance: float
) -> None:
    """Eq. 9, with the constant of Eq. 2; its bound is met when the perturbation is small and points to the mean."""
    z, mu, step = (torch.tensor(values, dtype=torch.float64) for values in (patch, mean, delta))
    layer = RBFReconstruction(
        mu.view(1, 1, 3, 3), torch.tensor([variance], dtype=torch.float64), RBFConfig(var_floor=0.0, log2pi=True)
    )

    def score(p: Tensor) -> float:
        return float(layer.scores(layer.patches(p.view(1, 1, 3, 3))))

    def bound(largest: float) -> float:
        distance = float((z - mu).norm())
        peak = -math.log(math.sqrt(2 * math.pi * variance))
        return peak - (distance - 2 * largest * 3) * distance / (2 * variance)  # sqrt(n_z) = 3

    rounding = 1e-13 / variance  # 12 roundings of terms up to 9, divided by 2V
    step *= size
    assert score(z + step) <= bound(float(step.abs().max())) + rounding
    # A step straight at a mean that is equally far in every pixel leaves only the square of the step in between.
    towards = torch.full((9,), 1e-6, dtype=torch.float64)
    even = mu - 0.5
    distance = float((even - mu).norm())
    peak = -math.log(math.sqrt(2 * math.pi * variance))
    tight = peak - (distance - 6e-6) * distance / (2 * variance)
    assert score(even + towards) == pytest.approx(tight - 9e-12 / (2 * variance), abs=10 * rounding)
