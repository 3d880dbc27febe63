"""The report's data: what it refuses, what it keeps, and what reading a wrong file says."""

import json
import math
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from mmdeploy.core.contracts import Check, GateResult, Verdict
from mmdeploy.core.errors import UsageError
from mmdeploy.core.target import Target, this_hardware
from mmdeploy.record.build_report import SCHEMA_VERSION, BuildReport, Failure, RecipeRecord, gate_record
from mmdeploy.record.plain_json import jsonable
from mmdeploy.record.report_file import read_report


def minimal(**fields: object) -> BuildReport:
    return BuildReport(
        **{
            "recipe": RecipeRecord(name="digits", path=Path("recipe.yaml"), sha256="0" * 64),
            "target": Target.CPU,
            "started_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
            "seconds": 1.5,
            "verdict": Verdict.PASS,
            "exit_code": 0,
            "published": None,
            "staged": Path("staged"),
            "hardware": this_hardware(),
            "libraries": {},
            "seed": 0,
        }
        | fields
    )


def gate(verdict: Verdict) -> object:
    return gate_record(GateResult("size", (Check("ratio", 0.3, "<= 0.35", verdict),)))


def write(folder: Path, content: object) -> Path:
    path = folder / "report.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_folder_is_read_by_the_report_in_it(tmp_path):
    write(tmp_path, minimal().to_json())
    assert read_report(tmp_path) == minimal()


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        (
            {"schema_version": SCHEMA_VERSION + 1},
            rf"schema version {SCHEMA_VERSION + 1}, written by a newer mmdeploy \(9\.9\) than this one",
            "newer multimodal",
        ),
        ({"schema_version": 0}, r"schema version 0, written by an older mmdeploy", "build again"),
        ({"schema_version": None}, "no mmdeploy report: schema_version is missing", "mmdeploy build"),
        ({"schema_version": True}, "no mmdeploy report", "mmdeploy build"),
        ({"seconds": "soon"}, r"1 problem\n    seconds: ", "build again"),
        ({"suprise": 1}, r"suprise: Extra inputs are not permitted", "build again"),
        ({"verdict": "fail"}, r"verdict is fail, but must be pass", "build again"),
    ],
)
def test_another_version_or_a_changed_file_is_refused_by_name(tmp_path, change, message, hint):
    content = json.loads(minimal(mmdeploy_version="9.9").to_json()) | change
    with pytest.raises(UsageError, match=message) as caught:
        read_report(write(tmp_path, content))
    assert "report.json" in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize("content", ["", "{", '{"schema_version": 1', "\x00", "[" * 100_000])
def test_damaged_json_is_refused(tmp_path, content):
    with pytest.raises(UsageError, match="not JSON"):
        read_report(write(tmp_path, content))


@pytest.mark.parametrize("content", ["[]", "1", '"report"', "null"])
def test_other_json_is_refused(tmp_path, content):
    with pytest.raises(UsageError, match="no mmdeploy report"):
        read_report(write(tmp_path, content))


def test_a_report_of_version_1_is_read_without_what_it_lacks(tmp_path):
    content = json.loads(minimal().to_json()) | {"schema_version": 1}
    del content["costs"], content["plain_recipe"]
    assert read_report(write(tmp_path, content)) == minimal()


def test_a_missing_file_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match=r"cannot be read: No such file"):
        read_report(tmp_path / "nothing.json")


def test_the_verdict_is_the_worst_of_the_gates():
    gates = (gate(Verdict.PASS), gate(Verdict.INCONCLUSIVE))
    assert minimal(gates=gates, verdict="inconclusive", exit_code=5).verdict is Verdict.INCONCLUSIVE
    with pytest.raises(ValidationError, match="must be inconclusive"):
        minimal(gates=gates)


def test_a_failed_step_is_never_a_pass():
    failure = Failure(step="fusion/export", message="no")
    with pytest.raises(ValidationError, match="must be fail: the build stopped"):
        minimal(failure=failure)
    with pytest.raises(ValidationError, match="exit_code 0 contradicts the verdict fail"):
        minimal(failure=failure, verdict="fail")


def test_only_a_substitute_may_be_doubted_although_all_gates_passed():
    doubted = {"gates": (gate(Verdict.PASS),), "verdict": "inconclusive", "exit_code": 5}
    assert minimal(**doubted, substitute="no driver").verdict is Verdict.INCONCLUSIVE
    with pytest.raises(ValidationError, match="must be pass"):
        minimal(**doubted)


def test_times_are_kept_in_utc_and_naive_ones_refused():
    paris = timezone(timedelta(hours=1))
    report = minimal(started_at=datetime(2026, 1, 2, 4, 4, 5, tzinfo=paris))
    assert '"started_at": "2026-01-02T03:04:05Z"' in report.to_json()
    with pytest.raises(ValidationError, match="timezone"):
        minimal(started_at=datetime(2026, 1, 2))


def test_infinite_figures_survive_json(tmp_path):
    check = Check("SQNR", math.inf, ">= 20 dB", Verdict.PASS, interval=(40.0, math.inf), unit="dB")
    report = minimal(gates=(gate_record(GateResult("parity", (check,), {"sqnr_db": math.inf})),))
    back = read_report(write(tmp_path, report.to_json()))
    assert back.gates[0].checks[0].measured == math.inf
    assert back.gates[0].checks[0].interval == (40.0, math.inf)
    assert back == report


def test_a_gate_record_keeps_everything_of_the_result():
    checks = (
        Check("a", np.float32(0.5), "<= 1", Verdict.PASS, (np.float64(0.25), 0.75), "ms", "note"),
        Check("b", None, "<= 1", Verdict.INCONCLUSIVE),
    )
    record = gate_record(GateResult("latency", checks, {"p50": np.float32(0.5)}), seconds=2.0)
    assert record.verdict is Verdict.INCONCLUSIVE
    assert record.seconds == 2.0
    assert record.details == {"p50": 0.5}
    for field in ("name", "measured", "limit", "verdict", "interval", "unit", "note"):
        assert [getattr(check, field) for check in record.checks] == [getattr(one, field) for one in checks]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.array([[1.5, np.nan]]), [[1.5, "NaN"]]),
        ((1, -math.inf), [1, "-Infinity"]),
        ({2: {"b", "a"}}, {"2": ["a", "b"]}),
        (Path("a/b"), "a/b"),
        (Verdict.PASS, "pass"),
        (b"\xff", r"b'\xff'"),
    ],
)
def test_facts_become_plain_json(value, expected):
    plain = jsonable(value)
    assert plain == expected
    assert json.loads(json.dumps(plain, allow_nan=False)) == expected
