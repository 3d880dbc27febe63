"""The data file of a checkpoint: it reads the user's own files, and says what to put where until they are there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mmdeploy.core.version import __version__
from mmdeploy.scaffold.pretrained_parts import Form
from mmdeploy.scaffold.pretrained_readers import AudioReader, Reader, TextReader

_PICTURES = (".png", ".jpg", ".jpeg", ".webp")
_SOUNDS = (".wav", ".flac", ".ogg", ".mp3")
_ENDINGS = {"image": _PICTURES, "audio": _SOUNDS, "text": (".txt",)}
_ARTICLED = {"image": "a picture", "audio": "a sound"}


def data_text(form: Form, inputs: Mapping[str, str], checkpoint: str, samples: str) -> str:
    """Write the data file.

    Args:
        form: What is served.
        inputs: Tensor of the ensemble that holds what clients send, by kind, where a step of the recipe reads it.
        checkpoint: The expression of the checkpoint's folder, in Python.
        samples: That of the folder with the user's files.
    """
    readers = {part.reader.kind: part.reader for part in form.parts if part.reader is not None}
    lines = [*_head(readers, checkpoint, samples), "", "", *_public(), "", "", *_samples(readers, inputs)]
    for kind, reader in readers.items():
        if kind not in inputs:
            lines += ["", "", *_processed(reader)]
    lines += ["", "", *_files(readers)]
    return "\n".join(lines) + "\n"


def _head(readers: Mapping[str, Reader], checkpoint: str, samples: str) -> Iterator[str]:
    processed = [reader for reader in readers.values() if reader.step is None]
    yield '"""The samples that calibrate the model and judge it: your own files.'
    yield ""
    yield f"Proposed by mmdeploy init {__version__}: a start, to be changed."
    yield '"""'
    yield ""
    if any(reader.kind == "image" for reader in processed):
        yield "import io"
    yield from ["from collections.abc import Iterator", "from itertools import islice", "from pathlib import Path"]
    yield ""
    if processed:
        names = ", ".join(sorted(_AUTO[reader.kind] for reader in processed))
        if any(reader.kind == "image" for reader in processed):
            yield "from PIL import Image"
        yield f"from transformers import {names}"
        if any(reader.kind == "audio" for reader in processed):
            yield from ["", "from mmdeploy.preprocess import DecodeAudio"]
        yield ""
    yield "# >>> YOUR FILES GO HERE <<<"
    yield from (f"# {line}" for line in _wanted(readers))
    yield "# Sixteen are enough to begin with, some hundreds to judge by; odd ones judge, even ones calibrate."
    yield f"SAMPLES = {samples}"
    if processed:
        yield f"CHECKPOINT = {checkpoint}"


_AUTO = {"text": "AutoTokenizer", "image": "AutoImageProcessor", "audio": "AutoFeatureExtractor"}


def _wanted(readers: Mapping[str, Reader]) -> list[str]:
    other = next((kind for kind in readers if kind != "text"), None)
    if other is None:
        return ["Text files (NAME.txt), a text a line."]
    endings = ", ".join(f"NAME{ending}" for ending in _ENDINGS[other])
    if "text" not in readers:
        return [f"One file a sample: {endings}."]
    return [f"Two files a sample: {_ARTICLED[other]} ({endings})", "and beside it NAME.txt, what is said of it."]


def _public() -> Iterator[str]:
    yield "def calibration() -> Iterator[dict[str, object]]:"
    yield '    """Yield every second sample."""'
    yield "    return islice(samples(), 1, None, 2)"
    yield ""
    yield ""
    yield "def evaluation() -> Iterator[dict[str, object]]:"
    yield '    """Yield the others: the gates judge by samples that nothing was calibrated on."""'
    yield "    return islice(samples(), 0, None, 2)"


