"""DeepLIFT, LRP, FullGrad and guided backpropagation on transformers: literal references, closed forms, whole models."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import xplain
from tests.helpers import chains, toys
from tests.helpers.transformers import CLASSES, MAKERS, small_images, small_transformer
from tests.reference import transformer_propagation as reference
from xplain.core.errors import UsageError

TARGET = [1, 3]
every_model = pytest.mark.parametrize("model", MAKERS)
# One of each architecture: class token, windows with cosine attention, channels last, attention pool, tokens before rows.
FEW = ("torchvision-vit", "torchvision-swin-v2", "timm-convnext-v2", "transformers-siglip", "sequence-first")
transformer_rules = pytest.mark.parametrize("rule", ["attn-lrp", "cp-lrp"])


def random_steps(seed: int = 0, *, positions: bool = True) -> list[tuple]:
    """Return a transformer of six tokens with one block, a class token and three classes; see the reference."""
    rng = np.random.default_rng(seed)

    def linear(source: int, inputs: int, outputs: int) -> tuple:
        return "linear", [source], [rng.normal(size=(outputs, inputs)), 0.3 * rng.normal(size=outputs)]

    def norm(source: int) -> tuple:
        return "layer-norm", [source], [1 + 0.2 * rng.normal(size=4), 0.3 * rng.normal(size=4)]

    return [
        linear(0, 3, 4),
        ("prepend", [1], [rng.normal(size=(1, 4))]),
        ("shift", [2], [rng.normal(size=(7, 4)) * positions]),
        norm(3),
        *(linear(4, 4, 4) for _ in "qkv"),
        ("scores", [5, 6], []),
        ("softmax", [8], []),
        ("mix", [9, 7], []),
        linear(10, 4, 4),
        ("add", [3, 11], []),
        norm(12),
        linear(13, 4, 6),
        ("gelu", [14], []),
        linear(15, 6, 4),
        ("add", [12, 16], []),
        norm(17),
        ("first", [18], []),
        linear(19, 4, 3),
    ]


class Steps(nn.Module):
    """The network of the steps."""

    def __init__(self, steps: list[tuple]) -> None:
        super().__init__()
        self.precision = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        self.steps = [(name, inputs, [torch.from_numpy(c) for c in constants]) for name, inputs, constants in steps]

    def forward(self, x: Tensor) -> Tensor:
        values = [x.flatten(2).transpose(1, 2)]
        for name, inputs, constants in self.steps:
            values.append(self.apply_step(name, [values[i] for i in inputs], constants))
        return values[-1][:, 0]

    def apply_step(self, name: str, a: list[Tensor], constants: list[Tensor]) -> Tensor:
        match name:
            case "linear":
                return F.linear(a[0], *constants)
            case "shift":
                return a[0] + constants[0]
            case "prepend":
                return torch.cat([constants[0].expand(len(a[0]), -1, -1), a[0]], dim=1)
            case "first":
                return a[0][:, :1]
            case "add":
                return a[0] + a[1]
            case "layer-norm":
                return F.layer_norm(a[0], (4,), *constants)
            case "gelu":
                return F.gelu(a[0])
            case "scores":
                return a[0] @ a[1].mT / 2
            case "softmax":
                return a[0].softmax(dim=-1)
        return a[0] @ a[1]


def tokens(image: Tensor) -> np.ndarray:
    return image.flatten(1).T.numpy()


def test_deeplift_equals_literal_reference():
    steps, x = random_steps(), toys.images(3, 2, 3)
    result = xplain.attribute(toys.classifier(Steps(steps)), x, "deeplift", target=1)
    for image, values in zip(x, result.values, strict=True):
        expected = reference.deeplift(steps, tokens(image), np.zeros((6, 3)), 1)
        toys.assert_same(values.flatten(1).T, torch.from_numpy(expected), rtol=1e-9)
    assert float(result.gap.abs().max()) < 1e-12


@transformer_rules
def test_attn_lrp_equals_relevance_form(rule):
    """Gradients times inputs are the relevances of the explicit rules, and what is lost are constants and softmaxes."""
    steps, x = random_steps(), toys.images(3, 2, 3)
    classifier = toys.classifier(Steps(steps))
    result = xplain.attribute(classifier, x, "lrp", target=1, rule=rule, gamma=0.0)
    logits = classifier(x).detach()[:, 1]
    for image, values, logit in zip(x, result.values, logits, strict=True):
        expected, lost = reference.relevance(steps, tokens(image), 1, rule)
        toys.assert_same(values.flatten(1).T, torch.from_numpy(expected), rtol=1e-8)
        assert float(values.sum()) + lost == pytest.approx(float(logit), abs=1e-12)
        assert abs(lost) > 1e-3


def modified_gradients(steps: list[tuple], x: Tensor, rule: str) -> tuple[Tensor, Tensor]:
    """Return Σ a ⊙ G of the image and of the constants, and the softmax's rest, with detached factors and autograd alone."""
    constants: list[Tensor] = []
    rest: list[tuple[Tensor, float]] = []
    values = [x.flatten(1).T.detach().requires_grad_()]
    constants.append(values[0])

    def leaf(array: np.ndarray) -> Tensor:
        constants.append(torch.from_numpy(array.copy()).requires_grad_())
        return constants[-1]

    def scaled(tensor: Tensor, share: float) -> Tensor:
        return tensor * share + tensor.detach() * (1 - share)

    for name, inputs, c in steps:
        a = [values[i] for i in inputs]
        if name == "linear":
            values.append(a[0] @ torch.from_numpy(c[0]).T + leaf(c[1]))
        elif name == "shift":
            values.append(a[0] + leaf(c[0]))
        elif name == "prepend":
            values.append(torch.cat([leaf(c[0]), a[0]]))
        elif name == "layer-norm":
            centered = a[0] - a[0].mean(dim=1, keepdim=True)
            sigma = (centered.square().mean(dim=1, keepdim=True) + 1e-5).sqrt().detach()
            values.append(torch.from_numpy(c[0]) * centered / sigma + leaf(c[1]))
        elif name == "gelu":
            values.append(a[0] * (0.5 * (1 + torch.erf(a[0] / 2**0.5))).detach())
        elif name == "scores":
            share = 0.0 if rule == "cp-lrp" else 0.5
            scores = scaled(a[0], share) @ scaled(a[1], share).T / 2
            scores.retain_grad()
            rest.append((scores, -1.0))
            values.append(scores)
        elif name == "softmax":
            weights = a[0].softmax(dim=1)
            weights.retain_grad()
            rest.append((weights, 1.0))
            values.append(weights)
        elif name == "mix":
            share = 0.0 if rule == "cp-lrp" else 0.5
            values.append(scaled(a[0], share) @ scaled(a[1], 1 - share))
        else:
            values.append(a[0] + a[1] if name == "add" else a[0][:1])
    values[-1][0, 1].backward()
    kept = sum((constant * constant.grad).sum() for constant in constants)
    softmax_rest = sum(sign * (tensor * tensor.grad).sum() for tensor, sign in rest) if rule == "attn-lrp" else 0.0
    return constants[0] * constants[0].grad, kept + softmax_rest


