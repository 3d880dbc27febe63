"""The accuracy of visual question answering: min(n / 3, 1), n annotators having given the model's answer."""

from __future__ import annotations

from mmdeploy.core.artifact import Array
from mmdeploy.core.errors import DataError
from mmdeploy.core.labels import Labels, Ragged, Texts, kind, plain
from mmdeploy.scoring.arguments import Vqa
from mmdeploy.scoring.class_scores import check_scores
from mmdeploy.scoring.scored import Scored, mean_of

#: Annotators whose agreement makes an answer right (Antol et al., "VQA", ICCV 2015).
_ENOUGH = 3.0


def vqa_accuracy(outputs: Array, labels: Labels, arguments: Vqa) -> Scored:
    """Score each sample by how many annotators gave the answer that scores highest.

    Args:
        outputs: A score for each answer, shape [samples, answers].
        labels: The annotators' answers, or their number for each answer.
        arguments: Of the metric.
    """
    import numpy as np

    check_scores("vqa_accuracy", outputs)
    answers = outputs.argmax(axis=1)
    values = labels.values if isinstance(labels, Ragged) else labels
    if isinstance(values, Texts) or not isinstance(values, np.ndarray) or values.dtype.kind not in "iuf":
        raise DataError(
            f"vqa_accuracy takes the annotators' answers as class ids, found {kind(labels)}",
            hint="give each sample a list of ids, -1 for an answer that is no class; or counts, with "
            "`labels: counts` in arguments",
        )
    if arguments.labels == "counts":
        if values.shape != outputs.shape:
            raise DataError(f"vqa_accuracy takes a count for each answer, {list(outputs.shape)}, found {kind(labels)}")
        agreeing = values[np.arange(len(answers)), answers].astype(np.float64)
    else:
        if values.dtype.kind == "f" or (isinstance(labels, np.ndarray) and labels.ndim != 2):
            raise DataError(f"vqa_accuracy takes a list of class ids a sample, found {kind(labels)}")
        agreeing = np.array(
            [(np.asarray(given) == answer).sum() for given, answer in zip(plain(labels), answers, strict=True)],
            np.float64,
        )
    return mean_of(np.minimum(agreeing / _ENOUGH, 1.0))
