"""Papers: citations and BibTeX."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Paper:
    """Where a definition comes from. authors: surnames with commas between. venue: a conference, or a journal if ``journal``."""

    title: str
    authors: str
    year: int
    venue: str = ""
    arxiv: str = ""
    journal: bool = False

    @property
    def citation(self) -> str:
        """Authors, year and title on one line."""
        return f"{self.authors} ({self.year}). {self.title}." + (f" {self.venue}." if self.venue else "")

    @property
    def url(self) -> str:
        """The paper's page, or an empty string."""
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else ""

    @property
    def bibtex(self) -> str:
        """A BibTeX entry, whose key is the first surname, the year and the first long word of the title."""
        words = "".join(each if each.isalnum() else " " for each in unicodedata.normalize("NFKD", self.title)).split()
        first = unicodedata.normalize("NFKD", self.authors.split(",")[0]).encode("ascii", "ignore").decode()
        key = f"{first}{self.year}{next(each for each in words if len(each) > 3)}".lower().replace(" ", "")
        kind, place = ("article", "journal") if self.journal else ("inproceedings", "booktitle")
        fields = {
            "title": f"{{{self.title}}}",
            "author": " and ".join(self.authors.split(", ")),
            "year": str(self.year),
            **({place: self.venue} if self.venue else {}),
            **({"eprint": self.arxiv, "archiveprefix": "arXiv"} if self.arxiv else {}),
        }
        lines = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
        return f"@{kind if self.venue else 'misc'}{{{key},\n{lines}\n}}"
