"""Messages in the words of the caller: options of the command line, or keyword arguments of the Python functions.

Messages are written for the command line, such as ``use --image-size N``. Outside of a command they name the keywords of
``load_classifier``, ``explain``, ``evaluate``, ``attribute`` and ``read_image``: ``use size=N``.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

SAME_NAMES = (
    "weights", "classes", "size", "device", "mean", "std", "activation", "logits", "threshold", "precision", "batch-size",
    "seed", "engine", "target", "against", "score", "layer", "layout", "stability", "labels", "limit", "per-class",
    "per-class-order", "protocol", "interval", "axes",
)  # fmt: skip
KEYWORDS = {name: name.replace("-", "_") for name in SAME_NAMES} | {  # by option; other options have no keyword
    "image-size": "size",
    "model": "the model",
    "prompt": "prompts",
    "template": "templates",
    "range": "value_range of read_image",
    "offline": "offline=True",
}
COMMAND = re.compile(r'("xplain [^"]*")')  # quoted commands stay
CHOICES = (
    "softmax|sigmoid|none|auto|label|runner-up|logit|log-prob|prob|margin|fp32|tf32|bf16|torch|openvino|cpu|cuda|random|first|quick|full|off"
    "|hwc|chw"
)
# A value that follows an option: a choice, a placeholder such as FILE or LOW,HIGH, numbers, or a name with a prefix.
VALUE = rf"(?:{CHOICES}|HxW\+PREFIX|[A-Z]+(?:,[A-Z]+)*|\d+(?:\.\d+)?(?:,\d+(?:\.\d+)?)*|[a-z]+:\S+)(?![\w-])"
ENTRY = r"(?!or\b|and\b|is\b)[\w.]+"  # the value of --logits can be any name
OPTION = re.compile(
    rf"(?<![\w'\"/-])--(?:(?P<name>logits) (?P<entry>{ENTRY})|(?P<option>{'|'.join(KEYWORDS)})(?![\w-])(?: (?P<value>{VALUE}))?)"
)
CLASS_LISTING = re.compile(r"(?<!\")\bxplain list classes -m (?:'[^']*'|\S+)")
LISTING = re.compile(r"(?<!\")\bxplain list (methods|metrics)\b(?! --| [A-Z])")

_is_command = False


@contextmanager
def option_names(wanted: bool = True) -> Iterator[None]:
    """Keep the options of the command line in the messages of errors and notes while the block runs. Not wanted: replace them."""
    global _is_command
    before, _is_command = _is_command, wanted
    try:
        yield
    finally:
        _is_command = before


def is_command() -> bool:
    """Return whether messages are written for the command line."""
    return _is_command


def in_words_of_caller(text: str) -> str:
    """Return a message with keyword arguments instead of options, unless a command runs (``option_names``)."""
    if _is_command or ("--" not in text and "xplain list" not in text):
        return text
    parts = COMMAND.split(text)
    return "".join(part if COMMAND.fullmatch(part) else _name_keywords(part) for part in parts)


def _name_keywords(text: str) -> str:
    return CLASS_LISTING.sub("classifier.labels", LISTING.sub(r"xplain.\1()", OPTION.sub(_to_keyword, text)))


def _to_keyword(match: re.Match[str]) -> str:
    """Return ``size=N`` or ``activation="sigmoid"`` for an option with a value, and the keyword for one without."""
    option, value = match["name"] or match["option"], match["entry"] or match["value"]
    if value is None or option == "offline":
        return KEYWORDS[option] if value is None else f"{KEYWORDS[option]} {value}"
    if option == "model":
        return f'the model "{value}"'
    if option == "range":
        return f"value_range=({value.replace(',', ', ')}) of read_image"
    if option in ("mean", "std"):
        return f"{option}=[{value.replace(',', ', ')}]"
    is_number = value == "N" or value[0].isdecimal()
    return f"{KEYWORDS[option]}={value}" if is_number else f'{KEYWORDS[option]}="{value}"'
