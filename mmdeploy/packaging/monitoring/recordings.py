"""What Prometheus computes of the metrics of Triton and of the gateway, under names that alerts and panels share."""

from __future__ import annotations

from collections.abc import Iterator

from mmdeploy.packaging.monitoring.measured import Measured
from mmdeploy.packaging.monitoring.options import MonitoringOptions
from mmdeploy.packaging.monitoring.rule import Recording
from mmdeploy.packaging.monitoring.selectors import Selectors

#: Windows of the error budget: a short one says that it burns now, a long one that it is no blip.
BURN_WINDOWS = ("5m", "30m", "1h", "6h")


def of_serving(known: Measured, options: MonitoringOptions) -> Iterator[Recording]:
    """Give what is made of Triton's counters."""
    of = Selectors(known.ensemble)
    for duration in BURN_WINDOWS:
        window = options.window(duration)
        yield Recording(
            f"mmdeploy:answered:{duration}",
            f"sum by (model) (increase(nv_inference_request_success{{{of.all}}}[{window}]))",
            "requests that Triton answered",
        )
        # A client that went away is no failure, and a full queue has an alert of its own. Triton 2.51 counts a failed
        # request of an ensemble twice.
        yield Recording(
            f"mmdeploy:failed:{duration}",
            f'sum by (model) (increase(nv_inference_request_failure{{{of.all},reason!~"CANCELED|REJECTED"}}'
            f"[{window}]))",
            "requests that failed, without those whose client went away or whose queue was full",
        )
        yield Recording(
            f"mmdeploy:error_ratio:{duration}",
            f"mmdeploy:failed:{duration}{{{of.parts}}} / "
            f"(mmdeploy:failed:{duration}{{{of.parts}}} + mmdeploy:answered:{duration}{{{of.parts}}} > 0)",
            "share of the requests to a model of the ensemble that it failed",
        )
    window = options.window("5m")
    yield Recording(
        "mmdeploy:rejected:5m",
        f'sum by (model) (increase(nv_inference_request_failure{{{of.all},reason="REJECTED"}}[{window}]))',
        "requests that a full queue turned away",
    )
    # A killed backend leaves Triton and the model "ready": that it fails everything is what tells.
    minute = options.window("1m")
    yield Recording(
        "mmdeploy:dead:1m",
        f'sum by (instance, model) (increase(nv_inference_request_failure{{{of.parts},reason="BACKEND"}}[{minute}])) '
        f"unless on (instance, model) "
        f"(sum by (instance, model) (increase(nv_inference_request_success{{{of.parts}}}[{minute}])) > 0)",
        "failures of a model that answered nothing in the same minute",
    )
    yield from _times(of, options)
    yield from _slowness(known, of)
    if any(part.cached for part in known.parts):
        yield from _cache(of, options)


def _times(of: Selectors, options: MonitoringOptions) -> Iterator[Recording]:
    window = options.window("5m")

    def total(metric: str) -> str:
        return f"sum by (model) (increase({metric}{{{of.all}}}[{window}]))"

    yield Recording(
        "mmdeploy:request_ms:5m",
        f"{total('nv_inference_request_duration_us')} / (mmdeploy:answered:5m > 0) / 1000",
        "mean time of a request, without failures",
    )
    yield Recording(
        "mmdeploy:queue_ms:5m",
        f"{total('nv_inference_queue_duration_us')} / (mmdeploy:answered:5m > 0) / 1000",
        "mean time that a request waited for its model",
    )
    yield Recording(
        "mmdeploy:batch:5m",
        f"{total('nv_inference_count')} / ({total('nv_inference_exec_count')} > 0)",
        "mean samples of a batch",
    )
    # Every request of a batch is charged the whole batch, so the requests of a batch are divided by.
    yield Recording(
        "mmdeploy:sample_ms:5m",
        f"{total('nv_inference_compute_infer_duration_us')} / ({total('nv_inference_count')} > 0) "
        f"/ clamp_min(mmdeploy:answered:5m / ({total('nv_inference_exec_count')} > 0), 1) / 1000",
        "mean time to compute a sample",
    )
    yield Recording(
        "mmdeploy:p95_ms",
        f'max by (model) (nv_inference_request_summary_us{{{of.all},quantile="0.95"}} >= 0) / 1000',
        "95th percentile of request times in the last minute, of the slowest server; needs "
        "--metrics-config=summary_latencies=true",
    )


