"""The folder of a run, and the link to the latest."""

from mmdeploy.building.run_folder import run_folder

FIRST, SECOND = "20260101-000000-aaaaaa", "20260102-000000-bbbbbb"


def test_latest_points_to_the_newest(tmp_path):
    for run in (FIRST, SECOND):
        assert run_folder(tmp_path, "recipe", run) == tmp_path / "runs" / "recipe" / run
    assert (tmp_path / "runs" / "recipe" / "latest").resolve().name == SECOND


def test_a_folder_in_place_of_the_link_is_set_aside_whole(tmp_path):
    latest = tmp_path / "runs" / "recipe" / "latest"
    latest.mkdir(parents=True)
    (latest / "report.json").write_text("{}")
    run_folder(tmp_path, "recipe", FIRST)
    assert latest.readlink().name == FIRST
    assert (latest.parent / f"latest-before-{FIRST}" / "report.json").read_text() == "{}"


def test_only_the_oldest_runs_go(tmp_path):
    runs = tmp_path / "runs" / "recipe"
    (runs / "00_mine").mkdir(parents=True)
    for day in range(10, 22):
        run_folder(tmp_path, "recipe", f"202601{day}-000000-aaaaaa")
    left = sorted(path.name for path in runs.iterdir())
    assert left == ["00_mine", *(f"202601{day}-000000-aaaaaa" for day in range(12, 22)), "latest"]
