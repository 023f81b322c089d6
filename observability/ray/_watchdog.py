"""The actor that watches the workers of its node: a service like that of ``timers run``.

Its process is started by the node's raylet, as those of all workers are. Only descendants of that
raylet are ever watched or ended.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from observability.fleet.ray import ray_engine
from observability.http.address import Address
from observability.service import Service
from observability.settings import Settings
from observability.untrusted import this_host
from timers.integrations.ray import NAMESPACE, node_file
from timers.linux import procfs
from timers.server.reaper import ReapPolicy

from ._records import Records

if TYPE_CHECKING:
    from collections.abc import Mapping

_RECORD_SECONDS = 1.0
_JOIN_SECONDS = 10.0
_FILES = ("sock", "pipe", "pid", "learned")
_NODE_CHARACTERS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the watchdogs of all nodes have in common."""

    run_id: str
    directory: str
    events: str
    http: str | None
    dump_timeout: float
    level: str
    meeting: str
    """The name of the actor where the watchdogs meet."""


class Watchdog:
    """An actor: watches from the moment it is made until :meth:`stop`, or its own end.

    :param text: the options, as JSON of :class:`Options`: from objects Ray may not start it again.
    :raises OSError: the directory of the sockets is somebody else's.
    :raises observability.settings.SettingsError: something that was asked for is not possible.
    """

    def __init__(self, text: str) -> None:
        ray: Any = importlib.import_module("ray")
        options = Options(**json.loads(text))
        meeting = ray.get_actor(options.meeting, namespace=NAMESPACE)
        context = ray.get_runtime_context()
        self._node = str(context.get_node_id())
        self._directory = options.directory
        own_directory(options.directory)
        host = f"{this_host()}/{self._node[:_NODE_CHARACTERS]}"
        raylet = self._raylet = os.getppid()

        def record(reap: Mapping[str, str]) -> None:
            ray.get(meeting.record.remote(dict(reap)), timeout=_RECORD_SECONDS)

        settings = Settings(
            run_id=options.run_id,
            host=host,
            http=None if options.http is None else Address.parse(options.http),
            http_fallback=True,
            events=options.events.replace("{node}", self._node[:_NODE_CHARACTERS]),
            level=options.level,
            stall_after=0,  # the threads of Ray in each of its processes always move
            learned=self._file("learned"),
            learned_chosen=False,
        )
        policy = ReapPolicy(dump_timeout=options.dump_timeout, descendants_of=raylet)
        engine = ray_engine(
            meeting, address=context.gcs_address, run_id=options.run_id, raylet=raylet
        )
        self._service = Service(
            self._file("pipe"), settings, policy, self._file("sock"), engine=engine
        )
        pipeline = self._service.pipeline
        pipeline.add(Records(record, pipeline.stories, host=host))
        with open(self._file("pid"), "w", encoding="ascii") as file:
            file.write(str(os.getpid()))
        self._service.start()

    def _file(self, kind: str) -> str:
        return node_file(self._directory, self._node, kind)

    def node(self) -> str:
        """Return the id of its node: it watches now, and has met the others if it could."""
        self._service.wait_until_joined(_JOIN_SECONDS)
        return self._node

    def stop(self) -> None:
        """Watch no more: a reap under way is finished, within its bounds. Idempotent."""
        self._service.stop()
        for kind in _FILES:
            with contextlib.suppress(OSError):
                os.unlink(self._file(kind))
        for name in _notes(self._directory, self._raylet):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self._directory, name))
        with contextlib.suppress(OSError):  # another node of this machine uses it
            os.rmdir(self._directory)


def own_directory(path: str) -> None:
    """Make a directory that is this user's alone, unless it is there.

    :raises OSError: what is there is something else, or others may use it.
    """
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise PermissionError(
            f"{path} must be a directory of this user (uid {os.geteuid()}) and closed to others,"
            f" it is of uid {found.st_uid} with mode {stat.filemode(found.st_mode)}: remove it, or"
            " give start() another directory"
        )


def _notes(directory: str, raylet: int) -> list[str]:
    """Name what workers of a node have left: of its own, and of those that are gone."""
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    pids = {name: name.partition(".")[0] for name in names}
    found = {name: procfs.stat(int(pid)) for name, pid in pids.items() if pid.isdigit()}
    return [name for name, there in found.items() if there is None or there.parent == raylet]
