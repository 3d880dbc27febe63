"""Pre-processing in the ensemble against the same code in process: what Triton's python backend adds to a request.

    python benchmarks/preprocess.py

The steps are those of ``tests/media_recipe``, served without a build. Each is asked, and called, in turns with one row
and with four; the ratio is served over in process, at the median.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from hostile_media import TESTS, images, sounds

from mmdeploy.building.media_steps import served_steps
from mmdeploy.core.artifact import TensorSpec
from mmdeploy.preprocess import WiredMethod
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.triton import server as triton_server
from mmdeploy.triton.client import GrpcRunner
from mmdeploy.triton.config import ServedEnsemble
from mmdeploy.triton.repository import stage


def photograph() -> bytes:
    """Return a JPEG of a megapixel."""
    import io

    from PIL import Image

    small = Image.fromarray(np.random.default_rng(2).integers(0, 255, (40, 60, 3), dtype=np.uint8))
    with io.BytesIO() as stream:
        small.resize((1200, 800)).save(stream, "JPEG", quality=90)
        return stream.getvalue()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    arguments = parser.parse_args()
    recipe = load_recipe(TESTS / "media_recipe" / "recipe.yaml")
    computed = {"logits": TensorSpec("logits", "FP32", (3,)), "embedding": TensorSpec("embedding", "FP32", (8,))}
    steps, _ = served_steps(recipe, computed, {})
    steps = tuple(step for step in steps if {*step.inputs.values()} <= {*recipe.inputs})
    outputs = tuple(
        TensorSpec(step.outputs[spec.name], spec.dtype, spec.shape) for step in steps for spec in step.gives
    )
    contents = {
        "small image": ("read_photo", next(images())), "JPEG, 1 megapixel": ("read_photo", photograph()),
        "sound, 1 s": ("read_clip", next(sounds())), "text": ("read_caption", b"an owl sees a cat and a dog"),
        "function of one's own": ("count_words", b"an owl sees a cat"),
    }  # fmt: skip
    print(f"{'what':24}{'rows':>5}{'in process':>13}{'served':>11}{'added':>11}{'ratio':>8}")
    with tempfile.TemporaryDirectory() as place:
        stage(Path(place, "staged"), ServedEnsemble("media", recipe.input_specs, outputs, (), steps=steps))
        with triton_server.start([Path(place, "staged")], log=Path(place, "log")) as server:
            for what, (name, content) in contents.items():
                wired = WiredMethod.from_json(recipe.preprocess[name].described())
                wired.method.open(recipe.root)
                for rows in (1, 4):
                    array = np.empty((rows, 1), dtype=object)
                    array[:] = content
                    tensor, own = next(iter(wired.inputs.values())), next(iter(wired.inputs))
                    with GrpcRunner(server.grpc_url, f"media.{name}") as runner:
                        inside, outside = in_turns(
                            partial(wired.batch, {tensor: array}), partial(runner.infer, {own: array}), arguments.rounds
                        )
                    added = (outside - inside) * 1000
                    print(
                        f"{what:24}{rows:5}{inside * 1000:10.2f} ms{outside * 1000:8.2f} ms{added:8.2f} ms"
                        f"{outside / inside:8.2f}"
                    )


def in_turns(one: Callable[[], object], other: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Return the median seconds of each, called in turns."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for call, found in zip((one, other), seconds, strict=True):
            start = time.perf_counter()
            call()
            found.append(time.perf_counter() - start)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


if __name__ == "__main__":
    main()
