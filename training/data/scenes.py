"""Generated scenes: pictures of one or two colored shapes, with captions, and what a caption says.

The same seed gives the same scenes on every machine. Some pairs of a color and a shape never occur in training. They
test whether a model composes what it has learned (Lake and Baroni 2018).
H pixels of a side, P points along a side of the area of a shape.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from training.data.examples import FileLocation, PairExample, Source, Splits

NAME = "scenes"
SIDE, FINER = 64, 3  # pixels of a side, and points for each of them, which give smooth edges
POINTS = (np.arange(FINER) + 0.5) / FINER  # of a pixel
COLORS = {
    "red": (214, 39, 40),
    "orange": (255, 140, 0),
    "yellow": (240, 220, 40),
    "green": (44, 150, 44),
    "blue": (40, 90, 210),
    "purple": (140, 60, 170),
    "black": (25, 25, 25),
}
SHAPES = ("circle", "square", "triangle", "diamond", "cross")
SIZES = {"small": (5.0, 7.0), "large": (10.0, 13.0)}  # half the width in pixels
UNSEEN = {("red", "square"), ("blue", "circle"), ("green", "triangle"), ("yellow", "cross"), ("purple", "diamond")}
DARKEST_GROUND, SHADE = 205, 18  # of backgrounds, and how far a color varies
TWO = 0.8  # share of scenes with two shapes
MARGIN, GAP = 2.0, 3.0  # pixels to the edge, and between two shapes along the axis of their relation
SLANT = 0.5  # how far the other axis may differ, relative to that axis
TRAIN, DEV, UNSEEN_COUNT = 20_000, 1_000, 500
SEEDS = {"train": 1, "dev": 2, "unseen": 3}

OPENINGS = ("", "", "there is ", "the picture shows ")
RELATIONS = {"above": ("above", "over"), "below": ("below", "under")} | {
    f"{side} of": (f"{side} of", f"to the {side} of") for side in ("left", "right")
}
INVERSE = {"above": "below", "below": "above", "left of": "right of", "right of": "left of"}
_THING = rf"a (small|large) ({'|'.join(COLORS)}) ({'|'.join(SHAPES)})"
_RELATION = "|".join(phrase for phrases in RELATIONS.values() for phrase in phrases)
_OPENING = "(?:there is |the picture shows )?"
ONE = re.compile(f"{_OPENING}{_THING}").fullmatch
BETWEEN = re.compile(f"{_OPENING}{_THING} ({_RELATION}) {_THING}").fullmatch
WITH = re.compile(f"{_OPENING}{_THING} with {_THING} ({_RELATION}) it").fullmatch
Meaning = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One shape, with its center and half its width in pixels."""

    size: str
    color: str
    shape: str
    x: float
    y: float
    radius: float

    def __str__(self) -> str:
        return f"a {self.size} {self.color} {self.shape}"


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One or two shapes. The first is in the `relation` to the second."""

    things: tuple[Thing, ...]
    relation: str = ""

    @property
    def has_unseen(self) -> bool:
        return any((thing.color, thing.shape) in UNSEEN for thing in self.things)


def load() -> Splits[PairExample]:
    """Return 20,000 training scenes and 1,000 of development; apart, 500 with pairs that these do not have."""
    return Splits(
        train=make_scenes("train", TRAIN),
        dev=make_scenes("dev", DEV),
        source=Source(name=NAME, url="", licence="CC0 1.0"),
        elsewhere={"unseen pairs": make_scenes("unseen", UNSEEN_COUNT)},
    )


def make_scenes(part: str, count: int) -> list[PairExample]:
    """Return the pictures (PNG) of a part with one caption each. Only the part "unseen" has the pairs in UNSEEN."""
    random = np.random.default_rng(SEEDS[part])
    pairs = []
    while len(pairs) < count:
        scene = draw_scene(random)
        if scene.has_unseen == (part == "unseen"):
            place = FileLocation(f"{NAME}, {part}", len(pairs) + 1)
            picture = to_png(render(scene, random))
            pairs.append(PairExample(source=picture, target=caption(scene, random), place=place))
    return pairs


def draw_scene(random: np.random.Generator) -> Scene:
    """Return a random scene. Two shapes differ in their color or their shape, and do not touch."""
    while True:
        things = tuple(_draw_thing(random) for _ in range(1 + (random.random() < TWO)))
        if len(things) == 1:
            return Scene(things=things)
        first, second = things
        relation = _relation(first, second)
        if relation and (first.color, first.shape) != (second.color, second.shape):
            return Scene(things=things, relation=relation)


def _draw_thing(random: np.random.Generator) -> Thing:
    size, color, shape = (_choose(names, random) for names in ((*SIZES,), (*COLORS,), SHAPES))
    radius = random.uniform(*SIZES[size])
    low, high = MARGIN + radius, SIDE - MARGIN - radius
    x, y = random.uniform(low, high, 2).tolist()
    return Thing(size=size, color=color, shape=shape, x=x, y=y, radius=radius)


def _choose(names: Sequence[str], random: np.random.Generator) -> str:
    return names[random.integers(len(names))]


def _relation(first: Thing, second: Thing) -> str:
    """Return how the first lies to the second; "" if they are too close, or on a diagonal."""
    across, down = first.x - second.x, first.y - second.y
    far, near = max(abs(across), abs(down)), min(abs(across), abs(down))
    if near > SLANT * far or far < first.radius + second.radius + GAP:
        return ""
    if abs(across) > abs(down):
        return "left of" if across < 0 else "right of"
    return "above" if down < 0 else "below"


def render(scene: Scene, random: np.random.Generator) -> NDArray[np.uint8]:
    """Return the pixels (H, H, 3) of a scene on a light ground."""
    pixels = np.full((SIDE, SIDE, 3), random.uniform(DARKEST_GROUND, 255))
    for thing in scene.things:
        shade = COLORS[thing.color] + random.uniform(-SHADE, SHADE, 3)
        rows, columns = (
            np.arange(int(center - thing.radius), int(center + thing.radius) + 1) for center in (thing.y, thing.x)
        )
        down, across = ((pixel[:, None] + POINTS).ravel() for pixel in (rows - thing.y, columns - thing.x))
        covered = _covers(thing.shape, across, down[:, None], thing.radius)
        share = covered.reshape(len(rows), FINER, len(columns), FINER, 1).mean((1, 3))  # of each pixel
        part = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        part += share * (shade - part)
    return np.rint(pixels.clip(0, 255)).astype(np.uint8)


def _covers(shape: str, x: NDArray[np.float64], y: NDArray[np.float64], radius: float) -> NDArray[np.bool_]:
    """Return a mask (P, P) of the points of a shape, for their distances to its center."""
    right, down = np.abs(x), np.abs(y)
    if shape == "circle":
        return x**2 + y**2 <= radius**2
    if shape == "square":
        return np.maximum(right, down) <= 0.85 * radius
    if shape == "triangle":
        return (y <= 0.8 * radius) & (2 * right <= y + radius)
    if shape == "diamond":
        return right + down <= radius
    return (np.minimum(right, down) <= radius / 3.5) & (np.maximum(right, down) <= radius)


def to_png(pixels: NDArray[np.uint8]) -> bytes:
    """Return pixels (H, W, 3) as a PNG file."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def caption(scene: Scene, random: np.random.Generator) -> str:
    """Return one of the phrasings of a scene."""
    opening = _choose(OPENINGS, random)
    if len(scene.things) == 1:
        return f"{opening}{scene.things[0]}"
    (first, second), relation = scene.things, scene.relation
    if random.random() < 0.5:
        first, second, relation = second, first, INVERSE[relation]
    phrase = _choose(RELATIONS[relation], random)
    if random.random() < 0.25:
        return f"{opening}{second} with {first} {phrase} it"
    return f"{opening}{first} {phrase} {second}"


@cache
def meaning(text: str) -> Meaning | None:
    """Return what a caption says, the same for all its phrasings; None for other texts."""
    if found := ONE(text):
        return found.groups()
    if found := BETWEEN(text):
        first, phrase, second = found.groups()[:3], found[4], found.groups()[4:]
    elif found := WITH(text):
        second, first, phrase = found.groups()[:3], found.groups()[3:6], found[7]
    else:
        return None
    relation = next(name for name, phrases in RELATIONS.items() if phrase in phrases)
    if relation in ("below", "right of"):
        first, second, relation = second, first, INVERSE[relation]
    return (*first, relation, *second)


def contradict(text: str, reference: str) -> bool:
    """Return whether a text says something else about a scene than its caption does."""
    right = meaning(reference)
    return right is not None and meaning(text) != right


def share_described(captions: Sequence[str], references: Sequence[str]) -> float:
    """Return the percentage of captions that say the same as their reference."""
    pairs = zip(captions, references, strict=True)
    return 100 * sum(meaning(found) == meaning(right) for found, right in pairs) / len(references)