@transformer_rules
def test_accounting_is_exact(rule):
    """Image, biases, positions and class token, and for AttnLRP A G_A - S G_S, sum to the logit."""
    steps, x = random_steps(2), toys.images(2, 2, 3)
    classifier = toys.classifier(Steps(steps))
    values = xplain.attribute(classifier, x, "lrp", target=1, rule=rule, gamma=0.0).values
    for image, value, logit in zip(x, values, classifier(x).detach()[:, 1], strict=True):
        expected, total = modified_gradients(steps, image, rule)
        toys.assert_same(value.flatten(1).T, expected.detach(), rtol=1e-12)
        assert float(total) == pytest.approx(float(logit), abs=1e-13)


def test_uniform_attention_halves_values_in_attn_lrp():
    """With weights 0 of queries and keys, the values get half of the relevance that CP-LRP gives them."""
    steps = random_steps()
    for k in (4, 5):
        steps[k] = ("linear", [4], [np.zeros((4, 4)), np.zeros(4)])
    steps[11] = ("shift", [11], [np.zeros((7, 4))])  # without the residual connection
    steps[16] = ("shift", [16], [np.zeros((7, 4))])
    classifier, x = toys.classifier(Steps(steps)), toys.images(2, 2, 3)
    attn, cp = (
        xplain.attribute(classifier, x, "lrp", target=1, rule=rule, gamma=0.0).values for rule in ("attn-lrp", "cp-lrp")
    )
    toys.assert_same(2 * attn, cp)
    assert float(cp.abs().max()) > 1e-3


