"""Citations of papers, with BibTeX."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

LATEX_ACCENTS = {
    "\N{COMBINING GRAVE ACCENT}": "`",
    "\N{COMBINING ACUTE ACCENT}": "'",
    "\N{COMBINING CIRCUMFLEX ACCENT}": "^",
    "\N{COMBINING TILDE}": "~",
    "\N{COMBINING DIAERESIS}": '"',
    "\N{COMBINING CARON}": "v ",
    "\N{COMBINING CEDILLA}": "c ",
    "\N{COMBINING RING ABOVE}": "r ",
    "\N{COMBINING BREVE}": "u ",
}
LATEX_LETTERS = {"ß": "{\\ss}", "ø": "{\\o}", "Ø": "{\\O}", "ł": "{\\l}", "Ł": "{\\L}", "ı": "{\\i}"}

PROCEEDINGS = {  # and journals whose name is abbreviated in citations
    "AAAI": "Proceedings of the AAAI Conference on Artificial Intelligence",
    "ACL": "Proceedings of the Annual Meeting of the Association for Computational Linguistics",
    "ACM Multimedia": "Proceedings of the ACM International Conference on Multimedia",
    "BMVC": "Proceedings of the British Machine Vision Conference",
    "CVPR": "Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition",
    "CVPR workshops": "Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition Workshops",
    "ECCV": "Proceedings of the European Conference on Computer Vision",
    "ICCV": "Proceedings of the IEEE/CVF International Conference on Computer Vision",
    "ICLR": "International Conference on Learning Representations",
    "ICLR workshop": "International Conference on Learning Representations, Workshop Track",
    "ICML": "Proceedings of the International Conference on Machine Learning",
    "ICML workshop": "International Conference on Machine Learning, Workshop on Human Interpretability",
    "IEEE TNNLS": "IEEE Transactions on Neural Networks and Learning Systems",
    "IEEE TPAMI": "IEEE Transactions on Pattern Analysis and Machine Intelligence",
    "IJCAI": "Proceedings of the International Joint Conference on Artificial Intelligence",
    "IJCNN": "Proceedings of the International Joint Conference on Neural Networks",
    "KDD": "Proceedings of the ACM SIGKDD International Conference on Knowledge Discovery and Data Mining",
    "NeurIPS": "Advances in Neural Information Processing Systems",
    "WACV": "Proceedings of the IEEE Winter Conference on Applications of Computer Vision",
}


def to_latex(text: str) -> str:
    """Return the text in ASCII, with LaTeX commands for accented letters: ``M{\\"u}ller``."""
    return "".join(char if char.isascii() else _latex_letter(char) for char in text)


def _latex_letter(char: str) -> str:
    letter, *accents = list(unicodedata.normalize("NFKD", char))
    if len(accents) == 1 and accents[0] in LATEX_ACCENTS:
        return f"{{\\{LATEX_ACCENTS[accents[0]]}{letter}}}"
    return LATEX_LETTERS.get(char, char)


@dataclass(frozen=True)
class Paper:
    """The paper that defines a method or metric.

    authors: full names, separated by ", "; the surname is last.
    venue: name of the conference or, if ``journal`` is true, of the journal.
    arxiv: arXiv identifier. doi: digital object identifier, of a paper that is not on arXiv.
    """

    title: str
    authors: str
    year: int
    venue: str = ""
    arxiv: str = ""
    journal: bool = False
    doi: str = ""

    @property
    def surnames(self) -> list[str]:
        """The surname of each author."""
        return [name.split()[-1] for name in self.authors.split(", ")]

    @property
    def citation(self) -> str:
        """Surnames, year, title and venue on one line."""
        citation = f"{', '.join(self.surnames)} ({self.year}). {self.title}."
        return f"{citation} {self.venue}." if self.venue else citation

    @property
    def url(self) -> str:
        """The arXiv page, the page of the DOI, or ""."""
        if self.arxiv:
            return f"https://arxiv.org/abs/{self.arxiv}"
        return f"https://doi.org/{self.doi}" if self.doi else ""

    @property
    def bibtex(self) -> str:
        """BibTeX entry. The key is the first surname, the year and the first title word with more than three letters."""
        if not self.venue:
            kind, venue_field = "misc", ""
        elif self.journal:
            kind, venue_field = "article", "journal"
        else:
            kind, venue_field = "inproceedings", "booktitle"
        fields = {
            "title": f"{{{self.title}}}",
            "author": " and ".join(self.authors.split(", ")),
            "year": str(self.year),
        }
        if self.venue:
            fields[venue_field] = PROCEEDINGS.get(self.venue, self.venue)
        if self.arxiv:
            fields |= {"eprint": self.arxiv, "archiveprefix": "arXiv"}
        if self.doi:
            fields["doi"] = self.doi
        lines = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
        return f"@{kind}{{{self._bibtex_key()},\n{lines}\n}}"

    def _bibtex_key(self) -> str:
        title = unicodedata.normalize("NFKD", self.title)
        words = "".join(char if char.isalnum() else " " for char in title).split()
        word = next(word for word in words if len(word) > 3)
        surname = unicodedata.normalize("NFKD", self.surnames[0]).encode("ascii", "ignore").decode()
        return f"{surname}{self.year}{word}".lower().replace(" ", "")
