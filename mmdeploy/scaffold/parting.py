"""Modules made of what a model does outside of its modules, so that a recipe can name it.

``torch.fx`` follows the model's own forward, its modules being left as they are. What modules that are components
give to each other directly stays as it is. The rest, such as a normalization and a concatenation before a classifier,
becomes the forward of a new module, in a file beside the recipe that people can read and change. What comes of it is
held against the model on real samples.
"""

from __future__ import annotations

import ast
import operator
import re
import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mmdeploy.scaffold.look import Looked
from mmdeploy.scaffold.naming import key_names, unused
from mmdeploy.scaffold.wiring import Wiring, is_plain

if TYPE_CHECKING:
    from torch import fx, nn

FILENAME = "init_model.py"
FACTORY = f"{FILENAME}:build"
#: Names that the code of torch.fx may use besides torch.
_FROM_MATH = ("inf", "nan")
_CLOSE = 1e-5


@dataclass(frozen=True)
class NewModule:
    """A module that is written.

    Attributes:
        attribute: Name in the model.
        source: Its forward, indented as in a class.
        attributes: What it takes from the model: name by path.
        takes: What it is called with.
        gives: What it returns.
    """

    attribute: str
    source: str
    attributes: Mapping[str, str]
    takes: tuple[fx.Node, ...]
    gives: tuple[fx.Node, ...]

    @property
    def class_name(self) -> str:
        """Name of its class."""
        return "".join(word.capitalize() for word in self.attribute.split("_"))


class CannotPart(Exception):  # noqa: N818 - no error: the place is marked instead
    """The forward cannot be followed, or what comes of it is not what the model answers."""