def _samples(readers: Mapping[str, Reader], inputs: Mapping[str, str]) -> Iterator[str]:
    other = next((kind for kind in readers if kind != "text"), None)
    yield "def samples() -> Iterator[dict[str, object]]:"
    yield '    """Yield what clients would send; `yield feeds, label` with labels, for an accuracy gate."""'
    yield "    for path in files():"
    if other is None:
        yield '        for line in path.read_text(encoding="utf-8").splitlines():'
        yield "            if line.strip():"
        yield f"                yield {_feeds([('text', 'line')], inputs)}"
        return
    yield "        content = path.read_bytes()"
    values = [(other, "content")]
    if "text" in readers:
        yield '        text = path.with_suffix(".txt").read_text(encoding="utf-8").strip()'
        values.append(("text", "text"))
    yield f"        yield {_feeds(values, inputs)}"


def _feeds(values: list[tuple[str, str]], inputs: Mapping[str, str]) -> str:
    parts = [f'"{inputs[kind]}": {value}' if kind in inputs else f"**{kind}_feeds({value})" for kind, value in values]
    return f"{{{', '.join(parts)}}}"


def _processed(reader: Reader) -> Iterator[str]:
    """Give what makes feeds by the processor of `transformers`, where no step of a recipe does the same."""
    taken = "text: str" if reader.kind == "text" else "content: bytes"
    yield f"def {reader.kind}_feeds({taken}) -> dict[str, object]:"
    yield '    """Return what the model reads of it, by the checkpoint\'s own processor."""'
    more = ', backend="pil"' if reader.kind == "image" else ""
    yield f"    processor = {_AUTO[reader.kind]}.from_pretrained(CHECKPOINT, local_files_only=True{more})"
    if isinstance(reader, TextReader):
        padding = ', padding="max_length"' if reader.filled else ""
        given = f"[text], truncation=True, max_length={reader.most}{padding}"
    elif isinstance(reader, AudioReader):
        yield f'    sound = DecodeAudio(rate={reader.rate}).row({{"data": content}})["samples"]'
        if longest := getattr(reader.extractor, "nb_max_samples", None):
            yield f"    sound = sound[:{int(longest)}]  # of what is longer the processor takes a part at random"
        given = f"sound, sampling_rate={reader.rate}"
    else:
        given = 'images=Image.open(io.BytesIO(content)).convert("RGB")'
    yield f'    made = processor({given}, return_tensors="np")'
    dtype = "int64" if reader.kind == "text" else "float32"
    yield f'    return {{name: made[name][0].astype("{dtype}") for name in {[*reader.arguments]!r}}}'.replace("'", '"')


def _files(readers: Mapping[str, Reader]) -> Iterator[str]:
    other = next((kind for kind in readers if kind != "text"), "text")
    endings = ", ".join(f'"{ending}"' for ending in _ENDINGS[other])
    yield "def files() -> list[Path]:"
    yield '    """Return the files, in the order of their names."""'
    yield f"    endings = ({endings}{'' if ', ' in endings else ','})"
    yield '    found = sorted(path for path in SAMPLES.rglob("*") if path.suffix.lower() in endings)'
    if "text" in readers and other != "text":
        yield '    found = [path for path in found if path.with_suffix(".txt").is_file()]'
    least = 1 if other == "text" else 2
    yield f"    if len(found) < {least}:"
    yield "        raise FileNotFoundError("
    yield f'            f"{{len(found)}} of your samples are in {{SAMPLES.resolve()}}, at least {least} must be: "'
    yield from (f'            "{part}"' for part in _spoken(readers))
    yield "        )"
    yield "    return found"


def _spoken(readers: Mapping[str, Reader]) -> list[str]:
    """Return what to put there, as the pieces of one text."""
    lines = _wanted(readers)
    first = lines[0][0].lower() + lines[0][1:]
    return [f"put there {first.rstrip('.')}"] if len(lines) == 1 else [f"put there {first} ", lines[1].rstrip(".")]
