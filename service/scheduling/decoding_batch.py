"""The running texts of one language model: a table of slots, and how texts join, leave, finish and fail.

Row i of the state belongs to text i, without gaps, so that a step runs on the arrays as they lie. Knows rows and
tickets. Does not know who is next: that is steps.py.  T steps, B rows, V vocabulary.
"""

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models import state as states
from models.state import State
from models.tasks.generate import GeneratedText, TokenSampler
from service.errors import InternalError, ServiceError
from service.scheduling.cost_model import CostModel
from service.scheduling.job import Job

log = logging.getLogger(__name__)

Ints = NDArray[np.int32]

# One reader of a stream is told and sent to in about 30 µs. At most once in so long for each reader that there is, so
# that all of them together take a tenth of the time; one that is alone is told after every dispatch.
TELL_S = 0.0005


class Writer(Protocol):
    """A language model: `advance` consumes tokens (T, B), ragged by lengths (B,), and tells what may follow."""

    def zeros(self, rows: int) -> State: ...
    def room(self) -> State:
        """A state of no rows: where a table begins, so that rows can join it in place."""
        ...

    def advance(self, tokens: Ints, lengths: Ints, state: State) -> tuple[NDArray[np.float32], State]: ...


class Observer(Protocol):
    """What a scheduler tells of itself."""

    def steps(self, *, rows: int, count: int, compute_s: float) -> None: ...
    def prefill(self, *, rows: int, padded_tokens: int, real_tokens: int, compute_s: float) -> None: ...
    def first_token(self, seconds: float) -> None: ...
    def waited(self, seconds: float) -> None: ...
    def tokens(self, *, count: int, gap_s: float) -> None: ...
    def table(self, *, waiting: int, active: int) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How many texts grow at once and how much may wait."""

    slots: int = 64
    queue_items: int = 1024
    queue_tokens: int = 262_144  # of prompts and of texts to be written
    prefill_steps: int = 128  # of a prompt in one call: bounds how long running texts pause for a new one
    prefill_tokens: int = 2048  # padded, of all prompts in one call: likewise
    # Steps are taken together up to this time: a turn of the loop, with all that is told and looked at between two,
    # costs about 0.1 ms. It bounds how long a newcomer, a neighbour's request or a client's leaving is not seen.
    dispatch_s: float = 0.003


class Text:
    """One text on its way: its prompt as tokens, how much of it has been read, and what has been written."""

    __slots__ = ("continuation", "fed", "index", "prompt", "ticket")

    def __init__(self, ticket: Job, index: int, prompt: Ints, continuation: GeneratedText) -> None:
        self.ticket, self.index, self.prompt, self.continuation = ticket, index, prompt, continuation
        self.fed = 0

    @property
    def cost_tokens(self) -> int:
        """Tokens to be read and, at most, to be written."""
        return len(self.prompt) + self.continuation.options.max_new_tokens


class Roster:
    """What holds of the active texts until one of them leaves or another joins: to look at each at every step is dear.

    `left` counts the steps until the first of them has its length, `deadline_s` is the first of their deadlines,
    `drawn` holds the tokens (B,) of the last steps that have not been pushed to the texts that only a length can end.
    """

    def __init__(self, texts: Sequence[Text]) -> None:
        continuations = [text.continuation for text in texts]
        self.tickets = tuple({text.ticket: None for text in texts})
        self.watched = [row for row, text in enumerate(continuations) if text.has_stop_strings]
        self.left = min(text.remaining_tokens for text in continuations)
        self.deadline_s = min(ticket.request.deadline_s for ticket in self.tickets)
        self.sampler: TokenSampler | None = None  # made when it is needed
        self.drawn: list[NDArray[np.int64]] = []


class Table:
    """The texts that are being read or written, and everything that a piece of work needs to advance them."""

    def __init__(
        self, writer: Writer, *, limits: Limits, clock: Callable[[], float], observer: Observer, cost: CostModel
    ) -> None:
        self.writer, self.clock, self.observer, self.limits, self.cost = writer, clock, observer, limits, cost
        self.reading: list[tuple[Text, State]] = []  # admitted, the prompt not read to its end
        self.active: list[Text] = []  # row i of the state
        self.state: State = ()
        self.tokens: Ints = np.empty(0, np.int32)  # (B,) the newest token of each row, not yet consumed
        self._roster: Roster | None = None  # None after the table has changed
        self.in_hand: list[Text] = []  # texts of the piece of work that has been handed out and has not settled
        self.stepped_s = 0.0  # when the active rows got their newest tokens

    def __len__(self) -> int:
        """Slots that are taken."""
        return len(self.active) + len(self.reading)

    @property
    def roster(self) -> Roster:
        """Of the active texts: there must be one."""
        if self._roster is None:
            self._roster = Roster(self.active)
        return self._roster

    def push(self) -> list[int]:
        """Give the texts what was drawn for them: many steps together, where no text has to be watched.

        Returns the rows whose texts have their length by that: none while the roster has steps `left`.
        """
        if self._roster is None or not self._roster.drawn:
            return []
        drawn, self._roster.drawn = np.stack(self._roster.drawn, axis=1).tolist(), []  # (B, steps)
        watched = set(self._roster.watched)
        return [
            row
            for row, (text, tokens) in enumerate(zip(self.active, drawn, strict=True))
            if row not in watched and text.continuation.extend(tokens)
        ]

    def advance(self, tokens: Ints, lengths: Ints, state: State) -> tuple[NDArray[np.float32], State]:
        """As the writer's; raises ValueError unless it answers for every row."""
        following, after = self.writer.advance(tokens, lengths, state)
        if len(following) != len(lengths):
            raise ValueError(f"{len(following)} rows came back of {len(lengths)}")
        return following, after

    def join(self, texts: Sequence[Text], tokens: Sequence[int], state: State) -> None:
        """New rows below the table."""
        self._change()
        if not self.active:
            self.state = self.writer.room()
        self.active.extend(texts)
        self.state = states.append(self.state, state)
        self.tokens = np.concatenate([self.tokens, np.asarray(tokens, np.int32)])

    def remove(self, row: int) -> None:
        """Free a slot: the last row takes its place."""
        self._change()
        last = self.active.pop()
        if row < len(self.active):
            self.active[row] = last
        (self.tokens,) = states.drop((self.tokens,), row)
        self.state = states.drop(self.state, row)

    def _change(self) -> None:
        self.push()
        self._roster = None

    def tell(self, tickets: Collection[Job], now: float) -> None:
        """Let those who follow their texts know that they have grown, as often as there is time for it."""
        followed = [ticket for ticket in tickets if ticket.follow is not None]
        pace_s = TELL_S * len(followed)
        due = [ticket for ticket in followed if now - ticket.told_s >= pace_s]
        if due:
            self.push()
        for ticket in due:
            ticket.tell(now)

    def finish(self, text: Text, state: State, row: int = 0) -> None:
        """Hand a finished text to its waiter, with its row of the state if that was asked for."""
        if text.continuation.options.return_state:
            text.continuation.take_snapshot(states.take(state, [row]))
        text.ticket.succeed(text.index, text.continuation)

    def fail(self, text: Text, error: BaseException) -> None:
        """Tell the waiter, and who follows the other texts of the request what was written of them before."""
        self.push()
        request_id, count = text.ticket.request.request_id, len(text.continuation.tokens)
        log.error("request %s: a text failed after %d tokens", request_id, count, exc_info=error)
        text.ticket.fail(error if isinstance(error, ServiceError) else InternalError())
