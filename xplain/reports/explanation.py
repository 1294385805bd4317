"""Explanations of the library: the attributions of an image with their record, as a picture, a file or a dictionary."""

from __future__ import annotations

import io
import json
import sys
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from html import escape
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, overload

import numpy as np

from xplain.core.array_store import Floats
from xplain.core.errors import UsageError, did_you_mean
from xplain.core.files import to_json, write_file
from xplain.core.options import MAX_SCALE, Reduce, RenderOptions, Sign
from xplain.reports.band_pictures import show_bands
from xplain.reports.class_texts import class_name, format_certainty
from xplain.reports.render import draw, encode_raw, render_warnings

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

PictureKind = Literal["overlay", "heatmap", "masked", "figure"]
KIND_OF_SUFFIX = {".png": "overlay", ".npz": "raw"}
FILE_SUFFIXES = (*KIND_OF_SUFFIX, ".bmp", ".gif", ".jpeg", ".jpg", ".pdf", ".svg", ".tif", ".tiff", ".webp")
LISTED = 20  # explanations of a list that a notebook shows
LINE = 120  # characters; longer warnings are only counted in the repr
LISTED_SIDE = 160  # pixels; smaller pictures in such a list are enlarged


@dataclass(frozen=True, eq=False)
class Explanation:
    """The explanation of one image. A notebook shows it as a figure.

    values: signed attributions (C, H, W) on the CPU, in units of the explained score, or (1, H, W).
    image: the model input (C, H, W) in [0, 1] that was explained.
    record: settings, target, prediction, cost and warnings, as ``xplain explain --json`` prints them.
    """

    values: Tensor
    image: Tensor
    record: dict[str, Any]

    @property
    def method(self) -> str:
        """The name of the method."""
        return str(self.record["method"])

    @property
    def target(self) -> int:
        """The index of the explained class."""
        return int(self.record["target"]["index"])

    @property
    def target_name(self) -> str:
        """The name of the explained class, or its index as text if the model has no names."""
        return class_name(self.record["target"])

    @property
    def probability(self) -> float | None:
        """The probability of the explained class; None if the model returns values."""
        probability: float | None = self.record["target"]["probability"]
        return probability

    @property
    def warnings(self) -> list[str]:
        """What to know before the map is trusted, such as a large completeness gap."""
        return [*self.record["warnings"], *render_warnings(self._attribution, RenderOptions())]

    def __repr__(self) -> str:
        target = f"{self.target_name!r} {format_certainty(self.record['target'])}"
        warnings = f", {self._describe_warnings()}" if self.warnings else ""
        return f"Explanation({self.record['input']!r}, {self.method}, target {target}, values {tuple(self.values.shape)}{warnings})"

    def _describe_warnings(self) -> str:
        """Return the texts of the warnings if they fit on one line, otherwise their number."""
        text = f"warning: {'; '.join(self.warnings)}"
        return text if len(text) <= LINE else _count(len(self.warnings), "warning")

    def _repr_png_(self) -> bytes:
        return self._draw("figure", RenderOptions())

    @cached_property
    def _attribution(self) -> Floats:
        return self.values.float().numpy().astype(np.float64)

    def _draw(self, kind: str, options: RenderOptions, scale: int = 1) -> bytes:
        """Return a PNG with the record inside it. Raises UsageError for an invalid scale."""
        if not isinstance(scale, int) or isinstance(scale, bool) or not 1 <= scale <= MAX_SCALE:
            raise UsageError(f"invalid scale {scale!r}", f"use a whole number from 1 to {MAX_SCALE}")
        pixels = show_bands(self.image.float().numpy())
        return draw(kind, pixels, self.values.float().numpy(), options, self.record, scale)

    def overlay(self, kind: PictureKind = "overlay", *, scale: int = 1, **options: Any) -> Image:
        """Return the heatmap on the image as a Pillow image of the size of the model input, or ``scale`` times as large.

        kind: ``heatmap``, ``masked`` or ``figure`` return another picture. Figures have a fixed size.
        scale: each pixel becomes a square of ``scale`` x ``scale`` pixels, without blur.
        options: ``clip``, ``sign``, ``reduce``, ``cmap`` and ``opacity``, as the options of ``xplain explain``.
        Raises UsageError for an unknown option or value.
        """
        from PIL import Image

        _check_choice("kind", kind, get_args(PictureKind))
        with Image.open(io.BytesIO(self._draw(kind, make_render_options(**options), scale))) as picture:
            return picture.convert("RGB")

    def show(self, kind: PictureKind = "figure", **options: Any) -> None:
        """Show a picture: in the output of a notebook, otherwise in the image viewer of the system. Arguments as in ``overlay``."""
        picture = self.overlay(kind, **options)
        if _is_notebook():
            sys.modules["IPython"].display.display(picture)
        else:
            picture.show()

    def save(
        self, path: str | PathLike[str], kind: PictureKind | None = None, *, scale: int = 1, **options: Any
    ) -> Path:
        """Write a file and return its path.

        path: ends in .png for a picture with the record inside it, or in .npz for the attributions, the image and the record, as
        ``xplain explain --save raw`` writes them. Folders are created, and an existing file is replaced.
        kind, scale, options: as in ``overlay``. Raises UsageError for another suffix.
        """
        file = Path(fspath(path))
        if file.suffix.lower() not in KIND_OF_SUFFIX:
            raise UsageError(f"cannot save {str(path)!r}", "use a name that ends in .png or .npz")
        if file.suffix.lower() == ".npz":
            if kind is not None or options or scale != 1:
                raise UsageError("an .npz file has no kind and no options of a picture", "remove them or save a .png")
            content = encode_raw(self.image.numpy(), self.values.float().numpy(), self.record)
        else:
            _check_choice("kind", kind or "overlay", get_args(PictureKind))
            content = self._draw(kind or "overlay", make_render_options(**options), scale)
        write_file(file, content)
        return file

    def to_dict(self) -> dict[str, Any]:
        """Return a copy of the record as JSON holds it: settings, target, prediction, cost, warnings; without the arrays."""
        record: dict[str, Any] = json.loads(to_json(self.record))
        return record


