"""Generation: many texts grow together, a step at a time; requests join and leave between steps.

A table of slots holds one row of recurrent state for each running text, without gaps, so that a step runs on the
arrays as they lie. A prompt is read in one ragged call with the other prompts that wait (in pieces, if it is
long, so that running texts go on between them). A text that is done, or that nobody waits for any more, gives its
slot away before the next step, and the last row moves into its place.

Knows rows, slots and tickets. Knows no network but the Writer that it is handed.  T steps, B rows, V vocabulary.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models import state as states
from models.padding import pad
from models.sampling import Rows
from models.state import State
from models.tasks.generate import Continuation, choose
from service.batching.cost import CostModel
from service.batching.ticket import Ticket
from service.errors import InternalError, Overloaded, ServiceError, Unavailable

log = logging.getLogger(__name__)

Ints = NDArray[np.int32]


class Writer(Protocol):
    """A language model: `advance` consumes tokens (T, B), ragged by lengths (B,), and tells what may follow."""

    def zeros(self, rows: int) -> State: ...
    def advance(self, tokens: Ints, lengths: Ints, state: State) -> tuple[NDArray[np.float32], State]: ...


class Observer(Protocol):
    """What a scheduler tells of itself."""

    def steps(self, *, rows: int, count: int, compute_s: float) -> None: ...
    def prefill(self, *, rows: int, padded_tokens: int, real_tokens: int, compute_s: float) -> None: ...
    def first_token(self, seconds: float) -> None: ...
    def finished(self, *, tokens: int, seconds: float) -> None: ...
    def table(self, *, waiting: int, active: int) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How many texts grow at once and how many may wait."""

    slots: int = 64
    queue_items: int = 1024
    prefill_steps: int = 128  # of a prompt in one call: bounds how long running texts pause for a new one
    prefill_tokens: int = 2048  # padded, of all prompts in one call: likewise
    dispatch_s: float = 0.001  # steps are taken together up to this time: a turn of the loop costs tens of microseconds


