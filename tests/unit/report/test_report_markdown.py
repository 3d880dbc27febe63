"""The Markdown rendering: golden files, and text that must not become markup."""

import pytest
from report_samples import SAMPLES, golden, passed

from mmdeploy.record.build_report import RecipeRecord
from mmdeploy.report import markdown


@pytest.mark.parametrize("name", SAMPLES)
def test_golden(name):
    golden(f"{name}.md", markdown.render(SAMPLES[name]()))


def named(name):
    report = passed()
    return report.model_copy(update={"recipe": RecipeRecord(name=name, path=report.recipe.path, sha256="0")})


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;:"),
        ("a | b", r"a \| b:"),
        ("![x](http://evil/x.png)", r"!\[x\](http"),
        ("thanks @octocat, see #12", "thanks @&#8203;octocat, see #&#8203;12:"),
        ("*bold* _it_ `code`", r"\*bold\* \_it\_ \`code\`:"),
        ("two\n# lines", "two # lines:"),
        ("snake_case_name", "snake_case_name:"),
    ],
)
def test_text_from_recipes_is_only_text(name, written):
    assert markdown.render(named(name)).startswith(f"### ✅ {written}")


def test_a_path_with_backticks_stays_code():
    report = passed().model_copy(update={"published": "a`b`"})
    assert "`` a`b` ``" in markdown.render(report)
