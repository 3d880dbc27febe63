"""Graphs with some of their layer groups in INT8: calibrated once, written many times.

Every graph has the ranges that static quantization of the whole would have, so that groups are compared and nothing
else; writing one costs no calibration.
"""

from __future__ import annotations

import glob
from collections.abc import Collection
from pathlib import Path
from typing import Any

from mmdeploy.core.artifact import Artifact
from mmdeploy.core.contracts import StepContext
from mmdeploy.quantize import encode, graphs, layer_groups, selection, static
from mmdeploy.quantize.layer_groups import Grouping


class PartialOptions(static.Settings, Grouping):
    """What is quantized, how ranges are found, and how nodes are put together into layer groups."""


class PartialGraphs:
    """Writes the graph of a component with any of its layer groups quantized."""

    def __init__(self, artifact: Artifact, options: PartialOptions, context: StepContext) -> None:
        """Calibrate.

        Raises:
            QuantizeError: As `mmdeploy.quantize.static.calibrated` does, and when a glob of ``groups`` matches nothing.
        """
        self._options, self._encoding = options, context.encoding
        self._calibrated = static.calibrated(artifact, options, context)
        self.groups = layer_groups.find(self._calibrated.model, self._calibrated.chosen.nodes, options)

    def write(self, names: Collection[str], path: Path) -> Path:
        """Write the graph with the named groups, at least one, in INT8 and the others in float."""
        left_out = tuple(glob.escape(node) for group in self.groups if group.name not in names for node in group.nodes)
        scheme = self._options.model_copy(update={"exclude": (*self._options.exclude, *left_out)})
        model = self._calibrated.model
        chosen = selection.choose(model, scheme)
        ranges = {name: self._calibrated.ranges[name] for name in chosen.tensors}
        graphs.save(encode.write(model, chosen, ranges, encoding=self._encoding, scheme=scheme), path)
        return path

    def excluding(self, names: Collection[str]) -> dict[str, Any]:
        """Return the recipe's section that quantizes the same without the named groups, and without a search."""
        globs = [pattern for group in self.groups if group.name in names for pattern in group.globs]
        fields = static.plain(self._options, self._calibrated.how)
        return {"method": "static", **fields, "exclude": [*self._options.exclude, *globs]}
