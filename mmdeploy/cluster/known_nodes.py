"""The nodes that a cluster has now, each asked once what it is."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mmdeploy.cluster.nodes import Facts, Node, facts_here

logger = logging.getLogger(__name__)

#: Seconds that a node has to say what it is; a process is started there for it.
_PATIENCE_S = 90.0


def on_node(*ids: str) -> dict[str, str]:
    """Return Ray's label selector for some nodes."""
    return {"ray.io/node-id": f"in({','.join(ids)})" if len(ids) > 1 else ids[0]}


class KnownNodes:
    """The nodes of the cluster that this process is connected to.

    Attributes:
        here: The machine that the build was started on.
    """

    def __init__(self, wanted: tuple[tuple[str, ...], tuple[str, ...]], *, own: bool) -> None:
        """Take what keys are made of.

        Args:
            wanted: What is compared: see `mmdeploy.cluster.nodes.wanted_of`.
            own: Whether the cluster is this very machine, which need not be asked.
        """
        self._wanted, self._own = wanted, own
        self.here = facts_here(*self._wanted)
        self._known: dict[str, Node] = {}

    def alive(self) -> tuple[Node, ...]:
        """Return the nodes that are up; those that joined since are asked what they are."""
        import ray

        up: dict[str, Mapping[str, Any]] = {one["NodeID"]: one for one in ray.nodes() if one["Alive"]}
        asked = {}
        for node_id in [one for one in up if one not in self._known]:
            if self._own:
                self._known[node_id] = _node(up[node_id], self.here)
                continue
            ask = ray.remote(max_calls=1, max_retries=0)(facts_here)
            asked[node_id] = ask.options(num_cpus=0, label_selector=on_node(node_id)).remote(*self._wanted)
        for node_id, answer in asked.items():
            self._known[node_id] = self._told(up[node_id], answer)
        return tuple(node for node_id, node in self._known.items() if node_id in up)

    def elsewhere(self) -> list[str]:
        """Return the names of the nodes that do not see this machine's processes and files."""
        return sorted({one.facts.name for one in self.alive() if one.facts.place != self.here.place})

    def _told(self, up: Mapping[str, Any], answer: Any) -> Node:
        import ray

        name = f"{up.get('NodeManagerHostname') or up.get('NodeManagerAddress')}"
        nothing = Facts(name, (), "", "it could not be asked", "", (), {}, {})
        try:
            facts: Facts = ray.get(answer, timeout=_PATIENCE_S)
        except ray.exceptions.GetTimeoutError:
            ray.cancel(answer, force=True)
            return replace(_node(up, nothing), refused="it does not answer")
        except ray.exceptions.RayError as error:
            text = str(error)
            told = "mmdeploy is not installed there" if "No module named" in text else text.strip().splitlines()[-1]
            return replace(_node(up, nothing), refused=told)
        differs = self.here.unlike(facts)
        if differs:
            logger.warning("node %s takes no steps: %s", facts.name, differs)
        return replace(_node(up, facts), refused=differs)


def _node(up: Mapping[str, Any], facts: Facts) -> Node:
    resources = up.get("Resources", {})
    return Node(
        id=up["NodeID"],
        cores=int(resources.get("CPU", 0)),
        gpus=int(resources.get("GPU", 0)),
        memory_bytes=int(resources.get("memory", 0)),
        facts=facts,
    )
