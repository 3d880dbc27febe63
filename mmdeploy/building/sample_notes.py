"""What a reader of a verdict must know of the samples behind it, seen only once they are recorded."""

from __future__ import annotations

from mmdeploy.data.sample_sets import SampleSet


def sample_notes(evaluation: SampleSet, calibration: SampleSet | None) -> list[str]:
    """Return a sentence each: a single evaluation sample, and calibration samples that are judged on too."""
    notes = []
    if evaluation.count == 1:
        notes.append(
            f"{evaluation.reference} gave one evaluation sample: the verdict is about that sample, not about the model."
        )
    shared = 0 if calibration is None else calibration.seen.shared_with(evaluation.seen)
    if calibration is not None and shared:
        notes.append(
            f"{shared} of the {calibration.count} calibration samples of {calibration.reference} are evaluation "
            "samples too: INT8 ranges that fit these very samples make the verdict look better than it is."
        )
    return notes
