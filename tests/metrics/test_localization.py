"""Metrics of localization: definitions, closed forms, ignored pixels, undefined values, controls and other packages."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import ndimage

import xplain
from tests.helpers import toys
from tests.reference import localization as reference
from xplain.core.errors import InputError, UsageError
from xplain.core.registry import METRICS
from xplain.metrics._regions import fill_boxes

NET = toys.classifier(toys.small_net(1))
HEIGHT, WIDTH = 12, 10
NAMES = (
    "relevance-mass",
    "concentration",
    "relevance-rank",
    "top-k-intersection",
    "relevance-auroc",
    "relevance-ap",
    "ehr",
    "pointing-game",
)
every_metric = pytest.mark.parametrize("name", NAMES)
GENERATOR = np.random.default_rng(7)
VALUES = GENERATOR.normal(size=(6, 1, HEIGHT, WIDTH))
VALUES[1] = VALUES[1].round()  # ties
VALUES[2] = -np.abs(VALUES[2])
VALUES[2, 0, 5, 4], VALUES[2, 0, 0, 0] = 0.5, 0.25
OBJECT = np.zeros((1, 1, HEIGHT, WIDTH))
OBJECT[..., 4:9, 2:7] = 1
VOID = OBJECT.copy()
VOID[..., 3, 1:8] = VOID[..., 9, 1:8] = np.nan
SCATTERED = (GENERATOR.random((1, 1, HEIGHT, WIDTH)) < 0.3).astype(float)
MASKS = {"object": OBJECT, "void": VOID, "scattered": SCATTERED}


def measure(name: str, values: object, masks: object, **options) -> xplain.Score:
    maps = torch.as_tensor(values, dtype=torch.float64)
    height, width = maps.shape[-2:]
    masks = torch.as_tensor(masks, dtype=torch.float64).expand(len(maps), -1, -1, -1)
    return xplain.measure(NET, toys.images(len(maps), height, width), maps, name, target=0, masks=masks, **options)


def compute_reference(name: str, values: np.ndarray, mask: np.ndarray) -> float:
    s, marks = values.sum(axis=0).tolist(), [[None if m != m else int(m) for m in row] for row in mask[0].tolist()]
    functions = {
        "relevance-mass": reference.relevance_mass,
        "concentration": lambda s, m: reference.relevance_mass(s, m) / reference.share(m),
        "relevance-rank": reference.relevance_rank,
        "top-k-intersection": lambda s, m: reference.top_k(s, m, 0.1),
        "relevance-auroc": reference.auroc,
        "relevance-ap": reference.average_precision,
        "ehr": reference.effective_heat_ratio,
        "pointing-game": lambda s, m: reference.pointing_game(s, m, 1.2),
    }
    return functions[name](s, marks)


def options_of(name: str) -> dict[str, float]:
    return {"top-k-intersection": {"share": 0.1}, "pointing-game": {"tolerance": 1.2}}.get(name, {})


@every_metric
@pytest.mark.parametrize("kind", MASKS)
def test_metric_equals_definition(name, kind):
    score = measure(name, VALUES, MASKS[kind], **options_of(name))
    expected = [compute_reference(name, values, MASKS[kind][0]) for values in VALUES]
    assert score.values.tolist() == pytest.approx(expected, rel=1e-12)
    assert len(set(expected)) > 1 or name == "pointing-game"


@every_metric
def test_channels_are_summed_signed(name):
    maps = GENERATOR.normal(size=(2, 3, HEIGHT, WIDTH))
    single = measure(name, maps.sum(axis=1, keepdims=True), OBJECT)
    assert measure(name, maps, OBJECT).values.tolist() == pytest.approx(single.values.tolist(), rel=1e-12)


@every_metric
def test_metric_is_independent_of_batch_and_scale(name):
    whole = measure(name, VALUES, VOID)
    assert whole.values.isfinite().all()
    for i in range(len(VALUES)):
        for factor in (1, 1e-300, 1e300):
            one = measure(name, VALUES[i : i + 1] * factor, VOID)
            assert one.values.item() == pytest.approx(whole.values[i].item(), rel=1e-12), factor
            assert one.chance.item() == whole.chance[i].item()


@every_metric
def test_ignored_pixels_take_no_part(name):
    """Neither the values in ignored pixels nor their number matter."""
    loud = VALUES.copy()
    loud[:, :, np.isnan(VOID[0, 0])] = 99
    assert measure(name, loud, VOID).values.tolist() == measure(name, VALUES, VOID).values.tolist()
    assert measure(name, loud, OBJECT).values.tolist() != measure(name, VALUES, OBJECT).values.tolist() or name in (
        "relevance-rank",
        "top-k-intersection",
        "pointing-game",
    )


@every_metric
def test_masks_of_an_image_are_united(name):
    left, right = OBJECT.copy(), OBJECT.copy()
    left[..., 4:], right[..., :3] = 0, 0  # both cover column 3
    several = measure(name, VALUES, np.concatenate([left, right, np.full_like(left, 0)], axis=1))
    assert several.values.tolist() == measure(name, VALUES, OBJECT).values.tolist()
    half_known = left.copy()
    half_known[..., 6:] = np.nan
    united = measure(name, VALUES, np.concatenate([half_known, right], axis=1))
    assert np.isnan(half_known[0, 0, 5, 6])
    expected = OBJECT.copy()
    expected[..., 6:][expected[..., 6:] == 0] = np.nan
    assert united.values.tolist() == measure(name, VALUES, expected).values.tolist()


@every_metric
def test_boxes_equal_masks_on_whole_pixels(name):
    maps, images = torch.tensor(VALUES), toys.images(len(VALUES), HEIGHT, WIDTH)
    boxes = torch.tensor([[[2.0, 4, 7, 9], [torch.nan] * 4]]).expand(len(maps), -1, -1)
    options = {"tolerance": 1.2} if name == "pointing-game" else {}
    by_boxes = xplain.measure(NET, images, maps, name, target=0, boxes=boxes, **options)
    by_masks = measure(name, VALUES, OBJECT, **options)
    assert by_boxes.values.tolist() == by_masks.values.tolist()
    assert by_boxes.chance.tolist() == pytest.approx(by_masks.chance.tolist(), rel=1e-12)


@every_metric
def test_undefined_images_have_reasons(name):
    masks = np.stack([OBJECT[0], np.full_like(OBJECT[0], np.nan), np.zeros_like(OBJECT[0]), np.ones_like(OBJECT[0])])
    score = measure(name, VALUES[:4], masks)
    reasons = {reason: mask.tolist() for reason, mask in score.undefined.items() if mask.any()}
    expected = {
        "the image has no mask of the target": [False, True, False, False],
        "the mask of the target covers no pixel of the crop": [False, False, True, False],
    }
    is_ranking = "rank" in name or "top-k" in name or name in ("relevance-auroc", "relevance-ap")
    if is_ranking:
        expected["the object covers all pixels of the crop"] = [False, False, False, True]
    assert reasons == expected
    assert score.values.isnan().tolist() == [False, True, True, is_ranking]
    if not is_ranking:
        assert score.values[3] == 1
    large = measure(name, VALUES[:1], OBJECT, max_share=0.2)
    assert [reason for reason, mask in large.undefined.items() if mask.all()] == [
        "the object covers more than 0.2 of the image"
    ]
    assert large.values.isnan().all()
    assert measure(name, VALUES[:1], OBJECT, max_share=25 / 120).values.isfinite().all()


def test_pointing_game_respects_max_share_of_boxes():
    boxes = torch.tensor([[[2.0, 4, 7, 9]]])
    for max_share, reasons in ((0.2, ["the object covers more than 0.2 of the image"]), (0.21, [])):
        score = xplain.measure(
            NET,
            toys.images(1, HEIGHT, WIDTH),
            torch.tensor(VALUES[:1]),
            "pointing-game",
            target=0,
            boxes=boxes,
            max_share=max_share,
        )
        assert [reason for reason, mask in score.undefined.items() if mask.any()] == reasons
        assert bool(score.values.isnan().any()) == bool(reasons)


PERFECT = {
    "relevance-mass": 1,
    "concentration": 120 / 25,
    "relevance-rank": 1,
    "top-k-intersection": 1,
    "relevance-auroc": 1,
}
PERFECT |= {"relevance-ap": 1, "ehr": 1, "pointing-game": 1}
CONSTANT = {"relevance-mass": 25 / 120, "concentration": 1, "relevance-rank": None, "top-k-intersection": None}
CONSTANT |= {"relevance-auroc": 0.5, "relevance-ap": 25 / 120, "ehr": 25 / 120, "pointing-game": 0}
OPPOSITE = {
    "relevance-mass": 0,
    "concentration": 0,
    "relevance-rank": 0,
    "top-k-intersection": 0,
    "relevance-auroc": 0,
    "ehr": 0,
}


@every_metric
def test_closed_forms(name):
    options = {"tolerance": 0} if name == "pointing-game" else {}
    assert measure(name, OBJECT, OBJECT, **options).values.item() == pytest.approx(PERFECT[name], rel=1e-12)
    assert measure(name, np.ones_like(OBJECT), OBJECT, **options).values.item() == pytest.approx(
        math.nan if CONSTANT[name] is None else CONSTANT[name], rel=1e-12, nan_ok=True
    )
    if name in OPPOSITE:
        assert measure(name, 1 - OBJECT, OBJECT).values.item() == OPPOSITE[name]


def test_constant_maps_have_no_ranks():
    for name in ("relevance-rank", "top-k-intersection"):
        score = measure(name, np.full_like(VOID, -2), VOID)
        assert [reason for reason, mask in score.undefined.items() if mask.any()] == ["the map is constant"]
    assert measure("ehr", np.full_like(OBJECT, -2), OBJECT).values.item() == pytest.approx(25 / 120)


def test_maps_without_relevance_are_undefined():
    reasons = {
        "relevance-mass": "the map is nowhere positive",
        "concentration": "the map is nowhere positive",
        "ehr": "the map is zero",
    }
    for name, reason in reasons.items():
        score = measure(name, np.zeros_like(OBJECT), OBJECT)
        assert [text for text, mask in score.undefined.items() if mask.any()] == [reason]
    assert measure("relevance-mass", -OBJECT, OBJECT).values.isnan().all()
    assert measure("relevance-mass", -OBJECT, OBJECT, sign="absolute").values.item() == 1
    score = measure("relevance-mass", np.zeros_like(OBJECT), OBJECT, sign="absolute")
    assert [text for text, mask in score.undefined.items() if mask.any()] == ["the map is zero"]
    signed = 3 * OBJECT - (1 - OBJECT)
    assert measure("relevance-mass", signed, OBJECT).values.item() == 1
    assert measure("relevance-mass", signed, OBJECT, sign="absolute").values.item() == pytest.approx(75 / (75 + 95))


def test_mass_outside_lowers_value():
    inside = OBJECT * np.abs(VALUES[:1])
    values = [measure("relevance-mass", inside + weight * (1 - OBJECT), OBJECT).values.item() for weight in (0, 0.1, 1)]
    assert values[0] == 1
    assert values[0] > values[1] > values[2]


def test_ties_of_ranks_keep_raster_order():
    mask = np.zeros((1, 1, 2, 4))
    mask[..., 0, 2:] = 1
    values = np.array([[[[1, 1, 1, 0], [1, 0, 0, 0]]]], dtype=float)
    assert measure("relevance-rank", values, mask).values.item() == 0
    assert measure("relevance-rank", values[..., ::-1].copy(), mask).values.item() == 0.5


@pytest.mark.parametrize(("share", "k"), [(0.02, 2), (0.5, 60), (1.0, 120), (0.001, 1)])
def test_number_of_highest_pixels(share, k):
    order = np.arange(120.0)[::-1].reshape(1, 1, HEIGHT, WIDTH).copy()
    mask = (order >= 119).astype(float)  # the first pixel
    assert measure("top-k-intersection", order, mask, share=share).values.item() == pytest.approx(1 / k)
    assert measure("top-k-intersection", order, mask, share=share, relative=True).values.item() == pytest.approx(
        120 / k
    )


def test_thousand_and_four_pixels_at_224():
    order = np.arange(224.0 * 224)[::-1].reshape(1, 1, 224, 224).copy()
    mask = (order >= 224 * 224 - 251).astype(float)
    assert measure("top-k-intersection", order, mask).values.item() == pytest.approx(251 / 1004)


@pytest.mark.parametrize("tolerance", [0, 0.4, 0.5, 0.8, 1.5, 2.3, 3, 15, 1e6])
@pytest.mark.parametrize("kind", MASKS)
def test_pointing_game_at_every_pixel(kind, tolerance):
    """A map whose peak is at each pixel in turn; the mean over all of them is the chance level."""
    peaks = np.eye(120).reshape(120, 1, HEIGHT, WIDTH)
    score = measure("pointing-game", peaks, MASKS[kind], tolerance=tolerance)
    marks = [[None if m != m else int(m) for m in row] for row in MASKS[kind][0, 0].tolist()]
    expected = [int(reference.is_near(marks, r, c, tolerance)) for r in range(HEIGHT) for c in range(WIDTH)]
    counted = ~np.isnan(MASKS[kind].ravel())
    assert score.values.numpy()[counted].tolist() == np.array(expected)[counted].tolist()
    assert score.chance.tolist() == pytest.approx([reference.pointing_chance(marks, tolerance)] * 120, rel=1e-12)
    assert score.values.numpy()[counted].mean() == pytest.approx(score.chance[0].item())


def test_ignored_pixels_are_not_pointed_at():
    row, column = np.argwhere(np.isnan(VOID[0, 0]))[0]
    for second, hit in (((5, 4), 1), ((0, 9), 0)):  # inside and outside
        peak = np.zeros_like(VOID)
        peak[0, 0, row, column], peak[0, 0, *second] = 2, 1
        assert measure("pointing-game", peak, VOID, tolerance=0).values.item() == hit


def test_pointing_game_equals_distance_transform_at_corners():
    """Between centers, squares are half a pixel nearer along each axis; the transform gives the nearest center."""
    mask = np.zeros((1, 1, 24, 24))
    mask[..., 10:13, 9:14] = 1
    peaks = np.eye(576).reshape(576, 1, 24, 24)
    hits = measure("pointing-game", peaks, mask, tolerance=5).values.numpy().reshape(24, 24)
    distances, nearest = ndimage.distance_transform_edt(mask[0, 0] == 0, return_indices=True)
    offsets = [
        np.maximum(np.abs(axis - pixels) - 0.5, 0) for axis, pixels in zip(np.indices((24, 24)), nearest, strict=True)
    ]
    assert (hits == (np.hypot(*offsets) <= 5)).all()  # exact for a convex object
    assert hits.sum() > (distances <= 5).sum()


def test_expected_values_of_random_maps():
    """Exact: the mean over all orders of distinct values."""
    orders = np.array(list(itertools.permutations(range(1, 7))), dtype=float).reshape(720, 1, 2, 3)
    mask = np.array([[[[1, 0, 1], [0, 0, 0]]]], dtype=float)
    for name in (
        "relevance-mass",
        "concentration",
        "relevance-rank",
        "top-k-intersection",
        "relevance-auroc",
        "relevance-ap",
    ):
        score = measure(name, orders, mask)
        assert score.values.mean().item() == pytest.approx(score.chance[0].item(), rel=1e-12), name
    assert measure("top-k-intersection", orders, mask, share=0.5, relative=True).values.mean().item() == pytest.approx(
        1
    )
    hits = measure("pointing-game", orders, mask, tolerance=0.5)
    assert hits.values.mean().item() == pytest.approx(hits.chance[0].item(), rel=1e-12)
    assert hits.chance[0] == pytest.approx(5 / 6)  # all but the pixel below the middle of the two


def test_random_control_scores_chance():
    images = toys.images(60, 24, 24)
    mask = torch.zeros(60, 1, 24, 24, dtype=torch.float64)
    mask[:, :, 6:16, 4:18] = 1
    inside, total = 140, 576
    maps = xplain.attribute(NET, images, "random", target=0).values
    for name in NAMES:
        score = xplain.measure(NET, images, maps, name, target=0, masks=mask)
        error = score.values.std().item() / math.sqrt(60)
        assert abs(score.values.mean().item() - score.chance.mean().item()) < 4 * error + 1e-12, name
    areas = xplain.measure(NET, images, maps, "relevance-auroc", target=0, masks=mask).values
    predicted = math.sqrt((total + 1) / (12 * inside * (total - inside)))  # of Mann and Whitney's statistic
    assert areas.std().item() == pytest.approx(predicted, rel=0.3)
    assert len(set(areas.tolist())) == 60


def test_center_control_finds_centered_discs_only():
    images = toys.images(2, 25, 25)
    rows, columns = np.indices((25, 25)) - 12
    disc = (np.hypot(rows, columns) <= 6).astype(float)
    corner = np.zeros_like(disc)
    corner[:3, :3] = 1
    maps = xplain.attribute(NET, images, "center", target=0).values
    masks = torch.tensor(np.stack([disc, corner])[:, None])
    for name in ("relevance-auroc", "relevance-ap", "relevance-rank", "pointing-game"):
        options = {"tolerance": 2} if name == "pointing-game" else {}
        score = xplain.measure(NET, images, maps, name, target=0, masks=masks, **options)
        assert score.values[0] == 1
        assert score.values[1] < 0.03
    mass = xplain.measure(NET, images, maps, "relevance-mass", target=0, masks=masks).values
    gaussian = np.exp(-(rows**2 + columns**2) / (2 * (0.25 * 25) ** 2))
    assert mass.tolist() == pytest.approx([(gaussian * m).sum() / gaussian.sum() for m in (disc, corner)], rel=1e-9)


def test_sobel_control_finds_the_only_texture():
    """On a gray image with one checked square, sobel is zero outside the square and its rim."""
    images = torch.full((1, 3, 20, 20), 0.5, dtype=torch.float64)
    images[:, :, 6:12, 8:14] = (torch.arange(6)[:, None] + torch.arange(6)).remainder(3).double() / 2
    mask = torch.zeros(1, 1, 20, 20)
    mask[..., 5:13, 7:15] = 1
    maps = xplain.attribute(NET, images, "sobel", target=0).values
    values = {name: xplain.measure(NET, images, maps, name, target=0, masks=mask).values.item() for name in NAMES}
    assert (values["relevance-mass"], values["pointing-game"], values["ehr"]) == (1, 1, 1)
    assert values["concentration"] == pytest.approx(400 / 64)
    zeros = int(((maps == 0) & (mask == 1)).sum())  # tie with the pixels outside
    assert zeros > 0
    assert values["relevance-auroc"] == pytest.approx(1 - zeros / 64 / 2, rel=1e-12)
    inverse = xplain.measure(NET, images, maps, "relevance-mass", target=0, masks=1 - mask).values.item()
    assert inverse == 0


def test_areas_equal_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    for kind, mask in MASKS.items():
        known = ~np.isnan(mask.ravel())
        truth = mask.ravel()[known]
        for name, function in (
            ("relevance-auroc", metrics.roc_auc_score),
            ("relevance-ap", metrics.average_precision_score),
        ):
            expected = [function(truth, values.ravel()[known]) for values in VALUES]
            assert measure(name, VALUES, mask).values.tolist() == pytest.approx(expected, rel=1e-12), kind


def test_values_equal_quantus():
    quantus = pytest.importorskip("quantus")
    maps, masks = VALUES[[0, 3, 4, 5]], np.repeat(OBJECT, 4, axis=0)  # without ties
    arguments = {
        "model": None,
        "x_batch": np.zeros((4, 3, HEIGHT, WIDTH)),
        "y_batch": np.zeros(4, int),
        "s_batch": masks.astype(bool),
    }
    options = {"abs": False, "normalise": False, "disable_warnings": True, "display_progressbar": False}
    peers = {
        "relevance-mass": (quantus.RelevanceMassAccuracy(**options), np.maximum(maps, 0), {}),
        "relevance-rank": (quantus.RelevanceRankAccuracy(**options), maps, {}),
        "top-k-intersection": (quantus.TopKIntersection(k=12, **options), maps, {"share": 0.1}),
    }
    for name, (peer, given, settings) in peers.items():
        expected = peer(**arguments, a_batch=given)
        assert measure(name, maps, OBJECT, **settings).values.tolist() == pytest.approx(expected, rel=1e-7), name


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([[0.5, 0, 2, 1]], [[1, 1, 0], [0, 0, 0]]),
        ([[0.6, 0, 2, 1]], [[0, 1, 0], [0, 0, 0]]),
        ([[0, 0, 1, 0.3], [0, 0.1, 1, 0.4]], [[0, 0, 0], [0, 0, 0]]),  # together 0.4
        ([[0, 0, 1, 0.3], [0, 0.3, 1, 0.5]], [[1, 0, 0], [0, 0, 0]]),
        ([[-5, -5, 9, 1.5]], [[1, 1, 1], [1, 1, 1]]),
        ([[0.3, 0.3, 0.9, 0.9], [torch.nan] * 4], [[0, 0, 0], [0, 0, 0]]),  # 0.36
        ([[7, 7, 9, 9]], [[0, 0, 0], [0, 0, 0]]),
    ],
)
def test_pixels_half_covered_by_boxes(boxes, expected):
    assert fill_boxes(torch.tensor([boxes], dtype=torch.float64), 2, 3)[0].int().tolist() == expected


def test_float32_maps_give_the_same_values():
    maps = torch.tensor(VALUES).float()
    single = toys.classifier(toys.small_net(1).float())
    images = toys.images(len(maps), HEIGHT, WIDTH).float()
    masks = torch.tensor(VOID).expand(len(maps), -1, -1, -1)
    for name in NAMES:
        score = xplain.measure(single, images, maps, name, target=0, masks=masks)
        expected = measure(name, maps.double(), VOID)
        assert score.values.double().tolist() == pytest.approx(expected.values.tolist(), rel=1e-12), name
        assert score.cost.forwards == 0


@pytest.mark.parametrize(
    ("masks", "error", "message"),
    [
        (
            torch.zeros(2, HEIGHT, WIDTH),
            InputError,
            r"masks of shape \(2, 12, 10\) do not match images of shape \(2, 3, 12, 10\)",
        ),
        (torch.zeros(2, 1, HEIGHT, 11), InputError, r"pass masks of shape \(images, masks, height, width\)"),
        (torch.zeros(1, 1, HEIGHT, WIDTH), InputError, r"masks of shape \(1, 1, 12, 10\) do not match"),
        (torch.zeros(2, 0, HEIGHT, WIDTH), InputError, r"masks of shape \(2, 0, 12, 10\) do not match"),
        (
            torch.full((2, 1, HEIGHT, WIDTH), 255),
            InputError,
            "the masks contain 255; pass 0 and 1, and NaN for ignored pixels",
        ),
        (torch.full((2, 1, HEIGHT, WIDTH), torch.inf), InputError, "the masks contain inf; pass 0 and 1"),
        (torch.zeros(2, 1, HEIGHT, WIDTH, dtype=torch.complex64), UsageError, "the masks are of type torch.complex64"),
        ("nowhere", UsageError, "invalid value masks=nowhere; use an existing file or folder or none"),
        ([[1]], UsageError, r"invalid value masks=\[\[1\]\]"),
    ],
    ids=str,
)
def test_invalid_masks_are_refused(masks, error, message):
    images, maps = toys.images(2, HEIGHT, WIDTH), torch.tensor(VALUES[:2])
    with pytest.raises(error, match=message):
        xplain.measure(NET, images, maps, "relevance-mass", target=0, masks=masks)


def test_masks_may_be_booleans_or_arrays():
    images, maps = toys.images(2, HEIGHT, WIDTH), torch.tensor(VALUES[:2])
    expected = measure("relevance-mass", VALUES[:2], OBJECT).values.tolist()
    for masks in (np.repeat(OBJECT, 2, axis=0) > 0, torch.tensor(np.repeat(OBJECT, 2, axis=0)).to(torch.uint8)):
        assert xplain.measure(NET, images, maps, "relevance-mass", target=0, masks=masks).values.tolist() == expected


@every_metric
def test_annotations_are_required_once(name, tmp_path):
    images, maps = toys.images(1, HEIGHT, WIDTH), torch.tensor(VALUES[:1])
    with pytest.raises(
        UsageError, match=f"^{name} requires object boxes or masks; set boxes=FILE or masks=PATH, or pass a tensor"
    ):
        xplain.measure(NET, images, maps, name, target=0)
    boxes = torch.tensor([[[0.0, 0, 4, 4]]])
    with pytest.raises(UsageError, match=f"^{name} accepts either boxes or masks; remove one of them"):
        xplain.measure(NET, images, maps, name, target=0, boxes=boxes, masks=torch.tensor(OBJECT))
    with pytest.raises(
        UsageError, match="cannot look up masks in a file, because the images have no names; pass a tensor"
    ):
        xplain.measure(NET, images, maps, name, target=0, masks=str(tmp_path))


@every_metric
def test_metric_describes_itself(name):
    spec = METRICS.get(name)
    assert spec.paper.url
    assert spec.unit
    assert len(spec.summary) < 140
    assert {"masks", "boxes", "max_share", "categories", "difficult"} <= set(spec.parameters)
    assert spec.better == "higher"
    assert spec.has_chance
