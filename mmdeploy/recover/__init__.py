"""Recovery: passes that give a changed component its accuracy back."""

from collections.abc import Mapping

from mmdeploy.core.contracts import Pass
from mmdeploy.recover import finetune

METHODS: Mapping[str, Pass] = {"finetune": finetune}
