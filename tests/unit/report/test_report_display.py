"""The display of a running build: bars where somebody watches, plain lines elsewhere."""

import io
import threading

import pytest
from report_samples import failed, passed, stopped
from rich.console import Console

from mmdeploy.report import display
from mmdeploy.report.display import BuildDisplay


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def plain(**options: object) -> tuple[io.StringIO, Console]:
    stream = io.StringIO()
    return stream, Console(file=stream, width=80, **options)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_without_a_terminal_every_event_is_one_line_without_control_characters():
    stream, console = plain()
    quantize = passed().steps[1]
    with BuildDisplay(console) as display:
        display.step_started(quantize.id)
        display.step_finished(quantize)
        display.step_finished(stopped().steps[4])
        display.gate_finished(failed().gates[0])
        display.work_finished("publish", "model_repository\nis\x1b[2Jlive")
    assert stream.getvalue().splitlines() == [
        "image_encoder/quantize: started",
        "image_encoder/quantize: ran, 14.2 s, 1.21 MiB → 363 KiB, options changed: samples 128 → 256",
        "audio_encoder/quantize: failed, 0.80 s, 2.11 MiB → –, options changed: samples 128 → 256",
        "gates/parity: fail: fusion: cosine",
        "publish: model_repository is\ufffd[2Jlive",
    ]


def test_without_a_terminal_a_silent_step_says_every_ten_seconds_that_it_runs():
    stream, console = plain()
    clock = Clock()
    with BuildDisplay(console, clock=clock) as display:
        display.step_started("a/export")
        display.step_started("b/export")
        for _ in range(24):
            clock.now += 1.0
            if clock.now == 5.0:
                display.progress("b/export", 3, 8, "layers")
            if clock.now == 20.0:
                display.step_finished(passed().steps[0].model_copy(update={"id": "a/export"}))
            display.beat()
    lines = stream.getvalue().splitlines()
    assert lines[:2] == ["a/export: started", "b/export: started"]
    assert [line for line in lines[2:] if "reused" not in line] == [
        "a/export: running, 10 s so far",
        "b/export: 3 of 8 layers, 10 s so far",
        "b/export: 3 of 8 layers, 20 s so far",
    ]


def test_the_beat_comes_by_itself(monkeypatch):
    monkeypatch.setattr(display, "_LOOK_SECONDS", 0.001)
    stream, console = plain()
    clock = Clock()
    with BuildDisplay(console, clock=clock) as shown:
        shown.step_started("a/export")
        clock.now = 11.0
        for _ in range(12_000):
            if "11 s so far" in stream.getvalue():
                break
            threading.Event().wait(0.005)
    assert "a/export: running, 11 s so far" in stream.getvalue()


def test_without_a_terminal_progress_is_a_line_every_ten_seconds():
    stream, console = plain()
    clock = Clock()
    with BuildDisplay(console, clock=clock) as display:
        display.step_started("a/quantize")
        report = display.reporter("a/quantize")
        for batch in range(1, 41):
            clock.now += 1.0
            report(batch, 40, "batches")
        report(41, None, "batches")
    assert stream.getvalue().splitlines() == [
        "a/quantize: started",
        "a/quantize: 10 of 40 batches",
        "a/quantize: 20 of 40 batches",
        "a/quantize: 30 of 40 batches",
        "a/quantize: 40 of 40 batches",
    ]


@pytest.mark.parametrize(
    ("environment", "animated"),
    [({}, True), ({"CI": "true"}, False), ({"CI": "0"}, True), ({"TERM": "dumb"}, False)],
)
def test_bars_move_only_for_a_person(monkeypatch, environment, animated):
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stream = Terminal()
    with BuildDisplay(Console(file=stream, width=80)) as display:
        display.step_started("a/quantize")
        display.progress("a/quantize", 3, 8, "batches")
    assert ("\x1b[?25l" in stream.getvalue()) == animated
    assert ("3 of 8 batches" in stream.getvalue()) == animated


def test_forced_colour_into_a_file_moves_no_cursor(monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    stream, console = plain(force_terminal=True)
    with BuildDisplay(console) as display:
        display.step_started("a/quantize")
        display.step_finished(passed().steps[1])
    assert "\x1b[?25l" not in stream.getvalue()


def test_an_interrupt_gives_the_cursor_back():
    stream = Terminal()
    with pytest.raises(KeyboardInterrupt), BuildDisplay(Console(file=stream, width=80), live=True) as display:
        display.step_started("a/quantize")
        raise KeyboardInterrupt
    assert stream.getvalue().rfind("\x1b[?25h") > stream.getvalue().rfind("\x1b[?25l") >= 0


def test_steps_of_several_threads_do_not_mix_lines():
    stream, console = plain()
    record = passed().steps[1]
    with BuildDisplay(console) as display:

        def work() -> None:
            for _ in range(20):
                display.step_started(record.id)
                display.step_finished(record)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 160
    assert len(set(lines)) == 2
