"""Mean average precision, exact matches and top labels of models whose images can have several labels."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from xplain.reports.label_accuracy import LabelAccuracy, average_precision, describe_accuracy


@pytest.mark.parametrize("seed", range(4))
def test_average_precision_equals_sklearn(seed):
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=60).round(seed)  # seed 0: integers with many ties
    is_positive = rng.random(60) < 0.3
    expected = average_precision_score(is_positive, scores)
    assert average_precision(is_positive, scores) == pytest.approx(expected, abs=1e-12)


def test_average_precision_closed_form():
    """Positives at ranks 1 and 4: (1/1 + 2/4) / 2."""
    ranked = np.array([True, False, False, True])
    assert average_precision(ranked, np.array([4.0, 3.0, 2.0, 1.0])) == 0.75
    assert average_precision(ranked, np.ones(4)) == 0.5  # one threshold
    assert np.isnan(average_precision(np.zeros(4, dtype=bool), np.ones(4)))


def make_record(image, labels, decided, logits, **entries):
    predicted = int(np.argmax(logits))
    return {"image": image, "labels": labels, "decided": decided, "logits": logits, "predicted": predicted} | entries


def test_label_accuracy_counts_each_image_once():
    accuracy = LabelAccuracy()
    accuracy.add(make_record("a", [0, 2], [0, 2], [3.0, -1.0, 1.0]))
    accuracy.add(make_record("a", [0, 2], [0, 2], [3.0, -1.0, 1.0], key="a#2"))
    accuracy.add(make_record("b", [1], [0], [2.0, -2.0, -3.0]))
    accuracy.add(make_record("c", [], [], [-1.0, -2.0, -3.0]))
    assert len(accuracy.images) == 3
    summary = accuracy.summarize()
    assert summary["exact"] == pytest.approx(2 / 3)
    assert summary["top1"] == 1 / 2  # of the images with a label
    # label 0: rank 1 of 3; label 1: tied with c behind a, precision 1/3; label 2: rank 1
    assert summary["mean_average_precision"] == pytest.approx((1 + 1 / 3 + 1) / 3)


def test_mean_average_precision_equals_sklearn():
    rng = np.random.default_rng(1)
    labels, logits = rng.random((40, 6)) < 0.3, rng.normal(size=(40, 6))
    labels[:, 4] = False  # a label without images is left out
    accuracy = LabelAccuracy()
    for i in range(40):
        accuracy.add(make_record(f"{i}", np.flatnonzero(labels[i]).tolist(), [], logits[i].tolist()))
    present = [0, 1, 2, 3, 5]
    expected = average_precision_score(labels[:, present], logits[:, present], average="macro")
    assert accuracy.summarize()["mean_average_precision"] == pytest.approx(expected, abs=1e-12)


def test_label_accuracy_without_labels():
    accuracy = LabelAccuracy()
    accuracy.add(make_record("a", [], [], [1.0]))
    assert accuracy.summarize() == {"top1": None, "exact": 1.0, "mean_average_precision": None}
    with pytest.raises(ValueError, match="the logits have a different length"):
        accuracy.add(make_record("b", [], [], [1.0, 2.0]))


def test_accuracy_texts():
    assert describe_accuracy({"top1": None}) == []
    assert describe_accuracy({"top1": 0.5}) == ["top-1 accuracy 0.500"]
    summary = {"top1": 0.5, "exact": 0.25, "mean_average_precision": 0.75}
    assert describe_accuracy(summary) == [
        "mean average precision 0.750", "exact match of the labels 0.250", "top label correct 0.500",
    ]  # fmt: skip
