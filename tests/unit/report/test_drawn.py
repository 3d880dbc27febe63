"""A plot is taken from an earlier page where it shows the same, and only there."""

from pathlib import Path

import pytest

from mmdeploy.report import write_all
from mmdeploy.report.drawn import drawn, page_before


def circle(title: str, records: object) -> str:
    return f"<svg role='img'><title>{title}</title>{records}</svg>"


def square(title: str, records: object) -> str:
    return circle(title, records)


def never(title: str, records: object) -> str:
    raise AssertionError(f"{title} was drawn")


def test_what_shows_the_same_is_taken_over() -> None:
    page = f"<p>{drawn(circle, 'sizes', [1], '')}</p>{drawn(circle, 'times', [2], '')}<svg>other</svg>"
    never.__name__ = "circle"
    for title, records in (("sizes", [1]), ("times", [2])):
        assert drawn(never, title, records, page) == drawn(circle, title, records, "")
    for draw, title, records in ((square, "sizes", [1]), (circle, "sizes", [3]), (circle, "size", [1])):
        assert drawn(draw, title, records, page) == drawn(draw, title, records, "")


def test_a_page_that_was_cut_off_gives_nothing() -> None:
    whole = drawn(circle, "sizes", [1], "")
    assert drawn(circle, "sizes", [1], whole[:-3]) == whole


def test_the_newest_run_before_is_asked(tmp_path: Path) -> None:
    for name in ("2", "3", "5"):
        (tmp_path / name).mkdir()
    assert page_before(tmp_path / "3", "page") == ""
    (tmp_path / "2/page").write_text("two")
    (tmp_path / "5/page").write_text("five")
    assert page_before(tmp_path / "3", "page") == "two"
    assert page_before(tmp_path / "absent/3", "page") == ""


def test_a_second_report_of_the_same_figures_draws_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from report_samples import passed

    report = passed()
    first = write_all(report, tmp_path / "1")["html"].read_text()
    assert "<svg" in first
    monkeypatch.setattr("mmdeploy.report.plots._svg", never)
    assert write_all(report, tmp_path / "2")["html"].read_text() == first
