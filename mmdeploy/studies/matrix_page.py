"""A matrix as files: ``matrix.json``, ``matrix.md`` and ``matrix.html``."""

from __future__ import annotations

import json
from pathlib import Path

from mmdeploy.core.version import __version__
from mmdeploy.report import write_file
from mmdeploy.studies.found import figure_text
from mmdeploy.studies.matrix import Matrix
from mmdeploy.studies.matrix_cell import COMPARED, Row
from mmdeploy.studies.objectives import OBJECTIVES
from mmdeploy.studies.page import Page, Part

HEAD = ("class", "verdict", *(OBJECTIVES[name].title for name in COMPARED), "engines")


def write_matrix(matrix: Matrix) -> dict[str, Path]:
    """Write what a matrix came to into its folder; return the files by kind: ``json``, ``md``, ``html``.

    Raises:
        StoreError: If the folder cannot be written.
    """
    page = matrix_page(matrix)
    return {
        "json": write_file(matrix.folder / "matrix.json", json.dumps(matrix.to_json(), indent=1) + "\n"),
        "md": write_file(matrix.folder / "matrix.md", page.markdown()),
        "html": write_file(matrix.folder / "matrix.html", page.html()),
    }


def matrix_page(matrix: Matrix) -> Page:
    """Describe a matrix."""
    told = [
        "Latency is over the FP32 reference of the same machine; drops and latencies are those of a machine of the "
        "class, bytes those of any.",
        *(f"{row.name}: {row.reason}." for row in matrix.rows if row.reason),
    ]
    places = [
        [
            row.name,
            row.published or row.staged or "-",
            "yes" if row.published else "no",
            row.machine or "-",
            row.at or "-",
        ]
        for row in matrix.rows
    ]
    return Page(
        f"{matrix.name}: classes of hardware",
        [
            f"recipe {matrix.recipe}",
            f"this machine: {matrix.machine}; of {', '.join(matrix.here) or 'no class that has a name'}",
        ],
        [
            Part("Compared", told, HEAD, [cells(row) for row in matrix.rows]),
            Part("Repositories", (), ("class", "where", "published", "judged on", "at (UTC)"), places),
        ],
        f"Written by mmdeploy {__version__}; the same data is in matrix.json, each build's report in the folder of its "
        "class.",
    )


def cells(row: Row) -> tuple[str, ...]:
    """Return a row of the table of classes."""
    figures = (figure_text(name, row.figures.get(name)) for name in COMPARED)
    return (row.name, row.status, *figures, ", ".join(row.engines) or "-")
