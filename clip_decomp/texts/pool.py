"""A pool of texts with one property each, and its file.

The file is UTF-8 text, one description a line: either the bare text on every line (the property is then ``text``), or
``property<TAB>text`` on every line. Blank lines and texts that occurred before are left out and counted; upper and
lower case and repeated spaces make no difference, as they make none to CLIP's tokenizer.

Limits: files up to 64 MiB; a text has no tabs or line breaks.

Example:
    >>> pool = TextPool(("Something red", "A red object", "A zebra"), ("color", "color", "animal"))
    >>> len(pool), pool.property_names, pool.indices("animal")
    (3, ('color', 'animal'), [2])
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from ..drafts import drafted
from ..errors import DataError, nearest

#: The property of texts that come without one.
PLAIN = "text"
_LARGEST = 64 << 20
_LAYOUT = "a pool is UTF-8 text with one description a line, or property<TAB>description on every line"


@dataclass(frozen=True)
class TextPool:
    """Distinct texts, each with one property.

    Attributes:
        texts: the candidates, in the order that indices refer to.
        properties: the property of each.
        blank_lines, repeated_lines: how many lines were left out when the pool was read from a file.

    Raises:
        DataError: no texts, another number of properties than of texts, a text that is blank, has a tab or a line
            break, or occurs twice.
    """

    texts: tuple[str, ...]
    properties: tuple[str, ...]
    blank_lines: int = field(default=0, compare=False)
    repeated_lines: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        if not self.texts:
            raise DataError("A text pool needs one text or more.")
        if len(self.properties) != len(self.texts):
            raise DataError(f"{len(self.properties)} properties for {len(self.texts)} texts: give one for each text.")
        for part in (*self.texts, *set(self.properties)):
            if not part.strip() or "\t" in part or len(part.splitlines()) != 1:
                raise DataError(f"Texts and properties are one line of words without tabs, not {part!r}.")
        text, times = Counter(map(_key, self.texts)).most_common(1)[0]
        if times > 1:
            raise DataError(f"The texts of a pool must differ, but {text!r} occurs {times} times.")

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def property_names(self) -> tuple[str, ...]:
        """The properties that occur, in order of first appearance."""
        return tuple(dict.fromkeys(self.properties))

    def indices(self, *names: str) -> list[int]:
        """Places of the texts with one of these properties.

        Raises:
            DataError: there is no such property; the message lists similar names.
        """
        for name in names:
            if name not in self.property_names:
                near = nearest(name, self.property_names)
                raise DataError(f"The pool has no property {name!r}; did you mean one of {near}?")
        return [k for k, each in enumerate(self.properties) if each in names]

    def of(self, *names: str) -> TextPool:
        """The texts with one of these properties, as a pool.

        Raises:
            DataError: there is no such property, or no name is given.
        """
        chosen = self.indices(*names)
        return TextPool(tuple(self.texts[k] for k in chosen), tuple(self.properties[k] for k in chosen))

    def to_frame(self):
        """A pandas ``DataFrame`` with one row a text."""
        import pandas as pd

        return pd.DataFrame({"property": self.properties, "text": self.texts})

    def save(self, path: str | Path) -> Path:
        """Write the pool for :func:`read_pool`, all of it or nothing: bare lines if the only property is ``text``."""
        path = Path(path)
        bare = self.property_names == (PLAIN,)
        rows = zip(self.properties, self.texts, strict=True)
        lines = [text if bare else f"{name}\t{text}" for name, text in rows]
        with drafted(path) as draft:
            draft.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    def _repr_html_(self) -> str:
        grouped = self.to_frame().groupby("property", sort=False)["text"]
        return grouped.agg(texts="count", example="first").reset_index().to_html(index=False)


def read_pool(path: str | Path) -> TextPool:
    """The pool in a file of lines.

    Raises:
        DataError: the file is missing, is not a file, is too large, is not UTF-8 text, holds no text, or has a tab on
            some lines and not on others.
    """
    path = Path(path)
    texts, properties, blank, repeated = [], [], 0, 0
    seen: set[str] = set()
    lines = _read(path).removesuffix("\n").split("\n")
    tabbed = any("\t" in line.strip() for line in lines)
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            blank += 1
            continue
        name, text = _fields(path, number, line.strip()) if tabbed else (PLAIN, line)
        text = " ".join(text.split())
        if _key(text) in seen:
            repeated += 1
            continue
        seen.add(_key(text))
        texts.append(text)
        properties.append(" ".join(name.split()))
    if not texts:
        raise DataError(f"{path} holds no text: {_LAYOUT}.")
    return TextPool(tuple(texts), tuple(properties), blank, repeated)


def _fields(path: Path, number: int, line: str) -> tuple[str, str]:
    name, _, text = line.partition("\t")
    if not text.strip() or "\t" in text:
        raise DataError(f"{path}, line {number} has {line.count(chr(9))} tabs where other lines have one: {_LAYOUT}.")
    return name, text


def _read(path: Path) -> str:
    if not path.exists():
        raise DataError(f"There is no file {path}: name a file of descriptions, one a line.")
    if not path.is_file():
        raise DataError(f"{path} is not a file: {_LAYOUT}.")
    size = path.stat().st_size
    if size > _LARGEST:
        raise DataError(f"{path} has {size >> 20} MiB, more than the {_LARGEST >> 20} MiB a pool may have: split it.")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): check its permissions.") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}): {_LAYOUT}.") from error
    if "\0" in text:
        raise DataError(f"{path} is a binary file, it has null bytes: {_LAYOUT}.")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _key(text: str) -> str:
    return " ".join(text.split()).casefold()
