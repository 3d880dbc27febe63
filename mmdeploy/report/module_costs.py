"""What pruning took away: parameters and FLOPs of each component before and after, as rows of a table."""

from __future__ import annotations

from mmdeploy.build_report import BuildReport, CostRecord
from mmdeploy.costs import Costs
from mmdeploy.report.wording import TOTAL

HEAD = ("Parameters", "Not zero", "FLOPs of a sample")
_SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def changed(report: BuildReport) -> list[CostRecord]:
    """Return what modules cost, and the total, where anything was changed; nothing where nothing was."""
    records = list(report.costs)
    if all(record.reference == record.candidate for record in records):
        return []
    if len(records) > 1:
        reference, candidate = ([getattr(record, side) for record in records] for side in ("reference", "candidate"))
        records.append(CostRecord(component=TOTAL, reference=_summed(reference), candidate=_summed(candidate)))
    return records


def cells(record: CostRecord) -> tuple[str, ...]:
    """Return a record as cells below `HEAD`, each such as ``659 k → 412 k (0.63)``."""
    before, after = record.reference, record.candidate
    return (
        _change(before.parameters, after.parameters),
        _change(before.nonzero_parameters, after.nonzero_parameters),
        _change(before.flops, after.flops),
    )


def count_text(count: int) -> str:
    """Return a count in three digits, such as ``1.96 M``."""
    for scale, prefix in _SCALES:
        if count >= scale * 0.9995:
            value = count / scale
            return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {prefix}"
    return str(count)


def _change(before: int, after: int) -> str:
    if before == after:
        return count_text(before)
    ratio = f" ({after / before:.2f})" if before else ""
    return f"{count_text(before)} → {count_text(after)}{ratio}"


def _summed(found: list[Costs]) -> Costs:
    names = found[0].to_metadata()
    return Costs(**{name: sum(one.to_metadata()[name] for one in found) for name in names})
