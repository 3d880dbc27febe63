"""How files and texts become what a checkpoint's model reads: by its own processor, and by steps of a recipe.

A step of `mmdeploy.preprocess` is proposed only where it gives what the processor gives, on made-up samples.
"""

from __future__ import annotations

import io
import wave
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mmdeploy.core.errors import EnvironmentUnfitError, UsageError
from mmdeploy.scaffold.pretrained_checkpoint import quiet

Feeds = dict[str, npt.NDArray[Any]]
_CLOSE = 1e-4
_NO_LIMIT = 100_000
_TOKENIZER = "tokenizer.json and tokenizer_config.json"
_RESAMPLING = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
#: Seconds of sound that are served, where the model takes any length.
SECONDS = (0.5, 10.0)


class Reader(Protocol):
    """One kind of what clients send."""

    kind: str
    arguments: tuple[str, ...]
    step: dict[str, Any] | None

    def samples(self) -> Sequence[bytes]:
        """Make up samples as clients would send them."""

    def feeds(self, sample: bytes) -> Feeds:
        """Return what the checkpoint's own processor makes of one, with a batch axis of 1."""


@dataclass
class TextReader:
    """Texts, by the checkpoint's tokenizer.

    Attributes:
        tokenizer: Of `transformers`.
        most: Tokens that the model takes.
        filled: Whether every text is filled up to that.
        arguments: Of the model's forward.
        step: Options of ``tokenize``, where it gives the same.
    """

    tokenizer: Any
    most: int
    arguments: tuple[str, ...]
    filled: bool = False
    step: dict[str, Any] | None = None
    kind: str = "text"

    @property
    def fewest(self) -> int:
        """Return how many tokens an empty text is, one at least."""
        return max(1, len(self.tokenizer("")["input_ids"]))

    def samples(self) -> Sequence[bytes]:
        """Make up texts: of few words, with signs, and longer than the model takes."""
        texts = (
            "a photo of a cat",
            "Two old dogs, near red water!",
            "naïve café: 42 % of IT's",
            "so it goes on " * 600,
        )
        return [text.encode() for text in texts]

    def feeds(self, sample: bytes) -> Feeds:
        """Tokenize a text."""
        padding = {"padding": "max_length"} if self.filled else {}
        found = self.tokenizer([sample.decode()], truncation=True, max_length=self.most, return_tensors="np", **padding)
        return {name: found[name].astype(np.int64) for name in self.arguments}


@dataclass
class ImageReader:
    """Pictures, by the checkpoint's image processor."""

    processor: Any
    arguments: tuple[str, ...] = ("pixel_values",)
    step: dict[str, Any] | None = None
    kind: str = "image"

    def samples(self) -> Sequence[bytes]:
        """Make up pictures: wide, tall and small, coarse and noisy."""
        from PIL import Image

        random, made = np.random.default_rng(0), []
        for width, height in ((301, 233), (211, 317), (25, 41)):
            coarse = Image.fromarray(random.integers(0, 256, (7, 5, 3), dtype=np.uint8)).resize((width, height))
            noise = random.integers(-20, 21, (height, width, 3))
            picture = (np.asarray(coarse) + noise).clip(0, 255).astype(np.uint8)
            written = io.BytesIO()
            Image.fromarray(picture).save(written, format="PNG")
            made.append(written.getvalue())
        return made

    def feeds(self, sample: bytes) -> Feeds:
        """Process a picture."""
        from PIL import Image

        found = self.processor(images=Image.open(io.BytesIO(sample)).convert("RGB"), return_tensors="np")
        return {name: np.asarray(found[name]).astype(np.float32) for name in self.arguments}


