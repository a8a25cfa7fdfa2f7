"""Translation in any order of events: each request is answered once, with its own targets."""

from contextlib import suppress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import Overloaded, Unavailable
from tests.support.scheduling import Interleaving, check_outcome
from tests.support.translation import BAD_LETTER, TranslationHarness, found_by, number_after, translated_alone


class Translations(Interleaving):
    """Each admitted client must get the targets that its sources have alone."""

    def __init__(self, dispatch_s: float) -> None:
        super().__init__(TranslationHarness(slots=6, queue_items=6, prefill_tokens=12, dispatch_s=dispatch_s))

    def ask(self, sources: list[str], beams: tuple[int, int], timeout_s: float, options: dict[str, Any]) -> None:
        options = {**options, "num_beams": beams[0], "num_return_sequences": beams[1]}
        with suppress(Overloaded, Unavailable):
            self.admitted.append((self.harness.ask(*sources, timeout_s=timeout_s, **options), (sources, options)))

    def break_row(self, source: str, pieces: list[int]) -> None:
        self.harness.model.bad_numbers.add(number_after(source, pieces))

    def spoil_row(self, source: str, pieces: list[int]) -> None:
        self.harness.model.nan_numbers.add(number_after(source, pieces))


SOURCE = st.text("abc", min_size=1, max_size=9)
SOURCES = st.lists(st.one_of(SOURCE, SOURCE, SOURCE, SOURCE, st.just(f"ab{BAD_LETTER}")), min_size=1, max_size=3)
OPTIONS = st.fixed_dictionaries(
    {"max_new_tokens": st.integers(1, 9)},
    optional={
        "length_penalty": st.sampled_from([0.0, 1.0, 3.0]),
        "prefix": st.lists(st.integers(1, 23), max_size=3).map(tuple),
        "details": st.just(True),
    },
)
ASK = st.tuples(
    st.just("ask"),
    SOURCES,
    st.sampled_from([(1, 1), (1, 1), (2, 1), (3, 3), (6, 2)]),
    st.sampled_from([0.01, 1e9, 1e9]),
    OPTIONS,
)
WORK = st.tuples(st.sampled_from(["take", "complete"] * 6 + ["close"]))
DISCONNECT = st.tuples(st.just("disconnect"), st.integers(0, 50))
BREAK = st.tuples(st.sampled_from(["break_row", "spoil_row"]), SOURCE, st.lists(st.integers(1, 23), max_size=2))
ACTIONS = st.one_of(ASK, ASK, ASK, WORK, WORK, WORK, DISCONNECT, BREAK)


@settings(max_examples=300, deadline=None)
@given(actions=st.lists(ACTIONS, max_size=50), dispatch_s=st.sampled_from([0.0, 0.004]))
def test_no_interleaving_loses_duplicates_or_changes_a_target(
    actions: list[tuple[Any, ...]], dispatch_s: float
) -> None:
    interleaving = Translations(dispatch_s)
    interleaving.run(actions)
    model = interleaving.harness.model
    for client, (sources, options) in interleaving.admitted:
        is_bad = any(BAD_LETTER in source for source in sources)
        check_outcome(client, may_fail=is_bad or bool(model.bad_numbers | model.nan_numbers))
        if client.error is None:
            assert found_by(client) == [translated_alone(source, **options) for source in sources]
