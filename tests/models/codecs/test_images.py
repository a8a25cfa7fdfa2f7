"""Pictures: which files and lists of pixels are read, how they become patches, and what is refused by name."""

import base64
import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from models.codecs import ImageCodec, InputError, TooLong
from models.codecs.images import MOST_PIXELS, MOST_SCANS, SCAN
from models.manifest import ImageSpec
from tests.support.pictures import png_header

CODEC = ImageCodec(ImageSpec(size=16, patch=8))
RED, GREEN, WHITE = (200, 10, 20), (30, 220, 40), (255, 255, 255)


def halves(side: int = 16) -> NDArray[np.uint8]:
    """Return a square picture that is red on the left and green on the right."""
    pixels = np.full((side, side, 3), RED, np.uint8)
    pixels[:, side // 2 :] = GREEN
    return pixels


def file_of(pixels: Any, form: str = "PNG", mode: str | None = None, **options: Any) -> bytes:
    picture, file = Image.fromarray(np.asarray(pixels, np.uint8)), io.BytesIO()
    (picture.convert(mode) if mode else picture).save(file, form, **options)
    return file.getvalue()


def test_patches_are_the_steps_row_by_row() -> None:
    pixels = np.arange(16 * 16 * 3, dtype=np.int64).reshape(16, 16, 3) % 256
    rows = CODEC.encode(pixels).rows
    assert rows.shape == (4, 8 * 8 * 3)
    for number, (top, left) in enumerate([(0, 0), (0, 8), (8, 0), (8, 8)]):
        np.testing.assert_array_equal(rows[number], pixels[top : top + 8, left : left + 8].ravel())


@pytest.mark.parametrize("side", [16, 64])
def test_a_file_its_base64_its_data_url_and_its_pixels_are_the_same_picture(side: int) -> None:
    png = file_of(halves(side))
    text = base64.b64encode(png).decode()
    forms: list[Any] = [png, text, f"data:image/png;base64,{text}", f"{text[:20]}\n{text[20:]}", halves(side)]
    forms += [halves(side).tolist(), halves(side).astype(float).tolist()]
    for each in forms:
        np.testing.assert_array_equal(CODEC.read(each), halves())


def test_a_photo_is_resized() -> None:
    found = CODEC.read(file_of(np.repeat(halves(640), 2, axis=1), "JPEG", quality=95)).astype(int)
    assert np.abs(found[:, :7] - RED).max() < 12
    assert np.abs(found[:, 9:] - GREEN).max() < 12


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1"])
def test_other_modes_become_rgb(mode: str) -> None:
    expected = halves() if mode == "RGBA" else np.asarray(Image.fromarray(halves()).convert(mode).convert("RGB"))
    np.testing.assert_array_equal(CODEC.read(file_of(halves(), mode=mode)), expected)


def test_a_transparent_ground_is_white() -> None:
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[:8] = (*RED, 255)
    found = CODEC.read(file_of(pixels))
    assert (found[:8] == RED).all()
    assert (found[8:] == WHITE).all()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a" + bytes(40),
        file_of(halves())[:60],
        file_of(halves(), "BMP"),
        "not base64!",
        "",
        base64.b64encode(b"a text").decode(),
        [1.0, 2.0],
        [[1.0, 2.0, 3.0]],
        [[[1.0, 2.0]]],
        [[["a", "b", "c"]]],
        [[[1.0, 2.0, 3.0]], [[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]],
        [],
        None,
        [[[True, False, True]]],
    ],
)
def test_what_is_not_a_picture_is_refused(raw: Any) -> None:
    with pytest.raises(InputError) as found:
        CODEC.encode(raw)
    assert " at 0x" not in str(found.value)  # the address of an object


@pytest.mark.parametrize("number", [-1, 255.5, 256, float("nan"), 1e300])
def test_numbers_are_from_0_to_255(number: float) -> None:
    with pytest.raises(InputError) as found:
        CODEC.encode([[[0.0, 0.0, number]]])
    assert found.value.limit == 255


def test_an_unknown_mode_is_refused_by_name() -> None:
    with pytest.raises(InputError) as found:
        CODEC.encode(file_of(halves(), "JPEG", mode="CMYK"))
    assert found.value.value == "CMYK"


@pytest.mark.parametrize(("width", "height"), [(2049, 2048), (1, MOST_PIXELS + 1), (20_000, 20_000), (10_000, 10_000)])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(width: int, height: int) -> None:
    with pytest.raises(TooLong) as found:
        CODEC.encode(png_header(width, height))
    assert found.value.limit == MOST_PIXELS


def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded() -> None:
    file = file_of(halves(), "JPEG", progressive=True)
    last = file[file.rindex(SCAN) : -2]
    np.testing.assert_array_equal(CODEC.read(file[:-2] + last + file[-2:]), CODEC.read(file_of(halves(), "JPEG")))
    with pytest.raises(TooLong) as found:
        CODEC.read(file[:-2] + last * MOST_SCANS + file[-2:])
    assert found.value.limit == MOST_SCANS


def test_a_broken_file_within_the_limit_is_not_a_picture() -> None:
    with pytest.raises(InputError) as found:
        CODEC.encode(png_header(2048, 2048))
    assert not isinstance(found.value, TooLong)


def test_the_size_is_a_multiple_of_the_patch() -> None:
    with pytest.raises(ValueError, match="multiple"):
        ImageSpec(size=60, patch=8)
