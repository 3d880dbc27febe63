"""Print in which versions the running environment differs from the lock of its Python."""

import importlib.metadata
import sys
from pathlib import Path


def name_of(text: str) -> str:
    """Return a distribution's name as locks write it."""
    return text.lower().replace("_", "-").replace(".", "-")


lock = Path(__file__).parent / "locks" / f"py{sys.version_info.major}{sys.version_info.minor}.txt"
locked = dict(line.split("==") for line in lock.read_text().split() if "==" in line)
found = {name_of(one.name): one.version.partition("+")[0] for one in importlib.metadata.distributions()}
differing = {name: found[name] for name in sorted(found.keys() & locked.keys()) if found[name] != locked[name]}
print(f"{len(differing)} of {len(locked)} packages differ from {lock.relative_to(Path.cwd())}:")
for name, version in differing.items():
    print(f"  {name} {locked[name]} -> {version}")
for name in sorted(locked.keys() - found.keys()):
    print(f"  {name} {locked[name]} -> not installed")
