"""Short everyday sentences with a sentiment, made from templates and word lists.

Reviews rarely contain sentences such as "I hate it" or "it was not bad at all", which people try first. Negation moves
a label toward the other side: "not great" is 1 and "not bad" is 3, on the scale of the Stanford Sentiment Treebank from
0 (very bad) to 4 (very good). The words are tokenized like the treebank's.
"""

import random
import re
from collections.abc import Collection, Iterator

Phrase = tuple[int, tuple[str, ...]]  # label 0 to 4, words

SLOT = re.compile(r"\{(\w+)\}")
AN = re.compile(r"\ba (?=[aeio]|un)")  # words that need "an"
GOOD, BAD, VERY_GOOD, VERY_BAD = 3, 1, 4, 0

# Words by label, between blanks.
QUALITIES = {
    VERY_GOOD: "excellent amazing awesome fantastic wonderful brilliant perfect delicious gorgeous outstanding superb "
    "great beautiful lovely incredible marvelous",
    GOOD: "good nice fun funny enjoyable charming interesting exciting entertaining clever friendly helpful fresh "
    "clean comfortable tasty impressive pleasant fine cool smart useful polite kind easy",
    BAD: "bad boring dull stupid ugly poor disappointing annoying weak slow rude dirty bland predictable silly noisy "
    "broken confusing useless unfriendly unpleasant lame mediocre tedious expensive",
    VERY_BAD: "terrible awful horrible disgusting pathetic dreadful worthless ridiculous unbearable atrocious",
}
FEELINGS = {
    GOOD: "happy glad pleased satisfied impressed delighted excited thrilled amused grateful",
    BAD: "sad angry disappointed upset bored unhappy annoyed tired frustrated miserable dissatisfied",
}
VERBS = {  # present, past
    VERY_GOOD: "love/loved adore/adored",
    GOOD: "like/liked enjoy/enjoyed recommend/recommended appreciate/appreciated",
    BAD: "dislike/disliked regret/regretted",
    VERY_BAD: "hate/hated despise/despised detest/detested",
}
NOUNS = {
    VERY_GOOD: "masterpiece triumph",
    GOOD: "joy pleasure delight treat gem success",
    BAD: "disappointment failure mess letdown",
    VERY_BAD: "disaster catastrophe nightmare",
}
SLOTS = {  # of templates: words for every label, between slashes
    "thing": "movie/film/story/plot/acting/music/book/food/service/hotel/staff/room/restaurant/place/show/game/song/"
    "ending/meal/day/trip/phone/product",
    "plural": "actors/jokes/songs/rooms/people/characters/staff/dialogues/effects/waiters",
    "subject": "it/this/that/the {thing}/this {thing}/the {thing}",
    "object": "it/this/that/the {thing}/this {thing}/every minute of it/them",
    "people": "everyone/my friends/we/my family/i/people",
    "others": "everyone/my friends/anyone/my family/people/you/all of you",
    "repeat": "watch/see/read/visit/play/hear/order/buy/try/do/use",
    "react": "smiling/laughing/watching/dancing/singing/listening/reading/talking about it",
    "worth": "it/watching/seeing/reading/a visit/the money/the price/the trip/your time",
    "better": "better/nicer/happier/prouder/funnier/more pleased/more delighted",
    "worse": "worse/sadder/uglier/more boring/more disappointed/more annoying",
    "rest": "it/the rest/the end/the {thing}/this {thing}",
    "loss": "my time/my money/your time/your money/an evening/time/money",
}

