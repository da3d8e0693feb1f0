"""A schedule as text for people: what was decided and why, then each pass by phases. Deterministic."""

from __future__ import annotations

from collections import Counter

from ruledsl.chunk.shapes import shape_text
from ruledsl.schedule.labels import Label
from ruledsl.schedule.plan import Pass, Schedule

_PRODUCTS = ("dot", "gram", "gram_apply", "chain_gram", "chain_apply", "chain_gate", "inverse", "solve", "scan")


def text(schedule: Schedule) -> str:
    """The whole schedule."""
    saved = ", ".join(f"{key} entering each chunk" for key in schedule.saved) or "nothing"
    lines = [
        f"device   {schedule.device}",
        f"chunk    {schedule.chunk} tokens",
        f"serial   {schedule.form.value}",
        f"saved    {saved}",
        f"because  {schedule.reason}",
    ]
    for name, own in (("forward", schedule.forward), ("backward", schedule.backward)):
        lines += ["", f"{name}: {len(own.program.nodes)} nodes"]
        for label in Label:
            lines += _phase(own, label)
    return "\n".join(lines) + "\n"


def _phase(own: Pass, label: Label) -> list[str]:
    nodes = own.phase(label)
    counts = Counter(n.op for i in nodes if (n := own.program.nodes[i]).op in _PRODUCTS)
    products = ", ".join(f"{counts[op]} {op}" for op in _PRODUCTS if counts[op]) or "no products"
    lines = [f"  {label.value:<7} {len(nodes):>3} nodes, {products}"]
    if label is Label.SERIAL:
        for i in nodes:
            node = own.program.nodes[i]
            what = f"{node.op} {node.attr}" if node.op == "map" else node.op
            lines.append(
                f"            %{i} : {shape_text(node.shape)} = {what} {' '.join(f'%{a}' for a in node.args)}".rstrip()
            )
        lines += [f"            {c.key} leaves as %{c.leave}" for c in own.carries]
        if own.kept:
            lines.append("            kept: " + ", ".join(f"%{i}" for i in own.kept))
    return lines