@pytest.mark.parametrize("rule", ["zero", "epsilon"])
def test_relevance_form_of_other_rules_equals_gradient_form(rule):
    """Without positions, which take relevance in AttnLRP only, it is LRP-0 with the same rules for the other operations."""
    classifier, x = toys.classifier(Steps(random_steps(3, positions=False))), toys.images(2, 2, 3)
    expected = xplain.attribute(classifier, x, "lrp", target=1, rule="attn-lrp", gamma=0.0).values
    actual = xplain.attribute(classifier, x, "lrp", target=1, rule=rule, epsilon=1e-12).values
    toys.assert_same(actual, expected, rtol=1e-5)


@transformer_rules
def test_convolutional_networks_equal_zero_rule(rule):
    classifier, _ = toys.with_pixels(toys.small_net(scale=15.0))
    x = toys.images()
    expected = xplain.attribute(classifier, x, "lrp", target=1, rule="zero").values
    actual = xplain.attribute(classifier, x, "lrp", target=1, rule=rule, gamma=0.0).values
    toys.assert_same(actual, expected, rtol=1e-4)


def test_gamma_equals_relevance_form():
    """Convolutions with γ and a last linear layer with γ / 5, from which the relevance starts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        net = nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.GELU(), nn.Conv2d(6, 5, 3), nn.Flatten(), nn.Linear(5 * 24, 4)
        ).double()
    x, gamma = toys.images() - 0.5, 0.4
    with toys.any_range():
        actual = xplain.attribute(toys.classifier(net), x, "lrp", target=1, rule="attn-lrp", gamma=gamma).values
    a = [x]
    for layer in net:
        a.append(layer(a[-1]).detach())
    R = torch.zeros_like(a[-1])
    R[:, 1] = a[-1][:, 1]
    for k in reversed(range(len(net))):
        if isinstance(net[k], nn.GELU):
            continue
        if isinstance(net[k], nn.Flatten):
            R = R.view_as(a[k])
            continue
        R = gamma_relevance(net[k], a[k], a[k + 1], R, gamma if isinstance(net[k], nn.Conv2d) else gamma / 5)
    toys.assert_same(actual, R, rtol=1e-9)


def gamma_relevance(layer: nn.Module, a: Tensor, z: Tensor, R: Tensor, gamma: float) -> Tensor:
    """Return the relevance of the inputs, one output at a time: contributions with the sign of z count 1 + γ times."""
    a = a.requires_grad_()
    flat = layer(a).flatten(1)
    total = torch.zeros_like(a)
    bias = layer.bias.detach()
    biases = bias.repeat_interleave(flat.shape[1] // len(bias))
    for k in range(flat.shape[1]):
        (weight,) = torch.autograd.grad(flat[:, k].sum(), a, retain_graph=True)
        sign = z.flatten(1)[:, k].sign().view(-1, *[1] * (a.ndim - 1))
        parts = (a * weight).detach()
        parts = torch.where(parts * sign > 0, (1 + gamma) * parts, parts)
        offset = torch.where(biases[k] * sign > 0, (1 + gamma) * biases[k], biases[k])
        axes = tuple(range(1, a.ndim))
        share = R.flatten(1)[:, k].view_as(sign) / (parts.sum(dim=axes, keepdim=True) + offset)
        total = total + parts * share
    return total


# ---- biases out of the denominators


class Lecture(nn.Module):
    """ReLU(ReLU(x₁) - 1 - ReLU(x₂)), or the same function as ReLU(ReLU(x₁ - 1) - ReLU(x₂))."""

    def __init__(self, *, early: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 2).double(), nn.Linear(2, 1).double()
        offsets = (torch.tensor([-1.0, 0.0]), torch.zeros(1)) if early else (torch.zeros(2), torch.tensor([-1.0]))
        self.first.weight.data, self.first.bias.data = torch.eye(2).double(), offsets[0].double()
        self.second.weight.data, self.second.bias.data = torch.tensor([[1.0, -1.0]]).double(), offsets[1].double()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(torch.relu(self.first(x[:, 0, 0, :2]))))


@pytest.mark.parametrize(
    ("early", "bias", "expected"),
    [(False, "drop", [1.5, -0.5]), (True, "drop", [2, -1]), (False, "keep", [3, -1]), (True, "keep", [3, -1])],
)
@pytest.mark.parametrize("rule", ["zero", "epsilon", "attn-lrp", "cp-lrp"])
def test_bias_reproduces_lecture(early, bias, expected, rule):
    classifier = toys.classifier(Lecture(early=early), mean=(0.0,), std=(1.0,))
    image = torch.tensor([[[[3.0, 1.0]]]], dtype=torch.float64)
    with toys.any_range():
        values = xplain.attribute(
            classifier, image, "lrp", target=0, rule=rule, bias=bias, epsilon=1e-12, gamma=0.0
        ).values
    assert values.flatten().tolist() == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("rule", ["zero", "epsilon", "gamma", "attn-lrp"])
def test_relevance_without_biases_keeps_sum(rule):
    classifier, x = chains.as_classifier(chains.chain(3)), chains.images()
    logits = classifier(x).detach()[:, 1]
    for bias in ("drop", "keep"):
        values = xplain.attribute(classifier, x, "lrp", target=1, rule=rule, bias=bias, epsilon=1e-12).values
        is_kept = (values.sum(dim=(1, 2, 3)) - logits).abs() < 1e-6
        assert bool(is_kept.all() if bias == "drop" else not is_kept.any())


@pytest.mark.parametrize("rule", ["zero", "gamma", "z-plus", "alpha-beta", "cp-lrp"])
def test_bias_has_no_effect_without_biases(rule):
    classifier, x = chains.as_classifier(chains.chain(3, bias=0.0)), chains.images()
    kept, dropped = (
        xplain.attribute(classifier, x, "lrp", target=1, rule=rule, bias=bias).values for bias in ("keep", "drop")
    )
    toys.assert_same(dropped, kept)


def test_grown_relevance_is_flagged():
    """Contributions 0.5 and -0.4999 of a layer with bias 1 are multiplied by 1.0001 / 0.0001."""
    weight, bias = torch.tensor([[1.0, -1.0]]).double(), torch.ones(1).double()
    net = lambda a, b: F.linear(torch.stack([a, b], dim=1), weight, bias)[:, 0]  # noqa: E731
    classifier, image = chains.scalar_classifier(net, 0.5, 0.4999)
    result = xplain.attribute(classifier, image, "lrp", target=0, bias="drop", epsilon=1e-12)
    assert toys.warned(result, "use bias=keep") == [True]
    assert result.values.flatten().tolist() == pytest.approx([0.5 * 10001, -0.4999 * 10001], rel=1e-6)
    assert toys.warned(xplain.attribute(classifier, image * 0.5 + 0.1, "lrp", target=0, bias="drop"), "bias") == [True]


# ---- closed forms of DeepLIFT


def contributions(function, *values: float) -> list[float]:
    return chains.explain("deeplift", lambda *a: function(torch.stack(a, dim=1)), *values)


def test_layer_norm_of_two_features():
    """From (0, 0), r' = eps^-½: m_r = -(r r')² / (r + r'), M_c = r̄ M + (2 m_r / D) c̄ Σ c̄ M."""
    a, b, eps = 0.9, 0.2, 1e-2
    c = np.array([(a - b) / 2, (b - a) / 2])
    r, q = ((c**2).mean() + eps) ** -0.5, eps**-0.5
    M = np.array([1.0, 0.0])
    M_c = (r + q) / 2 * M - (r * q) ** 2 / (r + q) * c / 2 * (c / 2 * M).sum()
    expected = (M_c - M_c.mean()) * np.array([a, b])
    assert contributions(lambda v: F.layer_norm(v, (2,), eps=eps)[:, 0], a, b) == pytest.approx(expected, rel=1e-12)

    def written(v: Tensor) -> Tensor:
        centered = v - v.mean(dim=1, keepdim=True)
        return (centered / (centered.pow(2).mean(dim=1, keepdim=True) + eps).sqrt())[:, 0]

    assert contributions(written, a, b) == pytest.approx(expected, rel=1e-12)
    variance = lambda v: (v.var(dim=1, unbiased=False, keepdim=True) + eps).rsqrt()  # noqa: E731
    normed = lambda v: ((v - v.mean(dim=1, keepdim=True)) * variance(v))[:, 0]  # noqa: E731
    assert contributions(normed, a, b) == pytest.approx(expected, rel=1e-12)


def test_rms_norm_equals_its_written_form():
    a, eps = [0.9, 0.2, 0.4], 1e-2
    norm = contributions(lambda v: F.rms_norm(v, (3,), eps=eps)[:, 1], *a)
    written = contributions(lambda v: (v * torch.rsqrt(v.pow(2).mean(-1, keepdim=True) + eps))[:, 1], *a)
    assert norm == pytest.approx(written, rel=1e-12)
    assert sum(norm) == pytest.approx(0.2 / np.sqrt(np.mean(np.square(a)) + eps), rel=1e-12)


def test_unit_vectors_are_complete():
    """x / |x| by F.normalize and by its steps, from (1, 1, 1) to x + 1."""
    a = [0.9, 0.2, 0.4]
    shifted = np.array(a) + 1
    expected = shifted[1] / np.linalg.norm(shifted) - 3**-0.5
    normal = contributions(lambda v: F.normalize(v + 1, dim=1)[:, 1], *a)
    steps = contributions(lambda v: ((v + 1) / (v + 1).norm(dim=-1, keepdim=True))[:, 1], *a)
    assert normal == pytest.approx(steps, rel=1e-12)
    assert sum(normal) == pytest.approx(expected, rel=1e-12)
    factor = (np.linalg.norm(shifted) + 3**0.5) / 2 / (np.linalg.norm(shifted) * 3**0.5)
    slope = (
        -(shifted[1] + 1) / 2 / (np.linalg.norm(shifted) * 3**0.5) * (shifted + 1) / (np.linalg.norm(shifted) + 3**0.5)
    )
    expected = (slope + factor * np.array([0, 1, 0])) * a
    assert normal == pytest.approx(expected, rel=1e-12)


def test_softmax_of_two_classes():
    a, b = 0.9, 0.2
    e, s, t = np.exp([a, b]), np.exp([a, b]).sum(), 2.0
    m_e = (1 / s + 1 / t) / 2 * np.array([1, 0]) - (e[0] + 1) / 2 / (s * t)
    expected = m_e * (e - 1)
    assert contributions(lambda v: v.softmax(dim=1)[:, 0], a, b) == pytest.approx(expected, rel=1e-12)
    assert sum(contributions(lambda v: F.softmax(v, dim=-1)[:, 0], 0.7, 0.7)) == pytest.approx(0, abs=1e-15)


def test_shifted_softmax_takes_steps_of_logarithms():
    """e^a / (e^a + e^b) with sums that differ by e^20: l (M - Σ l M / Σ l) with l = ΔA / Δ log A.

    A shift of both has contributions that sum to zero: 900 times the gradient.
    """
    a, b = 21.0, 20.0
    A, B = np.array([1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))]), np.array([0.5, 0.5])
    slope = (A - B) / np.log(A / B)
    expected = slope * (np.array([1, 0]) - slope[0] / slope.sum()) * np.array([a, b])
    assert contributions(lambda v: v.softmax(dim=1)[:, 0], a, b) == pytest.approx(expected, rel=1e-10)
    assert contributions(lambda v: v.softmax(dim=1)[:, 0], 900.0, 900.0) == pytest.approx([225, -225])


