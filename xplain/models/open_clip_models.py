"""Load CLIP and SigLIP models of open_clip as zero-shot classifiers (extra ``clip``)."""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlparse

from torch import Tensor

from xplain.core.errors import InputError, UsageError, did_you_mean, first_line
from xplain.data.preprocessing import Preprocessing
from xplain.models.checkpoints import describe_weights_file, load_weights, read_weights
from xplain.models.classifier import Classifier, Weights
from xplain.models.hugging_face_files import Repository, hub_disabled, open_repository, read_json
from xplain.models.hugging_face_zero_shot import find_tokenizer_folder
from xplain.models.image_processors import ImageProcessor
from xplain.models.randomization import RANDOM, UNTRAINED
from xplain.models.zero_shot import (
    ClassTexts,
    ImageTextClassifier,
    TextHead,
    TextRequest,
    check_length,
    make_class_texts,
    make_classifier,
    make_embedder,
    make_text_head,
)

CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "model.safetensors")
URL_CACHE = Path("~/.cache/clip")  # where open_clip stores downloads that are not from the hub
PREPROCESSING_KEYS = ("mean", "std", "interpolation", "resize_mode")
TOKENIZER_OPTIONS = ("clean", "strip_sep_token", "language")


class OpenClipImageTextClassifier(ImageTextClassifier):
    """The image tower of an open_clip model and fixed texts."""

    def __init__(self, model: Any, head: TextHead | None) -> None:
        super().__init__(head)
        self.visual = model.visual

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Return the features (B, dimensions) of normalized images. CoCa also returns features of its tokens."""
        features = self.visual(pixels)
        return cast(Tensor, features[0] if isinstance(features, tuple) else features)


def load_open_clip(
    name: str, path: Path | None, side: int | None, offline: bool, request: TextRequest, *, headless: bool = False
) -> Classifier:
    """Load an open_clip model that compares images with the texts of a request.

    name: ``clip:ARCHITECTURE/TAG``, ``clip:hf-hub:REPOSITORY`` or ``clip:FOLDER``; an existing folder takes precedence.
    path: weights file to use instead of the model's weights, RANDOM for untrained weights, or None.
    side: image size in pixels; the position embeddings are interpolated.
    offline: use only files that are already downloaded.
    headless: without texts, load the image tower as a network that returns embeddings.
    Raises UsageError if open_clip is not installed, the name is unknown or no text is given, and InputError if the model cannot be
    loaded.
    """
    open_clip = _import_open_clip(name)
    texts = None if headless and not request.has_texts else make_class_texts(name, request)
    reference = name.removeprefix("clip:")
    with _silenced():
        if reference.startswith("hf-hub:") or Path(reference).is_dir():
            repository = open_repository(name, reference.removeprefix("hf-hub:"), offline)
            model, tokenizer, record = _load_repository(open_clip, repository, path, side)
        else:
            model, tokenizer, record = _load_architecture(open_clip, name, path, side, offline)
    return _make_classifier(open_clip, name, model.eval(), tokenizer, texts, record)


def _import_open_clip(name: str) -> Any:
    try:
        import open_clip
    except ModuleNotFoundError:
        raise UsageError(
            f"the model {name!r} requires open_clip", "install it with: pip install 'xplain-vision[clip]'"
        ) from None
    return open_clip


@contextmanager
def _silenced() -> Iterator[None]:
    """Hide the messages of open_clip inside the block, which report every step and untrained weights."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _load_architecture(
    open_clip: Any, name: str, path: Path | None, side: int | None, offline: bool
) -> tuple[Any, Any, Weights]:
    """Return the model ``clip:ARCHITECTURE/TAG``, its tokenizer and the origin of its weights."""
    architecture, _, tag = name.removeprefix("clip:").partition("/")
    config = open_clip.get_model_config(architecture) if architecture in open_clip.list_models() else None
    if config is None:
        hint = did_you_mean(architecture, open_clip.list_models(), "use clip:ARCHITECTURE/TAG or an existing folder")
        raise UsageError(f"unknown open_clip architecture {architecture!r}", hint)
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    settings = _read_tag(open_clip, name, tags) if tag or path is None else {}
    needs_quick_gelu = bool(settings.get("quick_gelu"))
    if settings and config.get("quick_gelu", False) and not needs_quick_gelu:
        other = architecture.removesuffix("-quickgelu")
        raise UsageError(
            f"the weights {tag!r} were trained without QuickGELU, which {architecture} uses", f"use clip:{other}/{tag}"
        )
    options: dict[str, Any] = {"force_quick_gelu": needs_quick_gelu, "force_image_size": side}
    options["force_preprocess_cfg"] = {key: settings[key] for key in PREPROCESSING_KEYS if key in settings}
    context = hub_disabled() if offline else nullcontext()
    try:
        with context:
            model = open_clip.create_model(architecture, load_weights=False, pretrained_text=False, **options)
            tokenizer = open_clip.get_tokenizer(architecture)
            file = None if path is not None else _find_tag_weights(name, settings, offline)
    except InputError:
        raise
    except Exception as error:  # hub clients raise many types
        condition = " without a download (--offline)" if offline else ""
        raise InputError(f"cannot load {name}{condition}: {first_line(error)}", "use --weights FILE") from None
    record = _load_state(open_clip, model, name, name, file, path)
    return model, tokenizer, record


