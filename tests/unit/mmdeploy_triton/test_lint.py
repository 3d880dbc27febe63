"""Lint without a server: lines, messages, folders without models. The rules: tests/integration."""

import pytest

from mmdeploy.core.errors import UsageError
from mmdeploy.triton.lint import Severity, lint
from mmdeploy.triton.lint.positions import field_lines, line_of

TEXT = """# a comment with { and "
name: "m"
input [
  { name: "a" dims: [ 1,
      0 ] },
  { name: "b # no comment" 'joined'
    dims: 3 dims: -7 }
]
parameters { key: "k" value: { string_value: "}" } }
dynamic_batching < preferred_batch_size: [] >
instance_group { count: -1 }, instance_group { count: 2 };
ensemble_scheduling { step { model_name: "x" } step {
  model_name: "y" } }
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("name", 2), ("input[0]", 4), ("input[0].dims[1]", 5), ("input[1].dims[1]", 7), ("input[1].dims", 7),
        ("parameters", 9), ("dynamic_batching.preferred_batch_size", 10), ("instance_group[1].count", 11),
        ("ensemble_scheduling.step[1].model_name", 13), ("input[1].reshape.shape", 6),
        ("optimization.graph", None),
    ],
)  # fmt: skip
def test_every_field_is_found_in_its_line(path, line):
    assert line_of(field_lines(TEXT), path) == line


@pytest.mark.parametrize("text", ["", "{", "a", "a:", "a: [", "a { b: [ {", '"', "}", ": : :", "a: 1 } b: 2"])
def test_positions_of_broken_text_do_not_fail_or_hang(text):
    field_lines(text)


def write(root, name, text, *files):
    (root / name).mkdir(parents=True)
    (root / name / "config.pbtxt").write_text(text)
    for file in files:
        (root / name / file).parent.mkdir(parents=True, exist_ok=True)
        (root / name / file).touch()


def test_a_finding_says_where_what_and_what_to_do(tmp_path):
    write(tmp_path, "encoder", 'name: "encoder"\nbackend: "onnxruntime"\nmax_batch_size: -2\n', "1/model.onnx")
    (finding,) = lint(tmp_path)
    assert (finding.rule, finding.severity, finding.line) == ("max-batch-size", Severity.ERROR, 3)
    assert str(finding) == (
        f"{tmp_path.resolve()}/encoder/config.pbtxt:3 error max-batch-size: max_batch_size is -2; "
        "0 is no batching, else 1 or more"
    )


def test_a_misspelt_field_gets_the_nearest_match(tmp_path):
    write(tmp_path, "m", 'name: "m"\nmax_batchsize: 3\n', "1/model.onnx")
    (finding,) = lint(tmp_path)
    assert finding.line == 2 and "did you mean 'max_batch_size'?" in finding.remedy


def test_a_config_that_is_no_text_is_a_finding(tmp_path):
    write(tmp_path, "m", "", "1/model.onnx")
    (tmp_path / "m" / "config.pbtxt").write_bytes(b"\xff\xfe\x00")
    (finding,) = lint(tmp_path)
    assert finding.rule == "config-syntax" and "not UTF-8" in finding.message


def test_a_folder_with_nothing_that_looks_like_a_model_is_linted_all_the_same(tmp_path):
    (tmp_path / "v1").mkdir()
    assert {finding.rule for finding in lint(tmp_path)} == {"backend-missing", "version-missing"}


def test_what_is_no_folder_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="not there"):
        lint(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="holds no Triton model"):
        lint(tmp_path)


def test_one_clash_is_reported_once_and_at_the_step_that_differs(tmp_path):
    tensor = "data_type: TYPE_FP32 dims: 4"
    io = f'input {{ name: "x" {tensor} }}\noutput {{ name: "y" {tensor} }}\n'
    write(tmp_path, "a", f'name: "a"\nbackend: "onnxruntime"\n{io}', "1/model.onnx")
    write(
        tmp_path, "e",
        f'name: "e"\nplatform: "ensemble"\n{io.replace("4", "5", 1)}ensemble_scheduling {{\n  step {{\n'
        '    model_name: "a"\n    model_version: 1\n    input_map { key: "x" value: "x" }\n'
        '    output_map { key: "y" value: "y" }\n  }\n}\n',
    )  # fmt: skip
    (tmp_path / "e" / "1").mkdir()
    (finding,) = lint(tmp_path)
    assert (finding.rule, finding.line) == ("ensemble-shape", 9)
    assert "[5] as the ensemble's input, but [4] as input 'x' of 'a'" in finding.message


STRINGS = """
backend: "python" max_batch_size: 4
input { name: "x" data_type: TYPE_STRING dims: [ 4 ] }
output { name: "y" data_type: TYPE_STRING dims: [ 4 ] }
model_warmup { name: "w" batch_size: 1 inputs { key: "x" value {
  data_type: TYPE_STRING dims: [ 4 ] input_data_file: "raw" } } }
"""


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\1\0\0\0a" * 3, "holds 3 strings, of 4 that it needs"),
        (b"\1\0\0\0a" * 5, "holds 5 strings, of 4 that it needs"),
        (b"\1\0\0\0a" * 3 + b"\x09\0\0\0a", "ends within string 4"),
        (b"\1\0\0\0a" * 3 + b"\1\0", "ends within string 4"),
        (b"", "holds 0 strings"),
    ],
)
def test_a_warm_up_of_strings_is_looked_into(tmp_path, content, said):
    """Tried by hand on Triton 2.51: it refuses the first four when it runs the warm-up, or dies of that."""
    write(tmp_path, "m", STRINGS, "1/model.py", "warmup/raw")
    (tmp_path / "m" / "1" / "model.py").write_text("class TritonPythonModel: ...")
    (tmp_path / "m" / "warmup" / "raw").write_bytes(content)
    (finding,) = lint(tmp_path)
    assert finding.rule == "warmup-data"
    assert said in finding.message
