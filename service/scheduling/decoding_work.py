"""Pieces of work on a table: read prompts, take steps. Each runs in whatever thread, then settles on the loop's.

`run` never raises and tells nobody; `settle` hands out what came of it. A failure is traced to the text at fault,
and the others go on.  T steps, B rows, V vocabulary.
"""

import numpy as np

from models import state as states
from models.padding import pad
from models.state import State
from models.tasks.generate import TokenSampler
from service.scheduling.decoding_batch import Table, Text

# Tokens are pushed once so many steps have come together: to give each text one takes a twentieth of a small step.
HELD = 32


class Prefill:
    """Read the next piece of several prompts in one ragged call, and draw the first token of those at their end."""

    def __init__(self, table: Table, group: list[tuple[Text, State]]) -> None:
        self._table, self._group = table, group
        self._outcomes: list[tuple[Text, State | None, int | BaseException | None]] = []
        self._calls: list[tuple[list[Text], int, int, float]] = []  # texts, padded and real tokens, seconds
        longest = max(min(len(text.prompt) - text.fed, table.limits.prefill_steps) for text, _ in group)
        self.estimate_s = table.cost.seconds(len(group), longest)

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
        table = self._table
        texts = [text for text, _ in group]
        pieces = [text.prompt[text.fed : text.fed + table.limits.prefill_steps] for text in texts]
        tokens, lengths = pad(pieces)
        started = table.clock()
        following, state = table.advance(tokens, lengths, states.join([state for _, state in group]))
        # Of one that wants no token only the state is of interest.
        ended = [
            row
            for row, text in enumerate(texts)
            if text.fed + len(pieces[row]) >= len(text.prompt) and text.continuation.options.max_new_tokens
        ]
        drawn: dict[int, int] = {}
        if ended:
            sampler = TokenSampler([texts[row].continuation for row in ended])
            drawn = dict(zip(ended, sampler.sample(following[ended]).tolist(), strict=True))
        self._calls.append((texts, tokens.size, int(lengths.sum()), table.clock() - started))
        for text, piece in zip(texts, pieces, strict=True):
            text.fed += len(piece)
        return [(text, states.take(state, [row]), drawn.get(row)) for row, text in enumerate(texts)]

    def settle(self) -> None:
        table = self._table
        now = table.clock()
        for texts, padded, real, seconds in self._calls:
            table.observer.prefill(rows=len(texts), padded_tokens=padded, real_tokens=real, compute_s=seconds)
            table.cost.learn(len(texts), padded // len(texts), seconds)
            for ticket in {text.ticket for text in texts}:
                ticket.ran(seconds, len(texts))
        joining = [joins for outcome in self._outcomes if (joins := self._deal(*outcome, now))]
        if joining:
            joined, tokens, parts = zip(*joining, strict=True)
            if not table.active:
                table.stepped_s = now
            table.join(joined, tokens, states.join(parts))
        table.in_hand = []

    def _deal(
        self, text: Text, state: State | None, outcome: int | BaseException | None, now: float
    ) -> tuple[Text, int, State] | None:
        """Let one text go where it belongs; what is returned joins the table."""
        table = self._table
        if isinstance(outcome, BaseException):
            table.fail(text, outcome)
        elif state is not None and outcome is None:
            if text.fed < len(text.prompt):
                table.reading.append((text, state))
            else:
                table.finish(text, state)
        elif state is not None and outcome is not None:
            table.observer.first_token(now - text.ticket.arrived_s)
            table.observer.tokens(count=1, gap_s=0.0)
            done = text.continuation.append(outcome)
            if done:
                table.finish(text, state)
            text.ticket.tell(now)  # at once: the first token is what a reader waits for
            return None if done else (text, outcome, state)
        return None


class Steps:
    """Advance the whole table, one step or a few, until a text is done or the time of a dispatch is over."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._roster = table.roster
        step_s = table.cost.seconds(len(table.active), 1)
        self._count = max(1, min(int(table.limits.dispatch_s / step_s), self._roster.left))
        self.estimate_s = self._count * step_s
        self._done: list[int] = []
        self._failed: dict[int, BaseException] = {}
        self._ran, self._seconds = 0, 0.0

    def run(self) -> None:
        table, roster = self._table, self._roster
        started, count = table.clock(), 0
        while count < self._count and not self._done and not self._failed:
            self._step()
            count += 1
        roster.left -= count
        if roster.left <= 0 or len(roster.drawn) >= HELD:
            self._done += table.push()
        self._ran, self._seconds = count, table.clock() - started

    def _step(self) -> None:
        table, roster = self._table, self._roster
        active = table.active
        if roster.sampler is None:
            roster.sampler = TokenSampler([text.continuation for text in active])
        try:
            lengths = np.ones(len(active), np.int32)
            following, state = table.advance(table.tokens[None, :], lengths, table.state)
            drawn = roster.sampler.sample(following)
        except Exception:  # nothing has been changed yet: find the row at fault, and let the others go on
            self._step_apart()
            return
        table.state, table.tokens = state, drawn.astype(np.int32)
        roster.drawn.append(drawn)
        for row in roster.watched:
            if active[row].continuation.append(int(drawn[row])):
                self._done.append(row)

    def _step_apart(self) -> None:
        """One step, row by row: slow, and only taken when the table failed as a whole."""
        table = self._table
        self._roster.sampler = None
        table.push()
        one = np.ones(1, np.int32)
        parts: list[State] = []
        tokens = table.tokens.copy()
        for row, text in enumerate(table.active):
            before = states.take(table.state, [row])
            try:
                following, after = table.advance(table.tokens[None, row : row + 1], one, before)
                (token,) = TokenSampler([text.continuation]).sample(following).tolist()
            except Exception as error:  # its waiter must hear of it, whatever it is
                self._failed[row] = error
                parts.append(before)
                continue
            parts.append(after)
            tokens[row] = token
            if text.continuation.append(token):
                self._done.append(row)
        table.state, table.tokens = states.append(table.writer.room(), states.join(parts)), tokens

    def settle(self) -> None:
        table = self._table
        now, rows = table.clock(), len(table.active)
        table.cost.learn(rows, 1, self._seconds / self._ran)
        table.observer.steps(rows=rows, count=self._ran, compute_s=self._seconds)
        table.observer.tokens(count=rows * self._ran - len(self._failed), gap_s=(now - table.stepped_s) / self._ran)
        table.stepped_s = now
        tickets = self._roster.tickets
        for ticket in tickets:
            ticket.ran(self._seconds, rows)
        # From the last row to the first: removing a row moves only rows that were dealt with.
        for row in sorted({*self._done, *self._failed}, reverse=True):
            text = table.active[row]
            if row in self._failed:
                table.fail(text, self._failed[row])
            else:
                table.finish(text, table.state, row)
            table.remove(row)
            text.ticket.tell(now)  # at once: nothing more comes of it
        table.tell(tickets, now)
        table.in_hand = []
