"""A worker's end: Remotes stand where schedulers stand when a worker runs its networks itself.

What is handed over is answered whatever happens: by the owner, or with Unavailable when it is lost, or with the
deadline a little later than the owner would have said it. Knows tickets. Knows no bundle and no HTTP.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from models.tasks.generate import GeneratedText
from service.errors import Overloaded, ServiceError, Unavailable
from service.owner.message import Error, Gone, Hello, Joined, Room, Settled, Spent, Submit, Told, begun
from service.owner.start import OwnerFailed, Starts
from service.owner.wire import Peer
from service.scheduling.job import Job
from service.settings import BadSetting

log = logging.getLogger(__name__)

SWEEP_EVERY_S = 0.05  # clients that have gone are told to the owner this often
SILENT_S = 10.0  # an owner that has said nothing for so long hangs: it has something to say every second
GRACE_S = 1.0  # after a deadline the owner is given so much longer to say so itself
AGAIN_S = 0.2  # between two attempts to reach an owner that is not there
FAILED_S = 1.0  # and after one that could not be started, or has other bundles


class Connection:
    """The connection of one worker to the owner, made anew whenever it is lost. For the loop's thread.

    `hello` is what the owner must have: what this worker has. `start` starts an owner where none is.
    """

    def __init__(self, path: str, hello: Hello, *, clock: Callable[[], float], start: Starts) -> None:
        self._path, self.hello, self._clock, self._start = path, hello, clock, start
        self._peer: Peer | None = None
        self._arriving: Peer | None = None  # has not said what it has
        self._open: dict[int, tuple[Job, Sequence[GeneratedText]]] = {}
        self._number = 0
        self._full: dict[str, Error | None] = {}
        self._heard_s = self._next_sweep_s = 0.0
        self._chores: list[asyncio.Task[None]] = []

    @property
    def connected(self) -> bool:
        """Whether there is an owner to hand work to."""
        return self._peer is not None

    def begin(self) -> None:
        """Connect, and stay connected until `close`. To be called on the running loop."""
        self._chores = [asyncio.ensure_future(self._stay()), asyncio.ensure_future(self._sweep_forever())]

    def close(self) -> None:
        """End the connection. Who still waits must have been told."""
        for chore in self._chores:
            chore.cancel()
        for peer in (self._peer, self._arriving):
            if peer is not None:
                peer.close()

    def refusal(self, lane: str) -> ServiceError | None:
        """Return why a newcomer to a lane is not taken, None if it is; an error of its own for everybody."""
        if self._peer is None:
            return Unavailable("the process that has the models is being started; try again in a moment")
        full = self._full.get(lane)
        return None if full is None else full.error()

    def hand_over(self, ticket: Job, lane: str, parts: Any, *, graph: bool, texts: bool) -> None:
        """Let the owner settle a ticket. Raises the refusal of its lane; arrays have a queue of their own."""
        refusal = self.refusal(lane)
        if refusal is not None and not (graph and self.connected):
            raise refusal
        assert self._peer is not None
        self._number += 1
        call = ticket.call
        self._peer.say(
            Submit(
                number=self._number,
                lane=lane,
                graph=graph,
                parts=begun(parts) if texts else parts,
                request_id=call.request_id,
                route=call.route,
                deadline_s=call.deadline_s,
                followed=ticket.follow is not None,
                spent=Spent.of(call),
            )
        )
        self._open[self._number] = ticket, [text for _, text in parts] if texts else []

    def sweep(self) -> None:
        """Tell the owner who has gone, and give up what it should have answered by now. SWEEP_EVERY_S at most."""
        now_s = self._clock()
        if now_s < self._next_sweep_s:
            return
        self._next_sweep_s = now_s + SWEEP_EVERY_S
        if self._peer is not None and now_s - self._heard_s > SILENT_S:
            log.error("the process that has the models has said nothing for %g s: it is given up", SILENT_S)
            self._peer.close()
        for number, (ticket, _) in list(self._open.items()):
            if ticket.settled or ticket.call.gone() or now_s >= ticket.call.deadline_s + GRACE_S:
                ticket.expire(now_s)
                del self._open[number]
                if self._peer is not None:
                    self._peer.say(Gone(number))

    async def _sweep_forever(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            self.sweep()
            self._start.reap()

    async def _stay(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            lost = asyncio.Event()
            # Known before it is connected: its first word may come before this coroutine goes on.
            peer = self._arriving = Peer(self._hear, lost.set)
            try:
                await loop.create_unix_connection(lambda peer=peer: peer, self._path)  # type: ignore[misc]
            except OSError:
                await self._restart()
                continue
            await lost.wait()
            if self._peer is None:  # it never was the right one
                await asyncio.sleep(FAILED_S)
                continue
            log.error("the process that has the models has ended: what it had not answered fails")
            self._lose()
            await asyncio.sleep(AGAIN_S)

    async def _restart(self) -> None:
        try:
            self._start()
        except (OwnerFailed, BadSetting, OSError) as error:  # tried again: without one this worker is of no use
            log.critical("%s", error)
            await asyncio.sleep(FAILED_S)
        await asyncio.sleep(AGAIN_S)

    def _lose(self) -> None:
        self._peer = None
        waiting, self._open = list(self._open.values()), {}
        for ticket, _ in waiting:
            ticket.fail(Unavailable("the process that has the models has ended: send the request again"))

    def _hear(self, said: Sequence[Any]) -> None:
        self._heard_s = self._clock()
        for word in said:
            if isinstance(word, Hello):
                self._greet(word)
            elif isinstance(word, Room):
                self._full |= word.full
            elif (opened := self._open.get(word.number)) is not None:
                self._take(word, *opened)

    def _greet(self, hello: Hello) -> None:
        arriving, self._arriving = self._arriving, None
        if hello == self.hello:
            self._peer, self._full = arriving, {}
            if arriving is not None:
                arriving.say(Joined())
        elif arriving is not None:
            log.critical("the process that has the models has others than this worker: restart the service")
            arriving.close()

    def _take(self, word: Told | Settled, ticket: Job, texts: Sequence[GeneratedText]) -> None:
        if ticket.settled:  # its client has gone meanwhile: the sweep says so
            return
        if word.spent.ran_s is not None and ticket.started_s is None:
            ticket.started_s = word.spent.ran_s
        word.spent.note(ticket.call)
        if isinstance(word, Told):
            self._grow(ticket, texts, word.grown)
            ticket.tell(self._clock())
            return
        del self._open[word.number]
        if texts:
            self._grow(ticket, texts, word.results)
        if word.error is not None:
            ticket.fail(word.error.error())
        elif not texts:
            for index, result in enumerate(word.results):
                ticket.succeed(index, result)

    def _grow(self, ticket: Job, texts: Sequence[GeneratedText], grown: Sequence[Any]) -> None:
        for each in grown:
            each.add_to(texts[each.part])
            if each.done:
                ticket.succeed(each.part, texts[each.part])


class Remote:
    """The scheduler, and the pump, of one lane or of its graph: everything is the owner's affair.

    `texts`: what is handed over are texts, which grow over there.
    """

    def __init__(self, connection: Connection, lane: str, *, graph: bool = False, texts: bool = False) -> None:
        self._connection, self._lane, self._graph, self._texts = connection, lane, graph, texts
        self._closed = False

    def submit(self, ticket: Job, parts: Any) -> None:
        """Hand a ticket over. Raises Overloaded or Unavailable."""
        if self._closed:
            raise _closed()
        self._connection.hand_over(ticket, self._lane, parts, graph=self._graph, texts=self._texts)

    def check_room(self, items: int, tokens: int = 0) -> None:
        """Raise Overloaded or Unavailable if the owner has said that it takes no more."""
        if self._closed:
            raise _closed()
        refusal = self._connection.refusal(self._lane)
        if refusal is not None:
            raise refusal

    def is_full(self, items: int, tokens: int = 0) -> bool:
        """Whether the owner has said that its queue is full."""
        return isinstance(self._connection.refusal(self._lane), Overloaded)

    def overload(self) -> Overloaded:
        """What it said."""
        refusal = self._connection.refusal(self._lane)
        return refusal if isinstance(refusal, Overloaded) else Overloaded("come back later", retry_after_s=1.0)

    def drop_the_gone(self) -> None:
        """Look for clients that have gone."""
        self._connection.sweep()

    def wake(self) -> None:
        """Nothing: the owner wakes its pump itself."""

    def close(self) -> None:
        """Accept nothing more; what was handed over is still answered."""
        self._closed = True


def _closed() -> Unavailable:
    return Unavailable("the service is shutting down: send the request to another replica")
