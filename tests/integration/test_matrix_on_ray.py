"""A matrix whose classes of hardware are those of nodes on Ray: a cluster of its own, with no step there before."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mmdeploy.building.settings import Settings
from mmdeploy.core.errors import UsageError
from mmdeploy.core.shared_store import SharedStore
from mmdeploy.core.target import this_hardware
from mmdeploy.studies.classes import CPUS, read_classes
from mmdeploy.studies.matrix import run_matrix
from mmdeploy.triton.staging import verify
from tests.integration.ray_nodes import TwoNodes, two_nodes
from tests.integration.s3_server import s3_server

URL = "s3://team/classes"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoNodes]:
    from s3fs import S3FileSystem

    with s3_server("team") as (environment, _), two_nodes(tmp_path_factory.mktemp("nodes"), environment) as running:
        S3FileSystem.clear_instance_cache()
        yield running
        S3FileSystem.clear_instance_cache()


def test_a_class_of_hardware_is_built_on_a_node_of_it_and_published_here(
    nodes: TwoNodes, tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = this_hardware()
    classes_here = [name for name, one in CPUS.items() if one.is_here(machine, ())]
    if not classes_here:
        pytest.skip("this machine's CPU is of no class that has a name")
    there = classes_here[0]
    here = replace(machine, cpu="another", isa=("i8mm",) if there != "cpu-i8mm" else ("amx_int8",))
    monkeypatch.setattr("mmdeploy.studies.matrix.this_hardware", lambda: here)
    overrides = ("gates=[]", "components.right.quantize=null", "name=rows")
    settings = Settings(workdir=tmp_path / "work", destination=tmp_path / "models", on=nodes.cluster.address)
    classes = read_classes(f"{there},sm80")
    with pytest.raises(UsageError, match=f"{there}: to be built on other nodes of the cluster, which need a place"):
        run_matrix(tiny_recipe, overrides, classes, settings)
    settings = replace(settings, shared=SharedStore(URL))
    matrix = run_matrix(tiny_recipe, overrides, classes, settings)
    built, missing = matrix.rows
    assert (built.status, built.machine) == ("pass", str(machine)), built.reason
    assert verify(Path(built.published)) == () and (Path(built.published) / "rows.left" / "1" / "model.onnx").is_file()
    assert Path(built.published) == settings.destination / there / "rows"
    assert (Path(built.staged) / "rows.left" / "1" / "model.onnx").is_file()
    assert (Path(built.report) / "report.html").is_file()
    assert not (settings.workdir / "store" / "entries").exists() or not any(
        one.suffix == ".onnx" for one in (settings.workdir / "store").rglob("*")
    ), "it was built there"
    assert missing.status == "absent"
    assert missing.reason.endswith(f"no node of the cluster is of this class (there are: {', '.join(classes_here)})")
    again = run_matrix(tiny_recipe, overrides, classes, settings)
    assert (again.rows[0].at, again.rows[0].published) == (built.at, built.published), "it was judged there already"
