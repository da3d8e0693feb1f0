"""`--sizes K=128,V=128,H=16,T=4096,B=8`."""

from __future__ import annotations

from difflib import get_close_matches

from ruledsl.cli.exits import Exit, Stop

RUN = {"B": 8, "T": 4096, "H": 16, "C": 64}  # batch, tokens, heads, chunk length
DEFAULT = 128  # of a size of the rule
MOST = 2**40


def sizes(text: str) -> dict[str, int]:
    """Raises Stop for what is no list of whole numbers."""
    out: dict[str, int] = {}
    for piece in text.replace(" ", ",").split(","):
        if not piece:
            continue
        name, equals, value = piece.partition("=")
        if not equals or not name.isidentifier():
            raise Stop(Exit.USAGE, f"--sizes: `{piece}` is not NAME=NUMBER, as in --sizes K=128,V=128")
        if not value.isdecimal() or not 0 < int(value[:20]) <= MOST:
            raise Stop(Exit.USAGE, f"--sizes: {name} must be a whole number above 0, not `{value}`")
        if name in out:
            raise Stop(Exit.USAGE, f"--sizes: {name} is given twice")
        out[name] = int(value)
    return out


def check_names(given: dict[str, int], known: set[str]) -> None:
    """Raises Stop for a size that no rule has. `known`: the sizes of all rules that are checked."""
    for name in given:
        if name not in known and name not in RUN:
            near = get_close_matches(name, sorted(known | set(RUN)), n=1, cutoff=0.5) or [
                k for k in sorted(known | set(RUN)) if k.lower() == name.lower()
            ]
            meant = f"; did you mean {near[0]}?" if near else ""
            have = ", ".join(sorted(known)) or "none"
            raise Stop(
                Exit.USAGE,
                f"--sizes: no rule has a size {name}{meant} The sizes: {have}; and B (batch), T (tokens), H (heads), C (chunk)",
            )
