"""A Ray cluster of two nodes on loopback, the second of which can be killed."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from free_ports import free_port

QUICK = {"initial_delay_ms": 500, "period_ms": 500, "failure_threshold": 6}
_AGENTS = ("metrics_agent_port", "metrics_export_port", "runtime_env_agent_port", "dashboard_agent_listen_port")


class TwoNodes:
    """The cluster; each node has a cache of its own."""

    def __init__(self, cluster: Any, folder: Path, environment: dict[str, str]) -> None:
        self.cluster, self.folder, self.environment, self.count = cluster, folder, environment, 0
        quick = {
            "health_check_initial_delay_ms": 500,
            "health_check_period_ms": 500,
            "health_check_failure_threshold": 4,
        }
        self.client_port = free_port()
        self.head = self.add(_system_config=quick, include_dashboard=False, ray_client_server_port=self.client_port)
        self.second = self.add()

    @property
    def client_address(self) -> str:
        return f"ray://127.0.0.1:{self.client_port}"

    def add(self, *, pythonpath: str = "", **more: Any) -> Any:
        variables = {**self.environment, "MMDEPLOY_CLUSTER_CACHE": str(self.cache(self.count))}
        if pythonpath:
            variables["PYTHONPATH"] = f"{pythonpath}:{variables['PYTHONPATH']}"
        self.count += 1
        ports = {name: free_port() for name in _AGENTS}  # those that are given are not waited for
        return self.cluster.add_node(num_cpus=1, node_ip_address="127.0.0.1", env_vars=variables, **ports, **more)

    def cache(self, number: int) -> Path:
        return self.folder / f"node{number}"


def ray_environment(folder: Path) -> dict[str, str]:
    """Return what Ray's processes are started with: no statistics are sent, and everything listens on loopback.

    A checker of formats that only the tests' tools need takes seconds to import, and each process of Ray would do so.
    """
    without = folder / "without"
    without.mkdir(exist_ok=True)
    (without / "rfc3987_syntax.py").write_text("raise ImportError('slow to import, and not needed by Ray')\n")
    return {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "PYTHONPATH": f"{without}:{Path(__file__).parents[2]}",
    }


@contextlib.contextmanager
def two_nodes(folder: Path, environment: dict[str, str]) -> Iterator[TwoNodes]:
    """Start the cluster; give it, and end all of it."""
    environment = environment | ray_environment(folder)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        from ray.cluster_utils import Cluster

        cluster = Cluster()
        try:
            yield TwoNodes(cluster, folder, environment)
        finally:
            cluster.shutdown()
