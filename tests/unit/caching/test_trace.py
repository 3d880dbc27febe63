"""A trace is read as it was written, and what is wrong with a line is said with its number."""

import json

import pytest
from caching_samples import request
from hypothesis import given
from hypothesis import strategies as st

from mmdeploy.caching.trace import Content, Request, read_trace, write_trace
from mmdeploy.caching.zipf import Popularity, zipf_trace
from mmdeploy.core.errors import UsageError

CONTENTS = st.one_of(
    st.text(min_size=1).map(lambda text: Content("hash", text)),
    st.integers(0, 10**6).map(lambda number: Content("sample", str(number))),
    st.sampled_from(["a.npy", "folder/b.png"]).map(lambda path: Content("file", path)),
)


@st.composite
def traces(draw):
    times = sorted(draw(st.lists(st.floats(0, 1e9), min_size=1, max_size=5)))
    found = []
    for time_s in times:
        names = draw(st.sets(st.sampled_from("xyz"), min_size=1))
        rows = draw(st.integers(1, 3))
        found.append(
            Request(time_s, {n: tuple(draw(st.lists(CONTENTS, min_size=rows, max_size=rows))) for n in sorted(names)})
        )
    return tuple(found)


@given(traces())
def test_a_trace_reads_back_as_it_was_written(tmp_path_factory, written):
    path = tmp_path_factory.mktemp("trace") / "requests.jsonl"
    write_trace(path, written)
    assert read_trace(path, ("x", "y", "z")) == written


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "2: not JSON"),
        ("[]", '2: a request is {"time"'),
        ('{"time": 1}', '2: a request is {"time"'),
        ('{"time": "now", "inputs": {"x": "a"}}', "2: time 'now' is no number of seconds"),
        ('{"time": NaN, "inputs": {"x": "a"}}', "2: time nan"),
        ('{"time": -1, "inputs": {"x": "a"}}', "2: time -1 is before that of the line above, 0"),
        ('{"time": 1, "inputs": {"xx": "a"}}', "2: the ensemble has no input 'xx'; did you mean 'x'"),
        ('{"time": 1, "inputs": {"x": null}}', "2: the request has no input at all"),
        ('{"time": 1, "inputs": {"x": ["a", "b"], "y": "c"}}', "2: the inputs disagree about the number of rows"),
        ('{"time": 1, "inputs": {"x": []}}', "2: the inputs disagree"),
        ('{"time": 1, "inputs": {"x": 7}}', "2: input 'x': 7 says not what was sent"),
        ('{"time": 1, "inputs": {"x": {"sample": -1}}}', "2: input 'x'"),
        ('{"time": 1, "inputs": {"x": {"sample": true}}}', "2: input 'x'"),
        ('{"time": 1, "inputs": {"x": {"sample": 1, "file": "a"}}}', "2: input 'x'"),
        ('{"time": 1, "inputs": {"x": {"file": ""}}}', "2: input 'x'"),
        ('{"time": 1, "inputs": {"x": {"hash": "a", "bytes": -4}}}', "2: input 'x'"),
        ('{"time": 1, "inputs": {"x": {"hash": "a", "bytes": "4"}}}', "2: input 'x'"),
        ('{"inputs": {"x": "a"}}', '2: a request is {"time"'),
        ('{"time": Infinity, "inputs": {"x": "a"}}', "2: time inf is no number"),
        ('{"time": 1' + "0" * 400 + ', "inputs": {"x": "a"}}', "2: time 1000"),
        ('{"time": 1' + "0" * 5000 + ', "inputs": {"x": "a"}}', "2: Exceeds the limit"),
        ('{"time": "' + "9" * 10**6 + '", "inputs": {"x": "a"}}', "2: time '999"),
        ('{"time": 1, "inputs": {"' + "x" * 10**6 + '": "a"}}', "2: the ensemble has no input 'xxx"),
        ("[" * 100_000, "2: not JSON of a request: it is nested too deeply"),
        ('{"time": 1, "inputs": {"x": {"sample": 1' + "0" * 30 + "}}}", "2: input 'x'"),
        ('{"time": 1, "inputs": {"x": "\\ud800"}}', "2: input 'x'"),
        ('{"time": 1, "inputs": {"x": {"file": "a\\u0000b"}}}', "2: input 'x'"),
        ('{"time": 1, "inputs": {"x": {"file": "a"}, "y": {"file": ["b"]}}}', "2: input 'y'"),
        ('{"time": 1, "inputs": {"y": "a"}}', "2: the request leaves out 'x', which is not optional"),
        ('{"time": 1, "inputs": {"x": ["a", "b", "c", "d", "e"]}}', "2: 5 rows, and the ensemble takes at most 4"),
        ('{"time": 1, "inputs": {}}', "2: the request has no input at all"),
        ("time,image", "2: not JSON: Expecting value at column 1"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, told):
    path = tmp_path / "requests.jsonl"
    path.write_text('{"time": 0, "inputs": {"x": {"hash": "a", "bytes": 5}}}\n' + line)
    with pytest.raises(UsageError) as caught:
        read_trace(path, ("x", "y"), optional={"y"}, most_rows=4)
    assert f"{path}:{told}" in caught.value.message
    assert len(caught.value.message) < 400


