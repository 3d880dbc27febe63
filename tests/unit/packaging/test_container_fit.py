"""A repository held against a release image of Triton."""

import json
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import parser

from mmdeploy.cli import commands
from mmdeploy.cli.outcome import run
from mmdeploy.packaging.containers import container
from mmdeploy.packaging.fit import unfit
from mmdeploy.triton.lint import Severity

IMAGE = container("26.08-py3")
GRAPH = "g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }"


def model(root: Path, backend: str, content: bytes, filename: str, rules: str = "") -> Path:
    folder = root / "encoder"
    (folder / "1").mkdir(parents=True)
    (folder / "1" / filename).write_bytes(content)
    more = f'parameters {{ key: "mmdeploy.inputs" value {{ string_value: {json.dumps(rules)} }} }}\n' if rules else ""
    text = f'name: "encoder"\nbackend: "{backend}"\ndefault_model_filename: "{filename}"\nmax_batch_size: 8\n{more}'
    (folder / "config.pbtxt").write_text(text)
    return folder / "1" / filename


def graph(opset: int = 20, ir: int = 10) -> bytes:
    built = parser.parse_model(f'<ir_version: {ir}, opset_import: ["" : {opset}]> {GRAPH}')
    return built.SerializeToString()


def plan(*version: int) -> bytes:
    """The head of an engine: its tag, 20 bytes, the version."""
    return b"ftrt" + bytes(20) + bytes(version) + bytes(100)


def found(root: Path, image=IMAGE):
    return [(one.rule, one.severity, one.file) for one in unfit(root, image)]


def test_what_an_image_serves_is_not_complained_of(tmp_path: Path) -> None:
    model(tmp_path, "onnxruntime", graph(26, 13), "model.onnx")
    assert found(tmp_path) == []


@pytest.mark.parametrize(("opset", "ir"), [(27, 13), (20, 14)])
def test_a_graph_that_is_too_new_is_an_error_with_its_file_and_limit(tmp_path: Path, opset: int, ir: int) -> None:
    file = model(tmp_path, "onnxruntime", graph(opset, ir), "model.onnx")
    (one,) = unfit(tmp_path, IMAGE)
    assert (one.rule, one.severity, one.file) == ("container-opset", Severity.ERROR, file.resolve())
    assert "ONNX Runtime 1.28.0 of 26.08-py3" in one.message and str(26 if opset == 27 else 13) in one.message


def test_other_domains_have_opsets_of_their_own(tmp_path: Path) -> None:
    built = onnx.load_from_string(graph())
    built.opset_import.add(domain="com.microsoft", version=99)
    model(tmp_path, "onnxruntime", built.SerializeToString(), "model.onnx")
    assert found(tmp_path) == []


@pytest.mark.parametrize("backend", ["tensorrt_rtx", "vllm", "mine"])
def test_a_backend_that_is_not_in_the_image_is_an_error_at_its_line(tmp_path: Path, backend: str) -> None:
    model(tmp_path, backend, b"", "model.plan")
    (one,) = unfit(tmp_path, IMAGE)
    assert (one.rule, one.severity, one.line) == ("container-backend", Severity.ERROR, 2)
    assert repr(backend) in one.message and "tensorrt" in one.message


@pytest.mark.parametrize(
    ("version", "severity"),
    [
        ((11, 2, 1, 2), None),
        ((11, 1, 0, 106), Severity.WARNING),  # runs there if it was built so
        ((11, 3, 0, 99), Severity.ERROR),
        ((10, 16, 0, 72), Severity.ERROR),
    ],
)
def test_an_engine_belongs_to_the_tensorrt_that_built_it(tmp_path: Path, version, severity) -> None:
    file = model(tmp_path, "tensorrt", plan(*version), "model.plan")
    assert found(tmp_path) == ([] if severity is None else [("container-engine", severity, file.resolve())])


def test_an_engine_of_tensorrt_rtx_is_none_of_tensorrt(tmp_path: Path) -> None:
    file = model(tmp_path, "tensorrt", b"vtrt" + plan(1, 7, 1, 116)[4:], "model.plan")
    assert found(tmp_path) == [("container-engine", Severity.ERROR, file.resolve())]


