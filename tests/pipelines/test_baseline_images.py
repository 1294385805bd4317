"""Tests of ``baseline`` as an image file or a tensor, for every method with the parameter."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import xplain
import xplain.methods  # registers the methods
from tests.conftest import TINY
from tests.contracts import quick
from tests.helpers import toys
from xplain.core.errors import InputError, UsageError
from xplain.core.registry import METHODS
from xplain.data.preprocessing import Preprocessing
from xplain.pipelines.method_run import MethodRun

CLASSIFIER = toys.classifier(toys.small_net(1, scale=15.0))
X = toys.images(3)
CHOICES = {spec.name: getattr(spec.parameters.get("baseline"), "choices", ()) for spec in METHODS}
WITH_BASELINE = [name for name, choices in CHOICES.items() if "black" in choices]
WEIGHT = torch.randn(2, 3, 8, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
LINEAR = toys.classifier(toys.Linear(WEIGHT))
SIZE = Preprocessing((8, 10), resize=(8, 10))
SIZED = toys.classifier(toys.small_net(1, scale=15.0), preprocessing=SIZE)
SIZED_LINEAR = toys.classifier(toys.Linear(WEIGHT), preprocessing=SIZE)


def test_methods_with_baseline():
    expected = {
        "integrated-gradients",
        "guided-ig",
        "deeplift",
        "occlusion",
        "kernel-shap",
        "lime",
        "rise",
        "score-cam",
        "input-x-gradient",
        "uniform-fullgrad",
        "dga",
    }
    assert expected <= set(WITH_BASELINE)


@pytest.mark.parametrize("name", WITH_BASELINE)
def test_tensor_of_one_color_equals_the_color(name):
    """One image (C, H, W), and one per image."""
    color, level = ("white", 1.0) if "white" in CHOICES[name] else ("black", 0.0)
    settings = quick(METHODS.get(name)) | {"target": [2, 0, 1]}
    expected = xplain.attribute(CLASSIFIER, X, name, baseline=color, **settings).values
    for baseline in (torch.full((3, 8, 10), level), np.full((3, 3, 8, 10), level)):
        assert torch.equal(xplain.attribute(CLASSIFIER, X, name, baseline=baseline, **settings).values, expected)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_baseline_per_image_closed_form(batch_size):
    """Linear score: φ = w ⊙ (x - x'), each image with its own baseline."""
    baseline = toys.images(3, seed=9)
    result = xplain.attribute(LINEAR, X, "ig", target=1, baseline=baseline, steps=3, batch_size=batch_size)
    toys.assert_same(result.values, WEIGHT[1] * (X - baseline))
    assert float(result.gap.abs().max()) < 1e-12


@pytest.mark.parametrize(("name", "offset"), [("input-x-gradient", 0.0), ("uniform-fullgrad", 1.0)])
def test_zero_point_per_image_closed_form(name, offset):
    """Linear score: φ = w ⊙ (x - r), and Uniform FullGrad spreads w · r over all values."""
    baseline = toys.images(3, seed=9)
    values = xplain.attribute(LINEAR, X, name, target=1, baseline=baseline).values
    rest = (WEIGHT[1] * baseline).sum(dim=(1, 2, 3), keepdim=True) / WEIGHT[1].numel()
    toys.assert_same(values, WEIGHT[1] * (X - baseline) + offset * rest)


def test_baseline_tensor_of_another_shape_is_refused():
    with pytest.raises(
        InputError, match=r"a baseline of shape \(1, 3, 8, 9\) does not match images of shape \(3, 3, 8, 10\)"
    ):
        xplain.attribute(LINEAR, X, "ig", baseline=torch.zeros(3, 8, 9))
    with pytest.raises(InputError, match=r"a baseline of shape \(2, 3, 8, 10\) does not match"):
        xplain.attribute(LINEAR, X, "ig", baseline=torch.zeros(2, 3, 8, 10))
    with pytest.raises(UsageError, match=r"the baseline has the shape \(8, 10\); pass a tensor of shape \(C, H, W\)"):
        xplain.attribute(LINEAR, X, "ig", baseline=torch.zeros(8, 10))
    with pytest.raises(InputError, match=r"the baseline images have values from 0 to 255"):
        xplain.attribute(LINEAR, X, "ig", baseline=torch.tensor([0.0, 255.0]).expand(3, 8, 2))
    with pytest.raises(UsageError, match=r"saliency has no parameter 'baseline'"):
        xplain.attribute(LINEAR, X, "saliency", baseline="black")


def test_unknown_baseline_names_file_as_choice():
    with pytest.raises(
        UsageError,
        match=r"invalid value baseline=none.png; use black or white or mean or blur or uniform or an image file or a folder of images",
    ):
        xplain.attribute(LINEAR, X, "ig", baseline="none.png")


def test_baseline_file_on_command_line(xp, photos, tmp_path):
    """The file is read as the images are, and the record has its digest."""
    path = photos / "espresso" / "b.jpg"
    ran = xp("explain", photos / "cat", *TINY, "-a", f"ig:baseline={path}", "--save", "raw", "--json", "-o", "out")
    assert ran.code == 0, ran.err
    record = json.loads(ran.out)
    classifier = xplain.load_classifier(TINY[1], device="cpu")
    x, start = (
        xplain.read_image(photos / name, preprocessing=classifier.preprocessing)
        for name in ("cat/a.jpg", "espresso/b.jpg")
    )
    expected = xplain.attribute(classifier, x[None], "ig", baseline=start)
    assert record["completeness"]["sum"] == pytest.approx(float(expected.total), rel=1e-4)
    assert record["params"]["baseline"] == str(path)
    assert len(record["references"]) == 64
    again = xp("explain", photos / "cat", *TINY, "-a", f"ig:baseline={path}", "--save", "raw", "-o", "out")
    assert again.code == 0, again.err
    Image.open(photos / "cat" / "a.jpg").save(path)
    changed = xp("explain", photos / "cat", *TINY, "-a", f"ig:baseline={path}", "--save", "raw", "-o", "out")
    assert changed.code == 3
    assert "already exists with other class names or baseline images" in changed.err


@pytest.fixture
def folder(tmp_path):
    """Three images of the size of the classifier's input."""
    generator = np.random.default_rng(7)
    for name in ("a.png", "b.png", "sub/c.png"):
        (tmp_path / "baselines" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (8, 10, 3), dtype=np.uint8)).save(tmp_path / "baselines" / name)
    return tmp_path / "baselines"


