"""Analyse the outlier recipe's tower and be killed in the middle: ``killed_analysis.py WORK SCRATCH DIE_AFTER``."""

import os
import signal
import sys
from pathlib import Path

from fused_samples import OUTLIER_RECIPE, exported, judged, search_context

from mmdeploy.quantize import sensitivity
from mmdeploy.recipe.loader import load_recipe


def main() -> None:
    """Run the analysis; ``kill -9`` itself before score number DIE_AFTER."""
    work, scratch, die_after = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    recipe = load_recipe(OUTLIER_RECIPE)
    artifacts = {name: exported(recipe, name, work / name) for name in recipe.components}
    judge = judged(recipe, "tower", {name: one.path for name, one in artifacts.items()})
    score, scores = judge.score, []

    def mortal(graph: object, part: slice | None = None) -> object:
        if len(scores) == die_after:
            os.kill(os.getpid(), signal.SIGKILL)
        scores.append(graph)
        return score(graph, part)

    judge.score = mortal
    context = search_context(recipe, "tower", work / "out", fused=judge, scratch=scratch)
    options = sensitivity.Options(calibrator="minmax", samples=64)
    found = sensitivity.run(artifacts["tower"], options, context)
    print(len(scores), found.metadata["evaluations"], found.metadata["sensitivity"][0]["group"])


if __name__ == "__main__":
    main()
