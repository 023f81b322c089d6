"""What the Flight Recorders of a run say together: who has not joined, who called something else.

Each process group has its own numbers. In one group:

- a member whose latest number is lower than that of an operation in which others wait has not
  joined it;
- members that called different operations, or the same with other sizes, under one number have
  diverged there, and everything after it is a consequence;
- where all have joined and some have not started (which is known with
  ``TORCH_NCCL_ENABLE_TIMING=1``), the streams of those are busy with something else;
- where all have joined and nobody has completed, it is the device or the network.

A rank without an answer may have joined or not: nothing is proven by silence. Gloo does not say who
the members of a group are; those that have used it are known, others are guessed at.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

from observability.hang.graph import Edge, Evidence, Meeting, Strength
from observability.recorder.types import GroupRecord, Operation, Progress, Recording

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

__all__ = ["Collectives", "Divergence", "Member", "analyse_recordings", "describe"]

_DEFAULT = "default_pg"
_SAME_SIZES = frozenset(("all_reduce", "all_gather", "broadcast", "reduce", "barrier"))
"""Operations to which each member brings the same amount; of others only the name must agree."""
_SYMMETRIC = ("all_", "_all_", "reduce_scatter", "_reduce_scatter", "barrier")
"""Operations that nobody can complete before all have joined."""
_UNITS = {
    "Float": "floats",
    "Double": "doubles",
    "Half": "half floats",
    "BFloat16": "bfloat16 values",
    "Long": "integers of 64 bits",
    "Int": "integers of 32 bits",
    "Byte": "bytes",
    "Bool": "booleans",
}


@dataclass(frozen=True, slots=True)
class Member:
    """One worker of the run, as far as its operations are concerned."""

    rank: int | None
    recording: Recording | None
    may_wait: bool = True
    """Whether its stack allows that it waits for one of its operations. One that enqueued them and
    then went to read a file does not."""
    joined: bool = False
    """Whether its stack shows it in a collective; asked only of those without a recording."""
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Divergence:
    """Different calls under one number of one group."""

    group: str
    number: int
    calls: tuple[tuple[str, tuple[int, ...]], ...]
    """What was called, in words, and by whom (positions); most callers first."""


@dataclass(slots=True)
class Collectives:
    """What follows from the recordings."""

    edges: list[Edge] = field(default_factory=list)
    divergence: Divergence | None = None
    """The first one, by number, of the group that most workers belong to."""
    waiting_in: dict[int, str] = field(default_factory=dict)
    """In words, the operation in which a worker waits."""
    unknown: frozenset[int] = frozenset()
    """Ranks that an operation waits for of which no worker is known."""


def describe(operation: Operation, group: GroupRecord) -> str:
    """Name an operation: ``all_reduce #26 of default_pg (68,362 floats)``."""
    return f"{operation.name} #{operation.number} of {_label(group)}{_amount(operation)}"


def _label(group: GroupRecord) -> str:
    if _is_default(group):
        return _DEFAULT
    named = group.description if group.description not in ("", "undefined") else "group"
    return f"{named} {group.name}"


def _is_default(group: GroupRecord) -> bool:
    return group.description == _DEFAULT or group.name == "0"


def _amount(operation: Operation) -> str:
    if operation.name == "barrier" or not operation.sizes:
        return ""
    count = sum(prod(shape) for shape in operation.sizes)
    unknown = f"elements of {operation.dtype}" if operation.dtype else "elements"
    unit = _UNITS.get(operation.dtype, unknown)
    return f" ({count:,} {unit.removesuffix('s') if count == 1 else unit})"


def analyse_recordings(members: Sequence[Member], *, world_size: int | None = None) -> Collectives:
    """Put the recordings of a run together.

    :param members: one for each worker; positions in the result are positions in here.
    :param world_size: how many ranks the run has, where known.
    """
    found = Collectives()
    at = {member.rank: index for index, member in enumerate(members) if member.rank is not None}
    groups: dict[tuple[str, str], dict[int, GroupRecord]] = {}
    for index, member in enumerate(members):
        for group in member.recording.groups if member.recording else ():
            groups.setdefault((group.name, group.backend), {})[index] = group
    for records in sorted(groups.values(), key=len, reverse=True):
        _Group(records, members, at, world_size).add_to(found)
    return found


