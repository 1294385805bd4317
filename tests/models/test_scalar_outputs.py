"""Target functions: the value that is explained is any function of the network's output."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import xplain
from tests.helpers import toys
from xplain.core.errors import InputError, UsageError
from xplain.models.scalar_outputs import find_embeddings


class Heads(nn.Module):
    """Two heads on one linear embedding, as a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = toys.Linear(
            torch.randn(6, 3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        )
        self.age = nn.Linear(6, 1).double()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        embedding = self.embed(x)
        return {"logits": embedding, "age": self.age(embedding)}


@pytest.fixture
def classifier() -> xplain.Classifier:
    return toys.classifier(Heads().eval())


def test_gradient_of_a_regression_value(classifier):
    weight = torch.einsum("k,kchw->chw", classifier.model.age.weight[0], classifier.model.embed.weight)
    attribution = xplain.attribute(classifier, toys.images(), "saliency", target=lambda output: output["age"])
    torch.testing.assert_close(attribution.values, weight.detach().expand(2, -1, -1, -1))
    assert attribution.target.tolist() == [0, 0]


def test_completeness_of_a_nonlinear_function(classifier):
    x = toys.images()

    def square(output: dict[str, Tensor]) -> Tensor:
        return output["age"][:, 0] ** 2

    attribution = xplain.attribute(classifier, x, "integrated-gradients", target=square, baseline="black", steps=4)
    with torch.no_grad():
        change = square(classifier.model(x)) - square(classifier.model(torch.zeros_like(x)))
    torch.testing.assert_close(attribution.expected, change)
    torch.testing.assert_close(attribution.total, change)


@pytest.fixture
def embedder(classifier) -> xplain.Classifier:
    """A linear embedding without bias."""
    return toys.classifier(classifier.model.embed)


def test_gradient_of_a_cosine(embedder):
    x = toys.images(3)
    attribution = xplain.attribute(embedder, x, "saliency", target=xplain.similarity(embedder, x[0]))
    points = x.clone().requires_grad_()
    embeddings = embedder.model(points)
    cosines = F.cosine_similarity(embeddings, embeddings[:1].detach())
    (expected,) = torch.autograd.grad(cosines.sum(), points)
    torch.testing.assert_close(attribution.values, expected)
    # Euler: a cosine does not depend on the length of an embedding without bias
    assert float((x * attribution.values).sum(dim=(1, 2, 3)).abs().max()) < 1e-12


def test_similarity_preserves_the_random_state():
    embedder = nn.Sequential(nn.Flatten(), nn.Linear(240, 4).double())
    random = xplain.load_classifier(nn.Sequential(embedder, toys.Function(F.dropout)), device="cpu", size=(8, 10))
    before = torch.get_rng_state()
    xplain.similarity(random, toys.images(1)[0])
    assert torch.equal(torch.get_rng_state(), before)


def test_insertion_ends_at_the_value_itself(classifier):
    x = toys.images()

    def age(output: dict[str, Tensor]) -> Tensor:
        return output["age"]

    attribution = xplain.attribute(classifier, x, "saliency", target=age)
    score = xplain.measure(classifier, x, attribution.values, "insertion", target=age, steps=3)
    with torch.no_grad():
        values = age(classifier.model(x))[:, 0]
    torch.testing.assert_close(score.curve[:, -1].double(), values)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda output: output["logits"], "the target function returned float64 of shape (2, 6) for 2 images; "),
        (lambda output: output["age"].sum(), "the target function returned float64 of shape () for 2 images; "),
        (lambda output: output["age"].long(), "the target function returned int64 of shape (2, 1) for 2 images; "),
        (lambda output: 3, "the target function returned int; "),
        (lambda output: output["sex"], "the target function failed: KeyError: 'sex'; "),
    ],
)
def test_functions_without_one_value_per_image_are_refused(classifier, function, message):
    with pytest.raises(InputError) as caught:
        xplain.attribute(classifier, toys.images(), "saliency", target=function)
    assert str(caught.value) == message + "return a tensor with one floating-point value per image"


def test_contrast_classes_of_a_function_are_refused(classifier):
    with pytest.raises(UsageError, match="a target function has no contrast classes; remove against"):
        xplain.attribute(classifier, toys.images(), "saliency", target=lambda output: output["age"], against=1)


def test_methods_that_need_another_class_refuse_a_function(classifier):
    with pytest.raises(UsageError, match="agi requires false classes, but the model returns values"):
        xplain.attribute(classifier, toys.images(), "agi", target=lambda output: output["age"])


def test_refusal_of_a_function_is_not_reworded(classifier):
    def refuse(output):
        raise UsageError("no", "way")

    with pytest.raises(UsageError, match=r"^no; way$"):
        xplain.attribute(classifier, toys.images(), "saliency", target=refuse)


def test_reference_without_an_embedding_is_refused(embedder):
    with pytest.raises(InputError, match="the embedding of the reference image is zero or not finite"):
        xplain.similarity(embedder, torch.zeros(3, 8, 10, dtype=torch.float64))
    with pytest.raises(UsageError, match=r"the reference image has shape \(2, 3, 8, 10\); pass one image"):
        xplain.similarity(embedder, toys.images(2))


def test_embeddings_are_found_in_outputs():
    embeddings = torch.ones(2, 5)
    for output in (
        embeddings,
        embeddings[:, :, None, None],
        {"image_embeds": embeddings},
        {"pooler_output": embeddings},
    ):
        assert find_embeddings(output).shape == (2, 5)
    with pytest.raises(InputError, match=r"a tensor \(2, 7, 5\) instead of embeddings"):
        find_embeddings(torch.ones(2, 7, 5))
