"""A Python step of a release is served by a real Triton from its own files alone, with BYTES in and out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mmdeploy.core.artifact import TensorSpec
from mmdeploy.core.errors import InferenceError
from mmdeploy.triton import server as triton_server
from mmdeploy.triton.client import GrpcRunner, HttpRunner
from mmdeploy.triton.config import ServedEnsemble
from mmdeploy.triton.known_samples import read_samples
from mmdeploy.triton.lint import lint
from mmdeploy.triton.options import DynamicBatching, Serving
from mmdeploy.triton.repository import publish, resolve, stage, verify
from mmdeploy.triton.served_step import REQUESTS_CODE, ServedStep
from mmdeploy.triton.server import Server

pytestmark = pytest.mark.triton

#: Counts bytes, and hands the words on; a text that says "refuse" is refused.
CODE = """
import json, sys
from pathlib import Path
sys.modules["mmdeploy"] = None  # whoever imports it fails
sys.path.insert(0, str(Path(__file__).parent))
import numpy as np
from requests_of_a_step import BatchedModel, RefusalError, string_parameters
from counting.lengths import lengths
class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        options = json.loads(string_parameters(config)["mmdeploy.options"])
        def run(feed):
            if b"refuse" in feed["text"]:
                raise RefusalError("text: as asked")
            given = feed.get("weight", np.ones((len(feed["text"]), 1), np.float32))
            return [lengths(feed["text"], options["bonus"]), feed["text"][:, ::-1], given]
        self.model = BatchedModel(config, run)
    def execute(self, requests):
        return self.model.execute(requests)
"""
LENGTHS = """
import numpy as np
def lengths(strings, bonus):
    return np.array([[len(one) + bonus for one in row] for row in strings], np.int64)
"""
CONTENT = np.array([[b"caf\xc3\xa9", b""], [b"\x00\xff\xfe", b"a" * 70_000]], dtype=object)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    folder = tmp_path_factory.mktemp("step")
    package = folder / "counting"
    (package / "__pycache__").mkdir(parents=True)
    (package / "__pycache__" / "lengths.pyc").write_bytes(b"compiled")
    (package / "__init__.py").write_text("")
    (package / "lengths.py").write_text(LENGTHS)
    (folder / "code.py").write_text(CODE)
    words, weight = TensorSpec("text", "BYTES", (2,)), TensorSpec("weight", "FP32", (1,))
    step = ServedStep(
        "whole.count", folder / "code.py", (words, weight),
        (TensorSpec("length", "INT64", (2,)), TensorSpec("turned", "BYTES", (2,)), weight),
        inputs={"text": "caption", "weight": "boost"},
        outputs={"length": "length", "turned": "words", "weight": "used"},
        options={"bonus": 3},
        beside={"counting": package, "requests_of_a_step.py": REQUESTS_CODE},
        optional=frozenset({"weight"}), requires=("numpy==" + np.__version__,),
        serving=Serving(max_batch_size=4, dynamic_batching=DynamicBatching(max_queue_delay_us=100)),
        sample={"text": np.array([b"one", b"\xff"], dtype=object), "weight": np.ones(1, np.float32)},
    )  # fmt: skip
    outputs = tuple(TensorSpec(step.outputs[spec.name], spec.dtype, spec.shape) for spec in step.gives)
    inputs = (TensorSpec("caption", "BYTES", (2,)), TensorSpec("boost", "FP32", (1,)))
    staged = stage(folder / "staged", ServedEnsemble("whole", inputs, outputs, (), steps=(step,)))
    publish(staged.path, folder / "root", "whole", release_id="r1", extra_files={})
    assert lint(folder / "root") == ()
    assert verify((folder / "root" / "whole").resolve()) == ()  # the server compiles what it imports while it runs
    with triton_server.start(resolve(folder / "root"), log=folder / "triton.log") as server:
        yield server, folder / "root" / "whole"


def test_a_release_holds_all_that_a_step_imports(served: tuple[Server, Path]) -> None:
    release = served[1]
    version = release / "whole.count" / "1"
    files = {path.relative_to(version).as_posix() for path in version.rglob("*") if path.suffix == ".py"}
    assert files == {"model.py", "requests_of_a_step.py", "counting/__init__.py", "counting/lengths.py"}
    assert (release / "requirements.txt").read_text() == f"numpy=={np.__version__}\n"
    sample = read_samples([release])["whole"]
    assert sample["caption"].tolist() == [b"one", b"\xff"]


def test_probes_ask_with_the_sample(served: tuple[Server, Path]) -> None:
    assert served[0].probe() == ("whole.count", "whole")


@pytest.mark.parametrize("kind", ["grpc", "json", "binary"])
def test_strings_go_in_and_come_out(served: tuple[Server, Path], kind: str) -> None:
    server = served[0]
    runner = (
        GrpcRunner(server.grpc_url, "whole")
        if kind == "grpc"
        else HttpRunner(server.http_url, "whole", binary=kind == "binary")
    )
    with runner:
        sent = CONTENT[:1] if kind == "json" else CONTENT
        answers = runner.infer({"caption": sent, "boost": np.full((len(sent), 1), 2, np.float32)})
        assert answers["words"].tolist() == sent[:, ::-1].tolist()
        assert answers["length"].tolist() == [[len(one) + 3 for one in row] for row in sent]
        assert (answers["used"] == 2).all()
        # bytes that are no text go as binary data, whatever was asked for
        alone = runner.infer({"caption": CONTENT})
        assert alone["words"].tolist() == CONTENT[:, ::-1].tolist() and (alone["used"] == 1).all()
        with pytest.raises(InferenceError, match="text: as asked"):
            runner.infer({"caption": np.array([[b"refuse", b""]], dtype=object)})
        assert runner.infer({"caption": CONTENT[:1]})["length"].tolist() == [[8, 3]]
