"""Recovery: passes that give a changed component its accuracy back."""

from typing import TYPE_CHECKING

from mmdeploy.core.contracts import Pass
from mmdeploy.plugins.contract import RECOVER
from mmdeploy.plugins.registry import Registry

if TYPE_CHECKING:  # the type checker holds each against the contract; who runs one imports no other
    from mmdeploy.recover import finetune

    PASSES: tuple[Pass, ...] = (finetune,)

METHODS: Registry[Pass] = Registry(__name__, RECOVER, {"finetune": "finetune"})
