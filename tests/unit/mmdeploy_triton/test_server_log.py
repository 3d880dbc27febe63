from mmdeploy.triton import server_log

# Lines as tritonserver 2.51 wrote them.
REFUSED = r"""I1122 04:34:05.1 27801 model_lifecycle.cc:472] "loading: a:1"
E1122 04:34:08.507924 27801 backend_model.cc:692] "ERROR: Failed to create instance: InvalidProtobuf: no"
E1122 04:34:08.508098 27801 model_lifecycle.cc:642] "failed to load 'a' version 1: Internal: InvalidProtobuf: [ONNXRuntimeError] : 7 : failed:Protobuf parsing failed.\n\nAt:\n  /x/onnxruntime_inference_collection.py(778): _create_inference_session\n"
I1122 04:34:08.508100 27801 model_lifecycle.cc:777] "failed to load 'a'"
E1122 04:34:08.508175 27801 model_repository_manager.cc:703] "Invalid argument: ensemble 'e' depends on 'a' which has no loaded version. Model 'a' loading failed with error: version 1 is at UNAVAILABLE state: Internal"
E1122 04:34:11.529331 27932 model_repository_manager.cc:1460] "Poll failed for model directory 'b': failed to read text proto from /r/b/config.pbtxt"
E1122 04:34:40.676504 28921 model_repository_manager.cc:724] "failed to load model 'c': at least one version must be available under the version policy of model 'c'"
+-------+---------+--------------------------+
| a     | 1       | UNAVAILABLE: Internal: … |
error: creating server: Internal - failed to load all models
"""  # noqa: E501
ORPHAN = (
    'E1122 04:34:11.5 27932 model_repository_manager.cc:703] "Invalid argument: ensemble e contains models '
    'that are not available or ambiguous: b"\n'
)


def test_refusals_name_causes_without_tracebacks_and_without_dependents():
    assert server_log.refusals(REFUSED) == {
        "a": "Internal: InvalidProtobuf: [ONNXRuntimeError] : 7 : failed:Protobuf parsing failed.",
        "b": "failed to read text proto from /r/b/config.pbtxt",
        "c": "at least one version must be available under the version policy of model 'c'",
    }


def test_an_ensemble_is_named_when_nothing_else_is():
    assert server_log.refusals(ORPHAN) == {"e": "contains models that are not available or ambiguous: b"}


def test_no_refusals_in_a_clean_log():
    assert server_log.refusals("I1122 1 model_lifecycle.cc:839] \"successfully loaded 'a'\"\n") == {}


def test_last_words_are_the_closing_error_or_the_last_informative_lines():
    assert server_log.last_words(REFUSED) == "error: creating server: Internal - failed to load all models"
    assert server_log.last_words("I said this\n+--+\n| a |\nError: Failed to initialize NVML\n\n") == "I said this"
    assert server_log.last_words("") == ""


def test_reasons_that_pass():
    line = "E1122 main.cc:245] \"failed to start GRPC service: Socket '127.0.0.1:81' already in use \""
    assert server_log.passing_reason(line) == "127.0.0.1:81 was taken before Triton could listen there"
    assert server_log.passing_reason(REFUSED) is None


def test_reading_a_log_that_is_not_there_gives_nothing(tmp_path):
    assert server_log.read(None) == server_log.read(tmp_path / "absent") == ""


# As tritonserver 2.51 answers over HTTP to a request to load; its stub's traceback lies between.
NOT_LOADED = (
    "http://h:1/v2/repository/models/a.530c/load: load failed for model 'a.530c': version 1 is at UNAVAILABLE state: "
    "Internal: EngineError: ONNX Runtime 1.32.0 cannot load /x/model.onnx: Protobuf parsing failed.%s;\n (HTTP 400)"
)
TRACEBACK = "\n\nAt:\n  /tmp/held/sessions.py(76): open_session\n  /tmp/held/model.py(57): _open\n"


def test_the_reason_alone_is_taken_from_what_triton_answers_to_a_load():
    text = server_log.without_traceback(NOT_LOADED % TRACEBACK)
    assert text == NOT_LOADED % ""
    reason = server_log.reason_not_loaded(text)
    assert reason == "EngineError: ONNX Runtime 1.32.0 cannot load /x/model.onnx: Protobuf parsing failed."
    assert server_log.without_traceback(f"it broke{TRACEBACK}") == "it broke"


def test_an_answer_of_another_form_stays():
    other = (
        "http://h:1/v2/repository/models/a/load: failed to load 'a', failed to poll from model repository (HTTP 500)"
    )
    assert server_log.reason_not_loaded(other) == server_log.without_traceback(other) == other
    two_lines = "bad recipe\nAt: the second step"
    assert server_log.without_traceback(two_lines) == two_lines
