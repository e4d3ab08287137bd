"""Which block of a table each rank holds, under TorchRec's rules of cutting; needs no TorchRec."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from problems.sharding.joint.plan import JointPlan, ShardingType, TablePlacement
from problems.sharding.tables import Table
from surco.errors import InvalidInputError


@dataclass(frozen=True, slots=True)
class Shard:
    """A block of a table on a rank.

    Attributes:
        rank: its owner.
        row: first row.
        column: first column.
        rows: number of rows; 0 where a table has fewer rows than ranks.
        columns: number of columns.
    """

    rank: int
    row: int
    column: int
    rows: int
    columns: int


def row_blocks(rows: int, parts: int) -> list[tuple[int, int]]:
    """(first row, rows) of each part: blocks of ceil(rows / parts), what is left for the next, then nothing.

    Source: TorchRec 1.8, ``torchrec.distributed.sharding_plan.calculate_shard_sizes_and_offsets``; a test compares.
    """
    block = -(-rows // parts)
    return [(min(i * block, rows), min(block, max(rows - i * block, 0))) for i in range(parts)]


def shards(placement: TablePlacement, table: Table, local_world_size: int) -> list[Shard]:
    """Blocks of a table in TorchRec's order; a data-parallel table is whole on every rank.

    Raises:
        InvalidInputError: column shards that do not add up to the table's width.
    """
    widths = placement.shard_dims or (table.dim,)
    if sum(widths) != table.dim:
        raise InvalidInputError(
            f"Expected the column shards of {table.name!r} to add up to its width {table.dim}, got {list(widths)}."
        )
    starts = [sum(widths[:i]) for i in range(len(widths))]
    match placement.sharding_type:
        case ShardingType.DATA_PARALLEL:
            return [Shard(rank, 0, 0, table.rows, table.dim) for rank in placement.ranks]
        case ShardingType.ROW_WISE | ShardingType.TABLE_ROW_WISE | ShardingType.GRID_SHARD:
            parts = len(placement.ranks) if placement.sharding_type is ShardingType.ROW_WISE else local_world_size
            blocks = [
                (first, rows, start, width)
                for start, width in zip(starts, widths, strict=True)
                for first, rows in row_blocks(table.rows, parts)
            ]
        case _:
            blocks = [(0, table.rows, start, width) for start, width in zip(starts, widths, strict=True)]
    return [
        Shard(rank, first, start, rows, width)
        for rank, (first, rows, start, width) in zip(placement.ranks, blocks, strict=True)
    ]


def tables_by_name(plan: JointPlan, tables: Sequence[Table]) -> dict[str, Table]:
    """Name -> table of exactly the tables of a plan.

    Raises:
        InvalidInputError: a table without a placement, or a placement without a table.
    """
    known = {table.name: table for table in tables}
    placed = {placement.table for placement in plan.placements}
    for names, words in ((known.keys() - placed, "no placement"), (placed - known.keys(), "no table")):
        if names:
            raise InvalidInputError(f"There is {words} for {', '.join(map(repr, sorted(names)))}.")
    return known


def fbgemm_tables(plan: JointPlan, tables: Sequence[Table]) -> list[list[dict[str, int | str]]]:
    """Per rank, what FBGEMM's table-batched operator is built from: name, rows and dim of each block that it holds.

    Blocks without rows are left out; blocks of one table keep their offsets, so that weights can be cut accordingly.
    """
    known = tables_by_name(plan, tables)
    found: list[list[dict[str, int | str]]] = [[] for _ in range(plan.world_size)]
    for placement in plan.placements:
        for shard in shards(placement, known[placement.table], plan.local_world_size):
            if shard.rows:
                found[shard.rank].append(
                    {
                        "table": placement.table,
                        "rows": shard.rows,
                        "dim": shard.columns,
                        "first_row": shard.row,
                        "first_column": shard.column,
                    }
                )
    return found


def dlrm_ranks(plan: JointPlan) -> list[int]:
    """One rank per table in the order of the plan, as DLRM and DreamShard exchange plans.

    Raises:
        InvalidInputError: a table that is not table-wise has no single rank.
    """
    split = [p.table for p in plan.placements if p.sharding_type is not ShardingType.TABLE_WISE]
    if split:
        raise InvalidInputError(
            f"Expected a table-wise plan, but {len(split)} tables are split or copied, for example {split[0]!r}. Allow "
            'table_wise alone (constraints: {"default_types": ["table_wise"]}), or use another export.'
        )
    return [p.ranks[0] for p in plan.placements]
