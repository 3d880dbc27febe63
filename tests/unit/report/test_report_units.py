"""Numbers as people read them: units, precision, and never a rounding that contradicts the verdict."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdeploy.core.contracts import Verdict
from mmdeploy.record.build_report import CheckRecord
from mmdeploy.report.units import (
    bytes_text,
    check_text,
    figure_text,
    interval_text,
    limit_text,
    margin_text,
    ratio_text,
    seconds_text,
)


def check(measured, limit="", interval=None, unit=""):
    return CheckRecord(name="x", measured=measured, limit=limit, verdict=Verdict.FAIL, interval=interval, unit=unit)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, "–"), (0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (12345, "12.1 KiB"),
        (1_048_575, "1.00 MiB"), (371_402, "363 KiB"), (3 * 2**30, "3.00 GiB"), (2**50, "1024 TiB"),
    ],
)  # fmt: skip
def test_bytes(count, text):
    assert bytes_text(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.00 s"), (0.001, "< 0.01 s"), (0.412, "0.41 s"), (9.999, "10.0 s"), (31.74, "31.7 s"),
        (59.96, "1 min 00 s"), (192.4, "3 min 12 s"), (3599.7, "1 h 00 min"), (7020, "1 h 57 min"),
    ],
)  # fmt: skip
def test_seconds(seconds, text):
    assert seconds_text(seconds) == text


@pytest.mark.parametrize(
    ("one", "value", "interval"),
    [
        (check(0.021937, interval=(0.01341, 0.03112)), "0.022", "[0.013, 0.031]"),
        (check(0.0034, interval=(-0.0011, 0.0079)), "0.0034", "[-0.0011, 0.0079]"),
        (check(1.6213, interval=(1.55, 1.7)), "1.62", "[1.55, 1.70]"),
        (check(0.999873), "0.99987", ""),
        (check(22.9134, unit="dB"), "22.9 dB", ""),
        (check(math.inf, unit="dB"), "∞ dB", ""),
        (check(math.nan), "not a number", ""),
        (check(None), "not measured", ""),
        (check(3.2e-9), "3.2e-09", ""),
        (check(611_319_808, "<= 805306368 bytes", unit="bytes"), "583 MiB", ""),
        (check(12.5, unit="%"), "12.50%", ""),
        (check(-0.00001, interval=(-0.02, 0.02)), "0.000", "[-0.020, 0.020]"),
    ],
)
def test_precision_follows_the_interval(one, value, interval):
    assert check_text(one) == (value, interval)


@pytest.mark.parametrize(
    ("measured", "limit", "text"),
    [
        (0.9949996, ">= 0.995", "0.9949996"),
        (0.350012, "<= 0.35", "0.35001"),
        (0.995, ">= 0.995", "0.9950"),
        (19.9996, ">= 20 dB", "19.9996"),
    ],
)
def test_a_figure_is_never_rounded_onto_the_limit_that_it_misses(measured, limit, text):
    assert check_text(check(measured, limit))[0] == text


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6).map(lambda limit: round(limit, 4)), st.sampled_from(["", "dB"]))
def test_what_is_shown_is_on_the_side_of_the_limit_where_the_figure_is(measured, limit, unit):
    if abs(measured - limit) < 1e-8 or (measured and abs(measured) < 1e-5):
        return
    shown = float(check_text(check(measured, f"<= {limit:.10g}", unit=unit))[0].removesuffix(" dB"))
    stated = float(f"{limit:.10g}")
    assert (shown < stated) == (measured < stated)


@pytest.mark.parametrize(
    ("limit", "unit", "text"),
    [
        (">= 0.995", "", "≥ 0.995"),
        ("<= 0.8 of FP32", "", "≤ 0.8 of FP32"),
        ("<= 805306368 bytes", "bytes", "≤ 768 MiB"),
        ("<= 805306368", "bytes", "≤ 768 MiB"),
        ("none", "bytes", "none"),
    ],
)
def test_limits(limit, unit, text):
    assert limit_text(check(1, limit, unit=unit)) == text


def test_ratios_and_lone_figures():
    assert ratio_text(363, 1240) == "0.29"
    assert ratio_text(None, 5) == ratio_text(5, 0) == ratio_text(5, None) == "–"
    assert figure_text(2.87345, (2.8, 2.95), unit="ms") == "2.87 ms"
    assert interval_text(2.87345, (2.8, 2.95), unit="ms") == "[2.80, 2.95]"
    assert interval_text(2.8, None) == ""


@pytest.mark.parametrize(
    ("measured", "limit", "unit", "expected"),
    [
        (0.022, "<= 0.01", "", "misses the limit by 0.012"),
        (0.994961, ">= 0.995", "", "misses the limit by 0.000039"),
        (17.3, ">= 20 dB", "dB", "misses the limit by 2.7 dB"),
        (805306368.0 + 2**20, "<= 805306368 bytes", "bytes", "misses the limit by 1.00 MiB"),
        (1.31, "<= 0.8 of FP32", "", "misses the limit by 0.51"),
        (None, "<= 0.8 of FP32", "", ""),
        (float("inf"), "<= 0.8", "", ""),
        (0.5, "finite", "", ""),
    ],
)
def test_a_failed_check_says_by_how_much(measured, limit, unit, expected):
    assert margin_text(CheckRecord(name="x", measured=measured, limit=limit, verdict="fail", unit=unit)) == expected
    assert margin_text(CheckRecord(name="x", measured=measured, limit=limit, verdict="pass", unit=unit)) == ""
