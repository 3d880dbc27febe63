"""Metrics of answers whose shape differs from sample to sample, each against the samples scored alone."""

from pathlib import Path

import numpy as np
import pytest

from mmdeploy.core.errors import DataError
from mmdeploy.core.labels import Ragged
from mmdeploy.core.samples import column_of
from mmdeploy.scoring import closeness, metrics, ragged
from mmdeploy.scoring.metric_spec import spec_of
from mmdeploy.scoring.task_metric import open_metric

LENGTHS = (2, 5, 2, 1, 7)
RANDOM = np.random.default_rng(4)
TOKENS = [RANDOM.integers(0, 4, length) for length in LENGTHS]
SCORES = [np.eye(4, dtype=np.float32)[tokens] for tokens in TOKENS]  # right everywhere
WRONG = [np.where(np.arange(len(one))[:, None] == 0, np.roll(one, 1, axis=-1), one) for one in SCORES]  # but the first


def metric(name: str, root: Path = Path(), **options):
    return open_metric(spec_of(name, ("out",), **options), root)


def test_word_errors_of_answers_of_varying_length():
    found = metric("wer")
    assert found.scored({"out": column_of(SCORES)}, Ragged.of(TOKENS)).score == 0
    assert found.scored({"out": column_of(WRONG)}, Ragged.of(TOKENS)).score == len(LENGTHS) / sum(LENGTHS)
    answers = column_of([tokens[:-1] for tokens in TOKENS])  # ids, each one token short
    assert found.scored({"out": answers}, Ragged.of(TOKENS)).score == len(LENGTHS) / sum(LENGTHS)


def test_errors_and_overlaps_of_answers_of_varying_length():
    wanted = [one + 0.5 for one in SCORES]
    assert metric("mae").scored({"out": column_of(SCORES)}, Ragged.of(wanted)).score == pytest.approx(0.5)
    placed = column_of([one.T for one in WRONG])  # classes on the first axis
    found = metric("iou").scored({"out": placed}, Ragged.of(TOKENS)).score
    alone = metric("iou").scored({"out": np.concatenate(WRONG)[None].transpose(0, 2, 1)}, np.concatenate(TOKENS)[None])
    assert found == pytest.approx(alone.score)


def test_labels_of_other_lengths_are_told():
    shorter = Ragged.of([one[1:] for one in TOKENS])
    for name, answers in (("mse", TOKENS), ("iou", [one.T for one in SCORES])):
        with pytest.raises(DataError, match=r"\[1\] to \[7\]"):
            metric(name).scored({"out": column_of(answers)}, shorter)


def test_a_metric_that_takes_one_shape_says_which_take_more():
    with pytest.raises(
        DataError, match=r"top1 takes outputs of one shape, but 'out' differs .*\[1, 4\] to \[7, 4\]"
    ) as no:
        metric("top1").scored({"out": column_of(SCORES)}, np.zeros(5, int))
    assert "wer" in no.value.hint and "list of arrays" in no.value.hint


def test_a_metric_of_ones_own_gets_a_list_and_one_of_torchmetrics_a_sample_at_a_time(tmp_path):
    (tmp_path / "own.py").write_text(
        "import numpy as np\n"
        "def right(outputs, labels):\n"
        "    assert isinstance(outputs['out'], list)\n"
        "    return np.array([(one.argmax(-1) == ids).mean() for one, ids in zip(outputs['out'], labels)])\n"
        "right.larger_is_better = True\n"
    )
    found = metric("own.py:right", tmp_path).scored({"out": column_of(WRONG)}, Ragged.of(TOKENS))
    assert found.per_unit == pytest.approx([1 - 1 / length for length in LENGTHS])
    spec = metric("torchmetrics.classification:MulticlassAccuracy", outputs=("out",), larger_is_better=True,
                  arguments={"num_classes": 4, "average": "micro"})  # fmt: skip
    scored = spec.scored({"out": column_of([one.T for one in WRONG])}, Ragged.of(TOKENS))
    assert scored.score == pytest.approx(1 - len(LENGTHS) / sum(LENGTHS))
    assert scored.of(np.array([[3, 3, 3, 3, 3]])) == pytest.approx(0.0)  # the sample of one token, which is wrong


def test_closeness_of_each_sample_is_that_of_the_sample_alone():
    figures = (
        metrics.per_sample_cosine, metrics.per_sample_sqnr_db, closeness.per_sample_equal,
        closeness.per_sample_scale_error, closeness.per_sample_overlap,
    )  # fmt: skip
    noisy = [one + RANDOM.normal(0, 0.1, one.shape) for one in SCORES]
    for figure in figures:
        alone = [figure(one[None], other[None])[0] for one, other in zip(SCORES, noisy, strict=True)]
        assert ragged.per_sample(figure, column_of(SCORES), column_of(noisy)) == pytest.approx(alone)
    padded = [np.pad(one, ((0, 7 - len(one)), (0, 0))) for one in SCORES]
    other = [np.pad(one, ((0, 7 - len(one)), (0, 0))) for one in noisy]
    together = closeness.per_sample_norm_error(np.stack(padded), np.stack(other))
    assert closeness.per_sample_norm_error(column_of(SCORES), column_of(noisy)) == pytest.approx(together)


def test_noise_is_that_of_the_first_output_that_changed():
    noisy = column_of([one + 0.1 for one in SCORES])
    sqnr_db, cosine = closeness.output_noise({"ids": column_of(TOKENS), "out": column_of(SCORES)},
                                             {"ids": column_of(TOKENS), "out": noisy})  # fmt: skip
    assert 10 < sqnr_db < 30 and 0.9 < cosine < 1
    same = {"out": column_of(SCORES)}
    assert closeness.output_noise(same, same) == (np.inf, pytest.approx(1.0))
