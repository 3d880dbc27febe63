"""The choices of the select steps, as each rendering tells them."""

from report_samples import STEPS, chosen, passed
from rich.console import Console

from mmdeploy.record.build_report import StepRecord
from mmdeploy.report import choices, html, markdown
from mmdeploy.report.terminal import Summary


def terminal(width: int) -> str:
    console = Console(width=width, record=True, force_terminal=False, legacy_windows=False)
    with console.capture() as captured:
        console.print(Summary(chosen()))
    return captured.get()


def test_the_chosen_one_comes_first_then_by_speed():
    (_, image), (_, fusion) = choices.choices(chosen())
    assert [row.cells[0] for row in choices.rows(image)] == [
        "openvino INT8 int8_symmetric",
        "openvino INT8 uint8_asymmetric, BF16",
        "onnxruntime INT8 uint8_asymmetric",
        "openvino BF16",
        "onnxruntime FP32 (reference)",
    ]
    assert [row.ships for row in choices.rows(fusion)] == [True, False, False]
    assert choices.rows(fusion)[-1].cells[-1] == "the engine's process died: signal SIGILL"


def test_the_ratios_in_one_line():
    component, image = choices.choices(chosen())[0]
    line = choices.sentence(component, image)
    assert line.startswith(
        "image_encoder, latency over onnxruntime FP32: openvino INT8 int8_symmetric 0.238 [0.228, 0.250]; "
    )
    assert "openvino BF16 0.450 [0.432, 0.473]" in line


def test_every_rendering_says_what_ships_and_why():
    page, text = html.render(chosen()), markdown.render(chosen())
    for words in ("compression does not pay", "not surely faster than onnxruntime FP32", "ships"):
        assert words in page
        assert words in text
        for width in (80, 130):
            assert words in " ".join(terminal(width).split())
    assert "<h2>Choices</h2>" in page
    assert "<summary>Choices</summary>" in text


def test_without_a_choice_there_is_no_section():
    assert "Choices" not in html.render(passed())
    assert "Choices" not in markdown.render(passed())


def test_what_is_no_choice_is_not_shown_as_one():
    for metadata in ({}, {"chosen": "a"}, {"chosen": "a", "reference": "b", "measurements": "none"}):
        step = StepRecord(
            id="a/select", component="a", kind="select", method="auto", status="failed", metadata=metadata
        )
        assert choices.choices(passed().model_copy(update={"steps": (*STEPS, step)})) == []
