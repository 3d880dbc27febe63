"""What lies beside the models of a release: its report, what it was made of, a request, a server's options."""

from __future__ import annotations

from pathlib import Path

from mmdeploy.building.cache_notes import write_server_options
from mmdeploy.building.confidence import write_confidence
from mmdeploy.building.provenance import Made, write_provenance
from mmdeploy.building.sample_request import write_sample_request
from mmdeploy.record.build_report import FILENAME
from mmdeploy.triton.golden import GOLDEN


def write_beside(folder: Path, made: Made) -> dict[str, Path]:
    """Write the files into a run's folder; return them by the names that they have beside a release."""
    (folder / FILENAME).write_text(made.report.to_json(), encoding="utf-8")
    return (
        {FILENAME: folder / FILENAME}
        | ({GOLDEN: folder / GOLDEN} if (folder / GOLDEN).is_file() else {})
        | write_provenance(folder, made)
        | write_confidence(folder, made.confidence)
        | write_sample_request(folder, made.recipe, made.artifacts)
        | write_server_options(folder, made.repository.path)
    )
