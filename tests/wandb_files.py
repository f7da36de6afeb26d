"""What the real wandb client wrote offline, read back from its files."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

Record = Any


def wandb_files(folder: Path) -> list[Path]:
    """The .wandb files of all runs under a folder, in the order of time."""
    return sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))


def written(folder: Path) -> list[Record]:
    """The records of the one run under a folder, once it is closed."""
    (path,) = wandb_files(folder)
    return closed(path)


def closed(path: Path) -> list[Record]:
    """The records of a run, once wandb's own process has written its end."""
    for _ in range(500):
        records = list(read_records(path))
        if any(record.WhichOneof("record_type") == "exit" for record in records):
            return records
        time.sleep(0.02)
    raise AssertionError(f"{path} was not closed within ten seconds")


def read_records(path: Path) -> Iterator[Record]:
    """The records of a .wandb file: a 7-byte header, then LevelDB log blocks of 32 KiB whose entries are
    (crc32, uint16 length, type full/first/middle/last = 1/2/3/4, data). A torn tail ends the reading."""
    from wandb.proto import wandb_internal_pb2

    content = path.read_bytes()
    assert content[:4] in (b":W&B", b"")
    position, payload = 7, b""
    while position + 7 <= len(content):
        left_in_block = 32768 - position % 32768
        if left_in_block < 7:
            position += left_in_block
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        piece = content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind not in (1, 2, 3, 4) or len(piece) < length:
            return
        payload = piece if kind in (1, 2) else payload + piece
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(payload)
            yield record


def only(records: Iterable[Record], kind: str) -> Any:
    """The one record of a kind, such as `run` or `exit`."""
    found = [getattr(record, kind) for record in records if record.WhichOneof("record_type") == kind]
    assert len(found) == 1, f"{len(found)} records of {kind}"
    return found[0]


def history(records: Iterable[Record]) -> list[dict[str, Any]]:
    """The logged rows, by metric name."""
    return [
        {(item.key or "/".join(item.nested_key)): json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]


def summary_of(records: Iterable[Record]) -> dict[str, Any]:
    """The run's summary, by name."""
    return {
        "/".join([*item.nested_key] or [item.key]): json.loads(item.value_json)
        for record in records
        for item in record.summary.update
    }
