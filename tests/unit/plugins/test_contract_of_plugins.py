"""What an object lacks to be a pass, an engine or a gate is said in words, all of it at once."""

from types import SimpleNamespace

import pytest

from mmdeploy.core.contracts import MethodOptions
from mmdeploy.plugins import contract
from mmdeploy.plugins.contract import ENGINE, EXPORT, GATE, PRUNE, QUANTIZE


class Options(MethodOptions):
    """None."""


def plugin(**members):
    fields = {
        "Options": Options,
        "CONSUMES": "onnx",
        "PRODUCES": "onnx",
        "run": lambda artifact, options, context: None,
    }
    given = {name: value for name, value in (fields | members).items() if value is not None}
    return SimpleNamespace(**given)


def engine(**members):
    fields = {"BACKEND": "onnxruntime", "FILENAME": "model.onnx", "load": lambda artifact, options: None}
    return plugin(**(fields | members))


class WithSelf:
    Options = Options

    def check(self, options, evidence): ...


@pytest.mark.parametrize(
    ("asked", "found", "told"),
    [
        (GATE, SimpleNamespace(Options=Options, check=lambda options, evidence: None), []),
        (GATE, WithSelf(), []),
        (GATE, WithSelf, ["its check(self, options, evidence) must take (options, evidence): make it a @staticmethod, "
                          "or name an instance of the class"]),
        (GATE, SimpleNamespace(options=Options, chek=1),
         ["it has no Options (it has options)", "it has no check (it has chek)"]),
        (GATE, SimpleNamespace(Options=dict, check=3),
         ["its Options is no subclass of mmdeploy.core.contracts.MethodOptions", "its check is no function"]),
        (QUANTIZE, plugin(), []),
        (QUANTIZE, plugin(CONSUMES="torch", PRODUCES="torch"),
         ["it trains (it consumes torch) and has no write(artifact, made, options, context), which writes the INT8 "
          "graph"]),
        (PRUNE, plugin(), ["it turns onnx into onnx; prune takes what turns torch into torch"]),
        (EXPORT, plugin(CONSUMES="torch"), []),
        (QUANTIZE, plugin(CONSUMES=None, PRODUCES=5),
         ["it has no CONSUMES", "its PRODUCES is 5, and must be a string"]),
        (QUANTIZE, plugin(REQUIRES="onnx"),
         ["its REQUIRES is 'onnx', and must be a tuple of imports, such as ('torch',)"]),
        (QUANTIZE, plugin(run=lambda artifact: None), ["its run(artifact) must take (artifact, options, context)"]),
        (QUANTIZE, plugin(data_needs=lambda: None), ["its data_needs() must take (options)"]),
        (ENGINE, engine(), []),
        (ENGINE, engine(CONSUMES="torch", PRODUCES="anything_else"), []),
        (ENGINE, engine(CONSUMES="jax"),
         ["it turns jax into onnx; engine takes what turns onnx into anything or torch into anything"]),
        (ENGINE, engine(candidates=lambda target: ()), ["its candidates(target) must take (target, *, threads=1)"]),
        (ENGINE, engine(candidates=lambda target, *, threads=1: ()), []),
        (ENGINE, engine(load=None, BACKEND=None), ["it has no BACKEND", "it has no load"]),
    ],
)  # fmt: skip
def test_what_is_missing_or_wrong(asked, found, told):
    got = [line.replace("<lambda>", "") for line in asked.problems(found)]
    assert got == told


@pytest.mark.parametrize("asked", [GATE, PRUNE, QUANTIZE, EXPORT, ENGINE], ids=lambda one: one.where)
def test_what_it_asks_of_others_our_own_have(asked: contract.Contract):
    from mmdeploy import engines, export, gates, prune, quantize

    registries = [gates.METHODS, prune.METHODS, quantize.METHODS, export.METHODS, engines.METHODS]
    for registry in (one for one in registries if one.contract is asked):
        for name, module in registry.built_in.items():
            assert [*asked.problems(module)] == [], name
            assert all(hasattr(module, member) for member in asked.defaults), name
