"""`/api/v1/tail`: events as JSON lines, those that are kept or all that come; attacks begin and end among them.

Those of every edge that reports when it begins. A reader that is too slow loses events and is told how many:
{"kind":"lost","events":N}.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import ExitStack

import msgspec
from fastapi import APIRouter, Depends, Request
from fastapi.responses import StreamingResponse

from causeway.api.auth import may_read
from causeway.api.examples import TAIL_QUERY
from causeway.api.query import flag, values
from causeway.api.reach import PlaneOf
from causeway.control.plane import Plane
from causeway.model.document.attack import Turn, turns
from causeway.model.report import Event

router = APIRouter(prefix="/api/v1", tags=["causeway"])
_KEEPALIVE_S = 15.0  # an empty line, so that a reader who is gone is noticed
_encode = msgspec.json.Encoder().encode


@router.get("/tail", summary="Events as JSON lines", dependencies=[Depends(may_read)], openapi_extra=TAIL_QUERY)
async def tail(request: Request, plane: PlaneOf) -> StreamingResponse:
    wanted = frozenset(values(request, "application"))
    stopping: asyncio.Event = request.app.state.stopping
    lines = _follow(plane, wanted, stopping) if flag(request, "follow") else _kept(plane, wanted)
    return StreamingResponse(lines, media_type="application/x-ndjson")


async def _kept(plane: Plane, wanted: frozenset[str]) -> AsyncIterator[bytes]:
    sides = plane.sides()
    await asyncio.gather(*(asyncio.to_thread(side.fresh_report) for side in sides))
    everything: list[Event | Turn] = [*(event for side in sides for event in side.recent()), *_turns(plane)]
    yield _lines(plane, sorted(everything, key=lambda one: one.time_ms), wanted)


async def _follow(plane: Plane, wanted: frozenset[str], stopping: asyncio.Event) -> AsyncIterator[bytes]:
    loop, arrived = asyncio.get_running_loop(), asyncio.Event()

    def notify() -> None:
        loop.call_soon_threadsafe(arrived.set)

    stopped = asyncio.ensure_future(stopping.wait())
    stopped.add_done_callback(lambda _: arrived.set())
    try:
        with ExitStack() as listening:
            readers = [listening.enter_context(side.events(notify)) for side in plane.sides()]
            told = {turn.key for turn in _turns(plane)}
            yield b"\n"  # the headers go out now: the reader knows that it listens
            while not stopping.is_set():
                try:
                    await asyncio.wait_for(arrived.wait(), _KEEPALIVE_S)
                except TimeoutError:
                    yield b"\n"
                arrived.clear()
                taken = [reader.take() for reader in readers]
                events = [event for some, _ in taken for event in some]
                if lost := sum(count for _, count in taken):
                    yield _encode({"kind": "lost", "events": lost}) + b"\n"
                now = _turns(plane)
                if lines := _lines(plane, [*events, *(turn for turn in now if turn.key not in told)], wanted):
                    yield lines
                told = {turn.key for turn in now}
    finally:
        stopped.cancel()


def _turns(plane: Plane) -> list[Turn]:
    return [turn for report in plane.reports().values() for attack in report.attacks for turn in turns(attack)]


def _lines(plane: Plane, events: Iterable[Event | Turn], wanted: frozenset[str]) -> bytes:
    chosen = (event for event in events if not wanted or event.application in wanted)
    return b"".join(_line(plane, event) for event in chosen)


def _line(plane: Plane, event: Event | Turn) -> bytes:
    """The event with the name that its application has now."""
    return _encode({**msgspec.structs.asdict(event), "application_name": plane.name_of(event.application)}) + b"\n"
