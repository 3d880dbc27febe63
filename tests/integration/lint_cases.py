"""Models that lint and a real Triton must judge alike: one folder a case, all in one repository."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ECHO = """
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            x = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
            answers.append(pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("y", x)]))
        return answers
"""
#: A Python-based backend that opens the model file, as real ones do.
OPENS_FILE = """
import json, os
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def initialize(self, args):
        name = json.loads(args["model_config"])["default_model_filename"]
        open(os.path.join(args["model_repository"], args["model_version"], name)).close()
"""
IO = """
input [ { name: "x" data_type: TYPE_FP32 dims: [ 4 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 4 ] } ]
"""
PYTHON = 'backend: "python" max_batch_size: 8\n'
FILE = 'backend: "opens_file" default_model_filename: "weights.bin" max_batch_size: 8\n'
ENSEMBLE = 'platform: "ensemble" max_batch_size: 8\n'


@dataclass(frozen=True)
class Case:
    """One model folder.

    Attributes:
        name: Name of the folder.
        rule: The one rule that it breaks; empty for none.
        reason: What Triton's log must say (regular expression); empty where Triton must load it.
        config: Text of config.pbtxt; None for no file.
        files: Other files by path; a path that ends in / is an empty folder.
    """

    name: str
    rule: str
    reason: str
    config: str | None
    files: dict[str, str]

    def write(self, root: Path) -> Path:
        folder = root / self.name
        folder.mkdir(parents=True)
        if self.config is not None:
            (folder / "config.pbtxt").write_text(self.config)
        for name, text in self.files.items():
            path = folder / name
            if name.endswith("/"):
                path.mkdir(parents=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
        return folder


def model(
    name: str, rule: str = "", reason: str = "", *, extra: str = "", io: str = IO, head: str = PYTHON,
    files: dict[str, str] | None = None,
) -> Case:  # fmt: skip
    files = {"1/model.py": ECHO} if files is None else files
    return Case(name, rule, reason, f'name: "{name}"\n{head}{io}{extra}\n', files)


def step(name: str, inputs: str, outputs: str, version: str = "model_version: 1") -> str:
    """Give a step; ``inputs`` and ``outputs`` are written "x:x y:t"."""
    maps = "".join(
        f' {side}_map {{ key: "{pair.split(":")[0]}" value: "{pair.split(":")[1]}" }}'
        for side, pairs in (("input", inputs), ("output", outputs))
        for pair in pairs.split()
    )
    named = f'model_name: "{name}" ' if name else ""
    return f"  step {{ {named}{version}{maps} }}\n"


ONE = step("good", "x:x", "y:y")


def ensemble(
    name: str, rule: str = "", reason: str = "", *, steps: Iterable[str] = (ONE,), io: str = IO,
    extra: str = "", head: str = ENSEMBLE, files: dict[str, str] | None = None,
) -> Case:  # fmt: skip
    body = "ensemble_scheduling {\n" + "".join(steps) + "}\n"
    files = {"1/": ""} if files is None else files
    return Case(name, rule, reason, f'name: "{name}"\n{head}{io}{body}{extra}\n', files)


def first_input(text: str) -> str:
    """Give the usual tensors with ``text`` in place of the input's dims."""
    return IO.replace("dims: [ 4 ]", text, 1)


def warmup(body: str, batch_size: int = 1) -> str:
    return f'model_warmup [ {{ name: "w" batch_size: {batch_size} {body} }} ]'


def sample(name: str = "x", dtype: str = "FP32", dims: str = "4", data: str = "zero_data: true") -> str:
    return f'inputs {{ key: "{name}" value {{ data_type: TYPE_{dtype} dims: [ {dims} ] {data} }} }}'


def control(*entries: str) -> str:
    """Give a sequence batcher; an entry is the name of a control tensor and what it controls."""
    listed = (
        f'control_input {{ name: "{name}" control {{ {what} }} }}'
        for name, _, what in (entry.partition(" ") for entry in entries)
    )
    return f"sequence_batching {{ {' '.join(listed)} }}"


def state(initial: str, dims: str = "4") -> str:
    return (
        f'sequence_batching {{ state {{ input_name: "si" output_name: "so" data_type: TYPE_FP32 dims: [ {dims} ] '
        f"{initial} }} }}"
    )


def initial(dtype: str = "FP32", dims: str = "4", data: str = "zero_data: true", name: str = 'name: "i"') -> str:
    return f"initial_state {{ {name} data_type: TYPE_{dtype} dims: [ {dims} ] {data} }}"


def parameter(key: str, value: str) -> str:
    return f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}'


def warmed_by(content: str, dtype: str = "FP32") -> dict[str, Any]:
    """Give the options of a model whose warm-up takes its tensor from a file."""
    return {
        "extra": warmup(sample(dtype=dtype, data='input_data_file: "raw"')),
        "io": IO.replace("FP32", dtype),
        "files": {"1/model.py": ECHO, "warmup/raw": content},
    }


STARTS = "kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ]"
ENDS = STARTS.replace("START", "END")
A_STRING = "\x01\x00\x00\x00a"

#: What the ensembles below are made of, and what else must pass both judges.
GOOD = [
    model("good"),
    model("good4", head='backend: "python" max_batch_size: 4\n'),
    model("good_int", io=IO.replace("FP32", "INT32")),
    model("good_two", io=IO.replace("input [", 'input [ { name: "x2" data_type: TYPE_FP32 dims: [ 4 ] },')),
    model("good_unbatched", head='backend: "python"\n', io=IO.replace("[ 4 ]", "[ -1, 4 ]")),
    model("good_reshape", io=IO.replace("[ 4 ]", "[ 1 ] reshape { shape: [ ] }")),
    model("good_file", head=FILE, files={"1/weights.bin": ""}),
    model("good_warmup", extra=warmup(sample(), batch_size=8)),
    model("good_specific", extra="version_policy { specific { versions: [ 2 ] } }",
          files={"1/model.py": ECHO, "2/model.py": ECHO}),
    model("good_sequence", extra="sequence_batching { }"),
    model("good_labels", io=IO.replace("output [ {", 'output [ { label_filename: "labels.txt"'),
          files={"1/model.py": ECHO, "labels.txt": "a\nb\n"}),
    Case("good_no_config", "", "", None, {"1/model.py": ECHO}),
    ensemble("good_ensemble"),
    ensemble("good_chain", steps=[step("good", "x:t", "y:y"), step("good4", "x:x", "y:t")],
             head='platform: "ensemble" max_batch_size: 4\n'),
    ensemble("good_nested", steps=[step("good_ensemble", "x:x", "y:y")]),
    ensemble("good_mixed", steps=[step("good_unbatched", "x:x", "y:y")]),
    ensemble("good_unbatched_ensemble", head='platform: "ensemble"\n', io=IO.replace("[ 4 ]", "[ -1, 4 ]")),
    ensemble("good_any_size", io=first_input("dims: [ -1 ]")),
    model("good_controls", extra=control(f"s {STARTS}", f"e {ENDS}",
                                         "c kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_STRING")),
    model("good_state", extra=state("")),
    model("good_initial_state", extra=state(initial(), dims="-1")),
    model("good_state_file", extra=state(initial(data='data_file: "f"')),
          files={"1/model.py": ECHO, "initial_state/f": "0" * 20}),
    model("good_warmup_file", **warmed_by("0" * 20)),
    model("good_warmup_strings", **warmed_by(A_STRING * 4, "STRING")),
    model("good_switch", extra=parameter("FORCE_CPU_ONLY_INPUT_TENSORS", "no")),
    model("good_largest_version", files={f"{2**63 - 1}/model.py": ECHO}),
    model("good_imported_class", files={"1/model.py": "from echo import *", "1/echo.py": ECHO}),
]  # fmt: skip

#: Each breaks one error rule; Triton must refuse it.
BROKEN = [
    model("unknown_field", "config-syntax", "failed to read text proto", extra="frobnicate: 1"),
    model("cut_off", "config-syntax", "failed to read text proto", extra="instance_group {"),
    model("two_batchers", "config-syntax", "failed to read text proto",
          extra="dynamic_batching { } sequence_batching { }"),
    ensemble("ensemble_batching", "config-syntax", "failed to read text proto", extra="dynamic_batching { }"),
    model("newer_metrics", "config-newer", "failed to read text proto", extra="model_metrics { }"),
    ensemble("newer_inflight", "config-newer", "failed to read text proto",
             steps=[ONE, "max_inflight_requests: 3"]),
    Case("wrong_name", "model-name", "unexpected directory name", f'name: "other"\n{PYTHON}{IO}',
         {"1/model.py": ECHO}),
    model("no_backend", "backend-missing", "Could not determine backend", head="max_batch_size: 8\n",
          files={"1/junk.bin": ""}),
    Case("no_anything", "backend-missing", "Could not determine backend", None, {"1/": ""}),
    model("unknown_platform", "backend-missing", "unexpected platform type",
          head='platform: "onnx" max_batch_size: 8\n'),
    model("platform_clash", "backend-platform", "unexpected 'platform' and 'backend' pair",
          head='backend: "onnxruntime" platform: "tensorrt_plan" max_batch_size: 8\n',
          files={"1/model.onnx": ""}),
    ensemble("ensemble_backend", "backend-platform", "empty backend type", extra='backend: "python"'),
    model("no_version", "version-missing", "at least one version must be available", files={}),
    model("letter_version", "version-missing", "at least one version must be available",
          files={"v1/model.py": ECHO}),
    model("zero_version", "version-missing", "at least one version must be available",
          files={"01/model.py": ECHO}),
    model("absent_version", "version-missing", "at least one version must be available",
          extra="version_policy { specific { versions: [ 3 ] } }"),
    model("latest_none", "version-missing", "at least one version must be available",
          extra="version_policy { latest { num_versions: 0 } }"),
    ensemble("ensemble_no_version", "version-missing", "at least one version must be available", files={}),
    model("half_number", "version-name", "No such file", head=FILE, files={"1x/weights.bin": ""}),
    model("negative_version", "version-name", "No such file", head=FILE, files={"-3/weights.bin": ""}),
    model("no_file", "model-file", "No such file", head=FILE, files={"1/": ""}),
    model("no_tensor_name", "tensor-name", "must specify 'name'", io=IO.replace('name: "x"', "")),
    model("no_dtype", "tensor-dtype", "must specify 'data_type'",
          io=IO.replace("data_type: TYPE_FP32", "", 1)),
    model("no_dims", "tensor-dims", "must specify 'dims'", io=first_input("")),
    model("no_output_dims", "tensor-dims", "must specify 'dims'",
          io=IO[::-1].replace("dims: [ 4 ]"[::-1], "", 1)[::-1]),
    model("zero_dim", "tensor-dims", "dimension must be integer >= 1", io=first_input("dims: [ 0 ]")),
    model("negative_dim", "tensor-dims", "dimension must be integer >= 1", io=first_input("dims: [ 4, -2 ]")),
    model("bad_reshape", "tensor-reshape", "different size for dims and reshape",
          io=first_input("dims: [ 4 ] reshape { shape: [ 3 ] }")),
    model("zero_reshape", "tensor-reshape", "reshape dimensions must be integer >= 1",
          io=first_input("dims: [ 4 ] reshape { shape: [ 0 ] }")),
    model("open_reshape", "tensor-reshape", "different size for dims and reshape",
          io=first_input("dims: [ -1, 2 ] reshape { shape: [ 2, -1 ] }")),
    model("scalar_unbatched", "tensor-reshape", "cannot have empty reshape", head='backend: "python"\n',
          io=first_input("dims: [ 1 ] reshape { }")),
    model("image_format", "tensor-format", "require 3 dims",
          io=first_input("dims: [ 4 ] format: FORMAT_NCHW")),
    model("shape_tensor", "tensor-format", "shape tensors are only supported",
          io=first_input("dims: [ 4 ] is_shape_tensor: true")),
    model("non_linear", "tensor-format", "Non-linear IO format",
          io=first_input("dims: [ 4 ] is_non_linear_format_io: true")),
    model("batch_source", "batch-tensor", "unknown source input name",
          extra='batch_input [ { kind: BATCH_ELEMENT_COUNT target_name: "b" data_type: TYPE_FP32 '
                'source_input: "z" } ]'),
    model("batch_sources", "batch-tensor", "expects 1 source input",
          extra='batch_input [ { kind: BATCH_ELEMENT_COUNT target_name: "b" data_type: TYPE_FP32 } ]'),
    model("batch_dtype", "batch-tensor", "data type must be TYPE_INT32 or TYPE_FP32",
          extra='batch_input [ { kind: BATCH_ELEMENT_COUNT target_name: "b" data_type: TYPE_FP64 '
                'source_input: "x" } ]'),
    model("batch_target", "batch-tensor", "unknown target output name",
          extra='batch_output [ { kind: BATCH_SCATTER_WITH_INPUT_SHAPE target_name: "z" '
                'source_input: "x" } ]'),
    model("no_labels", "label-file", "failed to open text file",
          io=IO.replace("output [ {", 'output [ { label_filename: "labels.txt"')),
    ensemble("ensemble_no_labels", "label-file", "failed to open text file",
             io=IO.replace("output [ {", 'output [ { label_filename: "labels.txt"')),
    model("negative_batch", "max-batch-size", "must be non-negative",
          head='backend: "python" max_batch_size: -1\n'),
    model("preferred_big", "preferred-batch-size", "must be <= max batch size",
          extra="dynamic_batching { preferred_batch_size: [ 4, 16 ] }"),
    model("preferred_zero", "preferred-batch-size", "must be positive",
          extra="dynamic_batching { preferred_batch_size: [ 0 ] }"),
    model("preferred_sequence", "preferred-batch-size", "preferred batch size must be <=",
          extra="sequence_batching { oldest { max_candidate_sequences: 4 preferred_batch_size: [ 16 ] } }"),
    model("priority_unset", "priority", "default priority level must be in range",
          extra="dynamic_batching { priority_levels: 2 }"),
    model("priority_policy", "priority", "must have priority level in range",
          extra="dynamic_batching { priority_levels: 2 default_priority_level: 1 "
                "priority_queue_policy { key: 5 value { } } }"),
    model("ordered_priorities", "preserve-ordering", "Only one priority level",
          extra="dynamic_batching { preserve_ordering: true priority_levels: 2 default_priority_level: 1 }"),
    model("ordered_delay", "preserve-ordering", "can not have DELAY",
          extra="dynamic_batching { preserve_ordering: true default_queue_policy "
                "{ timeout_action: DELAY default_timeout_microseconds: 5 } }"),
    model("slot_share", "sequence-batching", "minimum slot utilization",
          extra="sequence_batching { direct { minimum_slot_utilization: 2.0 } }"),
    model("control_name", "sequence-batching", "control tensor must have a name",
          extra="sequence_batching { control_input [ { } ] }"),
    model("control_values", "sequence-batching", "must specify either",
          extra='sequence_batching { control_input [ { name: "s" control '
                "[ { kind: CONTROL_SEQUENCE_START } ] } ] }"),
    model("start_twice", "sequence-batching", "specifies multiple CONTROL_SEQUENCE_START",
          extra=control(f"s {STARTS}", f"t {STARTS}")),
    model("control_twice", "sequence-batching", "is specified for multiple control kinds",
          extra=control(f"s {STARTS}", f"s {ENDS}")),
    model("correlation_dtype", "sequence-batching", "unexpected data type for control CONTROL_SEQUENCE_CORRID",
          extra=control("c kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_FP32")),
    model("cache_decoupled", "response-cache", "'decoupled' transaction policy",
          extra="response_cache { enable: true } model_transaction_policy { decoupled: true }"),
    model("cache_sequence", "response-cache", "sequence batching scheduler",
          extra="response_cache { enable: true } sequence_batching { }"),
    model("cpu_gpus", "instance-group", "KIND_CPU but specifies one or more GPUs",
          extra="instance_group [ { kind: KIND_CPU gpus: [ 0 ] } ]"),
    model("model_gpus", "instance-group", "KIND_MODEL but specifies one or more GPUs",
          extra="instance_group [ { kind: KIND_MODEL gpus: [ 0 ] } ]"),
    model("profile", "instance-group", "only supported for TensorRT",
          extra='instance_group [ { profile: [ "0" ] } ]'),
    model("warmup_no_input", "warmup-input-missing", "missing required input", extra=warmup("")),
    model("warmup_shape", "warmup-tensor", "unexpected shape for input", extra=warmup(sample(dims="5"))),
    model("warmup_open", "warmup-tensor", "all variable-size dimensions", extra=warmup(sample(dims="-1"))),
    model("warmup_dtype", "warmup-tensor", "data-type is 'INT64'", extra=warmup(sample(dtype="INT64"))),
    model("warmup_no_data", "warmup-data", "to have input_data_type set", extra=warmup(sample(data=""))),
    model("warmup_no_file", "warmup-data", "failed to open text file",
          extra=warmup(sample(data='input_data_file: "x.raw"'))),
    model("warmup_short_file", "warmup-data", "has 15 bytes", **warmed_by("0" * 15)),
    model("switch", "python-parameter", "Incorrect value", extra=parameter("FORCE_CPU_ONLY_INPUT_TENSORS", "true")),
    model("no_environment", "python-parameter", "canonical path",
          extra=parameter("EXECUTION_ENV_PATH", "$$TRITON_MODEL_DIRECTORY/env.tar.gz")),
    model("no_archive", "python-parameter", "archive_read_open_filename",
          extra=parameter("EXECUTION_ENV_PATH", "$$TRITON_MODEL_DIRECTORY/env.tar.gz"),
          files={"1/model.py": ECHO, "env.tar.gz": "no archive"}),
    model("no_strategy", "batch-strategy", "Batching library path not found",
          extra=parameter("TRITON_BATCH_STRATEGY_PATH", "/nowhere/strategy.so")),
    model("text_strategy", "batch-strategy", "unable to load shared library",
          files={"1/model.py": ECHO, "1/batchstrategy.so": "no library"}),
    model("python_folder", "model-file", "No module named", files={"1/model.py/": ""}),
    model("python_nothing", "python-model", "no attribute 'TritonPythonModel'", files={"1/model.py": "x = 1"}),
    model("python_syntax", "python-model", "SyntaxError", files={"1/model.py": "class TritonPythonModel("}),
    model("agent", "repository-agent", "unable to find", extra='model_repository_agents { agents { name: "a" } }'),
    ensemble("steps_elsewhere", "ensemble-platform", "cannot be set for model", head=PYTHON,
             files={"1/model.py": ECHO}),
    ensemble("no_steps", "ensemble-platform", "must specify 'step'", steps=[]),
    model("no_scheduling", "ensemble-platform", "ensemble scheduling must be set",
          head=ENSEMBLE, files={"1/": ""}),
    ensemble("ensemble_instances", "ensemble-field", "instance group should not",
             extra="instance_group [ { } ]"),
    ensemble("ensemble_optimization", "ensemble-field", "optimization should not", extra="optimization { }"),
    ensemble("ensemble_warmup", "ensemble-field", "model_warmup can not", extra=warmup(sample())),
    ensemble("step_no_model", "ensemble-step-field", "must specify 'model_name'",
             steps=[step("", "x:x", "y:y")]),
    ensemble("step_no_input", "ensemble-step-field", "must specify 'input_map'",
             steps=[ONE, step("good_no_config", "", "q:q")], io=IO.replace(
                 "output [", 'output [ { name: "q" data_type: TYPE_FP32 dims: [ 4 ] },')),
    ensemble("step_no_output", "ensemble-step-field", "must specify 'output_map'",
             steps=[ONE, step("good", "x:x", "")]),
    ensemble("written_twice", "ensemble-written-twice", "can appear in an output map only once",
             steps=[ONE, step("good4", "x:x", "y:y")], head='platform: "ensemble" max_batch_size: 4\n'),
    ensemble("unused_input", "ensemble-input-unused", "ensemble input 'u' .* is not used",
             io=IO.replace("input [", 'input [ { name: "u" data_type: TYPE_FP32 dims: [ 4 ] },')),
    ensemble("unwritten_output", "ensemble-output-unwritten", "ensemble output 'u' .* is not used",
             io=IO.replace("output [", 'output [ { name: "u" data_type: TYPE_FP32 dims: [ 4 ] },')),
    ensemble("unfed", "ensemble-tensor-unfed", "'nowhere', is not connected",
             steps=[ONE, step("good", "x:nowhere", "y:t")],
             io=IO.replace("output [", 'output [ { name: "t" data_type: TYPE_FP32 dims: [ 4 ] },')),
    ensemble("unfed_output", "ensemble-tensor-unfed", "'nowhere', is not connected",
             steps=[step("good_two", "x:x x2:nowhere", "y:y")]),
    ensemble("unused_tensor", "ensemble-tensor-unused", "'t' is unused",
             steps=[ONE, step("good", "x:x", "y:t")]),
    ensemble("circle", "ensemble-cycle", "'(a|b)' is unused",
             steps=[ONE, step("good", "x:a", "y:b"), step("good", "x:b", "y:a")]),
    ensemble("circle_output", "ensemble-cycle", "is not written",
             steps=[step("good_two", "x:x x2:t", "y:y"), step("good", "x:y", "y:t")]),
    ensemble("ghost", "ensemble-model-unknown", "not available or ambiguous: gost",
             steps=[step("gost", "x:x", "y:y")]),
    ensemble("itself", "ensemble-model-circle", "circular dependency", steps=[step("itself", "x:x", "y:y")]),
    ensemble("ring_a", "ensemble-model-circle", "circular dependency.*ring_a",
             steps=[step("ring_b", "x:x", "y:y")]),
    ensemble("ring_b", "ensemble-model-circle", "circular dependency.*ring_b",
             steps=[step("ring_a", "x:x", "y:y")]),
    ensemble("step_version", "ensemble-step-version", "required version 7 is not loaded",
             steps=[step("good", "x:x", "y:y", "model_version: 7")]),
    ensemble("step_version_unset", "ensemble-step-version", "required version 0 is not loaded",
             steps=[step("good", "x:x", "y:y", "")]),
    ensemble("step_input", "ensemble-step-tensor", "mapping to non-existing input",
             steps=[step("good", "x:x z:x", "y:y")]),
    ensemble("step_output", "ensemble-step-tensor", "mapped from non-existing output",
             steps=[step("good", "x:x", "z:y")]),
    ensemble("unmapped", "ensemble-step-input-unmapped", "is not mapped to any",
             steps=[step("good_two", "x:x", "y:y")]),
    ensemble("batch", "ensemble-batch-size", "only allows maximum batch size",
             steps=[step("good4", "x:x", "y:y")]),
    ensemble("dtype", "ensemble-dtype", "inconsistent data type",
             steps=[step("good", "x:x", "y:t"), step("good_int", "x:t", "y:y")],
             io=IO[::-1].replace("FP32"[::-1], "INT32"[::-1], 1)[::-1]),
    ensemble("input_dtype", "ensemble-dtype", "inconsistent data type", io=IO.replace("FP32", "INT32", 1)),
    ensemble("shape", "ensemble-shape", "inconsistent shape", io=first_input("dims: [ 5 ]")),
    ensemble("rank", "ensemble-shape", "inconsistent shape", io=first_input("dims: [ 2, 2 ]")),
    ensemble("ensemble_reshape", "ensemble-shape", "inconsistent shape",
             io=first_input("dims: [ 4 ] reshape { shape: [ 2, 2 ] }")),
]  # fmt: skip

#: Each breaks an error rule too. Triton refuses it, or dies of having refused it.
FRAGILE = [
    model("state_name", "sequence-state", "'name' must be set", extra=state(initial(name=""))),
    model("state_data", "sequence-state", "to have state_data set", extra=state(initial(data=""))),
    model("state_dtype", "sequence-state", "does not match the state data type", extra=state(initial("INT32"))),
    model("state_dims", "sequence-state", "doesn't match 'state' dim", extra=state(initial(dims="5"))),
    model("state_rank", "sequence-state", "Number of dimensions", extra=state(initial(dims="1, 4"))),
    model("state_open", "sequence-state", "variable dimensions", extra=state(initial(dims="-1"))),
    model("state_two", "sequence-state", "exactly one or zero element", extra=state(initial() + initial())),
    model("state_no_file", "sequence-state", "failed to open text file",
          extra=state(initial(data='data_file: "f"'))),
    model("state_short_file", "sequence-state", "has 15 bytes", extra=state(initial(data='data_file: "f"')),
          files={"1/model.py": ECHO, "initial_state/f": "0" * 15}),
]  # fmt: skip

#: Each breaks one warning rule; Triton must load it all the same.
UNWISE = [
    model("ignored_version", "version-ignored", files={"1/model.py": ECHO, "old/model.py": ECHO}),
    model("partly_missing", "version-partly-missing",
          extra="version_policy { specific { versions: [ 1, 3 ] } }"),
    model("declared_twice", "tensor-duplicate",
          io=IO.replace("input [", 'input [ { name: "x" data_type: TYPE_FP32 dims: [ 4 ] },')),
    model("labels_outside", "label-outside",
          io=IO.replace("output [ {", 'output [ { label_filename: "../good/config.pbtxt"')),
    model("batching_off", "dynamic-batching-off", head='backend: "python"\n', extra="dynamic_batching { }"),
    model("cache_shapes", "cache-mixed", io=first_input("dims: [ -1 ]"), extra="response_cache { enable: true }"),
    ensemble("cache_outputs", "cache-mixed", extra="response_cache { enable: true }",
             io=IO.replace("output [", 'output [ { name: "z" data_type: TYPE_FP32 dims: [ 4 ] },'),
             steps=[step("good", "x:x", "y:y"), step("good", "x:x", "y:z")]),
    model("negative_count", "instance-count", extra="instance_group [ { count: -1 } ]"),
    model("warmup_unknown", "warmup-input-unknown", extra=warmup(sample() + sample("q"))),
    ensemble("overwritten", "ensemble-input-overwritten", steps=[ONE, step("good", "x:y", "y:x")]),
    ensemble("latest", "ensemble-latest-version", steps=[step("good", "x:x", "y:y", "model_version: -1")]),
    ensemble("optional_needed", "ensemble-optional", io=first_input("dims: [ 4 ] optional: true")),
    model("optional_tensorrt", "optional-input", head='backend: "tensorrt" max_batch_size: 8\n',
          io=first_input("dims: [ 4 ] optional: true"), files={"1/model.plan": ""}),
    model("optional_onnx", "optional-input", head='backend: "onnxruntime" max_batch_size: 8\n',
          io=first_input("dims: [ 4 ] optional: true"), files={"1/model.onnx": ""}),
    model("unfused", "graph-level", head='backend: "onnxruntime" max_batch_size: 8\n',
          extra="optimization { graph { level: 2 } }", files={"1/model.onnx": "... DequantizeLinear ..."}),
]  # fmt: skip