@dataclass
class AudioReader:
    """Sounds, by the checkpoint's feature extractor."""

    extractor: Any
    arguments: tuple[str, ...]
    step: dict[str, Any] | None = None
    kind: str = "audio"
    rate: int = field(init=False)

    def __post_init__(self) -> None:
        """Take the rate that it wants."""
        self.rate = int(self.extractor.sampling_rate)

    @property
    def is_raw(self) -> bool:
        """Say whether the model reads samples and not a spectrogram."""
        return self.arguments == ("input_values",) and int(getattr(self.extractor, "feature_size", 0)) == 1

    def samples(self) -> Sequence[bytes]:
        """Make up sounds: a tone with noise, of lengths that the recipe serves."""
        random, made = np.random.default_rng(0), []
        for seconds in (SECONDS[0], 1.37, 2.9):
            count = int(self.rate * seconds)
            tone = 0.4 * np.sin(np.arange(count) * 2 * np.pi * random.uniform(100, 900) / self.rate)
            sound = ((tone + random.normal(0, 0.1, count)).clip(-1, 1) * 32767).astype("<i2")
            written = io.BytesIO()
            with wave.open(written, "wb") as file:
                file.setnchannels(1)
                file.setsampwidth(2)
                file.setframerate(self.rate)
                file.writeframes(sound.tobytes())
            made.append(written.getvalue())
        return made

    def feeds(self, sample: bytes) -> Feeds:
        """Extract the features of a sound."""
        from mmdeploy.preprocess import DecodeAudio

        sound = DecodeAudio(rate=self.rate).row({"data": sample})["samples"]
        found = self.extractor(sound, sampling_rate=self.rate, return_tensors="np")
        return {name: np.asarray(found[name]).astype(np.float32) for name in self.arguments}


def text_reader(folder: Path, model: Any, taken: Sequence[str]) -> TextReader:
    """Return the reader of texts.

    Args:
        folder: The checkpoint.
        model: What reads the tokens; its config says how many positions there are.
        taken: Arguments of its forward.

    Raises:
        UsageError: If the folder holds no tokenizer that loads.
    """
    tokenizer = _loaded(folder, "AutoTokenizer", _TOKENIZER)
    names = {*tokenizer.vocab_files_names.values()}
    if names and not any((folder / name).is_file() for name in names):  # transformers makes one without any words
        raise UsageError(
            f"--pretrained {folder}: there is no tokenizer, which is one of {', '.join(sorted(names))}",
            hint=f"copy {_TOKENIZER} beside config.json: tokenizer.save_pretrained(FOLDER) writes them",
        )
    given = tokenizer("a b")
    arguments = tuple(name for name in ("input_ids", "attention_mask") if name in given and name in taken)
    config = getattr(model.config, "text_config", model.config)
    positions = int(getattr(config, "max_position_embeddings", 0) or 0)
    limits = [size for size in (int(tokenizer.model_max_length), positions) if 0 < size < _NO_LIMIT]
    most = min(limits) if limits else 512
    if most == positions and type(tokenizer.pad_token_id) is int and "position_ids" in taken:
        most = _fitting(model, most, tokenizer.pad_token_id)
    return TextReader(tokenizer, most, arguments)


def image_reader(folder: Path) -> ImageReader:
    """Return the reader of pictures.

    Raises:
        UsageError: If the folder holds no image processor that loads.
    """
    return ImageReader(_loaded(folder, "AutoImageProcessor", "preprocessor_config.json", backend="pil"))


def audio_reader(folder: Path, argument: str) -> AudioReader:
    """Return the reader of sounds.

    Raises:
        UsageError: If the folder holds no feature extractor that loads.
    """
    return AudioReader(_loaded(folder, "AutoFeatureExtractor", "preprocessor_config.json"), (argument,))


def find_step(reader: Reader, folder: Path) -> None:
    """Give a reader the step of a recipe that does the same as the checkpoint's processor, if there is one."""
    proposal = _PROPOSALS[reader.kind](reader, folder)
    if proposal is None:
        return
    options, run = proposal
    try:
        same = all(_alike(run(sample), reader.feeds(sample)) for sample in reader.samples())
    except Exception:  # noqa: BLE001 - whatever a step or a processor refuses, it is not the same
        same = False
    reader.step = options if same else None


def _alike(given: Mapping[str, Any], wanted: Feeds) -> bool:
    return all(
        given[name].shape == array[0].shape and np.allclose(given[name], array[0], atol=_CLOSE)
        for name, array in wanted.items()
    )