def test_a_trace_that_is_empty_or_not_there_is_refused(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        read_trace(tmp_path / "none.jsonl", ("x",))
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(UsageError, match="has no requests"):
        read_trace(tmp_path / "empty.jsonl", ("x",))


def test_what_is_no_text_is_told_by_its_line(tmp_path):
    path = tmp_path / "requests.jsonl"
    path.write_bytes(b'{"time": 0, "inputs": {"x": "a"}}\n\x1f\x8b\x08\n')
    with pytest.raises(UsageError, match=r"requests\.jsonl:2: not UTF-8: .* at byte 1"):
        read_trace(path, ("x",))


def test_a_trace_as_windows_writes_it_is_read_and_lines_end_at_line_ends_only(tmp_path):
    path = tmp_path / "requests.jsonl"
    lines = ['{"time": 0, "inputs": {"x": "a\u2028\x85b"}}', "", '{"time": 0.5, "inputs": {"x": null, "y": "c"}}', ""]
    path.write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    first, second = read_trace(path, ("x", "y"), optional={"x", "y"})
    assert first == Request(0.0, {"x": (Content("hash", "a\u2028\x85b"),)})
    assert (first.line, second.line) == (1, 3)
    assert second.inputs == {"y": (Content("hash", "c"),)}


def test_bytes_do_not_tell_contents_apart(tmp_path):
    path = tmp_path / "requests.jsonl"
    lines = [{"time": 0, "inputs": {"x": {"hash": "a", "bytes": 5}}}, {"time": 0, "inputs": {"x": "a", "y": None}}]
    path.write_text("\n".join(map(json.dumps, lines)))
    assert read_trace(path, ("x", "y")) == (request(0, "a"), request(0, "a"))


def test_zipf_asks_for_the_popular_more_often_and_together_where_told():
    popular = {"x": Popularity(50), "y": Popularity(50, exponent=0.0, samples=True)}
    drawn = zipf_trace(popular, 2000, seed=3, together=0.0)
    assert drawn == zipf_trace(popular, 2000, seed=3, together=0.0)
    ranks = [int(one.inputs["x"][0].value.removeprefix("x-")) for one in drawn]
    assert ranks.count(0) > 4 * ranks.count(9) > 0
    assert {one.inputs["y"][0].kind for one in drawn} == {"sample"}
    times = [one.time_s for one in drawn]
    assert times == sorted(times)
    joint = zipf_trace({"x": Popularity(9), "y": Popularity(9)}, 50, seed=1, together=1.0)
    assert all(one.inputs["x"][0].value[2:] == one.inputs["y"][0].value[2:] for one in joint)
