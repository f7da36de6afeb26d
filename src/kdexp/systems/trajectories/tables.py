"""Comma-separated files, read row by row, with errors that name the file and the line."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from kdexp.contracts import ProgressReport
from kdexp.errors import DataError

_REPORT_EVERY = 5_000


class Row(NamedTuple):
    """One row: the line (from 1) on which it ends, its wanted columns in the order asked for, and all of them."""

    line: int
    wanted: list[str]
    all: list[str]


class Table:
    """A file with a header, of which some columns are wanted.

    Raises DataError where the file is missing or empty, lacks a column or is not UTF-8; reading on raises it for a row
    of another width than the header.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path = path
        self.header = self._first_row()
        self._places = [self._place(name) for name in columns]

    def rows(self, progress: ProgressReport | None = None) -> Iterator[Row]:
        """All rows but empty lines; progress is told in bytes."""
        size = self.path.stat().st_size
        with self.path.open("rb") as raw, io.TextIOWrapper(raw, newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, strict=True)
            for number, values in enumerate(self._guarded(reader)):
                if progress is not None and number % _REPORT_EVERY == 0:
                    progress(f"read {self.path.name}", raw.tell(), size)
                if number > 0 and values:
                    yield self._row(values, reader.line_num)
        if progress is not None:
            progress(f"read {self.path.name}", size, size)

    def _row(self, values: list[str], line: int) -> Row:
        if len(values) != len(self.header):
            raise DataError(
                f"{self.path}, line {line}: has {len(values)} columns, the header has {len(self.header)}; get the file "
                "again"
            )
        return Row(line=line, wanted=[values[place] for place in self._places], all=values)

    def _first_row(self) -> list[str]:
        try:
            with self.path.open(newline="", encoding="utf-8-sig") as stream:
                return next(self._guarded(csv.reader(stream, strict=True)))
        except (FileNotFoundError, IsADirectoryError):
            raise DataError(f"{self.path}: does not exist; add it or use dataset.source=synthetic") from None
        except StopIteration:
            raise DataError(f"{self.path}: is empty; get the file again") from None

    def _guarded(self, reader: Iterator[list[str]]) -> Iterator[list[str]]:
        line = 0
        try:
            for values in reader:
                line = getattr(reader, "line_num", line)
                yield values
        except csv.Error as error:
            raise DataError(f"{self.path}, after line {line}: is no CSV ({error}); get the file again") from None
        except UnicodeDecodeError as error:
            raise DataError(f"{self.path}, after line {line}: is not UTF-8 ({error}); get the file again") from None

    def _place(self, name: str) -> int:
        if name not in self.header:
            raise DataError(f"{self.path}: has no column {name}; its header is {','.join(self.header)}")
        return self.header.index(name)
