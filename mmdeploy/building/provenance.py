"""What a release was made of, in forms that others' tools read: an in-toto statement of SLSA, and a CycloneDX ML-BOM.

``provenance.json`` is an in-toto statement (v1) whose predicate is SLSA provenance (v1): its subject are the files that
are served, by digest, its resolved dependencies the recipe, its code, what that read, the weights, the recorded samples
and the libraries. ``bom.cdx.json`` is a CycloneDX 1.6 bill of materials: the ensemble as a machine-learning model whose
performance metrics are what the gates measured, with their intervals, and the components, samples and libraries in it.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdeploy.core.digests import FileFacts
from mmdeploy.core.errors import ModelError
from mmdeploy.core.version import __version__
from mmdeploy.model.adapter_files import files_of_adapter
from mmdeploy.model.weight_files import files_of
from mmdeploy.planning.recipe_inputs import codes_of
from mmdeploy.planning.steps import DATA_SETS
from mmdeploy.triton.staging import read_manifest

if TYPE_CHECKING:
    from mmdeploy.core.artifact import Artifact
    from mmdeploy.planning.recipe_inputs import RecipeInputs
    from mmdeploy.recipe.schema import Recipe
    from mmdeploy.record.build_report import BuildReport, CheckRecord
    from mmdeploy.triton.staging import StagedRepository

PROVENANCE = "provenance.json"
BOM = "bom.cdx.json"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
#: What the parameters of a build of ours mean: this module's description.
BUILD_TYPE = "urn:multimodal-deploy:build:v1"
_BUILDER = "urn:multimodal-deploy"
_SHA256_DIGITS = 64


@dataclass(frozen=True)
class Made:
    """What a release was made of.

    Attributes:
        run_id: Of the build.
        recipe: The recipe, with its overrides.
        inputs: What its code was seen to read.
        report: The build's report.
        repository: What is published.
        artifacts: What the build made, by step id.
        facts: Digests of files that are known already.
        confidence: How sure its answers were, by output.
    """

    run_id: str
    recipe: Recipe
    inputs: RecipeInputs
    report: BuildReport
    repository: StagedRepository
    artifacts: Mapping[str, Artifact]
    facts: FileFacts
    confidence: Mapping[str, Any] = field(default_factory=dict)


def write_provenance(folder: Path, made: Made) -> dict[str, Path]:
    """Write both files into a folder; return them by the name that they have beside a release."""
    for name, content in ((PROVENANCE, statement(made)), (BOM, bill_of_materials(made))):
        (folder / name).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return {name: folder / name for name in (PROVENANCE, BOM)}


def statement(made: Made) -> dict[str, Any]:
    """Return the in-toto statement."""
    report = made.report
    return {
        "_type": STATEMENT,
        "subject": [
            {"name": name, "digest": {"sha256": digest}} for name, digest in sorted(made.repository.files.items())
        ],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "recipe": made.recipe.origin.path.name,
                    "name": made.recipe.name,
                    "target": report.target.value,
                    "recipe_as_built": made.recipe.written.model_dump(mode="json", exclude_none=True),
                },
                "internalParameters": {
                    "seed": report.seed,
                    "machine": report.hardware.to_json(),
                    "server_version": report.server_version,
                    "steps": {step.id: step.key for step in report.steps if step.key},
                },
                "resolvedDependencies": [*_files(made), *_samples(made), *_libraries(made)],
            },
            "runDetails": {
                "builder": {"id": _BUILDER, "version": {"multimodal-deploy": __version__}},
                "metadata": {"invocationId": made.run_id, "startedOn": report.started_at.isoformat()},
            },
        },
    }


def bill_of_materials(made: Made) -> dict[str, Any]:
    """Return the CycloneDX 1.6 bill of materials."""
    report = made.report
    model = {
        "type": "machine-learning-model",
        "bom-ref": made.recipe.name,
        "name": made.recipe.name,
        "version": made.run_id,
        "modelCard": {
            "modelParameters": {
                "datasets": [{"ref": f"data/{key}"} for key in _recorded(made)],
                "inputs": [{"format": _format(spec)} for spec in made.recipe.inputs.values()],
                "outputs": [{"format": name} for name in made.recipe.outputs],
            },
            "quantitativeAnalysis": {
                "performanceMetrics": [
                    _metric(gate.gate, check)
                    for gate in report.gates
                    for check in gate.checks
                    if check.measured is not None
                ]
            },
        },
    }
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'{BUILD_TYPE}/{made.recipe.name}/{made.run_id}')}",
        "version": 1,
        "metadata": {
            "timestamp": report.started_at.isoformat(),
            "tools": {"components": [{"type": "application", "name": "multimodal-deploy", "version": __version__}]},
            "component": model,
        },
        "components": [*_models(made), *_datasets(made), *_distributions(made)],
    }


def untraced(release: Path) -> tuple[str, ...]:
    """Say which served files of a release its provenance does not name as they are; nothing where it has none.

    A manifest that was written anew after a change hides the change; the provenance of the build does not go with it.
    """
    file = release / PROVENANCE
    if not file.is_file():
        return ()
    files: Mapping[str, str] = read_manifest(release)["files"]
    try:
        subject = json.loads(file.read_text(encoding="utf-8"))["subject"]
        named = {one["name"]: one["digest"]["sha256"] for one in subject}
    except (OSError, ValueError, KeyError, TypeError) as error:
        return (f"{PROVENANCE} cannot be read ({type(error).__name__})",)
    other = sorted(name for name, digest in named.items() if files.get(name) != digest)
    unnamed = sorted(name for name in files if "/" in name and name not in named)
    return (
        *(f"{name} is not what {PROVENANCE} says was built" for name in other),
        *(f"{name} is not in {PROVENANCE}" for name in unnamed),
    )


def _files(made: Made) -> Iterator[dict[str, Any]]:
    """Give the recipe, its code, the weights, and what the code was seen to read, each once."""
    recipe, seen = made.recipe, set[str]()
    yield {"name": "recipe", "uri": recipe.origin.path.name, "digest": {"sha256": recipe.origin.sha256}} | _revision(
        made
    )
    for code in codes_of(recipe, made.facts).values():
        for path, name in code.files.items():
            if name not in seen:
                seen.add(name)
                yield {"name": "code", "uri": name, "digest": {"sha256": made.facts.sha256(path)}}
    for kind, path in _trained(recipe):
        name = path.relative_to(recipe.root).as_posix() if path.is_relative_to(recipe.root) else path.name
        seen.add(name)
        yield {"name": kind, "uri": name, "digest": {"sha256": made.facts.sha256(path)}}
    for labels in (made.inputs.model, *made.inputs.data.values()):
        for digests in (value for value in labels.values() if not isinstance(value, str)):
            for name, digest in digests.items():
                # Folders have a digest of what they list, and code one of what it says: neither is a file's.
                if name not in seen and len(digest) == _SHA256_DIGITS and not name.endswith(("/", ".py")):
                    seen.add(name)
                    yield {"name": "read by the recipe", "uri": name, "digest": {"sha256": digest}}


def _trained(recipe: Recipe) -> Iterator[tuple[str, Path]]:
    """Give the files of the weights and of the adapters that are merged into them."""
    if recipe.model.weights is not None:
        for path in _weights(recipe.root / recipe.model.weights):
            yield "weights", path
    for folder in recipe.model.adapters.values():
        for path in files_of_adapter(recipe.root / folder):
            yield "adapter", path


def _weights(place: Path) -> tuple[Path, ...]:
    try:
        return files_of(place)
    except ModelError:
        return (place,)


def _revision(made: Made) -> dict[str, Any]:
    revision = made.report.recipe.revision
    return {} if revision is None else {"annotations": {"git_commit": revision}}


def _recorded(made: Made) -> list[str]:
    return [key for key, step in DATA_SETS.items() if step in made.artifacts]


def _samples(made: Made) -> Iterator[dict[str, Any]]:
    for key in _recorded(made):
        artifact = made.artifacts[DATA_SETS[key]]
        reference = str(getattr(made.recipe.data, key))
        yield {"name": f"samples for {key}", "uri": reference, "digest": {"sha256": artifact.sha256}}


def _libraries(made: Made) -> Iterator[dict[str, Any]]:
    for name, version in made.report.libraries.items():
        yield {"name": name, "uri": _purl(name, version)}


def _purl(name: str, version: str) -> str:
    """Return the package URL of a distribution; ``+`` of a local version is escaped (package-url spec)."""
    name = "multimodal-deploy" if name == "mmdeploy" else name  # PyPI's mmdeploy is somebody else's
    return f"pkg:pypi/{name.lower().replace('_', '-')}@{version.replace('+', '%2B')}"


def _format(spec: Any) -> str:
    return f"{spec.dtype} {list(spec.shape)}"


def _metric(gate: str, check: CheckRecord) -> dict[str, Any]:
    metric = {"type": f"{gate}: {check.name}", "value": f"{check.measured:.6g}{check.unit and f' {check.unit}'}"}
    if check.interval is not None:
        low, high = check.interval
        return metric | {"confidenceInterval": {"lowerBound": f"{low:.6g}", "upperBound": f"{high:.6g}"}}
    return metric


def _models(made: Made) -> Iterator[dict[str, Any]]:
    for name in made.recipe.components:
        folders = (f"{name}/", f"{made.recipe.name}.{name}/")  # the ensemble's name is before it in a release
        files = {path: digest for path, digest in made.repository.files.items() if path.startswith(folders)}
        main = {path: digest for path, digest in files.items() if path.rpartition("/")[2].startswith("model.")}
        yield {
            "type": "machine-learning-model",
            "bom-ref": f"component/{name}",
            "name": name,
            "hashes": [{"alg": "SHA-256", "content": digest} for digest in sorted(set(main.values()))],
            "properties": [{"name": f"file:{path}", "value": digest} for path, digest in sorted(files.items())],
        }


def _datasets(made: Made) -> Iterator[dict[str, Any]]:
    for key in _recorded(made):
        artifact = made.artifacts[DATA_SETS[key]]
        yield {
            "type": "data",
            "bom-ref": f"data/{key}",
            "name": str(getattr(made.recipe.data, key)),
            "description": f"samples for {key}",
            "hashes": [{"alg": "SHA-256", "content": artifact.sha256}],
        }


def _distributions(made: Made) -> Iterator[dict[str, Any]]:
    for name, version in made.report.libraries.items():
        purl = _purl(name, version)
        yield {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
