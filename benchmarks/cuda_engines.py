"""Ask the same graphs on a GPU and on a CPU: whether they answer alike, and how long they take.

    python benchmarks/cuda_engines.py [RECIPE] [--repositories FOLDER] [--samples 1600] [--json figures.json]

The recipe is built for ``target: cuda`` twice, as it is and without quantization, and published unverified into
FOLDER/int8 and FOLDER/fp32, unless they are there already: a machine without a GPU can do that part. Then every
component, and the chain of them as the ensemble's config.pbtxt wires it, runs through ONNX Runtime with the parameters
of its own config.pbtxt:

* on the CPU provider, one thread as served;
* on the CUDA provider; ``fp32`` also with TF32 off, and as FP16 (`mmdeploy.engines.fp16`, as TensorRT engines get it).

Answers are held against those of the same graph on the CPU (FP16 against FP32). Times include the way to the GPU and
back, as a request pays it; the variants take turns. The exit code is 1 when a CUDA session answers otherwise than its
limit in `LIMITS` allows. Needs onnxruntime-gpu; without it, or a GPU, it measures the CPU and says so.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import yaml

from mmdeploy.core.sessions import CPU, CUDA, open_session
from mmdeploy.core.target import this_hardware
from mmdeploy.engines import onnxruntime as engine
from mmdeploy.engines.fp16 import to_fp16
from mmdeploy.triton.config import parse

Feed = Mapping[str, Any]
#: Blocks of a variant, and where a block ends: after so many runs, or so many seconds.
ROUNDS, RUNS, BLOCK_S = 6, 60, 0.25
#: Largest ‖cuda - cpu‖ / ‖cpu‖ of the chain's answers. TF32 keeps 11 significant bits of a factor; one INT8 step more
#: or less in an activation shows in INT8.
LIMITS = {"fp32, cuda": 5e-3, "fp32, cuda, no TF32": 1e-4, "fp16, cuda": 2e-2, "int8, cuda": 5e-2}


@dataclass
class Variant:
    """One precision on one provider: a session a component, and what was measured."""

    name: str
    sessions: dict[str, Any]
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs_ms: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """A component in the ensemble: its model, and the ensemble tensor of each input and output."""

    model: str
    inputs: dict[str, str]
    outputs: dict[str, str]


@dataclass(frozen=True)
class Row:
    """What a variant came to, for one component or the chain."""

    variant: str
    part: str
    relative_error: float | None
    worst_cosine: float | None
    same_class: float | None
    p50_ms: dict[int, float]
    p95_ms: dict[int, float]


def main() -> int:
    """Build, ask, time, print; return 1 where a GPU answers otherwise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, nargs="?", default=Path("recipes/spoken_digits/recipe.yaml"))
    parser.add_argument("--repositories", type=Path, help="where the built repositories lie, or are put")
    parser.add_argument("--samples", type=int, default=1600)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.repositories or Path(temporary)
        recipe = yaml.safe_load(arguments.recipe.read_text())
        for precision in ("fp32", "int8"):
            if not (folder / precision).is_dir():
                _build(arguments.recipe, recipe, precision, folder)
        return _measure(arguments, recipe, folder)


def _measure(arguments: argparse.Namespace, recipe: dict[str, Any], folder: Path) -> int:
    steps, largest = _steps(folder / "fp32" / recipe["name"], recipe["name"])
    batches = list(_batches(arguments.recipe, recipe, arguments.samples, largest))
    why = engine.unavailable(engine.Options(provider="cuda"))
    print(f"{this_hardware()}; ONNX Runtime {_version()}; {'no CUDA: ' + why if why else 'CUDA provider'}", flush=True)
    variants = {one.name: one for one in _variants(folder, recipe["name"], steps, cuda=why is None)}
    for variant in variants.values():
        _answer(variant, steps, batches)
    sizes = (1, largest)
    for size in sizes:
        _time(variants, steps, {name: array[:size] for name, array in batches[0].items()}, size)
    rows = [row for variant in variants.values() for row in _rows(variant, variants, steps, sizes)]
    for row in rows:
        print(_line(row, sizes), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    beyond = [row for row in rows if row.part == "chain" and (row.relative_error or 0) > LIMITS.get(row.variant, 1)]
    print("answers: " + (f"NOT alike: {', '.join(row.variant for row in beyond)}" if beyond else "alike"))
    return 1 if beyond else 0


def _build(path: Path, recipe: dict[str, Any], precision: str, folder: Path) -> None:
    settings = ["target=cuda", "gates=null"]
    if precision == "fp32":
        settings += [f"components.{name}.quantize=null" for name in recipe["components"]]
    command = [sys.executable, "-m", "mmdeploy", "build", str(path), "--publish-unverified"]
    command += [part for setting in settings for part in ("--set", setting)]
    command += ["--output", str(folder / precision), "--workdir", str(folder / "work")]
    subprocess.run(command, check=True)


def _steps(repository: Path, name: str) -> tuple[list[Step], int]:
    config = _config(repository / name)
    steps = [
        Step(step.model_name, dict(step.input_map), dict(step.output_map)) for step in config.ensemble_scheduling.step
    ]
    return steps, max(1, config.max_batch_size)


def _config(model: Path) -> Any:
    path = model / "config.pbtxt"
    return parse(path.read_text(), str(path))


def _batches(path: Path, recipe: dict[str, Any], samples: int, size: int) -> Iterator[dict[str, Any]]:
    file, _, name = recipe["data"]["evaluation"].partition(":")
    spec = importlib.util.spec_from_file_location("recipe_data", path.parent / file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    stream = ((sample[0] if isinstance(sample, tuple) else sample) for sample in getattr(module, name)())
    stream = islice(stream, samples)
    while batch := list(islice(stream, size)):
        yield {key: np.stack([one[key] for one in batch]) for key in batch[0]}


def _variants(folder: Path, name: str, steps: list[Step], *, cuda: bool) -> Iterator[Variant]:
    def opened(precision: str, open_one: Callable[[Path, dict[str, str]], Any]) -> dict[str, Any]:
        sessions = {}
        for step in steps:
            model = folder / precision / name / step.model
            config = _config(model)
            parameters = {key: value.string_value for key, value in config.parameters.items()}
            [version] = [path for path in model.iterdir() if path.is_dir()]
            sessions[step.model] = open_one(version / config.default_model_filename, parameters)
        return sessions

    for precision in ("fp32", "int8"):
        yield Variant(f"{precision}, cpu", opened(precision, open_session))
        if cuda:
            yield Variant(f"{precision}, cuda", opened(precision, lambda *one: open_session(*one, providers=CUDA)))
    if cuda:
        yield Variant("fp32, cuda, no TF32", opened("fp32", _without_tf32))
    fp16_on = CUDA if cuda else CPU
    fp16 = opened("fp32", lambda path, one: open_session(_as_fp16(path), one, providers=fp16_on))
    yield Variant(f"fp16, {'cuda' if cuda else 'cpu'}", fp16)


def _without_tf32(path: Path, parameters: dict[str, str]) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), providers=[(CUDA[0], {"use_tf32": "0"}), CPU[0]])


