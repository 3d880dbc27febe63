"""A cache plan holds on a real Triton, and a server that was warmed up answers its first clients from the cache."""

import json
from pathlib import Path

import numpy as np
import pytest

import mmdeploy
from mmdeploy.building.builder import Settings, run_build
from mmdeploy.caching.contents import Contents
from mmdeploy.caching.layout import Known, asked_ensemble, known_of
from mmdeploy.caching.trace import Content, Request, write_trace
from mmdeploy.caching.verify import linked_with_cache, verify
from mmdeploy.caching.warm import only_ensemble, warm_up
from mmdeploy.caching.zipf import Popularity, zipf_trace
from mmdeploy.cli import commands
from mmdeploy.cli.outcome import run
from mmdeploy.core.artifact import TensorSpec
from mmdeploy.core.errors import UsageError
from mmdeploy.record.observer import Silent
from mmdeploy.triton import server as triton_server
from mmdeploy.triton.http import ask_json
from mmdeploy.triton.repository import require_intact
from mmdeploy.triton.response_cache import RESERVED_BYTES

pytestmark = [pytest.mark.triton, pytest.mark.slow, pytest.mark.xdist_group("builds")]
POPULAR = {"a": Popularity(40, samples=True), "b": Popularity(400, exponent=0.6)}
SPECS = tuple(TensorSpec(name, "FP32", (8,)) for name in "ab")


@pytest.fixture
def built(tiny_recipe: Path, shared_workdir: Path):
    """The tiny recipe, and its release: unjudged."""
    loaded = mmdeploy.load_recipe(tiny_recipe, ("gates=[]",))
    outcome = run_build(loaded, Settings(workdir=shared_workdir, destination=tiny_recipe.parent / "pub"), Silent())
    assert outcome.report.published is not None
    return loaded, outcome.report.published


def hits(running, model: str) -> int:
    (stats,) = ask_json(f"{running.http_url}/v2/models/{model}/stats")["model_stats"]
    return int(stats["inference_stats"]["cache_hit"]["count"])


def test_a_plan_is_verified_on_the_release_that_it_leaves_alone(tiny_recipe, built, shared_workdir, capfd):
    _, release = built
    trace = tiny_recipe.with_name("requests.jsonl")
    write_trace(trace, zipf_trace(POPULAR, 250, seed=5))
    options = ["--trace", str(trace), "--output", str(release.parent), "--workdir", str(shared_workdir), "--verify"]
    assert run(commands, ["cache-plan", str(tiny_recipe), *options, "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["models"]["left"]["cost_source"].endswith("at 10 GFLOP/s")
    assert told["models"]["left"]["contents"] <= 40
    assert told["verified"]["agrees"]
    checked = {one["model"]: one for one in told["verified"]["models"]}
    assert all(one["lookups"] == 250 and one["points"] <= 5 for one in checked.values())
    assert checked["left"]["measured"] > 0.7
    require_intact([release])


def test_what_is_dropped_for_want_of_room_is_reckoned_within_five_points(built, tmp_path):
    recipe, release = built
    known = known_of(recipe, release, None, {})
    ensemble = asked_ensemble(recipe, known)
    requests = zipf_trace({name: Popularity(120, exponent=0.8) for name in "ab"}, 500, seed=11, together=0.4)
    cached = ("left", "right", "two_towers")
    room = RESERVED_BYTES + 45 * ensemble.models["left"].entry(1)  # of three sizes of entries, far too few
    found = verify(
        release, ensemble, requests, Contents(SPECS, folder=tmp_path),
        cached=cached, size_bytes=room, log=tmp_path / "triton.log",
    )  # fmt: skip
    rates = {one.model: (round(one.reckoned, 3), round(one.measured, 3)) for one in found.models}
    assert found.agrees, rates
    assert 0.1 < rates["left"][1] < 0.7


def test_a_server_that_was_warmed_up_answers_its_first_clients_from_the_cache(built, tmp_path):
    _, release = built
    random = np.random.default_rng(0)
    arrays = {name: random.standard_normal(8).astype(np.float32) for name in ("one", "two", "rare")}
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    asked = [("rare", "rare"), ("one", "two"), ("two", "two"), ("one", "two"), ("two", "two")]
    trace = [
        Request(float(at), {name: (Content("file", f"{file}.npy"),) for name, file in zip("ab", files, strict=True)})
        for at, files in enumerate(asked)
    ]
    write_trace(tmp_path / "popular.jsonl", [*trace, Request(9.0, {name: (Content("hash", "x"),) for name in "ab"})])
    folder = tmp_path / "cached"
    folder.mkdir()
    linked_with_cache(release, folder, {"two_towers"})
    assert only_ensemble([folder]) == "two_towers"
    with triton_server.start([folder], log=tmp_path / "triton.log", response_cache_bytes=1 << 20) as running:
        runner = running.runner("two_towers")
        warmed = warm_up(runner, tmp_path / "popular.jsonl", most=2)
        assert (warmed.asked, warmed.left_out, warmed.refused) == (2, 1, ())
        before = hits(running, "two_towers")
        for name, expected in (("one", 1), ("two", 2), ("rare", 2)):
            other = "rare" if name == "rare" else "two"
            runner.infer({"a": arrays[name][None], "b": arrays[other][None]})
            assert hits(running, "two_towers") - before == expected
        write_trace(tmp_path / "hashes.jsonl", [Request(0.0, {"a": (Content("hash", "x"),)})])
        with pytest.raises(UsageError, match="no request names files"):
            warm_up(runner, tmp_path / "hashes.jsonl", most=1)
        runner.close()


def test_known_sizes_come_from_the_release_or_the_user(built):
    recipe, release = built
    with pytest.raises(UsageError, match=r"size of an answer of 'left' is not known: its outputs are declared nowhere"):
        asked_ensemble(recipe, known_of(recipe, None, None, {}))
    with pytest.raises(UsageError, match=r"'lefd' is no model of the recipe; did you mean 'left'"):
        known_of(recipe, None, None, {"lefd": 1})
    told = asked_ensemble(recipe, known_of(recipe, None, None, {"left": 64, "right": 64})).models["left"]
    released = asked_ensemble(recipe, known_of(recipe, release, None, {})).models["left"]
    assert told.row_bytes == released.row_bytes == 64
    assert isinstance(known_of(recipe, release, None, {}), Known)
