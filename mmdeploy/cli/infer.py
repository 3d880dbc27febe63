"""``mmdeploy infer``: send files to a served ensemble and print what it answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mmdeploy.cli.output import Output, output_options
from mmdeploy.cli.text import columns
from mmdeploy.core.errors import InferenceError, MmdeployError, ServerError, UsageError, did_you_mean

if TYPE_CHECKING:
    from mmdeploy.core.contracts import FeedDict
    from mmdeploy.triton.address import Address

#: What begins a text that is given in place of a file.
_TEXT = "text:"


@click.command()
@click.argument("model")
@click.argument("files", nargs=-1, metavar="INPUT=FILE...")
@click.option("--url", default="127.0.0.1:8001", show_default=True, help="gRPC host:port, or http://host:port.")
@click.option("--fit", is_flag=True, help="Resize images, and cut or fill audio, to the size that the model takes.")
@output_options(quiet="the tensors, without what is reckoned from them")
def command(*, model: str, files: tuple[str, ...], url: str, fit: bool, output: Output) -> None:
    """Send files to a served ensemble: PNG, JPEG, WAV, .npy or JSON, one for each input.

    An input of BYTES is sent the file as it is, whatever it holds, or a text: INPUT=text:... One that takes several
    texts is sent the lines of it.

    An input that the recipe calls optional may be left out. The model may batch or not: one sample is sent. An
    http:// URL speaks KServe v2 JSON, anything else gRPC.

    \b
    Example:
      mmdeploy infer spoken_digits image=seven.png audio=seven.wav
      mmdeploy infer spoken_digits image=x.npy audio=x.wav --fit \\
        --url http://127.0.0.1:8000
      mmdeploy infer spoken_digits_missing image=seven.png
      mmdeploy infer pair photo=cat.webp "caption=text:a cat on a mat"
      mmdeploy infer clip image=cat.jpg "labels=text:$(cat labels.txt)"
    """  # noqa: D301
    runner = _runner(url, model)
    try:
        feed_dict = _feed_dict(runner, files, fit)
        answers = runner.infer(feed_dict)
    finally:
        runner.close()
    batched = runner.max_batch_size > 0
    values = {name: (array[0] if batched else array) for name, array in answers.items()}
    output.answer(
        text=lambda: "\n".join(_shown(name, array) for name, array in values.items()),
        fields=lambda: {"model": model, "outputs": {name: _plain(array) for name, array in values.items()}},
        quiet=[_shown(name, array).partition("\n  largest: ")[0] for name, array in values.items()],
    )


def _runner(url: str, model: str) -> Any:
    from mmdeploy.triton.address import Address
    from mmdeploy.triton.client import GrpcRunner, HttpRunner

    address = Address.parsed(url)
    try:
        return HttpRunner(f"http://{address}", model) if address.is_http else GrpcRunner(str(address), model)
    except ServerError as error:
        error.hint = "start one with mmdeploy serve, or give the address that it printed with --url"
        raise
    except InferenceError as error:
        error.hint = _served_instead(address, model)
        raise


def _served_instead(address: Address, model: str) -> str | None:
    """Say which models the server has, where it tells."""
    from mmdeploy.triton.client import served_models
    from mmdeploy.triton.probe import loaded_models

    try:
        names = loaded_models(f"http://{address}") if address.is_http else served_models(str(address))
    except MmdeployError:
        return None
    return did_you_mean(model, names) if model not in names else None


def _feed_dict(runner: Any, files: tuple[str, ...], fit: bool) -> FeedDict:
    specs = {spec.name: spec for spec in runner.inputs}
    given: dict[str, str] = {}
    for pair in files:
        name, equals, file = pair.partition("=")
        if not equals:
            raise UsageError(
                f"{pair!r} is not INPUT=FILE", hint=f"the model takes {', '.join(map(str, specs.values()))}"
            )
        if name not in specs:
            raise UsageError(f"the model has no input {name!r}; {did_you_mean(name, specs)}")
        if name in given:
            raise UsageError(
                f"two files for {name}: {given[name]} and {file}", hint="give one INPUT=FILE for each input"
            )
        given[name] = file
    missing = [str(spec) for name, spec in specs.items() if name not in given and name not in runner.optional]
    if missing:
        raise UsageError(f"no file for {'; '.join(missing)}", hint="give one INPUT=FILE for each input")
    if not given:
        raise UsageError("no file for any input", hint=f"the model takes {', '.join(map(str, specs.values()))}")
    batched = runner.max_batch_size > 0
    tensors = {name: _tensor(file, specs[name], fit) for name, file in given.items()}
    return {name: array[None] if batched else array for name, array in tensors.items()}


def _tensor(file: str, spec: Any, fit: bool) -> Any:
    """Read a file, or take what stands behind ``text:`` where the model takes strings."""
    from mmdeploy.core.strings import BYTES, as_strings
    from mmdeploy.data.media import read_tensor

    if spec.dtype == BYTES and file.startswith(_TEXT):
        text, several = file.removeprefix(_TEXT), len(spec.shape) == 1 and spec.shape != (1,)
        strings = as_strings(text.splitlines() or [""] if several else text)
        assert strings is not None
        found = strings if several else strings.reshape([1] * len(spec.shape))
        if mismatch := spec.mismatch(found):
            raise UsageError(f"{spec.name}: {mismatch}", hint="each line of the text is one string")
        return found
    return read_tensor(Path(file), spec, fit=fit)


def _plain(array: Any) -> Any:
    """Return a tensor as JSON values; strings as text."""
    from mmdeploy.core.strings import text_of

    def told(value: Any) -> Any:
        return [told(one) for one in value] if isinstance(value, list) else text_of(value)

    return told(array.tolist()) if array.dtype == object else array.tolist()


def _shown(name: str, array: Any) -> str:
    """Show a tensor; a vector of scores with its largest entry, as classifiers are read."""
    import numpy as np

    if array.dtype == object:
        return f"{name}: {json.dumps(_plain(array), ensure_ascii=False)}"
    text = np.array2string(array, precision=4, suppress_small=True, threshold=64, max_line_width=columns())
    if array.ndim == 1 and array.dtype.kind == "f" and array.size > 1:
        return f"{name}: {text}\n  largest: {array.max():.4f} at index {int(array.argmax())}"
    return f"{name}: {text}"
