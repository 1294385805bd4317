"""FullGrad: the terms add up to the score, whatever the activations; the map, term by term; refusals."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import xplain
from tests.helpers import chains, toys
from tests.helpers.networks import family, photos
from xplain.core.errors import UsageError


def total(made, x, **settings) -> torch.Tensor:
    return xplain.attribute(made, x, "fullgrad", target=[1, 2], **settings).details["total"]


def score(made, x) -> torch.Tensor:
    return made(x).detach()[[0, 1], [1, 2]].double()


@pytest.mark.parametrize("baseline", ["mean", "black"])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6, nn.Hardswish, nn.SiLU, nn.LeakyReLU])
def test_the_terms_add_up_to_the_logit(activation, baseline):
    """ReLU's terms are biases alone; other activations add their implicit biases."""
    made, _ = toys.with_pixels(toys.small_net(scale=15.0, activation=activation))
    x = toys.images()
    toys.assert_same(total(made, x, baseline=baseline), score(made, x))


def by_hooks(net: toys.SmallNet, u: torch.Tensor, target: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Every bias times its gradient, and the input times its own, from modules' outputs: the batch norm by its offset."""
    made: dict[str, torch.Tensor] = {}
    handles = [
        module.register_forward_hook(lambda _, __, out, name=name: made.__setitem__(name, out))
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
    gradients = torch.autograd.grad(logits[:, target].sum(), [u, *(made[name] for name in biases)])
    shares = [bias * gradient for bias, gradient in zip(biases.values(), gradients[1:], strict=True)]
    return [each.detach() for each in shares], (u * gradients[0]).detach()


def test_the_biases_total_is_what_uniform_fullgrad_spreads():
    net, x = toys.small_net(scale=15.0), toys.images()
    made, _ = toys.with_pixels(net)
    shares, own = by_hooks(net, toys.normalise(x), 1)
    rest = sum(each.flatten(1).sum(dim=1) for each in shares)
    uniform = xplain.attribute(made, x, "uniform-fullgrad", target=1).values
    toys.assert_same(uniform - own, (rest / own[0].numel())[:, None, None, None].expand_as(own), rtol=1e-7)
    found = xplain.attribute(made, x, "fullgrad", target=1).details["total"]
    toys.assert_same(found, rest + own.sum(dim=(1, 2, 3)))


def scaled(share: torch.Tensor, rescale: str) -> torch.Tensor:
    """|share| scaled to [0, 1] over each image's layer or channel, summed over channels."""
    out = torch.zeros_like(share)
    for image in range(len(share)):
        groups = [slice(None)] if rescale == "layer" else list(range(share.shape[1]))
        for group in groups:
            part = share[image, group].abs()
            if part.max() > part.min():
                out[image, group] = (part - part.min()) / (part.max() - part.min())
    return out.sum(dim=1, keepdim=True)


@pytest.mark.parametrize("rescale", ["layer", "channel"])
def test_the_map_is_the_sum_of_the_rescaled_terms(rescale):
    """A convolution's and its batch norm's bias count as one term, where they are folded."""
    net, x = toys.small_net(scale=15.0), toys.images()
    made, _ = toys.with_pixels(net)
    (conv, norm, second, _), own = by_hooks(net, toys.normalise(x), 1)
    scale = net.norm1.weight / (net.norm1.running_var + net.norm1.eps).sqrt()
    at_norm = norm / (net.norm1.bias - net.norm1.running_mean * scale)[:, None, None]  # the gradient there
    folded = at_norm * (net.norm1.bias + (net.conv1.bias - net.norm1.running_mean) * scale)[:, None, None]
    toys.assert_same(folded.sum(), (conv + norm).sum())
    expected = scaled(own, rescale) + scaled(folded, rescale)
    expected = expected + F.interpolate(scaled(second, rescale), size=x.shape[-2:], mode="bilinear")
    values = xplain.attribute(made, x, "fullgrad", target=1, rescale=rescale).values
    toys.assert_same(values, expected.detach(), rtol=1e-7)


def test_without_biases_the_map_is_the_rescaled_input_term():
    made = chains.as_classifier(chains.chain(bias=0.0))
    x = chains.images()
    plain = xplain.attribute(made, x, "gxi", target=0).values
    toys.assert_same(xplain.attribute(made, x, "fullgrad", target=0).values, scaled(plain, "layer"))


@pytest.mark.parametrize("model", ["vgg11", "resnet18", "mobilenet_v3_small", "googlenet"])
def test_the_terms_of_whole_networks_add_up_in_single_precision(model):
    """Transformed inputs (GoogLeNet), gates and hard swishes (MobileNetV3) included."""
    made, x = family(model), photos(model)
    found = xplain.attribute(made, x, "fullgrad", target=[1, 2])
    assert found.values.isfinite().all()
    expected = score(made, x)
    assert float(((found.details["total"] - expected) / expected).abs().max()) < 1e-3


@pytest.mark.parametrize("score", ["prob", "log-prob"])
def test_scores_that_are_not_linear_between_kinks_are_refused(score):
    with pytest.raises(UsageError, match=r"fullgrad is not defined for score=.*use logit or margin"):
        xplain.attribute(chains.as_classifier(chains.chain()), chains.images(), "fullgrad", score=score)


def test_the_margin_adds_up_too():
    made, x = chains.as_classifier(chains.chain()), chains.images(1)
    found = xplain.attribute(made, x, "fullgrad", target=1, score="margin").details["total"]
    logits = made(x)[0].detach()
    assert float(found) == pytest.approx(float(logits[1] - logits[[0, 2, 3]].max()))
