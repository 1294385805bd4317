"""Label randomization: maps of other classes, and of a network trained on other labels."""

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


def compute_score(method, maps: Tensor = X, images: Tensor = X, classifier=NET, target=Y, **options) -> xplain.Score:
    return xplain.measure(classifier, images, maps, "label-randomisation", method=method, target=target, **options)


def requested_classes(**options) -> Tensor:
    """Return the classes that the metric passes to the method."""
    targets: list[Tensor] = []
    compute_score(lambda classifier, images, target: targets.append(target) or images, **options)
    return torch.cat(targets)


def test_other_class_is_uniform():
    drawn = requested_classes()
    assert not (drawn == torch.tensor(Y)).any()
    assert torch.bincount(drawn, minlength=5).min() >= 3  # 8 expected, standard deviation 2.5
    offsets = torch.stack([(requested_classes(seed=seed) - torch.tensor(Y)) % 5 for seed in range(20)])
    shares = torch.bincount(offsets.flatten(), minlength=5) / offsets.numel()
    assert shares.tolist() == pytest.approx([0, 0.25, 0.25, 0.25, 0.25], abs=0.06)  # four standard deviations


def test_other_class_depends_on_seed():
    together = requested_classes()
    assert not torch.equal(requested_classes(seed=1), together)
    for i in (0, 7):
        alone = requested_classes(maps=X[i : i + 1], images=X[i : i + 1], target=Y[i])
        assert alone.tolist() == [int(together[i])]


def test_score_matches_scipy_spearman():
    x, y = X[:3], Y[:3]
    maps = xplain.attribute(NET, x, "saliency", target=y).values
    other = requested_classes(maps=x, images=x, target=y).tolist()
    again = xplain.attribute(NET, x, "saliency", target=other).values
    score = compute_score("saliency", maps, x, target=y)
    expected = [spearmanr(a.sum(0).flatten(), b.sum(0).flatten()).statistic for a, b in zip(maps, again, strict=True)]
    assert score.values.tolist() == pytest.approx(expected, abs=1e-12)
    assert (score.cost.forwards, score.cost.backwards) == (3, 3)


def test_two_classes_have_opposite_gradients():
    two = toys.classifier(toys.small_net(1, classes=2))
    maps = xplain.attribute(two, X[:2], "saliency", target=0, score="prob").values

    def gradient(classifier, images: Tensor, target: Tensor) -> Tensor:
        return xplain.attribute(classifier, images, "saliency", target=target.tolist(), score="prob").values

    options = {"classifier": two, "target": 0}
    assert compute_score(gradient, maps, X[:2], **options).values.tolist() == pytest.approx([-1, -1])
    assert compute_score(gradient, maps, X[:2], absolute=True, **options).values.tolist() == pytest.approx([1, 1])


def test_class_independent_methods_score_one():
    for method in ("sobel", "random"):
        maps = xplain.attribute(NET, X[:2], method).values
        for similarity in ("spearman", "ssim"):
            score = compute_score(method, maps, X[:2], target=0, similarity=similarity)
            assert score.values.tolist() == pytest.approx([1, 1], abs=1e-12)


def test_constant_map_is_undefined():
    maps = X[:2].clone()
    maps[0] = 1
    score = compute_score("saliency", maps, X[:2], target=0)
    assert score.values.isnan().tolist() == [True, False]
    assert score.undefined["a map is constant"].tolist() == [True, False]


def test_single_class_model_is_rejected():
    alone = toys.classifier(toys.small_net(classes=1))
    with pytest.raises(
        UsageError, match="label-randomisation requires at least two classes, but the model has one; use"
    ):
        compute_score("saliency", X[:1], X[:1], alone, target=0)


def test_weights_compare_same_class(tmp_path):
    learned = toys.small_net(9)
    torch.save(learned.state_dict(), tmp_path / "permuted.pth")
    x, y = X[:3], Y[:3]
    maps = xplain.attribute(NET, x, "saliency", target=y).values
    again = xplain.attribute(toys.classifier(learned), x, "saliency", target=y).values
    before = {name: value.clone() for name, value in NET.state_dict().items()}
    score = compute_score("saliency", maps, x, target=y, weights=str(tmp_path / "permuted.pth"))
    expected = [spearmanr(a.sum(0).flatten(), b.sum(0).flatten()).statistic for a, b in zip(maps, again, strict=True)]
    assert score.values.tolist() == pytest.approx(expected, abs=1e-9)
    assert all(torch.equal(value, before[name]) for name, value in NET.state_dict().items())
    torch.save(NET.model.state_dict(), tmp_path / "permuted.pth")  # a changed file is read again
    same = compute_score("saliency", maps, x, target=y, weights=str(tmp_path / "permuted.pth"))
    assert same.values.tolist() == pytest.approx([1, 1, 1])


def test_weights_missing_or_incompatible(tmp_path):
    with pytest.raises(
        UsageError,
        match=r"label-randomisation: invalid value weights=nowhere.pth; use an existing file or folder or none",
    ):
        compute_score("saliency", weights="nowhere.pth")
    torch.save(toys.small_net(classes=3).state_dict(), tmp_path / "three.pth")
    with pytest.raises(InputError, match="do not match the model"):
        compute_score("saliency", X[:1], X[:1], target=0, weights=str(tmp_path / "three.pth"))
