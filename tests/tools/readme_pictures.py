"""Write the pictures of the README and of the guides: ``python -m tests.tools.readme_pictures`` (or ``make readme``)."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parents[2]
FIGURE = ROOT / "samples" / ".readme" / "cat.neflag.jpg"
MONTAGE = ROOT / "samples" / ".readme" / "cat.methods.jpg"
COMPARISON = ROOT / "samples" / ".readme" / "compare.jpg"
COMPARED = ("saliency", "ig", "neflag", "grad-cam", "random")
OVERLAYS = ROOT / "samples" / ".readme" / "methods"  # a JPEG per method
COMPARISON_WIDTH = 1050  # pixels
SIDE = 160  # pixels of an overlay
CHEAPER = {  # settings of the methods that cost more than 300 rows by default; ablation-cam repeats the last layers only
    "agi": "classes=5",
    "attexplore": "samples=15",
    "expected-gradients": "samples=150",
    "guided-ig": "steps=150",
    "ig2": "references_per_image=1,steps=99",
    "isa": "block=20000",
    "kernel-shap": "samples=298",
    "la": "classes=5",
    "lime": "samples=300",
    "occlusion": "window=32,stride=16",
    "rise": "masks=300",
    "samp": "steps=56",
    "score-cam": "channels=256",
    "spectral-ig": "steps=149",
    "xrai": "steps=75",
}


def picture_label(name: str) -> str:
    """Return a method with the settings of its picture, such as ``rise:masks=300``."""
    return f"{name}:{CHEAPER[name]}" if name in CHEAPER else name


def shrink_overlays(folder: Path) -> dict[str, Image.Image]:
    """Return the pictures ``cat.<method>.overlay.png`` of a folder with SIDE pixels, by method in the order of the registry."""
    import xplain.methods  # noqa: F401
    from xplain.core.registry import METHODS

    pictures = {}
    for spec in METHODS:
        path = folder / f"cat.{spec.name}.overlay.png"
        if path.exists():
            with Image.open(path) as picture:
                pictures[spec.name] = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return pictures


def make_montage(pictures: dict[str, Image.Image]) -> Image.Image:
    """Return the pictures in a grid, each below its method's name and the settings that are not defaults."""
    heading, columns, gap = 34, 7, 6
    name_font, settings_font = ImageFont.load_default(14), ImageFont.load_default(10)
    rows = -(-len(pictures) // columns)
    montage = Image.new("RGB", (columns * (SIDE + gap), rows * (SIDE + heading + gap)), "white")
    draw = ImageDraw.Draw(montage)
    for index, (name, picture) in enumerate(pictures.items()):
        row, column = divmod(index, columns)
        left, top = column * (SIDE + gap) + gap // 2, row * (SIDE + heading + gap)
        bottom = top + heading
        draw.text((left, bottom - (14 if name in CHEAPER else 3)), name, fill="black", font=name_font, anchor="ls")
        draw.text((left, bottom - 3), CHEAPER.get(name, ""), fill="#444444", font=settings_font, anchor="ls")
        montage.paste(picture, (left, bottom))
    return montage


def write_pictures(folder: str) -> int:
    """Explain the cat with every method, write the pictures, and return the exit code."""
    from xplain.cli.app import run
    from xplain.core.options import ModelOptions
    from xplain.pipelines.catalog import list_fits

    explain = ["explain", "samples/cat.jpg", "--device", "cpu", "-o", folder]
    code = run([*explain, "--save", "figure"])
    with Image.open(Path(folder, "cat.neflag.figure.png")) as figure:
        figure.convert("RGB").save(FIGURE, quality=88, optimize=True)
    for method in list_fits(ModelOptions(device="cpu")):
        if method["fits"] == "yes":
            explain += ["-a", picture_label(method["name"])]
    code = code or run([*explain, "--stability", "off"])
    pictures = shrink_overlays(Path(folder))
    make_montage(pictures).save(MONTAGE, quality=75, optimize=True)
    OVERLAYS.mkdir(exist_ok=True)
    for name, picture in pictures.items():
        picture.save(OVERLAYS / f"{name}.jpg", quality=85, optimize=True)
    return code


def write_comparison(folder: str) -> int:
    """Compare methods on two photographs, write the picture, and return the exit code."""
    from xplain.cli.app import run

    compare = ["compare", "samples/cat.jpg", "samples/espresso.jpg", "--device", "cpu", "-o", folder]
    code = run([*compare, *(part for method in COMPARED for part in ("-a", method))])
    with Image.open(Path(folder, "compare.png")) as picture:
        height = round(picture.height * COMPARISON_WIDTH / picture.width)
        shrunk = picture.convert("RGB").resize((COMPARISON_WIDTH, height), Image.Resampling.LANCZOS)
    shrunk.save(COMPARISON, quality=80, optimize=True)
    return code


def main() -> int:
    """Write the pictures, which takes minutes."""
    with tempfile.TemporaryDirectory() as folder:
        return write_pictures(folder) or write_comparison(folder)


if __name__ == "__main__":
    sys.exit(main())
