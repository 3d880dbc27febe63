"""What is generated of a release: rules, dashboard and runbook, held against golden files, promtool and each other."""

import json
import os
import re
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from monitored import COUNTERS, GAUGES, KNOWN, OPTIONS
from prometheus_binaries import binary

from mmdeploy.core.contracts import Verdict
from mmdeploy.core.errors import UsageError
from mmdeploy.core.target import Hardware, Target
from mmdeploy.packaging.monitoring import MonitoringOptions, files_of
from mmdeploy.packaging.monitoring.dashboard import dashboard
from mmdeploy.packaging.monitoring.drift import chance, reference_shares
from mmdeploy.packaging.monitoring.measured import Measured, Reference, measured
from mmdeploy.packaging.monitoring.rule import LEVELS, Alert, Group, Recording, alerts
from mmdeploy.packaging.monitoring.rules import groups_of, prometheus_config, rule_file
from mmdeploy.packaging.monitoring.runbook import runbook, table
from mmdeploy.record.build_report import BuildReport, CheckRecord, GateRecord, RecipeRecord

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden" / "monitoring"
GROUPS = groups_of(KNOWN, OPTIONS)
#: What a release without gates, optional inputs and caches has.
BARE = Measured("bare", "b", "any", tuple(replace(part, mean_ms=None, cached=False) for part in KNOWN.parts))
TEXTS = {
    "rules.yml": rule_file(KNOWN, GROUPS),
    "dashboard.json": dashboard(KNOWN, OPTIONS),
    "runbook.md": runbook(KNOWN, GROUPS),
}
_METRIC = re.compile(r"\b(nv_[a-z0-9_]+|mmdeploy_gateway_[a-z_]+|mmdeploy:[a-z0-9_:]+|up|ALERTS)\b")
#: Of Triton, where there is a GPU or where requests wait; the integration test asks a real one for the others.
ELSEWHERE = {
    "nv_gpu_utilization",
    "nv_inference_pending_request_count",
    "nv_cpu_utilization",
    "mmdeploy_gateway_in_flight",
}


def all_panels(text: str) -> list[dict[str, object]]:
    return [panel for panel in json.loads(text)["panels"] if panel["type"] != "row"]


def queries(text: str) -> list[str]:
    return [target["expr"] for panel in all_panels(text) for target in panel["targets"]]  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", TEXTS)
def test_files_are_the_golden_ones(name: str) -> None:
    """``UPDATE_GOLDEN=1 pytest`` writes them: read the difference then."""
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.mkdir(exist_ok=True)
        (GOLDEN / name).write_text(TEXTS[name])
    assert (GOLDEN / name).read_text() == TEXTS[name]