def _as_fp16(path: Path) -> bytes:
    return to_fp16(onnx.load(path))[0].SerializeToString()


def _answer(variant: Variant, steps: list[Step], batches: list[dict[str, Any]]) -> None:
    """Record what each component answers to what the components before it, of this variant, answered."""
    found: dict[str, list[Any]] = {}
    for batch in batches:
        for tensor, array in _run(variant, steps, batch).items():
            found.setdefault(tensor, []).append(array)
    variant.answers = {
        step.model: {tensor: np.concatenate(found[tensor]) for tensor in step.outputs.values()} for step in steps
    }


def _run(variant: Variant, steps: list[Step], feed: Feed) -> dict[str, Any]:
    tensors = dict(feed)
    for step in steps:
        tensors |= _ask(variant.sessions[step.model], step, tensors)
    return tensors


def _ask(session: Any, step: Step, tensors: Feed) -> dict[str, Any]:
    answers = session.run(list(step.outputs), {name: tensors[tensor] for name, tensor in step.inputs.items()})
    return dict(zip(step.outputs.values(), answers, strict=True))


def _time(variants: dict[str, Variant], steps: list[Step], feed: Feed, size: int) -> None:
    """Run the variants in turns, a block each a round."""
    tensors = {name: _run(variant, steps, feed) for name, variant in variants.items()}
    parts: dict[str, Callable[[Variant], Any]] = {
        step.model: (lambda one, step=step: _ask(one.sessions[step.model], step, tensors[one.name])) for step in steps
    }
    parts["chain"] = lambda one: _run(one, steps, feed)
    for part, ask in parts.items():
        for at in range(ROUNDS + 1):
            for variant in variants.values():
                block = list(_block(lambda ask=ask, variant=variant: ask(variant)))
                if at:  # the first warms up
                    variant.runs_ms.setdefault(f"{part} {size}", []).extend(block)
        print(f"timed {part}, batch {size}", file=sys.stderr, flush=True)


def _block(ask: Callable[[], Any]) -> Iterator[float]:
    """Run a block, and give the milliseconds of each run."""
    ends = time.perf_counter() + BLOCK_S
    for _ in range(RUNS):
        start = time.perf_counter()
        ask()
        now = time.perf_counter()
        yield (now - start) * 1000
        if now > ends:
            return


def _rows(variant: Variant, variants: dict[str, Variant], steps: list[Step], sizes: tuple[int, ...]) -> Iterator[Row]:
    precision, *_ = variant.name.split(",")
    original = variants["int8, cpu" if precision == "int8" else "fp32, cpu"]
    for part in [*(step.model for step in steps), "chain"]:
        model = steps[-1].model if part == "chain" else part
        p50, p95 = (
            {size: float(np.percentile(variant.runs_ms[f"{part} {size}"], percent)) for size in sizes}
            for percent in (50, 95)
        )
        if variant is original:
            yield Row(variant.name, part, None, None, None, p50, p95)
            continue
        found, wanted = (_rows_of(one.answers[model]) for one in (variant, original))
        norms = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
        cosine = float(((found * wanted).sum(axis=1) / norms).min())
        error = float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))
        same = float((found.argmax(axis=1) == wanted.argmax(axis=1)).mean()) if part == "chain" else None
        yield Row(variant.name, part, error, cosine, same, p50, p95)


def _rows_of(answers: dict[str, Any]) -> Any:
    return np.concatenate([array.reshape(len(array), -1) for array in answers.values()], axis=1).astype(np.float64)


def _line(row: Row, sizes: tuple[int, ...]) -> str:
    times = " | ".join(f"{row.p50_ms[size]:.3f} | {row.p95_ms[size]:.3f}" for size in sizes)
    error = "" if row.relative_error is None else f"{row.relative_error:.1e}"
    cosine = "" if row.worst_cosine is None else f"{row.worst_cosine:.6f}"
    same = "" if row.same_class is None else f"{100 * row.same_class:.2f} %"
    return f"| {row.part.split('.')[-1]} | {row.variant} | {error} | {cosine} | {same} | {times} |"


def _version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)


if __name__ == "__main__":
    sys.exit(main())
