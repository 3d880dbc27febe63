"""The documentation site: it is built without a warning and without a network, and has a page for all that there is."""

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from mmdeploy import engines, export, gates, prune, quantize, recover
from mmdeploy.cli import VERBS
from mmdeploy.preprocess import METHODS as STEPS
from mmdeploy.recipe.schema import Recipe

pytestmark = [pytest.mark.xdist_group("documentation")]

REPOSITORY = Path(__file__).parents[2]
#: What a page loads by itself; links that a reader may follow are not among them.
LOADED = re.compile(r'<(?:script|img|link|iframe)\b[^>]*?\b(?:src|href)="(?:https?:)?//[^"]*"')


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "-q", "-d", folder / "doctrees", "-c", "docs", ".", folder / "html"],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=560, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return folder / "html"


def test_there_is_a_page_for_each_verb_section_and_method(site: Path) -> None:
    reference = site / "docs" / "reference"
    registries: Mapping[str, Mapping[str, object]] = {
        "preprocess": STEPS, "prune": prune.METHODS, "recover": recover.METHODS, "export": export.METHODS,
        "quantize": quantize.METHODS, "engines": engines.METHODS, "gates": gates.METHODS,
    }  # fmt: skip
    methods = {f"{section}.{method}" for section, known in registries.items() for method in known}
    assert {path.stem for path in (reference / "verbs").glob("*.html")} == {*VERBS, "index"}
    assert {path.stem for path in (reference / "methods").glob("*.html")} == {*methods, "index"}
    sections = {path.stem for path in (reference / "recipe").glob("*.html")}
    assert {"model", "data", "inputs", "components", "components.NAME.serving", "gates"} <= sections
    whole = (reference / "recipe" / "index.html").read_text()
    assert [key for key in Recipe.model_fields if f">{key}<" not in whole] == []


def test_pages_say_what_the_program_says(site: Path) -> None:
    reference = site / "docs" / "reference"
    assert "MMDEPLOY_WORKDIR" in (reference / "verbs" / "plan.html").read_text()
    assert "baseline accept" in (reference / "verbs" / "baseline.html").read_text()
    static = (reference / "methods" / "quantize.static.html").read_text()
    assert "SmoothQuant" in static and "exclude_op_types" in static
    data = (reference / "recipe" / "data.html").read_text()
    assert "max_gib" in data and "8.0" in data
    serving = (reference / "recipe" / "components.NAME.serving.html").read_text()
    assert '#section-components-name-serving-dynamicbatching">dynamic_batching</a>' in serving, "columns stay narrow"


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 80
    assert {str(page.relative_to(site)): found for page in pages if (found := LOADED.findall(page.read_text()))} == {}
    styles = "".join(path.read_text() for path in site.rglob("*.css"))
    assert not re.search(r"url\(['\"]?(?:https?:)?//|@import", styles)


def test_the_root_leads_to_the_first_page(site: Path) -> None:
    target = re.search(r"url=([^\"]+)", (site / "index.html").read_text())
    assert target is not None and (site / target[1]).is_file()