@pytest.mark.parametrize("known", [KNOWN, BARE], ids=["all", "bare"])
def test_promtool_takes_the_rules_the_configuration_and_the_queries_of_the_dashboard(
    known: Measured, tmp_path: Path
) -> None:
    groups = groups_of(known, OPTIONS)
    asked = [expr.replace("$__rate_interval", "5m") for expr in queries(dashboard(known, OPTIONS))]
    shown = Group("dashboard", tuple(Recording(f"query:{index}", expr, "") for index, expr in enumerate(asked)))
    (tmp_path / "rules.yml").write_text(rule_file(known, (*groups, shown)))
    (tmp_path / "prometheus.yml").write_text(prometheus_config(OPTIONS, "rules.yml"))
    done = subprocess.run(
        [binary("promtool"), "check", "config", str(tmp_path / "prometheus.yml")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(asked) + sum(len(group.rules) for group in groups)} rules found" in done.stdout


@pytest.mark.parametrize("known", [KNOWN, BARE], ids=["all", "bare"])
def test_what_rules_and_panels_ask_for_is_recorded_or_exported(known: Measured) -> None:
    groups = groups_of(known, OPTIONS)
    recorded = {rule.record for group in groups for rule in group.rules if isinstance(rule, Recording)}
    exported = {series.partition("{")[0] for series in (*COUNTERS, *GAUGES)} | ELSEWHERE | {"ALERTS"}
    exprs = [rule.expr for group in groups for rule in group.rules]
    used = {name for expr in exprs for name in _METRIC.findall(expr)}
    shown = {name for expr in queries(dashboard(known, OPTIONS)) for name in _METRIC.findall(expr)}
    assert used <= recorded | exported
    assert shown <= recorded | exported
    assert known is BARE or not recorded - used - shown, "recorded for nobody"


def test_every_alert_says_what_it_means_and_what_to_do() -> None:
    found = list(alerts(GROUPS))
    assert {alert.level for alert in found} == set(LEVELS)
    assert len({alert.name for alert in found}) == len(found)
    book = TEXTS["runbook.md"]
    anchors = {line.removeprefix("## ").lower() for line in book.splitlines() if line.startswith("## ")}
    for alert in found:
        assert alert.runbook.partition("#")[2] in anchors
        assert all(len(text) > 20 for text in (alert.summary, alert.meaning, alert.action)), alert.name
        assert f"**Do:** {alert.action}" in book


def test_panels_have_units_descriptions_and_places_of_their_own() -> None:
    content = json.loads(TEXTS["dashboard.json"])
    places, ids = set(), [panel["id"] for panel in content["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in content["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & places, panel["title"]
        places |= cells
    for panel in all_panels(TEXTS["dashboard.json"]):
        defaults = panel["fieldConfig"]["defaults"]  # type: ignore[index]
        assert defaults["unit"] in {"ms", "percentunit", "reqps", "bytes", "short", "none"}
        assert panel["description"] and panel["targets"]
        steps = defaults["thresholds"]["steps"]
        values = [step["value"] for step in steps]
        assert values[0] is None and values[1:] == sorted(values[1:]), panel["title"]
        legends = [target["refId"] for target in panel["targets"]]  # type: ignore[attr-defined]
        assert legends == [*"ABCDEFG"][: len(legends)]


def test_limits_are_those_of_the_gates() -> None:
    rules = TEXTS["rules.yml"]
    assert 'mmdeploy:p95_ms{model="senses"} / 20)' in rules and 'request_ms:5m{model="senses"} / 10)' in rules
    assert "measured 16" in rules and "Acme Turbo 9000" in rules
    panel = next(one for one in all_panels(TEXTS["dashboard.json"]) if one["title"] == "Request time")
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]  # type: ignore[index]
    assert [step["value"] for step in steps] == [None, 40, 100]


def test_no_drift_is_claimed_that_chance_explains() -> None:
    few = Reference(KNOWN.confidence["logits"].bounds, (0, 0, 1, 2, 2, 3, 5, 5, 6, 40))
    exprs = {one.name: one.expr for one in alerts(groups_of(replace(KNOWN, confidence={"logits": few}), OPTIONS))}
    noise = chance(few, OPTIONS.drift_samples)
    assert noise > 0.5 and f"> {noise:.3g}" in exprs["MmdeployConfidenceDrift"]
    assert "> 0.25" in {one.name: one.expr for one in alerts(GROUPS)}["MmdeployConfidenceDrift"]
    assert sum(reference_shares(few)) == pytest.approx(1) and min(reference_shares(few)) > 0


def test_a_rehearsal_has_shorter_windows_that_still_hold_four_scrapes() -> None:
    short = MonitoringOptions(scale=1 / 60, scrape_interval_s=0.5)
    assert (short.window("5m"), short.window("1m"), short.wait("2m")) == ("5000ms", "2000ms", "2000ms")
    assert (OPTIONS.window("5m"), OPTIONS.window("1m"), OPTIONS.wait("0m")) == ("5m", "1m", "0m")
    assert all("5m]" not in rule.expr for group in groups_of(KNOWN, short) for rule in group.rules)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"objective": 1.0}, "objective is 1.0"),
        ({"slow": 6.0}, "less than very_slow"),
        ({"scale": 0.0}, "scale and scrape_interval_s"),
        ({"least_requests": -1}, "least_requests is -1"),
        ({"triton_job": 'a"b'}, "no name of a job"),
    ],
)
def test_options_that_make_no_rules_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        MonitoringOptions(**wrong)  # type: ignore[arg-type]


def report(**fields: object) -> BuildReport:
    given: dict[str, object] = {
        "recipe": RecipeRecord(name="spoken_digits", path=Path("recipe.yaml"), sha256="0" * 64),
        "target": Target.CPU, "started_at": datetime(2026, 1, 1, tzinfo=UTC), "seconds": 1.0, "verdict": Verdict.PASS,
        "exit_code": 0, "published": None, "staged": Path("staged"), "libraries": {}, "seed": 0,
        "hardware": Hardware("Acme Turbo 9000", 2, (), 2**33, ()),
    }  # fmt: skip
    return BuildReport(**(given | fields))  # type: ignore[arg-type]


