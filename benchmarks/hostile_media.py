"""2,000 damaged files against a real Triton: each is answered or refused, in time, in bounded memory, and it serves on.

    python benchmarks/hostile_media.py --files 2000

The steps are those of ``tests/media_recipe``, served without a build: they need no model. Files are valid PNG, JPEG,
WebP, WAV, FLAC, OGG and MP3 files and texts with bits flipped, sizes overwritten, pieces cut out, repeated and
inserted, beside some that are made to hurt: bombs of 50,000 x 50,000 pixels, an hour of silence in FLAC, other formats.
"""

from __future__ import annotations

import argparse
import io
import random
import struct
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mmdeploy.building.media_steps import served_steps
from mmdeploy.core.artifact import TensorSpec
from mmdeploy.core.errors import InferenceError, ServerError
from mmdeploy.core.strings import as_strings
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.triton import server as triton_server
from mmdeploy.triton.client import GrpcRunner
from mmdeploy.triton.config import ServedEnsemble
from mmdeploy.triton.repository import stage

RECIPE = Path(__file__).parents[1] / "tests" / "media_recipe" / "recipe.yaml"
#: Longer than this counts as a hang.
LIMIT_S = 10.0


def images() -> Iterator[bytes]:
    """Give valid images."""
    from PIL import Image

    picture = Image.fromarray(np.random.default_rng(1).integers(0, 255, (60, 80, 3), dtype=np.uint8))
    for kind, mode, options in (
        ("PNG", "RGB", {}), ("PNG", "P", {}), ("PNG", "RGBA", {}), ("JPEG", "RGB", {}), ("JPEG", "CMYK", {}),
        ("JPEG", "RGB", {"progressive": True}), ("WEBP", "RGB", {}), ("WEBP", "RGBA", {"lossless": True}),
    ):  # fmt: skip
        with io.BytesIO() as stream:
            picture.convert(mode).save(stream, kind, **options)
            yield stream.getvalue()


def sounds() -> Iterator[bytes]:
    """Give valid sounds."""
    import soundfile

    samples = np.sin(np.arange(8000)[:, None] * [0.1, 0.2]) * 0.5
    for kind, subtype in (
        ("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "FLOAT"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"),
        ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"),
    ):  # fmt: skip
        with io.BytesIO() as stream:
            soundfile.write(stream, samples, 16_000 if subtype == "OPUS" else 8000, format=kind, subtype=subtype)
            yield stream.getvalue()


def made_to_hurt() -> Iterator[tuple[str, bytes]]:
    """Give files that are small and ask for much."""
    import soundfile

    def png(width: int, height: int, data: bytes) -> bytes:
        def chunk(kind: bytes, content: bytes) -> bytes:
            return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

        head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")

    yield "photo", png(50_000, 50_000, zlib.compress(bytes(10**6)))
    yield "photo", png(7_000, 7_000, zlib.compress(bytes(21_007_000)))
    yield "photo", png(1, 49_000_000, b"")
    yield "photo", b"PK\x03\x04" + bytes(1000)
    yield "photo", b"GIF89a" + bytes(100)
    yield "photo", bytes(40 * 2**20)
    with io.BytesIO() as stream:
        soundfile.write(stream, np.zeros(3600 * 8000, np.int16), 8000, format="FLAC")
        hour = stream.getvalue()
    yield "clip", hour
    lying = bytearray(hour)
    lying[21] &= 0xF0
    lying[22:26] = bytes(4)
    yield "clip", bytes(lying)
    for text in (b"\xff\xfe", b"a" * 70_000, "\u0301".encode() * 30_000, b"\x00" * 100, "\U0010ffff".encode() * 10_000):
        yield "caption", text


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Return a file with some of it changed."""
    found = bytearray(content)
    for _ in range(chance.randint(1, 8)):
        at = chance.randrange(max(1, len(found)))
        match chance.randrange(5):
            case 0 if found:
                found[min(at, len(found) - 1)] ^= 1 << chance.randrange(8)
            case 1:
                found[at : at + 4] = chance.choice([b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f"])
            case 2:
                del found[at : at + chance.randint(1, 500)]
            case 3:
                found[at:at] = chance.randbytes(chance.randint(1, 40))
            case _:
                found[at:at] = found[at : at + chance.randint(1, 2000)]
    return bytes(found)


def cases(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Give what is sent: input, content."""
    chance = random.Random(seed)
    hurting = list(made_to_hurt())
    yield from hurting
    kinds = {"photo": list(images()), "clip": list(sounds()), "caption": ["an owl sees a cat é".encode()]}
    for index in range(count - len(hurting)):
        name = ("photo", "clip", "photo", "clip", "caption")[index % 5]
        yield name, damaged(chance.choice(kinds[name]), chance)


def main() -> None:
    """Send the files and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    recipe = load_recipe(RECIPE)
    vector = TensorSpec("logits", "FP32", (3,)), TensorSpec("embedding", "FP32", (8,))
    steps, _ = served_steps(recipe, {spec.name: spec for spec in vector}, {})
    steps = tuple(step for step in steps if {*step.inputs.values()} <= {*recipe.inputs})
    outputs = tuple(
        TensorSpec(step.outputs[spec.name], spec.dtype, spec.shape) for step in steps for spec in step.gives
    )
    readers = {tensor: step.name for step in steps for tensor in step.inputs.values() if "count" not in step.name}
    with tempfile.TemporaryDirectory() as place:
        stage(Path(place, "staged"), ServedEnsemble("media", recipe.input_specs, outputs, (), steps=steps))
        with triton_server.start([Path(place, "staged")], log=Path(place, "log")) as server:
            run(server, readers, arguments)


def run(server: triton_server.Server, readers: dict[str, str], arguments: argparse.Namespace) -> None:
    """Ask the server with every file; then, whether it still answers good ones."""
    came_to: Counter[str] = Counter()
    good = {"photo": next(images()), "clip": next(sounds()), "caption": b"an owl"}
    runners = {name: GrpcRunner(server.grpc_url, model, timeout_s=60) for name, model in readers.items()}
    own = {name: runner.inputs[0].name for name, runner in runners.items()}

    def ask(name: str, content: bytes) -> str:
        strings = as_strings(content)
        assert strings is not None
        try:
            runners[name].infer({own[name]: strings.reshape(1, 1)})
        except InferenceError as error:
            return "refused" if f"{name!r}, row 0" in error.message else f"other error: {error.message[:100]}"
        except ServerError as error:
            return f"no answer: {error.message[:100]}"
        return "answered"

    for name, content in good.items():
        assert ask(name, content) == "answered", name
    before = most = server.memory_bytes()
    slowest = 0.0
    for index, (name, content) in enumerate(cases(arguments.files, arguments.seed)):
        start = time.perf_counter()
        came_to[ask(name, content)] += 1
        slowest = max(slowest, time.perf_counter() - start)
        if index % 20 == 0:
            most = max(most, server.memory_bytes())
    alive = all(ask(name, content) == "answered" for name, content in good.items())
    mib = 2**20
    for what, times in came_to.most_common():
        print(f"{times:6} {what}")
    print(
        f"serves on: {'yes' if alive else 'NO'}; hangs (over {LIMIT_S:g} s): {'none' if slowest < LIMIT_S else 'YES'}"
    )
    print(f"slowest answer {slowest:.2f} s; memory {before / mib:.0f} MiB before, {most / mib:.0f} MiB at most, "
          f"{server.memory_bytes() / mib:.0f} MiB after")  # fmt: skip


if __name__ == "__main__":
    main()
