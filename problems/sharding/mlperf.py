"""The 26 embedding tables of the MLPerf training benchmark DLRM-DCNv2 (Criteo 1TB, synthetic multi-hot)."""

from __future__ import annotations

from problems.sharding.tables import Table

ROWS = (
    40000000, 39060, 17295, 7424, 20265, 3, 7122, 1543, 63, 40000000, 3067956, 405282, 10,
    2209, 11938, 155, 4, 976, 14, 40000000, 40000000, 40000000, 590152, 12973, 108, 36,
)  # fmt: skip
MULTI_HOT_SIZES = (3, 2, 1, 2, 6, 1, 1, 1, 1, 7, 3, 8, 1, 6, 9, 5, 1, 1, 1, 12, 100, 27, 10, 3, 1, 1)
DIM = 128
GLOBAL_BATCH_SIZE = 65536


def mlperf_tables() -> tuple[Table, ...]:
    """Row counts, multi-hot sizes and width as the reference implementation sets them; float32, uniform access.

    Source: MLCommons training, recommendation_v2/torchrec_dlrm, README, step 4 (arguments num_embeddings_per_feature,
    multi_hot_sizes, embedding_dim; global batch 65536; Adagrad).

    Note: per-table access statistics are not published; uniform access is an assumption of ours, and only the fused
    model looks at it.
    """
    return tuple(
        Table(f"cat_{t}", rows, DIM, float(lookups))
        for t, (rows, lookups) in enumerate(zip(ROWS, MULTI_HOT_SIZES, strict=True))
    )
