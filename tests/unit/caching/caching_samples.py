"""An ensemble of two encoders and a head, and requests to it."""

from mmdeploy.caching.replay import AskedEnsemble, AskedModel
from mmdeploy.caching.trace import Content, Request


def model(
    name: str, *reads: str, row_bytes: int = 1000, compute_ms: float = 10.0, input_bytes: int = 100
) -> AskedModel:
    return AskedModel(name, reads, header_bytes=48, row_bytes=row_bytes, input_bytes=input_bytes, compute_ms=compute_ms)


def ensemble(**changed: AskedModel) -> AskedEnsemble:
    parts = {
        "image": model("image", "x", compute_ms=30.0),
        "text": model("text", "y", compute_ms=10.0),
        "head": model("head", "x", "y", compute_ms=1.0),
        "whole": model("whole", "x", "y", row_bytes=40, compute_ms=41.0),
    } | changed
    return AskedEnsemble(parts["whole"], ((parts["image"], parts["text"]), (parts["head"],)))


def request(time_s: float, x: str | None = None, y: str | None = None) -> Request:
    given = {"x": x, "y": y}
    rows = {name: tuple(Content("hash", one) for one in text.split()) for name, text in given.items() if text}
    return Request(time_s, rows)


def requests(*pairs: tuple[str | None, str | None]) -> tuple[Request, ...]:
    return tuple(request(float(index), *pair) for index, pair in enumerate(pairs))
