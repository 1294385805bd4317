"""Maps that other programs made, evaluated like the attributions of a method: ``xplain evaluate --maps NAME=DIR``."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xplain.core.config import EXTERNAL_MAPS, EvaluateConfig, MapFolder
from xplain.core.errors import InputError, UsageError, emit_note
from xplain.core.options import ComputeOptions
from xplain.core.registry import METHODS
from xplain.core.run_store import RunStore, fingerprint, read_records, read_run, settings_digest
from xplain.core.types import Attribution
from xplain.data.datasets import Item
from xplain.data.loading import LoadedImage
from xplain.data.map_files import MapError, MapFile, read_map
from xplain.data.map_folders import find_maps
from xplain.models import Classifier
from xplain.oracle.batching import rows_per_call
from xplain.pipelines.attribution import check_distinct
from xplain.pipelines.batches import TargetedBatch
from xplain.pipelines.metric_run import MetricRun
from xplain.reports.control import CONTROL

READERS = 8  # threads that hash files
VERSION = 1  # of how maps are read


def check_map_names(folders: Sequence[MapFolder]) -> None:
    """Raise UsageError for a name that is repeated or is a method's."""
    check_distinct((folder.name for folder in folders), "name of --maps")
    taken = {name.lower() for spec in METHODS for name in spec.names}
    for folder in folders:
        if folder.name.lower() in taken:
            raise UsageError(
                f"--maps {folder.name!r} is the name of a method", "choose another name, such as captum-ig"
            )


def check_map_requests(configs: Sequence[EvaluateConfig]) -> None:
    """Raise UsageError for maps that cannot be evaluated. configs: one per model."""
    check_map_names(configs[0].maps)
    if configs[0].maps and len(configs) > 1:
        raise UsageError(
            f"--maps explain one model and cannot be used with {len(configs)}", "run evaluate once per model"
        )


def find_external_maps(
    folders: Sequence[MapFolder], metrics: Sequence[MetricRun], items: Sequence[Item]
) -> list[ExternalMaps]:
    """Find the maps of a data set in each folder. Emits a note for each metric that assumes what the maps explain.

    items: all images of the data set, so that their selection does not change what the maps are.
    """
    for metric in metrics if folders else ():
        if metric.settings.get("score") == "auto" and metric.settings.get("content") != "auto":
            emit_note(f"{metric.label} assumes that the maps explain the logit; set score=prob or another one if not")
    keys = list(dict.fromkeys(item.key for item in items))
    return [ExternalMaps.find(folder, keys) for folder in folders]


