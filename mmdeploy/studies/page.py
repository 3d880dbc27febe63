"""A study as files: one description of the page, written as Markdown, HTML and JSON, and the front as a drawing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmdeploy.core.version import __version__
from mmdeploy.report import write_file
from mmdeploy.report.templates import environment
from mmdeploy.studies.found import Found, figure_text
from mmdeploy.studies.objectives import OBJECTIVES
from mmdeploy.studies.plot import front_svg
from mmdeploy.studies.trial import Trial, words

PLOT = "front.svg"


@dataclass(frozen=True)
class Part:
    """A section of a page: sentences, then a table or a drawing, where it has one."""

    heading: str
    sentences: Sequence[str] = ()
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    svg: str = ""
    svg_file: str = ""
    command: str = ""


@dataclass(frozen=True)
class Page:
    """A page: its title, facts under it, and sections."""

    title: str
    facts: Sequence[str]
    parts: Sequence[Part]
    footer: str

    def markdown(self) -> str:
        """Write it as Markdown."""
        lines = [f"# {self.title}", "", *(f"- {_cell(fact)}" for fact in self.facts), ""]
        for part in self.parts:
            lines += [f"## {part.heading}", ""]
            lines += [f"{sentence}\n" for sentence in part.sentences]
            if part.svg_file:
                lines += [f"![{part.heading}]({part.svg_file})", ""]
            if part.head:
                rows = [part.head, ["---"] * len(part.head), *part.rows]
                lines += [f"| {' | '.join(map(_cell, row))} |" for row in rows] + [""]
            if part.command:
                lines += ["```", part.command, "```", ""]
        return "\n".join([*lines, self.footer, ""])

    def html(self) -> str:
        """Write it as a page that needs nothing else."""
        return environment("mmdeploy.studies", ".").get_template("study.html.j2").render(page=self)


def write_pages(found: Found) -> dict[str, Path]:
    """Write what a sweep came to into its folder; return the files by kind: ``json``, ``svg``, ``md``, ``html``.

    Raises:
        StoreError: If the folder cannot be written.
    """
    svg = front_svg(found) if found.front and len(found.objectives) > 1 else ""
    page = sweep_page(found, svg)
    files = {"json": write_file(found.folder / "sweep.json", json.dumps(found.to_json(), indent=1) + "\n")}
    if svg:
        files["svg"] = write_file(found.folder / PLOT, svg)
    files["md"] = write_file(found.folder / "sweep.md", page.markdown())
    files["html"] = write_file(found.folder / "sweep.html", page.html())
    return files


def sweep_page(found: Found, svg: str) -> Page:
    """Describe a sweep."""
    best, on_front = found.chosen, [one.number for one in found.front]
    parts = []
    if best is not None:
        sentences = [
            f"Trial {best.number}: {words(best.point)}.",
            *found.cautions(),
            "Nothing is published by a sweep. This builds the chosen one, judges it and publishes it:",
        ]
        parts.append(Part("Chosen", sentences, command=found.build_command(best)))
    if found.front:
        told = [f"{OBJECTIVES[name].title}: {OBJECTIVES[name].meaning}." for name in found.objectives]
        told.append(
            "A trial is on the front if no other is better beyond what their intervals leave open. Smaller is better."
        )
        rows = [[*_cells(found, one, best), ", ".join(map(str, found.alike(one))) or "none"] for one in found.front]
        head = [*_head(found), "not told apart from"]
        parts.append(Part("Front", told, head, rows, svg, PLOT if svg else ""))
    rows = [[*_cells(found, one, best), _why(one, on_front)] for one in found.counted]
    parts.append(Part("All trials", (), [*_head(found), "what came of it"], rows))
    return Page(
        f"{found.name}: sweep",
        [
            f"recipe {found.recipe}",
            *(f"{one.option}: {one.domain}, in {', '.join(one.paths)}" for one in found.space.dimensions),
            *(f"for all trials: {fixed}" for fixed in found.space.fixed),
            f"{sum(one.built for one in found.trials)} builds of {found.budget}, proposed by {found.sampler}, "
            f"seed {found.seed}",
            f"measured on {found.machine}",
        ],
        parts,
        f"Written by mmdeploy {__version__}; the same data is in sweep.json beside this file.",
    )


def _head(found: Found) -> list[str]:
    return ["trial", "values", *(OBJECTIVES[name].title for name in found.objectives), "steps that ran"]


def _cells(found: Found, trial: Trial, best: Trial | None) -> list[str]:
    mark = " (chosen)" if best is not None and trial.number == best.number else ""
    figures = [figure_text(name, trial.figures.get(name)) for name in found.objectives]
    return [f"{trial.number}{mark}", words(trial.point), *figures, f"{trial.ran} of {trial.steps}"]


def _why(trial: Trial, on_front: Sequence[int]) -> str:
    if trial.status != "passed":
        return f"{trial.status}: {trial.reason}"
    return "passed, on the front" if trial.number in on_front else "passed"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
