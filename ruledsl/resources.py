"""Where the data folders are, and how the text of a rule is read.

`data_dir("grammars")` is found from a wheel (which packs the folder as `ruledsl/_data/grammars`), from an editable
install and from a plain checkout (where it stands next to the package).
"""

from __future__ import annotations

import os
from pathlib import Path

from ruledsl.lang.diagnostic import Diagnostic, RuleError
from ruledsl.lang.source import Source, Span

MAX_BYTES = 100_000  # of a rule text; the longest rule of the collection has 1,200
_LONGEST_PATH = 4096
_PACKAGE = Path(__file__).resolve().parent


def data_dir(name: str) -> Path:
    """The folder `name` ("grammars" or "rules"); FileNotFoundError when the installation lacks it."""
    for folder in (_PACKAGE / "_data" / name, _PACKAGE.parent / name):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"ruledsl is installed without its {name} folder: {_PACKAGE / '_data' / name}")


def load_source(rule: str | os.PathLike[str]) -> Source:
    """The Source of a path, or of the text itself. A string is text when it has several lines, or when it is no
    file and has a `=`. At most MAX_BYTES are read. Raises RuleError for what cannot be read as UTF-8 text."""
    if isinstance(rule, str):
        no_path = "\n" in rule or "\0" in rule or len(rule) > _LONGEST_PATH
        if no_path or ("=" in rule and not _is_file(rule)):
            return Source(rule.removeprefix("\ufeff"))
        if not rule.strip():
            return Source(rule)
    return _read(Path(rule))


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except OSError:  # longer than a file name can be
        return False


def _read(path: Path) -> Source:
    name = str(path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        hint = f"is it one of these? {', '.join(near)}" if (near := _neighbours(path)) else "give the path of a rule, or the text of one"
        raise RuleError(Source("", name), [Diagnostic("RD121", f"cannot read `{name}`: {error.strerror}", Span(0, 0), hint=hint)]) from None
    return decode(data, name)


def decode(data: bytes, name: str) -> Source:
    """The Source of bytes that were read with one more than MAX_BYTES as the limit. Raises RuleError."""
    if len(data) > MAX_BYTES:
        where = f"the file is larger than {MAX_BYTES:,} bytes"
        raise RuleError(Source("", name), [Diagnostic("RD601", "this file is too large to be a rule", Span(0, 0), notes=(where,), hint="is it the right file?")])
    try:
        return Source(data.decode("utf-8").removeprefix("\ufeff"), name)
    except UnicodeDecodeError as error:
        raise RuleError(*_not_utf8(data, name, error)) from None


def _not_utf8(data: bytes, name: str, error: UnicodeDecodeError) -> tuple[Source, list[Diagnostic]]:
    at = len(data[: error.start].decode("utf-8"))
    utf16 = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    hint = "the file is UTF-16: save it as UTF-8" if utf16 else "save the file as UTF-8, or remove the character"
    label = f"byte 0x{data[error.start]:02x}"
    return Source(data.decode("utf-8", errors="replace"), name), [Diagnostic("RD113", "this file is not UTF-8 text", Span(at, at + 1), label, hint=hint)]


def _neighbours(path: Path) -> list[str]:
    """Rules with a similar name, next to `path` and in the collection."""
    from difflib import get_close_matches

    known: dict[str, str] = {}
    for folder in (path.parent, _PACKAGE / "_data" / "rules", _PACKAGE.parent / "rules"):
        if folder.is_dir():
            known |= {p.stem: str(p) for p in sorted(folder.glob("*.rule"))[:1000] if p.stem not in known}
    return [known[name] for name in get_close_matches(path.stem, known, n=3)]