def test_masked_entries_get_nothing():
    mask = torch.tensor([False, True, False])
    values = contributions(lambda v: v.masked_fill(mask, -torch.inf).softmax(dim=1)[:, 0], 0.9, 0.4, 0.2)
    expected = contributions(lambda v: v[:, ::2].softmax(dim=1)[:, 0], 0.9, 0.4, 0.2)
    assert values == pytest.approx(expected, rel=1e-12)
    assert values[1] == 0


def test_matrix_products_average_both_orders():
    """(v vᵀ) of (a, b): the entry ab gets b̄ a + ā b = ab / 2 each; quotients (a + 1) / (b + 1) likewise."""
    product = lambda v: (v[:, :, None] @ v[:, None, :])[:, 0, 1]  # noqa: E731
    assert contributions(product, 2.0, 3.0) == pytest.approx([3.0, 3.0])
    einsum = lambda v: torch.einsum("bi,bj->bij", v, v)[:, 0, 1]  # noqa: E731
    assert contributions(einsum, 2.0, 3.0) == pytest.approx([3.0, 3.0])
    quotient = lambda v: (v[:, 0] + 1) / (v[:, 1] + 1)  # noqa: E731
    assert contributions(quotient, 2.0, 3.0) == pytest.approx([2 * (1 / 4 + 1) / 2, -2 * 3 / 4])
    assert contributions(lambda v: 6 / (v[:, 0] + 1), 2.0) == pytest.approx([-4.0])


