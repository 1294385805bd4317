"""Make the README's tables from the registry, and its pictures: ``python -m tests.tools.update_readme`` (or ``make readme``)."""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PICTURE = ROOT / "samples" / ".readme" / "cat.neflag.jpg"
MONTAGE = ROOT / "samples" / ".readme" / "cat.methods.jpg"


def methods_table() -> str:
    """A row for each method: name, alias, what it is, passes, paper."""
    from xplain.pipelines import catalog

    rows = ["| method | alias | what it is | passes an image | source |", "|---|---|---|---|---|"]
    for row in catalog.list_methods():
        source = f"[{_short(row['paper'])}]({row['url']})" if row["url"] else _short(row["paper"])
        alias = f"`{row['alias']}`" if row["alias"] else ""
        rows.append(f"| `{row['name']}` | {alias} | {_cell(row['summary'])} | {row['passes']} | {source} |")
    return "\n".join(rows)


def metrics_table() -> str:
    """A row for each metric: name, direction, what it is, unit."""
    from xplain.pipelines import catalog

    rows = ["| metric | better | what it is | unit |", "|---|---|---|---|"]
    rows += [
        f"| `{row['name']}` | {row['better']} | {_cell(row['summary'])} | {row['unit']} |"
        for row in catalog.list_metrics()
    ]
    return "\n".join(rows)


def _cell(text: str) -> str:
    """Text in a cell, whose bars would end it."""
    return text.replace("|", "\\|")


def _short(citation: str) -> str:
    """``Pan et al. 2021`` of ``Pan, Li, Zhu (2021). Title. Venue.``"""
    found = re.match(r"(?P<first>[^,(]+)(?P<more>,[^(]*)?\((?P<year>\d{4})\)", citation)
    if not found:
        return "control"
    return f"{found['first'].strip()}{' et al.' if found['more'] else ''} {found['year']}"


def montage(folder: Path) -> Image.Image:
    """Every method's overlay of the cat under its name, from ``cat.<method>.overlay.png`` in a folder."""
    from xplain.core.registry import METHODS

    side, head, columns = 150, 18, 7
    font = ImageFont.load_default(14)
    names = [spec.name for spec in METHODS if (folder / f"cat.{spec.name}.overlay.png").exists()]
    rows = -(-len(names) // columns)
    sheet = Image.new("RGB", (columns * (side + 6), rows * (side + head + 4)), "white")
    pen = ImageDraw.Draw(sheet)
    for number, name in enumerate(names):
        left, top = number % columns * (side + 6) + 3, number // columns * (side + head + 4)
        pen.text((left, top), name, fill="black", font=font)
        with Image.open(folder / f"cat.{name}.overlay.png") as picture:
            sheet.paste(picture.convert("RGB").resize((side, side), Image.Resampling.LANCZOS), (left, top + head))
    return sheet


def fill(text: str) -> str:
    """The README with each table of the registry put between its markers."""
    for name, table in (("methods", methods_table()), ("metrics", metrics_table())):
        text = put(text, name, table)
    return text


def put(text: str, name: str, table: str) -> str:
    """The text with a table between the markers of its name."""
    pattern = re.compile(f"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    return pattern.sub(lambda found: f"{found[1]}{table}\n{found[2]}", text)


def main() -> int:
    """Rewrite the tables and the pictures (every method once, at its defaults: minutes)."""
    from xplain.cli.app import run
    from xplain.core.config import Compute
    from xplain.pipelines.catalog import list_fits

    README.write_text(fill(README.read_text("utf-8")), "utf-8")
    with tempfile.TemporaryDirectory() as folder:
        code = run(["explain", "samples/cat.jpg", "--save", "figure", "--device", "cpu", "-o", folder])
        with Image.open(Path(folder, "cat.neflag.figure.png")) as figure:
            figure.convert("RGB").save(PICTURE, quality=88, optimize=True)
        fitting = [row["name"] for row in list_fits(Compute(device="cpu")) if row["fits"] == "yes"]
        every = [part for name in fitting for part in ("-a", name)]
        code = code or run(["explain", "samples/cat.jpg", *every, "--device", "cpu", "-o", folder])
        montage(Path(folder)).save(MONTAGE, quality=85)
    return code


if __name__ == "__main__":
    sys.exit(main())
