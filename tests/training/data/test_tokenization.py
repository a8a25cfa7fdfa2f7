"""Training tokens that a text would not give."""

import pytest

from models.codecs.characters import CharactersCodec
from models.codecs.words import WordsCodec
from models.manifest import CharactersSpec, WordsSpec
from training.data.examples import FileLocation, LabeledExample, TaggedExample
from training.data.tokenization import TokenDifferences, compare_tokens, join_tokens

WORDS = WordsCodec(WordsSpec(words="words.json"), ())
WHITESPACE = WordsCodec(WordsSpec(words="words.json", tokenizer="whitespace"), ())


def sentence(*tokens: str) -> TaggedExample:
    place = FileLocation("a.conll", 5, range(5, 5 + len(tokens)))
    return TaggedExample(tokens=tokens, tags=("O",) * len(tokens), place=place)


@pytest.mark.parametrize(
    ("token", "cut"),
    [
        ("AT&T", ("AT", "&", "T")),
        ("#paris", ("#", "paris")),
        ("e-mail", ("e", "-", "mail")),
        ("don't", ("do", "n't")),
        ("$5", ("$", "5")),
    ],
)
def test_token_that_a_text_cuts_is_counted_with_its_line(token: str, cut: tuple[str, ...]) -> None:
    found = compare_tokens(WORDS, [sentence("all", "fine"), sentence("we", token, "and", token)])
    assert (found.count, found.total, found.first, found.place) == (2, 6, token, "a.conll, line 6")
    assert found.cut == cut
    assert "codec.tokenizer=whitespace" in str(found)
    assert compare_tokens(WHITESPACE, [sentence("we", token)]).count == 0


@pytest.mark.parametrize(
    ("tokens", "count", "remedy"),
    [
        (("我", "爱", "北", "京", "!"), 4, "codec.kind=characters"),
        (("我", "爱", "北京"), 3, "codec.kind=characters"),
        (("北京", "大学"), 2, "lists of tokens"),
        (("in", "北京"), 0, ""),
    ],
)
@pytest.mark.parametrize("codec", [WORDS, WHITESPACE])
def test_tokens_of_scripts_without_spaces_grow_together(
    codec: WordsCodec, tokens: tuple[str, ...], count: int, remedy: str
) -> None:
    found = compare_tokens(codec, [sentence(*tokens)])
    assert found.count == count
    assert remedy in found.remedy


@pytest.mark.parametrize("codec", [WORDS, WHITESPACE])
def test_token_with_a_space_needs_a_list(codec: WordsCodec) -> None:
    found = compare_tokens(codec, [sentence("in", "New York")])
    assert (found.count, found.place) == (1, "a.conll, line 6")
    assert found.remedy == "send lists of tokens instead of texts"


def test_remedy_suits_most_tokens() -> None:
    found = compare_tokens(WORDS, [sentence("e-mail", "我", "爱", "他")])
    assert (found.first, found.count) == ("e-mail", 4)
    assert "codec.kind=characters" in found.remedy


def test_lists_of_tokens_with_a_label_are_compared_too() -> None:
    rows = [LabeledExample(text=("AT&T", "rocks"), label="x"), LabeledExample(text="AT&T rocks", label="x")]
    assert compare_tokens(WORDS, rows).share == 0.5


def test_nothing_differs_where_symbols_are_tokens() -> None:
    codec = CharactersCodec(CharactersSpec(characters="characters.json"), ())
    assert compare_tokens(codec, [sentence("我", "爱")]) == TokenDifferences()


def test_joined_tokens_start_where_their_place_is_in_the_text() -> None:
    text, starts = join_tokens(["an", "e-mail", "我", "爱", "he"])
    assert text == "an e-mail 我爱 he"
    assert starts == [0, 3, 10, 11, 13]
