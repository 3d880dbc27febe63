"""The fenced blocks of README and the pages, and the examples in the help of verbs."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from mmdeploy.cli import VERBS, commands

REPOSITORY = Path(__file__).parents[1]
PAGES = sorted(
    path
    for pattern in (
        "*.md",
        "docs/*.md",
        "benchmarks/README.md",
        "examples/*/README.md",
        "recipes/*/README.md",
        "model_repository/README.md",
    )
    for path in REPOSITORY.glob(pattern)
)
#: A block that cannot be checked has its reason on the line before it.
_BLOCK = re.compile(r"(?:<!-- unchecked: ([^\n]+) -->\n)?^( *)```(\S*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"(?<!`)`(mmdeploy [^`]+)`(?!`)")
_SEPARATORS = {"&&", "||", "|", ";", "&", "(", ")"}


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: Where it is, relative to the repository, or ``mmdeploy VERB --help``.
        line: Of its first line.
        language: After the fence; empty where there is none.
        text: What it holds.
        unchecked: Why it is not checked; empty where it is.
    """

    page: str
    line: int
    language: str
    text: str
    unchecked: str = ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    """Return the blocks of these languages, of all pages and of the help of verbs; of all languages by default."""
    found = [*_of_pages(), *_of_help()]
    return [block for block in found if not languages or block.language in languages]


def _of_pages() -> Iterator[Block]:
    for path in PAGES:
        text = path.read_text()
        for match in _BLOCK.finditer(text):
            body = "\n".join(line.removeprefix(match[2]) for line in match[4].splitlines())
            line = text[: match.start(4)].count("\n") + 1
            yield Block(str(path.relative_to(REPOSITORY)), line, match[3], body + "\n", match[1] or "")


def _of_help() -> Iterator[Block]:
    above = click.Context(commands, info_name="mmdeploy")
    for verb in VERBS:
        command = commands.get_command(above, verb)
        assert command is not None
        _, _, example = (command.help or "").partition("Example:\n")
        lines = [line.strip() for line in example.splitlines() if line.strip()]
        yield Block(f"mmdeploy {verb} --help", 1, "sh", "\n".join(lines) + "\n")


def inline_commands() -> Iterator[tuple[str, list[str]]]:
    """Give the calls of mmdeploy that stand in a sentence, with their page."""
    for path in PAGES:
        prose = _BLOCK.sub("", path.read_text())
        for match in _CODE.finditer(prose):
            yield str(path.relative_to(REPOSITORY)), match[1].split()


def calls(block: Block) -> Iterator[list[str]]:
    """Give each call of a program in a block of shell; what is redirected, and comments, are left out."""
    for line in block.text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split, lexer.commenters = True, "#"
        call: list[str] = []
        for token in lexer:
            if token in _SEPARATORS:
                yield from [call] if call else []
                call = []
            else:
                call.append(token)
        if call:
            yield call[: call.index(">")] if ">" in call else call
