"""The HTML page: self-contained, escaped, complete, and whole when a plot is not."""

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest
from report_samples import SAMPLES, failed, inconclusive, passed, stopped

from mmdeploy.record.build_report import RecipeRecord, Stage, StageSeries, StepRecord
from mmdeploy.report import html, plots

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Checks that elements nest, and collects what tests ask for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module", params=SAMPLES, ids=SAMPLES)
def sample(request):
    report = SAMPLES[request.param]()
    return report, html.render(report)


def test_nothing_is_loaded_from_anywhere(sample):
    _, text = sample
    page = Page(text)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert not re.search(r"https?:|//[a-z]|@import", text)
    for tag, name, value in page.attributes:
        if name in ("href", "src", "xlink:href"):
            assert tag == "a" or value.startswith("#"), (tag, name, value)
    assert not re.findall(r"url\((?!#)", text)
    assert "default-src 'none'" in text


def test_every_gate_check_and_step_is_on_the_page(sample):
    report, text = sample
    words = Page(text).text
    for gate in report.gates:
        assert gate.gate in words
        assert all(check.name in words for check in gate.checks)
    for step in report.steps:
        assert step.id in words
        assert step.why in words


def test_ids_are_unique_and_references_resolve(sample):
    page = Page(sample[1])
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    used = {value[1:] for tag, name, value in page.attributes if name == "href" and tag != "a"}
    used |= set(re.findall(r"url\(#([^)]+)\)", sample[1]))
    assert used <= set(ids)


def test_tables_and_plots_are_accessible(sample):
    page = Page(sample[1])
    assert page.tags.count("h1") == 1
    assert page.tags.count("th") == len([name for tag, name, _ in page.attributes if (tag, name) == ("th", "scope")])
    labels = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
    assert len(labels) == page.tags.count("svg")
    assert all(labels)


def test_links_lead_to_files_of_the_run_wherever_a_copy_of_it_is():
    report = failed()
    run = report.staged.parent
    elsewhere = report.steps[0].model_copy(update={"log": report.staged.parents[2] / "other" / "step.log"})
    spaced = report.steps[1].model_copy(update={"log": run / "logs" / "a #1.log"})
    page = Page(html.render(report.model_copy(update={"steps": (elsewhere, spaced, *report.steps[2:])})))
    links = {value for tag, name, value in page.attributes if (tag, name) == ("a", "href")}
    assert {"logs", "staged", "report.json", "logs/a%20%231.log", "logs/fusion.quantize.log"} <= links
    assert not any(link.startswith(("/", "..")) or "step.log" in link for link in links)


def test_failed_checks_come_first_and_say_by_how_much():
    words = Page(html.render(failed())).text
    assert words.index("fusion: cosine") < words.index("image_encoder: cosine")
    assert "misses the limit by 0.012; paired on 1187 samples" in words
    assert "[0.013, 0.031] n = 1187" in words


def test_a_gate_shows_its_tables_and_opens_those_of_one_that_failed():
    report = failed()
    page = html.render(report)
    assert "<details open><summary>accuracy: samples whose answer changed</summary>" in page
    assert '<td data-label="candidate" class="number">six</td>' in page
    assert "<details><summary>accuracy: recall per class</summary>" in html.render(passed())


def test_on_a_phone_every_cell_has_the_name_of_its_column(sample):
    _, page = sample
    for table in re.findall(r'<table(?! class="gates").*?</table>', page, re.DOTALL):
        head = re.findall(r'<th scope="col"[^>]*>(.*?)</th>', table)
        for row in re.findall(r"<tr[^>]*>(.*?)</tr>", table.partition("</thead>")[2], re.DOTALL):
            first = int('<th scope="row"' in row)
            assert re.findall(r'<td data-label="([^"]*)"', row) == head[first:]


def test_one_colour_means_one_thing():
    legends = set(re.findall(r'<span class="key (\w+)"></span>([^<;]+)', html.render(SAMPLES["trained"]())))
    assert sorted(legends) == [
        ("candidate", "candidate"), ("reference", "FP32 reference"), ("training", "training"),
        ("validation", "validation"),
    ]  # fmt: skip
    series = [one for one in passed().stages if one.component is None]
    drawn = plots.stage_panel("top1", series)
    measured = sum("FP32" in stage.label for one in series for stage in one.stages)
    assert measured == 2
    assert drawn.count("var(--reference)") == drawn.count("var(--candidate)")  # two stages each


def test_plots_take_their_colours_from_the_page():
    svg = plots.size_panel("sizes", passed().sizes)
    ET.fromstring(svg)
    assert "var(--candidate)" in svg
    assert "#0101" not in svg


@pytest.mark.parametrize("noise_db", [140.8, float("inf")])
def test_where_all_noise_is_beyond_the_axis_it_still_says_beyond_what(noise_db):
    served = StageSeries(component=None, metric="SQNR", unit="dB", stages=(Stage(label="served", value=noise_db),))
    words = re.findall(r">([^<>\n]+)</", plots.stage_panel("noise", (served,)))
    assert words[:5] == ["0", "20", "40", "60", "SQNR (dB)"]


def test_a_substitute_is_loud():
    words = Page(html.render(inconclusive())).text
    assert words.count("SUBSTITUTE, not the real engine") >= 2
    assert "Gates (judged on a substitute)" in words
    assert "a substitute's latency says nothing about the tensorrt_rtx engine" in words


def test_missing_figures_are_called_not_measured():
    words = Page(html.render(stopped())).text
    for section in ("Where accuracy went", "Size", "Latency"):
        assert f"{section} Not measured" in words
    assert "Not measured: the build stopped before the gates." in words


def test_hostile_text_is_only_text():
    hostile = "<script>alert(1)</script>\"'&\x1b[0m"
    report = failed()
    step = StepRecord(
        id=hostile,
        component=hostile,
        kind="export",
        method=hostile,
        status="ran",
        metadata={hostile: hostile},
    )
    stages = tuple(one.model_copy(update={"component": one.component and hostile}) for one in report.stages)
    text = html.render(
        report.model_copy(
            update={
                "recipe": RecipeRecord(name=hostile, path="x", sha256="0"),
                "steps": (step,),
                "stages": stages,
                "notes": (hostile,),
                "libraries": {hostile: hostile},
            }
        )
    )
    page = Page(text)
    assert "script" not in page.tags
    assert "\x1b" not in text
    assert page.text.count("<script>alert(1)</script>") >= 6


def test_a_plot_that_cannot_be_drawn_leaves_the_page_whole(monkeypatch):
    def broken(*_):
        raise RuntimeError("no fonts here")

    monkeypatch.setattr(plots, "size_panel", broken)
    words = Page(html.render(passed())).text
    assert "could not be drawn (RuntimeError: no fonts here)" in words
    assert "363 KiB" in words


def test_scores_that_are_kept_for_programs_are_not_shown():
    gate = passed().gates[0]
    hidden = {"kept_scores": {"zlib": "eJwDAAAAAAE="}}
    shown = gate.model_copy(update={"details": {"metric": "top1", **hidden, "subsets": {"without a": {**hidden}}}})
    page = html.render(passed().model_copy(update={"gates": (shown, *passed().gates[1:])}))
    assert "eJwDAAAAAAE" not in page and "top1" in page