def _read_tag(open_clip: Any, name: str, tags: Sequence[str]) -> dict[str, Any]:
    """Return open_clip's settings of the weights ``ARCHITECTURE/TAG``. Raises UsageError if there are none."""
    architecture, _, tag = name.removeprefix("clip:").partition("/")
    settings: dict[str, Any] = dict(open_clip.get_pretrained_cfg(architecture, tag)) if tag else {}
    if settings:
        return settings
    known = f"use one of: {', '.join(tags)}" if tags else "use --weights FILE"
    if not tag:
        raise UsageError(f"{name!r} does not name its weights", f"use clip:{architecture}/TAG; {known}")
    raise UsageError(f"{architecture} has no weights {tag!r}", did_you_mean(tag, tags, known))


def _find_tag_weights(name: str, settings: Mapping[str, Any], offline: bool) -> Path:
    """Return the weights file of a tag, which is downloaded unless ``offline``. Raises InputError if it is missing."""
    from open_clip.pretrained import download_pretrained

    url = settings.get("url", "")
    if offline and not settings.get("hf_hub"):
        file = URL_CACHE.expanduser() / Path(urlparse(url).path).name
        if not file.is_file():
            raise InputError(
                f"weights of {name} not found at {file}, and --offline disables downloads",
                "put the file there or use --weights FILE",
            )
        return file
    return Path(download_pretrained(dict(settings)))


def _load_repository(
    open_clip: Any, repository: Repository, path: Path | None, side: int | None
) -> tuple[Any, Any, Weights]:
    """Return the model in a folder or repository, its tokenizer and the origin of its weights."""
    config = _read_config(repository)
    file = None
    if path is None:
        file = next((found for found in map(repository.find, WEIGHTS) if found is not None), None)
        if file is None:
            raise InputError(
                f"{repository.name!r} has no {WEIGHTS[0]}, and pickled weights are not loaded",
                "convert them to safetensors",
            )
    try:
        with hub_disabled(), tempfile.TemporaryDirectory() as folder:
            (Path(folder) / CONFIG).write_text(json.dumps(config), "utf-8")
            model = open_clip.create_model(
                f"local-dir:{folder}", load_weights=False, pretrained_text=False, force_image_size=side
            )
    except Exception as error:  # models raise many types for invalid configurations
        raise InputError(
            f"{CONFIG} of {repository.name!r} is invalid: {first_line(error)}", "use the file that open_clip has saved"
        ) from None
    tokenizer = _make_tokenizer(open_clip, repository, config["model_cfg"]["text_cfg"])
    return model, tokenizer, _load_state(open_clip, model, repository.name, repository.source, file, path)


