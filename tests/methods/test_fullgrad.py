"""FullGrad: terms that sum to the score for all activations, the map term by term, and refusals."""

from itertools import product

import pytest
import torch
from torch import nn

import xplain
from tests.helpers import chains, toys
from tests.helpers.networks import smooth_images, torchvision_classifier
from xplain.core.errors import UsageError


def sum_of_terms(classifier, x, **settings) -> torch.Tensor:
    return xplain.attribute(classifier, x, "fullgrad", target=[1, 2], **settings).details["total"]


def logits_of_targets(classifier, x) -> torch.Tensor:
    return classifier(x).detach()[[0, 1], [1, 2]].double()


@pytest.mark.parametrize("baseline", ["mean", "black"])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6, nn.Hardswish, nn.SiLU, nn.LeakyReLU])
def test_terms_sum_to_logit(activation, baseline):
    """The terms are biases for ReLU, and implicit biases too for other activations."""
    classifier, _ = toys.with_pixels(toys.small_net(scale=15.0, activation=activation))
    x = toys.images()
    toys.assert_same(sum_of_terms(classifier, x, baseline=baseline), logits_of_targets(classifier, x))


def terms_by_hooks(net: toys.SmallNet, u: torch.Tensor, target: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Return each bias times its gradient, and the input times its gradient, from hooks; batch norms by their offset."""
    outputs: dict[str, torch.Tensor] = {}
    handles = [
        module.register_forward_hook(lambda _, __, out, name=name: outputs.__setitem__(name, out))
        for name, module in net.named_modules()
    ]
    u = u.clone().requires_grad_()
    logits = net(u)
    for handle in handles:
        handle.remove()
    norm = net.norm1
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    biases = {
        "conv1": net.conv1.bias[:, None, None],
        "norm1": (norm.bias - norm.running_mean * scale)[:, None, None],
        "conv2": net.conv2.bias[:, None, None],
        "head": net.head.bias,
    }
    gradients = torch.autograd.grad(logits[:, target].sum(), [u, *(outputs[name] for name in biases)])
    terms = [bias * gradient for bias, gradient in zip(biases.values(), gradients[1:], strict=True)]
    return [term.detach() for term in terms], (u * gradients[0]).detach()


def test_bias_terms_equal_uniform_fullgrad():
    net, x = toys.small_net(scale=15.0), toys.images()
    classifier, _ = toys.with_pixels(net)
    terms, input_term = terms_by_hooks(net, toys.normalise(x), 1)
    rest = sum(term.flatten(1).sum(dim=1) for term in terms)
    uniform = xplain.attribute(classifier, x, "uniform-fullgrad", target=1).values
    spread = (rest / input_term[0].numel())[:, None, None, None].expand_as(input_term)
    toys.assert_same(uniform - input_term, spread, rtol=1e-7)
    total = xplain.attribute(classifier, x, "fullgrad", target=1).details["total"]
    toys.assert_same(total, rest + input_term.sum(dim=(1, 2, 3)))


def rescaled(term: torch.Tensor, rescale: str) -> torch.Tensor:
    """Return |term| scaled to [0, 1] per layer or channel of each image, summed over channels."""
    out = torch.zeros_like(term)
    for image in range(len(term)):
        groups = [slice(None)] if rescale == "layer" else list(range(term.shape[1]))
        for group in groups:
            part = term[image, group].abs()
            if part.max() > part.min():
                out[image, group] = (part - part.min()) / (part.max() - part.min())
    return out.sum(dim=1, keepdim=True)


def upsampled(term: torch.Tensor, size: tuple[int, int], align_corners: bool) -> torch.Tensor:
    """Return a map (B, 1, h, w) interpolated to ``size``, one output pixel at a time."""
    out = torch.zeros(*term.shape[:2], *size, dtype=term.dtype)
    for pixel in product(range(size[0]), range(size[1])):
        nodes = []
        for index, count, length in zip(pixel, size, term.shape[-2:], strict=True):
            position = index * (length - 1) / (count - 1) if align_corners else (index + 0.5) * length / count - 0.5
            position = min(max(position, 0.0), length - 1.0)
            low = min(int(position), length - 2)
            nodes.append([(low, 1 - (position - low)), (low + 1, position - low)])
        for (i, a), (j, b) in product(*nodes):
            out[..., pixel[0], pixel[1]] += a * b * term[..., i, j]
    return out


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("rescale", ["layer", "channel"])
def test_map_sums_rescaled_terms(rescale, align_corners):
    """A convolution and the batch norm that is folded into it form one term."""
    net, x = toys.small_net(scale=15.0), toys.images()
    classifier, _ = toys.with_pixels(net)
    (conv, norm, second, _), input_term = terms_by_hooks(net, toys.normalise(x), 1)
    scale = net.norm1.weight / (net.norm1.running_var + net.norm1.eps).sqrt()
    gradient = norm / (net.norm1.bias - net.norm1.running_mean * scale)[:, None, None]
    folded = gradient * (net.norm1.bias + (net.conv1.bias - net.norm1.running_mean) * scale)[:, None, None]
    toys.assert_same(folded.sum(), (conv + norm).sum())
    expected = rescaled(input_term, rescale) + rescaled(folded, rescale)
    expected = expected + upsampled(rescaled(second, rescale), x.shape[-2:], align_corners)
    options = {} if align_corners else {"align_corners": False}
    values = xplain.attribute(classifier, x, "fullgrad", target=1, rescale=rescale, **options).values
    toys.assert_same(values, expected.detach(), rtol=1e-7)


def test_no_biases_leave_input_term():
    classifier = chains.as_classifier(chains.chain(bias=0.0))
    x = chains.images()
    input_term = xplain.attribute(classifier, x, "gxi", target=0).values
    toys.assert_same(xplain.attribute(classifier, x, "fullgrad", target=0).values, rescaled(input_term, "layer"))


@pytest.mark.parametrize("model", ["vgg11", "resnet18", "mobilenet_v3_small", "googlenet"])
def test_networks_sum_to_logit_in_float32(model):
    """With transformed inputs (GoogLeNet), gates and hardswish (MobileNetV3)."""
    classifier, x = torchvision_classifier(model), smooth_images(model)
    result = xplain.attribute(classifier, x, "fullgrad", target=[1, 2])
    assert result.values.isfinite().all()
    expected = logits_of_targets(classifier, x)
    assert float(((result.details["total"] - expected) / expected).abs().max()) < 1e-3


@pytest.mark.parametrize("score", ["prob", "log-prob"])
def test_nonlinear_scores_are_refused(score):
    with pytest.raises(UsageError, match=r"fullgrad is not defined for score=.*use logit or margin"):
        xplain.attribute(chains.as_classifier(chains.chain()), chains.images(), "fullgrad", score=score)


def test_terms_sum_to_margin():
    classifier, x = chains.as_classifier(chains.chain()), chains.images(1)
    total = xplain.attribute(classifier, x, "fullgrad", target=1, score="margin").details["total"]
    logits = classifier(x)[0].detach()
    assert float(total) == pytest.approx(float(logits[1] - logits[[0, 2, 3]].max()))


@pytest.mark.parametrize("method", ["fullgrad", "lrp", "deeplift"])
def test_activations_of_one_value_per_image(method):
    """An operation on a tensor (B,) has the same terms as one on (B, 1)."""
    network = toys.small_net(classes=1)
    network.size = (8, 10)
    classifier = xplain.load_classifier(network, device="cpu", activation="none")
    x = toys.images()
    flat = xplain.attribute(classifier, x, method, target=lambda output: output[:, 0].tanh())
    column = xplain.attribute(classifier, x, method, target=lambda output: output.tanh())
    toys.assert_same(flat.values, column.values)
