"""What a request costs that leaves a modality out, against a whole one: two builds of one model, served by one Triton.

    python benchmarks/missing_modality.py [--requests 200] [--out FIGURES.json]

The model is an image encoder (UINT8 [3, 224, 224], a patch embedding and MLP blocks) and an audio encoder
(FP32 [16000]) in front of a small head. It is built as a plain ensemble and with both inputs optional. Requests of each
kind take turns; every figure is the median of its requests, as a ratio to the whole request of the plain ensemble, and
as milliseconds of this machine. *executions* are Triton's own counts of the audio encoder: 0 a request where audio is
missing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

import mmdeploy
from mmdeploy.building.builder import run_build
from mmdeploy.building.settings import Settings
from mmdeploy.core.contracts import FeedDict, Runner
from mmdeploy.core.target import this_hardware
from mmdeploy.record.observer import Silent
from mmdeploy.triton import server as triton_server
from mmdeploy.triton.http import ask_json
from mmdeploy.triton.repository import resolve

MODEL = """
import torch
from torch import nn


def blocks(width, depth):
    return nn.Sequential(*(nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
                           for _ in range(depth)))


class Image(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches, self.blocks = nn.Conv2d(3, 256, 32, 32), blocks(256, 24)

    def forward(self, pixels):
        tokens = self.patches(pixels.float() / 255).flatten(2).transpose(1, 2)
        return self.blocks(tokens).mean(dim=1)


class Audio(nn.Module):
    def __init__(self):
        super().__init__()
        self.frames, self.blocks = nn.Linear(320, 256), blocks(256, 24)

    def forward(self, waveform):
        return self.blocks(self.frames(waveform.unflatten(1, (50, 320)))).mean(dim=1)


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.classify = nn.Linear(512, 10)

    def forward(self, image, audio):
        return self.classify(torch.cat([image, audio], dim=1))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.image, self.audio, self.head = Image(), Audio(), Head()


def build():
    torch.manual_seed(0)
    return Model()
"""
RECIPE = """
schema_version: 1
name: {name}
target: cpu
model: {{factory: model.py:build}}
inputs:
  image: {{dtype: UINT8, shape: [3, 224, 224]{optional}}}
  audio: {{dtype: FP32, shape: [16000], range: [-1, 1]{optional}}}
components:
  image_encoder: {{module: image, inputs: {{pixels: image}}, outputs: {{embedding: image_embedding}}}}
  audio_encoder: {{module: audio, inputs: {{waveform: audio}}, outputs: {{embedding: audio_embedding}}}}
  head:
    module: head
    inputs: {{image: image_embedding, audio: audio_embedding}}
    outputs: {{logits: logits}}
outputs: {{logits: {{}}}}
"""
#: Requests of each kind whose executions are counted.
_COUNTED = 20
OPTIONAL = ", optional: true, missing: {strategy: zeros}"


def built(folder: Path, name: str, optional: str) -> None:
    """Build one of the two and publish it below a folder."""
    recipe = folder / f"{name}.yaml"
    recipe.write_text(RECIPE.format(name=name, optional=optional))
    settings = Settings(workdir=folder / "work", destination=folder / "published")
    outcome = run_build(mmdeploy.load_recipe(recipe), settings, Silent())
    if outcome.error is not None:
        raise outcome.error


def executions(server: triton_server.Server) -> int:
    """Return how often the audio encoder of the ensemble with optional inputs was run."""
    statistics_of = ask_json(f"{server.http_url}/v2/models/optional.audio_encoder/stats")["model_stats"]
    return sum(int(one["execution_count"]) for one in statistics_of)


def _runs(server: triton_server.Server, runner: Runner, feeds: FeedDict) -> float:
    """Return how often a request has the audio encoder run; the counts follow the answers by a moment."""
    time.sleep(0.5)
    before = executions(server)
    for _ in range(_COUNTED):
        runner.infer(feeds)
    time.sleep(0.5)
    return (executions(server) - before) / _COUNTED


def measured(server: triton_server.Server, requests: int) -> dict[str, dict[str, float]]:
    """Ask each kind of request in turns; return milliseconds, ratio, and executions of the audio encoder a request."""
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (1, 3, 224, 224), dtype=np.uint8)
    audio = random.uniform(-1, 1, (1, 16000)).astype(np.float32)
    kinds = {
        "plain, whole": ("plain", {"image": image, "audio": audio}),
        "optional, whole": ("optional", {"image": image, "audio": audio}),
        "without audio": ("optional", {"image": image}),
        "without image": ("optional", {"audio": audio}),
    }
    runners = {name: server.runner(name) for name in ("plain", "optional")}
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for turn in range(requests + 10):
        for kind, (name, feeds) in kinds.items():
            since = time.perf_counter()
            runners[name].infer(feeds)
            taken = time.perf_counter() - since
            if turn >= 10:
                seconds[kind].append(taken)
    runs = {kind: _runs(server, runners[name], feeds) for kind, (name, feeds) in kinds.items()}
    whole = statistics.median(seconds["plain, whole"])
    return {
        kind: {
            "ms": 1e3 * statistics.median(taken),
            "ratio": statistics.median(taken) / whole,
            "executions": runs[kind],
        }
        for kind, taken in seconds.items()
    }


def main() -> None:
    """Build, serve, ask in turns, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "model.py").write_text(MODEL)
        built(folder, "plain", "")
        built(folder, "optional", OPTIONAL)
        repositories = resolve(folder / "published")
        with triton_server.start(repositories, log=folder / "triton.log") as server:
            figures = measured(server, arguments.requests)
    print(f"{this_hardware()}\n{'request':<18}{'ms':>8}{'ratio':>8}{'executions of the audio encoder':>34}")
    for kind, found in figures.items():
        print(f"{kind:<18}{found['ms']:>8.2f}{found['ratio']:>8.2f}{found['executions']:>34.2f}")
    if arguments.out:
        arguments.out.write_text(json.dumps({"hardware": str(this_hardware()), "requests": figures}, indent=1))


if __name__ == "__main__":
    main()
