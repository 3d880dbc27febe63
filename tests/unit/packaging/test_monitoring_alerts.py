"""Each alert fires on its fault and no other does, by the real promtool; nothing fires where all is well."""

from pathlib import Path

import pytest
from monitored import FAULT, KNOWN, OPTIONS, WELL, case, counter, named, promtool_test, series_of

from mmdeploy.packaging.monitoring.rule import alerts
from mmdeploy.packaging.monitoring.rules import groups_of

#: By the alert that must fire: what is other than usual, as words of a series and its rate a step, or its value.
FAULTS: dict[str, dict[str, float | str]] = {
    "MmdeployTritonDown": {'up job="triton"': 0},
    "MmdeployTritonUnwatched": {'up job="triton"': "stale _x299"},
    "MmdeployModelDead": {
        'request_success model="senses.fusion"': 0, 'request_failure model="senses.fusion" BACKEND': 30,
        'request_success model="senses"': 0, 'request_failure model="senses" OTHER': 60,
        'gateway_requests status="200"': 0, 'gateway_requests status="500"': 30,
    },
    "MmdeployNothingAnswered": {'request_success model="senses"': 0, 'request_failure model="senses" OTHER': 60},
    "MmdeployErrorsFast": {
        'request_success model="senses.hear"': 28, 'request_failure model="senses.hear" BACKEND': 2,
        'request_failure model="senses" OTHER': 4,
    },
    "MmdeployRequestsRefused": {'request_success model="senses"': 20, 'request_failure model="senses" OTHER': 20},
    "MmdeployTritonRestarts": {
        'request_success model="senses"': f"{counter((30, WELL))} " + " ".join([counter((30, FAULT // 4))] * 4),
    },
    "MmdeployMemoryHigh": {"cpu_memory_used": 97e9},
    "MmdeployGpuMemoryHigh": {"gpu_memory_used": 97e9},
    "MmdeployMemoryGrowing": {"cpu_memory_used": "69000000000+80000000x299"},
    "MmdeployLatencyVeryHigh": {"summary_us": 200e3},
    "MmdeployLatencyHigh": {"summary_us": 60e3},
    "MmdeployComponentSlow": {'compute_infer_duration model="senses.fusion"': 30 * 8000},
    "MmdeployQueueLong": {'queue_duration model="senses.hear"': 30 * 20000},
    "MmdeployRejected": {
        'request_success model="senses.see"': 28, 'request_failure model="senses.see" REJECTED': 2,
        'request_failure model="senses" OTHER': 4,
    },
    "MmdeployCacheHitsLow": {"cache_num_hits": 1, "cache_num_misses": 29},
    "MmdeployNoTraffic": {'request_success model="senses"': 1.5, 'gateway_requests status="200"': 0},
    "MmdeployGatewayDown": {'up job="mmdeploy-gateway"': 0},
    "MmdeployGatewayErrors": {'gateway_requests status="200"': 28, 'gateway_requests status="500"': 2},
    "MmdeployGatewayBusy": {
        'gateway_requests status="200"': 25, 'gateway_requests status="503"': 5, 'gateway_refused busy': 5,
    },
    "MmdeployGatewayRefuses": {"gateway_refused bad_request": 10},
    "MmdeployGatewaySlow": {f'request_seconds_bucket le="{le}"': 0 for le in ("0.005", "0.01", "0.025", "0.1")},
    "MmdeployModalityGone": {
        'modalities modality="sound"': 0, 'missing missing="sound"': 30, 'missing missing="none"': 0,
        'missing missing="sight"': 0,
    },
    "MmdeployMissingMore": {
        'modalities modality="sound"': 15, 'missing missing="sound"': 15, 'missing missing="none"': 13,
    },
    "MmdeploySubsetUnjudged": {'missing missing="sight+sound"': 2, 'missing missing="none"': 24},
    "MmdeployConfidenceDrift": {
        f'confidence_bucket le="{le}"': rate
        for le, rate in {"0.4": 5, "0.5": 9, "0.6": 14, "0.7": 18, "0.8": 22, "0.9": 26}.items()
    },
    "MmdeployConfidenceShift": {f'confidence_bucket le="{le}"': rate for le, rate in {"0.8": 9, "0.9": 13}.items()},
}  # fmt: skip
#: Burns slowly, so it has burnt all the time.
SLOW = {'request_success model="senses.hear"': 29.76, 'request_failure model="senses.hear" BACKEND': 0.24}
LEVELS = {alert.name: alert.level for alert in alerts(groups_of(KNOWN, OPTIONS))}


def fires(name: str, fault: dict[str, float | str], **lasting: int) -> dict[str, object]:
    return case(name, {name: LEVELS[name]}, series_of(fault, **lasting))


def test_every_alert_has_a_fault_that_it_is_tested_with() -> None:
    assert {*FAULTS, "MmdeployErrorsSlow"} == set(LEVELS)


def test_each_fault_fires_its_alert_and_no_other(tmp_path: Path) -> None:
    cases = [fires(name, fault) for name, fault in FAULTS.items()]
    cases.append(fires("MmdeployErrorsSlow", SLOW, well=0, last=WELL + FAULT))
    assert promtool_test(tmp_path, cases) == ""


def test_a_test_that_expects_another_alert_is_told(tmp_path: Path) -> None:
    wrong = case("wrong", {"MmdeployModelDead": "P0"}, series_of(FAULTS["MmdeployMemoryHigh"]))
    assert "MmdeployMemoryHigh" in promtool_test(tmp_path, [wrong])


def test_nothing_fires_where_all_is_well_or_where_there_is_hardly_any_traffic(tmp_path: Path) -> None:
    little = dict.fromkeys(('request_success model="senses"', 'request_success model="senses.hear"'), 0.1)
    failing = {'request_failure model="senses.hear" BACKEND': 0.1, 'request_failure model="senses" OTHER': 0.1}
    cases = [
        case("well", {}, series_of({})),
        case("a failure in two of few requests", {}, series_of(little | failing, well=0, last=WELL + FAULT)),
        case("a request that takes long", {}, series_of(little | {"summary_us": 900e3}, well=0, last=WELL + FAULT)),
    ]
    assert promtool_test(tmp_path, cases) == ""


def test_a_model_that_is_loaded_again_after_it_died_pages_once(tmp_path: Path) -> None:
    dead, steps = FAULTS["MmdeployModelDead"], 12
    healed = {
        words: counter((rate, WELL), (float(dead[words]), steps), (rate, FAULT - steps))
        for words in dead
        for rate in [30 if "success" in words or "200" in words else 0]
    }
    assert promtool_test(tmp_path, [case("healed", {"MmdeployModelDead": "P0"}, series_of(healed))]) == ""


@pytest.mark.parametrize("burst", [8])
def test_a_short_burst_of_errors_does_not_page(tmp_path: Path, burst: int) -> None:
    """Two minutes of failures burn through nothing in an hour."""
    some = {'request_success model="senses.hear"': 29, 'request_failure model="senses.hear" BACKEND': 1}
    series = {
        words: counter((rate, WELL), (some[words], burst), (rate, FAULT - burst))
        for words in some
        for rate in [30 if "success" in words else 0]
    }
    assert named(next(iter(series)))
    assert promtool_test(tmp_path, [case("burst", {}, series_of(series))]) == ""