class Text:
    """One text on its way: its prompt as tokens, how much of it has been read, and what has been written."""

    __slots__ = ("continuation", "fed", "first_s", "index", "prompt", "ticket")

    def __init__(self, ticket: Ticket, index: int, prompt: Ints, continuation: Continuation) -> None:
        self.ticket, self.index, self.prompt, self.continuation = ticket, index, prompt, continuation
        self.fed = 0
        self.first_s: float | None = None


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
        self.writer, self.clock, self.observer, self.limits = writer, clock, observer, limits
        self.cost = cost or CostModel()
        self._waiting: deque[Text] = deque()
        self._reading: list[tuple[Text, State]] = []  # admitted, the prompt not read to its end
        self.active: list[Text] = []  # row i of the table
        self.state: State = ()
        self.tokens: Ints = np.empty(0, np.int32)  # (B,) the newest token of each row, not yet consumed
        self.settings: Rows | None = None  # of the active rows; None after the table has changed
        self._prefilled_last = False
        self._running = False
        self._closed = False

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing runs."""
        return not (self._waiting or self._reading or self.active or self._running)

    def submit(self, ticket: Ticket, texts: Sequence[tuple[Ints, Continuation]]) -> None:
        """Queue all texts of a ticket, each a prompt (T,) with T >= 1, or none: raises Overloaded or Unavailable."""
        if self._closed:
            raise Unavailable("the service is shutting down: send the request to another replica")
        waiting, limit = len(self._waiting), self.limits.queue_items
        if waiting and waiting + len(texts) > limit:
            raise Overloaded(
                f"{waiting} texts are waiting already, the limit is {limit}: come back later",
                retry_after_s=1.0,
                limit=limit,
            )
        self._waiting.extend(Text(ticket, index, *text) for index, text in enumerate(texts))

    def take(self) -> "Prefill | Steps | None":
        """The next piece of work, None when there is nothing to do."""
        now = self.clock()
        self._drop_the_dead(now)
        self._admit(now)
        self.observer.table(waiting=len(self._waiting), active=len(self.active) + len(self._reading))
        # Prompts and steps take turns, so that neither a stream of newcomers nor a full table stops the other.
        if self._reading and not (self.active and self._prefilled_last):
            self._prefilled_last, self._running = True, True
            return Prefill(self, self._readers())
        if self.active:
            self._prefilled_last, self._running = False, True
            return Steps(self)
        return None

    def _readers(self) -> list[tuple[Text, State]]:
        """Take the prompts to be read in the next call out of those that are being read: the oldest that fit."""
        limits, longest, count = self.limits, 0, 0
        for text, _ in self._reading:
            longest = max(longest, min(len(text.prompt) - text.fed, limits.prefill_steps))
            if count and longest * (count + 1) > limits.prefill_tokens:
                break
            count += 1
        group, self._reading = self._reading[:count], self._reading[count:]
        return group

    def _drop_the_dead(self, now: float) -> None:
        for row in range(len(self.active) - 1, -1, -1):
            if self.active[row].ticket.expire(now):
                self.remove(row)
        self._reading = [(text, state) for text, state in self._reading if not text.ticket.expire(now)]
        if any(text.ticket.expire(now) for text in self._waiting):
            self._waiting = deque(text for text in self._waiting if not text.ticket.settled)

    def _admit(self, now: float) -> None:
        free = self.limits.slots - len(self.active) - len(self._reading)
        while free > 0 and self._waiting:
            text = self._waiting.popleft()
            text.ticket.start(now)
            self._reading.append((text, self.writer.zeros(1)))
            free -= 1

    def advance(self, tokens: Ints, lengths: Ints, state: State) -> tuple[NDArray[np.float32], State]:
        """As the writer's; raises ValueError unless it answers for every row."""
        following, after = self.writer.advance(tokens, lengths, state)
        if len(following) != len(lengths):
            raise ValueError(f"{len(following)} rows came back of {len(lengths)}")
        return following, after

    def join(self, texts: Sequence[Text], tokens: Sequence[int], state: State) -> None:
        """New rows below the table."""
        self.active.extend(texts)
        self.state = states.join([self.state, state]) if self.state and len(self.tokens) else state
        self.tokens = np.concatenate([self.tokens, np.asarray(tokens, np.int32)])
        self.settings = None

    def remove(self, row: int) -> None:
        """Free a slot: the last row takes its place."""
        last = self.active.pop()
        if row < len(self.active):
            self.active[row] = last
        (self.tokens,) = states.drop((self.tokens,), row)
        self.state = states.drop(self.state, row)
        self.settings = None

    def keep_reading(self, text: Text, state: State) -> None:
        self._reading.append((text, state))

    def wrote(self, text: Text, token: int, now: float) -> bool:
        """Take a drawn token; True when the text is done."""
        if text.first_s is None:
            text.first_s = now
        return text.continuation.push(token)

    def finish(self, text: Text, now: float) -> None:
        """Hand a finished text to its waiter."""
        count = len(text.continuation.tokens)
        if text.first_s is not None:
            self.observer.first_token(text.first_s - text.ticket.arrived_s)
            self.observer.finished(tokens=count, seconds=now - text.first_s)
        text.ticket.succeed(text.index, text.continuation)

    def fail(self, text: Text, error: BaseException) -> None:
        log.error("a text failed after %d tokens", len(text.continuation.tokens), exc_info=error)
        text.ticket.fail(error if isinstance(error, ServiceError) else InternalError())

    def settled(self) -> None:
        self._running = False

    def close(self) -> None:
        """Accept nothing more; what was accepted is still written."""
        self._closed = True


