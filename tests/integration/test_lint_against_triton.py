"""Lint and a real Triton must agree on every rule.

Triton loads models independently, so one server is started on a repository that holds every broken and every
good model at once, and is then asked which it serves. What concerns a whole server gets a start of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from bare_triton import BareTriton, bare_triton
from lint_cases import BROKEN, ECHO, GOOD, OPENS_FILE, UNWISE, Case, model, sample, warmup

from mmdeploy.core.target import gpu_names
from mmdeploy.triton.lint import RULES, Severity, lint

EVERYTHING = [*GOOD, *BROKEN, *UNWISE]
BACKENDS = {"opens_file": OPENS_FILE, "tensorrt": ECHO, "onnxruntime": ECHO}

#: Rules that need a repository of their own; their tests are at the end of this file.
ALONE = {"model-duplicate", "warmup-batch-size", "instance-kind"}
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
def findings(repository: Path):
    return lint(repository)


@pytest.fixture(scope="module")
def triton(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BareTriton]:
    with bare_triton([repository], tmp_path_factory.mktemp("server"), python_backends=BACKENDS) as server:
        yield server


def named(cases: Sequence[Case]):
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


def test_every_rule_has_a_case():
    errors = {name for name, rule in RULES.items() if rule.severity is Severity.ERROR}
    warnings = set(RULES) - errors
    assert errors <= {case.rule for case in BROKEN} | ALONE | UNTRIED
    assert warnings <= {case.rule for case in UNWISE} | ALONE | UNTRIED


@named(BROKEN)
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
@pytest.mark.skipif(bool(gpu_names()), reason="this machine has a GPU, where Triton loads the model")
def test_a_gpu_instance_without_a_gpu(tmp_path: Path):
    model("on_gpu", extra="instance_group [ { kind: KIND_GPU } ]").write(tmp_path / "served")
    found = lint(tmp_path / "served")
    assert [(finding.rule, finding.severity) for finding in found] == [("instance-kind", Severity.WARNING)]
    with bare_triton([tmp_path / "served"], tmp_path) as triton:
        assert not triton.ready and "no GPUs are available" in triton.log
