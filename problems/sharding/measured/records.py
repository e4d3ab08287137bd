"""Raw measurements: one file of lines while measuring, one compact file to keep.

While measuring, every finished reading is a line of JSON, so that a run that is cut off leaves what it had and goes on
where it stopped. To keep, a campaign is one npz file without pickled objects, provenance inside.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from problems.sharding.tables import Table
from surco.errors import InvalidInputError

FORMAT = 1
FORWARD, BOTH = 0, 1  # columns of the readings of compute: forward; forward and backward


@dataclass(frozen=True, slots=True)
class Campaign:
    """Measurements of one machine.

    Attributes:
        tables: the pool.
        provenance: JSON object; at least ``device``, ``operator``, ``date``, ``command``.
        members: [N] tables of each reading, as indices into the pool.
        batch: [N] samples of a call.
        device_ms: [N, 2] busy time of the device, forward and forward + backward.
        end_to_end_ms: [N, 2] time of a caller.
        spread_ms: [N, 2, 2] interquartile ranges, of the device's and the caller's times (last axis).
        is_ahead: [N] whether the host was ahead in all device times.
        is_held_out: [N] never to be trained on.
        sent_bytes: [M, W] pooled bytes that each of W ranks holds for one all-to-all (its own share included).
        comms_ms: [M, 2] forward and backward all-to-all, slowest rank.
        comms_is_held_out: [M].
    """

    tables: tuple[Table, ...]
    provenance: Mapping[str, Any]
    members: tuple[NDArray[np.int64], ...]
    batch: NDArray[np.int64]
    device_ms: NDArray[np.float64]
    end_to_end_ms: NDArray[np.float64]
    spread_ms: NDArray[np.float64]
    is_ahead: NDArray[np.bool_]
    is_held_out: NDArray[np.bool_]
    sent_bytes: NDArray[np.float64]
    comms_ms: NDArray[np.float64]
    comms_is_held_out: NDArray[np.bool_]

    @property
    def world(self) -> int:
        """Ranks of the measured collectives; 0 where none was measured."""
        return self.sent_bytes.shape[1] if len(self.sent_bytes) else 0

    def save(self, path: Path) -> None:
        """Write one npz; times are kept in float32."""
        from problems.sharding.spec import (
            table_to_json,
        )  # here, for the spec knows the cost models and these the records

        offsets = np.concatenate([[0], np.cumsum([len(m) for m in self.members])]).astype(np.int64)
        head = {
            "format": FORMAT,
            "provenance": dict(self.provenance),
            "tables": [table_to_json(table) for table in self.tables],
        }
        np.savez_compressed(
            path,
            head=np.array(json.dumps(head)),
            offsets=offsets,
            members=np.concatenate([*self.members, np.zeros(0, dtype=np.int64)]).astype(np.int32),
            batch=self.batch,
            device_ms=self.device_ms.astype(np.float32),
            end_to_end_ms=self.end_to_end_ms.astype(np.float32),
            spread_ms=self.spread_ms.astype(np.float32),
            is_ahead=self.is_ahead,
            is_held_out=self.is_held_out,
            sent_bytes=self.sent_bytes,
            comms_ms=self.comms_ms.astype(np.float32),
            comms_is_held_out=self.comms_is_held_out,
        )

    @classmethod
    def load(cls, path: Path) -> Campaign:
        """Read what `save` wrote.

        Raises:
            InvalidInputError: no such file, or not a campaign.
        """
        from problems.sharding.spec import table_from_json

        try:
            with np.load(path, allow_pickle=False) as data:
                arrays = {name: data[name] for name in data.files}
            head = json.loads(str(arrays["head"]))
            tables = tuple(table_from_json(entry, f"tables[{t}]") for t, entry in enumerate(head["tables"]))
            if head["format"] != FORMAT:
                raise ValueError(f"format {head['format']} is not {FORMAT}")
            offsets = arrays["offsets"]
            members = arrays["members"].astype(np.int64)
            return cls(
                tables=tables,
                provenance=head["provenance"],
                members=tuple(members[low:high] for low, high in itertools.pairwise(offsets)),
                batch=arrays["batch"],
                device_ms=arrays["device_ms"].astype(np.float64),
                end_to_end_ms=arrays["end_to_end_ms"].astype(np.float64),
                spread_ms=arrays["spread_ms"].astype(np.float64),
                is_ahead=arrays["is_ahead"],
                is_held_out=arrays["is_held_out"],
                sent_bytes=arrays["sent_bytes"],
                comms_ms=arrays["comms_ms"].astype(np.float64),
                comms_is_held_out=arrays["comms_is_held_out"],
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InvalidInputError(f"Expected a campaign of measurements at `{path}`: {error}.") from error


def read_lines(*paths: Path) -> Campaign:
    """Campaign of the lines of one or more runs over the same pool; a line that was cut off at the end is left out.

    Raises:
        InvalidInputError: no header, runs over different pools, or a malformed line before the last.
    """
    from problems.sharding.spec import table_from_json

    heads: list[Mapping[str, Any]] = []
    compute: list[Mapping[str, Any]] = []
    comms: list[Mapping[str, Any]] = []
    skipped: list[Mapping[str, Any]] = []  # did not fit into memory; kept in the lines for whoever counts
    kinds = {"head": heads, "compute": compute, "comms": comms, "skipped": skipped}
    for path in paths:
        for line in parse_lines(path):
            kinds[line["kind"]].append(line)
    if not heads:
        raise InvalidInputError(f"Expected a header in the first line of {[str(path) for path in paths]}, got none.")
    if any(head["tables"] != heads[0]["tables"] for head in heads):
        raise InvalidInputError("Expected runs over one pool of tables, got different pools. Pack them apart.")
    origin = dict(heads[0]["provenance"])
    if len(heads) > 1:
        origin["more"] = [dict(head["provenance"]) for head in heads[1:]]
    return Campaign(
        tables=tuple(table_from_json(entry, f"tables[{t}]") for t, entry in enumerate(heads[0]["tables"])),
        provenance=origin,
        members=tuple(np.array(line["tables"], dtype=np.int64) for line in compute),
        batch=np.array([line["batch"] for line in compute], dtype=np.int64),
        device_ms=_array(compute, "device_ms", (2,)),
        end_to_end_ms=_array(compute, "end_to_end_ms", (2,)),
        spread_ms=_array(compute, "spread_ms", (2, 2)),
        is_ahead=np.array([line["is_ahead"] for line in compute], dtype=bool),
        is_held_out=np.array([line["is_held_out"] for line in compute], dtype=bool),
        sent_bytes=_array(comms, "sent_bytes", (len(comms[0]["sent_bytes"]) if comms else 0,)),
        comms_ms=_array(comms, "comms_ms", (2,)),
        comms_is_held_out=np.array([line["is_held_out"] for line in comms], dtype=bool),
    )


def parse_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file of lines; a last line without an end is dropped.

    Raises:
        InvalidInputError: a malformed line that is not the last.
    """
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    found: list[dict[str, Any]] = []
    lines = text.split("\n")
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last end of line was cut off
        try:
            found.append(json.loads(line))
        except ValueError as error:
            raise InvalidInputError(f"{path}, line {number}: not JSON ({error}).") from error
    return found


def _array(lines: Sequence[Mapping[str, Any]], key: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    return np.array([line[key] for line in lines], dtype=np.float64).reshape(len(lines), *shape)
