"""One Ray connection of this process: started locally or joined, authenticated explicitly, and left without a trace.

Ray's own defaults depend on the history of the home directory (a token that was once written) and on environment
variables; ``ray stop`` ends every Ray of the host. Here the mode is always explicit, what is started here lives in a
folder of its own, and only processes that were started here are ever ended.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rl.ray_processes import MARK, end_processes, guardian
from surco.errors import InvalidInputError, MissingExtraError

LOCAL = "local"
STORE_BYTES = 150 * 2**20
_SETTINGS = {  # of Ray processes that are started here, where the user has not set them
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # silences a notice about accelerators
    "RAY_raylet_start_wait_time_s": "150",
    "RAY_memory_usage_threshold": "0.98",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


def import_ray() -> Any:
    """The module ``ray``.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError('Ray is missing. Try `pip install "surco[rl]"`.') from error
    return ray


@contextlib.contextmanager
def session(
    address: str,
    *,
    cpus: int | None = None,
    auth: str | None = None,
    runtime_env: Mapping[str, Any] | None = None,
    store_bytes: int = STORE_BYTES,
) -> Iterator[Any]:
    """Have Ray within a block; yields the module ``ray``.

    A process that is connected already keeps its connection, before and after.

    Args:
        address: ``"local"`` starts a Ray of our own on this machine, never joins another; ``"auto"`` joins the running
            one (the one of the job, inside ``ray job submit``); ``"host:port"`` joins that one.
        cpus: what a local Ray may use; 1 where not given.
        auth: ``"token"`` or ``"disabled"``. By default what ``RAY_AUTH_MODE`` says; else token for a local Ray, with a
            token of its own, and for another one if a token is at hand (``RAY_AUTH_TOKEN``, ``RAY_AUTH_TOKEN_PATH``,
            ``~/.ray/auth_token``).
        runtime_env: of a joined cluster's workers, see Ray.
        store_bytes: shared memory of a local Ray.

    Raises:
        InvalidInputError: an address or mode that cannot be, or no Ray answers there.
        MissingExtraError: Ray is not installed.
    """
    ray = import_ray()
    if not address:
        raise InvalidInputError("Expected `address` to be `local`, `auto` or `host:port`, got an empty text.")
    if auth not in (None, "token", "disabled"):
        raise InvalidInputError(f"Expected `auth` to be `token`, `disabled` or None, got {auth!r}.")
    if cpus is not None and (address != LOCAL or cpus < 1):
        raise InvalidInputError(f"Expected `cpus` >= 1 with the address `local`, got {cpus} with {address!r}.")
    if ray.is_initialized():
        yield ray
        return
    with contextlib.ExitStack() as stack:
        if address == LOCAL:
            _start(ray, stack, cpus or 1, auth, store_bytes)
        else:
            _join(ray, stack, address, auth, runtime_env)
        yield ray


def _start(ray: Any, stack: contextlib.ExitStack, cpus: int, auth: str | None, store_bytes: int) -> None:
    folder = Path(tempfile.mkdtemp(prefix="surco-ray-", dir=_short_folder())).resolve()
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    mark = secrets.token_hex(8)
    stack.enter_context(guardian(mark, folder))
    stack.callback(end_processes, mark, folder=folder)
    settings = {MARK: mark, **{k: v for k, v in _SETTINGS.items() if k not in os.environ}}
    mode = auth or os.environ.get("RAY_AUTH_MODE", "token").lower()
    settings["RAY_AUTH_MODE"] = mode
    if mode == "token" and not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ):
        token = folder / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32), encoding="utf-8")
        settings["RAY_AUTH_TOKEN_PATH"] = str(token)
    stack.enter_context(_environment(settings))
    _observe_environment()
    stack.callback(ray.shutdown)
    ray.init(
        address=LOCAL,
        num_cpus=cpus,
        num_gpus=None,
        include_dashboard=False,
        object_store_memory=store_bytes,
        logging_level=logging.ERROR,
        log_to_driver=False,
        configure_logging=False,
        _node_ip_address="127.0.0.1",
        _temp_dir=str(folder),
    )


def _join(
    ray: Any, stack: contextlib.ExitStack, address: str, auth: str | None, runtime_env: Mapping[str, Any] | None
) -> None:
    at_hand = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ) or (Path.home() / ".ray/auth_token").is_file()
    mode = auth or os.environ.get("RAY_AUTH_MODE", "token" if at_hand else "disabled").lower()
    stack.enter_context(_environment({"RAY_AUTH_MODE": mode, "RAY_USAGE_STATS_ENABLED": "0"}))
    _observe_environment()
    stack.callback(ray.shutdown)
    try:
        ray.init(
            address=address,
            runtime_env=dict(runtime_env or {}),
            logging_level=logging.ERROR,
            log_to_driver=False,
            configure_logging=False,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InvalidInputError(
            f"No Ray can be joined at `{address}` (mode {mode}): {' '.join(str(error).split())[:300]} "
            "Check address and token (RAY_AUTH_TOKEN_PATH), or use the address `local` to start one."
        ) from error


@contextlib.contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _observe_environment() -> None:
    """Make Ray read mode and token again: it keeps both from the first time, which may have been another session."""
    from ray import _raylet  # not public; Ray does the same when it changes the mode

    native: Any = _raylet
    native.Config.initialize("")
    native.AuthenticationTokenLoader.instance().reset_cache()


def _short_folder() -> str | None:
    """A folder whose name is short enough for Ray's sockets (107 bytes with about 60 of Ray's own)."""
    return "/tmp" if len(tempfile.gettempdir()) > 20 and os.access("/tmp", os.W_OK) else None
