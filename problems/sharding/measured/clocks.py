"""Two clocks: what the device is busy for, and what a caller waits for.

A fused embedding call takes the host some hundred microseconds to launch. Small tables are done before the next call
is launched (launch-bound): then the caller's time says nothing about the tables. So each call is measured twice:

* end to end: K calls one after another between two synchronizations, wall time over K;
* device: the queue is first held by a kernel that does nothing for a few milliseconds, so that the host runs ahead and
  the calls then follow each other without gaps; events between them give the time of each. Whether the host really
  was ahead is checked (the first event must not have passed when the last call has been launched) and kept.

On a CPU there is no queue: device time is the CPU time of the process, which waiting and other programs leave alone.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

MAX_HOLD_MS = 60.0
MAX_HOLDS = 3  # tries to get ahead; an operator that waits for the device itself never lets the host get there
CYCLES_PER_MS = 1.9e6  # a little under the clock of current devices: holds last no shorter than asked for


@dataclass(frozen=True, slots=True)
class Reading:
    """Milliseconds of one call.

    Attributes:
        device_ms: median device time.
        device_spread_ms: interquartile range of the device times.
        end_to_end_ms: median time as a caller sees it.
        end_to_end_spread_ms: interquartile range of the repeats of it.
        is_ahead: whether every device time was taken with the host ahead.
    """

    device_ms: float
    device_spread_ms: float
    end_to_end_ms: float
    end_to_end_spread_ms: float
    is_ahead: bool


class Clock:
    """Measures calls on one device.

    Args:
        device: CUDA or CPU.
        calls: calls in a row, K.
        repeats: how often the row is repeated, for each of the two times.
        warm_up: calls before the first repeat.
    """

    def __init__(self, device: torch.device, *, calls: int = 4, repeats: int = 5, warm_up: int = 2) -> None:
        self.device = device
        self.calls = calls
        self.repeats = repeats
        self.warm_up = warm_up
        self._hold_ms = 4.0

    def read(self, call: Callable[[int], None]) -> Reading:
        """Measure ``call(k)``, k = 0, 1, ...: the caller may take its k-th input modulo what it has."""
        for k in range(self.warm_up):
            call(k)
        self.synchronize()
        waits, busy, ahead = [], [], []
        for _ in range(self.repeats):
            waits.append(self._end_to_end(call))
            times, is_ahead = self._held(call) if self.device.type == "cuda" else self._cpu(call)
            busy += times
            ahead.append(is_ahead)
        return Reading(
            statistics.median(busy), _spread(busy), statistics.median(waits), _spread(waits), is_ahead=all(ahead)
        )

    def wait_ms(self, call: Callable[[int], None]) -> float:
        """Median end-to-end time alone, with a number of calls that is the same on every rank of a group."""
        for k in range(self.warm_up):
            call(k)
        return statistics.median(self._end_to_end(call) for _ in range(self.repeats))

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _end_to_end(self, call: Callable[[int], None]) -> float:
        self.synchronize()
        begun = time.perf_counter()
        for k in range(self.calls):
            call(k)
        self.synchronize()
        return (time.perf_counter() - begun) * 1e3 / self.calls

    def _held(self, call: Callable[[int], None]) -> tuple[list[float], bool]:
        """Device times of the calls behind a hold of twice the time that launching them last took."""
        times: list[float] = []
        is_ahead = False
        for _ in range(MAX_HOLDS):
            events = [torch.cuda.Event(enable_timing=True) for _ in range(self.calls + 1)]
            self.synchronize()
            torch.cuda._sleep(int(self._hold_ms * CYCLES_PER_MS))
            events[0].record()
            begun = time.perf_counter()
            for k in range(self.calls):
                call(k)
                events[k + 1].record()
            launched_ms = (time.perf_counter() - begun) * 1e3
            is_ahead = not events[0].query()
            self.synchronize()
            times = [first.elapsed_time(second) for first, second in itertools.pairwise(events)]
            if is_ahead:
                self._hold_ms = min(max(2.0 * launched_ms, 1.0), MAX_HOLD_MS)
                break
            self._hold_ms = min(2.0 * max(self._hold_ms, launched_ms), MAX_HOLD_MS)
        return times, is_ahead

    def _cpu(self, call: Callable[[int], None]) -> tuple[list[float], bool]:
        times = []
        for k in range(self.calls):
            begun = time.process_time_ns()
            call(k)
            times.append((time.process_time_ns() - begun) * 1e-6)
        return times, True


def profiled_ms(call: Callable[[int], None], device: torch.device, calls: int = 4) -> float:
    """Mean device time of a call as torch's profiler adds it up kernel by kernel: a second opinion on ``Reading``."""
    is_cuda = device.type == "cuda"
    kinds = [torch.profiler.ProfilerActivity.CUDA if is_cuda else torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=kinds) as profile:
        for k in range(calls):
            call(k)
        if is_cuda:
            torch.cuda.synchronize(device)
    times = [row.self_device_time_total if is_cuda else row.self_cpu_time_total for row in profile.key_averages()]
    return sum(times) * 1e-3 / calls


def _spread(values: list[float]) -> float:
    """Interquartile range."""
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4)
    return high - low
