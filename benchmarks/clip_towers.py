"""A CLIP ViT-B/32 pair on a CPU, one thread, batch 1: what each engine, encoding and choice brings over FP32.

Run it as ``python benchmarks/clip_towers.py [--json FILE]``. Graphs are exported, quantized and built by mmdeploy's own
passes and engines, peers by their own (`clip_peers.py`). Every variant answers in a process of its own, one thread, no
spinning; they take turns, in another order each round. A figure is the median, over the rounds, of ONNX Runtime FP32's
time by the variant's in the same round: by the clock, and in processor time, which other people's load disturbs less.
The cosine is the smallest of 8 samples' to ONNX Runtime FP32's answers, one asked alone and the others together.

In pieces, for a machine that is seldom quiet: ``--work FOLDER --prepare`` makes all that is measured, ``--only WORD …
--json ONE`` measures some of it (ONNX Runtime FP32 is in every run), and ``--merge ONE TWO …`` prints them as one page,
which says for each tower whether what ``engine: auto`` ships is within 3 % of the best of all.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import clip_peers
import clip_standing
import numpy as np
from clip_variants import BASELINE, GRAPHS, SHARES, U8, VARIANTS, Variant

from mmdeploy.core.artifact import Artifact
from mmdeploy.core.contracts import Encoding, StepContext
from mmdeploy.core.facts import as_metadata
from mmdeploy.core.target import Target, this_hardware
from mmdeploy.engines import METHODS as ENGINES
from mmdeploy.engines import onnxruntime
from mmdeploy.export import onnx_dynamo, simplify
from mmdeploy.model.torch_component import ComponentFacts
from mmdeploy.quantize import dynamic, static

HERE = Path(__file__).parent
SAMPLES, CALLS = 64, 3
#: Samples whose answers are compared, the first alone and the others together, and the file that has them.
ALIKE, ASKED = 8, "asked.npz"


def main() -> None:
    """Build every variant of both towers, measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--towers", nargs="+", default=["image", "text"], choices=["image", "text"])
    parser.add_argument("--only", nargs="+", help="measure only variants whose name has one of these in it")
    parser.add_argument("--work", type=Path, help="keep what is built there, and use it again")
    parser.add_argument("--prepare", action="store_true", help="build, ask each variant once, and measure nothing")
    parser.add_argument("--merge", nargs="+", type=Path, metavar="JSON", help="print runs as one page")
    parser.add_argument(
        "--ships", nargs="+", default=[], metavar="TOWER=VARIANT", help="what engine: auto shipped here"
    )
    parser.add_argument("--json", type=Path, help="write the figures there too")
    parser.add_argument("--worker", nargs=4, metavar=("ENGINE", "FOLDER", "OPTIONS", "TOWER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        answer(*arguments.worker)
        return
    if arguments.merge:
        ships = dict(pair.split("=", 1) for pair in arguments.ships)
        print("\n".join(clip_standing.page(clip_standing.merged(arguments.merge), ships)))
        return
    measured(arguments)


def measured(arguments: argparse.Namespace) -> None:
    """Build what is asked for, measure it and print the tables."""
    every = (*VARIANTS, *clip_peers.PEERS)
    missing = clip_peers.missing(every, [arguments.work / one for one in arguments.towers] if arguments.work else [])
    for name, why in missing.items():
        print(f"{name}: left out; {why}", file=sys.stderr)
    variants = [
        variant
        for variant in every
        if (variant.name == BASELINE or not arguments.only or any(word in variant.name for word in arguments.only))
        and variant.name not in missing
    ]
    figures: dict[str, Any] = {"machine": machine(), "missing": missing, "rounds": arguments.rounds, "towers": {}}
    with contextlib.ExitStack() as stack:
        work = arguments.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="clip-towers-")))
        for tower in arguments.towers:
            folders = {variant.name: prepare(variant, tower, work / tower) for variant in variants}
            before = os.getloadavg()
            if arguments.prepare:
                for variant in variants:  # one after the other: torch.compile fills its cache
                    measure([variant], folders, tower, 0)
                continue
            rows = measure(variants, folders, tower, arguments.rounds)
            figures["towers"][tower] = {"load": [before, os.getloadavg()], "rows": rows}
            show(tower, rows)
            if arguments.json:
                arguments.json.write_text(json.dumps(figures, indent=1))


def context_for(work: Path, tower: str, encoding: Encoding) -> StepContext:
    """Return the context of a step of one tower."""
    import clip_pair

    samples = clip_pair.feed(tower, SAMPLES, seed=1)

    def calibration() -> Any:
        for start in range(0, SAMPLES, 4):
            yield {name: array[start : start + 4] for name, array in samples.items()}

    work.mkdir(parents=True, exist_ok=True)
    return StepContext(
        component=tower, workdir=work, target=Target.CPU, encoding=encoding, max_batch_size=8, seed=0,
        threads=os.cpu_count() or 1, examples=lambda batch: {name: array[:batch] for name, array in samples.items()},
        calibration=calibration, calibration_batches=SAMPLES // 4,
    )  # fmt: skip


