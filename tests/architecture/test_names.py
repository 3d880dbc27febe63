"""Names of modules, files and settings that are written down elsewhere: in documents, in tests, in pyproject.toml."""

import ast
import importlib
import re
import tomllib
from pathlib import Path

import pytest

from mmdeploy.plugins.contract import GROUPS
from mmdeploy.triton.config import INPUT_RULES_PARAMETER
from mmdeploy.triton.served_step import OPTIONS_PARAMETER

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "mmdeploy"
MODULES = sorted(PACKAGE.rglob("*.py"))
DOCUMENTS = sorted(
    path
    for pattern in (
        "*.md",
        "docs/*.md",
        "benchmarks/*.md",
        "examples/**/*.md",
        "recipes/*/*.md",
        "model_repository/*.md",
    )
    for path in ROOT.glob(pattern)
)
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
STUBS = PACKAGE / "triton" / "backends"
#: Names that look like those of modules: parameters of config.pbtxt, and groups of entry points.
NO_MODULES = {INPUT_RULES_PARAMETER, OPTIONS_PARAMETER, *GROUPS}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FENCED = re.compile(r"^ *```.*?^ *```", re.DOTALL | re.MULTILINE)
QUOTED = re.compile(r"(`+)([^`]+)\1")
#: A name with a placeholder is none.
DOTTED = re.compile(r"(?<![\w./\[-])mmdeploy(?:\.[a-zA-Z_]\w*)+(?![\w<…*])")
FILE = re.compile(r"(?<![\w./<-])(?:mmdeploy|tests|docs|ci|benchmarks|recipes|examples)/[\w./-]*\w(?![\w<…*/])")


def in_code_quotes(text: str) -> str:
    return " ".join(code for _, code in QUOTED.findall(text))


def named(document: Path) -> list[str]:
    """Return the modules, their members and the files that a document names in code quotes, in code or in a link."""
    text = document.read_text()
    code, prose = " ".join(FENCED.findall(text)), FENCED.sub("", text)
    linked = " ".join(re.findall(r"\]\(([^)#:]+)\)", prose))
    told = re.sub(r"--out \S+", "", f"{code} {in_code_quotes(prose)} {linked}")  # what a command will write
    return [*DOTTED.findall(told), *FILE.findall(told)]


def is_there(name: str) -> bool:
    """Say whether a file, with or without its suffix, or a dotted name leads to something."""
    if "/" in name:
        return (ROOT / name).exists() or any(ROOT.glob(f"{name}.*"))
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:length])
        if path.with_suffix(".py").is_file() or (path / "__init__.py").is_file():
            members = parts[length:]
            if members and path.is_relative_to(STUBS):  # what only Triton's stub can import
                return members[0] in defined(path.with_suffix(".py"))
            return not members or has(importlib.import_module(".".join(parts[:length])), members)
    return False


def defined(module: Path) -> set[str]:
    return {getattr(node, "name", "") for node in ast.parse(module.read_text()).body}


def has(holder: object, members: list[str]) -> bool:
    first, *others = members
    if hasattr(holder, first):
        return not others or has(getattr(holder, first), others)
    fields = (getattr(holder, "__dataclass_fields__", {}), getattr(holder, "model_fields", {}))
    return not others and any(first in known for known in fields)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_name_what_exists(path: Path) -> None:
    missing = [name for name in named(path) if name not in NO_MODULES and not is_there(name)]
    assert not missing, f"{path.name} names {missing}"


def test_the_documents_that_speak_of_code_are_read() -> None:
    found = {str(path.relative_to(ROOT)): set(named(path)) for path in DOCUMENTS}
    assert {"mmdeploy/core/contracts.py", "docs/extending.md"} <= found["README.md"]
    assert (
        "mmdeploy.core.facts" in found["docs/design.md"]
        and "mmdeploy.engines.built_from.BuiltFrom" in found["docs/extending.md"]
    )


