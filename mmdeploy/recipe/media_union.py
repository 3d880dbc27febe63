"""What stands in the schema for a step of preprocess and postprocess."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmdeploy.recipe.media import MediaStep
from mmdeploy.recipe.methods import NotYet


class _Steps(NotYet):
    """The sections of all methods, and of the recipe's own functions."""

    @classmethod
    def annotation(cls) -> Any:
        """Return their union."""
        from mmdeploy.recipe.media_sections import STEP

        return STEP


if TYPE_CHECKING:
    Step = MediaStep
else:
    Step = _Steps
