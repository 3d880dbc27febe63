"""The metrics that recipes name by one word."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mmdeploy.core.artifact import Array
from mmdeploy.core.errors import DataError
from mmdeploy.core.labels import Labels
from mmdeploy.scoring import boxes, calibration, class_scores, dense, regression, retrieval, text, vqa
from mmdeploy.scoring.arguments import Arguments, Bleu, BoxMap, CalibrationError, Decoding, Iou, RecallAtK, Rouge, Vqa
from mmdeploy.scoring.scored import Scored

#: Takes the outputs that are scored, the labels, the arguments, and the recipe's folder.
Score = Callable[[Sequence[Array], Labels, Any, Path], Scored]


@dataclass(frozen=True)
class BuiltIn:
    """A metric that mmdeploy brings.

    Attributes:
        score: Scores outputs.
        text: What it is, for lists.
        larger_is_better: Whether a larger score is better.
        arguments: What it takes as arguments.
        most_outputs: How many outputs it may take.
        compares: What its outputs are to distillation: class scores, or values such as embeddings.
        ragged: Whether outputs may differ in shape from sample to sample.
        several_labels: Whether it takes labels that are mappings as a whole, instead of one of theirs.
    """

    score: Score
    text: str
    larger_is_better: bool = True
    arguments: type[Arguments] = Arguments
    most_outputs: int = 1
    compares: Literal["scores", "values"] = "scores"
    ragged: bool = False
    several_labels: bool = False


def _recall(outputs: Sequence[Array], labels: Labels, arguments: RecallAtK, root: Path) -> Scored:
    if len(outputs) == 1:
        if arguments.gallery == "labels":
            raise DataError("recall_at_k: gallery: labels is for a retrieval between two outputs")
        return retrieval.recall_of_scores(outputs[0], labels, arguments.k, backward=arguments.direction == "backward")
    queries, documents = outputs if arguments.direction == "forward" else outputs[::-1]
    return retrieval.recall_of_pair(queries, documents, labels, arguments.k, arguments.gallery)


def _top(name: str, guesses: int) -> Score:
    return lambda outputs, labels, arguments, root: class_scores.top_k(name, outputs[0], labels, guesses)


def _error(name: Literal["mse", "mae"]) -> Score:
    return lambda outputs, labels, arguments, root: regression.error(name, outputs[0], labels)


METRICS: Mapping[str, BuiltIn] = {
    "top1": BuiltIn(_top("top1", 1), "share of samples whose class scores highest"),
    "accuracy": BuiltIn(_top("accuracy", 1), "the same as top1"),
    "top5": BuiltIn(_top("top5", 5), "share of samples whose class is among the five that score highest"),
    "f1_macro": BuiltIn(
        lambda outputs, labels, _, root: class_scores.f1_macro(outputs[0], labels), "mean over classes of F1"
    ),
    "auroc": BuiltIn(
        lambda outputs, labels, _, root: class_scores.auroc(outputs[0], labels),
        "area under the ROC curve, one class against the rest, mean over the classes that occur",
    ),
    "worst_class_recall": BuiltIn(
        lambda outputs, labels, _, root: class_scores.worst_class_recall(outputs[0], labels),
        "recall of the class that has the lowest",
    ),
    "ece": BuiltIn(
        lambda outputs, labels, arguments, root: calibration.expected_error(outputs[0], labels, arguments.bins),
        "expected calibration error: how far confidence is from accuracy", larger_is_better=False,
        arguments=CalibrationError,
    ),
    "map": BuiltIn(
        lambda outputs, labels, _, root: class_scores.mean_average_precision(outputs[0], labels),
        "mean over classes of average precision; a sample may be of several classes",
    ),
    "box_map": BuiltIn(
        lambda outputs, labels, arguments, root: boxes.mean_average_precision(outputs, labels, arguments),
        "mean average precision of detected boxes, as COCO counts it", arguments=BoxMap, most_outputs=3,
        compares="values", several_labels=True,
    ),
    "mse": BuiltIn(_error("mse"), "mean squared error", larger_is_better=False, compares="values", ragged=True),
    "mae": BuiltIn(_error("mae"), "mean absolute error", larger_is_better=False, compares="values", ragged=True),
    "recall_at_k": BuiltIn(
        _recall, "share of queries with a document that belongs to them among the k that score highest",
        arguments=RecallAtK, most_outputs=2, compares="values",
    ),
    "wer": BuiltIn(
        lambda outputs, labels, arguments, root: text.word_error_rate(outputs[0], labels, arguments, root),
        "word error rate: edits over words", larger_is_better=False, arguments=Decoding, ragged=True,
    ),
    "bleu": BuiltIn(
        lambda outputs, labels, arguments, root: text.bleu(outputs[0], labels, arguments, root, arguments.n),
        "BLEU over all samples", arguments=Bleu, ragged=True,
    ),
    "rouge": BuiltIn(
        lambda outputs, labels, arguments, root: text.rouge(outputs[0], labels, arguments, root, arguments.form),
        "mean F1 of ROUGE-1, ROUGE-2 or ROUGE-L", arguments=Rouge, ragged=True,
    ),
    "vqa_accuracy": BuiltIn(
        lambda outputs, labels, arguments, root: vqa.vqa_accuracy(outputs[0], labels, arguments),
        "min(n / 3, 1), n annotators having given the answer", arguments=Vqa,
    ),
    "iou": BuiltIn(
        lambda outputs, labels, arguments, root: dense.mean_iou(outputs[0], labels, arguments),
        "mean intersection over union of a class for each place", arguments=Iou, ragged=True,
    ),
}  # fmt: skip
