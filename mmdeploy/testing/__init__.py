"""Contract tests for passes, engines, gates and blocks that others write: the same that our own go through.

A function takes the plug-in (a module, or a class in one) and the options that a recipe would give it, and raises an
`AssertionError` that says what does not hold and why that matters. For pytest::

    from mmdeploy import testing
    from my_package import calibration_error


    def test_calibration_error_is_a_gate() -> None:
        testing.check_gate(calibration_error, {"max_error": 0.5})

`check_block` takes a block, a PyTorch module of the zoo or your own, through every form in which it can be deployed.

Beside them lie small things to write tests of your own with: `evidence` and `deployment` for gates, `context`,
`graph` and `module` for passes and engines.
"""

from mmdeploy.testing.block_figures import BlockRow, Figure
from mmdeploy.testing.blocks import check_block
from mmdeploy.testing.engines import check_engine
from mmdeploy.testing.gates import check_gate
from mmdeploy.testing.passes import check_pass
from mmdeploy.testing.served import deployment, evidence
from mmdeploy.testing.steps import context, graph, module

__all__ = [
    "BlockRow",
    "Figure",
    "check_block",
    "check_engine",
    "check_gate",
    "check_pass",
    "context",
    "deployment",
    "evidence",
    "graph",
    "module",
]
