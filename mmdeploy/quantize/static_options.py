"""Options of static quantization: see `mmdeploy.quantize.static`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mmdeploy.quantize import fidelity, settle


class Options(settle.Settings):
    """Options of static quantization.

    Attributes:
        method: ``static``.
        min_sqnr_db: What the component's outputs keep, as SQNR in dB (30 is a cosine of 0.9995, 27 one of 0.999). Where
            INT8 leaves less, layers go back to float, those first that have the most noise of their own for their size;
            null: none but those that leave less than 10 dB.
        rounding: How weights become codes: ``nearest``, or ``gptq``, which makes up for the error of each in those that
            follow, on calibration data; it costs a pass over them and nothing in service. ``auto``: ``gptq`` where the
            nearest leave less than ``min_sqnr_db``, before any layer goes back to float.
    """

    method: Literal["static"] = "static"
    rounding: Literal["auto", "nearest", "gptq"] = "auto"
    min_sqnr_db: Annotated[float, Field(ge=fidelity.FLOOR_DB, le=60)] | None = None

    @property
    def least_db(self) -> float:
        """The SQNR that is asked for, or the one that any graph must have."""
        return fidelity.FLOOR_DB if self.min_sqnr_db is None else self.min_sqnr_db
