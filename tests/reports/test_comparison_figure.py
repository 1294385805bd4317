"""compare.png: its pictures and texts, its size, and maps and characters that are hard to draw."""

from __future__ import annotations

import io
import itertools
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tests.helpers.comparisons import HOSTILE, make_cell, make_comparison, make_row, noise
from xplain.core.options import RenderOptions
from xplain.reports.agreement import draw_agreement
from xplain.reports.comparison import describe_comparison
from xplain.reports.comparison_figure import ComparisonFigure, draw_comparison
from xplain.reports.figures import FORMATS, TEXT_SIZE, paper_style
from xplain.reports.render import apply_colormap, keep_top_pixels, mask, normalize, overlay
from xplain.reports.text_layout import text_width

PHOTO = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)


def draw(comparison, kinds=("overlay",)):
    """Return the figure, its pictures, and its texts with their weights."""
    with paper_style():
        figure = ComparisonFigure.of(comparison, kinds).draw()
    pictures = [axis.images[0].get_array() for axis in figure.axes if axis.images]
    return figure, pictures, [(text.get_text(), text.get_weight()) for text in figure.texts]


def test_cells_show_rendered_pictures():
    options = RenderOptions(clip=(50, 90), opacity=0.5)
    maps = [noise(1), noise(2)]
    comparison = make_comparison([make_row([make_cell(values) for values in maps], image=PHOTO)], options=options)
    _, pictures, _ = draw(comparison, ("overlay", "heatmap", "masked", "top10"))
    image, *cells, _ = pictures
    np.testing.assert_array_equal(image, PHOTO)
    expected = []
    for values in (attribution.astype(np.float32) for attribution in maps):
        heatmap = normalize(values, options)
        expected += [overlay(PHOTO, heatmap, options), apply_colormap(heatmap, options)]
        expected += [mask(PHOTO, heatmap), keep_top_pixels(PHOTO, values, options)]
    assert len(cells) == 8
    for picture, expected_picture in zip(cells, expected, strict=True):
        np.testing.assert_array_equal(picture, expected_picture)


def test_captions_show_scores():
    rows = [
        make_row(
            [make_cell(noise(1), 0.1, 0.3, 2.5), make_cell(noise(2), 0.7, None, 0.25, ["odd"])],
            name="dir/cat.png",
            label="tabby",
        )
    ]
    _, _, texts = draw(make_comparison(rows))
    words = [text for text, _ in texts]
    for text in (
        "first",
        "second",
        "cat.png",
        "tabby 0.25",
        "predicted: class 1 0.50",
        "2.5 s",
        "0.25 s (1)",
        "(1) odd",
        "del undefined",
    ):
        assert text in words
    assert [text for text, weight in texts if weight == "bold"] == ["ins 0.700"]


def test_curves_have_their_values():
    figure, _, _ = draw(make_comparison([make_row([make_cell(noise(1))])], columns=("only",)), ("overlay", "curves"))
    (axis,) = [axis for axis in figure.axes if axis.lines]
    (line,) = axis.lines
    assert line.get_xydata().tolist() == [[0, 0], [0.5, 0.5], [1, 1]]
    assert (axis.get_xlim(), axis.get_ylim()) == ((0, 1), (0, 1))


@pytest.mark.parametrize(("count", "inches"), [(2, 3.5), (3, 7.16), (6, 7.16)])
def test_figure_fits_column_or_page(count, inches):
    comparison = make_comparison(
        [make_row([make_cell(noise(k)) for k in range(count)])], [f"m{k}" for k in range(count)]
    )
    with Image.open(io.BytesIO(draw_comparison(comparison, ("overlay",), ("png",))["png"])) as image:
        assert image.width == pytest.approx(inches * 300, abs=2)


@pytest.mark.filterwarnings("error")
def test_hostile_comparison_draws_without_warning():
    spot = np.zeros((1, 24, 32))
    spot[0, 3, 4] = 1
    maps = [np.zeros((1, 24, 32)), -1 - np.abs(noise(1)), spot, None]
    for sign in ("positive", "signed"):
        cells = [None if values is None else make_cell(values, warnings=["猫 $x"]) for values in maps]
        comparison = make_comparison([make_row(cells)], [HOSTILE, "$b", "c", "d"], RenderOptions(sign=sign))
        assert draw_comparison(comparison, ("overlay", "masked"), ("png",))["png"][:4] == b"\x89PNG"
    assert draw_agreement(describe_comparison(comparison, "", []), ("png",))["png"][:4] == b"\x89PNG"