Proposal = tuple[dict[str, Any], Callable[[bytes], dict[str, Any]]] | None


def _tokenize(reader: Any, folder: Path) -> Proposal:
    from mmdeploy.preprocess import Tokenize

    if not (folder / "tokenizer.json").is_file():
        return None
    options: dict[str, Any] = {("length" if reader.filled else "max_length"): reader.most}
    if reader.filled and reader.tokenizer.pad_token_id is not None:
        options["pad_id"] = int(reader.tokenizer.pad_token_id)
    step = Tokenize(tokenizer="tokenizer.json", **options)
    step.open(folder)

    def run(sample: bytes) -> dict[str, Any]:
        row = step.row({"text": sample})
        return {"input_ids": row["ids"], "attention_mask": row["mask"]}

    return {"method": "tokenize"} | options, run


def _decode_image(reader: Any, folder: Path) -> Proposal:
    from mmdeploy.preprocess import DecodeImage

    of = reader.processor
    options: dict[str, Any] = {}
    if getattr(of, "do_resize", False):
        size = dict(of.size)
        exact = [size.get("height"), size.get("width")]
        options["resize"] = (
            int(size["shortest_edge"]) if size.get("shortest_edge") else [int(one or 0) for one in exact]
        )
        options["interpolation"] = _RESAMPLING[int(of.resample)]
    if getattr(of, "do_center_crop", False):
        crop = dict(of.crop_size)
        options["crop"] = [int(crop["height"]), int(crop["width"])]
    scale = float(of.rescale_factor) if getattr(of, "do_rescale", False) else 1.0
    if abs(scale * 255 - 1) > 1e-6:
        options["scale"] = scale
    if getattr(of, "do_normalize", False):
        options |= {"mean": [*map(float, of.image_mean)], "std": [*map(float, of.image_std)]}
    tuples: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in options.items()
    }
    step = DecodeImage(**tuples)
    return {"method": "decode_image"} | options, lambda sample: {"pixel_values": step.row({"data": sample})["pixels"]}


def _decode_audio(reader: Any, folder: Path) -> Proposal:
    from mmdeploy.preprocess import DecodeAudio

    if not reader.is_raw:
        return None
    options: dict[str, Any] = {"rate": reader.rate, "min_seconds": SECONDS[0], "max_seconds": SECONDS[1]}
    if getattr(reader.extractor, "do_normalize", False):
        options["scaling"] = "unit_variance"
    step = DecodeAudio(**options)
    return {"method": "decode_audio"} | options, lambda sample: {"input_values": step.row({"data": sample})["samples"]}


_PROPOSALS: Mapping[str, Callable[[Any, Path], Proposal]] = {
    "text": _tokenize,
    "image": _decode_image,
    "audio": _decode_audio,
}


def _loaded(folder: Path, name: str, files: str, **more: Any) -> Any:
    import transformers

    try:
        with quiet():
            return getattr(transformers, name).from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, **more
            )
    except ImportError as cause:
        lines = str(cause).strip().splitlines()
        raise EnvironmentUnfitError(
            f"--pretrained {folder}: its processor needs a package that is missing: {' '.join(lines[:3])}",
            hint='pip install "multimodal-deploy[cpu,media]", and what the message names',
        ) from cause
    except Exception as cause:
        first = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
        raise UsageError(
            f"--pretrained {folder}: {name} cannot be loaded from it: {first}",
            hint=f"copy {files} beside config.json: processor.save_pretrained(FOLDER) writes them",
        ) from cause


def _fitting(model: Any, most: int, pad: int) -> int:
    """Return how many tokens a model takes that counts positions from behind the padding's id, as RoBERTa does."""
    import torch

    part = getattr(model, "text_model", model)
    try:
        with torch.inference_mode():
            part(input_ids=torch.full((1, most), pad + 1), attention_mask=torch.ones(1, most, dtype=torch.long))
    except (IndexError, RuntimeError, ValueError):
        return most - pad - 1
    return most
