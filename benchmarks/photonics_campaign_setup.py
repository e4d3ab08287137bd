"""Condensed exteriors of the devices of a campaign, made ahead by processes while the simulator is busy."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from multiprocessing.pool import AsyncResult
from types import TracebackType

import torch

from problems.photonics import DOMAIN
from problems.photonics.simulator import Simulator


def problem_id(device: str, grid: str) -> str:
    """``photonics/bend-10nm-v0`` of ``bend`` and ``10``."""
    return f"photonics/{device}-{grid}nm-v0"


def condense_one(device: str, grid: str, wavelength_nm: float) -> None:
    """Put the exterior of a device at one wavelength into the cache on disk."""
    torch.set_num_threads(1)
    Simulator(DOMAIN.device_of(DOMAIN.spec_of(problem_id(device, grid), wavelengths_nm=[wavelength_nm])))


class Exteriors:
    """Processes that condense exteriors in the order in which they will be needed; use it as a context.

    Args:
        devices: in that order.
        grid: pixel size, nm.
        wavelengths_nm: None for those of the id.
        processes: 0 for none: the simulator then condenses by itself.
    """

    def __init__(
        self, devices: Sequence[str], grid: str, wavelengths_nm: Sequence[float] | None, processes: int
    ) -> None:
        self._pool = multiprocessing.get_context("spawn").Pool(processes) if processes else None
        self._jobs: dict[str, list[AsyncResult[None]]] = {}
        if self._pool is not None:
            for device in dict.fromkeys(devices):
                spec = DOMAIN.spec_of(problem_id(device, grid))
                self._jobs[device] = [
                    self._pool.apply_async(condense_one, (device, grid, float(wavelength)))
                    for wavelength in (wavelengths_nm or spec["wavelengths_nm"])
                ]

    def wait(self, device: str, seconds: float) -> bool:
        """Whether the exteriors of a device are ready, after waiting for at most so long."""
        try:
            for job in self._jobs.get(device, ()):
                job.get(max(seconds, 0.0))
        except multiprocessing.TimeoutError:
            return False
        return True

    def __enter__(self) -> Exteriors:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.terminate()
            self._pool.join()
