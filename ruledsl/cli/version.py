"""`ruledsl version`."""

from __future__ import annotations


def version() -> None:
    """Print the version."""
    from ruledsl import __version__

    print(f"ruledsl {__version__}")
