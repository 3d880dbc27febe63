"""Check any Triton model repository against what Triton enforces when it loads one, without a server.

The rules are those of Triton 2.51 (release 24.10): read in the sources of triton-inference-server/core, and each
tried on a real server. An error is a model that Triton refuses, or that takes the server down; a warning loads, but
not as its author can have meant it. Of a release with a manifest, what differs from that is an error too. Inside model
files only those of onnxruntime are looked into, for names, types and shapes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from mmdeploy.core.errors import UsageError
from mmdeploy.triton.lint import (
    backends,
    batching,
    composition,
    ensemble,
    layout,
    onnx_graphs,
    parameters,
    sequences,
    tensors,
    warmup,
)
from mmdeploy.triton.lint.finding import Finding, Hit, Rule, Severity
from mmdeploy.triton.lint.reading import Model, read
from mmdeploy.triton.repository import CHANGED_HINT, resolve
from mmdeploy.triton.staging import MANIFEST, verify

__all__ = ["DANGEROUS", "RULES", "Finding", "Severity", "lint", "lint_repositories"]

_ERROR, _WARNING = Severity.ERROR, Severity.WARNING

RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "config-syntax": Rule(_ERROR, layout.config_syntax),
        "config-newer": Rule(_ERROR, layout.config_newer),
        "model-name": Rule(_ERROR, layout.model_name),
        "model-duplicate": Rule(_ERROR, layout.model_duplicate),
        "backend-missing": Rule(_ERROR, layout.backend_missing),
        "backend-platform": Rule(_ERROR, layout.backend_platform),
        "version-missing": Rule(_ERROR, layout.version_missing),
        "version-name": Rule(_ERROR, layout.version_name),
        "version-ignored": Rule(_WARNING, layout.version_ignored),
        "version-partly-missing": Rule(_WARNING, layout.version_partly_missing),
        "model-file": Rule(_ERROR, layout.model_file),
        "python-model": Rule(_ERROR, layout.python_model),
        "repository-agent": Rule(_ERROR, layout.repository_agent),
        "python-parameter": Rule(_ERROR, parameters.python_parameter),
        "batch-strategy": Rule(_ERROR, parameters.batch_strategy),
        "tensor-name": Rule(_ERROR, tensors.tensor_name),
        "tensor-dtype": Rule(_ERROR, tensors.tensor_dtype),
        "tensor-dims": Rule(_ERROR, tensors.tensor_dims),
        "tensor-reshape": Rule(_ERROR, tensors.tensor_reshape),
        "tensor-format": Rule(_ERROR, tensors.tensor_format),
        "tensor-duplicate": Rule(_WARNING, tensors.tensor_duplicate),
        "batch-tensor": Rule(_ERROR, tensors.batch_tensor),
        "label-file": Rule(_ERROR, tensors.label_file),
        "label-outside": Rule(_WARNING, tensors.label_outside),
        "max-batch-size": Rule(_ERROR, batching.max_batch_size),
        "preferred-batch-size": Rule(_ERROR, batching.preferred_batch_size),
        "dynamic-batching-off": Rule(_WARNING, batching.dynamic_batching_off),
        "priority": Rule(_ERROR, batching.priority),
        "preserve-ordering": Rule(_ERROR, batching.preserve_ordering),
        "sequence-batching": Rule(_ERROR, sequences.sequence_batching),
        "sequence-state": Rule(_ERROR, sequences.sequence_state),
        "response-cache": Rule(_ERROR, batching.response_cache),
        "cache-mixed": Rule(_WARNING, batching.cache_mixed),
        "instance-group": Rule(_ERROR, batching.instance_group),
        "instance-count": Rule(_WARNING, batching.instance_count),
        "instance-kind": Rule(_WARNING, batching.instance_kind),
        "warmup-batch-size": Rule(_ERROR, warmup.warmup_batch_size),
        "warmup-input-missing": Rule(_ERROR, warmup.warmup_input_missing),
        "warmup-tensor": Rule(_ERROR, warmup.warmup_tensor),
        "warmup-data": Rule(_ERROR, warmup.warmup_data),
        "warmup-input-unknown": Rule(_WARNING, warmup.warmup_input_unknown),
        "ensemble-platform": Rule(_ERROR, ensemble.ensemble_platform),
        "ensemble-field": Rule(_ERROR, ensemble.ensemble_field),
        "ensemble-step-field": Rule(_ERROR, ensemble.ensemble_step_field),
        "ensemble-written-twice": Rule(_ERROR, ensemble.ensemble_written_twice),
        "ensemble-input-unused": Rule(_ERROR, ensemble.ensemble_input_unused),
        "ensemble-output-unwritten": Rule(_ERROR, ensemble.ensemble_output_unwritten),
        "ensemble-tensor-unfed": Rule(_ERROR, ensemble.ensemble_tensor_unfed),
        "ensemble-tensor-unused": Rule(_ERROR, ensemble.ensemble_tensor_unused),
        "ensemble-cycle": Rule(_ERROR, ensemble.ensemble_cycle),
        "ensemble-input-overwritten": Rule(_WARNING, ensemble.ensemble_input_overwritten),
        "ensemble-latest-version": Rule(_WARNING, ensemble.ensemble_latest_version),
        "ensemble-model-unknown": Rule(_ERROR, composition.ensemble_model_unknown),
        "ensemble-model-circle": Rule(_ERROR, composition.ensemble_model_circle),
        "ensemble-step-version": Rule(_ERROR, composition.ensemble_step_version),
        "ensemble-step-tensor": Rule(_ERROR, composition.ensemble_step_tensor),
        "ensemble-step-input-unmapped": Rule(_ERROR, composition.ensemble_step_input_unmapped),
        "ensemble-batch-size": Rule(_ERROR, composition.ensemble_batch_size),
        "ensemble-queue-limit": Rule(_ERROR, composition.ensemble_queue_limit),
        "ensemble-dtype": Rule(_ERROR, composition.ensemble_dtype),
        "ensemble-shape": Rule(_ERROR, composition.ensemble_shape),
        "ensemble-optional": Rule(_WARNING, composition.ensemble_optional),
        "onnx-tensors": Rule(_ERROR, onnx_graphs.onnx_tensors),
        "optional-input": Rule(_WARNING, backends.optional_input),
        "graph-level": Rule(_WARNING, backends.graph_level),
        "processor": Rule(_WARNING, backends.processor),
        "unsafe-name": Rule(_WARNING, backends.unsafe_name),
    }
)
#: Not in `RULES`: it is about a release as a whole, and Triton does not know of it.
MANIFEST_RULE = "manifest"
#: Rules on what takes a server down, or has it run what a name says: no server of ours is started on such a repository.
DANGEROUS = ("unsafe-name", "ensemble-queue-limit")


def lint(path: Path) -> tuple[Finding, ...]:
    """Check a model repository, or all repositories that one server would load from ``path``.

    Args:
        path: What `mmdeploy serve` takes: a repository, or a folder of published ones.

    Returns:
        Every finding, by model and line; none for a repository that Triton takes.

    Raises:
        UsageError: If ``path`` is not a folder.
    """
    try:
        paths = resolve(path)
    except UsageError:
        # A folder without anything that looks like a model may still hold broken ones.
        if not path.is_dir() or not any(child.is_dir() for child in path.iterdir()):
            raise
        paths = [path]
    return (*_changed(paths), *lint_repositories(paths))


def lint_repositories(paths: Sequence[Path], rules: Collection[str] = RULES) -> tuple[Finding, ...]:
    """Check repositories that one server would load by some rules, or by all."""
    repositories = read(paths)
    found = [
        _finding(name, rule, model, hit)
        for model in repositories.models
        for name, rule in RULES.items()
        if name in rules
        for hit in rule.check(model, repositories)
    ]
    return tuple(sorted(found, key=lambda finding: (finding.file.as_posix(), finding.line or 0, finding.rule)))


def _changed(paths: Iterable[Path]) -> Iterator[Finding]:
    """Give what differs from the manifest of a release."""
    for path in paths:
        manifest = path / MANIFEST
        for problem in verify(path) if manifest.is_file() else ():
            yield Finding(MANIFEST_RULE, _ERROR, "", manifest, None, problem, CHANGED_HINT)


def _finding(name: str, rule: Rule, model: Model, hit: Hit) -> Finding:
    line = hit.line or (model.line(hit.at) if hit.at else None)
    about_config = line is not None or (hit.at and model.config_path.exists())
    file = model.config_path if about_config else model.folder
    return Finding(name, rule.severity, model.name, file, line, hit.message, hit.remedy)
