"""``xplain cite``: BibTeX entries of papers."""

from __future__ import annotations

import pytest

import xplain.metrics  # noqa: F401  (importing registers them)
from xplain.core.papers import PROCEEDINGS
from xplain.core.registry import METHODS, METRICS

LIME = """@inproceedings{ribeiro2016should,
  title = {{"Why should I trust you?": explaining the predictions of any classifier}},
  author = {Marco Tulio Ribeiro and Sameer Singh and Carlos Guestrin},
  year = {2016},
  booktitle = {Proceedings of the ACM SIGKDD International Conference on Knowledge Discovery and Data Mining},
  eprint = {1602.04938},
  archiveprefix = {arXiv}
}
"""


def test_cite_prints_bibtex_entry(xp):
    ran = xp("cite", "lime")
    assert (ran.code, ran.out) == (0, LIME)


def test_cite_prints_shared_paper_once(xp):
    out = xp("cite", "dga", "ufg", "deletion", "rise").out
    assert out.count("@") == out.count("author = ") == 2


def test_cite_chooses_entry_type(xp):
    assert xp("cite", "lrp").out.startswith("@article{bach2015pixel,")
    assert "journal = {PLoS ONE}" in xp("cite", "lrp").out
    assert xp("cite", "smoothgrad").out.startswith("@misc{smilkov2017smoothgrad,")


def test_bibtex_keys_are_unique():
    from xplain.pipelines.catalog import list_papers

    papers = list_papers([spec.name for spec in (*METHODS, *METRICS) if spec.paper])
    keys = [paper.bibtex.split("{")[1].split(",")[0] for paper in papers]
    assert len(set(keys)) == len(keys)
    assert all(key.isascii() and key.isalnum() for key in keys)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("aggi", "did you mean 'agi'"),
        ("nope", "unknown method or metric 'nope'; see xplain list methods and xplain list metrics"),
        ("random", "is a control and has no paper; remove it"),
    ],
)
def test_cite_rejects_name(xp, name, message):
    ran = xp("cite", name)
    assert ran.code == 2
    assert message in ran.err


def test_every_paper_has_full_names_and_title_of_proceedings():
    for spec in (*METHODS, *METRICS):
        if spec.paper is not None:
            assert all(len(name.split()) > 1 for name in spec.paper.authors.split(", ")), spec.name
            assert len(spec.paper.surnames) == len(spec.paper.authors.split(", "))
            assert spec.paper.journal or spec.paper.venue in ("", *PROCEEDINGS), spec.name
