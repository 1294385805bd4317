"""``xplain cite``: BibTeX that names the paper, each once."""

from __future__ import annotations

import pytest

LIME = """@inproceedings{ribeiro2016should,
  title = {{"Why should I trust you?": explaining the predictions of any classifier}},
  author = {Ribeiro and Singh and Guestrin},
  year = {2016},
  booktitle = {KDD},
  eprint = {1602.04938},
  archiveprefix = {arXiv}
}
"""


def test_an_entry_to_the_letter(xp):
    ran = xp("cite", "lime")
    assert (ran.code, ran.out) == (0, LIME)


def test_a_paper_of_several_names_is_cited_once(xp):
    out = xp("cite", "dga", "ufg", "deletion", "rise").out
    assert out.count("@") == out.count("author = ") == 2


def test_journals_are_articles_and_preprints_neither(xp):
    assert xp("cite", "lrp").out.startswith("@article{bach2015pixel,")
    assert "journal = {PLoS ONE}" in xp("cite", "lrp").out
    assert xp("cite", "smoothgrad").out.startswith("@misc{smilkov2017smoothgrad,")


def test_every_paper_has_a_key_of_its_own():
    from xplain.core.registry import METHODS, METRICS
    from xplain.pipelines.catalog import list_papers

    papers = list_papers([spec.name for spec in (*METHODS, *METRICS) if spec.paper])
    keys = [paper.bibtex.split("{")[1].split(",")[0] for paper in papers]
    assert len(set(keys)) == len(keys)
    assert all(key.isascii() and key.isalnum() for key in keys)


@pytest.mark.parametrize(("name", "says"), [("aggi", "did you mean 'agi'"), ("random", "no paper defines it")])
def test_what_cannot_be_cited(xp, name, says):
    ran = xp("cite", name)
    assert ran.code == 2
    assert says in ran.err