class Prefill:
    """Read the next piece of several prompts in one ragged call, and draw the first token of those at their end."""

    def __init__(self, scheduler: StepScheduler, group: list[tuple[Text, State]]) -> None:
        self._scheduler, self._group = scheduler, group
        self._outcomes: list[tuple[Text, State | None, int | BaseException | None]] = []
        self._calls: list[tuple[list[Text], int, int, float]] = []  # texts, padded and real tokens, seconds
        longest = max(min(len(text.prompt) - text.fed, scheduler.limits.prefill_steps) for text, _ in group)
        self.estimate_s = scheduler.cost.seconds(len(group), longest)

    def run(self) -> None:
        try:
            self._outcomes = self._read(self._group)
        except Exception:  # somebody in the group is at fault: find out who, and let the others go on
            for member in self._group:
                try:
                    self._outcomes += self._read([member])
                except Exception as error:  # its waiter must hear of it, whatever it is
                    self._outcomes.append((member[0], None, error))

    def _read(self, group: list[tuple[Text, State]]) -> list[tuple[Text, State | None, int | BaseException | None]]:
        scheduler = self._scheduler
        texts = [text for text, _ in group]
        pieces = [text.prompt[text.fed : text.fed + scheduler.limits.prefill_steps] for text in texts]
        tokens, lengths = pad(pieces)
        started = scheduler.clock()
        following, state = scheduler.advance(tokens, lengths, states.join([state for _, state in group]))
        ended = [row for row, text in enumerate(texts) if text.fed + len(pieces[row]) >= len(text.prompt)]
        drawn: dict[int, int] = {}
        if ended:
            rows = [texts[row].continuation for row in ended]
            settings = Rows.of([row.options.sampling for row in rows])
            drawn = dict(zip(ended, choose(following[ended], rows, settings).tolist(), strict=True))
        self._calls.append((texts, tokens.size, int(lengths.sum()), scheduler.clock() - started))
        for text, piece in zip(texts, pieces, strict=True):
            text.fed += len(piece)
        return [(text, states.take(state, [row]), drawn.get(row)) for row, text in enumerate(texts)]

    def settle(self) -> None:
        scheduler = self._scheduler
        now = scheduler.clock()
        for texts, padded, real, seconds in self._calls:
            scheduler.observer.prefill(rows=len(texts), padded_tokens=padded, real_tokens=real, compute_s=seconds)
            scheduler.cost.learn(len(texts), padded // len(texts), seconds)
            for ticket in {text.ticket for text in texts}:
                ticket.ran(seconds, len(texts))
        joining: list[tuple[Text, int, State]] = []
        for text, state, outcome in self._outcomes:
            if isinstance(outcome, BaseException):
                scheduler.fail(text, outcome)
            elif state is not None and outcome is None:
                scheduler.keep_reading(text, state)
            elif state is not None and isinstance(outcome, int):
                if scheduler.wrote(text, outcome, now):
                    scheduler.finish(text, now)
                else:
                    joining.append((text, outcome, state))
        if joining:
            joined, tokens, parts = zip(*joining, strict=True)
            scheduler.join(joined, tokens, states.join(parts))
        scheduler.settled()


class Steps:
    """Advance the whole table, one step or a few, until a text is done or the time of a dispatch is over."""

    def __init__(self, scheduler: StepScheduler) -> None:
        self._scheduler = scheduler
        step_s = scheduler.cost.seconds(len(scheduler.active), 1)
        self._count = max(1, int(scheduler.limits.dispatch_s / step_s))
        self.estimate_s = self._count * step_s
        self._done: list[int] = []
        self._failed: dict[int, BaseException] = {}
        self._ran, self._seconds = 0, 0.0

    def run(self) -> None:
        scheduler = self._scheduler
        started, count = scheduler.clock(), 0
        while count < self._count and not self._done and not self._failed:
            self._step()
            count += 1
        self._ran, self._seconds = count, scheduler.clock() - started

    def _step(self) -> None:
        scheduler = self._scheduler
        active = scheduler.active
        if scheduler.settings is None:
            scheduler.settings = Rows.of([text.continuation.options.sampling for text in active])
        try:
            lengths = np.ones(len(active), np.int32)
            following, state = scheduler.advance(scheduler.tokens[None, :], lengths, scheduler.state)
            drawn = choose(following, [text.continuation for text in active], scheduler.settings)
        except Exception:  # nothing has been changed yet: find the row at fault, and let the others go on
            self._step_apart()
            return
        scheduler.state, scheduler.tokens = state, drawn.astype(np.int32)
        for row, token in enumerate(drawn.tolist()):
            if active[row].continuation.push(token):
                self._done.append(row)

    def _step_apart(self) -> None:
        """One step, row by row: slow, and only taken when the table failed as a whole."""
        scheduler = self._scheduler
        one = np.ones(1, np.int32)
        parts: list[State] = []
        tokens = scheduler.tokens.copy()
        for row, text in enumerate(scheduler.active):
            before = states.take(scheduler.state, [row])
            try:
                following, after = scheduler.advance(scheduler.tokens[None, row : row + 1], one, before)
                settings = Rows.of([text.continuation.options.sampling])
                (token,) = choose(following, [text.continuation], settings).tolist()
            except Exception as error:  # its waiter must hear of it, whatever it is
                self._failed[row] = error
                parts.append(before)
                continue
            parts.append(after)
            tokens[row] = token
            if text.continuation.push(token):
                self._done.append(row)
        scheduler.state, scheduler.tokens = states.join(parts), tokens

    def settle(self) -> None:
        scheduler = self._scheduler
        now, rows = scheduler.clock(), len(scheduler.active)
        scheduler.cost.learn(rows, 1, self._seconds / self._ran)
        scheduler.observer.steps(rows=rows, count=self._ran, compute_s=self._seconds)
        for ticket in {text.ticket for text in scheduler.active}:
            ticket.ran(self._seconds, rows)
        # From the last row to the first: removing a row moves only rows that were dealt with.
        for row in sorted({*self._done, *self._failed}, reverse=True):
            text = scheduler.active[row]
            scheduler.remove(row)
            if row in self._failed:
                scheduler.fail(text, self._failed[row])
            else:
                scheduler.finish(text, now)
        scheduler.settled()
