"""Merges runs of `clip_towers.py` and says where what ``engine: auto`` ships stands among all that was measured.

Each run has ONNX Runtime FP32 in it, and a figure is a ratio to that within its own run, so runs of other variants, at
other times, can stand in one table. A variant that several runs have is taken from the one of most rounds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from clip_variants import S8, U8, U8S, VARIANTS, Variant

from mmdeploy.core.target import Target
from mmdeploy.engines import METHODS, SLOW_TO_BUILD

#: How much faster another may be for what ships to count as the fastest, too.
WITHIN = 0.03
#: Graphs of `clip_variants` that a recipe with ``quantize: {method: static}`` gives ``engine: auto``.
_GRAPHS = {"fp32": "float", "u8": "quantized", "u8s": "quantized", "s8": "quantized"}


def merged(files: Sequence[Path]) -> dict[str, Any]:
    """Return one set of figures from several, rows in the order in which they first come."""
    together: dict[str, Any] = {"machine": {}, "missing": {}, "towers": {}}
    for file in files:
        one = json.loads(file.read_text())
        together["machine"] |= one["machine"]
        together["missing"] |= one.get("missing", {})
        for tower, found in one["towers"].items():
            rows = together["towers"].setdefault(tower, {"load": [], "rows": {}})
            rows["load"].append(found["load"])
            for row in found["rows"]:
                known = rows["rows"].get(row["name"])
                if known is None or known["rounds"] < one["rounds"]:
                    rows["rows"][row["name"]] = row | {"rounds": one["rounds"]}
    for tower in together["towers"].values():
        tower["rows"] = list(tower["rows"].values())
    return together


def candidates(variants: Sequence[Variant] = VARIANTS) -> set[str]:
    """Return the names of the variants that ``engine: auto`` measures on a CPU, one thread."""
    tried = {
        (method, variant.graph, _identity(variant.options))
        for method in METHODS.built_in
        if method not in SLOW_TO_BUILD
        for variant in METHODS[method].candidates(Target.CPU)
    }
    return {one.name for one in variants if one.engine in METHODS and one.graph in _GRAPHS and _as_tried(one) in tried}


def standing(rows: Sequence[Mapping[str, Any]], ships: str | None) -> str:
    """Say in a sentence whether what ships is as fast as the fastest; ``by processor time`` decides.

    Args:
        rows: Of one tower.
        ships: What ``engine: auto`` was seen to ship; left out, the fastest of its candidates in these rows.
    """
    speed = {row["name"]: row["speed_processor_time"] for row in rows}
    tried = candidates() & speed.keys()
    shipped = ships or max(tried, key=speed.__getitem__)
    best = max(speed, key=speed.__getitem__)
    gap = speed[best] / speed[shipped] - 1
    what = "ships" if ships else "would ship, the fastest of its candidates here,"
    verdict = f"within {WITHIN:.0%} of" if gap <= WITHIN else f"{gap:.0%} behind"
    ours, theirs = (f"{name} ({speed[name]:.2f})" for name in (shipped, best))
    return f"what `engine: auto` {what} is {ours}: {verdict} the best, {theirs}"


def page(figures: Mapping[str, Any], ships: Mapping[str, str]) -> Iterator[str]:
    """Give the lines of a page: a table a tower, the verdict, what is missing."""
    tried, machine = candidates(), dict(figures["machine"])
    cores, isa = machine.pop("cores", "?"), ", ".join(machine.pop("isa", ()))
    told = [f"{name} {value}" for name, value in machine.items()]
    yield f"{', '.join(told)}; {cores} cores with {isa}. `*`: a candidate of `engine: auto`.\n"
    for tower, found in figures["towers"].items():
        yield f"## {tower} tower\n"
        yield "| variant | by the clock | quartiles | by processor time | cosine | MiB | rounds |"
        yield "|---|---|---|---|---|---|---|"
        for row in found["rows"]:
            low, high = row["quartiles"]
            name = f"{row['name']}{' *' if row['name'] in tried else ''}"
            yield (
                f"| {name} | {row['speed']:.2f} | {low:.2f}–{high:.2f} | {row['speed_processor_time']:.2f} "
                f"| {row['cosine']:.5f} | {row['mib']:.0f} | {row['rounds']} |"
            )
        yield f"\n**{standing(found['rows'], ships.get(tower))}.**\n"
    for name, why in figures["missing"].items():
        yield f"- {name}: not measured; {why}."


def _as_tried(variant: Variant) -> tuple[str, str, str]:
    options = variant.options or METHODS[variant.engine].Options()
    encoding = {"u8s": U8S, "u8": U8, "s8": S8}.get(variant.graph)
    if encoding is not None and METHODS[variant.engine].encoding(options) is not encoding:
        options = options.model_copy(update={"encoding": encoding})
    return variant.engine, _GRAPHS[variant.graph], _identity(options)


def _identity(options: Any) -> str:
    return json.dumps(options.model_dump(mode="json"), sort_keys=True)
