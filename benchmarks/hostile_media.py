"""2,000 damaged files against a real Triton: each is answered or refused, in time, in bounded memory, and it serves on.

    python benchmarks/hostile_media.py --files 2000

The steps are those of ``tests/media_recipe`` and ``tests/video_recipe``, the latter with the default limits, served
without a build: they need no model. Files are valid PNG, JPEG, WebP, WAV, FLAC, OGG, MP3, GIF, MP4 and WebM files and
texts with bits flipped, sizes overwritten, pieces cut out, repeated and inserted, beside some that are made to hurt:
bombs of 50,000 x 50,000 pixels, an hour of silence in FLAC, 100,000 frames, texts of every odd kind, other formats.
"""

from __future__ import annotations

import argparse
import io
import random
import struct
import sys
import tempfile
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mmdeploy.building.media_steps import served_steps
from mmdeploy.core.artifact import TensorSpec
from mmdeploy.core.errors import InferenceError, ServerError
from mmdeploy.core.strings import as_strings
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.recipe.schema import Recipe
from mmdeploy.triton import server as triton_server
from mmdeploy.triton.client import GrpcRunner
from mmdeploy.triton.config import ServedEnsemble
from mmdeploy.triton.repository import stage
from mmdeploy.triton.served_step import ServedStep

TESTS = Path(__file__).parents[1] / "tests"
#: The limits that the small recipe sets are taken back: defaults are what is tried.
DEFAULT_LIMITS = tuple(f"preprocess.watch.max_{what}=null" for what in ("frames", "pixels", "bytes"))
RECIPES: tuple[tuple[str, tuple[str, ...]], ...] = (("media_recipe", ()), ("video_recipe", DEFAULT_LIMITS))
#: Longer than this counts as a hang.
LIMIT_S = 10.0
#: The server's memory may grow by so much.
LIMIT_BYTES = 2**30


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


def film(kind: str, count: int, size: tuple[int, int]) -> bytes:
    """Return a clip of grey frames that get lighter."""
    import av

    codec, pixels = {"gif": ("gif", "rgb8"), "mp4": ("mpeg4", "yuv420p"), "webm": ("libvpx", "yuv420p")}[kind]
    with io.BytesIO() as stream:
        with av.open(stream, "w", format=kind) as container:
            video = container.add_stream(codec, rate=30)
            video.height, video.width, video.pix_fmt = *size, pixels
            for index in range(count):
                frame = av.VideoFrame.from_ndarray(np.full((*size, 3), 16 * index % 256, np.uint8), format="rgb24")
                container.mux(video.encode(frame))
            container.mux(video.encode())
        return stream.getvalue()


def films() -> Iterator[bytes]:
    """Give valid clips."""
    for kind in ("gif", "mp4", "webm"):
        yield film(kind, 12, (48, 64))
        yield film(kind, 2, (240, 320))


def films_to_hurt() -> Iterator[bytes]:
    """Give clips that are long, large, or say what is not so."""
    gif = film("gif", 3, (16, 16))
    head = gif[: 13 + 3 * 2 ** ((gif[10] & 7) + 1)]
    frame = b"\x21\xf9\x04\x00\x00\x00\x00\x00\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    yield head + frame * 100_000 + b"\x3b"
    for width, height in ((65_535, 65_535), (1_400, 1_400), (65_535, 1)):
        yield gif[:6] + struct.pack("<HH", width, height) + gif[10:]
    yield head + b"\x21\xfe" + (b"\xff" + bytes(255)) * 40_000 + b"\x3b"
    for kind in ("mp4", "webm"):
        yield film(kind, 2_500, (16, 16))
        yield film(kind, 2, (1_600, 1_600))
    mp4, webm = film("mp4", 4, (16, 16)), film("webm", 4, (16, 16))
    for name in (b"stts", b"stsz", b"stco", b"tkhd", b"mp4v"):  # counts and sizes of tables of four thousand million
        at = mp4.index(name)
        yield mp4[: at + 8] + b"\xff" * 8 + mp4[at + 16 :]
    yield b"\x00\x00\x00\x08ftyp" * 100_000
    yield b"\x00\x00\x00\x18ftypisom" + bytes(40 * 2**20)
    yield webm[:4] + b"\x01" + b"\xff" * 7 + webm[12:]
    yield webm[:40] + b"\xec\x08\xff\xff\xff\xff" + webm[40:]
    yield b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"
    yield b"ffconcat version 1.0\nfile /etc/passwd\n"
    yield b"PK\x03\x04" + bytes(1000)


