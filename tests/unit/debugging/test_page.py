"""What is shown: the telling rows, a sentence each, and within 80 columns whatever the names are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdeploy.cli.text import table
from mmdeploy.debugging import page
from mmdeploy.debugging.findings import Comparison, DebugReport, Reproduction, TensorFinding


def _tensor(name: str = "t", **other) -> TensorFinding:
    fields = {
        "tensor": name, "reference": name, "node": f"layer/{name}", "op_type": "Gemm", "sqnr_db": 40.0,
        "own_sqnr_db": 41.0, "own_known": True, "cosine": 0.999, "max_error": 0.01, "magnitude": 1.0,
        "tolerance": "at least 15 dB", "within": True,
    }  # fmt: skip
    return TensorFinding(**fields | other)


def _comparison(*tensors: TensorFinding, first: TensorFinding | None = None, **other) -> Comparison:
    fields = {
        "stage": "c/quantize",
        "what": "the INT8 graph",
        "against": "the exported graph",
        "grows_most": tensors[0],
    }
    return Comparison(**fields | {"tensors": tensors, "first": first} | other)


@given(
    st.lists(
        st.builds(
            _tensor,
            st.text(min_size=1, max_size=90),
            op_type=st.text(max_size=40),
            sqnr_db=st.none() | st.floats(-150, 200),
            own_sqnr_db=st.none() | st.floats(-150, 200),
            max_error=st.floats(0, 1e30) | st.just(float("inf")),
            finite=st.booleans(),
            is_output=st.booleans(),
        ),
        min_size=1,
        max_size=40,
        unique_by=lambda one: one.tensor,
    ),
    st.data(),
)
def test_a_table_has_the_first_bad_tensor_and_fits_80_columns(tensors, data):
    first = data.draw(st.sampled_from(tensors))
    shown = page.rows(_comparison(*tensors, first=first))
    assert 1 <= len(shown) <= 8
    assert sum(row[0].startswith("> ") for row in shown) == 1
    assert max(map(len, table(page.HEAD, shown).splitlines())) <= 80


@pytest.mark.parametrize("letter", ["\x1f", "\n", "\u0600", "\U000e0001"])
def test_names_that_a_terminal_would_escape_fit_too(letter):
    tensor = _tensor(letter * 90, op_type=letter * 40, sqnr_db=-150.0, own_sqnr_db=-150.0, max_error=1e30, finite=False)
    (row,) = page.rows(_comparison(tensor, first=tensor))
    lines = table(page.HEAD, [row]).splitlines()
    assert len(lines) == 2
    assert max(map(len, lines)) <= 80


def test_rows_are_in_the_order_of_the_graph():
    tensors = [_tensor(f"t{index}", sqnr_db=float(50 - index), is_output=index == 19) for index in range(20)]
    shown = [row[0].strip("> ") for row in page.rows(_comparison(*tensors, first=tensors[10]))]
    assert shown == sorted(shown, key=lambda name: int(name[1:]))
    assert {"t8", "t9", "t10", "t11", "t19", "t0"} <= set(shown)


@pytest.mark.parametrize(
    ("first", "told"),
    [
        (_tensor(own_within=False, within=False, own_sqnr_db=3.0), "layer/t (Gemm) breaks it by itself"),
        (_tensor(within=False, sqnr_db=9.0), "no node breaks it by itself: errors add up until layer/t (Gemm)"),
        (
            _tensor(within=False, own_known=False),
            "layer/t (Gemm) is the first that is wrong when the engine ends there",
        ),
    ],
)
def test_the_sentence_tells_a_break_from_a_sum(first, told):
    assert next(page.reasons(_comparison(first, first=first))).startswith(told)


def test_the_page_has_each_comparison_and_the_command(tmp_path):
    bad = _tensor("bad", within=False, own_within=False)
    made = Reproduction(folder=tmp_path, nodes=2, inputs=("x",), command="cd a && polygraphy run b", reproduces=True)
    report = DebugReport(
        recipe="r",
        component="c",
        samples=16,
        source="data.calibration",
        comparisons=(
            _comparison(bad, first=bad, reproduction=made),
            Comparison(
                stage="c/engine", what="openvino", against="the same graph", skipped="it cannot run here: no GPU"
            ),
        ),
    )
    text = page.markdown(report)
    assert "The INT8 graph against the exported graph: bad leaves its tolerance." in text
    assert "2 nodes that show it, fed x:\n\n```sh\ncd a && polygraphy run b\n```" in text
    assert "Openvino against the same graph: not compared: it cannot run here: no GPU." in text
    assert DebugReport.model_validate_json(report.model_dump_json()) == report
