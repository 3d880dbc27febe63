"""Whether a model is as often right as it is sure: the expected calibration error."""

from __future__ import annotations

from mmdeploy.core.artifact import Array
from mmdeploy.core.labels import Labels
from mmdeploy.scoring.class_scores import class_ids
from mmdeploy.scoring.confidence import are_shares, confidence
from mmdeploy.scoring.metrics import FloatArray
from mmdeploy.scoring.scored import Scored, tallied


def expected_error(outputs: Array, labels: Labels, bins: int) -> Scored:
    """Score the mean distance between confidence and accuracy, over bins of confidence (Guo et al., 2017, ICML).

    A sample's confidence is the probability of the class that scores highest; it falls into one of ``bins`` bins of
    equal width, each without its lower end. Rows that are no probabilities are made such by a softmax. Few samples in a
    bin make the figure too large: a model that is calibrated perfectly does not score 0 either.

    Args:
        outputs: Scores or probabilities, shape [samples, classes].
        labels: One class id a sample.
        bins: How many.

    Raises:
        DataError: If the output is no class scores, or labels are no ids of these classes.
    """
    import numpy as np

    ids = class_ids("ece", outputs, labels)
    sure = np.asarray(confidence(outputs, "probabilities" if are_shares(outputs) else "logits"), dtype=np.float64)
    right = outputs.argmax(axis=1) == ids
    of_bin = np.eye(bins)[np.clip(np.ceil(sure * bins).astype(np.int64) - 1, 0, bins - 1)]
    over = of_bin * (sure - right)[:, None]  # the sum of a bin: its samples times (confidence - accuracy)

    def mean_distance(sums: FloatArray) -> FloatArray:
        return np.asarray(np.abs(sums[:, :bins]).sum(axis=1) / sums[:, bins])

    mean, accuracy = float(sure.mean()), float(right.mean())
    tallies = np.concatenate([over, np.ones((len(over), 1))], axis=1)
    return tallied(tallies, mean_distance, f"mean confidence {mean:.3f}, accuracy {accuracy:.3f}")
