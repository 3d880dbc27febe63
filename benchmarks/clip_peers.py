"""What a user would pick instead of mmdeploy for the towers of `clip_towers.py`: each made by its own tool's calls.

A tool that is not installed has no row, and the tables say so; one that does not go beside the rest can fill ``--work``
from an environment of its own (``--prepare --only``), and be measured in this one. ``torch.compile`` compiles in the
process that answers, from a cache under ``--work``; what torchao quantizes is compiled ahead of time, by the same
compiler.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from clip_variants import Variant

from mmdeploy.core.artifact import Array, Artifact, file_sha256
from mmdeploy.engines import aot_inductor, aot_package, openvino

#: What each graph or mode of a peer imports, and why it is not there where it cannot be installed beside the rest.
NEEDS = {
    "nncf": ("nncf", "pip install nncf"),
    "torchao": ("torchao", "pip install torchao==0.18.0"),
    "olive": ("olive", "pip install olive-ai 'numpy<2' 'pandas<3'"),
    "optimum": ("optimum.onnxruntime", "in an environment of its own (--prepare --only Optimum), with transformers 4"),
}
PEERS = (
    Variant("torch.compile (peer)", "torch", "compile"),
    Variant("torch.compile BF16 (peer)", "torch", "compile bf16"),
    Variant("torchao PT2E x86 INT8 (peer)", "aot_inductor", "torchao", aot_inductor.Options()),
    Variant("Olive INT8 dynamic (peer)", "onnxruntime", "olive"),
    Variant("Optimum INT8 dynamic (peer)", "onnxruntime", "optimum"),
)


def missing(variants: Sequence[Variant], made: Sequence[Path]) -> dict[str, str]:
    """Return the peers whose tool is not here, by name, and what to do.

    Args:
        variants: Of all rows.
        made: Folders of the towers; what lies in each of them was made before.
    """

    def is_made(graph: str) -> bool:
        return bool(made) and all((folder / graph / "artifact.json").exists() for folder in made)

    wanted = [one for one in variants if one.graph in NEEDS]
    return {one.name: NEEDS[one.graph][1] for one in wanted if not (is_made(one.graph) or _is_here(one.graph))}


def _is_here(graph: str) -> bool:
    try:
        return importlib.util.find_spec(NEEDS[graph][0]) is not None
    except ModuleNotFoundError:
        return False


def torch_answers(mode: str, tower: str) -> Callable[[Any], Any]:
    """Return what answers feed dicts with the module itself: ``fp32``, ``compile`` or ``compile bf16``."""
    import clip_pair
    import torch

    torch.set_num_threads(1)
    module = clip_pair.build()[tower]
    called = torch.compile(module) if mode.startswith("compile") else module

    def run(request: Any) -> Any:
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled="bf16" in mode):
            given = {name: torch.from_numpy(array) for name, array in request.items()}
            return {"": called(**given).float().numpy()}

    return run


def by_torchao(tower: str, work: Path, source: Artifact, samples: dict[str, Array]) -> Artifact:
    """Quantize with PT2E and the quantizer for x86, static, and compile it for batch 1 as torchao's guide says."""
    import clip_pair
    import torch
    from torch._inductor.utils import fresh_cache
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    torch.set_num_threads(1)
    (name,) = samples
    rows = torch.from_numpy(samples[name])
    with torch.no_grad():
        module = clip_pair.build()[tower]
        quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
        prepared = prepare_pt2e(torch.export.export(module, (rows[:1],)).module(), quantizer)
        for index in range(len(rows)):
            prepared(rows[index : index + 1])
        converted = convert_pt2e(prepared)

        class Tupled(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.converted = converted

            def forward(self, value: torch.Tensor) -> tuple[torch.Tensor]:
                return (self.converted(value),)

        program = torch.export.export(Tupled(), (rows[:1],))
        path = work / aot_inductor.FILENAME
        work.mkdir(parents=True, exist_ok=True)
        notes = aot_package.metadata_of_build() | aot_package.names_of(source.inputs, source.outputs)
        settings = {"freezing": True, "cpp.threads": 1, "aot_inductor.metadata": notes}
        with fresh_cache():
            torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=settings)
    return Artifact("aot_inductor", path, file_sha256(path), source.inputs, source.outputs, "torchao")


def by_olive(work: Path, source: Artifact) -> Artifact:
    """Quantize with Olive's pass for dynamic INT8, as it is set by default."""
    from olive.workflows import run

    work.mkdir(parents=True, exist_ok=True)
    with contextlib.redirect_stdout(io.StringIO()):
        run(
            {
                "input_model": {"type": "ONNXModel", "model_path": str(source.path)},
                "passes": {"quantize": {"type": "OnnxDynamicQuantization"}},
                "output_dir": str(work / "olive"),
                "cache_dir": str(work / "cache"),
                "log_severity_level": 3,
            }
        )
    return _of_graph(next((work / "olive").rglob("*.onnx")), work, source, "olive")


def by_optimum(work: Path, source: Artifact) -> Artifact:
    """Quantize with Optimum's configuration for AVX512-VNNI, dynamic."""
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig

    work.mkdir(parents=True, exist_ok=True)
    quantizer = ORTQuantizer.from_pretrained(source.path.parent, file_name=source.path.name)
    quantizer.quantize(
        save_dir=work / "optimum",
        quantization_config=AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=False),
    )
    return _of_graph(next((work / "optimum").rglob("*.onnx")), work, source, "optimum")


def by_nncf(work: Path, source: Artifact, samples: dict[str, Array]) -> Artifact:
    """Quantize with NNCF's own algorithm for transformers, on the same samples."""
    import nncf
    from openvino import Core, save_model

    work.mkdir(parents=True, exist_ok=True)
    count = len(next(iter(samples.values())))
    data = [{name: array[index : index + 1] for name, array in samples.items()} for index in range(count)]
    with contextlib.redirect_stdout(io.StringIO()):
        model = nncf.quantize(
            Core().read_model(source.path),
            nncf.Dataset(data),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=count,
        )
    path = work / openvino.FILENAME
    save_model(model, path, compress_to_fp16=False)
    return Artifact("openvino", path, file_sha256(path), source.inputs, source.outputs, "nncf", beside=("model.bin",))


def environment(work: Path) -> dict[str, str]:
    """Return what processes that answer are given besides: where torch.compile keeps what it has compiled."""
    return os.environ | {"TORCHINDUCTOR_CACHE_DIR": str((work / "inductor").resolve())}


def _of_graph(found: Path, work: Path, source: Artifact, maker: str) -> Artifact:
    path = work / "model.onnx"
    path.write_bytes(found.read_bytes())
    return Artifact("onnx", path, file_sha256(path), source.inputs, source.outputs, maker)
