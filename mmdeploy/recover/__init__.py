"""Recovery: passes that give a changed component its accuracy back."""

from mmdeploy.recover import finetune

METHODS = {"finetune": finetune}