def kept(folder: Path, make: Callable[[], Artifact]) -> Artifact:
    """Return what lies in a folder, or make it."""
    note = folder / "artifact.json"
    if not note.exists():
        print(f"  making {folder.parent.name}/{folder.name}", file=sys.stderr, flush=True)
        note.write_text(make().to_json())
    return Artifact.from_json(note.read_text(), folder)


def graph(key: str, tower: str, work: Path) -> Artifact:
    """Return a graph of a tower by its key, made by mmdeploy's passes."""
    if key in ("fp32", "whole", "exporter"):
        return kept(work / key, lambda: exported(tower, work / key, as_exported=key == "exporter", whole=key != "fp32"))
    if key in clip_peers.NEEDS:
        return kept(work / key, lambda: by_peer(key, tower, work))
    if key == "dynamic":
        return kept(
            work / key,
            lambda: dynamic.run(graph("fp32", tower, work), dynamic.Options(), context_for(work / key, tower, U8)),
        )
    recipe = GRAPHS[key]
    return kept(
        work / key.replace(" ", "-"),
        lambda: static.run(
            graph(recipe.source, tower, work),
            static.Options(samples=SAMPLES, **recipe.options),
            context_for(work / key.replace(" ", "-"), tower, recipe.encoding),
        ),
    )


def by_peer(key: str, tower: str, work: Path) -> Artifact:
    """Let a peer quantize a tower, on the samples that mmdeploy's passes have."""
    source, samples = graph("whole", tower, work), context_for(work / key, tower, U8).examples(SAMPLES)
    if key == "nncf":
        return clip_peers.by_nncf(work / key, source, samples)
    if key == "torchao":
        return clip_peers.by_torchao(tower, work / key, source, samples)
    return (clip_peers.by_olive if key == "olive" else clip_peers.by_optimum)(work / key, source)


def exported(tower: str, work: Path, *, as_exported: bool, whole: bool = False) -> Artifact:
    """Export a tower; ``as_exported`` leaves attention as torch.onnx writes it, ``whole`` the last layer."""
    positions: Literal["all", "needed"] = "all" if whole else "needed"
    options = onnx_dynamo.Options(parity_batch_sizes=(1, 2), atol=1e-3, positions=positions)
    written = simplify.simplify
    if as_exported:
        onnx_dynamo.simplify.simplify = lambda proto: None  # type: ignore[assignment]
    try:
        return onnx_dynamo.run(module_of(tower), options, context_for(work, tower, U8))
    finally:
        onnx_dynamo.simplify.simplify = written


def module_of(tower: str, graph: Artifact | None = None) -> Artifact:
    """Return a tower's PyTorch module, with the tensors of its graph where that is there."""
    import clip_pair

    name, output = clip_pair.TOWERS[tower]
    facts = ComponentFacts("clip_pair.py:build", HERE, None, tower, (name,), (output,))
    inputs, outputs = (graph.inputs, graph.outputs) if graph else ((), ())
    return Artifact("torch", HERE / "clip_pair.py", "", inputs, outputs, "recipe", as_metadata(facts))


def prepare(variant: Variant, tower: str, work: Path) -> Path:
    """Build a variant's engine and return its folder."""
    if variant.engine == "torch":
        return graph("fp32", tower, work).path.parent
    source = (
        module_of(tower, graph("fp32", tower, work)) if variant.graph == "module" else graph(variant.graph, tower, work)
    )
    if source.format == variant.engine:
        return source.path.parent
    options = options_of(variant)
    folder = work / f"{variant.engine}-{variant.graph}-{getattr(options, 'precision', '')}".replace(" ", "-")
    context = replace(context_for(folder, tower, U8), threads=1)
    kept(folder, lambda: ENGINES[variant.engine].run(source, options, context))
    return folder


def options_of(variant: Variant) -> Any:
    """Return the engine's options: one thread."""
    return variant.options or onnxruntime.Options()


def answer(engine: str, folder: str, options: str, tower: str) -> None:
    """Answer in this process: a line with a number of calls gives the times of that many, in ms."""
    infer = opened(engine, Path(folder), options, tower)
    with np.load(Path(folder).parent / ASKED) as kept_samples:
        samples = dict(kept_samples)
    request = {name: array[:1] for name, array in samples.items()}
    for _ in range(3):  # torch.compile compiles in the first
        infer(request)
    alone = engine == "torch" or Path(folder).name == "torchao"  # compiled for batch 1
    ends = range(1, ALIKE + 1) if alone else (1, ALIKE)
    answers = [
        next(iter(infer({name: array[start:end] for name, array in samples.items()}).values()))
        for start, end in zip((0, *ends), ends, strict=False)
    ]
    print(json.dumps(np.concatenate(answers).astype(float).tolist()), flush=True)
    for line in sys.stdin:
        wall, processor = [], []
        for _ in range(int(line)):
            begun, spent = time.perf_counter(), time.process_time()
            infer(request)
            wall.append(1e3 * (time.perf_counter() - begun))
            processor.append(1e3 * (time.process_time() - spent))
        print(json.dumps([float(np.median(wall)), float(np.median(processor))]), flush=True)


