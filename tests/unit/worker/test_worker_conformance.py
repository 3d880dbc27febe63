"""What a step from outside hands over is looked at as our own is: its graphs, and what its engine answers."""

import shutil
import textwrap
from pathlib import Path

import onnx
import pytest

from mmdeploy.core.artifact import Artifact, file_sha256
from mmdeploy.core.errors import EngineError, QuantizeError
from mmdeploy.core.sessions import open_session, specs
from mmdeploy.planning.steps import REFUSED, Step
from mmdeploy.recipe.loader import load_recipe
from mmdeploy.worker import run_step
from mmdeploy.worker.task import Task

TINY = Path(__file__).parents[2] / "tiny_recipe"
GRAPH = '<ir_version: 10, opset_import: ["": 20]> left (float[N, 8] values) => (float[N, 8] embedding) '
OUTSIDE = textwrap.dedent('''
    import shutil

    import onnx

    from mmdeploy.core.artifact import Artifact, file_sha256
    from mmdeploy.core.contracts import MethodOptions
    from mmdeploy.core.sessions import SessionRunner, open_session

    def copied(artifact, context, kind):
        path = context.workdir / "model.onnx"
        shutil.copyfile(artifact.path, path)
        return Artifact(kind, path, file_sha256(path), artifact.inputs, artifact.outputs, kind)

    class right:
        """Answers as its graph does."""

        CONSUMES, PRODUCES, REQUIRES, BACKEND, FILENAME = "onnx", "outside", ("onnx",), "onnxruntime", "model.onnx"

        class Options(MethodOptions):
            """None."""

        @staticmethod
        def serving(options):
            return {}

        @staticmethod
        def run(artifact, options, context):
            return copied(artifact, context, "outside")

        @staticmethod
        def load(artifact, options):
            return SessionRunner(open_session(artifact.path, {}))

    class wrong(right):
        """Doubles what its graph says."""

        @staticmethod
        def load(artifact, options):
            model = onnx.load(artifact.path)
            model.graph.node[-1].output[0] = "half"
            model.graph.node.append(onnx.helper.make_node("Add", ["half", "half"], ["embedding"]))
            return SessionRunner(open_session(model.SerializeToString(), {}))

    class elsewhere(wrong):
        """Cannot run here."""

        @staticmethod
        def unavailable(options):
            return "it runs on another machine"

    class backwards:
        """A quantization that leaves its nodes in the wrong order, which ONNX Runtime takes."""

        CONSUMES, PRODUCES, REQUIRES = "onnx", "onnx", ("onnx",)

        class Options(MethodOptions):
            """None."""

        @staticmethod
        def run(artifact, options, context):
            made = copied(artifact, context, "onnx")
            model = onnx.load(made.path)
            nodes = list(model.graph.node)[::-1]
            del model.graph.node[:]
            model.graph.node.extend(nodes)
            onnx.save(model, made.path)
            return Artifact("onnx", made.path, file_sha256(made.path), made.inputs, made.outputs, "backwards")
''')


@pytest.fixture
def run(tmp_path):
    """Runs a step on the component ``left`` of a recipe with methods beside it."""
    folder = shutil.copytree(TINY, tmp_path / "recipe", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "outside.py").write_text(OUTSIDE)
    path = tmp_path / "model.onnx"
    onnx.save(onnx.parser.parse_model(GRAPH + "{ h = Tanh (values) embedding = Relu (h) }"), path)
    graph = Artifact("onnx", path, file_sha256(path), *specs(open_session(path, {})), "onnx")

    def start(kind: str, name: str, *, optional: bool = False) -> Artifact:
        workdir = tmp_path / name
        workdir.mkdir()
        method = f"outside.py:{name}"
        step = Step(f"left/{kind}", "left", kind, method, {"method": method}, ("left/export",), {}, optional=optional)
        task = Task(step, load_recipe(folder / "recipe.yaml"), workdir, {"left/export": graph}, 1)
        return run_step._run(task, workdir, lambda *_: None)

    return start


def test_an_engine_that_answers_as_its_graph_says_what_it_was_compared_with(run):
    assert "at batch 4 and 1" in run("engine", "right").metadata["compared"]


def test_an_engine_that_answers_something_else_is_refused(run):
    with pytest.raises(EngineError, match=r"left: the engine answers .*: output 'embedding' at batch 4: -?0\.0 dB"):
        run("engine", "wrong")


def test_of_several_to_choose_from_it_is_a_refusal(run):
    refused = run("engine", "wrong", optional=True)
    assert refused.format == REFUSED
    assert "something else than its own graph" in refused.metadata["reason"]


def test_an_engine_that_cannot_run_here_is_not_asked(run):
    assert "compared" not in run("engine", "elsewhere").metadata


def test_a_graph_out_of_order_is_refused_though_it_runs(run):
    with pytest.raises(QuantizeError, match=r"left: the graph model\.onnx is not valid ONNX: .*topologically sorted"):
        run("quantize", "backwards")