class _Group:
    """One process group of the run."""

    def __init__(
        self,
        records: Mapping[int, GroupRecord],
        members: Sequence[Member],
        at: Mapping[int, int],
        world_size: int | None,
    ) -> None:
        self.records = records
        self.members = members
        self.group = next((each for each in records.values() if each.ranks), None) or next(
            iter(records.values())
        )
        self.at = at
        ranks: Iterable[int] = self.group.ranks
        if not ranks and _is_default(self.group):
            ranks = range(world_size) if world_size is not None else sorted(at)
        self.ranks = tuple(ranks)
        """Empty where the members are not known."""
        present = {at[rank] for rank in self.ranks if rank in at}
        self.present = tuple(sorted(present | set(records)))
        self.unknown = frozenset(rank for rank in self.ranks if rank not in at)

    def add_to(self, found: Collectives) -> None:
        pending = {
            index: operation
            for index, record in self.records.items()
            if (operation := record.pending) is not None
        }
        if pending:
            divergence = self._divergence(min(each.number for each in pending.values()))
            if divergence is not None:
                found.divergence = found.divergence or divergence
            else:
                for number in sorted({each.number for each in pending.values()}):
                    self._meet(number, pending, found)
            names = {
                id(operation): describe(operation, self.group)
                for operation in {id(each): each for each in pending.values()}.values()
            }
            for index, operation in pending.items():
                # Of those in several groups the one that has begun is the one it is in.
                if index not in found.waiting_in or operation.progress is Progress.STARTED:
                    found.waiting_in[index] = names[id(operation)]
        for index, record in self.records.items():
            if record.transfers and self.members[index].may_wait:
                self._transfer(index, record.transfers[0], found)

    def _divergence(self, number: int) -> Divergence | None:
        """Find the first number, up to ``number``, under which members called different things."""
        # Most ranks share their operations, which are then compared once; those of whole hosts
        # are the very same record.
        alike_in: dict[int, list[int]] = {}
        for index, record in self.records.items():
            alike_in.setdefault(id(record), []).append(index)
        callers: dict[int, dict[Operation, list[int]]] = {}
        for indices in alike_in.values():
            for operation in self.records[indices[0]].collectives:
                if operation.number <= number:
                    found = callers.setdefault(operation.number, {})
                    found.setdefault(operation, []).extend(indices)
        for first in sorted(callers):
            kinds: dict[tuple[object, ...], list[Operation]] = {}
            for operation in callers[first]:
                kinds.setdefault(_signature(operation), []).append(operation)
            if len(kinds) > 1:
                calls = [
                    (
                        describe(alike[0], self.group),
                        tuple(sorted(i for operation in alike for i in callers[first][operation])),
                    )
                    for alike in kinds.values()
                ]
                calls.sort(key=lambda call: -len(call[1]))
                return Divergence(_label(self.group), first, tuple(calls))
        return None

    def _meet(self, number: int, pending: Mapping[int, Operation], found: Collectives) -> None:
        inside = [index for index, each in pending.items() if each.number == number]
        meeting = Meeting(
            describe(pending[inside[0]], self.group), (self.group.name, self.group.backend, number)
        )
        holders = [
            Edge(meeting, index, Evidence.RECORDER, strength, why and f"{why} {meeting.name}")
            for index in self.present
            for strength, why in self._holds_up(index, number, pending)
        ]
        found.edges += holders
        found.unknown |= self.unknown
        waiting: Collection[int] = inside
        if not holders and not self.unknown:
            busy = self._not_started(inside, pending)
            why = f"has enqueued {meeting.name}, but its GPU has not started it"
            if not busy and self._others_have_completed(number, inside, pending):
                busy = set(inside)
                why = f"has not completed {meeting.name}, which the others have"
            waiting = [index for index in inside if index not in busy]
            for index in busy:
                found.edges.append(Edge(meeting, index, Evidence.RECORDER, Strength.PROOF, why))
            if not busy and not self.ranks:
                self._guess_members(meeting, found)
        for index in waiting:
            if self.members[index].may_wait:
                found.edges.append(Edge(index, meeting, Evidence.RECORDER, Strength.PROOF))

    def _holds_up(
        self, index: int, number: int, pending: Mapping[int, Operation]
    ) -> Iterable[tuple[Strength, str]]:
        """Yield how sure it is that a member has not come to an operation, and why."""
        member, record = self.members[index], self.records.get(index)
        if record is None and not (member.recording and member.recording.answered):
            if not member.joined and not member.ended:
                yield Strength.LIKELY, "does not say whether it has joined"
        elif record is None or record.last < number:
            yield Strength.PROOF, "has not joined"
        elif index in pending and pending[index].number < number:
            yield Strength.PROOF, ""

    def _not_started(self, inside: Sequence[int], pending: Mapping[int, Operation]) -> set[int]:
        """Find those whose stream has not come to the operation, while that of others has."""
        recordings = [self.members[index].recording for index in inside]
        if not all(each and each.timed for each in recordings):
            return set()
        busy = {index for index in inside if pending[index].progress is Progress.SCHEDULED}
        return busy if len(busy) < len(inside) else set()

    def _others_have_completed(
        self, number: int, inside: Sequence[int], pending: Mapping[int, Operation]
    ) -> bool:
        """Whether most members are through with an operation in which all depend on each other."""
        if not pending[inside[0]].name.startswith(_SYMMETRIC):
            return False
        through = sum(
            record.last >= number and (index not in pending or pending[index].number > number)
            for index, record in self.records.items()
        )
        return through > len(inside)

    def _guess_members(self, meeting: Meeting, found: Collectives) -> None:
        """Of a group whose members are not known: perhaps those that are in no operation."""
        for index, member in enumerate(self.members):
            idle = member.recording is None or all(
                group.pending is None for group in member.recording.groups
            )
            if index not in self.records and idle and not member.joined and not member.ended:
                why = f"may belong to {_label(self.group)}, in which others wait"
                found.edges.append(Edge(meeting, index, Evidence.RECORDER, Strength.GUESS, why))

    def _transfer(self, index: int, transfer: Operation, found: Collectives) -> None:
        other = self._position(transfer.peer)
        mine = self.members[index].rank
        if other is None or mine is None:
            return
        arrow = f"{mine} to {self.members[other].rank}"
        if transfer.name == "recv":
            arrow = f"{self.members[other].rank} to {mine}"
        name = f"the transfer from rank {arrow}{_amount(transfer)}"
        found.waiting_in.setdefault(index, f"{transfer.name}: {name}")
        record = self.records.get(other)
        answers = record is not None and any(
            each.name != transfer.name and self._position(each.peer) == index
            for each in record.transfers
        )
        target = Meeting(name, (self.group.name, arrow)) if answers else other
        found.edges.append(
            Edge(index, target, Evidence.RECORDER, Strength.PROOF, f"has not joined {name}")
        )

    def _position(self, peer: int | None) -> int | None:
        if peer is None or not self.ranks or peer >= len(self.ranks):
            return None
        return self.at.get(self.ranks[peer])


def _signature(operation: Operation) -> tuple[object, ...]:
    return operation.signature if operation.name in _SAME_SIZES else (operation.name,)
