"""One readable loop that trains a click model and can be stopped, killed and resumed."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from problems.sharding.embeddings import checkpoint
from problems.sharding.embeddings.config import ModelConfig, TrainConfig
from problems.sharding.embeddings.data import ClickData
from problems.sharding.embeddings.metrics import auc, logloss
from problems.sharding.embeddings.models import ClickModel, build_model
from problems.sharding.embeddings.optimizers import state_bytes, table_optimizer
from surco.errors import InvalidInputError, MissingExtraError
from surco.optim import GaLore, report

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class TrainResult:
    """What a run gave.

    Attributes:
        model: after the last step.
        optimizer: of the tables.
        history: one entry an epoch: loss, valid_auc, valid_logloss, test_auc, test_logloss, seconds.
        best: the entry of the epoch with the largest validation AUC.
        table_rows: rows of all tables together.
        state_bytes: of the tables' optimizer.
        steps: taken.
        cpu_seconds: of the training loop in this process.
        is_interrupted: whether Ctrl-C ended it.
    """

    model: ClickModel
    optimizer: torch.optim.Optimizer
    history: list[dict[str, float]]
    best: dict[str, float]
    table_rows: int
    state_bytes: int
    steps: int
    cpu_seconds: float
    is_interrupted: bool = False

    @property
    def state_bytes_per_row(self) -> float:
        """Optimizer bytes of a table row."""
        return self.state_bytes / self.table_rows


@dataclass(slots=True)
class _Run:
    """Everything that moves."""

    model: ClickModel
    tables: torch.optim.Optimizer
    network: torch.optim.Optimizer
    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


def train(
    data: ClickData,
    config: TrainConfig | None = None,
    model_config: ModelConfig | None = None,
    *,
    folder: str | Path | None = None,
    resume: bool = False,
    split_seed: int = 0,
    tensorboard: bool = False,
    progress: Callable[[dict[str, float]], None] | None = None,
) -> TrainResult:
    """Train on 80 percent of ``data``, choose the epoch on 10 percent, report the last 10 percent.

    Args:
        data: the samples.
        config: how to train.
        model_config: what to train.
        folder: receives ``checkpoint.pt`` (and TensorBoard files); None keeps nothing.
        resume: go on from the checkpoint in ``folder`` where there is one; on a CPU the result is the same to the bit.
        split_seed: of the split, the same for runs that are compared.
        tensorboard: write losses, metrics, stable ranks and captured energies for TensorBoard into ``folder``.
        progress: called after every step with epoch, step, steps (in all) and loss.

    Raises:
        InvalidInputError: a combination that does not work; ResumeError: the checkpoint belongs to another run.
        MissingExtraError: TensorBoard is asked for and not installed.
    """
    config, model_config = config or TrainConfig(), model_config or ModelConfig()
    if tensorboard and folder is None:
        raise InvalidInputError("Expected a `folder` for TensorBoard files.")
    device = torch.device(config.device)
    parts = data.split(seed=split_seed)
    run = _start(data, config, model_config, device)
    path = Path(folder) if folder is not None else None
    identity = {
        "config": config.to_json(),
        "model_config": asdict(model_config),
        "data": [data.source, len(data), list(data.rows), split_seed],
    }
    if path is not None and resume:
        _restore(run, checkpoint.load(path, device=device, expected=identity))
    writer = _writer(path) if tensorboard and path is not None else None
    begin, is_interrupted = time.process_time(), False
    try:
        while run.epoch < config.epochs and not _is_stale(run.history, config.patience):
            _epoch(run, parts[0], config, path, identity, progress)
            entry = {"epoch": float(run.epoch), "loss": run.loss_sum / max(1, run.batch)}
            for name, part in (("valid", parts[1]), ("test", parts[2])):
                logits = predict(run.model, part, device=device, is_bfloat16=config.weights == "bfloat16")
                entry |= {
                    f"{name}_auc": auc(logits, part.labels),
                    f"{name}_logloss": logloss(logits.cpu(), part.labels),
                }
            run.history.append(entry)
            logger.info("epoch %d: %s", run.epoch, {key: round(value, 5) for key, value in entry.items()})
            if writer is not None:
                _write_summary(writer, entry, run)
            run.epoch, run.batch, run.loss_sum = run.epoch + 1, 0, 0.0
            if path is not None:
                checkpoint.save(path, _content(run, identity))
    except KeyboardInterrupt:
        is_interrupted = True
        if path is not None:
            checkpoint.save(path, _content(run, identity))
        logger.warning("stopped at epoch %d, step %d", run.epoch, run.step)
    finally:
        if writer is not None:
            writer.close()
    best = max(run.history, key=lambda entry: _or_worst(entry["valid_auc"])) if run.history else {}
    return TrainResult(
        model=run.model,
        optimizer=run.tables,
        history=run.history,
        best=best,
        table_rows=sum(weight.shape[0] for weight in run.model.table_parameters()),
        state_bytes=state_bytes(run.tables),
        steps=run.step,
        cpu_seconds=time.process_time() - begin,
        is_interrupted=is_interrupted,
    )


def _is_stale(history: list[dict[str, float]], patience: int | None) -> bool:
    """Whether the last ``patience`` epochs brought no better validation AUC."""
    if patience is None or len(history) <= patience:
        return False
    scores = [_or_worst(entry["valid_auc"]) for entry in history]
    return max(scores[-patience:]) <= max(scores[:-patience])


def _or_worst(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def _start(data: ClickData, config: TrainConfig, model_config: ModelConfig, device: torch.device) -> _Run:
    entry = table_optimizer(config.optimizer)
    dtype = torch.bfloat16 if config.weights == "bfloat16" else torch.float32
    model = build_model(data, model_config, seed=config.seed, is_sparse=entry.is_sparse, dtype=dtype).to(device)
    tables = entry.make(model.table_parameters(), config)
    if dtype is torch.bfloat16 and not isinstance(tables, GaLore):
        raise InvalidInputError(
            f"Expected a low-rank optimizer for bfloat16 tables (it rounds stochastically); got {config.optimizer!r}."
        )
    network = torch.optim.AdamW(model.network_parameters(), lr=config.dense_lr, weight_decay=0.0, fused=True)
    return _Run(model, tables, network)


def _epoch(
    run: _Run,
    data: ClickData,
    config: TrainConfig,
    path: Path | None,
    identity: dict[str, Any],
    progress: Callable[[dict[str, float]], None] | None,
) -> None:
    """The rest of one pass over the training part."""
    device = torch.device(config.device)
    total = config.epochs * math.ceil(len(data) / config.batch_size)
    shuffle = config.seed * 1_000_003 + run.epoch
    run.model.train()
    for part in data.batches(config.batch_size, seed=shuffle, start=run.batch):
        logits = _logits(run.model, part, device, config.weights == "bfloat16")
        loss = functional.binary_cross_entropy_with_logits(logits, part.labels.to(device))
        run.tables.zero_grad(set_to_none=True)
        run.network.zero_grad(set_to_none=True)
        loss.backward()
        run.tables.step()
        run.network.step()
        run.batch += 1
        run.step += 1
        run.loss_sum += loss.item()
        if progress is not None:
            progress({"epoch": run.epoch, "step": run.step, "steps": total, "loss": loss.item()})
        if path is not None and run.step % config.checkpoint_every == 0:
            checkpoint.save(path, _content(run, identity))


def _logits(model: ClickModel, part: ClickData, device: torch.device, is_bfloat16: bool) -> Tensor:
    ids = [ids.to(device, non_blocking=True) for ids in part.ids]
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=is_bfloat16):
        return model(ids, part.dense.to(device)).to(torch.float32)


@torch.no_grad()
def predict(
    model: ClickModel, data: ClickData, *, device: torch.device, is_bfloat16: bool = False, batch_size: int = 8192
) -> Tensor:
    """Logits [S] on the CPU."""
    model.eval()
    return torch.cat([_logits(model, part, device, is_bfloat16).cpu() for part in data.batches(batch_size)])


def _content(run: _Run, identity: dict[str, Any]) -> dict[str, Any]:
    progress = {"epoch": run.epoch, "batch": run.batch, "step": run.step, "loss_sum": run.loss_sum}
    states = {
        "model": run.model.state_dict(),
        "tables": run.tables.state_dict(),
        "network": run.network.state_dict(),
        "history": run.history,
    }
    return identity | progress | states


def _restore(run: _Run, content: dict[str, Any] | None) -> None:
    if content is None:
        return
    run.model.load_state_dict(content["model"])
    run.tables.load_state_dict(content["tables"])
    run.network.load_state_dict(content["network"])
    run.history = content["history"]
    run.epoch, run.batch, run.step = content["epoch"], content["batch"], content["step"]
    run.loss_sum = content["loss_sum"]


def _writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError("TensorBoard is not installed. Try: pip install tensorboard") from error
    return SummaryWriter(str(folder))


def _write_summary(writer: Any, entry: dict[str, float], run: _Run) -> None:
    for key, value in entry.items():
        if key != "epoch":
            writer.add_scalar(key, value, run.step)
    if isinstance(run.tables, GaLore):
        for row in report(run.tables, run.model.tables):
            if not math.isnan(row.captured):
                writer.add_scalar(f"stable_rank/{row.name}", row.stable_rank, run.step)
                writer.add_scalar(f"captured_energy/{row.name}", row.captured, run.step)
