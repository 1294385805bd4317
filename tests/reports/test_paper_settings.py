"""The settings in which a run differs from a paper's table."""

from __future__ import annotations

import pytest

from xplain.reports.paper_settings import (
    PaperSettings,
    difference_warning,
    find_differences,
    hardware_differences,
    model_differences,
)

SETTINGS = PaperSettings(
    models=("vgg16", "resnet18"), dataset="ImageNet", images=1000, image_size=224, target="auto", score="prob"
)


def summarize(model="vgg16", source="vgg16.pth", size=(224, 224), location="data/ImageNet-val", images=1000, **options):
    """Return the entries of a summary that are compared. options: of the request, and ``target``."""
    return {
        "items": {"evaluated": images},
        "run": {
            "fingerprint": {
                "model": {"name": model, "weights": {"source": source}},
                "preprocessing": {"size": list(size)},
                "target": options.pop("target", "auto"),
            },
            "dataset": {"location": location},
            "request": {"score": "prob", **options},
        },
    }


def test_equal_settings_have_no_difference():
    assert find_differences(SETTINGS, summarize()) == []
    assert find_differences(SETTINGS, summarize(location="/data/ILSVRC2012_img_val")) == []
    assert find_differences(PaperSettings(), summarize(score=None)) == []
    assert difference_warning([]) == ""


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"model": "vgg19"}, "model vgg19 (table: vgg16, resnet18)"),
        ({"weights": "random"}, "weights untrained (table: trained)"),
        ({"source": "random"}, "weights untrained (table: trained)"),
        ({"weights": "w.pt"}, "weights w.pt (table: the model's own)"),
        ({"size": (224, 192)}, "image size 224 x 192 (table: 224 x 224)"),
        ({"location": "photos"}, "data set photos (table: ImageNet)"),
        ({"images": 2}, "images 2 (table: 1000)"),
        ({"target": "label"}, "target label (table: auto)"),
        ({"score": None}, "score the default (table: prob)"),
    ],
)
def test_each_difference_is_named(change, difference):
    assert find_differences(SETTINGS, summarize(**change)) == [difference]


def test_own_image_size():
    settings = PaperSettings(models=("vgg16",))
    assert model_differences(settings, "vgg16", None, None, (224, 224)) == []
    assert model_differences(settings, "vgg16", None, 96, (96, 96)) == ["image size 96 x 96 (table: the model's own)"]


def test_run_that_trains_its_own_networks_differs_in_the_data_set_only():
    summary = summarize(location="torchvision:CIFAR10:./data", target="label")
    summary["run"]["fingerprint"]["model"] = None
    assert find_differences(PaperSettings(dataset="CIFAR-10", images=5), summary) == []
    assert find_differences(PaperSettings(dataset="MNIST"), summary) == [
        "data set torchvision:CIFAR10:./data (table: MNIST)"
    ]


def test_hardware_must_contain_the_name():
    settings = PaperSettings(hardware="RTX 3090")
    assert hardware_differences(settings, "NVIDIA GeForce RTX 3090") == []
    assert hardware_differences(settings, "NVIDIA H100") == ["hardware NVIDIA H100 (table: RTX 3090)"]
    assert hardware_differences(PaperSettings(), "NVIDIA H100") == []


def test_warning_joins_the_differences():
    assert difference_warning(["a 1 (table: 2)", "b 3 (table: 4)"]) == (
        "this run differs from the published table in a 1 (table: 2); b 3 (table: 4)"
    )
