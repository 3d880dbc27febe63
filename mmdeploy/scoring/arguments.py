"""What the built-in metrics take as ``arguments``: inspectable data that a recipe is checked against."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Arguments(BaseModel):
    """What every built-in metric takes.

    Attributes:
        label: Where labels are mappings, the name of the one that is scored; by default that of the scored output.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    label: str | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """Files that the metric reads, relative to the recipe's folder."""
        return ()


class RecallAtK(Arguments):
    """Arguments of recall@k.

    Attributes:
        k: Documents looked at.
        direction: Over one output, whether its rows ask (forward) or its columns; over two, let the one that asks be
            the first of ``outputs``.
        gallery: Over two outputs, whether each sample takes a place in the ranking, or each label (at its best
            document): for images that recur with each of their captions.
    """

    k: int = Field(default=1, ge=1)
    direction: Literal["forward", "backward"] = "forward"
    gallery: Literal["samples", "labels"] = "samples"


class Decoding(Arguments):
    """How token ids become text.

    Attributes:
        pad: Id of padding, which is left out.
        end: Id at which the text ends.
        ignore: Other ids that are left out, such as that of the beginning.
        blank: Id of CTC's blank: of an answer, repeats are merged, and blanks left out.
        vocabulary: File with one token a line, relative to the recipe: needed where references are strings.
        joined_by: What stands between tokens in the text: a space for words, nothing for characters.
    """

    pad: int | None = None
    end: int | None = None
    ignore: tuple[int, ...] = ()
    blank: int | None = None
    vocabulary: Path | None = None
    joined_by: str = " "

    @property
    def files(self) -> tuple[Path, ...]:
        """The vocabulary."""
        return () if self.vocabulary is None else (self.vocabulary,)


class Bleu(Decoding):
    """Arguments of BLEU.

    Attributes:
        n: Longest n-gram.
    """

    n: int = Field(default=4, ge=1, le=8)


class Rouge(Decoding):
    """Arguments of ROUGE.

    Attributes:
        form: Unigrams, bigrams, or the longest common subsequence.
    """

    form: Literal["rouge1", "rouge2", "rougeL"] = "rougeL"


class Vqa(Arguments):
    """Arguments of the VQA accuracy.

    Attributes:
        labels: Whether a label lists the annotators' answers, as class ids (-1 for one that is no class), or says for
            each class how many gave it.
    """

    labels: Literal["answers", "counts"] = "answers"


class Iou(Arguments):
    """Arguments of the intersection over union.

    Attributes:
        classes: Number of classes, where the output is class ids and not scores.
        ignore: Label of what is not judged.
        threshold: Of an output that is one score a place, above which it is foreground; only the foreground counts.
    """

    classes: int | None = Field(default=None, ge=2)
    ignore: int | None = None
    threshold: float | None = None


class CalibrationError(Arguments):
    """Arguments of the expected calibration error.

    Attributes:
        bins: How many bins of equal width confidences are sorted into.
    """

    bins: int = Field(default=15, ge=2, le=1000)


class BoxMap(Arguments):
    """Arguments of detection's mean average precision.

    Attributes:
        overlaps: Intersections over unions from which a box counts as found; COCO's ten by default.
        most: Detections of a class in a sample that count, the best first.
    """

    overlaps: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        default=(0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95), min_length=1
    )
    most: int = Field(default=100, ge=1)
