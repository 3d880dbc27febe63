"""YAML as it is written: the same bytes every time, no tags, no anchors."""

from __future__ import annotations

from typing import Any

import yaml


class _Plain(yaml.SafeDumper):
    """Writes lists indented below their key, and a value that stands twice twice."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Indent lists like everything else."""
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        """Write no anchors."""
        return True


def as_yaml(value: Any) -> bytes:
    """Return a document, keys in the order that they were given in."""
    text: str = yaml.dump(value, Dumper=_Plain, sort_keys=False, allow_unicode=True, width=1000)
    return text.encode()
