"""Recovery: passes that give a changed component its accuracy back, or train a smaller one in its place."""

from typing import TYPE_CHECKING

from mmdeploy.core.contracts import Pass
from mmdeploy.plugins.contract import RECOVER
from mmdeploy.plugins.registry import Registry

if TYPE_CHECKING:  # the type checker holds each against the contract; who runs one imports no other
    from mmdeploy.recover import distill, finetune

    PASSES: tuple[Pass, ...] = (distill, finetune)

METHODS: Registry[Pass] = Registry(__name__, RECOVER, {"finetune": "finetune", "distill": "distill"})
