"""Label randomisation: maps of other classes, and of a network that learned other labels."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

import xplain
from tests.helpers import toys
from xplain.core.errors import InputError, UsageError

NET = toys.classifier(toys.small_net(1))
X = toys.images(40, 12, 13)
Y = [k % 5 for k in range(40)]


def measured(method, maps: Tensor = X, images: Tensor = X, classifier=NET, target=Y, **options) -> xplain.Score:
    return xplain.measure(classifier, images, maps, "label-randomisation", method=method, target=target, **options)


def asked(**options) -> Tensor:
    """The classes that the method was asked about."""
    seen: list[Tensor] = []
    measured(lambda classifier, images, target: seen.append(target) or images, **options)
    return torch.cat(seen)


def test_another_class_is_asked_about_each_of_them_as_often():
    drawn = asked()
    assert not (drawn == torch.tensor(Y)).any()
    assert torch.bincount(drawn, minlength=5).min() >= 3  # 8 expected, standard deviation 2.5
    many = torch.stack([(asked(seed=seed) - torch.tensor(Y)) % 5 for seed in range(20)])
    shares = torch.bincount(many.flatten(), minlength=5) / many.numel()
    assert shares.tolist() == pytest.approx([0, 0.25, 0.25, 0.25, 0.25], abs=0.06)  # four standard deviations


def test_the_class_depends_on_the_seed_and_the_image_alone():
    together = asked()
    assert not torch.equal(asked(seed=1), together)
    for i in (0, 7):
        alone = asked(maps=X[i : i + 1], images=X[i : i + 1], target=Y[i])
        assert alone.tolist() == [int(together[i])]


def test_the_value_is_the_correlation_with_the_other_classs_map():
    some, y = X[:3], Y[:3]
    maps = xplain.attribute(NET, some, "saliency", target=y).values
    other = asked(maps=some, images=some, target=y).tolist()
    again = xplain.attribute(NET, some, "saliency", target=other).values
    found = measured("saliency", maps, some, target=y)
    expected = [spearmanr(a.sum(0).flatten(), b.sum(0).flatten()).statistic for a, b in zip(maps, again, strict=True)]
    assert found.values.tolist() == pytest.approx(expected, abs=1e-12)
    assert (found.cost.forwards, found.cost.backwards) == (3, 3)


def test_of_two_classes_the_gradients_of_probabilities_are_opposite():
    two = toys.classifier(toys.small_net(1, classes=2))
    maps = xplain.attribute(two, X[:2], "saliency", target=0, score="prob").values

    def gradient(classifier, images: Tensor, target: Tensor) -> Tensor:
        return xplain.attribute(classifier, images, "saliency", target=target.tolist(), score="prob").values

    options = {"classifier": two, "target": 0}
    assert measured(gradient, maps, X[:2], **options).values.tolist() == pytest.approx([-1, -1])
    assert measured(gradient, maps, X[:2], absolute=True, **options).values.tolist() == pytest.approx([1, 1])


def test_a_method_that_does_not_look_at_the_class_has_one():
    for method in ("sobel", "random"):
        maps = xplain.attribute(NET, X[:2], method).values
        for similarity in ("spearman", "ssim"):
            found = measured(method, maps, X[:2], target=0, similarity=similarity)
            assert found.values.tolist() == pytest.approx([1, 1], abs=1e-12)


def test_a_constant_map_is_undefined():
    maps = X[:2].clone()
    maps[0] = 1
    found = measured("saliency", maps, X[:2], target=0)
    assert found.values.isnan().tolist() == [True, False]
    assert found.undefined["a map is constant"].tolist() == [True, False]


def test_one_class_has_no_other():
    alone = toys.classifier(toys.small_net(classes=1))
    with pytest.raises(
        UsageError, match="label-randomisation requires at least two classes, but the model has one; choose"
    ):
        measured("saliency", X[:1], X[:1], alone, target=0)


# ------------------------------------------------------------------------------------------------- learned from permuted labels


def test_weights_learned_from_permuted_labels_explain_the_same_class(tmp_path):
    learned = toys.small_net(9)
    torch.save(learned.state_dict(), tmp_path / "permuted.pth")
    some, y = X[:3], Y[:3]
    maps = xplain.attribute(NET, some, "saliency", target=y).values
    again = xplain.attribute(toys.classifier(learned), some, "saliency", target=y).values
    before = {name: each.clone() for name, each in NET.state_dict().items()}
    found = measured("saliency", maps, some, target=y, weights=str(tmp_path / "permuted.pth"))
    expected = [spearmanr(a.sum(0).flatten(), b.sum(0).flatten()).statistic for a, b in zip(maps, again, strict=True)]
    assert found.values.tolist() == pytest.approx(expected, abs=1e-9)
    assert all(torch.equal(each, before[name]) for name, each in NET.state_dict().items())
    torch.save(NET.model.state_dict(), tmp_path / "permuted.pth")  # the file is read anew when it changes
    same = measured("saliency", maps, some, target=y, weights=str(tmp_path / "permuted.pth"))
    assert same.values.tolist() == pytest.approx([1, 1, 1])


def test_weights_that_are_not_there_or_do_not_fit_are_refused(tmp_path):
    with pytest.raises(
        UsageError,
        match=r"label-randomisation: weights=nowhere.pth is not accepted; use an existing file or folder or none",
    ):
        measured("saliency", weights="nowhere.pth")
    torch.save(toys.small_net(classes=3).state_dict(), tmp_path / "three.pth")
    with pytest.raises(InputError, match="do not fit the model"):
        measured("saliency", X[:1], X[:1], target=0, weights=str(tmp_path / "three.pth"))