def test_multipliers_near_baseline_are_the_gradient():
    """A baseline that equals the image up to 1e-7 gives multipliers within 1e-6 of the gradient."""
    steps, x = random_steps(), toys.images(2, 2, 3) * 1e-7
    classifier = toys.classifier(Steps(steps))
    values = xplain.attribute(classifier, x, "deeplift", target=1).values / x
    gradients = xplain.attribute(classifier, x, "saliency", target=1).values
    toys.assert_same(values, gradients, rtol=1e-5)


# ---- whole models


@pytest.mark.parametrize(
    ("model", "baseline"), [*((model, "black") for model in MAKERS), *((model, "blur") for model in FEW)]
)
def test_deeplift_is_complete(model, baseline):
    classifier, x = small_transformer(model), small_images()
    result = xplain.attribute(classifier, x, "deeplift", target=TARGET, baseline=baseline)
    logits = [classifier(x).detach()[[0, 1], TARGET]]
    assert float(result.gap.abs().max()) < 1e-9
    assert float(result.expected.abs().min()) > 1e-6
    if baseline == "black":
        change = logits[0] - classifier(torch.zeros_like(x)).detach()[[0, 1], TARGET]
        toys.assert_same(result.values.sum(dim=(1, 2, 3)), change, rtol=1e-7)


