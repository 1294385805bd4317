"""Citations of papers, with BibTeX."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass


@dataclass(frozen=True)
class Paper:
    """The paper that defines a method or metric.

    authors: surnames, separated by ", ".
    venue: name of the conference or, if ``journal`` is true, of the journal.
    arxiv: arXiv identifier.
    """

    title: str
    authors: str
    year: int
    venue: str = ""
    arxiv: str = ""
    journal: bool = False

    @property
    def citation(self) -> str:
        """Authors, year, title and venue on one line."""
        citation = f"{self.authors} ({self.year}). {self.title}."
        return f"{citation} {self.venue}." if self.venue else citation

    @property
    def url(self) -> str:
        """The arXiv page, or ""."""
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else ""

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
            fields[venue_field] = self.venue
        if self.arxiv:
            fields |= {"eprint": self.arxiv, "archiveprefix": "arXiv"}
        lines = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
        return f"@{kind}{{{self._bibtex_key()},\n{lines}\n}}"

    def _bibtex_key(self) -> str:
        title = unicodedata.normalize("NFKD", self.title)
        words = "".join(char if char.isalnum() else " " for char in title).split()
        word = next(word for word in words if len(word) > 3)
        surname = unicodedata.normalize("NFKD", self.authors.split(",")[0]).encode("ascii", "ignore").decode()
        return f"{surname}{self.year}{word}".lower().replace(" ", "")
