"""What of a run's facts enters fingerprints."""

import pytest

from xplain.pipelines.records import fingerprinted

FACTS = {"model": {"name": "m"}, "seed": 0, "device": "cpu"}
PLAIN = {"activation": "softmax", "source": "default", "peeled": False, "threshold": None, "name": ""}


def test_softmax_output_is_left_out():
    expected = {"model": {"name": "m"}, "seed": 0}
    assert fingerprinted(FACTS) == expected
    assert fingerprinted(FACTS | {"output": PLAIN}) == expected
    assert fingerprinted(FACTS | {"output": PLAIN | {"source": "user"}}) == expected


@pytest.mark.parametrize("change", [{"activation": "sigmoid"}, {"peeled": True}, {"name": "logits"}])
def test_other_outputs_count_without_their_source(change):
    output = fingerprinted(FACTS | {"output": PLAIN | change})["output"]
    assert output == {key: value for key, value in (PLAIN | change).items() if key != "source"}