@dataclass
class Parting:
    """A model's forward, and who of the components does what of it.

    Attributes:
        looked: The model.
        wiring: Its components, with gaps.
        graph: Its forward.
        values: What each node gave for the first samples.
        plain: Nodes of components that stay as they are, and what only picks of their answers.
        inputs: The inputs that each node comes of.
        names: What the new module is called after that each node belongs to.
    """

    looked: Looked
    wiring: Wiring
    graph: fx.Graph
    values: Mapping[fx.Node, Any]
    plain: dict[fx.Node, str] = field(default_factory=dict)
    inputs: dict[fx.Node, frozenset[str]] = field(default_factory=dict)
    names: dict[fx.Node, str] = field(default_factory=dict)

    def modules(self) -> list[NewModule]:
        """Return what must be written, in the order of being called."""
        self._settle()
        found, taken = list[NewModule](), {*dict(self.looked.model.named_children()), *dir(self.looked.model)}
        towers = self._towers()
        rest = [node for node in self._computed() if not any(node in nodes for _, nodes in towers)]
        for name, nodes in [*towers, ("head", rest)]:
            if nodes:
                attribute = unused(name if name not in taken else f"{name}_part", taken)
                taken.add(attribute)
                self.names.update(dict.fromkeys(nodes, name.removesuffix("_part").removesuffix("_encoder")))
                found.append(self._module(attribute, nodes))
        return found

    def _settle(self) -> None:
        """Find the components that stay, and the inputs that everything comes of."""
        broken = {gap.component for gap in self.wiring.gaps}
        waiting = [*self.wiring.parts]
        for node in self.graph.nodes:
            sources = [self.inputs[one] for one in node.all_input_nodes]
            self.inputs[node] = frozenset({str(node.target)} if node.op == "placeholder" else ()).union(*sources)
            if node.op == "call_module" and waiting and waiting[0].path == node.target:
                part = waiting.pop(0)
                if part.name not in broken and self._is_fed_by_plain(node):
                    self.plain[node] = part.name
            elif node.target is operator.getitem and node.args[0] in self.plain:
                self.plain[node] = self.plain[node.args[0]]

    def _is_fed_by_plain(self, node: fx.Node) -> bool:
        return all(one.op == "placeholder" or one in self.plain for one in node.all_input_nodes)

    def _computed(self) -> list[fx.Node]:
        """Return the nodes that some new module must do: all that come of inputs and that no component does."""
        done = ("placeholder", "output", "get_attr")
        return [
            node for node in self.graph.nodes if node.op not in done and node not in self.plain and self.inputs[node]
        ]

    def _towers(self) -> list[tuple[str, list[fx.Node]]]:
        """Return what must become one module of what each input goes through before it meets others.

        That is where a module is in it that cannot stay, or where a plain layer is a step before another.
        """
        found = []
        for group in self._groups():
            modules = [node for node in self.graph.nodes if node.op == "call_module" and self.inputs[node] <= group]
            stay = [node for node in modules if node in self.plain]
            layers = [
                part for part in self.wiring.parts if is_plain(part) and part.path in {one.target for one in modules}
            ]
            if len(stay) < len(modules) or (len(modules) > 1 and layers):
                for node in [node for node in self.plain if self.inputs[node] <= group]:
                    del self.plain[node]
                inside = [node for node in self._computed() if self.inputs[node] <= group]
                name = f"{modules[-1].target}_part" if len(modules) == 1 else f"{min(group, key=self._place)}_encoder"
                found.append((re.sub(r"\W", "_", name), inside))
        return found

    def _groups(self) -> list[set[str]]:
        """Return the inputs that meet before or in the first module that they come to; one group is no tower."""
        groups = list[set[str]]()
        for node in self.graph.nodes:
            if node.op != "call_module" or any(one.op == "call_module" for one in _before(node)):
                continue
            met = [group for group in groups if group & self.inputs[node]]
            groups = [group for group in groups if group not in met]
            groups.append(set(self.inputs[node]).union(*met))
        return groups if len(groups) > 1 else []

    def _place(self, name: str) -> int:
        return [str(node.target) for node in self.graph.nodes if node.op == "placeholder"].index(name)

    def _module(self, attribute: str, nodes: Sequence[fx.Node]) -> NewModule:
        from torch import fx

        own, graph = {*nodes}, fx.Graph()
        gives = [node for node in nodes if any(user not in own for user in node.users)]
        takes = list(dict.fromkeys(one for node in nodes for one in node.all_input_nodes if one not in own))
        takes = [node for node in takes if self.inputs[node]]
        if not all(_is_tensor(self.values[node]) for node in (*takes, *gives)):
            raise CannotPart("something else than a tensor passes between parts")
        arguments = list[str]()
        for node in takes:  # an input and a component may have one name
            arguments.append(unused(self._argument(node), arguments))
        copies = {node: graph.placeholder(name) for node, name in zip(takes, arguments, strict=True)}
        attributes: dict[str, str] = {}

        def copied(node: fx.Node) -> fx.Node:
            if node not in copies:
                copies[node] = graph.node_copy(node, copied)
                if node.op in ("call_module", "get_attr"):
                    path = str(node.target)
                    copies[node].target = attributes.setdefault(path, self._attribute(path, attributes.values()))
            return copies[node]

        for node in nodes:
            copied(node)
        results = tuple(copies[node] for node in gives)
        graph.output(results[0] if len(results) == 1 else results)
        return NewModule(attribute, _source(graph), attributes, tuple(takes), tuple(gives))

    @staticmethod
    def _attribute(path: str, taken: Collection[str]) -> str:
        """Name what a new module takes from a path of the model, such as ``readers.0``: as an attribute of its own."""
        name = re.sub(r"\W", "_", path)
        return unused(name if name.isidentifier() else f"part_{name}", taken)

    def _argument(self, node: fx.Node) -> str:
        """Name what a new module takes: after the input, or after the component that gives it."""
        if node.op == "placeholder":
            return str(node.target)
        part = next((part for part in self.wiring.parts if part.name == self.plain.get(node)), None)
        tensors = [*part.outputs.values()] if part is not None else []
        return tensors[0] if len(tensors) == 1 and tensors[0].isidentifier() else self.names.get(node, node.name)

    def answer(self, modules: Sequence[NewModule]) -> Any:
        """Return a function that answers for the model by its parts, as the ensemble will."""
        from torch import fx

        names = self.looked.given
        outputs = next(node for node in self.graph.nodes if node.op == "output").args[0]
        keys = key_names(self.looked.records[0].whole)

        def run(model: nn.Module, **inputs: Any) -> dict[str, Any]:
            known = {names.get(name, name): tensor for name, tensor in inputs.items()}
            env: dict[fx.Node, Any] = {
                node: known.get(str(node.target)) for node in self.graph.nodes if node.op == "placeholder"
            }
            last = {module.gives[-1]: module for module in modules}
            for node in self.graph.nodes:  # a new module in the place of its last answer: all that it takes is there
                if node in self.plain:
                    args, kwargs = fx.node.map_arg((node.args, dict(node.kwargs)), env.__getitem__)
                    called = model.get_submodule(str(node.target)) if node.op == "call_module" else node.target
                    env[node] = called(*args, **kwargs)
                elif node in last:
                    given = getattr(model, last[node].attribute)(*(env[one] for one in last[node].takes))
                    env.update(zip(last[node].gives, given if len(last[node].gives) > 1 else (given,), strict=True))
            return _named(fx.node.map_arg(outputs, env.__getitem__), keys)

        return run


def _named(returned: Any, keys: Mapping[str, str]) -> dict[str, Any]:
    if isinstance(returned, Mapping):
        return {str(key): value for key, value in returned.items() if _is_tensor(value)}
    values = returned if isinstance(returned, tuple | list) else (returned,)
    plain = [f"output_{index}" for index in range(len(values))] if len(values) > 1 else ["output"]
    return {keys.get(name, name): value for name, value in zip(plain, values, strict=True)}


