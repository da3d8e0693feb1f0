"""Names for sizes that nobody named, and the order of inferred names."""

from __future__ import annotations

from ruledsl.lang.dims import Size, Sizes, Unknown
from ruledsl.lang.scope import Entry, Scope
from ruledsl.lang.shapes import is_scalar
from ruledsl.lang.typed import Role

CUSTOM = {"q": "K", "k": "K", "r": "K", "v": "V", "h": "D", "x": "D"}  # the size that a vector of that name usually has
FIRST = ("q", "k", "v")
SPARE = ("N", "M", "D", "E", "F", "J", "L", "P", "Q", "R", "K", "V")


def label_sizes(scope: Scope, sizes: Sizes) -> None:
    """Bind every size that is left open in the inferred names to a name of its own: K for k and q, V for v, ..."""
    taken = set(scope.sizes) | set(scope.entries)

    def label(size: Size, wish: str | None) -> None:
        root = sizes.find(size)
        if isinstance(root, Unknown):
            numbered = (f"{letter}{i}" for i in range(2, 1000) for letter in SPARE)
            name = next(n for n in (*([wish] if wish else []), *SPARE, *numbered) if n not in taken)
            taken.add(name)
            sizes.bind(root, name)

    inferred = [e for e in scope.entries.values() if e.inferred]
    for entry in sorted(inferred, key=lambda e: list(CUSTOM).index(e.name) if e.name in CUSTOM else len(CUSTOM)):
        matrix = entry.name[0].isupper()
        label(entry.shape.rows, "V" if matrix else CUSTOM.get(entry.name))
        label(entry.shape.cols, "K" if matrix else None)


def ordered(scope: Scope, sizes: Sizes) -> list[Entry]:
    """States, inputs, params and consts in order of appearance; inferred inputs as q, k, v, then larger before smaller."""
    kept = [e for e in scope.entries.values() if e.role not in (Role.LET, Role.OUTPUT)]
    if not scope.open:
        return kept

    def key(entry: Entry) -> tuple[int, int, int]:
        role = 0 if entry.role is Role.STATE else 1
        first = FIRST.index(entry.name) if entry.name in FIRST and role else len(FIRST)
        return role, first, int(is_scalar(entry.shape, sizes) and not entry.shape.family)

    return sorted(kept, key=key)
