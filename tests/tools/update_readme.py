"""Write the README's tables and pictures: ``python -m tests.tools.update_readme`` (or ``make readme``)."""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from xplain.reports.tables import markdown_table

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
FIGURE = ROOT / "samples" / ".readme" / "cat.neflag.jpg"
MONTAGE = ROOT / "samples" / ".readme" / "cat.methods.jpg"


def methods_table() -> str:
    """Return a table with a row per method: name, alias, summary, passes, paper."""
    from xplain.pipelines import catalog

    rows = []
    for method in catalog.list_methods():
        alias = f"`{method['alias']}`" if method["alias"] else ""
        source = short_citation(method["paper"])
        if method["url"]:
            source = f"[{source}]({method['url']})"
        rows.append([f"`{method['name']}`", alias, method["summary"], method["passes"], source])
    return markdown_table(["method", "alias", "what it is", "passes an image", "source"], rows)


def metrics_table() -> str:
    """Return a table with a row per metric: name, direction, summary, unit."""
    from xplain.pipelines import catalog

    rows = []
    for metric in catalog.list_metrics():
        rows.append([f"`{metric['name']}`", metric["better"], metric["summary"], metric["unit"]])
    return markdown_table(["metric", "better", "what it is", "unit"], rows)


def short_citation(citation: str) -> str:
    """Return ``Pan et al. 2021`` of ``Pan, Li, Zhu (2021). Title. Venue.``, or "control" if the text is no citation."""
    match = re.match(r"(?P<first>[^,(]+)(?P<more>,[^(]*)?\((?P<year>\d{4})\)", citation)
    if match is None:
        return "control"
    et_al = " et al." if match["more"] else ""
    return f"{match['first'].strip()}{et_al} {match['year']}"


def make_montage(folder: Path) -> Image.Image:
    """Return the pictures ``cat.<method>.overlay.png`` of a folder in a grid, each below its method's name."""
    from xplain.core.registry import METHODS

    side, heading, columns = 150, 18, 7
    font = ImageFont.load_default(14)
    names = [spec.name for spec in METHODS if (folder / f"cat.{spec.name}.overlay.png").exists()]
    rows = -(-len(names) // columns)
    montage = Image.new("RGB", (columns * (side + 6), rows * (side + heading + 4)), "white")
    draw = ImageDraw.Draw(montage)
    for index, name in enumerate(names):
        row, column = divmod(index, columns)
        left, top = column * (side + 6) + 3, row * (side + heading + 4)
        draw.text((left, top), name, fill="black", font=font)
        with Image.open(folder / f"cat.{name}.overlay.png") as picture:
            small = picture.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
            montage.paste(small, (left, top + heading))
    return montage


def update_tables(text: str) -> str:
    """Return the README with the tables of the registry."""
    text = replace_section(text, "methods", methods_table())
    return replace_section(text, "metrics", metrics_table())


def replace_section(text: str, name: str, content: str) -> str:
    """Return the text with ``content`` between the markers ``<!-- name -->`` and ``<!-- /name -->``."""
    pattern = re.compile(f"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    return pattern.sub(lambda match: f"{match[1]}{content}\n{match[2]}", text)


def write_pictures(folder: str) -> int:
    """Explain the cat with every method at its defaults, write the README's pictures, and return the exit code."""
    from xplain.cli.app import run
    from xplain.core.config import ModelOptions
    from xplain.pipelines.catalog import list_fits

    explain = ["explain", "samples/cat.jpg", "--device", "cpu", "-o", folder]
    code = run([*explain, "--save", "figure"])
    with Image.open(Path(folder, "cat.neflag.figure.png")) as figure:
        figure.convert("RGB").save(FIGURE, quality=88, optimize=True)
    for method in list_fits(ModelOptions(device="cpu")):
        if method["fits"] == "yes":
            explain += ["-a", method["name"]]
    code = code or run(explain)
    make_montage(Path(folder)).save(MONTAGE, quality=85)
    return code


def main() -> int:
    """Write the tables, then the pictures, which takes minutes."""
    README.write_text(update_tables(README.read_text("utf-8")), "utf-8")
    with tempfile.TemporaryDirectory() as folder:
        return write_pictures(folder)


if __name__ == "__main__":
    sys.exit(main())