def texts_to_hurt() -> Iterator[bytes]:
    """Give texts that are no UTF-8, longer than is taken, or of characters that nobody types."""
    yield from (
        b"\xff\xfe",
        b"\xc0\x80",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xe2\x82",
        b"an owl \x80",
        b"\xfe" * 60_000,
    )
    yield from (b"a" * 65_536, b"a" * 65_537, b"a " * 40_000, b"owl" * 10 * 2**20, b" " * 65_536)
    yield bytes(range(32)) + b"\x7f"
    yield "".join(map(chr, range(128, 160))).encode()
    for odd in ("\u0000", "\u0301", "\u202e", "\u2028", "\ufeff", "\u200d", "\ufffd", "\ufdfa", "\U0010ffff"):
        yield odd.encode()
        yield odd.encode() * (65_000 // len(odd.encode()))
    yield "".join(chr(code) for code in range(0x20, 0x5000)).encode()


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
    yield from (("film", content) for content in films_to_hurt())
    yield from (("caption", text) for text in texts_to_hurt())


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
    texts = [text.encode() for text in ("an owl sees a cat é", "猫が\tふくろうを見る", "🦉" * 40, "a\r\n" * 300)]
    kinds = {"photo": list(images()), "clip": list(sounds()), "film": list(films()), "caption": texts}
    for index in range(count - len(hurting)):
        name = ("photo", "clip", "film", "film", "caption")[index % 5]
        yield name, damaged(chance.choice(kinds[name]), chance)


def main() -> None:
    """Send the files and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    recipes = [load_recipe(TESTS / name / "recipe.yaml", changes) for name, changes in RECIPES]
    steps = tuple(step for recipe in recipes for step in first_steps(recipe))
    outputs = tuple(
        TensorSpec(step.outputs[spec.name], spec.dtype, spec.shape) for step in steps for spec in step.gives
    )
    sent = tuple(spec for recipe in recipes for spec in recipe.input_specs)
    readers = {tensor: step.name for step in steps for tensor in step.inputs.values() if "count" not in step.name}
    with tempfile.TemporaryDirectory() as place:
        stage(Path(place, "staged"), ServedEnsemble("media", sent, outputs, (), steps=steps))
        with triton_server.start([Path(place, "staged")], log=Path(place, "log")) as server:
            run(server, readers, arguments)


def first_steps(recipe: Recipe) -> Iterator[ServedStep]:
    """Give the steps that read what clients send."""
    written = {wire.tensor for part in recipe.components.values() for wire in part.outputs.values()}
    specs = {tensor: TensorSpec(tensor, "FP32", (3 if tensor == "logits" else 8,)) for tensor in written}
    steps, _ = served_steps(recipe, specs, {})
    yield from (step for step in steps if {*step.inputs.values()} <= {*recipe.inputs})


def run(server: triton_server.Server, readers: dict[str, str], arguments: argparse.Namespace) -> None:
    """Ask the server with every file; then, whether it still answers good ones."""
    came_to: defaultdict[str, Counter[str]] = defaultdict(Counter)
    good = {"photo": next(images()), "clip": next(sounds()), "film": next(films()), "caption": b"an owl"}
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
    slowest: dict[str, float] = defaultdict(float)
    for index, (name, content) in enumerate(cases(arguments.files, arguments.seed)):
        start = time.perf_counter()
        came_to[name][ask(name, content)] += 1
        slowest[name] = max(slowest[name], time.perf_counter() - start)
        if index % 20 == 0:
            most = max(most, server.memory_bytes())
    alive = all(ask(name, content) == "answered" for name, content in good.items())
    mib = 2**20
    for name, found in came_to.items():
        told = ", ".join(f"{times} {what}" for what, times in found.most_common())
        print(f"{name:8} {found.total():5} sent: {told}; the slowest {slowest[name]:.2f} s")
    hangs = sum(times > LIMIT_S for times in slowest.values())
    print(f"serves on: {'yes' if alive else 'NO'}; hangs (over {LIMIT_S:g} s): {hangs or 'none'}")
    print(f"memory {before / mib:.0f} MiB before, {most / mib:.0f} MiB at most, "
          f"{server.memory_bytes() / mib:.0f} MiB after")  # fmt: skip
    unknown = {what for found in came_to.values() for what in found} - {"refused", "answered"}
    if unknown or hangs or not alive or most - before > LIMIT_BYTES:
        sys.exit(1)


if __name__ == "__main__":
    main()
