"""Damage to files that knows nothing of their format."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

Random = np.random.Generator
# Headers and footers are a small part of a file and the part that its reader trusts.
_EDGE = 400


def random_of(kind: str, index: int) -> Random:
    """The source of everything random in a case."""
    return np.random.default_rng([zlib.crc32(kind.encode()), index])


def _place(raw: bytes, random: Random) -> int:
    if not raw:
        return 0
    near = int(random.integers(min(_EDGE, len(raw))))
    return (near, len(raw) - 1 - near, int(random.integers(len(raw))))[random.integers(3)]


def _span(raw: bytes, random: Random) -> tuple[int, int]:
    begin = _place(raw, random)
    return begin, min(len(raw), begin + int(2 ** random.uniform(0, 9)))


def _flip_bit(raw: bytes, random: Random) -> bytes:
    changed, place = bytearray(raw), _place(raw, random)
    changed[place : place + 1] = bytes(b ^ (1 << int(random.integers(8))) for b in raw[place:][:1])
    return bytes(changed)


def _flip_bytes(raw: bytes, random: Random) -> bytes:
    changed = bytearray(raw)
    for _ in range(int(random.integers(2, 9)) if raw else 0):
        changed[_place(raw, random)] = int(random.integers(256))
    return bytes(changed)


def _truncate(raw: bytes, random: Random) -> bytes:
    return raw[: _place(raw, random)]


def _behead(raw: bytes, random: Random) -> bytes:
    return raw[_place(raw, random) :]


def _insert(raw: bytes, random: Random) -> bytes:
    begin, end = _span(raw, random)
    return raw[:begin] + random.bytes(end - begin) + raw[begin:]


def _duplicate(raw: bytes, random: Random) -> bytes:
    begin, end = _span(raw, random)
    return raw[:end] + raw[begin:end] + raw[end:]


def _zero(raw: bytes, random: Random) -> bytes:
    begin, end = _span(raw, random)
    return raw[:begin] + bytes(end - begin) + raw[end:]


def _ones(raw: bytes, random: Random) -> bytes:
    begin, end = _span(raw, random)
    return raw[:begin] + b"\xff" * (end - begin) + raw[end:]


def _cut_out(raw: bytes, random: Random) -> bytes:
    begin, end = _span(raw, random)
    return raw[:begin] + raw[end:]


def _append(raw: bytes, random: Random) -> bytes:
    begin, end = _span(raw, random)
    return raw + random.bytes(1 + end - begin)


def _empty(raw: bytes, random: Random) -> bytes:
    return b""


def _text(raw: bytes, random: Random) -> bytes:
    return b"not what it was\n"


CONTENT: tuple[Callable[[bytes, Random], bytes], ...] = (
    _flip_bit,
    _flip_bytes,
    _truncate,
    _zero,
    _insert,
    _flip_bit,
    _duplicate,
    _cut_out,
    _ones,
    _behead,
    _append,
    _flip_bit,
    _empty,
    _text,
)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _pick(files: list[Path], random: Random) -> Path:
    return files[int(random.integers(len(files)))]


def _swap(folder: Path, files: list[Path], random: Random) -> str:
    one, two = _pick(files, random), _pick(_files(folder), random)
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    return f"swap {one.relative_to(folder)} and {two.relative_to(folder)}"


def _delete(folder: Path, files: list[Path], random: Random) -> str:
    file = _pick(files, random)
    file.unlink()
    return f"delete {file.relative_to(folder)}"


def _folder(folder: Path, files: list[Path], random: Random) -> str:
    file = _pick(files, random)
    file.unlink()
    file.mkdir()
    return f"a folder in place of {file.relative_to(folder)}"


def _copy(folder: Path, files: list[Path], random: Random) -> str:
    file, other = _pick(files, random), _pick(_files(folder), random)
    if file != other:
        shutil.copyfile(other, file)
    return f"copy {other.relative_to(folder)} over {file.relative_to(folder)}"


_WHOLE = (_swap, _delete, _folder, _copy)


def damage(folder: Path, files: list[Path], number: int, random: Random) -> str:
    """Damage one or two of the files and say how.

    Args:
        folder: a copy that may be damaged; files: those of it to choose from.
        number: chooses the way, each in turn; random: the rest.
    """
    way = number % (len(CONTENT) + len(_WHOLE))
    if way >= len(CONTENT):
        return _WHOLE[way - len(CONTENT)](folder, files, random)
    file = _pick(files, random)
    file.write_bytes(CONTENT[way](file.read_bytes(), random))
    return f"{CONTENT[way].__name__[1:]} in {file.relative_to(folder)}"
