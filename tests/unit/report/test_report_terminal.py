"""The summary in the terminal: nothing cut off, nothing but text where there is no terminal."""

import io

import pytest
from report_samples import SAMPLES, failed, inconclusive, passed, stopped
from rich.console import Console

from mmdeploy.record.build_report import BuildReport
from mmdeploy.report.terminal import Summary


def shown(report: BuildReport, width: int = 80, **options: object) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, **options).print(Summary(report))
    return stream.getvalue()


@pytest.mark.parametrize("width", [80, 100, 120, 200])
@pytest.mark.parametrize("make", SAMPLES.values(), ids=SAMPLES)
def test_every_check_has_its_whole_verdict(make, width):
    report = make()
    text = shown(report, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    lines = [line.rstrip() for line in text.splitlines()]
    for verdict in ("pass", "fail", "inconclusive"):
        checks = [check for gate in report.gates for check in gate.checks if check.verdict == verdict]
        assert len([line for line in lines if line.endswith(f"  {verdict}")]) == len(checks)


@pytest.mark.parametrize("letters", [1, 12, 30, 34, 45, 70])
@pytest.mark.parametrize("make", [failed, inconclusive, SAMPLES["trained"]], ids=["failed", "inconclusive", "trained"])
def test_no_word_is_broken_in_two_by_a_long_name(make, letters):
    name = ("vision_transformer_base_patch16_224_" * 2)[:letters]
    report = BuildReport.model_validate_json(make().to_json().replace("image_encoder", name))
    text = shown(report, 80)
    assert max(map(len, text.splitlines())) <= 80
    found = {word.rstrip(",:") for word in text.split()}
    named = {name, *(word for gate in report.gates for check in gate.checks for word in check.name.split())}
    assert {word.rstrip(",:") for word in named} <= found | {f"{step.id}" for step in report.steps}


def test_wide_terminals_see_why_a_step_ran():
    assert "options changed: samples 128 → 256" in shown(passed(), 120)


def test_figures_limits_and_intervals_are_in_the_table():
    text = shown(failed(), 120)
    assert "0.99496  ≥ 0.995" in text
    assert "0.022 [0.013, 0.031]" in text


def test_what_went_wrong_and_what_to_do():
    text = " ".join(shown(failed()).split())
    assert "spoken_digits failed: parity, accuracy" in text
    assert "worst sample 871" in text
    assert "top1 fell most at INT8 (0.9742 → 0.9523); lowest SQNR: fusion (22.9 dB)" in text
    assert "not published; staged repository kept: .mmdeploy/runs/spoken_digits/20260314-092653-3f9a3f/staged" in text
    text = " ".join(shown(stopped()).split())
    assert "audio_encoder/quantize: calibration sample 41 of input 'waveform' holds 3 NaN" in text
    assert "next: remove the sample" in text
    assert "staged" not in text


def test_a_build_that_reached_no_step_has_no_table_of_them():
    whole = stopped()
    none = whole.model_copy(update={"steps": tuple(one for one in whole.steps if one.status == "skipped")})
    assert f"none of {len(none.steps)} steps was reached\n" in shown(none)
    assert "component" not in shown(none) and "component" in shown(whole)


def test_a_substitute_is_named_before_the_gates():
    text = shown(inconclusive())
    assert text.index("SUBSTITUTE, not the real engine") < text.index("verdict")
    assert text.count("SUBSTITUTE") == 2


def test_a_path_that_fits_a_line_is_in_one_piece():
    report = failed()
    assert str(report.staged) in [line.strip() for line in shown(report).splitlines()]


def test_without_colour_there_is_no_colour(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    text = shown(failed(), force_terminal=True)
    assert "\x1b[31m" not in text
    assert "\x1b[32m" not in text
    monkeypatch.delenv("NO_COLOR")
    assert "\x1b[" in shown(failed(), force_terminal=True)


def test_a_terminal_without_unicode_gets_ascii():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", write_through=True)
    Console(file=stream, width=80).print(Summary(failed()))
    text = raw.getvalue().decode("ascii")
    assert ">= 0.995" in text
    assert "1.21 MiB -> 363 KiB" in text