def _read_config(repository: Repository) -> dict[str, Any]:
    """Return the content of open_clip_config.json. Raises InputError if it is invalid or names other repositories."""
    config = read_json(repository, repository.require(CONFIG))
    model = config.get("model_cfg")
    towers = [model.get(key) for key in ("text_cfg", "vision_cfg")] if isinstance(model, dict) else [None]
    if not all(isinstance(tower, dict) for tower in towers):
        raise InputError(
            f"{CONFIG} of {repository.name!r} has no model_cfg with text_cfg and vision_cfg",
            "use the file that open_clip has saved",
        )
    text, vision = cast(list[dict[str, Any]], towers)
    other = text.get("hf_model_name") or vision.get("timm_model_name", "")
    if text.get("hf_model_name") or not isinstance(other, str) or ":" in other:
        raise InputError(
            f"{CONFIG} of {repository.name!r} names another repository ({other}), which is not loaded",
            "use a model whose towers are part of open_clip or timm",
        )
    return config


def _make_tokenizer(open_clip: Any, repository: Repository, text: Mapping[str, Any]) -> Any:
    """Return the tokenizer that the settings of a text tower describe. Its files must be in the repository."""
    length = text.get("context_length", 77)
    if not text.get("hf_tokenizer_name"):
        return open_clip.tokenizer.SimpleTokenizer(context_length=length)
    folder = find_tokenizer_folder(repository)
    options = {key: value for key, value in (text.get("tokenizer_kwargs") or {}).items() if key in TOKENIZER_OPTIONS}
    try:
        with hub_disabled():
            return open_clip.tokenizer.HFTokenizer(
                str(folder), context_length=length, tokenizer_mode=text.get("tokenizer_mode"), **options
            )
    except Exception as error:  # tokenizers raise many types for invalid files
        raise InputError(
            f"cannot load the tokenizer of {repository.name}: {first_line(error)}", "check its tokenizer files"
        ) from None


def _load_state(open_clip: Any, model: Any, name: str, source: str, file: Path | None, path: Path | None) -> Weights:
    """Load the model's own weights, those that the user names, or none, and return their origin.

    file: the model's own weights. path: weights file of the user, RANDOM, or None.
    """
    if path == RANDOM:
        return UNTRAINED
    if path is not None:
        load_weights(model, read_weights(path), str(path))
        return describe_weights_file(path)
    assert file is not None
    try:
        open_clip.load_checkpoint(model, str(file), weights_only=True)
    except Exception as error:  # corrupted files raise many types
        raise InputError(
            f"the weights of {name} do not match the model: {first_line(error)}", "use the weights of this architecture"
        ) from None
    return Weights(source, describe_weights_file(file).sha256)


def _make_classifier(
    open_clip: Any, name: str, model: Any, tokenizer: Any, texts: ClassTexts | None, record: Weights
) -> Classifier:
    processor = _read_processor(open_clip.get_model_preprocess_cfg(model), name)
    if texts is None:
        return make_embedder(OpenClipImageTextClassifier(model, None), name, processor, record)
    for group in texts.texts:
        for text in group:
            check_length(text, _count_tokens(tokenizer, text), tokenizer.context_length)

    def encode_texts(batch: Sequence[str]) -> Tensor:
        return cast(Tensor, model.encode_text(tokenizer(list(batch))))

    bias = getattr(model, "logit_bias", None)
    head = make_text_head(cast(Callable[..., Tensor], encode_texts), model.logit_scale.exp(), bias, texts)
    return make_classifier(OpenClipImageTextClassifier(model, head), name, head, processor, record)


def _count_tokens(tokenizer: Any, text: str) -> int:
    """Return the number of tokens of a text, including those of its beginning and end."""
    inner = getattr(tokenizer, "tokenizer", None)
    if inner is None:
        return len(tokenizer.encode(text)) + 2
    return len(inner(tokenizer.clean_fn(text))["input_ids"])


def _read_processor(settings: Mapping[str, Any], name: str) -> ImageProcessor:
    """Return the image preparation of open_clip's settings. Raises InputError if it keeps the whole image by padding."""
    size = settings["size"]
    height, width = (size, size) if isinstance(size, int) else size
    mode = settings["resize_mode"]
    if mode not in ("shortest", "squash") or (mode == "shortest" and height != width):
        raise InputError(
            f"the preprocessing of {name} (resize_mode {mode!r} to {height} x {width}) is not supported",
            "use a model that crops or squashes images",
        )
    preprocessing = Preprocessing(
        (height, width), max(height, width), settings["interpolation"], squash=mode == "squash"
    )
    return ImageProcessor(preprocessing, tuple(settings["mean"]), tuple(settings["std"]))
