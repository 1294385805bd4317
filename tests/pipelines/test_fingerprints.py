"""What of a run's facts enters fingerprints."""

import pytest

from xplain.pipelines.records import device_entry, fingerprinted

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


def test_devices_other_than_the_cpu_count_by_their_type():
    assert fingerprinted(FACTS | {"device": "cuda:1"}) == {"model": {"name": "m"}, "seed": 0, "device": "cuda"}
    assert device_entry({"device": "cuda"}) == device_entry({"device": "cuda:3"}) == {"device": "cuda"}
    assert device_entry({"device": "cpu"}) == {}
