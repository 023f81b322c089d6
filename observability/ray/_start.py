"""On the driver: have Ray's workers watched, and start a watchdog on each node."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import importlib
import json
import os
import secrets
import tempfile
import threading
from typing import TYPE_CHECKING, Any

from timers.auto import RECORDER_VARIABLE, auto_environment
from timers.integrations.ray import (
    DIRECTORY_VARIABLE,
    MEETING_VARIABLE,
    NAMESPACE,
    USER_HOOK_VARIABLE,
    note_reaps,
)

from ._meeting import Meeting
from ._watchdog import Options, Watchdog

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_SETUP = "timers.integrations.ray.setup_worker"
_START_SECONDS = 60.0
_STOP_SECONDS = 10.0
_LOOK_SECONDS = 5.0
_AT_A_TIME = 20_000
"""Calls of the meeting, most of which wait: two for each node."""


def start(
    *,
    after: float | Mapping[str, float] | None = None,
    kill: bool = True,
    auto: str = "all",
    events: str = "-",
    level: str = "warning",
    http: str | None = None,
    dump_timeout: float = 5.0,
    directory: str | None = None,
    runtime_env: Mapping[str, Any] | None = None,
    **init: Any,
) -> Watch:
    """Connect to Ray (``ray.init``) and watch what its workers do for this job.

    Call it on the driver, once, from any thread, in place of ``ray.init``: what has the
    job's workers watched is a part of its runtime environment, which Ray takes from there only.
    It returns when the watchdog of each node that is there now watches; one of a node that comes
    later is started within some seconds.

    :param after: seconds that a task or a method may take, more than 0 and at most a week: for
        all (but not for Ray's own libraries), or by ``Class.method`` or function, where
        ``"task"`` stands for all that are not named. What has none gets a deadline as soon as one
        is learned from 20 executions, see ``timers.LEARNED``; None for none but those.
    :param kill: whether the expiry of a deadline in ``after`` ends the worker, so that Ray starts
        it again (``max_restarts``, ``max_task_retries``, ``max_retries``); otherwise it is reported
        only, as that of a learned deadline always is. Timers of the job's own end it in any case.
    :param auto: which automatic timers there are, as ``--auto`` of ``timers run``.
    :param events: where each watchdog writes its events: a path, in which ``{node}`` stands for the
        first characters of the node's id, or ``"-"`` for its standard error, which Ray shows at the
        driver.
    :param level: the lowest level of these.
    :param http: ``HOST:PORT`` of each node for metrics and the page, on a loopback address; another
        port is taken where it is not free. None for none.
    :param dump_timeout: seconds, for the report on all nodes before a kill.
    :param directory: for the sockets, on each node; made when it is not there. By default one of a
        new name in the directory for temporary files.
    :param runtime_env: as of ``ray.init``; what is watched is added to it.
    :param init: all else for ``ray.init``.
    :raises RuntimeError: ``ray.init`` was called before.
    :raises ValueError: a deadline is out of its bounds.
    :raises TimeoutError: the watchdog of a node did not start within a minute.
    :raises ModuleNotFoundError: Ray is not installed.
    """
    ray = _ray()
    if ray.is_initialized():
        raise RuntimeError(
            "ray.init() was called before, and a job's runtime environment cannot be changed then:"
            " call observability.ray.start(...) in its place, with the same arguments"
        )
    deadlines = {"task": float(after)} if isinstance(after, int | float) else dict(after or {})
    token = secrets.token_hex(4)
    if directory is None:
        directory = os.path.join(tempfile.gettempdir(), f"timers-ray-{os.geteuid()}-{token}")
    name = f"timers-{token}"
    variables = {
        **auto_environment({}, auto, kill=kill, only_chosen=True, after=deadlines),
        DIRECTORY_VARIABLE: directory,
        RECORDER_VARIABLE: directory,
        MEETING_VARIABLE: name,
        "TIMERS_ON_ERROR": "warn",
    }
    # Nothing is on the path: workers find the package where the driver did, or not at all.
    variables.pop("PYTHONPATH", None)
    ray.init(runtime_env=_runtime_env(runtime_env or {}, variables), **init)
    os.environ[MEETING_VARIABLE] = name
    note_reaps()
    options = Options(
        run_id=str(ray.get_runtime_context().get_job_id()),
        directory=directory,
        events=events,
        http=http,
        dump_timeout=dump_timeout,
        level=level,
        meeting=name,
    )
    watch = Watch(ray, options)
    try:
        watch.begin()
    except BaseException:
        watch.stop()
        raise
    return watch


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise ModuleNotFoundError(
            "Ray is not installed: pip install 'expiration-timers[ray]'", name="ray"
        ) from None


def _runtime_env(given: Mapping[str, Any], variables: Mapping[str, str]) -> dict[str, Any]:
    """Return the runtime environment of the job with ours added."""
    hook = given.get("worker_process_setup_hook")
    own = {**variables, **(given.get("env_vars") or {})}
    if isinstance(hook, str):
        own[USER_HOOK_VARIABLE] = hook
    return {
        **given,
        "env_vars": own,
        "worker_process_setup_hook": _both(hook) if callable(hook) else _SETUP,
    }


def _both(hook: Callable[[], object]) -> Callable[[], None]:
    def setup_both() -> None:
        from timers.integrations.ray import setup_worker  # noqa: PLC0415  # sent by value

        setup_worker()
        hook()

    return setup_both


class Watch:
    """The watchdogs of a job. Ends with :meth:`stop`, or with the driver.

    Made by :func:`start`. Safe from any thread.
    """

    def __init__(self, ray: Any, options: Options) -> None:
        self._ray = ray
        self._options = json.dumps(dataclasses.asdict(options))
        # Ours is nobody's task, and must not be timed.
        self._plain = {"env_vars": {"TIMERS_AUTO": "off"}}
        self._meeting = (
            ray.remote(Meeting)
            .options(
                name=options.meeting,
                namespace=NAMESPACE,
                num_cpus=0,
                max_concurrency=_AT_A_TIME,
                max_restarts=-1,
                runtime_env=self._plain,
            )
            .remote()
        )
        self._watchdogs: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="timers-ray-nodes", daemon=True)

    def begin(self) -> None:
        """Start a watchdog on each node.

        :raises TimeoutError: one did not start in time.
        """
        with self._lock:
            started = self._start_missing()
        _, late = self._ray.wait(
            started, num_returns=len(started), timeout=_START_SECONDS, fetch_local=True
        )
        if late:
            raise TimeoutError(
                f"the watchdogs of {len(late)} of {len(started)} nodes did not start within"
                f" {_START_SECONDS:.0f} s: see the logs of their workers"
            )
        self._ray.get(started)
        atexit.register(self.stop)
        self._thread.start()

    @property
    def nodes(self) -> list[str]:
        """Ids of the nodes that have a watchdog."""
        with self._lock:
            return list(self._watchdogs)

    def _start_missing(self) -> list[Any]:
        """Start watchdogs where there are none; return what says that they watch."""
        scheduling: Any = importlib.import_module("ray.util.scheduling_strategies")
        alive = {node["NodeID"] for node in self._ray.nodes() if node["Alive"]}
        for node in self._watchdogs.keys() - alive:
            del self._watchdogs[node]
        started = []
        for node in alive - self._watchdogs.keys():
            strategy = scheduling.NodeAffinitySchedulingStrategy(node_id=node, soft=False)
            kept = {
                "num_cpus": 0,
                "max_restarts": -1,
                "scheduling_strategy": strategy,
                "runtime_env": self._plain,
            }
            actor = self._ray.remote(Watchdog).options(**kept).remote(self._options)
            self._watchdogs[node] = actor
            started.append(actor.node.remote())
        return started

    def _run(self) -> None:
        while not self._stop.wait(_LOOK_SECONDS):
            with contextlib.suppress(Exception), self._lock:  # the cluster may be on its way out
                self._start_missing()

    def stop(self) -> None:
        """Watch no more. Workers go on without timers. Idempotent; never raises."""
        if self._stop.is_set():
            return
        self._stop.set()
        atexit.unregister(self.stop)
        with contextlib.suppress(Exception), self._lock:
            if not self._ray.is_initialized():
                return
            asked = [each.stop.remote() for each in self._watchdogs.values()]
            self._ray.wait(asked, num_returns=len(asked), timeout=_STOP_SECONDS)
            for actor in (*self._watchdogs.values(), self._meeting):
                self._ray.kill(actor)