# Templates by the kind of word that carries the sentiment.
AFFIRMED = {
    "quality": (
        "{quality}", "{quality} !", "very {quality}", "really {quality}", "so {quality}", "{quality} {thing}",
        "a {quality} {thing}", "what a {quality} {thing}", "{subject} is {quality}", "{subject} was {quality}",
        "{subject} was very {quality}", "{subject} is so {quality}", "{subject} was really {quality}",
        "i think {subject} is {quality}", "i found {subject} {quality}", "the {thing} was {quality} and {same}",
        "the {plural} are {quality}", "the {plural} were {quality}", "the {plural} were {quality} and {same}",
    ),
    "feeling": (
        "i am {feeling}", "i 'm {feeling}", "i am so {feeling}", "i am very {feeling} with {object}",
        "i was {feeling}", "{subject} made me {feeling}", "we were {feeling}", "i feel {feeling}",
    ),
    "verb": (
        "i {verb} {object}", "i {verb} {object} !", "i really {verb} {object}", "i {past} {object}",
        "{people} {past} {object}", "you will {verb} {object}", "i would {verb} {object}",
        "everyone will {verb} {object}", "i {verb} {object} so much",
    ),
    "noun": ("a {noun}", "what a {noun}", "a real {noun}", "{subject} is a {noun}", "{subject} was a total {noun}"),
}  # fmt: skip
NEGATED = {
    "quality": (
        "not {quality}", "not {quality} at all", "not very {quality}", "not that {quality}", "never {quality}",
        "{subject} is not {quality}", "{subject} was not {quality}", "{subject} was n't {quality}",
        "{subject} is n't {quality}", "{subject} is n't {quality} at all", "{subject} was not {quality} at all",
        "{subject} was never {quality}", "{subject} is never {quality}", "far from {quality}", "hardly {quality}",
        "not a {quality} {thing}", "i do n't think {subject} is {quality}", "{subject} is anything but {quality}",
        "the {plural} are not {quality}", "the {plural} were n't {quality}",
    ),
    "feeling": (
        "i am not {feeling}", "i 'm not {feeling}", "i was not {feeling}", "i was n't {feeling}",
        "we were not {feeling}", "i was never {feeling}", "i am not {feeling} at all",
        "i was not {feeling} with {object}",
    ),
    "verb": (
        "i do n't {verb} {object}", "i did n't {verb} {object}", "i did not {verb} {object} at all",
        "i do not {verb} {object}", "i would not {verb} {object}", "i never {past} {object}",
        "nobody will {verb} {object}", "i ca n't {verb} {object}", "{people} did n't {verb} {object}",
        "you wo n't {verb} {object}",
    ),
    "noun": ("not a {noun}", "{subject} is not a {noun}", "{subject} was n't a {noun}"),
}  # fmt: skip
CONTRASTS = (  # negated bad, then good
    "not {bad} , i {liked} it", "not {bad} at all , really {good}", "{subject} is not {bad} , it is {good}",
    "i was not {unhappy} , {subject} was {good}", "{subject} is not perfect , but i {liked} it",
)  # fmt: skip
IDIOMS = {
    VERY_GOOD: (
        "could n't be {better}", "{subject} could n't be {better}", "i could not be {better}", "best {thing} ever",
        "the best {thing} i have ever seen", "i could n't stop {react}", "{people} could n't stop {react}",
        "i ca n't stop {react}", "i ca n't wait to {repeat} {object} again", "i ca n't get enough of {object}",
    ),
    GOOD: (
        "worth {worth}", "well worth {worth}", "definitely worth {worth}", "{subject} is worth {worth}",
        "i would {repeat} {object} again", "i will {repeat} {object} again", "we would {repeat} {object} again",
        "highly recommended", "i would recommend {object} to {others}", "i ca n't complain", "no complaints",
        "{subject} has no weak moment", "i would not change {object}",
    ),
    BAD: (
        "not worth {worth}", "{subject} is not worth {worth}", "hardly worth {worth}", "i could n't finish {rest}",
        "i would not {repeat} {object} again", "i will never {repeat} {object} again", "never again",
        "i ca n't recommend {object}", "do n't bother", "do n't {repeat} {object}", "no reason to {repeat} {object}",
        "could have been {better}", "{subject} should have been {better}", "{subject} makes little sense",
    ),
    VERY_BAD: (
        "could n't be {worse}", "{subject} could n't be {worse}", "worst {thing} ever", "a waste of {loss}",
        "the worst {thing} i have ever seen", "{subject} is a waste of {loss}", "i walked out of {object}",
        "i want a refund", "stay away from {object}", "{subject} cost me {loss}",
    ),
}  # fmt: skip
WORDS = {"quality": QUALITIES, "feeling": FEELINGS, "verb": VERBS, "noun": NOUNS}


def make_sentences(count: int, seed: int, without: Collection[tuple[str, ...]] = ()) -> list[Phrase]:
    """Return different random sentences, at most `count`, the same for the same seed.

    `without` are the words of sentences to leave out, such as those of a checklist.
    """
    different = dict.fromkeys(_sentences(count, random.Random(seed)))
    return [(label, words) for label, words in different if words not in without]


def _sentences(count: int, chance: random.Random) -> Iterator[Phrase]:
    for _ in range(count):
        kind = chance.choices(list(WORDS), weights=(5, 2, 3, 1))[0]
        label = chance.choice(list(WORDS[kind]))
        form = chance.choices(("affirmed", "negated", "idiom", "contrast"), weights=(9, 9, 4, 1))[0]
        if form == "idiom":
            label = chance.choice(list(IDIOMS))
            yield label, _fill(chance.choice(IDIOMS[label]), kind, label, chance)
        elif form == "contrast":
            yield GOOD, _fill(chance.choice(CONTRASTS), kind, BAD, chance)
        elif form == "affirmed":
            yield label, _fill(chance.choice(AFFIRMED[kind]), kind, label, chance)
        else:
            yield (BAD if label >= GOOD else GOOD), _fill(chance.choice(NEGATED[kind]), kind, label, chance)


def _fill(template: str, kind: str, label: int, chance: random.Random) -> tuple[str, ...]:
    """Replace the slots of a template, whose sentiment is `label` and in a word of `kind`, at random."""
    verbs, liked = _verbs(label if kind == "verb" else GOOD), _verbs(GOOD)
    words = {
        **{slot: choices.split("/") for slot, choices in SLOTS.items()},
        "quality": QUALITIES[label].split(),
        "same": QUALITIES[label].split(),
        "feeling": FEELINGS[GOOD if label >= GOOD else BAD].split(),
        "verb": [present for present, _ in verbs],
        "past": [past for _, past in verbs],
        "noun": NOUNS[label].split(),
        "good": QUALITIES[GOOD].split(),
        "bad": QUALITIES[BAD].split(),
        "unhappy": FEELINGS[BAD].split(),
        "liked": [past for _, past in liked],
    }
    while "{" in template:  # an object may have a thing
        template = SLOT.sub(lambda slot: chance.choice(words[slot[1]]), template)
    return tuple(AN.sub("an ", template).split())


def _verbs(label: int) -> list[list[str]]:
    """Return the present and the past of verbs."""
    return [pair.split("/") for pair in VERBS[label].split()]