def read_baselines(folder):
    """Return the images of the folder, (3, 3, 8, 10)."""
    names = ("a.png", "b.png", "sub/c.png")
    return torch.stack([xplain.read_image(folder / name, preprocessing=SIZE) for name in names]).double()


@pytest.mark.filterwarnings("ignore:.*runs once for each of the 3 images")
@pytest.mark.parametrize("name", WITH_BASELINE)
def test_folder_averages_the_maps_of_its_images(name, folder):
    settings = quick(METHODS.get(name)) | {"target": [2, 0, 1]}
    result = xplain.attribute(SIZED, X, name, baseline=folder, **settings)
    parts = [xplain.attribute(SIZED, X, name, baseline=image, **settings) for image in read_baselines(folder)]
    toys.assert_same(result.values, torch.stack([part.values for part in parts]).mean(dim=0), rtol=1e-6)
    assert result.cost.backwards == sum(part.cost.backwards for part in parts)
    if result.expected is not None:
        toys.assert_same(result.expected, torch.stack([part.expected for part in parts]).mean(dim=0), rtol=1e-6)


def test_folder_closed_form_cost_and_note(folder):
    """Linear score: φ = w ⊙ (x - mean x'), which sums to f(x) - mean f(x')."""
    with pytest.warns(UserWarning, match="integrated-gradients runs once for each of the 3 images of") as notes:
        result = xplain.attribute(SIZED_LINEAR, X, f"ig:baseline={folder},steps=3", target=1)
    assert sum("runs once" in str(note.message) for note in notes) == 1
    baselines = read_baselines(folder)
    toys.assert_same(result.values, WEIGHT[1] * (X - baselines.mean(dim=0)), rtol=1e-6)
    toys.assert_same(result.expected, ((X - baselines.mean(dim=0)) * WEIGHT[1]).sum(dim=(1, 2, 3)), rtol=1e-6)
    assert result.cost.backwards == 3 * 3 * 3


@pytest.mark.filterwarnings("ignore:.*runs once for each of the 3 images")
def test_rows_and_digest_of_a_folder(folder):
    spec = METHODS.get("ig")
    run = MethodRun.resolve(spec, {"baseline": str(folder), "steps": 4}, SIZED.preprocessing)
    assert run.rows_per_image == 12
    digest = run.hash_references()["references"]
    (folder / "sub" / "c.png").unlink()
    other = MethodRun.resolve(spec, {"baseline": str(folder)}, SIZED.preprocessing)
    assert len(digest) == 64
    assert other.hash_references()["references"] != digest


