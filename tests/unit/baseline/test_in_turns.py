"""Which repositories are at hand, under which loads they are asked, and with which samples."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_samples import passed
from tritonclient.grpc.model_config_pb2 import ModelConfig

from mmdeploy.baseline.in_turns import at_hand, loads, samples_of
from mmdeploy.core.errors import UsageError
from mmdeploy.core.strings import as_strings, packed
from mmdeploy.record.build_report import GateRecord, Verdict


def test_a_release_and_a_run_are_at_hand_and_a_file_alone_is_not(tmp_path: Path) -> None:
    for folder in (tmp_path / "release", tmp_path / "run" / "staged"):
        (folder / "model").mkdir(parents=True)
        (folder / "model" / "config.pbtxt").touch()
    for folder in (tmp_path / "release", tmp_path / "run"):
        (folder / "perf_analyzer.json").touch()
    (tmp_path / "run" / "report.json").touch()
    for place in ("run", "run/report.json"):
        found = at_hand(tmp_path / place)
        assert found is not None and found.repository == tmp_path / "run" / "staged"
    release = at_hand(tmp_path / "release")
    assert release is not None and release.repository == tmp_path / "release"
    (tmp_path / "baseline.json").touch()
    assert at_hand(tmp_path / "baseline.json") is None
    (tmp_path / "release" / "perf_analyzer.json").unlink()  # with nothing to ask for
    assert at_hand(tmp_path / "release") is None


def test_loads_are_those_of_the_latency_gates() -> None:
    def gate(percentile: str, concurrency: int) -> GateRecord:
        details = {"percentile": percentile, "batch": 2, "concurrency": concurrency}
        return GateRecord(gate="latency", verdict=Verdict.PASS, checks=(), details=details)

    report = passed().model_copy(update={"gates": (gate("p95", 4), gate("p50", 1), gate("p50", 1))})
    assert [(one.percentile, one.batch, one.concurrency) for one in loads(report)] == [("p50", 2, 1), ("p95", 2, 4)]
    assert [(one.percentile, one.batch, one.concurrency) for one in loads(passed())] == [("p50", 1, 1)]


def ensemble(max_batch_size: int) -> ModelConfig:
    return ModelConfig(
        name="e",
        max_batch_size=max_batch_size,
        input=[{"name": "x", "data_type": "TYPE_FP32"}, {"name": "t", "data_type": "TYPE_STRING"}],
    )


@given(
    st.lists(st.tuples(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=4), st.text() | st.none())),
    st.booleans(),
)
def test_samples_are_what_was_written(rows: list[tuple[list[float], str | None]], batches: bool) -> None:
    import tempfile

    lead = [] if batches else [1]
    data = []
    for values, text in rows:
        row = {"x": {"b64": _b64(np.array(values, np.float32).tobytes()), "shape": [*lead, len(values)]}}
        if text is not None:
            strings = as_strings([text])
            assert strings is not None
            row["t"] = {"b64": _b64(packed(strings)), "shape": [*lead, 1]}
        data.append(row)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "samples.json"
        file.write_text(json.dumps({"data": data}))
        if not rows:
            with pytest.raises(UsageError, match="holds no sample"):
                samples_of(file, ensemble(0))
            return
        found = samples_of(file, ensemble(8 if batches else 0))
    assert found.count == len(rows)
    assert sum(len(group) for group in found.groups()) == len(rows)
    for index, (values, text) in enumerate(rows):
        taken = found.take(slice(index, index + 1))
        assert taken["x"].tolist() == [np.array(values, np.float32).tolist()]
        assert taken.get("t", np.array([[None]])).tolist() == [[None if text is None else text.encode()]]


def _b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


@pytest.mark.parametrize("content", ["", "{}", '{"data": [{"y": {"b64": "", "shape": [0]}}]}', '{"data": [{"x": 1}]}'])
def test_samples_that_cannot_be_read_are_one_error(content: str, tmp_path: Path) -> None:
    (tmp_path / "samples.json").write_text(content)
    with pytest.raises(UsageError, match="no samples that can be sent"):
        samples_of(tmp_path / "samples.json", ensemble(8))