@every_model
def test_fullgrad_terms_sum_to_logit(model):
    classifier, x = small_transformer(model), small_images()
    total = xplain.attribute(classifier, x, "fullgrad", target=TARGET).details["total"]
    assert float((total - classifier(x).detach()[[0, 1], TARGET]).abs().max()) < 1e-9


@pytest.mark.parametrize("model", FEW)
@pytest.mark.parametrize("method", ["lrp:attn-lrp", "lrp:cp-lrp", "lrp", "guided-backprop", "deconvnet", "fullgrad"])
def test_method_fits_model(model, method):
    """The map is finite, not zero, and the same for one image and for two."""
    name, _, rule = method.partition(":")
    options = {"rule": rule} if rule else {}
    classifier, x = small_transformer(model), small_images()
    values = xplain.attribute(classifier, x, name, target=TARGET, **options).values
    assert values.isfinite().all()
    assert bool((values.abs().amax(dim=(1, 2, 3)) > 0).all())
    single = xplain.attribute(classifier, x[1:], name, target=TARGET[1:], **options).values
    toys.assert_same(single[0], values[1], rtol=1e-6)


def test_deep_taylor_names_missing_definition():
    with pytest.raises(
        UsageError, match=r"deep-taylor has no rule for layer_norm in .*; use lrp, deeplift or integrated"
    ):
        xplain.attribute(small_transformer("torchvision-vit"), small_images(), "deep-taylor")


def test_models_have_classes():
    assert small_transformer("timm-vit")(small_images()).shape == (2, CLASSES)