@pytest.mark.filterwarnings("ignore:.*runs once for each of the 3 images")
def test_folder_is_the_reference_distribution_of_methods_that_have_one(folder):
    target = (int(SIZED(read_baselines(folder))[0].argmax()) + 1) % 3  # the first image is a reference of ig2
    for name in ("eg", "gradient-shap", "lpi", "ig2"):
        settings = quick(METHODS.get(name)) | {"target": target}
        expected = xplain.attribute(SIZED, X, name, baselines=folder, **settings).values
        assert torch.equal(xplain.attribute(SIZED, X, name, baseline=folder, **settings).values, expected), name
        tensor = xplain.attribute(SIZED, X, name, baseline=read_baselines(folder), **settings).values
        toys.assert_same(tensor, expected, rtol=1e-5)
    shap = [xplain.attribute(SIZED, X, "deep-shap", target=1, **{key: folder}) for key in ("baseline", "baselines")]
    toys.assert_same(shap[0].values, shap[1].values, rtol=1e-9)


def test_contradictory_and_missing_folders_are_refused(folder):
    with pytest.raises(
        UsageError, match="expected-gradients: baseline and baselines are the same parameter; set only one of them"
    ):
        xplain.attribute(SIZED_LINEAR, X, "eg", baseline=folder, baselines=folder)
    with pytest.raises(InputError, match="baseline directory 'none' not found; pass a directory of images"):
        xplain.attribute(SIZED_LINEAR, X, "eg:baseline=none")
    (folder / "empty").mkdir()
    with pytest.raises(InputError, match="no images found in the directory"):
        xplain.attribute(SIZED_LINEAR, X, "ig", baseline=folder / "empty")
    with pytest.raises(UsageError, match=r"samp: invalid value deletion_baseline=none.png; use black or white or mean"):
        xplain.attribute(SIZED_LINEAR, X, "samp", deletion_baseline="none.png")
    paths = {"deletion_baseline": folder, "insertion_baseline": folder / "pair"}
    (folder / "pair").mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).rename(folder / "pair" / name)
    Image.new("RGB", (10, 8)).save(folder / "d.png")
    message = "samp cannot pair 4 images of deletion_baseline and 2 images of insertion_baseline; use as many images"
    with pytest.raises(InputError, match=message):
        xplain.attribute(SIZED_LINEAR, X, "samp", **paths)


@pytest.mark.filterwarnings("ignore:.*runs once for each of the 3 images")
def test_samp_paths_have_their_own_baselines(folder):
    """Linear score: each path gives Σ_c w (x - x'), whose mean over the images of a folder is that of their mean."""
    baselines = read_baselines(folder)
    files = {"deletion_baseline": folder, "insertion_baseline": folder / "a.png"}
    tensors = {"deletion_baseline": baselines[0], "insertion_baseline": baselines.flip(0)}

    def expected(deletion: torch.Tensor, insertion: torch.Tensor) -> torch.Tensor:
        return (WEIGHT[1] * (2 * X - deletion - insertion)).sum(dim=1, keepdim=True)

    result = xplain.attribute(SIZED_LINEAR, X, "samp", target=1, steps=4, fragments=2, **files)
    toys.assert_same(result.values, expected(baselines.mean(dim=0), baselines[0]), rtol=1e-6)
    values = xplain.attribute(SIZED_LINEAR, X, "samp", target=1, steps=4, fragments=2, **tensors).values
    toys.assert_same(values, expected(baselines[0], baselines.flip(0)), rtol=1e-6)
    run = MethodRun.resolve(METHODS.get("samp"), files, SIZED.preprocessing)
    assert run.rows_per_image == 3 * (224 + 20) * 2
    digest = run.hash_references()["references"]
    (folder / "b.png").unlink()
    assert MethodRun.resolve(METHODS.get("samp"), files, SIZED.preprocessing).hash_references()["references"] != digest


def test_terms_of_fullgrad_sum_to_the_score_for_any_baseline():
    classifier, _ = toys.with_pixels(toys.small_net(1, scale=15.0))
    result = xplain.attribute(classifier, X, "fullgrad", target=[2, 0, 1], baseline=toys.images(3, seed=9))
    logits = classifier(X).detach()[[0, 1, 2], [2, 0, 1]]
    toys.assert_same(result.details["total"], logits.double())


@pytest.mark.filterwarnings("ignore:.*runs once for each of the 3 images")
def test_folder_serves_an_inner_method(folder):
    """SmoothGrad of a linear score: the noise averages out of w ⊙ (x + noise - mean x')."""
    text = f"smooth:method=ig:steps=2+baseline={folder},samples=2"
    values = xplain.attribute(SIZED_LINEAR, X, text, target=1).values
    black = xplain.attribute(SIZED_LINEAR, X, "smooth:method=ig:steps=2,samples=2", target=1).values
    toys.assert_same(values - black, (-WEIGHT[1] * read_baselines(folder).mean(dim=0)).expand_as(X), rtol=1e-5)
