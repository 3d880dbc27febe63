"""Which series are an ensemble's."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Selectors:
    """Label matchers for the models of an ensemble.

    Attributes:
        ensemble: Its name.
    """

    ensemble: str

    @property
    def whole(self) -> str:
        """The ensemble itself."""
        return f'model="{self.ensemble}"'

    @property
    def parts(self) -> str:
        """The models that it calls, whatever release they are of."""
        return f'model=~"{_literal(self.ensemble)}[.].+"'

    @property
    def all(self) -> str:
        """Both."""
        return f'model=~"{_literal(self.ensemble)}([.].+)?"'


def one_part(model: str) -> str:
    """Return the label matcher of one model, whatever a later release puts behind its name."""
    return f'model=~"{_literal(model)}([^A-Za-z0-9_].*)?"'


def _literal(name: str) -> str:
    """Return a name as a regular expression of RE2, without a backslash that PromQL would want doubled."""
    return "".join(letter if letter.isalnum() or letter in "_-" else f"[{letter}]" for letter in name)
