"""Generation: many texts grow together, a step at a time; requests join and leave between steps.

A prompt is read in one ragged call with the other prompts that wait (in pieces, if it is long, so that running
texts go on between them). A text that is done, or that nobody waits for any more, gives its slot away before the
next step, and the last row moves into its place.

Knows slots and whose turn it is. Leaves the rows to table.py and the work on them to dispatch.py.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence

from models.state import State
from models.tasks.generate import GeneratedText
from service.errors import Overloaded, ServiceError, Unavailable
from service.scheduling.cost_model import CostModel
from service.scheduling.decoding_batch import Ints, Limits, Observer, Table, Text, Writer
from service.scheduling.decoding_work import Prefill, Steps
from service.scheduling.job import Job, fail_all

log = logging.getLogger(__name__)

SWEEP_EVERY_S = 0.05  # the queue is searched for clients that have gone this often


class StepScheduler:
    """The table and the queue of one bundle. Not thread-safe: one thread submits, takes and settles."""

    def __init__(
        self,
        writer: Writer,
        *,
        limits: Limits,
        clock: Callable[[], float],
        observer: Observer,
        cost: CostModel | None = None,
    ) -> None:
        self._table = Table(writer, limits=limits, clock=clock, observer=observer, cost=cost or CostModel())
        self._waiting: deque[Text] = deque()
        self._waiting_tokens = 0
        self._next_sweep_s = 0.0
        self._prefilled_last = False
        self._closed = False

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing runs."""
        return not (self._waiting or len(self._table) or self._table.in_hand)

    def submit(self, ticket: Job, texts: Sequence[tuple[Ints, GeneratedText]]) -> None:
        """Queue all texts of a ticket, each a prompt (T,) with T >= 1, or none: raises Overloaded or Unavailable."""
        queued = [Text(ticket, index, *text) for index, text in enumerate(texts)]
        tokens = sum(text.cost_tokens for text in queued)
        self.check_room(len(queued), tokens)
        self._waiting.extend(queued)
        self._waiting_tokens += tokens

    def check_room(self, items: int, tokens: int = 0) -> None:
        """Raise Overloaded or Unavailable if so much more is not taken: worth asking before it is encoded."""
        if self._closed:
            raise Unavailable("the service is shutting down: send the request to another replica")
        if self.is_full(items, tokens):
            raise self.overload()

    def is_full(self, items: int, tokens: int = 0) -> bool:
        """Whether so much more does not fit. A request that is alone fits: the limits on a request bound it."""
        limits, waiting = self._table.limits, len(self._waiting)
        return bool(waiting) and (
            waiting + items > limits.queue_items or self._waiting_tokens + tokens > limits.queue_tokens
        )

    def overload(self) -> Overloaded:
        """What is said when it is full."""
        return Overloaded(
            f"{len(self._waiting)} texts of {self._waiting_tokens} tokens are waiting already: come back later",
            retry_after_s=1.0,
            limit=self._table.limits.queue_items,
        )

    def take(self) -> "Prefill | Steps | None":
        """The next piece of work, None when there is nothing to do."""
        table, now = self._table, self._table.clock()
        self._drop_the_dead(now)
        self._admit(now)
        table.observer.table(waiting=len(self._waiting), active=len(table))
        # Prompts and steps take turns, so that neither a stream of newcomers nor a full table stops the other.
        if table.reading and not (table.active and self._prefilled_last):
            self._prefilled_last = True
            group = self._readers()
            table.in_hand = [text for text, _ in group]
            return Prefill(table, group)
        if table.active:
            self._prefilled_last, table.in_hand = False, list(table.active)
            return Steps(table)
        return None

    def _readers(self) -> list[tuple[Text, State]]:
        """Take the prompts to be read in the next call out of those that are being read: by turns, as many as fit."""
        limits, reading, longest, count = self._table.limits, self._table.reading, 0, 0
        for text, _ in reading:
            longest = max(longest, min(len(text.prompt) - text.fed, limits.prefill_steps))
            if count and longest * (count + 1) > limits.prefill_tokens:
                break
            count += 1
        group, self._table.reading = reading[:count], reading[count:]
        return group

    def _drop_the_dead(self, now: float) -> None:
        table = self._table
        if table.active:
            if now >= table.roster.deadline_s:
                table.push()  # what was written before an error comes before it
            # Before every step: so in one go, for there is hardly ever anything to do.
            if any([ticket.expire(now) for ticket in table.roster.tickets]):
                for row in range(len(table.active) - 1, -1, -1):
                    if table.active[row].ticket.settled:
                        table.remove(row)
        table.reading = [(text, state) for text, state in table.reading if not text.ticket.expire(now)]
        self.drop_the_gone()

    def drop_the_gone(self) -> None:
        """Make room in the queue. A long one is not walked at every step, but every SWEEP_EVERY_S at most."""
        now = self._table.clock()
        if now >= self._next_sweep_s:
            self._next_sweep_s = now + SWEEP_EVERY_S
            self._waiting = deque([text for text in self._waiting if not text.ticket.expire(now)])
            self._waiting_tokens = sum(text.cost_tokens for text in self._waiting)

    def _admit(self, now: float) -> None:
        free = self._table.limits.slots - len(self._table)
        while free > 0 and self._waiting:
            text = self._waiting.popleft()
            self._waiting_tokens -= text.cost_tokens
            if text.ticket.expire(now):
                continue
            text.ticket.start(now)
            self._table.observer.waited(now - text.ticket.arrived_s)
            begins = text.continuation.initial_state
            self._table.reading.append((text, self._table.writer.zeros(1) if begins is None else begins))
            free -= 1

    def abandon(self, error: ServiceError) -> None:
        """Fail everybody, whatever state their texts are in."""
        table = self._table
        try:
            table.push()
        except Exception:  # a scheduler has failed: they must hear of that, whatever state the table is in
            log.exception("what was drawn last is lost")
        texts = [*table.in_hand, *self._waiting, *table.active, *(text for text, _ in table.reading)]
        fail_all((text.ticket for text in texts), error)
        table.in_hand = []

    def close(self) -> None:
        """Accept nothing more; what was accepted is still written."""
        self._closed = True
