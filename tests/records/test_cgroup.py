import os

import pytest

from harness.records import cgroup, environment


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Writes a tree of groups and this process's place in it."""

    def write(membership, files):
        mount = tmp_path / "cgroup"
        for name, content in files.items():
            path = mount / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{content}\n")
        (tmp_path / "self").write_text(membership + "\n")
        monkeypatch.setattr(cgroup, "MOUNT", mount)
        monkeypatch.setattr(cgroup, "MEMBERSHIP", tmp_path / "self")

    return write


NESTED = {
    "cgroup.controllers": "cpu memory",
    "slurm/job/cpu.max": "400000 100000",
    "slurm/job/memory.max": str(8 << 30),
    "slurm/job/step/cpu.max": "max 100000",
    "slurm/job/step/memory.max": "max",
    "slurm/job/step/memory.events": "low 0\nhigh 0\nmax 7\noom 3\noom_kill 2\noom_group_kill 0",
    "slurm/job/memory.events": "oom_kill 9",
}


def test_the_tightest_group_on_the_way_up_decides(tree):
    tree("0::/slurm/job/step", NESTED)
    assert cgroup.cores() == 4.0
    assert cgroup.memory_bytes() == 8 << 30
    tree("0::/slurm/job/step", {"slurm/job/step/cpu.max": "150000 100000", "slurm/job/step/memory.max": "1000"})
    assert cgroup.cores() == 1.5
    assert cgroup.memory_bytes() == 1000


def test_kills_are_those_of_the_innermost_group(tree):
    tree("0::/slurm/job/step", NESTED)
    assert cgroup.oom_kills() == 2


def test_a_container_sees_its_own_group_as_the_root(tree):
    tree("0::/", {"cgroup.controllers": "cpu", "cpu.max": "200000 100000", "memory.max": "12345"})
    assert (cgroup.cores(), cgroup.memory_bytes()) == (2.0, 12345)


def test_a_path_of_the_host_that_a_container_cannot_see_falls_back_to_the_root(tree):
    tree("0::/docker/0123abcd", {"cgroup.controllers": "cpu", "cpu.max": "200000 100000"})
    assert cgroup.cores() == 2.0
    tree("0::/../../escape", {"cpu.max": "300000 100000"})
    assert cgroup.cores() == 3.0


def test_version_1_with_a_folder_per_controller(tree):
    tree(
        "9:name=systemd:/\n4:memory:/job\n2:cpu,cpuacct:/job\n0::/",
        {
            "memory/memory.limit_in_bytes": str((1 << 63) - 4096),
            "memory/job/memory.limit_in_bytes": "5000000",
            "memory/job/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 4",
            "cpu,cpuacct/cpu.cfs_quota_us": "-1",
            "cpu,cpuacct/cpu.cfs_period_us": "100000",
            "cpu,cpuacct/job/cpu.cfs_quota_us": "250000",
            "cpu,cpuacct/job/cpu.cfs_period_us": "100000",
        },
    )
    assert (cgroup.cores(), cgroup.memory_bytes(), cgroup.oom_kills()) == (2.5, 5_000_000, 4)


def test_no_limits_and_no_groups(tree):
    tree("0::/", {"cgroup.controllers": "cpu memory"})
    assert (cgroup.cores(), cgroup.memory_bytes(), cgroup.oom_kills()) == (None, None, 0)
    tree("", {})
    assert (cgroup.cores(), cgroup.memory_bytes(), cgroup.oom_kills()) == (None, None, 0)


@pytest.mark.parametrize(("quota", "cores"), [("250000", 2), ("50000", 1), ("max", 4), ("6400000", 4)])
def test_usable_cores_are_whole_and_within_quota_and_affinity(tree, monkeypatch, quota, cores):
    tree("0::/", {"cgroup.controllers": "cpu", "cpu.max": f"{quota} 100000"})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
    assert environment.usable_cores() == cores


def test_memory_is_the_machines_or_the_groups(tree):
    tree("0::/", {"cgroup.controllers": "memory"})
    whole = environment.memory_bytes()
    tree("0::/a", {"a/memory.max": str(whole // 2)})
    assert environment.memory_bytes() == whole // 2
    tree("0::/a", {"a/memory.max": str(whole * 2)})
    assert environment.memory_bytes() == whole