def latency(*checks: tuple[str, float, str]) -> GateRecord:
    figures = {"mean": 11.0, "p50": 10.0, "p95": 16.0, "p99": 20.0}
    return GateRecord(
        gate="latency",
        verdict=Verdict.PASS,
        checks=tuple(
            CheckRecord(name=name, measured=value, limit=limit, verdict=Verdict.PASS) for name, value, limit in checks
        ),
        details={"candidate_ms": figures, "components": {"fusion": {"candidate_ms": {"mean": 2.5}}}},
    )


@pytest.fixture
def release(tmp_path: Path) -> Path:
    for model in ("spoken_digits", "spoken_digits.fusion", "spoken_digits.image_encoder"):
        (tmp_path / model).mkdir()
        golden = ROOT / "tests" / "golden" / "triton" / f"{model.removeprefix('spoken_digits.')}.config.pbtxt"
        text = re.sub(r'^name: ".*?"', f'name: "{model}"', golden.read_text(), count=1)
        (tmp_path / model / "config.pbtxt").write_text(text)
    (tmp_path / "report.json").write_text(report().to_json())
    return tmp_path


def test_a_release_is_read(release: Path) -> None:
    gates = (
        latency(("p95 ms (batch 1)", 16.0, "<= 20 ms"), ("p50 ratio (batch 1)", 0.5, "<= 0.9"),
                ("p95 ms (without audio)", 16.0, "<= 16 ms")),
        GateRecord(gate="memory", verdict=Verdict.PASS, checks=(), details={"candidate_bytes": 5}),
        GateRecord(gate="accuracy", verdict=Verdict.PASS, checks=(),
                   details={"subsets": {"without b and a": {}, "mixed rows": {}}}),
    )  # fmt: skip
    (release / "report.json").write_text(report(gates=gates).to_json())
    bounds = [i / 10 for i in range(1, 11)]
    outputs = {"logits": {"bucket_upper_bounds": bounds, "counts": [0] * 9 + [7], "samples": 7, "from": "logits"}}
    (release / "confidence.json").write_text(json.dumps({"outputs": outputs}))
    known = measured(release)
    assert known.allowed_ms["p95"] == pytest.approx(20.0)  # the tightest: 20 of 16, not 0.9 of 0.5
    assert known.allowed_ms["mean"] == pytest.approx(11.0 * 20 / 16) and "p95 ms" in known.allowed_by
    assert {part.model: part.mean_ms for part in known.parts} == {
        "spoken_digits.fusion": 2.5, "spoken_digits.image_encoder": None,
    }  # fmt: skip
    assert (known.memory_bytes, known.judged_missing) == (5, ("a+b",))
    assert sum(known.confidence["logits"].counts) == 7
    files = files_of(release)
    assert files == files_of(release)
    assert {name: yaml.safe_load(text) is not None for name, text in files.items() if name.endswith("yml")} == {
        "monitoring/rules.yml": True, "monitoring/prometheus.yml": True,
    }  # fmt: skip


def test_without_gates_there_are_no_alerts_of_latency_and_the_runbook_says_so(release: Path) -> None:
    files = files_of(release)
    assert b"Latency" not in files["monitoring/rules.yml"] and b"MmdeployModelDead" in files["monitoring/rules.yml"]
    assert b"has no gate of latency" in files["monitoring/runbook.md"]
    assert b"no histogram of confidence" in files["monitoring/runbook.md"]


def test_what_was_measured_on_a_stand_in_sets_no_limits(release: Path) -> None:
    gate = latency(("p95 ms", 16.0, "<= 20 ms"))
    text = report(gates=(gate,), substitute="no GPU", verdict=Verdict.INCONCLUSIVE, exit_code=5).to_json()
    (release / "report.json").write_text(text)
    assert not measured(release).allowed_ms and not [part for part in measured(release).parts if part.mean_ms]


def test_what_is_no_release_is_refused(release: Path, tmp_path: Path) -> None:
    (release / "confidence.json").write_text("{}")
    with pytest.raises(UsageError, match="no histogram of confidence"):
        files_of(release)
    (release / "spoken_digits" / "config.pbtxt").unlink()
    with pytest.raises(UsageError, match="holds no ensemble 'spoken_digits'"):
        files_of(release)
    (release / "report.json").unlink()
    with pytest.raises(UsageError, match="cannot be read"):
        files_of(release)


def test_the_table_of_the_docs_is_that_of_the_alerts() -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text()
    assert "\n".join(table(one for one in alerts(GROUPS) if isinstance(one, Alert))) in page
