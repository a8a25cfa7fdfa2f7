"""An n-gram model of characters by counting: what a language model has to beat. Knows texts, nothing else.

Interpolated Kneser-Ney with one discount an order (Kneser and Ney, ICASSP 1995; as in Chen and Goodman, Computer
Speech & Language 13, 1999, section 2.7). With h' the context h without its oldest character:

    p(c | h) = (max(count(h c) - D, 0) + D types(h) p(c | h')) / count(h),  at the end 1/V for any character

The longest contexts count occurrences, the shorter ones the different characters before (h c). types(h) is the number
of different characters after h, D = n1 / (n1 + 2 n2) with n1 and n2 the (h c) that count once and twice (Ney, Essen
and Kneser 1994). A context that training never saw leaves p(c | h').
N characters of training text, M of development text, V different ones.
"""

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

UNSEEN = -1
NO_ESTIMATE = 0.5  # the discount where nothing counts once: any will do that leaves every character a probability


def nats_per_character(train: str, dev: str, order: int) -> float:
    """Mean -ln p of every character of `dev` but the first, each after at most `order` - 1 that stand before it.

    As in the score of a network, characters that training never saw are read, but not counted.
    """
    characters = sorted(set(train))
    row = {character: number for number, character in enumerate(characters)}
    seen = np.array([row[character] for character in train], np.int64)  # (N,)
    asked = np.array([row.get(character, UNSEEN) for character in dev], np.int64)  # (M,)
    counted = asked != UNSEEN
    counted[:1] = False
    p = probabilities(seen, asked, len(characters), order)
    return float(-np.log(p[counted]).mean())


def probabilities(seen: Ints, asked: Ints, size: int, order: int) -> Floats:
    """p of each character of the text `asked` (M,), after counting in `seen` (N,), where 0 <= characters < size."""
    after, asked_after = np.zeros(len(seen), np.int64), np.zeros(len(asked), np.int64)  # numbers of contexts
    p = np.full(len(asked), 1 / size)  # (M,)
    for length in range(order):
        grams = _pairs(after, seen, size)  # (N,) numbers of (h c)
        longer, asked_longer = _lengthen(length + 1, (seen, after), (asked, asked_after), size)
        if length < order - 1:
            extended = _pairs(longer, seen, size)
            _, firsts = np.unique(extended, return_index=True)
            grams = grams[firsts[extended[firsts] != UNSEEN]]  # each with a character before it, once
        p = _interpolate(p, grams[grams != UNSEEN], (asked, asked_after), size)
        after, asked_after = longer, asked_longer
    return p


def _interpolate(p: Floats, grams: Ints, dev: tuple[Ints, Ints], size: int) -> Floats:
    """p(c | h) from p(c | h') at every place of the development text."""
    asked, context = dev
    known, counts = np.unique(grams, return_counts=True)
    once, twice = np.count_nonzero(counts == 1), np.count_nonzero(counts == 2)
    discount = once / (once + 2 * twice) if once else NO_ESTIMATE
    places = 1 + max(context.max(initial=0), (known // size).max(initial=0))
    total = np.bincount(known // size, counts, minlength=places)  # count(h)
    types = np.bincount(known // size, minlength=places)
    place = _find(known, _pairs(context, asked, size))
    count = np.where(place == UNSEEN, 0, np.append(counts, 0)[place])
    usable = (context != UNSEEN) & (total[context] > 0)
    mixed = (np.maximum(count - discount, 0) + discount * types[context] * p) / np.maximum(total[context], 1)
    return np.where(usable, mixed, p)


def _lengthen(distance: int, train: tuple[Ints, Ints], dev: tuple[Ints, Ints], size: int) -> tuple[Ints, Ints]:
    """Contexts with the character that stands `distance` places before each place, numbered anew."""
    keys = [_pairs(after, _before(characters, distance), size) for characters, after in (train, dev)]
    known = np.unique(keys[0][keys[0] != UNSEEN])
    return _find(known, keys[0]), _find(known, keys[1])


def _before(characters: Ints, distance: int) -> Ints:
    return np.concatenate([np.full(min(distance, len(characters)), UNSEEN), characters[:-distance]])


def _pairs(context: Ints, characters: Ints, size: int) -> Ints:
    """One number for a context and a character; UNSEEN if one of them is."""
    return np.where((context == UNSEEN) | (characters == UNSEEN), UNSEEN, context * size + characters)


def _find(known: Ints, keys: Ints) -> Ints:
    """The place of each key among the known ones, which are sorted; UNSEEN if it is none of them."""
    if not len(known):
        return np.full(len(keys), UNSEEN)
    place = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.where(known[place] == keys, place, UNSEEN)
