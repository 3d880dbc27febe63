"""Recovery: passes that give a changed component its accuracy back."""

from mmdeploy.core.contracts import Pass
from mmdeploy.plugins.contract import RECOVER
from mmdeploy.plugins.registry import Registry
from mmdeploy.recover import finetune

METHODS: Registry[Pass] = Registry(__name__, RECOVER, {"finetune": finetune})
