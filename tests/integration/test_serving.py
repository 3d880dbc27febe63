"""A real Triton with tiny models: right answers, and bad requests refused one by one."""

import threading
import urllib.request
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import tiny_triton_repository as tiny
from settled_counts import settled
from user_view import wait_until

from mmdeploy.core.errors import EnvironmentUnfitError, InferenceError, ServerError
from mmdeploy.triton import server
from mmdeploy.triton.client import HttpRunner, binary_request
from mmdeploy.triton.http import ask_json
from mmdeploy.triton.known_samples import SAMPLES

pytestmark = pytest.mark.triton


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    repository = tmp_path_factory.mktemp("repository")
    tiny.write(
        repository,
        tiny.config("positive", queue_delay_us=50_000),
        *map(tiny.config, ("negated", "summed", "looked_up", "negated_fp16", "sized")),
        tiny.ensemble(),
    )
    log = tmp_path_factory.mktemp("log") / "triton.log"
    with server.start([repository], log=log) as running:
        yield running


def statistics(running, model):
    stats = settled(lambda: ask_json(f"{running.http_url}/v2/models/{model}/stats")["model_stats"][0])
    return int(stats["inference_count"]), int(stats["execution_count"])


def in_threads(calls):
    """Run every call in a thread of its own, all let go at once; return results or exceptions in order."""
    results = [None] * len(calls)
    barrier = threading.Barrier(len(calls))

    def work(index):
        barrier.wait()
        try:
            results[index] = calls[index]()
        except InferenceError as error:
            results[index] = error

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return results


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("name", ["positive", "summed", "looked_up", "sized"])
def test_answers_equal_the_session_in_process(served, name, batch):
    generator = np.random.default_rng(batch)
    feed_dict = {}
    for tensor, (dtype, dims) in tiny.INPUTS[name].items():
        shape = (batch, *(5 if size == -1 else size for size in dims))
        integers = dtype == "INT64"
        feed_dict[tensor] = (
            generator.integers(0, 5, shape) if integers else generator.standard_normal(shape, np.float32)
        )
    session = ort.InferenceSession(tiny.model(name).SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, feed_dict)
    with served.runner(name) as runner:
        answer = runner.infer(feed_dict)
    assert [spec.name for spec in runner.outputs] == list(answer)
    for got, want in zip(answer.values(), expected, strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("protocol", ["grpc", "json", "binary"])
def test_ensemble_answers_over_every_protocol(served, protocol):
    u, v = tiny.rows(-1, 2, 3), tiny.rows(5, 6, -7)
    if protocol == "grpc":
        runner = served.runner("difference")
    else:
        runner = HttpRunner(served.http_url, "difference", binary=protocol == "binary")
    with runner:
        assert runner.max_batch_size == 8
        assert [(spec.name, spec.dtype, spec.shape) for spec in runner.inputs] == [
            ("u", "FP32", (4,)),
            ("v", "FP32", (4,)),
        ]
        for _ in range(2):  # the second request reuses the first one's message
            np.testing.assert_array_equal(runner.infer({"u": u, "v": v})["z"], tiny.rows(-5, -4, 10))
        np.testing.assert_array_equal(runner.infer({"u": u[:1], "v": v[:1]})["z"], tiny.rows(-5))


def test_what_json_cannot_carry_goes_as_bytes(served):
    x = tiny.rows(3, -1).astype(np.float16)
    for runner in (served.runner("negated_fp16"), HttpRunner(served.http_url, "negated_fp16")):
        with runner:
            np.testing.assert_array_equal(runner.infer({"x": x})["y"], -x)
    headers, body = binary_request({"x": x}, (), "negated_fp16")
    request = urllib.request.Request(f"{served.http_url}/v2/models/negated_fp16/infer", body, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        size = int(answer.headers["Inference-Header-Content-Length"])
        np.testing.assert_array_equal(np.frombuffer(answer.read()[size:], np.float16).reshape(2, 4), -x)


def test_concurrent_requests_run_as_one_batch_and_get_their_own_rows(served):
    runners = [served.runner("positive") for _ in range(6)]
    inferences, executions = statistics(served, "positive")
    sizes = [1, 2, 1, 1, 2, 1]
    feeds = [tiny.rows(*range(10 * index + 1, 10 * index + 1 + size)) for index, size in enumerate(sizes)]
    calls = [lambda r=r, x=x: r.infer({"x": x})["y"] for r, x in zip(runners, feeds, strict=True)]
    results = in_threads(calls)
    for got, want in zip(results, feeds, strict=True):
        np.testing.assert_array_equal(got, want)
    new_inferences, new_executions = statistics(served, "positive")
    assert new_inferences - inferences == sum(sizes)
    assert new_executions - executions < len(sizes)


def test_a_bad_request_in_a_batch_fails_alone(served):
    runners = [served.runner("positive") for _ in range(5)]
    feeds = [tiny.rows(float(index)) for index in range(5)]
    feeds[2][0, 1] = np.nan
    _, executions = statistics(served, "positive")
    results = in_threads([lambda r=r, x=x: r.infer({"x": x})["y"] for r, x in zip(runners, feeds, strict=True)])
    for index in (0, 1, 3, 4):
        np.testing.assert_array_equal(results[index], feeds[index])
    assert isinstance(results[2], InferenceError)
    assert "input 'x': 1 of 4 values are NaN or infinite" in str(results[2])
    assert statistics(served, "positive")[1] - executions < 5, "the requests were not batched"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_in_an_ensemble(served, value):
    with served.runner("difference") as runner:
        for u, v in ((tiny.rows(value), tiny.rows(0)), (tiny.rows(0), tiny.rows(value))):
            with pytest.raises(InferenceError, match="input 'x': 4 of 4 values are NaN or infinite"):
                runner.infer({"u": u, "v": v})
        np.testing.assert_array_equal(runner.infer({"u": tiny.rows(1), "v": tiny.rows(3)})["z"], tiny.rows(-2))


def test_two_failing_steps_side_by_side_do_not_lock_the_server_up(served):
    """Were errors not delayed in the backend, Triton 2.51 would deadlock within some hundreds of these."""
    runner = served.runner("difference", timeout_s=60)
    bad = tiny.rows(np.nan)
    for _ in range(100):
        with pytest.raises(InferenceError, match="NaN"):
            runner.infer({"u": bad, "v": bad})
    np.testing.assert_array_equal(runner.infer({"u": tiny.rows(1), "v": tiny.rows(1)})["z"], tiny.rows(0))


@pytest.mark.parametrize("token", [-1, 5])
def test_tokens_outside_the_vocabulary_are_refused(served, token):
    with served.runner("looked_up") as runner:
        with pytest.raises(InferenceError, match=rf"within \[0, 4\], found \[\S*{token}|, {token}\]"):
            runner.infer({"tokens": np.array([[0, token]])})
        np.testing.assert_array_equal(runner.infer({"tokens": np.array([[0, 4]])})["rows"], [[10, 14]])


@pytest.mark.parametrize(
    ("feed_dict", "said"),
    [
        ({"u": tiny.rows(1)}, "missing required input"),
        ({"u": tiny.rows(1), "w": tiny.rows(1)}, "input 'w'"),
        ({"u": tiny.rows(1), "v": np.zeros((1, 5), np.float32)}, r"Expected \[-1,4\], got \[1,5\]"),
        ({"u": tiny.rows(1), "v": np.zeros((1, 4), np.float64)}, "FP64"),
        ({"u": tiny.rows(*range(9)), "v": tiny.rows(*range(9))}, "batch-size must be <= 8"),
        ({"u": tiny.rows(1, 2), "v": tiny.rows(1)}, "batch"),
        ({"u": tiny.rows(1), "v": np.zeros((1, 4), np.complex64)}, "dtype complex64, accepted: bool, uint8"),
    ],
)
@pytest.mark.parametrize("protocol", ["grpc", "json", "binary"])
def test_malformed_requests_get_an_error_and_serving_goes_on(served, protocol, feed_dict, said):
    if protocol == "grpc":
        runner = served.runner("difference", timeout_s=60)
    else:
        runner = HttpRunner(served.http_url, "difference", binary=protocol == "binary", timeout_s=60)
    with runner:
        with pytest.raises(InferenceError, match=said):
            runner.infer(feed_dict)
        np.testing.assert_array_equal(runner.infer({"u": tiny.rows(1), "v": tiny.rows(3)})["z"], tiny.rows(-2))


def test_unknown_model_is_refused(served):
    with pytest.raises(InferenceError, match="nothing"):
        served.runner("nothing")
    with pytest.raises(InferenceError, match="nothing"):
        HttpRunner(served.http_url, "nothing")


def test_a_message_of_many_megabytes_passes(served):
    x = np.ones((1, 4_000_000), np.float32)
    with served.runner("sized") as runner:
        np.testing.assert_allclose(runner.infer({"x": x})["total"], [[4e6]])


def test_what_a_server_says_of_itself(served):
    assert served.probe() == ("looked_up", "negated", "negated_fp16", "positive", "sized", "summed", "difference")
    assert int(served.server_version.split(".")[0]) >= 2
    assert "nv_inference_count" in _text(served.metrics_url)
    assert served.memory_bytes() > 20e6
    attached = server.attach(served.grpc_url, http_url=served.http_url)
    assert attached.probe() == served.probe()
    assert attached.server_version == served.server_version
    with pytest.raises(EnvironmentUnfitError, match="not started here"):
        attached.memory_bytes()
    attached.stop()
    assert served.probe()


def test_a_server_that_runs_is_asked_with_the_samples_of_the_release_that_it_serves(served, tmp_path):
    def attached(**samples):
        np.savez(tmp_path / SAMPLES, **{name.replace("__", "/"): np.array(values) for name, values in samples.items()})
        return server.attach(served.grpc_url, http_url=served.http_url, repositories=[tmp_path])

    assert attached(looked_up__tokens=[4, 1], sized__x=[1.0] * 9).probe() == served.probe()
    with pytest.raises(ServerError, match=r"looked_up: .*tokens"):
        attached(looked_up__tokens=[4, 9]).probe()
    assert attached(looked_up__tokens=[9, 9, 9]).probe() == served.probe(), "a sample of another model is not asked"


def _text(url):
    with urllib.request.urlopen(url, timeout=60) as response:
        return response.read().decode()


def cache_hits(running):
    hits = [line for line in _text(running.metrics_url).splitlines() if "cache_num_hits_per_model{" in line]
    assert hits
    return float(hits[0].rsplit(" ", 1)[1])


def test_response_cache_answers_repeated_inputs(tmp_path):
    cached = tiny.config("positive")
    cached.response_cache.enable = True
    repository = tiny.write(tmp_path / "repository", cached)
    with server.start([repository], log=tmp_path / "triton.log", response_cache_bytes=1 << 20) as running:
        runner = running.runner("positive")
        for _ in range(3):
            np.testing.assert_array_equal(runner.infer({"x": tiny.rows(7)})["y"], tiny.rows(7))
        wait_until(lambda: cache_hits(running) >= 2, "the hits in the metrics")


def broken_file(repository: Path) -> None:
    (repository / "positive" / "1" / "model.onnx").write_bytes(b"no protobuf")


def broken_config(repository: Path) -> None:
    (repository / "positive" / "config.pbtxt").write_text("garbage {")


def misnamed_input(repository: Path) -> None:
    path = repository / "positive" / "config.pbtxt"
    path.write_text(path.read_text().replace('"x"', '"pixels"'))


def missing_file(repository: Path) -> None:
    (repository / "positive" / "1" / "model.onnx").unlink()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (broken_file, r"positive: .*Protobuf parsing failed"),
        (broken_config, r"positive: failed to read text proto"),
        (misnamed_input, r"positive: .*config.pbtxt has the inputs \['pixels'\], the model has \['x'\]"),
        (missing_file, r"positive: .*File doesn't exist"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_named_with_the_reason(tmp_path, damage, said):
    configs = [tiny.config(name) for name in ("positive", "negated", "summed")]
    repository = tiny.write(tmp_path / "repository", *configs, tiny.ensemble())
    damage(repository)
    with pytest.raises(ServerError, match=said) as caught:
        server.start([repository], log=tmp_path / "triton.log")
    assert caught.value.log == str(tmp_path / "triton.log")
    assert "difference" not in caught.value.message, "an ensemble without its step is no cause"


def test_a_port_that_is_taken_is_named(tmp_path, served):
    repository = tiny.write(tmp_path / "repository", tiny.config("positive"))
    port = int(served.grpc_url.rpartition(":")[2])
    with pytest.raises(EnvironmentUnfitError, match=rf"127\.0\.0\.1:{port}: Address already in use"):
        server.start([repository], log=tmp_path / "triton.log", grpc_port=port)