def find_edges(figure, words: str) -> tuple[list[str], list[float]]:
    """Return the texts from the first that starts with some words on, and the edges of the box around them in pixels."""
    figure.canvas.draw()
    texts = figure.texts[next(i for i, text in enumerate(figure.texts) if text.get_text().startswith(words)) :]
    boxes = [text.get_window_extent() for text in texts]
    edges = [min(box.x0 for box in boxes), min(box.y0 for box in boxes), max(box.x1 for box in boxes)]
    return [text.get_text() for text in texts], edges


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([], ["pN: N-th percentile of the values of each map"]),
        (
            ["deletion:steps=4", "insertion"],
            [
                "pN: N-th percentile of the values of each map; del ↓ = deletion:steps=4",
                "ins ↓ = insertion; best in bold",
            ],
        ),
        (
            ["sensitivity-n:masks=100,fractions=10..90", "deletion:steps=224,baseline=black+blur,unit=union3,area=sum"],
            [
                "pN: N-th percentile of the values of each map",
                "sensitivity-n ↓ = sensitivity-n:masks=100,fractions=10..90",
                "del ↓ = deletion:steps=224,baseline=black+blur,unit=union3,",
                "area=sum; best in bold",
            ],
        ),
    ],
)
def test_legend_fits_the_figure(labels, expected):
    cells = [make_cell(noise(k)) for k in range(2)]
    comparison = make_comparison([make_row(cells, "a.png", "cat")])
    metric = {"metric": "x", "params": {}, "version": 1, "better": "lower", "unit": "u"}
    score = {"value": 0.5, "undefined": None, "curve": None}
    for cell in cells:
        cell.record["scores"] = dict.fromkeys(labels, score)
    comparison = replace(comparison, metrics=dict.fromkeys(labels, metric))
    figure, _, _ = draw(comparison)
    lines, (left, bottom, right) = find_edges(figure, "pN: ")
    assert lines == expected
    assert left >= 0
    assert bottom >= 0
    assert right <= figure.bbox.width


def test_footnotes_follow_the_legend():
    figure, _, _ = draw(
        make_comparison([make_row([make_cell(noise(k), warnings=["odd"]) for k in range(2)], "a.png", "cat")])
    )
    lines, (_, bottom, _) = find_edges(figure, "pN: ")
    assert lines[-1] == "(1) odd"
    assert bottom >= 0
    legend, footnote = (figure.texts[i].get_window_extent() for i in (-2, -1))
    assert legend.y0 >= footnote.y1


def test_figure_bytes_are_reproducible():
    comparison = make_comparison([make_row([make_cell(noise(1))])], ["only"])
    first, second = (draw_comparison(comparison, ("curves",), FORMATS) for _ in range(2))
    assert first == second
    assert first["pdf"][:4] == b"%PDF"
    assert b"<svg" in first["svg"]


def test_class_names_are_not_broken():
    comparison = make_comparison([make_row([make_cell(noise(1)), make_cell(noise(2))])])
    figure = ComparisonFigure.of(comparison, ("overlay",))
    name = "mm cat"
    while text_width(f"m{name} 0.3", TEXT_SIZE) <= figure.side:
        name = f"m{name}"
    assert figure._class_lines(name, "0.3") == [f"{name} 0.3"]
    assert figure._class_lines(name, "0.399") == [name, "0.399"]


LABELS = [
    "expected-gradients:samples=200,baselines=noise,alpha=stratified",
    "smoothgrad:kind=absolute,samples=100,noise=0.25",
    "agi:variant=paper,classes=5,step_size=0.025,steps=40",
    "attention-relevance",
    "grad-cam-plus-plus:layer=features.7.2+features.8.0,scale_layers=true",
    "W" * 40,
]


@pytest.mark.parametrize("sign", ["positive", "signed"])
@pytest.mark.parametrize("row_count", [1, 3])
@pytest.mark.parametrize("count", [2, 3, 6])
def test_texts_stay_inside_and_apart(count, row_count, sign):
    """Headings show whole labels, and no text leaves the figure or overlaps another one."""
    cells = [make_cell(noise(k), warnings=["mmm " * 60]) for k in range(count)]
    rows = [make_row(cells, "a/wide_MMMMMMMMMMMMMMMM_name.png", "black-and-tan WWWW, MMMM coonhound")] * row_count
    comparison = make_comparison(rows, LABELS[:count], RenderOptions(sign=sign))
    figure, _, texts = draw(comparison)
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.texts if text.get_text()]
    assert min(box.x0 for box in boxes) >= 0
    assert min(box.y0 for box in boxes) >= 0
    assert max(box.x1 for box in boxes) <= figure.bbox.width
    assert max(box.y1 for box in boxes) <= figure.bbox.height
    for first, second in itertools.combinations(boxes, 2):
        across = min(first.x1, second.x1) - max(first.x0, second.x0)
        down = min(first.y1, second.y1) - max(first.y0, second.y0)
        assert min(across, down) <= 1  # pixel; lines of text touch
    words = "".join(text for text, _ in texts)
    assert [label for label in LABELS[:count] if label not in words] == []
