"""The page of a method or metric: parameters, cost, properties, paper and definition, for terminals and as Markdown."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from xplain.core.reference import ParameterInfo, describe_definition, describe_parameters, format_value
from xplain.core.registry import MethodSpec, MetricSpec, Spec

WIDTH = 100  # columns of a page in a terminal, at most
SHORT_LINE = 100  # characters; a shorter line of a docstring that ends a sentence ends a paragraph
SIDE = 224  # pixels of the image for which costs are stated
TYPE_WORDS = {"int": "integer", "float": "number", "bool": "true or false", "str": "text", "path": "path"}
ACCESS_WORDS = {
    "outputs": "the outputs of the model only",
    "layers": "the layers of the model",
    "gradients": "gradients of the model",
}


@dataclass(frozen=True)
class Page:
    """summary: what it computes. definition: paragraphs. parameters, facts: a name and a text each."""

    title: str
    summary: str
    definition: tuple[str, ...]
    parameters: tuple[tuple[str, str], ...]
    facts: tuple[tuple[str, str], ...]

    def to_text(self, width: int = WIDTH) -> str:
        """Return the page for a terminal."""
        lines = [self.title, "", *_wrap(self.summary, width), ""]
        if self.parameters:
            lines += ["Parameters:", *_wrap_entries(self.parameters, width), ""]
        lines += ["Properties:", *_wrap_entries(self.facts, width)]
        if self.definition:
            lines += ["", "Definition:"]
        for index, paragraph in enumerate(self.definition):
            lines += [*([""] if index else []), *_wrap(paragraph, width, "  ", "  ")]
        return "\n".join(lines) + "\n"

    def to_markdown(self, level: int = 2) -> str:
        """Return the page as a section of a Markdown document. level: of its heading."""
        blocks = [f"{'#' * level} {self.title}", escape_markdown(self.summary)]
        if self.parameters:
            entries = [f"- **{name}**: {escape_markdown(text)}" for name, text in self.parameters]
            blocks += ["Parameters:", "\n".join(entries)]
        blocks += ["Properties:", "\n".join(f"- {name}: {escape_markdown(text)}" for name, text in self.facts)]
        if self.definition:
            blocks += ["Definition:", *map(escape_markdown, self.definition)]
        return "\n\n".join(blocks) + "\n"


def make_page(spec: Spec) -> Page:
    """Return the page of a method or metric."""
    summary = spec.summary
    first = " ".join(spec.doc.split("\n\n")[0].split())
    definition = split_paragraphs(describe_definition(spec))
    parameters = [(info.name, _describe_parameter(info)) for info in describe_parameters(spec)]
    facts = [] if not spec.names[1:] else [("Other names", ", ".join(spec.names[1:]))]
    if isinstance(spec, MethodSpec):
        facts += _list_method_facts(spec)
    elif isinstance(spec, MetricSpec):
        facts += _list_metric_facts(spec)
    if spec.deviations:
        facts.append(("Differences from the paper", spec.deviations))
    if spec.paper:
        facts.append(("Paper", f"{spec.paper.citation} {spec.paper.url}".strip()))
    facts.append(("Version of the definition", str(spec.version)))
    opening = first if first.startswith(summary) else summary
    return Page(spec.name, opening, tuple(definition), tuple(parameters), tuple(facts))


def _list_method_facts(spec: MethodSpec) -> Iterator[tuple[str, str]]:
    yield "Cost per image at the defaults", describe_passes(spec)
    yield "Requires", ACCESS_WORDS[spec.access]
    yield "Explained score by default", spec.score
    yield "Values", "slopes: score per change of a pixel" if spec.slopes else "contributions, in units of the score"
    yield "Axioms kept", ", ".join(sorted(spec.axioms)) or "none"
    yield "Axioms violated", ", ".join(sorted(spec.violates)) or "none known"
    for axiom, reason in spec.undecided.items():
        yield f"Undecided ({axiom})", reason
    if spec.limits:
        yield "Known limits", spec.limits
    if spec.rounding:
        yield "Rounding", spec.rounding


def _list_metric_facts(spec: MetricSpec) -> Iterator[tuple[str, str]]:
    settings = spec.resolve({})
    yield "Better", spec.better
    low, high = map(format_value, spec.bounds)
    yield "Range at the defaults", f"{low} to {high}" + (f", {spec.unit}" if spec.unit else "")
    forwards, reruns = spec.forwards(side=SIDE, **settings), spec.attributions(**settings)
    cost = f"{forwards} forward rows"
    if reruns:
        cost += f", and the method runs {reruns} more times"
    if spec.scope == "dataset":
        cost = "trains networks on the data set"
    yield f"Cost per image of {SIDE} x {SIDE} pixels at the defaults", cost
    yield "Requires", ACCESS_WORDS[spec.access]
    yield "Undefined (NaN)", spec.undefined
    if spec.has_chance:
        yield "Chance level", "the expected value of a random map is part of every result"


def describe_passes(spec: MethodSpec) -> str:
    """Return the cost of a method in words: ``at most 400 forward and 800 backward rows``."""
    forwards, backwards = spec.cost(**spec.resolve({}))
    rows = f"{forwards} forward and {backwards} backward rows" if backwards else f"{forwards} forward rows"
    return f"at most {rows}" if spec.at_most else rows


def _describe_parameter(info: ParameterInfo) -> str:
    """Return ``text, default official: official or paper. MEANING``."""
    kind = TYPE_WORDS[info.type]
    if info.bounds and info.type in ("int", "float"):
        head = f"{kind} {info.bounds}"
    else:
        others = info.bounds.split(" or ") if info.choices else [info.bounds]
        head = _join_or([*info.choices, *filter(None, others)]) or kind
    meaning = info.meaning[:1].upper() + info.meaning[1:] if _is_word(info.meaning) else info.meaning
    default = "none" if info.default is None else format_value(info.default)
    return f"{head}; default {default}. {meaning}".rstrip()


def _join_or(texts: Sequence[str]) -> str:
    """Return ``a, b or c``."""
    return " or ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def _is_word(text: str) -> bool:
    """Return whether a text begins with a word of at least two lower-case letters, not with a symbol of a formula."""
    return re.match(r"[a-z]{2,}\b", text) is not None


def split_paragraphs(definition: str) -> list[str]:
    """Return the paragraphs of a definition. A line that ends in a colon or semicolon, or a short one in a period, ends a paragraph."""
    paragraphs: list[str] = []
    is_open = False
    for line in definition.splitlines():
        text = line.strip()
        if not text:
            is_open = False
            continue
        if is_open:
            paragraphs[-1] += f" {text}"
        else:
            paragraphs.append(text)
        is_open = not (text.endswith((";", ":")) or (len(line) < SHORT_LINE and text.endswith(".")))
    return paragraphs


def _plain(text: str) -> str:
    return text.replace("``", "`")


def _wrap(text: str, width: int, first: str = "", rest: str = "") -> list[str]:
    return textwrap.wrap(
        _plain(text),
        width,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _wrap_entries(entries: Iterable[tuple[str, str]], width: int) -> list[str]:
    """Return entries ``name: text`` with hanging indentation."""
    lines = []
    for name, text in entries:
        lines += _wrap(f"{name}: {text}", width, "  ", "    ")
    return lines


def escape_markdown(text: str) -> str:
    """Return a text with code spans as Markdown that shows the same characters."""
    parts = text.split("``")
    return "".join(f"`{part}`" if index % 2 else _escape(part) for index, part in enumerate(parts))


def _escape(text: str) -> str:
    escaped = re.sub(r"([\\*_<|`~])", r"\\\1", text)
    return re.sub(r"^([-+#>])", r"\\\1", escaped)
