"""Cores that a process may use, by the quota of its control groups."""

from types import SimpleNamespace

import pytest

from mmdeploy.building.crew import Crew
from mmdeploy.core.target import _cgroup_quota, usable_cores, usable_threads
from mmdeploy.planning.kinds import EXPORT, SAMPLES, SELECT


@pytest.fixture
def groups(tmp_path):
    def write(membership: str, files: dict[str, str]):
        for name, text in files.items():
            (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "root" / name).write_text(text)
        (tmp_path / "membership").write_text(membership)
        return _cgroup_quota(tmp_path / "root", tmp_path / "membership")

    return write


@pytest.mark.parametrize(
    ("membership", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {}, None),
        ("0::/a/b\n", {"cpu.max": "400000 100000", "a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000"}, 2.0),
        ("0::/not/seen/from/here\n", {"cpu.max": "300000 100000"}, 3.0),
        ("4:cpu,cpuacct:/a\n3:memory:/a\n",
         {"cpu,cpuacct/a/cpu.cfs_quota_us": "50000\n", "cpu,cpuacct/a/cpu.cfs_period_us": "100000\n"}, 0.5),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ("0::/\n", {"cpu.max": "nonsense"}, None),
    ],
)  # fmt: skip
def test_the_tightest_quota_counts(groups, membership, files, quota):
    assert groups(membership, files) == quota


def test_there_is_always_a_core(monkeypatch):
    for quota, cores in ((0.1, 1), (1.5, 2), (64.0, 4), (None, 4)):
        monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3})
        monkeypatch.setattr("mmdeploy.core.target._cgroup_quota", lambda *_, quota=quota: quota)
        assert usable_cores() == cores


def test_steps_take_no_more_threads_than_they_are_allowed(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr("mmdeploy.core.target._cgroup_quota", lambda *_: None)
    for asked, threads in (("2", 2), ("3,1", 3), ("64", 4), ("0", 4), ("many", 4), ("", 4)):
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
        assert usable_threads() == threads
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    plain, measures = SimpleNamespace(exclusive=False, sort=EXPORT), SimpleNamespace(exclusive=True, sort=SELECT)
    assert [Crew(None, jobs, None).threads(plain, beside=0) for jobs in (1, 2, 4)] == [2, 2, 1]
    assert Crew(None, 1, None).threads(measures, beside=0) == 4


def test_a_set_of_samples_takes_the_cores_that_are_free(monkeypatch):
    monkeypatch.setattr("mmdeploy.building.crew.usable_cores", lambda: 8)
    monkeypatch.setattr("mmdeploy.building.crew.usable_threads", lambda: 6)
    samples, plain = SimpleNamespace(exclusive=False, sort=SAMPLES), SimpleNamespace(exclusive=False, sort=EXPORT)
    assert [Crew(None, 4, None).threads(samples, beside) for beside in (0, 1, 2, 20)] == [6, 4, 2, 1]
    assert Crew(None, 4, None).threads(plain, beside=0) == 2, "others give the same wherever they run"
    assert Crew(None, 4, at_once=9).threads(samples, beside=0) == 2, "nodes of a cluster are not this machine"