def followed(looked: Looked, wiring: Wiring) -> Parting:
    """Follow a model's forward.

    Raises:
        CannotPart: When torch.fx cannot: it branches on values, or hands on what is no tensor.
    """
    import inspect

    from torch import fx

    opened = {""} | {
        ".".join(part.path.split(".")[:depth]) for part in wiring.parts for depth in range(part.path.count(".") + 1)
    }

    class Tracer(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return module_qualified_name not in opened

    given = {looked.given.get(name, name) for name in looked.seen.inputs}
    parameters = inspect.signature(looked.model.forward).parameters.values()
    try:
        fixed = {one.name: one.default for one in parameters if one.name not in given and one.default is not one.empty}
        graph = Tracer().trace(looked.model, concrete_args=fixed or None)
        values = _values(looked, graph)
    except Exception as cause:
        raise CannotPart(f"torch.fx cannot follow its forward: {cause}") from cause
    return Parting(looked, wiring, graph, values)


def _values(looked: Looked, graph: fx.Graph) -> dict[fx.Node, Any]:
    import torch
    from torch import fx

    found: dict[fx.Node, Any] = {}

    class Kept(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            found[n] = super().run_node(n)
            return found[n]

    feed = {looked.given.get(name, name): tensor for name, tensor in looked.feeds[0].items()}
    names = [str(node.target) for node in graph.nodes if node.op == "placeholder"]
    with torch.no_grad():
        Kept(fx.GraphModule(looked.model, graph)).run(*(feed.get(name) for name in names))
    return found


def _source(graph: fx.Graph) -> str:
    code = graph.python_code("self")
    strange = {name for name in code.globals if name not in ("torch", *_FROM_MATH)}
    lines = [line.rstrip() for line in code.src.strip().splitlines() if line.strip() and not line.startswith("#")]
    text = "\n".join(re.sub(r";\s*(\w+ = )+None\s*$", "", line) for line in lines)
    if any(re.search(rf"\b{re.escape(name)}\b", text) for name in strange):
        raise CannotPart(f"its code needs {', '.join(sorted(strange))}")
    return textwrap.indent(ast.unparse(_without_types(ast.parse(text))), "    ")


def _without_types(tree: ast.Module) -> ast.Module:
    """Take annotations off a function: their names are torch.fx's."""
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, ast.FunctionDef):
            node.returns = None
    return tree


def _before(node: fx.Node) -> list[fx.Node]:
    found, waiting = list[Any](), [*node.all_input_nodes]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.append(one)
            waiting += one.all_input_nodes
    return found


def _is_tensor(value: object) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def module_text(factory: str, modules: Sequence[NewModule]) -> str | None:
    """Write new modules, and a factory that adds them to the model; None where the factory cannot be imported."""
    imported = import_line(factory, "build_model")
    if imported is None:
        return None
    classes = [
        f"class {one.class_name}(nn.Module):\n"
        f'    """Made of {factory}: a part of what its forward does."""\n\n'
        "    def __init__(self, model):\n        super().__init__()\n"
        + "".join(f"        self.{name} = {_reached(path)}\n" for path, name in one.attributes.items())
        + f"\n{one.source}\n"
        for one in modules
    ]
    added = "".join(f"    model.{one.attribute} = {one.class_name}(model)\n" for one in modules)
    used = [name for name in _FROM_MATH if any(re.search(rf"\b{name}\b", one.source) for one in modules)]
    torch = "import torch\n" if any("torch." in one.source for one in modules) else ""
    math = f"from math import {', '.join(used)}\n\n" if used else ""
    return (
        f'"""What the model of {factory} does outside of its modules, as modules that a recipe can name.\n\n'
        "Made by mmdeploy init with torch.fx, which chose the names of the variables. On the samples tried it\n"
        'answers as the model does. Change it at will.\n"""\n\n'
        f"{math}{torch}{imported}\nfrom torch import nn\n\n\n" + "\n\n".join(classes) + "\n\ndef build():\n"
        '    """Return the model, with these modules beside its own."""\n'
        f"    model = build_model()\n{added}    return model\n"
    )


def _reached(path: str) -> str:
    """Return the code that reaches a path in ``model``: what a list of modules holds has numbers for names."""
    text = "model"
    for name in path.split("."):
        text = f"{text}.{name}" if name.isidentifier() else f"getattr({text}, {name!r})"
    return text


def whole_text(factory: str) -> str | None:
    """Write a factory whose model has the whole model as its one part; None where it cannot be imported."""
    imported = import_line(factory, "build_model")
    if imported is None:
        return None
    return (
        f'"""The model of {factory} as one component: recipes name modules inside of a model. By mmdeploy init."""'
        f"\n\n{imported}\nfrom torch import nn\n\n\n"
        'def build():\n    """Return the model as the part `model` of another."""\n'
        '    return nn.ModuleDict({"model": build_model()})\n'
    )


def import_line(reference: str, name: str) -> str | None:
    """Return the line that imports what a reference names; None where no import says it."""
    place, _, own = reference.rpartition(":")
    module = place.removesuffix(".py").replace("/", ".")
    if not all(part.isidentifier() for part in module.split(".")):
        return None
    return f"from {module} import {own} as {name}"
