"""Which epoch a record calls the best."""

from hypothesis import given
from hypothesis import strategies as st

from mmdeploy.training.record import EpochRecord, TrainingRecord

metrics = st.none() | st.sampled_from([0.0, 0.5, 0.75, 1.0])
epochs = st.lists(st.tuples(metrics, st.none() | st.floats(0, 10)), min_size=1, max_size=8)


def record(values, larger_is_better=True) -> TrainingRecord:
    course = [EpochRecord(number, metric, loss) for number, (metric, loss) in enumerate(values)]
    return TrainingRecord("top1", larger_is_better, 1, 1, 1, 1, course)


@given(epochs, st.booleans())
def test_no_epoch_is_better_than_the_best_and_no_earlier_one_equals_it(values, larger):
    found = record(values, larger)
    best = found.best
    for epoch in found.epochs:
        if epoch.metric is None or (best.metric is None):
            assert epoch.metric is None or best.metric is not None
            continue
        assert epoch.metric <= best.metric if larger else epoch.metric >= best.metric
        if epoch.metric == best.metric and epoch.epoch < best.epoch:
            assert epoch.validation_loss is None or epoch.validation_loss > best.validation_loss
    assert TrainingRecord.from_metadata(found.to_metadata()) == found
    assert found.improved == (best.epoch > 0)


def test_patience_counts_from_the_metric_and_not_from_the_loss():
    assert record([(0.5, 3.0), (0.75, 2.0), (0.75, 1.0), (0.5, 0.5)]).epochs_without_gain() == 2
    assert record([(None, None), (0.5, 1.0)]).epochs_without_gain() == 0


def test_the_note_says_that_a_start_was_not_finite():
    assert record([(None, None), (0.5, 1.0)]).note == "top1 not finite before training, 0.5 after epoch 1 of 1"
