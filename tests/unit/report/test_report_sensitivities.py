"""What layer groups cost and what searches decided, in the words of every rendering."""

import json

from report_samples import passed, searched

from mmdeploy.report import html, markdown, sensitivities, write_sensitivity


def test_groups_are_ranked_and_the_whole_comes_last():
    measured = dict(sensitivities.sensitivities(searched()))
    rows = sensitivities.rows(measured["audio_encoder"])
    assert [row[0] for row in rows] == ["convolutions", "blocks", "all together"]
    assert rows[0][1:4] == ("0.012", "[0.006, 0.018]", "18.2 dB")
    unchanged = sensitivities.rows(measured["fusion"])[-1]
    assert (unchanged[0], unchanged[3], unchanged[5]) == ("head", "unchanged", "640")


def test_an_analysis_of_all_samples_goes_before_that_of_a_search():
    report = searched()
    search = next(step for step in report.steps if step.id == "fusion/quantize")
    of_all = {"sensitivity": [search.metadata["sensitivity"][1]], "metric": "top1"}
    analysis = search.model_copy(update={"id": "fusion/sensitivity", "kind": "sensitivity", "metadata": of_all})
    both = report.model_copy(update={"steps": (*report.steps, analysis)})
    measured = dict(sensitivities.sensitivities(both))
    assert [group.group for group in measured["fusion"].sensitivity] == ["attention"]


def test_a_search_is_told_in_a_sentence():
    told = {step.id: sensitivities.told(search) for step, search in sensitivities.searches(searched())}
    assert told == {
        "fusion/quantize": "1 of 3 layer groups in INT8; top1 drops by 0.006 [0.000, 0.012] on 500 samples held back "
        "(budget 0.01); 9 evaluations",
        "image_encoder/prune": "structured pruning with ratio 0.4; top1 drops by 0.002 [-0.004, 0.008] on 500 samples "
        "held back (budget 0.01); 8 evaluations",
    }


def test_reports_without_a_search_say_nothing_of_it():
    for render in (html.render, markdown.render):
        assert "Layer group" not in render(passed()) and "Searches" not in render(passed())


def test_the_page_of_an_analysis_has_table_and_plots(tmp_path):
    files = write_sensitivity(searched(), tmp_path)
    page = files["html"].read_text()
    assert page.count("<svg") == 4 and "convolutions" in page
    assert "Gates" not in page
    figures = json.loads(files["json"].read_text())
    assert figures["components"]["audio_encoder"]["sensitivity"][0]["group"] == "convolutions"
