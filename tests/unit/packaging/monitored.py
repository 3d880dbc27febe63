"""A release as monitoring knows it, and its rules judged by the real promtool on made-up series."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

import yaml
from prometheus_binaries import binary

from mmdeploy.packaging.monitoring.measured import Measured, Part, Reference
from mmdeploy.packaging.monitoring.options import MonitoringOptions
from mmdeploy.packaging.monitoring.rules import groups_of, rule_file

KNOWN = Measured(
    ensemble="senses",
    build="20260101-120000-abcdef",
    machine="Acme Turbo 9000",
    parts=(
        Part("senses.see", 4.0, 0.5, 1, 8, True),
        Part("senses.hear", 6.0, 0.5, 1, 8, False),
        Part("senses.fusion", 2.0, 0.0, 1, 8, False),
    ),
    allowed_ms={"mean": 10.0, "p50": 9.0, "p95": 20.0, "p99": 40.0},
    allowed_by="latency: p95 ms (batch 1, concurrency 1) <= 20 ms, measured 16",
    memory_bytes=400 * 2**20,
    optional=("sight", "sound"),
    judged_missing=("sight", "sound"),
    confidence={"logits": Reference(tuple(i / 10 for i in range(1, 11)), (0, 0, 5, 15, 30, 50, 100, 100, 200, 1500))},
)
OPTIONS = MonitoringOptions()
#: A step of 15 seconds: an hour in which all is well, then more than one of a fault.
WELL, FAULT = 240, 300
PARTS = ("see", "hear", "fusion")


def counter(*stretches: tuple[float, int]) -> str:
    """Return a counter that grows by so much a step for so many steps, in stretches, as promtool writes it."""
    value, written = 0.0, []
    for rate, steps in stretches:
        written.append(f"{value:g}+{rate:g}x{steps - 1}")
        value += rate * steps
    return " ".join(written)


def _triton(model: str) -> dict[str, float]:
    where = f'model="{model}",version="1",instance="t:8002",job="triton"'
    per_request_us = {"request": 5000, "queue": 300, "compute_infer": 2000}
    return {
        f"nv_inference_request_success{{{where}}}": 30,
        f"nv_inference_count{{{where}}}": 30,
        f"nv_inference_exec_count{{{where}}}": 30,
        **{
            f'nv_inference_request_failure{{{where},reason="{reason}"}}': 0
            for reason in ("BACKEND", "OTHER", "REJECTED")
        },
        **{f"nv_inference_{kind}_duration_us{{{where}}}": 30 * each for kind, each in per_request_us.items()},
    }


def _gateway() -> dict[str, float]:
    where = 'model="senses",instance="g:8080",job="mmdeploy-gateway"'
    shares = {"0.3": 0.1, "0.4": 0.3, "0.5": 0.8, "0.6": 1.5, "0.7": 3.0, "0.8": 4.6, "0.9": 7.8, "1.0": 30}
    buckets = {"0.1": 0.0, "0.2": 0.0} | shares | {"+Inf": 30}
    times = {"0.005": 10, "0.01": 25, "0.025": 30, "0.1": 30, "0.25": 30, "1.0": 30, "+Inf": 30}
    return {
        f'mmdeploy_gateway_requests_total{{{where},endpoint="infer",status="200"}}': 30,
        f'mmdeploy_gateway_requests_total{{{where},endpoint="infer",status="500"}}': 0,
        f'mmdeploy_gateway_requests_total{{{where},endpoint="infer",status="503"}}': 0,
        **{f'mmdeploy_gateway_refused_total{{{where},reason="{reason}"}}': 0 for reason in ("busy", "bad_request")},
        **{f'mmdeploy_gateway_modalities_total{{{where},modality="{name}"}}': 28
           for name in ("sight", "sound", "touch")},
        **{f'mmdeploy_gateway_missing_total{{{where},missing="{name}"}}': rate
           for name, rate in {"none": 26, "sight": 2, "sound": 2, "sight+sound": 0}.items()},
        **{f'mmdeploy_gateway_confidence_bucket{{{where},output="logits",le="{le}"}}': rate
           for le, rate in buckets.items()},
        f'mmdeploy_gateway_confidence_count{{{where},output="logits"}}': 30,
        **{f'mmdeploy_gateway_request_seconds_bucket{{{where},le="{le}"}}': rate for le, rate in times.items()},
    }  # fmt: skip


def _cache() -> dict[str, float]:
    where = 'model="senses.see",version="1",instance="t:8002",job="triton"'
    return {f"nv_cache_num_hits_per_model{{{where}}}": 12, f"nv_cache_num_misses_per_model{{{where}}}": 18}


#: Counters by series, and what they grow by in a step where all is well; gauges likewise, which keep their value.
COUNTERS: dict[str, float] = {
    series: rate
    for found in (*(_triton(f"senses{part}") for part in ("", ".see", ".hear", ".fusion")), _gateway(), _cache())
    for series, rate in found.items()
}
_P95 = 'nv_inference_request_summary_us{model="senses",version="1",quantile="0.95",instance="t:8002",job="triton"}'
GAUGES: dict[str, float] = {
    'up{job="triton",instance="t:8002"}': 1,
    'up{job="mmdeploy-gateway",instance="g:8080"}': 1,
    _P95: 12000,
    'nv_cpu_memory_used_bytes{instance="t:8002"}': 50e9,
    'nv_cpu_memory_total_bytes{instance="t:8002"}': 100e9,
    'nv_gpu_memory_used_bytes{instance="t:8002",gpu_uuid="GPU-1"}': 50e9,
    'nv_gpu_memory_total_bytes{instance="t:8002",gpu_uuid="GPU-1"}': 100e9,
}


def named(part: str) -> str:
    """Return the one series that holds some words, each before a blank."""
    found = [series for series in (*COUNTERS, *GAUGES) if all(word in series for word in part.split())]
    assert len(found) == 1, (part, found)
    return found[0]


def series_of(fault: Mapping[str, float | str], *, well: int = WELL, last: int = FAULT) -> list[dict[str, str]]:
    """Return series of a time in which all is well, and of a fault: other rates or values for some series."""
    changed = {named(part): value for part, value in fault.items()}
    found = []
    for series, rate in COUNTERS.items():
        then = changed.get(series, rate)
        values = then if isinstance(then, str) else counter(*((one, n) for one, n in ((rate, well), (then, last)) if n))
        found.append({"series": series, "values": values})
    for series, value in GAUGES.items():
        then = changed.get(series, value)
        before = f"{value:g}x{well - 1} " if well else ""
        found.append({"series": series, "values": before + (then if isinstance(then, str) else f"{then:g}x{last - 1}")})
    return found


def case(name: str, fires: Mapping[str, str], series: list[dict[str, str]], minutes: int = 132) -> dict[str, object]:
    """Return a test of promtool: the alerts that fire at any time, with their levels, are these."""
    expr = 'count by (alertname, severity) (count_over_time(ALERTS{alertstate="firing"}[4h]))'
    samples = [{"labels": f'{{alertname="{alert}", severity="{level}"}}', "value": 1} for alert, level in fires.items()]
    asked = {"expr": expr, "eval_time": f"{minutes}m", "exp_samples": samples}
    return {"name": name, "interval": "15s", "input_series": series, "promql_expr_test": [asked]}


def promtool_test(folder: Path, cases: list[dict[str, object]], known: Measured = KNOWN) -> str:
    """Have promtool judge; return what it says where it is not content, else nothing."""
    (folder / "rules.yml").write_text(rule_file(known, groups_of(known, OPTIONS)))
    content = {"rule_files": ["rules.yml"], "evaluation_interval": "3m", "tests": cases}
    (folder / "test.yml").write_text(yaml.safe_dump(content, sort_keys=False, width=10**6))
    done = subprocess.run(
        [binary("promtool"), "test", "rules", str(folder / "test.yml")], capture_output=True, text=True, check=False
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr
