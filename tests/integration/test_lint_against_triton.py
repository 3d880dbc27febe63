"""Lint and a real Triton must agree on every rule.

Triton loads models independently, so one server is started on a repository that holds every broken and every
good model at once, and is then asked which it serves. What concerns a whole server gets a start of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx
import pytest
import tiny_triton_repository as tiny
from bare_triton import BareTriton, bare_triton
from lint_cases import BROKEN, ECHO, FRAGILE, GOOD, OPENS_FILE, UNWISE, Case, model, sample, warmup

from mmdeploy.core.errors import ServerError
from mmdeploy.core.target import gpu_names
from mmdeploy.triton import server
from mmdeploy.triton.lint import RULES, Severity, lint

EVERYTHING = [*GOOD, *BROKEN, *UNWISE]
BACKENDS = {"opens_file": OPENS_FILE, "tensorrt": ECHO, "onnxruntime": ECHO}

#: Rules that need a repository of their own; their tests are at the end of this file, that of ``processor`` is with the
#: engine aot_inductor's.
ALONE = {"model-duplicate", "warmup-batch-size", "instance-kind", "onnx-tensors", "processor"}
#: No server is started on these by mmdeploy, and they were tried by hand (Triton 2.51): it hangs for minutes before it
#: refuses unsafe names, and a full queue kills it under load only.
UNTRIED = {"unsafe-name", "ensemble-queue-limit"}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("repository")
    for case in EVERYTHING:
        case.write(root)
    return root


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fragile")
    for case in FRAGILE:
        case.write(root)
    return root


@pytest.fixture(scope="module")
def findings(repository: Path, fragile: Path):
    return [*lint(repository), *lint(fragile)]


@pytest.fixture(scope="module")
def triton(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BareTriton]:
    with bare_triton([repository], tmp_path_factory.mktemp("server"), python_backends=BACKENDS) as server:
        yield server


def named(cases: Sequence[Case]):
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


def test_every_rule_has_a_case():
    errors = {name for name, rule in RULES.items() if rule.severity is Severity.ERROR}
    warnings = set(RULES) - errors
    assert errors <= {case.rule for case in (*BROKEN, *FRAGILE)} | ALONE | UNTRIED
    assert warnings <= {case.rule for case in UNWISE} | ALONE | UNTRIED


@named([*BROKEN, *FRAGILE])
def test_lint_finds_the_one_error(case: Case, findings):
    about = [finding for finding in findings if finding.model == case.name]
    assert {finding.rule for finding in about if finding.severity is Severity.ERROR} == {case.rule}


@named([*GOOD, *UNWISE])
def test_lint_finds_the_one_warning_or_nothing(case: Case, findings):
    assert {finding.rule for finding in findings if finding.model == case.name} == ({case.rule} - {""})


@named([case for case in BROKEN if case.config and case.rule.startswith(("tensor", "ensemble-field", "priority"))])
def test_lint_names_the_line(case: Case, findings):
    found = [finding for finding in findings if finding.model == case.name]
    assert all(finding.line and finding.file.name == "config.pbtxt" for finding in found)


@pytest.mark.triton
@named(GOOD)
def test_triton_loads_what_is_good(case: Case, triton: BareTriton):
    assert case.name in triton.ready


@pytest.mark.triton
@named(BROKEN)
def test_triton_refuses_what_is_an_error(case: Case, triton: BareTriton):
    assert case.name not in triton.ready
    about = [line for line in triton.log.splitlines() if re.search(rf"\b{case.name}\b", line)]
    assert re.search(case.reason, "\n".join(about)), "\n".join(about)


@pytest.mark.triton
def test_triton_does_not_load_what_is_an_error_that_can_end_it(fragile: Path, tmp_path: Path):
    with bare_triton([fragile], tmp_path) as triton:
        assert not triton.ready
        assert triton.exit_code is not None or all(f"failed to load '{case.name}'" in triton.log for case in FRAGILE)


@pytest.mark.triton
@named(UNWISE)
def test_triton_loads_what_is_a_warning(case: Case, triton: BareTriton):
    assert case.name in triton.ready


@pytest.mark.triton
def test_one_name_in_two_repositories(tmp_path: Path):
    roots = [tmp_path / "served" / "a", tmp_path / "served" / "b"]
    for root in roots:
        model("twin").write(root)
        model(f"only_{root.name}").write(root)
    found = lint(tmp_path / "served")
    assert [(finding.rule, finding.model) for finding in found] == [("model-duplicate", "twin")] * 2
    with bare_triton(roots, tmp_path) as triton:
        assert triton.ready == {"only_a", "only_b"}
        assert "not unique across all model repositories" in triton.log


@pytest.mark.triton
def test_a_warm_up_larger_than_the_largest_batch(tmp_path: Path):
    model("large_warmup", extra=warmup(sample(), batch_size=16)).write(tmp_path / "served")
    assert [finding.rule for finding in lint(tmp_path / "served")] == ["warmup-batch-size"]
    # Sometimes the server says so, sometimes it dies of a segmentation fault in the python backend.
    with bare_triton([tmp_path / "served"], tmp_path) as triton:
        assert not triton.ready
        assert triton.exit_code is not None or "failed to run warmup sample" in triton.log


@pytest.mark.triton
@pytest.mark.parametrize(
    ("deadly", "rule"),
    [
        (model("beyond", files={"1/model.py": ECHO, f"{2**63}/model.py": ECHO}), "version-name"),
        (model("no_agents", extra="model_repository_agents { }"), "repository-agent"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_what_ends_the_whole_server(deadly: Case, rule: str, tmp_path: Path):
    deadly.write(tmp_path / "served")
    assert [finding.rule for finding in lint(tmp_path / "served")] == [rule]
    with bare_triton([tmp_path / "served"], tmp_path) as triton:
        assert not triton.ready and triton.exit_code is not None


@pytest.mark.triton
@pytest.mark.skipif(bool(gpu_names()), reason="this machine has a GPU, where Triton loads the model")
def test_a_gpu_instance_without_a_gpu(tmp_path: Path):
    model("on_gpu", extra="instance_group [ { kind: KIND_GPU } ]").write(tmp_path / "served")
    found = lint(tmp_path / "served")
    assert [(finding.rule, finding.severity) for finding in found] == [("instance-kind", Severity.WARNING)]
    with bare_triton([tmp_path / "served"], tmp_path) as triton:
        assert not triton.ready and "no GPUs are available" in triton.log


GRAPH = "g (float[N,4,K] x, int64[N] ids) => (float[N,4,K] y) { y = Identity(x) }"
FIXED = GRAPH.replace("[N", "[1")
X = 'input { name: "x" data_type: TYPE_FP32 dims: [ 4, -1 ] }'
IDS = 'input { name: "ids" data_type: TYPE_INT64 dims: [ 1 ] reshape { shape: [ ] } }'
Y = 'output { name: "y" data_type: TYPE_FP32 dims: [ 4, -1 ] }'
HELD = {
    "right": (GRAPH, 8, X, IDS, Y),
    "right_size": (GRAPH, 8, X.replace("-1", "7"), IDS, Y),
    "right_unbatched": (GRAPH, 0, X.replace("[ 4", "[ -1, 4"), IDS.replace("[ 1 ] reshape { shape: [ ] }", "[ -1 ]"),
                        Y.replace("[ 4", "[ 3, 4")),
    "right_fixed": (FIXED, 0, X.replace("[ 4", "[ 1, 4"), IDS.replace("reshape { shape: [ ] }", ""),
                    Y.replace("[ 4", "[ 1, 4")),
    "dims": (GRAPH, 8, X.replace("4", "5"), IDS, Y),
    "output_dims": (GRAPH, 8, X, IDS, Y.replace("4", "5")),
    "rank": (GRAPH, 8, X.replace("4, -1", "4"), IDS, Y),
    "output_rank": (GRAPH, 8, X, IDS, Y.replace("4, -1", "1, 4, -1")),
    "reshape": (GRAPH, 8, X, IDS.replace("reshape { shape: [ ] }", ""), Y),
    "dtype": (GRAPH, 8, X.replace("FP32", "FP16"), IDS, Y),
    "output_dtype": (GRAPH, 8, X, IDS, Y.replace("FP32", "FP64")),
    "ids_dtype": (GRAPH, 8, X, IDS.replace("INT64", "INT32"), Y),
    "fixed_batch": (FIXED, 8, X, IDS, Y),
    "no_input": (GRAPH, 8, X, "", Y),
    "input_name": (GRAPH, 8, X.replace('"x"', '"pixels"'), IDS, Y),
    "output_name": (GRAPH, 8, X, IDS, Y.replace('"y"', '"scores"')),
}  # fmt: skip


@pytest.mark.triton
def test_config_is_held_against_the_onnx_graph_by_both(tmp_path: Path):
    for name, (graph, batch, *tensors) in HELD.items():
        (tmp_path / "served" / name / "1").mkdir(parents=True)
        config = f'backend: "onnxruntime" max_batch_size: {batch}\n' + "\n".join(tensors)
        (tmp_path / "served" / name / "config.pbtxt").write_text(config)
        onnx.save(onnx.parser.parse_model(tiny.HEAD + graph), tmp_path / "served" / name / "1" / "model.onnx")
    wrong = {name for name in HELD if not name.startswith("right")}
    found = lint(tmp_path / "served")
    assert {(finding.model, finding.rule) for finding in found} >= {(name, "onnx-tensors") for name in wrong}
    assert {finding.model for finding in found} == wrong
    with pytest.raises(ServerError) as refused:
        server.start([tmp_path / "served"], log=tmp_path / "triton.log")
    named = {line.split(":")[0].strip() for line in refused.value.message.splitlines()[1:]}
    assert named & set(HELD) == wrong