class Explanations(Sequence[Explanation]):
    """A list of explanations. A notebook shows it as a row of pictures."""

    def __init__(self, explanations: Iterable[Explanation]) -> None:
        self._explanations = list(explanations)

    if not TYPE_CHECKING:  # a type checker must report the missing attribute

        def __getattr__(self, name: str) -> Any:
            """Raise AttributeError, with the index to use if a single explanation has the attribute."""
            message = f"'Explanations' object has no attribute {name!r}"
            if not name.startswith("_") and (hasattr(Explanation, name) or name in Explanation.__dataclass_fields__):
                message = f"a list of {_count(len(self), 'explanation')} has no {name!r}; use explanations[0].{name}"
            raise AttributeError(message, name=name, obj=self)

    def __len__(self) -> int:
        return len(self._explanations)

    @overload
    def __getitem__(self, index: int) -> Explanation: ...
    @overload
    def __getitem__(self, index: slice) -> Explanations: ...
    def __getitem__(self, index: int | slice) -> Explanation | Explanations:
        if isinstance(index, slice):
            return Explanations(self._explanations[index])
        return self._explanations[index]

    def __repr__(self) -> str:
        lines = [f"  {explanation!r}," for explanation in self._explanations[:LISTED]]
        if len(self) > LISTED:
            lines.append(f"  ... {len(self)} in all")
        return "\n".join(["Explanations([", *lines, "])"])

    def _repr_html_(self) -> str:
        cells = []
        for explanation in self._explanations[:LISTED]:
            scale = max(LISTED_SIDE // max(explanation.image.shape[-2:]), 1)
            picture = b64encode(explanation._draw("overlay", RenderOptions(), scale)).decode()
            text = f"{explanation.target_name} {format_certainty(explanation.record['target'])}"
            image = f'<img src="data:image/png;base64,{picture}" alt="">'
            caption = f"<figcaption>{escape(str(explanation.record['input']))}<br>{escape(text)}</figcaption>"
            cells.append(f'<figure style="display:inline-block;margin:4px">{image}{caption}</figure>')
        more = f"<p>{len(self) - LISTED} more</p>" if len(self) > LISTED else ""
        return f"<div>{''.join(cells)}{more}</div>"

    @property
    def values(self) -> Tensor:
        """The attributions (B, C, H, W)."""
        import torch

        return torch.stack([explanation.values for explanation in self._explanations])

    def show(self, kind: PictureKind = "figure", **options: Any) -> None:
        """Show every explanation, see ``Explanation.show``."""
        for explanation in self._explanations:
            explanation.show(kind, **options)

    def save(self, folder: str | PathLike[str], kind: PictureKind = "overlay", **options: Any) -> list[Path]:
        """Write ``FOLDER/NUMBER.STEM.METHOD.KIND.png`` for every explanation, and return the paths.

        Raises UsageError if ``folder`` is the name of a file, such as ``cat.png``.
        """
        path = Path(fspath(folder))
        if path.suffix.lower() in FILE_SUFFIXES and not path.is_dir():
            hint = f"pass a folder, or save one of them: explanations[0].save({str(folder)!r})"
            raise UsageError(f"cannot save {_count(len(self), 'explanation')} as the file {str(folder)!r}", hint)
        digits = len(str(max(len(self) - 1, 0)))
        paths = []
        for index, explanation in enumerate(self._explanations):
            stem = Path(str(explanation.record["input"])).stem
            name = f"{index:0{digits}}.{stem}.{explanation.method}.{kind}.png"
            paths.append(explanation.save(path / name, kind, **options))
        return paths

    def to_dict(self) -> list[dict[str, Any]]:
        """Return a list of copies of the records."""
        return [explanation.to_dict() for explanation in self._explanations]


def make_render_options(**options: Any) -> RenderOptions:
    """Return rendering options. Raises UsageError for an unknown option or value."""
    known = [field.name for field in fields(RenderOptions)]
    for name in options:
        if name not in known:
            raise UsageError(f"unknown option {name!r}", did_you_mean(name, known, f"use {', '.join(known)}"))
    made = RenderOptions(**options)
    _check_choice("sign", made.sign, get_args(Sign))
    _check_choice("reduce", made.reduce, get_args(Reduce))
    try:
        low, high = map(float, made.clip)
        is_valid = 0 <= low <= high <= 100 and 0 <= float(made.opacity) <= 1
    except (TypeError, ValueError):
        is_valid = False
    if not is_valid:
        raise UsageError(
            f"invalid clip {made.clip!r} or opacity {made.opacity!r}",
            "use clip=(LOW, HIGH) percentiles and an opacity from 0 to 1",
        )
    return made


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        raise UsageError(f"unknown {name} {value!r}", did_you_mean(str(value), choices, f"use {' or '.join(choices)}"))


def _is_notebook() -> bool:
    """Return whether an interactive IPython runs that can display pictures."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and hasattr(shell, "kernel")