@pytest.mark.parametrize("content", [b"", b"ftrt", b"not a plan" * 10])
def test_an_engine_that_does_not_say_is_a_doubt(tmp_path: Path, content: bytes) -> None:
    file = model(tmp_path, "tensorrt", content, "model.plan")
    assert found(tmp_path) == [("container-engine", Severity.WARNING, file.resolve())]


@pytest.mark.parametrize(("by", "told"), [("2026.4.0", True), ("2026.3.0", False), ("2025.10.0", False)])
def test_a_model_of_a_newer_openvino_is_a_doubt(tmp_path: Path, by: str, told: bool) -> None:
    text = f'<net><rt_info><Runtime_version value="{by}-1-x" /></rt_info></net>'
    file = model(tmp_path, "openvino", text.encode(), "model.xml")
    assert found(tmp_path) == ([("container-openvino", Severity.WARNING, file.resolve())] if told else [])


@pytest.mark.parametrize(
    ("backend", "content", "filename", "told"),
    [
        ("onnxruntime", graph(), "model.onnx", "opset 20"),
        ("tensorrt", plan(11, 3, 0, 99), "model.plan", "11.3.0.99"),
        ("openvino", b"<net/>", "model.xml", "hides"),
    ],
)
def test_what_is_not_known_of_an_image_is_said_and_never_passed(tmp_path, backend, content, filename, told) -> None:
    model(tmp_path, backend, content, filename)
    unknown = replace(IMAGE, tag="26.10-py3", onnxruntime=None, onnx_opset=None, tensorrt=None, openvino=None)
    (one,) = unfit(tmp_path, unknown)
    assert (one.rule, one.severity) == ("container-unknown", Severity.WARNING)
    assert told in one.message and "26.08-py3 has" in one.message


def test_checks_that_only_our_backend_makes_are_missed_in_the_image(tmp_path: Path) -> None:
    model(tmp_path, "onnxruntime", graph(), "model.onnx", rules=json.dumps({"x": {"tensor": "image", "range": [0, 1]}}))
    (one,) = unfit(tmp_path, IMAGE)
    assert (one.rule, one.severity, one.line) == ("container-checks", Severity.WARNING, 2)
    assert "(x)" in one.message and "guard: graph" in one.remedy


def test_checks_in_the_graph_hold_anywhere_and_a_name_alone_is_no_check(tmp_path: Path) -> None:
    built = onnx.load_from_string(graph())
    built.graph.node.insert(0, onnx.helper.make_node("Identity", ["x"], ["guard/x/0"]))
    rules = {"x": {"tensor": "image", "finite": True}, "z": {"tensor": "audio"}}
    model(tmp_path, "onnxruntime", built.SerializeToString(), "model.onnx", rules=json.dumps(rules))
    assert found(tmp_path) == []


def test_packages_of_steps_must_be_installed(tmp_path: Path) -> None:
    model(tmp_path, "python", b"", "model.py")
    (tmp_path / "requirements.txt").write_text("# steps\npillow==12.0.0\n\nsoundfile==0.13.1\n")
    (one,) = unfit(tmp_path, IMAGE)
    assert (one.rule, one.severity, one.file.name) == ("container-packages", Severity.WARNING, "requirements.txt")
    assert "pillow==12.0.0, soundfile==0.13.1" in one.message


def test_lint_takes_the_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model(tmp_path, "onnxruntime", graph(27, 13), "model.onnx")
    assert run(commands, ["lint", str(tmp_path), "--container", "26.08-py3", "--json"]) == 1
    assert "container-opset" in {one["rule"] for one in json.loads(capsys.readouterr().out)["findings"]}
    assert run(commands, ["lint", str(tmp_path), "--container", "26.13-py3"]) == 2
    assert "is not in the table" in capsys.readouterr().err


def test_the_backend_of_machine_code_is_in_no_image_and_it_is_said_what_theirs_would_take(tmp_path: Path) -> None:
    model(tmp_path, "aot_inductor", b"", "model.pt2")
    (one,) = unfit(tmp_path, IMAGE)
    assert (one.rule, one.severity) == ("container-backend", Severity.ERROR)
    assert "torch_aoti" in one.remedy and "without a batch dimension" in one.remedy
