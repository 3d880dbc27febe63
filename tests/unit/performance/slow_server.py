"""An HTTP server that speaks as much of KServe v2 as a load needs, and takes as long as a test says."""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CONFIG = {
    "name": "slow",
    "max_batch_size": 4,
    "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": ["2"]}],
    "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": ["2"]}],
}


class Served:
    """What was asked.

    Attributes:
        url: ``http://host:port``.
        bodies: Of the requests, in the order in which they came.
    """

    def __init__(self, url: str) -> None:
        self.url, self.bodies, self.lock = url, list[bytes](), threading.Lock()


@contextlib.contextmanager
def slow_server(answer: Callable[[int], int]) -> Iterator[Served]:
    """Serve ``slow``; ``answer`` is told the number of each request, takes its time and gives the HTTP status."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            statistics = {"name": "slow", "inference_count": len(served.bodies), "execution_count": len(served.bodies)}
            statistics["inference_stats"] = {"success": {"count": len(served.bodies), "ns": 0}}
            self.reply(200, CONFIG if self.path.endswith("/config") else {"model_stats": [statistics]})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with served.lock:
                served.bodies.append(body)
                number = len(served.bodies) - 1
            status = answer(number)
            self.reply(status, {"outputs": []} if status == 200 else {"error": "too much"})

        def reply(self, status: int, value: object) -> None:
            content = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # the client no longer waits
                self.wfile.write(content)
                self.wfile.flush()

    with _listening(Handler) as url:
        served = Served(url)
        yield served


@contextlib.contextmanager
def plain_server(status: int = 200, body: bytes = b"") -> Iterator[str]:
    """Say the same to each question; Triton's port of metrics says nothing to paths that it does not know."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with _listening(Handler) as url:
        yield url


class _Server(ThreadingHTTPServer):
    request_queue_size = 512
    daemon_threads = True


@contextlib.contextmanager
def _listening(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def in_turn(seconds: float, stall: dict[int, float] | None = None) -> Callable[[int], int]:
    """Answer one request after the other, each in some seconds; some stall for longer."""
    lock = threading.Lock()

    def answer(number: int) -> int:
        with lock:
            time.sleep((stall or {}).get(number, seconds))
        return 200

    return answer
