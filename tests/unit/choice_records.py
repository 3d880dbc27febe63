"""What a select step records, with figures that a test sets."""

from dataclasses import replace
from typing import Any

from mmdeploy.choice.record import EngineChoice, Measurement
from mmdeploy.core.facts import as_metadata


def measured(label: str, **figures: Any) -> Measurement:
    """Return a candidate of one float ONNX Runtime engine, as far as the figures say nothing else."""
    plain = Measurement(
        label=label, engine="onnxruntime", options={"method": "onnxruntime"}, graph="float", compressed=False,
        p50_ms=1.0, ratio=1.0, ratio_interval=None, rounds=40, metric=None, drop=None, drop_interval=None,
        sqnr_db=None, bytes=1000, out_because=None,
    )  # fmt: skip
    return replace(plain, **figures)


def chosen_metadata(chosen: str, *measurements: Measurement, **facts: Any) -> dict[str, Any]:
    """Return the metadata of a select step; the reference is the first candidate where the facts name no other."""
    plain = EngineChoice(
        chosen=chosen, engine=next((one.options for one in measurements if one.label == chosen), {}),
        reference=measurements[0].label, measurements=measurements, left_out={}, decisions=(), metric=None,
        original_metric=None, max_drop=None, confidence=0.95, feeds="calibration samples", batch_size=1,
    )  # fmt: skip
    return as_metadata(replace(plain, **facts))
