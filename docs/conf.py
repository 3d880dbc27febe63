"""The documentation site: ``ci/docs`` builds it from the repository's root, so that links hold on code hosts, too."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from reference_pages import write_pages  # noqa: E402 - lies beside this file

from mmdeploy.core.version import __version__  # noqa: E402

write_pages(HERE / "reference")

project = "mmdeploy"
author = "the authors of mmdeploy"
release = version = __version__
root_doc = "docs/index"
extensions = ["myst_parser"]
include_patterns = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "benchmarks/**.md",
    "docs/**.md",
    "examples/*/README.md",
    "recipes/*/README.md",
]
exclude_patterns = [".*", "**/.*", "docs/_build", "mmdeploy", "model_repository", "tests"]
myst_heading_anchors = 4
smartquotes = False  # two dashes begin an option
html_theme = "furo"
html_title = f"mmdeploy {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["_static/index.html"]  # the site's root leads to its first page
html_show_copyright = False
html_copy_source = False
pygments_style = "friendly"
pygments_dark_style = "monokai"
