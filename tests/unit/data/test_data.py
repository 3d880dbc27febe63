"""Every bad data set of the issue is refused, and the message names the sample and the input."""

import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmdeploy.core.artifact import TensorSpec
from mmdeploy.core.contracts import no_progress
from mmdeploy.core.errors import DataError
from mmdeploy.core.sizes import Size
from mmdeploy.data import samples as data
from mmdeploy.data.recording import Request, record
from mmdeploy.data.sample_sets import SampleSet

SPECS = (
    TensorSpec("image", "UINT8", (2, 2)),
    TensorSpec("audio", "FP32", (4,)),
    TensorSpec("tokens", "INT64", (3,)),
)
RANGES = {"tokens": (0.0, 99.0)}

PRELUDE = """
import numpy as np

def good(index):
    random = np.random.default_rng(index)
    return {
        "image": random.integers(1, 255, (2, 2)).astype(np.uint8),
        "audio": random.standard_normal(4).astype(np.float32),
        "tokens": random.integers(0, 100, 3),
    }

def with_change(index, **changed):
    return good(index) | changed
"""


@pytest.fixture
def check(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Records a calibration set and returns its figures."""

    def run(body: str, **options):
        (tmp_path / "data.py").write_text(PRELUDE + textwrap.dedent(body))
        options = {"specs": SPECS, "ranges": RANGES, "calibration": True} | options
        (tmp_path / "set").mkdir(exist_ok=True)
        return record(Request("data.py:calibration", tmp_path, **options), tmp_path / "set", no_progress)

    return run


BAD = {
    "empty": (
        "def calibration(): return []",
        "data.py:calibration gives no samples",
    ),
    "constant": (
        """
        def calibration():
            for index in range(4):
                yield with_change(index, audio=np.full(4, 0.5, np.float32))
        """,
        "input 'audio' is 0.5 everywhere in all 4 samples",
    ),
    "all-zero sample": (
        """
        def calibration():
            for index in range(4):
                yield with_change(index, image=np.zeros((2, 2), np.uint8)) if index == 2 else good(index)
        """,
        "sample 2, input 'image' is all zero",
    ),
    "NaN": (
        """
        def calibration():
            for index in range(4):
                yield with_change(index, audio=np.array([0, 1, np.nan, 2], np.float32)) if index == 3 else good(index)
        """,
        "sample 3, input 'audio' holds NaN at index [2]",
    ),
    "Inf": (
        """
        def calibration():
            yield good(0)
            yield with_change(1, audio=np.array([0, -np.inf, 1, 2], np.float32))
        """,
        "sample 1, input 'audio' holds -inf at index [1]",
    ),
    "duplicated": (
        """
        def calibration():
            for index in (0, 1, 2, 1):
                yield good(index)
        """,
        "sample 3 repeats sample 1",
    ),
    "unknown name": (
        """
        def calibration():
            sample = good(0)
            sample["imagee"] = sample.pop("image")
            yield sample
        """,
        "sample 0: unknown input 'imagee'",
    ),
    "shape": (
        """
        def calibration():
            yield good(0)
            yield with_change(1, audio=np.ones(5, np.float32))
        """,
        "sample 1, input 'audio': shape is [5], expected [4]",
    ),
    "dtype": (
        """
        def calibration():
            yield with_change(0, audio=np.ones(4))
        """,
        "sample 0, input 'audio': dtype is FP64, expected FP32",
    ),
    "token range": (
        """
        def calibration():
            yield good(0)
            yield with_change(1, tokens=np.array([1, -1, 2]))
        """,
        "sample 1, input 'tokens' holds -1 at index [1], outside the declared range [0.0, 99.0]",
    ),
    "length across modalities": (
        """
        def calibration():
            yield good(0)
            sample = good(1)
            del sample["audio"]
            yield sample
        """,
        "sample 1 has no input 'audio'",
    ),
    "not a sample": (
        "def calibration(): yield [1, 2, 3]",
        "sample 0 is a list",
    ),
    "batches": ("def calibration(): yield [good(0), 1]", "gives its samples by .dataset"),
    "none": (
        "def calibration(): yield with_change(0, audio=None)",
        "a sample that lacks an input does not hold its name at all",
    ),
    "not an array": (
        "def calibration(): yield with_change(0, audio=[0.0, 1.0, 2.0, 3.0])",
        "sample 0, input 'audio' is a list, expected a NumPy array",
    ),
    "not iterable": ("def calibration(): return 7", "returned an int, expected an iterable"),
    "one feed dict of everything": ("def calibration(): return good(0)", "returned a dict, expected an iterable"),
    "raises": (
        """
        def calibration():
            yield good(0)
            raise OSError("disk on fire")
        """,
        "failed after 1 sample: OSError at data.py:",
    ),
    "a tensor with a gradient": (
        "def calibration():\n    import torch\n    yield with_change(0, audio=torch.ones(4, requires_grad=True))",
        "sample 0, input 'audio' is a Tensor that is no NumPy array, expected a NumPy array (audio: FP32 [4]): "
        "Can't call numpy() on Tensor that requires grad",
    ),
    "a BF16 tensor": (
        "def calibration():\n    import torch\n    yield with_change(0, audio=torch.ones(4).bfloat16())",
        "tensor.detach().cpu().float().numpy()",
    ),
    "a tensor elsewhere": (
        "def calibration():\n    import torch\n    yield with_change(0, audio=torch.ones(4, device='meta'))",
        "of a tensor that is tensor.detach().cpu().numpy()",
    ),
    "next of nothing": (
        "def calibration():\n    yield good(0)\n    yield next(iter([]))",
        "failed after 1 sample: StopIteration at data.py:16 (calibration) a generator ends by `return`",
    ),
    "the end of the program": (
        "def calibration():\n    yield good(0)\n    raise SystemExit",
        "failed after 1 sample: SystemExit at data.py:16 (calibration) it ends the program",
    ),
    "arguments": (
        "def calibration(split, *, size, shuffle=True): yield good(0)",
        "data.py:calibration needs 'split', 'size', and it is called without arguments give defaults",
    ),
    "a missing library": (
        "def calibration():\n    yield good(0)\n    import no_such_library",
        "No module named 'no_such_library' install what provides 'no_such_library' into ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD, ids=str)
def test_bad_calibration_is_refused_with_its_place(case, check):
    body, message = BAD[case]
    with pytest.raises(DataError) as refused:
        check(body)
    assert message in f"{refused.value} {refused.value.hint}"


def test_good_calibration_is_summarized(check):
    summary = check("def calibration(): return (good(index) for index in range(50))", limit=20)
    assert summary["samples"] == 20
    image = summary["inputs"]["image"]
    assert 1 <= image["minimum"] <= image["mean"] <= image["maximum"] <= 255
    assert image["shape"] == [2, 2]
    assert summary["inputs"]["tokens"]["maximum"] <= 99


def test_what_gives_samples_by_number_alone_is_read_to_its_length(check):
    body = """
        class calibration:  # as a torch.utils.data.Dataset is: iterating over it would not end
            def __len__(self):
                return 5

            def __getitem__(self, index):
                return good(index), index
        """
    assert check(body)["samples"] == 5
    assert check(body, limit=3)["samples"] == 3


def test_labels_are_split_off(check):
    assert check("def calibration(): return ((good(index), index) for index in range(3))")["samples"] == 3


def test_leading_batch_dimension_is_explained(check):
    with pytest.raises(DataError) as refused:
        check("def calibration(): yield with_change(0, audio=np.ones((1, 4), np.float32))")
    assert refused.value.hint == "a sample has no batch dimension: give array[0]"


def test_masks_may_be_constant(check):
    specs = (*SPECS, TensorSpec("seen", "BOOL", (2,)), TensorSpec("mask", "INT64", (3,)))
    body = """
        def calibration():
            for index in range(3):
                yield with_change(index, seen=np.ones(2, bool), mask=np.ones(3, np.int64))
    """
    assert check(body, specs=specs, ranges=RANGES | {"mask": (0.0, 1.0)})["samples"] == 3
    with pytest.raises(DataError, match="'mask' is 1 everywhere"):
        check(body, specs=specs)


def test_only_one_sample_is_held(tmp_path):
    (tmp_path / "data.py").write_text(
        textwrap.dedent("""
        import weakref, numpy as np
        alive = weakref.WeakSet()
        peak = 0

        class Sample(dict):
            __hash__ = object.__hash__

        def calibration():
            global peak
            for index in range(50):
                sample = Sample(x=np.full(3, index, np.float32))
                alive.add(sample)
                peak = max(peak, len(alive))
                yield sample
                del sample

        def seen():
            return peak
        """)
    )
    spec = (TensorSpec("x", "FP32", (3,)),)
    for _ in data.stream("data.py:calibration", root=tmp_path, specs=spec):
        pass
    from mmdeploy.model.sources import resolve_callable

    assert resolve_callable("data.py:seen", tmp_path, error=DataError)() <= 2


def evaluation(tmp_path: Path, body: str) -> SampleSet:
    (tmp_path / "data.py").write_text(PRELUDE + textwrap.dedent(body))
    (tmp_path / "set").mkdir()
    record(Request("data.py:evaluation", tmp_path, SPECS, RANGES), tmp_path / "set", no_progress)
    return SampleSet.open(tmp_path / "set", "data.py:evaluation")


def test_evaluation_is_stacked_with_its_labels(tmp_path):
    samples = evaluation(tmp_path, "def evaluation(): return ((good(i), i % 3) for i in range(7))")
    assert samples.feeds()["image"].shape == (7, 2, 2)
    assert samples.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_evaluation_without_labels_says_so(tmp_path):
    assert evaluation(tmp_path, "def evaluation(): return (good(i) for i in range(2))").labels is None


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def evaluation(): return []", "gives no samples"),
        ("def evaluation(): return [(good(0), 1), good(1)]", "sample 1 has no label, but sample 0 has"),
        ("def evaluation(): return [(good(0), object())]", "the label of sample 0 is <object"),
        (
            "def evaluation():\n    import torch\n    yield good(0), torch.ones((), requires_grad=True)",
            "the label of sample 0 is tensor(1., requires_grad=True)",
        ),
        ("def evaluation(): return [with_change(0, tokens=np.array([0, 1, 500]))]", "holds 500 at index [2]"),
        (
            "def evaluation(): return [with_change(0, audio=np.full(4, np.nan, np.float32))]",
            "sample 0, input 'audio' holds NaN",
        ),
    ],
)
def test_bad_evaluation_is_refused(tmp_path, body, message):
    with pytest.raises(DataError) as refused:
        evaluation(tmp_path, body)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("data.py:calibrate", "data.py has no 'calibrate'"),
        ("dat.py:calibration", "there is no file dat.py"),
        ("data.py", "is not a reference to a callable"),
    ],
)
def test_missing_callable_is_named(tmp_path, reference, message):
    (tmp_path / "data.py").write_text("def calibration(): return []\n")
    with pytest.raises(DataError) as refused:
        next(data.stream(reference, root=tmp_path, specs=SPECS))
    assert message in str(refused.value)
    assert isinstance(refused.value.hint, str)


def test_float_that_is_finite_in_float64_only_is_caught(tmp_path):
    (tmp_path / "data.py").write_text(
        "import numpy as np\ndef samples(): yield {'x': np.array([1e5], np.float64).astype(np.float16)}\n"
    )
    with np.errstate(over="ignore"), pytest.raises(DataError, match="holds inf"):
        next(data.stream("data.py:samples", root=tmp_path, specs=(TensorSpec("x", "FP16", (1,)),)))


def test_siblings_imported_while_samples_are_read_are_those_of_the_recipe(tmp_path):
    source = "def samples():\n    import numpy as np\n    from sibling_of_data import VALUE\n"
    source += "    yield {'x': np.full(2, VALUE, np.float32)}\n"
    found = []
    for value in (1.0, 2.0):
        folder = tmp_path / str(value)
        folder.mkdir()
        (folder / "data.py").write_text(source)
        (folder / "sibling_of_data.py").write_text(f"VALUE = {value}\n")
        feeds = data.stream("data.py:samples", root=folder, specs=[TensorSpec("x", "FP32", (2,))])
        found += [float(feed["x"][0]) for feed, _ in feeds]
    assert found == [1.0, 2.0]


@pytest.mark.parametrize(
    ("ids", "mask", "told"),
    [
        (9, 9, "sample 1, input 'ids': a length of 9, outside [2, 8] of the size 'tokens' (axis 0)"),
        (5, 5, "sample 1, input 'ids': a length of 5, no multiple of 2, as the size 'tokens' must be (axis 0)"),
        (4, 6, "sample 1, input 'mask' is 6 long where 'ids' is 4: both have the size 'tokens'"),
    ],
)
def test_samples_have_lengths_of_their_sizes(tmp_path, ids, mask, told):
    body = f"""
        import numpy as np

        def calibration():
            yield {{"ids": np.ones(8, np.int64), "mask": np.ones(8, np.int64)}}
            yield {{"ids": np.ones({ids}, np.int64), "mask": np.ones({mask}, np.int64)}}
        """
    (tmp_path / "data.py").write_text(textwrap.dedent(body))
    specs = [TensorSpec(name, "INT64", (-1,), (Size("tokens", 2, 8, 2),)) for name in ("ids", "mask")]
    with pytest.raises(DataError, match=re.escape(told)):
        list(data.stream("data.py:calibration", root=tmp_path, specs=specs))
