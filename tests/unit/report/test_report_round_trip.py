"""Any report survives JSON, fits the published schema, and is rendered without an error."""

import io
import xml.etree.ElementTree as ET

import jsonschema
from hypothesis import HealthCheck, given, settings
from pydantic_core import from_json
from report_strategies import reports
from rich.cells import cell_len
from rich.console import Console

from mmdeploy.build_report import BuildReport
from mmdeploy.report import html, junit, markdown
from mmdeploy.report.terminal import Summary

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


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(reports())
def test_html_takes_any_report(report):
    page = html.render(report)
    assert page.endswith("</html>\n") or page.endswith("</html>")
    assert "could not be drawn" not in page