@dataclass(frozen=True, eq=False)
class ExternalMaps:
    """The maps of a folder for the images of a data set; used in place of a ``MethodRun``.

    label: the name in tables. folder: as the user wrote it.
    files: by key of the image. hashes: SHA-256 of these files, "" if unreadable.
    """

    label: str
    folder: str
    files: Mapping[str, Path]
    hashes: Mapping[str, str]

    @classmethod
    def find(cls, source: MapFolder, keys: Sequence[str]) -> ExternalMaps:
        """Find and hash the maps of a data set with these keys. Raises InputError as ``find_maps``."""
        files = find_maps(source.folder, keys, CONTROL)
        with ThreadPoolExecutor(READERS) as pool:
            hashes = dict(zip(files, pool.map(_hash_file, files.values()), strict=True))
        return cls(source.name, source.folder, files, hashes)

    @property
    def score(self) -> None:
        """The explained score is unknown."""

    @property
    def slopes(self) -> None:
        """Whether the maps hold slopes is unknown."""

    @property
    def origin(self) -> dict[str, Any]:
        """The entries of ``run.json`` that do not determine numbers."""
        return {"deviations": "", "location": self.folder, "maps": len(self.files)}

    def describe(self) -> dict[str, Any]:
        """Return the entries of a record, as a method does; they include the content of all maps."""
        return self._describe(fingerprint(sorted(self.hashes.items())))

    def describe_item(self, key: str) -> dict[str, Any]:
        """Return the same with the content of one map only."""
        return self._describe(self.hashes.get(key))

    def _describe(self, content: str | None) -> dict[str, Any]:
        params = {"name": self.label, "sha256": content}
        return {"method": EXTERNAL_MAPS, "params": params, "score": "unknown", "method_version": VERSION}

    def keep_results(self, keys: Sequence[str], store: RunStore) -> None:
        """Store the results of maps that have not changed again, if other maps of the folder have.

        They include the results of metrics that only earlier commands requested.
        """
        missing: dict[tuple[str, str], dict[str, str]] = {}  # the new entries of a record, by key and ``map_mark``
        for label, metric in read_run(store.folder)[0]["metrics"].items():
            mark = settings_digest(self.describe(), metric)
            if "scope" in metric:
                continue
            for key in keys:
                if not store.has(key, mark):
                    missing[key, settings_digest(self.describe_item(key), metric)] = {"mark": mark, "metric": label}
        records = {}
        for record in read_records(store.folder) if missing else ():
            entries = missing.get((record["key"], record.get("map_mark", "")))
            if entries is not None:
                records[record["key"], entries["mark"]] = record | entries
        store.append(list(records.values()))

    def explainer(self, classifier: Classifier, content: Tensor, compute: ComputeOptions) -> None:
        """Return None: the method cannot be run again."""

    def images_per_call(self, classifier: Classifier, batch_size: int | None) -> int:
        """Return how many images fill one model call."""
        images = torch.empty(1, classifier.input_channels, *classifier.size, device=classifier.device)
        return rows_per_call(classifier, images, batch_size)

    def load(
        self, batch: TargetedBatch, classifier: Classifier
    ) -> tuple[dict[int, MapError], list[tuple[list[int], Attribution]]]:
        """Return the error of each map that cannot be used, and the others in groups with equal numbers of channels.

        Images are named by their positions in the batch. Raises InputError if a map has changed since it was hashed.
        """
        errors: dict[int, MapError] = {}
        groups: dict[int, dict[int, Tensor]] = {}
        for i, (item, loaded) in enumerate(zip(batch.items, batch.loaded, strict=True)):
            try:
                content = self._read(item.key, classifier)
                path = self.files[item.key]
                _check_record(content.record, path, loaded, int(batch.targets[i]), classifier)
                values = _convert(content, path, batch.images)
            except MapError as error:
                errors[i] = error
                continue
            groups.setdefault(len(values), {})[i] = values
        return errors, [
            (list(maps), _to_attribution(torch.stack(list(maps.values())), batch.targets[list(maps)]))
            for maps in groups.values()
        ]

    def unusable(self, batch: TargetedBatch) -> Attribution:
        """Return an attribution of NaN, for images whose maps cannot be used."""
        return _to_attribution(batch.images.new_full((len(batch), 1, 1, 1), torch.nan), batch.targets)

    def _read(self, key: str, classifier: Classifier) -> MapFile:
        """Read the map of an image. Raises MapError if it cannot be used, InputError if it has changed."""
        path = self.files.get(key)
        if path is None:
            raise MapError("no map", f"the maps {self.label!r} in {self.folder!r} have none for {key!r}", "add it")
        try:
            with path.open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != self.hashes[key]:
                    raise InputError(f"the map {str(path)!r} changed during the run", "run the same command again")
                stream.seek(0)
                return read_map(stream, str(path), classifier.size, classifier.input_channels)
        except OSError as error:
            raise MapError(
                "the map cannot be read", f"cannot read {str(path)!r}: {error.strerror}", "make it readable"
            ) from None


def _hash_file(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return ""


def _check_record(
    record: Mapping[str, Any], path: Path, loaded: LoadedImage, target: int, classifier: Classifier
) -> None:
    """Raise MapError if the record of a map names another image, model or class than those of the run."""
    if _get(record, "sha256") not in (None, loaded.digest):
        raise MapError("the map is of another image", f"{str(path)!r} is the map of another image", "compute it again")
    weights = _get(record, "model", "weights", "sha256") or classifier.weights.sha256
    if classifier.weights.sha256 and weights != classifier.weights.sha256:
        name = _get(record, "model", "name")
        raise MapError(
            "the map explains another model",
            f"{str(path)!r} explains {name!r} with other weights than this run's",
            "pass the model that it explains",
        )
    explained = _get(record, "target", "index")
    if explained is not None and explained != target:
        raise MapError(
            "the map explains another class",
            f"{str(path)!r} explains class {explained}, but this run explains class {target}",
            "compute it again with the same --target",
        )


def _get(record: Mapping[str, Any], *names: str) -> Any:
    """Return a nested entry of a record, or None if it is missing."""
    value: Any = record
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _convert(content: MapFile, path: Path, images: Tensor) -> Tensor:
    """Return the values (C, H, W) with the type of the images. Raises MapError if they leave its range."""
    values = torch.from_numpy(content.values).to(images.dtype)
    vanished = content.values.any() and not values.any()
    if vanished or not values.isfinite().all():
        raise MapError(
            "the map is out of range",
            f"the values of the map {str(path)!r} are outside the range of {str(images.dtype).removeprefix('torch.')}",
            "scale them",
        )
    return values.to(images.device)


def _to_attribution(values: Tensor, targets: Tensor) -> Attribution:
    """Return maps as an attribution that has cost no rows."""
    rows = torch.zeros(len(values))
    return Attribution(values, targets, details={"forwards": rows, "backwards": rows})
