"""Any report survives JSON, fits the published schema, and is rendered without an error."""

import io
import xml.etree.ElementTree as ET
from unittest import mock

import jsonschema
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic_core import from_json
from report_strategies import COURSES, LATENCIES, SERIES, SIZE_RECORDS, reports
from rich.cells import cell_len
from rich.console import Console

from mmdeploy.record.build_report import BuildReport, Stage, StageSeries
from mmdeploy.report import html, junit, markdown, plots
from mmdeploy.report.terminal import Summary
from mmdeploy.training.record import TrainingRecord

SCHEMA = jsonschema.Draft202012Validator(BuildReport.model_json_schema(mode="serialization"))
slow = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@slow
@given(reports())
def test_json_round_trip(report):
    text = report.to_json()
    SCHEMA.validate(from_json(text))
    assert BuildReport.model_validate(from_json(text)).to_json() == text


@slow
@given(reports())
def test_junit_is_xml_whatever_the_text(report):
    root = ET.fromstring(junit.render(report))
    cases = root.findall("testsuite/testcase")
    assert len(cases) == len(report.gates) + (report.failure is not None)


@slow
@given(reports())
def test_markdown_tables_keep_their_columns(report):
    table: list[str] = []
    for line in markdown.render(report).split("\n"):
        if line.startswith("| "):
            table.append(line)
            bars = line.replace("\\\\", "").replace("\\|", "").count("|")
            assert bars == table[0].count("|")
        else:
            table = []


@slow
@given(reports())
def test_the_summary_never_leaves_eighty_columns_nor_drives_the_terminal(report):
    stream = io.StringIO()
    Console(file=stream, width=80).print(Summary(report))
    for line in stream.getvalue().split("\n"):
        assert cell_len(line) <= 80
        assert all(ord(sign) >= 32 and not 127 <= ord(sign) < 160 for sign in line)


@slow
@given(reports())
def test_html_takes_any_report(report):
    panels = ("stage_panel", "size_panel", "latency_panel", "loss_panel", "metric_panel")
    with mock.patch.multiple(html.plots, **dict.fromkeys(panels, str)):
        page = html.render(report)
    assert page.rstrip().endswith("</html>")


@settings(max_examples=12, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(
    st.lists(SERIES, min_size=1, max_size=3),
    st.lists(SIZE_RECORDS, min_size=1, max_size=3),
    st.lists(LATENCIES, min_size=1, max_size=3),
    COURSES,
)
def test_plots_take_any_figures(series, sizes, latencies, course):
    course = TrainingRecord.from_metadata(course)
    for svg in (
        plots.loss_panel("loss", course),
        plots.metric_panel("metric", course),
        plots.stage_panel("stages", series),
        plots.size_panel("sizes", sizes),
        plots.latency_panel("latency", latencies),
    ):
        assert ET.fromstring(svg).tag == "svg"


@pytest.mark.parametrize("figure", [0.0, 1e-300, 1.7e308, -1.7e308, float("inf"), float("-inf"), float("nan"), None])
def test_plots_take_extreme_figures(figure):
    interval = None if figure is None else (-1.7e308, figure)
    stages = tuple(Stage(label=str(at), value=figure, interval=interval) for at in range(2))
    record = StageSeries(component=None, metric="top1", stages=stages)
    assert ET.fromstring(plots.stage_panel("stages", [record])).tag == "svg"