@pytest.mark.parametrize(
    ("name", "exists"),
    [
        ("mmdeploy.core.facts", True), ("mmdeploy.core.facts.read", True), ("mmdeploy.core.fact", False),
        ("mmdeploy.core.facts.write", False), ("mmdeploy.api.build", True), ("mmdeploy.engines.METHODS", True),
        ("mmdeploy.model.torch_component.ComponentFacts.factory", True), ("mmdeploy.wording", False),
    ],
)  # fmt: skip
def test_a_name_that_is_not_there_is_seen(name: str, exists: bool) -> None:
    assert is_there(name) is exists


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_docstrings_and_comments_name_what_exists(path: Path) -> None:
    text = path.read_text()
    told = [ast.get_docstring(node) or "" for node in ast.walk(ast.parse(text)) if isinstance(node, DOCUMENTED)]
    comments = [line.partition("#")[2] for line in text.splitlines() if line.lstrip().startswith("#")]
    names = set(DOTTED.findall(in_code_quotes("\n".join((*told, *comments))))) - NO_MODULES
    assert [name for name in sorted(names) if not is_there(name)] == []


def test_what_the_project_file_names_exists() -> None:
    tools = PROJECT["tool"]
    for pattern in tools["setuptools"]["package-data"]["mmdeploy"]:
        assert list(PACKAGE.glob(pattern)), f"package-data: {pattern}"
    for pattern in tools["ruff"]["lint"]["per-file-ignores"]:
        assert list(ROOT.glob(pattern)), f"per-file-ignores: {pattern}"
    for contract in tools["importlinter"]["contracts"]:
        for ignored in contract.get("ignore_imports", ()):
            for side in ignored.split(" -> "):
                pattern = side.replace(".", "/")
                assert list(ROOT.glob(f"{pattern}.py")) or list(ROOT.glob(pattern)), f"ignore_imports: {side}"
    assert is_there(tools["setuptools"]["dynamic"]["version"]["attr"])
    assert [is_there(target.replace(":", ".")) for target in PROJECT["project"]["scripts"].values()] == [True]
    assert all((ROOT / path).is_dir() for path in tools["pytest"]["ini_options"]["testpaths"])


def test_the_design_draws_the_rooms_as_they_are() -> None:
    text = (ROOT / "docs" / "design.md").read_text()
    drawn = [" | ".join(layer.split(" | ")) for layer in re.split(r"\s*→\s*", FENCED.findall(text)[0].strip("`\n"))]
    layers = PROJECT["tool"]["importlinter"]["contracts"][0]["layers"]
    assert ["__main__", *drawn] == layers
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert set(re.findall(r"`mmdeploy/(\w+)`", text)) == rooms


def reads_a_key(node: ast.AST) -> bool:
    """Say whether a piece of code spells a key of an artifact's metadata."""
    if isinstance(node, ast.Compare) and any(isinstance(operator, ast.In | ast.NotIn) for operator in node.ops):
        return any(is_metadata(side) for side in node.comparators)
    if isinstance(node, ast.Subscript):
        return is_metadata(node.value)
    return isinstance(node, ast.Attribute) and node.attr == "get" and is_metadata(node.value)


def is_metadata(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "metadata"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nobody_spells_a_key_of_metadata(path: Path) -> None:
    """What is read of it is a dataclass: see `mmdeploy.core.facts`."""
    found = [node.lineno for node in ast.walk(ast.parse(path.read_text())) if reads_a_key(node)]
    assert not found, f"lines {found}: read a dataclass with `mmdeploy.core.facts`"


@pytest.mark.parametrize(
    "code", ['a.metadata["x"]', 'a.metadata.get("x")', '"x" in a.metadata', '"x" not in a.metadata']
)
def test_a_spelled_key_is_seen(code: str) -> None:
    assert any(reads_a_key(node) for node in ast.walk(ast.parse(code)))


TEST_NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_tests_that_the_docs_name_are_there(page: Path) -> None:
    """A promise that names its test is no better than the test."""
    for file, function in TEST_NAMED.findall(page.read_text()):
        source = (ROOT / file).read_text()
        assert not function or f"def {function}(" in source, f"{page.name} names {file}::{function}"
