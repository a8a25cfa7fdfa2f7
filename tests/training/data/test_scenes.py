"""Generated scenes: reproducible, with captions that describe the picture, and with pairs that training never has."""

import io
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from training.data import loading, scenes
from training.data.scenes import COLORS, INVERSE, SIDE, UNSEEN, Scene, Thing, caption, draw_scene, make_scenes, meaning
from training.recipe import load

CROSS = Thing(size="small", color="red", shape="cross", x=12, y=40, radius=6)
CIRCLE = Thing(size="large", color="black", shape="circle", x=45, y=38, radius=11)


def test_the_same_seed_gives_the_same_scenes() -> None:
    assert make_scenes("dev", 20) == make_scenes("dev", 20)
    assert make_scenes("dev", 20)[:5] == make_scenes("dev", 5) != make_scenes("train", 5)


def test_only_the_part_unseen_has_the_pairs_that_are_held_out() -> None:
    for part in ("train", "dev", "unseen"):
        for pair in make_scenes(part, 60):
            words = pair.target.split()
            held_out = any((color, shape) in UNSEEN for color, shape in pairwise(words))
            assert held_out == (part == "unseen")


def test_every_color_and_shape_of_a_held_out_pair_occurs_in_training() -> None:
    words = {word for pair in make_scenes("train", 300) for word in pair.target.split()}
    assert {word for pair in UNSEEN for word in pair} <= words


def test_all_phrasings_of_a_scene_mean_the_same() -> None:
    random = np.random.default_rng(0)
    scene = Scene(things=(CROSS, CIRCLE), relation="left of")
    found = {caption(scene, random) for _ in range(400)}
    assert len(found) > 20
    assert {meaning(text) for text in found} == {("small", "red", "cross", "left of", "large", "black", "circle")}
    assert {meaning(caption(Scene(things=(CROSS,)), random)) for _ in range(20)} == {("small", "red", "cross")}


@pytest.mark.parametrize("text", ["", "a red cross", "a small red cross above", "a small red cross above it", "Er"])
def test_other_texts_mean_nothing(text: str) -> None:
    assert meaning(text) is None


def test_a_caption_of_another_scene_is_not_right() -> None:
    right = "a small red cross above a large black circle"
    found = [right, "a large black circle below a small red cross", "a small red cross below a large black circle", ""]
    assert scenes.share_described(found, [right] * 4) == 50


def test_a_relation_is_that_of_the_centers() -> None:
    random = np.random.default_rng(3)
    for _ in range(200):
        scene = draw_scene(random)
        if len(scene.things) == 1:
            continue
        first, second = scene.things
        across, down = first.x - second.x, first.y - second.y
        names = {"left of": -across, "right of": across, "above": -down, "below": down}
        assert scene.relation == max(names, key=lambda name: names[name])
        assert names[scene.relation] == -names[INVERSE[scene.relation]]


@pytest.mark.parametrize("shape", scenes.SHAPES)
def test_a_shape_has_its_color_at_its_center_and_the_ground_around(shape: str) -> None:
    thing = Thing(size="large", color="blue", shape=shape, x=30.3, y=33.7, radius=12)
    pixels = scenes.render(Scene(things=(thing,)), np.random.default_rng(0)).astype(int)
    assert pixels.shape == (SIDE, SIDE, 3)
    assert np.abs(pixels[33, 30] - COLORS["blue"]).max() <= scenes.SHADE + 1
    assert pixels[:20].min() >= scenes.DARKEST_GROUND
    colored = (pixels[:, :, 0] < 128).sum()
    assert 0.3 * 12**2 < colored < 3.3 * 12**2


def test_pictures_are_files_of_their_size() -> None:
    (pair,) = make_scenes("dev", 1)
    assert isinstance(pair.source, bytes)
    assert Image.open(io.BytesIO(pair.source)).size == (SIDE, SIDE)


def test_a_recipe_reads_scenes_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, count in (("TRAIN", 60), ("DEV", 5), ("UNSEEN_COUNT", 4)):
        monkeypatch.setattr(scenes, name, count)
    splits = loading.load_splits(load("shapes-caption"))
    sizes = len(splits.train) + len(splits.choice), len(splits.dev), len(splits.elsewhere["unseen pairs"])
    assert sizes == (60, 5, 4)


def test_only_a_caption_of_a_scene_can_be_contradicted() -> None:
    right = "a small red cross above a large black circle"
    assert scenes.contradict("a small red cross below a large black circle", right)
    assert not scenes.contradict("a large black circle under a small red cross", right)
    assert not scenes.contradict("Ein Mann", "Two men")
