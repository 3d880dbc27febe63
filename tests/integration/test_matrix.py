"""``mmdeploy matrix`` on real builds: this machine's class is published, others are built or named, rows are kept."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mmdeploy.building.settings import Settings
from mmdeploy.core.errors import EXIT_INCONCLUSIVE
from mmdeploy.core.target import this_hardware
from mmdeploy.studies.classes import CPUS, read_classes
from mmdeploy.studies.matrix import run_matrix
from mmdeploy.studies.matrix_cell import ROW
from mmdeploy.studies.matrix_page import write_matrix

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("builds")]


def test_what_this_machine_can_is_built_and_what_others_judged_is_kept(
    tiny_recipe: Path, tmp_path: Path, shared_workdir: Path
) -> None:
    here = next((name for name, one in CPUS.items() if one.is_here(this_hardware(), ())), None)
    if here is None:
        pytest.skip("this machine's CPU is of no class that has a name")
    other = "cpu-avx2" if here == "cpu-amx" else "cpu-amx"
    output = tmp_path / "models"
    settings = Settings(workdir=shared_workdir, destination=output)
    classes = read_classes(f"{here},{other},sm80,sm89")
    overrides = ("gates=[]", "components.right.quantize=null", "name=rows")
    matrix = run_matrix(tiny_recipe, overrides, classes, settings)
    rows = {row.name: row for row in matrix.rows}
    assert [row.status for row in matrix.rows] == ["pass", "inconclusive", "absent", "inconclusive"]
    assert matrix.exit_code == EXIT_INCONCLUSIVE
    assert (output / here / "rows" / "rows.left" / "1" / "model.onnx").is_file()
    assert sorted(path.name for path in output.iterdir()) == [here], "nothing is published that nobody judged"
    engines = (rows[other].engines, rows["sm89"].engines)
    assert engines == (("onnxruntime",), ("tensorrt_rtx",))
    assert (Path(rows["sm89"].staged) / "rows.left" / "1" / "model.plan").is_file()
    assert rows["sm80"].reason.startswith("needs a machine of this class: tensorrt builds on the GPU")
    assert rows[other].figures["bytes"] == rows[here].figures["bytes"], "the same bytes; speed is another matter"

    # What a machine of the other class wrote into the shared folder.
    written = matrix.folder / other / ROW
    elsewhere = {
        **json.loads(written.read_text()),
        "status": "fail",
        "machine": "a Xeon",
        "reason": "latency: too slow",
    }
    written.write_text(json.dumps(elsewhere))
    asked = classes[1:3]
    again = run_matrix(tiny_recipe, overrides, asked, replace(settings, publish_unverified=True))
    assert (again.rows[0].status, again.rows[0].machine) == ("fail", "a Xeon")
    assert again.rows[1].status == "absent"
    pages = write_matrix(again)
    assert "| cpu-" in pages["md"].read_text() and "a Xeon" in pages["html"].read_text()
    changed = run_matrix(tiny_recipe, (*overrides, "seed=3"), asked[:1], replace(settings, publish_unverified=True))
    assert (changed.rows[0].status, changed.rows[0].machine) == ("inconclusive", ""), "it was of another recipe"
    assert (output / other / "rows").is_dir()

    chosen_there = (*overrides, "components.left.keep=if_it_pays")
    (row,) = run_matrix(tiny_recipe, chosen_there, asked[:1], settings).rows
    assert row.status == "absent" and "chosen by measuring there (left)" in row.reason
    compiled = ("gates=[]", "components.left.quantize=null", "components.left.engine={method: aot_inductor}")
    (row,) = run_matrix(tiny_recipe, (*overrides, *compiled), asked[:1], settings).rows
    assert row.status == "absent" and "compiled for the machine (left)" in row.reason
