"""compare.html in a browser: pictures, controls, keys, themes, a narrow screen, hostile names."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tests.helpers.comparisons import HOSTILE, make_cell, make_comparison, make_row, noise
from xplain.core.options import RenderOptions
from xplain.reports.comparison import describe_comparison
from xplain.reports.comparison_page import make_comparison_page
from xplain.reports.render import apply_colormap, keep_top_pixels, mask, normalize, overlay

MAPS = [noise(1), noise(2)[:1]]
PHOTO = np.repeat(np.linspace(60, 200, 24).astype(np.uint8)[:, None, None], 32, axis=1) * np.ones(3, dtype=np.uint8)


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    """Write the page of two images and two methods; one make_cell failed."""
    first_cells = [make_cell(MAPS[0], 0.5, 0.25, 1.0, ["odd"]), make_cell(MAPS[1], 0.75, None, 0.5)]
    rows = [make_row(first_cells, image=PHOTO), make_row([make_cell(noise(3), 0.9), None], name="b.png", label="plain")]
    page_comparison = make_comparison(rows, ("first <i>", "second"), failed=["<img src=x onerror=alert(2)>"])
    path = tmp_path_factory.mktemp("page") / "ü <b>'.html"
    record = describe_comparison(page_comparison, "", [])
    path.write_text(make_comparison_page(page_comparison, record), "utf-8")
    return path


@pytest.fixture
def page(browser, page_file):
    """Open the page from its file; fail on network requests, script errors and dialogs."""
    opened = browser.new_page(viewport={"width": 1200, "height": 800}, color_scheme="light")
    problems: list[str] = []
    opened.on(
        "request", lambda r: problems.append(r.url) if not r.url.startswith(("file:", "data:", "blob:")) else None
    )
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    opened.on("dialog", lambda dialog: problems.append(dialog.message))
    opened.goto(page_file.as_uri())
    opened.wait_for_selector("body[data-painted=yes]")
    yield opened
    opened.close()
    assert problems == []


def read_canvas(page, k=0):
    """Return the pixels (H, W, 3) of the k-th canvas after all are painted."""
    page.wait_for_selector("body[data-painted=yes]")
    script = """k => { const c = document.querySelectorAll("canvas")[k];
        return [c.height, c.width, ...c.getContext("2d").getImageData(0, 0, c.width, c.height).data]; }"""
    height, width, *values = page.evaluate(script, k)
    return np.array(values).reshape(height, width, 4)[..., :3]


def assert_close(pixels, expected, tolerance=3):
    """Compare up to rounding, and to the JPEG compression of the image."""
    assert np.abs(pixels.astype(int) - expected.astype(int)).max() <= tolerance


def test_canvases_match_rendered_pictures(page):
    for k, values in enumerate(MAPS):
        assert_close(read_canvas(page, k), overlay(PHOTO, normalize(values, RenderOptions()), RenderOptions()), 6)
    page.keyboard.press("2")
    assert_close(read_canvas(page), apply_colormap(normalize(MAPS[0], RenderOptions()), RenderOptions()))
    page.keyboard.press("3")
    assert_close(read_canvas(page), mask(PHOTO, normalize(MAPS[0], RenderOptions())), 6)
    page.get_by_text("signed", exact=True).click()
    signed = RenderOptions(sign="signed")
    assert_close(read_canvas(page), apply_colormap(normalize(MAPS[0], signed), signed))
    page.keyboard.press("5")
    assert_close(read_canvas(page), keep_top_pixels(PHOTO, MAPS[0], RenderOptions()), 6)


def test_sliders_repaint_maps(page):
    page.keyboard.press("2")
    page.locator("#low").fill("30")
    page.locator("#high").fill("90")
    options = RenderOptions(clip=(30, 90))
    assert_close(read_canvas(page), apply_colormap(normalize(MAPS[0], options), options))
    assert page.locator("#low-out").text_content() == "30"
    page.locator("#high").fill("20")  # the ends do not cross
    assert float(page.locator("#low-out").text_content()) == pytest.approx(19.9)
    page.locator("#low").focus()
    page.keyboard.press("ArrowLeft")
    assert float(page.locator("#low-out").text_content()) == pytest.approx(19.8)
    page.keyboard.press("1")
    page.locator("#opacity").fill("0")
    assert_close(read_canvas(page), overlay(PHOTO, normalize(MAPS[0], options), RenderOptions(opacity=0)), 6)


def test_pointer_and_keys_read_values(page):
    page.locator("#size").fill("200")
    page.locator("canvas").first.hover(position={"x": 103, "y": 78})  # of 200 x 150 for 32 x 24
    text = page.locator("#read").text_content()
    x, y, value, error = re.match(r"pixel \((\d+), (\d+)\):\s+first <i> (\S+) ± (\S+)", text).groups()
    assert (x, y) == ("16", "12")
    assert float(value) == pytest.approx(MAPS[0].sum(axis=0)[12, 16], rel=1e-3, abs=float(error))
    page.keyboard.press("Tab")
    page.locator("canvas").first.focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Shift+ArrowUp")
    assert page.locator("#read").text_content().startswith("pixel (15, 2):")


def test_rows_and_columns_are_sorted(page):
    heads = page.locator("thead th")
    assert heads.all_text_contents() == ["image", "first <i>", "second"]
    page.select_option("#columns-by", "insertion")  # means 0.7 and 0.75
    assert heads.all_text_contents() == ["image", "second", "first <i>"]
    page.select_option("#columns-by", "deletion")  # one has none, and comes last
    assert heads.all_text_contents() == ["image", "first <i>", "second"]
    names = page.locator("tbody th b")
    assert names.all_text_contents()[1] == "b.png"
    page.select_option("#rows-by", '["insertion",0]')
    assert names.all_text_contents()[0] == "b.png"


def test_hostile_names_are_shown_as_text(page):
    assert page.locator("tbody th b").first.text_content() == HOSTILE.split("/")[-1]
    assert HOSTILE in page.locator("tbody th").first.text_content()
    assert page.locator("script").count() == 2
    assert page.locator("main img").count() == 2
    assert "<img src=x onerror=alert(2)> is bad" in page.locator("#failures").text_content()
    cells = page.locator("tbody td").all_text_contents()
    assert "insertion ↑ 0.5000" in cells[0]
    assert "odd" in cells[0]
    assert "deletion ↓ undefined: why" in cells[1]
    assert cells[3].endswith("failed")
    assert page.locator(".best").all_text_contents() == ["insertion ↑ 0.7500"]
    assert "16 bits" in page.locator("#precision").text_content()


def test_themes_and_narrow_screen(page):
    def background():
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    white = background()
    page.emulate_media(color_scheme="dark")
    dark = background()
    assert white == "rgb(255, 255, 255)" != dark
    page.locator("#theme").click()
    assert (background(), page.locator("#theme").text_content()) == (white, "theme: light")
    page.locator("#theme").click()
    assert background() == dark
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator("td .name").first.is_visible()
    assert not page.locator("svg.curve").first.is_visible()
    page.locator("#curves").check()
    assert page.locator("svg.curve").first.is_visible()


def test_color_bar_shows_the_limits_of_the_view(page):
    def read_bar():
        return page.locator("#colors-low").text_content(), page.locator("#colors-high").text_content()

    def read_ends():
        colors = re.findall(r"rgb\((\d+), (\d+), (\d+)\)", page.evaluate("getComputedStyle(colors).backgroundImage"))
        return [tuple(map(int, colors[i])) for i in (0, len(colors) // 2, -1)]

    def expected_ends(options):
        low = -1 if options.sign == "signed" else 0
        return [tuple(color) for color in apply_colormap(np.array([[low, (low + 1) / 2, 1]]), options)[0].tolist()]

    assert read_bar() == ("≤ p80", "≥ p99")
    assert np.abs(np.array(read_ends()) - expected_ends(RenderOptions())).max() <= 14
    page.locator("#low").fill("30")
    assert read_bar() == ("≤ p30", "≥ p99")
    page.keyboard.press("4")
    assert read_bar() == ("≤ −p99", "≥ p99")
    assert np.abs(np.array(read_ends()) - expected_ends(RenderOptions(sign="signed"))).max() <= 14
    page.keyboard.press("3")
    assert [read_ends()[0], read_ends()[-1]] == [(0, 0, 0), (255, 255, 255)]
    page.keyboard.press("5")
    assert not page.locator("#colors").is_visible()


def test_columns_use_the_window(page):
    for width in (1200, 900):
        page.set_viewport_size({"width": width, "height": 800})
        used = page.locator("#grid").bounding_box()["width"]
        assert width - 60 < used < width - 20
    page.set_viewport_size({"width": 3000, "height": 800})
    assert page.locator("canvas").first.bounding_box()["width"] == 384
    page.locator("#size").fill("120")
    assert page.locator("canvas").first.bounding_box()["width"] == 120


def test_units_stay_with_their_numbers(page):
    for text in ("1.0 s,", "3 forward and", "2 backward passes"):
        unit = page.locator(".unit", has_text=text).first
        assert unit.evaluate("element => element.getClientRects().length") == 1
    page.locator("#size").fill("96")
    assert page.locator(".unit").evaluate_all("units => units.map(unit => unit.getClientRects().length)") == [1] * 9


def test_phones_are_told_to_touch(browser, page_file):
    phone = browser.new_context(viewport={"width": 390, "height": 800}, is_mobile=True, has_touch=True)
    page = phone.new_page()
    page.goto(page_file.as_uri())
    page.wait_for_selector("body[data-painted=yes]")
    assert page.locator("#read").inner_text() == "Touch a map to show its values."
    assert "Shift" not in page.locator("footer").inner_text()
    page.locator("canvas").first.tap()
    assert page.locator("#read").inner_text().startswith("pixel (16, 1")
    phone.close()
