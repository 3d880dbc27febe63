"""Digests of the tensors in a weights file, one each, without PyTorch and without running anything of the file.

A component's steps depend on the component's tensors, not on the file: after a head was trained further, its steps run
again and those of the encoders do not. Safetensors files say where each tensor's bytes lie; what ``torch.save`` writes
is a zip archive of one record a storage, and a pickle that names them, which is read here by an unpickler that knows
tensors and nothing else. Of a file of any other kind the whole content counts for every component.

Tensors are the state dict's, which is loaded strictly into the whole model: their names begin with the attribute path
of the module that they belong to.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from mmdeploy.core.digests import FileFacts

#: Name under which tensors are told that belong to no component, and files of which no tensors are known.
OTHERS = "*"
_CHUNK = 16 * 2**20
_LONGEST_HEADER = 100 * 2**20
_REBUILDING = {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_parameter"}
_TYPES = ("float", "bfloat", "int", "uint", "complex", "bool")


def tensor_digests(path: Path, facts: FileFacts) -> dict[str, str]:
    """Return a digest of each tensor in a weights file by its name, type and shape included.

    Where tensors cannot be told apart the one under `OTHERS` is that of the whole file.

    Raises:
        OSError: If the file cannot be read.
    """
    return dict(json.loads(facts.of(path, "tensors", _taken)))


def of_modules(
    tensors: Mapping[str, str], modules: Mapping[str, str], shared: Iterable[tuple[str, str]] = ()
) -> dict[str, dict[str, str]]:
    """Return the digests of the tensors of each component, and of those of none under `OTHERS`.

    Args:
        tensors: Digest by tensor name, as `tensor_digests` gives them.
        modules: Attribute path of each component's module; empty for the whole model.
        shared: Pairs of names: whatever has the first, or lies within it, works with the second, too, or what lies
            within that.
    """
    links = [*shared]
    own = {name: {tensor for tensor in tensors if _within(tensor, path)} for name, path in modules.items()}
    for name, path in modules.items():
        own[name] |= _reached(path, own[name], tensors, links)
    rest = {*tensors} - set().union(*own.values())
    together = {**own, OTHERS: rest}
    return {name: {tensor: tensors[tensor] for tensor in sorted(found)} for name, found in together.items()}


def _reached(path: str, own: set[str], tensors: Mapping[str, str], links: list[tuple[str, str]]) -> set[str]:
    found, places = set(own), [path]
    waiting = list(links)
    while waiting:
        used = [
            link
            for link in waiting
            if any(_within(link[0], place) for place in places)
            or any(_within(tensor, link[0]) for tensor in found - own)
        ]
        if not used:
            break
        for link in used:
            waiting.remove(link)
            places.append(link[1])
            found |= {tensor for tensor in tensors if _within(tensor, link[1])}
    return found


def _within(name: str, path: str) -> bool:
    return not path or name == path or name.startswith(f"{path}.")


def _taken(path: Path) -> str:
    digests = None
    try:
        if path.suffix == ".safetensors":
            digests = _of_safetensors(path)
        elif zipfile.is_zipfile(path):
            digests = _of_torch_zip(path)
    except OSError:
        raise
    except Exception:  # noqa: BLE001 - whatever a damaged file makes of the readers; loading it says what is wrong
        digests = None
    if digests is None:
        with path.open("rb") as stream:
            digests = {OTHERS: hashlib.file_digest(stream, "sha256").hexdigest()}
    return json.dumps(digests)


def _of_safetensors(path: Path) -> dict[str, str] | None:
    """Read the header (8 bytes of length, JSON, then the tensors' bytes) and digest each tensor's range."""
    digests = {}
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= _LONGEST_HEADER:
            return None
        header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        for name, tensor in sorted(header.items(), key=lambda item: item[1]["data_offsets"][0]):
            start, end = tensor["data_offsets"]
            stream.seek(8 + length + start)
            digest = hashlib.sha256(json.dumps([tensor["dtype"], tensor["shape"]]).encode())
            if _update(digest, stream, end - start) != end - start:
                return None
            digests[name] = digest.hexdigest()
    return digests


def _update(digest: Any, stream: IO[bytes], count: int) -> int:
    done = 0
    while done < count and (chunk := stream.read(min(_CHUNK, count - done))):
        digest.update(chunk)
        done += len(chunk)
    return done


def _of_torch_zip(path: Path) -> dict[str, str] | None:
    """Read what ``torch.save`` writes since 1.6: ``<name>/data.pkl``, and ``<name>/data/<key>`` for each storage."""
    with zipfile.ZipFile(path) as archive:
        listing = [name for name in archive.namelist() if name.endswith("/data.pkl") or name == "data.pkl"]
        if len(listing) != 1:
            return None
        folder = listing[0].removesuffix("data.pkl")
        state = _TensorUnpickler(io.BytesIO(archive.read(listing[0]))).load()
        if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
            state = state["state_dict"]
        if not isinstance(state, Mapping) or not all(isinstance(value, _Tensor) for value in state.values()):
            return None
        order = archive.read(f"{folder}byteorder") if f"{folder}byteorder" in archive.namelist() else b""
        storages: dict[str, str] = {}
        for tensor in state.values():
            if tensor.storage not in storages:
                with archive.open(f"{folder}data/{tensor.storage}") as stream:
                    storages[tensor.storage] = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]  # it has readinto
        return {str(name): _digest([order.decode(), storages[one.storage], one.view]) for name, one in state.items()}


class _Tensor:
    """A tensor in a pickle: the storage that it looks at, and how."""

    def __init__(self, storage: object, *view: object) -> None:
        if not isinstance(storage, _Storage):
            raise pickle.UnpicklingError("a tensor of something else than a storage")
        shape_and_type = [storage.kind, *view[:3], *view[5:6]]  # between them: gradients and hooks
        self.storage, self.view = storage.key, json.dumps(shape_and_type, default=list)


class _Storage:
    def __init__(self, kind: str, key: str) -> None:
        self.kind, self.key = kind, key


class _TensorUnpickler(pickle.Unpickler):
    """Knows tensors, storages, plain values and ordered dicts; anything else in a pickle is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch._utils" and name in _REBUILDING:
            return _rebuilt
        if module in ("torch", "torch.storage") and (name.endswith("Storage") or name.startswith(_TYPES)):
            return f"{module}.{name}"  # a word and nothing that could be called
        raise pickle.UnpicklingError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage_type, key = pid[:3]
        if kind != "storage" or not isinstance(key, str):
            raise pickle.UnpicklingError(str(kind))
        return _Storage(str(storage_type), key)


def _rebuilt(storage: object, *view: object) -> _Tensor:
    """Stand in for what rebuilds a tensor of a storage, or a parameter of a tensor."""
    return storage if isinstance(storage, _Tensor) else _Tensor(storage, *view)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
