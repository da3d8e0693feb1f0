"""States on disk: safetensors with the rule's hash, so that another rule's state is refused."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ruledsl.runtime.errors import StateError

FORMAT = "ruledsl-state-1"


def save(path: str | os.PathLike[str], state: Mapping[str, Tensor], rule_hash: str, layout: str) -> None:
    """`layout` is the rule's card, for people; the hash decides."""
    tensors = {key: x.detach().contiguous().clone() for key, x in state.items()}
    save_file(tensors, os.fspath(path), metadata={"format": FORMAT, "rule": rule_hash, "layout": layout})


def load(path: str | os.PathLike[str], rule_hash: str, device: torch.device | str) -> dict[str, Tensor]:
    """Raises StateError for a file that is damaged or another rule's, OSError for one that cannot be read."""
    try:
        return _load(path, rule_hash, device)
    except SafetensorError as error:
        raise StateError(f"{os.fspath(path)}: not a saved state: {error}") from None


def _load(path: str | os.PathLike[str], rule_hash: str, device: torch.device | str) -> dict[str, Tensor]:
    with safe_open(os.fspath(path), framework="pt", device=str(device)) as file:
        about = file.metadata() or {}
        if about.get("format") != FORMAT:
            raise StateError(f"{os.fspath(path)}: not a saved state")
        if about.get("rule") != rule_hash:
            raise StateError(f"{os.fspath(path)}: the state of another rule:\n{about.get('layout', '')}")
        return {key: file.get_tensor(key) for key in file.keys()}
