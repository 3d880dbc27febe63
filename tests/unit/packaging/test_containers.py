"""The table of Triton's release images."""

import json
import re
from importlib.resources import files

import pytest

from mmdeploy.core.errors import UsageError
from mmdeploy.packaging import containers


def test_each_value_of_the_table_is_a_version_or_said_not_to_be_known() -> None:
    table = json.loads(files("mmdeploy.packaging").joinpath("containers.json").read_text())
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", table["dated"]) and table["sources"]
    for tag, one in containers.containers().items():
        assert re.fullmatch(r"\d\d\.\d\d-py3", tag)
        for version in (one.triton, one.cuda, one.python, one.tensorrt, one.onnxruntime, one.openvino):
            assert version is None or containers.numbers(version)
        assert (one.onnxruntime is None) == (one.onnx_opset is None) == (one.onnx_ir is None)


def test_later_images_hold_no_older_libraries() -> None:
    known = sorted((one for one in containers.containers().values() if one.known), key=lambda one: one.release)
    for name in ("triton", "cuda", "tensorrt", "onnxruntime", "openvino"):
        found = [containers.numbers(getattr(one, name)) for one in known]
        assert found == sorted(found), name


def test_the_newest_of_which_all_is_known_is_what_is_taken_by_default() -> None:
    assert containers.newest().known
    assert not any(one.known and one.release > containers.newest().release for one in containers.containers().values())


def test_an_image_is_found_by_its_tag_with_or_without_the_registry() -> None:
    assert containers.container("26.08-py3").triton == "2.72.0"
    assert containers.container("nvcr.io/nvidia/tritonserver:26.08-py3") is containers.container("26.08-py3")
    assert containers.container("26.08-py3").image == "nvcr.io/nvidia/tritonserver:26.08-py3"


@pytest.mark.parametrize("tag", ["26.08", "26.99-py3", "", "26.08-py3-sdk", "elsewhere.io/tritonserver:26.08-py3"])
def test_a_tag_that_is_not_in_the_table_is_told_with_those_that_are(tag: str) -> None:
    with pytest.raises(UsageError, match=r"not in the table.*accepted: 26\.03-py3.*26\.09-py3") as raised:
        containers.container(tag)
    assert repr(tag) in raised.value.message and raised.value.exit_code == 2
