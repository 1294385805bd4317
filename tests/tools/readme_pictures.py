"""Write the pictures of the README: ``python -m tests.tools.readme_pictures`` (or ``make readme``)."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parents[2]
FIGURE = ROOT / "samples" / ".readme" / "cat.neflag.jpg"
MONTAGE = ROOT / "samples" / ".readme" / "cat.methods.jpg"


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


def write_pictures(folder: str) -> int:
    """Explain the cat with every method at its defaults, write the README's pictures, and return the exit code."""
    from xplain.cli.app import run
    from xplain.core.options import ModelOptions
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
    """Write the pictures, which takes minutes."""
    with tempfile.TemporaryDirectory() as folder:
        return write_pictures(folder)


if __name__ == "__main__":
    sys.exit(main())