def opened(engine: str, folder: Path, options: str, tower: str) -> Callable[[Any], Any]:
    """Return what answers feed dicts."""
    if engine != "torch":
        module: Any = ENGINES[engine]
        artifact = Artifact.from_json((folder / "artifact.json").read_text(), folder)
        infer: Callable[[Any], Any] = module.load(artifact, module.Options.model_validate_json(options)).infer
        return infer
    return clip_peers.torch_answers(options, tower)


def measure(variants: list[Variant], folders: dict[str, Path], tower: str, rounds: int) -> list[dict[str, Any]]:
    """Let the variants take turns, each in its process."""
    import clip_pair

    work = next(iter(folders.values())).parent
    np.savez(work / ASKED, **clip_pair.feed(tower, ALIKE, seed=99))
    cache = clip_peers.environment(work)
    environment = cache | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(HERE.parent), *sys.path])}
    processes = []
    for variant in variants:
        options = variant.graph if variant.engine == "torch" else options_of(variant).model_dump_json()
        command = [sys.executable, __file__, "--worker", variant.engine, str(folders[variant.name]), options, tower]
        processes.append(
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                env=environment,
            )
        )  # fmt: skip
    try:
        answers = [json.loads(process.stdout.readline()) for process in processes]  # type: ignore[union-attr]
        times: list[list[list[float]]] = [[] for _ in variants]
        order, chance = list(range(len(variants))), random.Random(0)
        for _ in range(rounds):
            chance.shuffle(order)
            for index in order:
                process = processes[index]
                assert process.stdin is not None and process.stdout is not None
                process.stdin.write(f"{CALLS}\n")
                process.stdin.flush()
                times[index].append(json.loads(process.stdout.readline()))
    finally:
        for process in processes:
            process.kill()
            process.wait()
    if not rounds:
        return []
    return [
        row(variant, folders[variant.name], np.array(times[index]), np.array(times[0]), answers[index], answers[0])
        for index, variant in enumerate(variants)
    ]


def row(
    variant: Variant, folder: Path, times: Any, baseline: Any, answered: list[list[float]], reference: list[list[float]]
) -> dict[str, Any]:
    """Return the figures of one variant: times and baseline are [rounds, (clock, processor)] in ms."""
    wall, processor = (baseline / times).T
    ours, theirs = (np.array(rows) / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (answered, reference))
    alike = (ours * theirs).sum(axis=1)
    size = Artifact.from_json((folder / "artifact.json").read_text(), folder).size_bytes
    return {
        "name": variant.name,
        "ms": float(np.median(times[:, 0])),
        "speed": float(np.median(wall)),
        "quartiles": [float(np.quantile(wall, part)) for part in (0.25, 0.75)],
        "speed_processor_time": float(np.median(processor)),
        "cosine": float(alike.min()),
        "mib": size / 2**20,
    }


def show(tower: str, rows: list[dict[str, Any]]) -> None:
    """Print the tables."""
    print(f"\n{tower} tower{'':<40}speed  quartiles    by processor time   cosine      MiB")
    for entry in rows:
        low, high = entry["quartiles"]
        print(
            f"{entry['name']:<50}{entry['speed']:6.2f}   {low:.2f}-{high:.2f}  {entry['speed_processor_time']:14.2f}"
            f"   {entry['cosine']:12.5f} {entry['mib']:8.0f}"
        )
    by_name = {entry["name"]: entry for entry in rows}
    print(f"\n{'what a choice brings':<66}speed x   by processor time   cosine +")
    for what, chosen, other in SHARES:
        if chosen in by_name and other in by_name:
            one, two = by_name[chosen], by_name[other]
            print(
                f"{what:<66}{one['speed'] / two['speed']:6.2f}"
                f"{one['speed_processor_time'] / two['speed_processor_time']:16.2f}"
                f"{one['cosine'] - two['cosine']:+16.5f}"
            )
    sys.stdout.flush()


def machine() -> dict[str, Any]:
    """Return the processor and the versions."""
    hardware = this_hardware()
    names = ("torch", "transformers", "onnx", "onnxruntime", "openvino", "nncf", "torchao", "olive-ai", "optimum")
    return {
        "cpu": hardware.cpu,
        "isa": sorted(hardware.isa),
        "cores": os.cpu_count(),
        "python": sys.version.split()[0],
        **{name: found for name in names if (found := version(name))},
    }


def version(distribution: str) -> str | None:
    """Return the version of what is installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
