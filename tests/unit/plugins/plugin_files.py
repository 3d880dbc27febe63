"""Plug-ins as users write them: in a file, and in a distribution that lies on the path as pip would lay it."""

from pathlib import Path

GATE = '''"""Gates of this recipe."""

from pydantic import Field

from mmdeploy.core.contracts import Check, GateResult, MethodOptions, Verdict


class lenient:
    """Says yes."""

    class Options(MethodOptions):
        """Limits.

        Attributes:
            limit: A number.
            tries: Another.
        """

        limit: float = Field(gt=0)
        tries: int = 3

    @staticmethod
    def check(options, evidence):
        return GateResult("whatever", (Check("a", 1.0, f"<= {options.limit:g}", Verdict.PASS),))
'''
PASS = '''"""Passes of this recipe."""

from mmdeploy.core.contracts import MethodOptions


class copy:
    """Copies a graph."""

    CONSUMES, PRODUCES = "onnx", "onnx"
    REQUIRES = ("onnx",)

    class Options(MethodOptions):
        """None at all."""

    @staticmethod
    def run(artifact, options, context):
        raise NotImplementedError
'''
ENGINE = '''"""Engines of this recipe."""

from mmdeploy.core.contracts import MethodOptions, Variant


class eager:
    """PyTorch itself."""

    CONSUMES, PRODUCES = "torch", "eager"
    BACKEND, FILENAME = "python", "model.py"

    class Options(MethodOptions):
        """None but this.

        Attributes:
            threads: Of an operator.
        """

        threads: int = 1

    @staticmethod
    def candidates(target, *, threads=1):
        return (Variant(eager.Options()),)

    @staticmethod
    def run(artifact, options, context): ...

    @staticmethod
    def load(artifact, options): ...
'''


def distribution(folder: Path, name: str, version: str, groups: dict[str, dict[str, str]]) -> None:
    """Lay the metadata of an installed distribution with entry points into a folder that is on the path."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = []
    for group, points in groups.items():
        lines += [f"[mmdeploy.{group}]", *(f"{point} = {value}" for point, value in points.items()), ""]
    (info / "entry_points.txt").write_text("\n".join(lines))
