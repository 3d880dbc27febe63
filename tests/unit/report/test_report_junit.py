"""The JUnit XML: golden files, and what Jenkins, GitLab and the like rely on."""

import re
import xml.etree.ElementTree as ET

import pytest
from report_samples import SAMPLES, failed, golden, inconclusive, passed, stopped

from mmdeploy.record.build_report import RecipeRecord
from mmdeploy.report import junit

# Elements, their attributes and their children in order: what the schema that Jenkins' xunit plugin validates with
# (junit-10.xsd) and what GitLab and the readers on GitHub take have in common.
SCHEMA = {
    "testsuites": ({"name", "tests", "failures", "errors", "time"}, r"(testsuite )*"),
    "testsuite": (
        {"name", "tests", "failures", "errors", "skipped", "time", "timestamp"},
        r"(properties )?(testcase )*(system-out )?",
    ),
    "properties": (set(), r"(property )+"),
    "property": ({"name", "value"}, ""),
    "testcase": ({"classname", "name", "time"}, r"((skipped |error |failure )?)(system-out )?"),
    "skipped": ({"message"}, ""),
    "failure": ({"message", "type"}, ""),
    "error": ({"message", "type"}, ""),
    "system-out": (set(), ""),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_golden(name):
    golden(f"{name}.junit.xml", junit.render(SAMPLES[name]()))


@pytest.mark.parametrize("make", SAMPLES.values(), ids=SAMPLES)
def test_the_structure_is_what_parsers_expect(make):
    document = junit.render(make())
    assert document.startswith('<?xml version="1.0" encoding="UTF-8"?>')
    root = ET.fromstring(document)
    assert root.tag == "testsuites"
    for element in root.iter():
        attributes, children = SCHEMA[element.tag]
        assert set(element.attrib) == attributes
        assert re.fullmatch(children, "".join(f"{child.tag} " for child in element))
        if "time" in attributes:
            assert re.fullmatch(r"\d+\.\d{3}", element.get("time"))
    for scope in (root, root.find("testsuite")):
        assert int(scope.get("tests")) == len(list(root.iter("testcase")))
        for attribute, tag in (("failures", "failure"), ("errors", "error")):
            assert int(scope.get(attribute)) == len(list(root.iter(tag)))
    assert int(root.find("testsuite").get("skipped")) == len(list(root.iter("skipped")))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", root.find("testsuite").get("timestamp"))


def outcomes(report):
    cases = ET.fromstring(junit.render(report)).iter("testcase")
    return {case.get("name"): case[0].tag if len(case) else "none" for case in cases}


def test_one_case_a_gate_with_its_outcome():
    assert outcomes(failed()) == {
        "gate parity": "failure",
        "gate accuracy": "failure",
        "gate latency": "system-out",
        "gate size": "system-out",
    }


def test_a_substitute_is_told_by_the_name_of_the_case_and_undecided_is_skipped_with_the_reason():
    assert outcomes(inconclusive())["gate latency [substitute]"] == "skipped"
    skipped = next(ET.fromstring(junit.render(inconclusive())).iter("skipped"))
    assert "a substitute's latency says nothing" in skipped.get("message")


def test_a_step_that_failed_is_an_error_with_hint_and_log():
    assert outcomes(stopped()) == {"step audio_encoder/quantize": "error"}
    error = next(ET.fromstring(junit.render(stopped())).iter("error"))
    assert "holds 3 NaN" in error.get("message")
    assert "hint: remove the sample" in error.text
    assert "log: .mmdeploy/runs/spoken_digits" in error.text


def test_a_method_used_twice_gives_two_cases():
    report = passed()
    twice = report.model_copy(update={"gates": (report.gates[0], report.gates[0])})
    assert list(outcomes(twice)) == ["gate parity", "gate parity 2"]


def test_hostile_text_stays_text():
    name = 'a"<b>&\x1b[31m\x00]]>'
    report = passed().model_copy(update={"recipe": RecipeRecord(name=name, path="x", sha256="0")})
    suite = ET.fromstring(junit.render(report)).find("testsuite")
    assert suite.get("name") == 'a"<b>&\ufffd[31m\ufffd]]>'