def _slowness(known: Measured, of: Selectors) -> Iterator[Recording]:
    if not known.allowed_ms:
        return
    yield Recording(
        "mmdeploy:slowness",
        f"(mmdeploy:p95_ms{{{of.whole}}} / {known.allowed_ms['p95']:.4g}) "
        f"or (mmdeploy:request_ms:5m{{{of.whole}}} / {known.allowed_ms['mean']:.4g})",
        "time of a request over what the build's gates allow: of the 95th percentile, else of the mean",
    )


def _cache(of: Selectors, options: MonitoringOptions) -> Iterator[Recording]:
    def lookups(duration: str, later: str) -> tuple[str, str]:
        hits, misses = (
            f"sum by (model) (increase(nv_cache_num_{kind}_per_model{{{of.parts}}}[{options.window(duration)}]{later}))"
            for kind in ("hits", "misses")
        )
        return hits, f"({hits} + {misses})"

    for duration, later in (("1h", ""), ("1d", f" offset {options.window('1h')}")):
        hits, asked = lookups(duration, later)
        yield Recording(f"mmdeploy:cache_lookups:{duration}", asked, "requests that asked the response cache")
        yield Recording(
            f"mmdeploy:cache_hit_ratio:{duration}",
            f"{hits} / (mmdeploy:cache_lookups:{duration}{{{of.parts}}} > 0)",
            "share of them that it answered" + (", in the day before the last hour" if later else ""),
        )


def of_traffic(known: Measured, options: MonitoringOptions) -> Iterator[Recording]:
    """Give what is made of the gateway's counters: which modalities come, and in which subsets."""
    of = Selectors(known.ensemble)
    for duration, later in (("30m", ""), ("1d", f" offset {options.window('30m')}")):
        when = "" if not later else ", in the day before the last half hour"
        window = f"[{options.window(duration)}]{later}"
        asked = f"sum by (model) (increase(mmdeploy_gateway_missing_total{{{of.whole}}}{window}))"
        yield Recording(f"mmdeploy:gateway_answered:{duration}", asked, f"requests that the gateway had answered{when}")
        total = f"on (model) group_left () (mmdeploy:gateway_answered:{duration} > 0)"
        for label, metric in (("modality", "modalities"), ("missing", "missing")):
            yield Recording(
                f"mmdeploy:{label}_share:{duration}",
                f"sum by (model, {label}) (increase(mmdeploy_gateway_{metric}_total{{{of.whole}}}{window})) / {total}",
                f"share of requests {'with a modality' if label == 'modality' else 'that lack the same inputs'}{when}",
            )


def of_gateway(known: Measured, options: MonitoringOptions) -> Iterator[Recording]:
    """Give what is made of the gateway's answers."""
    of = Selectors(known.ensemble)
    for duration in ("5m", "1h"):
        window = options.window(duration)

        def requests(status: str, window: str = window) -> str:
            return f"sum by (model) (increase(mmdeploy_gateway_requests_total{{{of.whole}{status}}}[{window}]))"

        yield Recording(f"mmdeploy:gateway_requests:{duration}", requests(""), "requests to the gateway")
        # 503 is back-pressure, and has an alert of its own.
        broken = ',status=~"5..",status!="503"'
        yield Recording(
            f"mmdeploy:gateway_error_ratio:{duration}",
            f"({requests(broken)} or 0 * mmdeploy:gateway_requests:{duration}{{{of.whole}}}) "
            f"/ (mmdeploy:gateway_requests:{duration}{{{of.whole}}} > 0)",
            "share of them that ended in a fault of ours",
        )
    yield Recording(
        "mmdeploy:gateway_refused_ratio:5m",
        f"sum by (model, reason) (increase(mmdeploy_gateway_refused_total{{{of.whole}}}[{options.window('5m')}])) "
        f"/ on (model) group_left () (mmdeploy:gateway_requests:5m{{{of.whole}}} > 0)",
        "share of them that were refused, by reason",
    )
    yield Recording(
        "mmdeploy:gateway_p95_ms:5m",
        f"1000 * histogram_quantile(0.95, sum by (model, le) "
        f"(rate(mmdeploy_gateway_request_seconds_bucket{{{of.whole}}}[{options.window('5m')}])))",
        "95th percentile of the gateway's times",
    )
