"""The owner's end: tickets of all workers, in the schedulers of one engine. Knows no HTTP and no bundle."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from models.tasks import Generation
from models.tasks.generate import GeneratedText
from service.errors import ClientGone, InternalError, ServiceError
from service.model_runtime import ModelRuntime
from service.owner.message import Error, Gone, Grown, Hello, Joined, Room, Settled, Spent, Submit, Told
from service.owner.wire import Peer
from service.scheduling.inference_request import InferenceRequest
from service.scheduling.job import Job

log = logging.getLogger(__name__)

ROOM_EVERY_S = 0.01  # it is looked at this often whether a lane has become full, or is full no longer
BEAT_S = 1.0  # a worker hears of its owner this often at least


@dataclass(eq=False, slots=True)
class Held:
    """A ticket of a worker while it is here. `told` counts the tokens of each text that the worker knows."""

    texts: Sequence[GeneratedText] = ()
    told: list[int] = field(default_factory=list)
    done: set[int] = field(default_factory=set)
    gone: bool = False
    ticket: Job | None = None

    def release(self) -> Job | None:
        """Let the ticket go, or it and its call would hold each other until the collector comes."""
        ticket, self.ticket = self.ticket, None
        return ticket

    def news(self) -> list[Grown]:
        """Return what the texts have got that the worker does not know."""
        assert self.ticket is not None
        found = []
        for part, text in enumerate(self.texts):
            if part in self.done:
                continue
            done = self.ticket.results[part] is not None
            since, until = self.told[part], len(text.pieces)
            if until == since and not done:
                continue
            self.told[part] = until
            if done:
                self.done.add(part)
            found.append(
                Grown(
                    part=part,
                    tokens=text.tokens[since:until],
                    log_probabilities=text.log_probabilities[since:until],
                    alternatives=text.alternatives[since:until],
                    done=done,
                    finish_reason=text.finish_reason if done else None,
                    memory=text.memory if done else None,
                )
            )
        return found


class Guest:
    """One worker, as the owner sees it."""

    def __init__(self, lanes: Mapping[str, ModelRuntime], left: Callable[["Guest"], None], hello: Hello) -> None:
        self._lanes, self._left = lanes, left
        self._held: dict[int, Held] = {}
        self.joined = False  # who only looks what there is does not
        self.peer = Peer(self._hear, self._lose)
        self.peer.say(hello)

    def _hear(self, said: Sequence[Any]) -> None:
        for word in said:
            if isinstance(word, Joined):
                self.joined = True
            elif isinstance(word, Submit):
                self._take(word)
            elif isinstance(word, Gone) and (held := self._held.pop(word.number, None)) is not None:
                held.gone = True
                if (ticket := held.release()) is not None:
                    ticket.fail(ClientGone())

    def _take(self, word: Submit) -> None:
        spent = word.spent
        call = InferenceRequest(
            request_id=word.request_id,
            route=word.route,
            deadline_s=word.deadline_s,
            gone=lambda: held.gone,
            compute_s=spent.compute_s,
            batch_items=spent.batch_items,
        )
        held = self._held[word.number] = Held()
        try:
            self._submit(word, held, call)
        except Exception as error:  # its waiter must hear of it, whatever it is
            if not isinstance(error, ServiceError):
                log.exception("request %s: what it asks of %s could not be queued", word.request_id, word.lane)
            del self._held[word.number]
            self._settle(word.number, (), error if isinstance(error, ServiceError) else InternalError(), call)

    def _submit(self, word: Submit, held: Held, call: InferenceRequest) -> None:
        lane, parts, number = self._lanes[word.lane], word.parts, word.number
        if not word.graph and isinstance(lane.bundle.task, Generation):
            parts = [(reading, lane.resume(start)) for reading, start in parts]
            held.texts = [text for _, text in parts]
            held.told = [0] * len(parts)
        follow = (lambda: self._grown(number, held, call)) if word.followed else None
        held.ticket = lane.submit(call, parts, lambda: self._settled(number, held, call), follow)

    def _grown(self, number: int, held: Held, call: InferenceRequest) -> None:
        if grown := held.news():
            self.peer.say(Told(number=number, grown=grown, spent=Spent.of(call)))

    def _settled(self, number: int, held: Held, call: InferenceRequest) -> None:
        if self._held.pop(number, None) is None or held.ticket is None:
            return  # its worker does not wait for it
        results: Sequence[Any] = held.news() if held.texts else held.ticket.results
        error = held.ticket.error
        held.release()
        self._settle(number, results if held.texts or error is None else (), error, call)

    def _settle(self, number: int, results: Sequence[Any], error: ServiceError | None, call: InferenceRequest) -> None:
        told, spent = None if error is None else Error.of(error), Spent.of(call)
        try:
            self.peer.say(Settled(number=number, results=results, error=told, spent=spent))
        except Exception:  # its waiter must hear of it: what cannot be sent is a bug of ours
            log.exception("request %s: its results cannot be sent", call.request_id)
            self.peer.say(Settled(number=number, results=(), error=Error.of(InternalError()), spent=spent))

    def _lose(self) -> None:
        left, self._held = self._held, {}
        for held in left.values():
            held.gone = True
            if (ticket := held.release()) is not None:
                ticket.fail(ClientGone())
        self._left(self)


class Owner:
    """Serves the lanes of one engine to the workers that connect, and tells them when there is no room."""

    def __init__(self, lanes: Mapping[str, ModelRuntime]) -> None:
        self._lanes = lanes
        self.hello = Hello({name: (lane.bundle.digest, lane.bundle.variant) for name, lane in lanes.items()})
        self._guests: set[Guest] = set()
        self._full: dict[str, bool] = dict.fromkeys(lanes, False)
        self.left_s: float | None = None  # when the last worker that had joined left

    @property
    def guests(self) -> int:
        """How many workers have joined."""
        return sum(guest.joined for guest in self._guests)

    def welcome(self) -> Peer:
        """Return the end of a new connection."""
        guest = Guest(self._lanes, self._leave, self.hello)
        self._guests.add(guest)
        return guest.peer

    def _leave(self, guest: Guest) -> None:
        self._guests.discard(guest)
        if guest.joined:
            self.left_s = monotonic()

    async def tell_room(self) -> None:
        """Tell all workers, for ever, what has become full and what no longer is; now and then, that one is there."""
        told_s = monotonic()
        while True:
            await asyncio.sleep(ROOM_EVERY_S)
            now_s = monotonic()
            changed: dict[str, Error | None] = {}
            for name, lane in self._lanes.items():
                full = lane.scheduler.is_full(1)  # how many requests a worker may have under way is its own affair
                if full or self._full[name]:
                    changed[name] = Error.of(lane.scheduler.overload()) if full else None
                self._full[name] = full
            if changed or now_s - told_s > BEAT_S:
                told_s = now_s
                for guest in self._guests:
                    guest.peer.say(Room(changed))
