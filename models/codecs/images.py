"""Pictures: files in PNG or JPEG, as bytes or in base64, and arrays of pixels.

H height, W width, S patches, F numbers of a patch, B batch.
"""

import base64
import binascii
import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.codecs.base import InputError, NumericCodec, TooLong, pad, quoted
from models.codecs.frames import EncodedFrames
from models.manifest import ImageSpec

FORMATS = ("PNG", "JPEG")
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")  # of Pillow: black and white, gray, palette, color; A is alpha
MOST_PIXELS = 1 << 22  # of a picture before it is resized: 2048 x 2048
MOST_SCANS, SCAN = 64, b"\xff\xda"  # of a JPEG: each is decoded over all pixels. Progressive files have about 10
CHANNELS, BRIGHTEST = 3, 255
DATA_URL = re.compile(r"data:[\w/+.-]*;base64,")
WANTED = "send a PNG or JPEG file in base64, or rows of pixels [red, green, blue]"
Pixels = NDArray[np.uint8]


class ImageCodec(NumericCodec):
    """Resizes a picture to the square of the spec and cuts it into patches."""

    def __init__(self, spec: ImageSpec) -> None:
        self.spec = spec

    def encode(self, raw: Any, *, limit: int | None = None) -> EncodedFrames:
        """Encode a picture as rows (S, F) uint8. See `read` for what it can be. The limit has no effect."""
        del limit  # every picture has the same number of patches
        grid, patch = self.spec.grid, self.spec.patch
        pixels = self.read(raw).reshape(grid, patch, grid, patch, CHANNELS)
        return EncodedFrames(rows=pixels.transpose(0, 2, 1, 3, 4).reshape(grid * grid, -1))

    def read(self, raw: Any) -> Pixels:
        """Return the pixels (size, size, 3) of a file as bytes or in base64, or of an array or lists (H, W, 3).

        Raises TooLong for more than MOST_PIXELS, and InputError for anything else that cannot be read.
        """
        if isinstance(raw, str):
            raw = _decode_base64(raw)
        return self._read_file(raw) if isinstance(raw, bytes) else self._read_pixels(raw)

    def collate(self, items: Sequence[EncodedFrames]) -> dict[str, NDArray[Any]]:
        """Return the feeds of the graph: pixels (S, B, F) float32 from 0 to 255, and lengths (B,)."""
        pixels, lengths = pad([item.rows for item in items])
        return {"pixels": pixels.astype(np.float32), "lengths": lengths}

    def _read_file(self, content: bytes) -> Pixels:
        from PIL import Image  # only services with such a bundle need it

        side = self.spec.size
        try:
            with Image.open(io.BytesIO(content), formats=FORMATS) as picture:  # reads only the size
                _check_size(picture.width, picture.height)
                if picture.format == "JPEG":
                    _check_scans(content)
                if picture.mode not in MODES:
                    raise InputError(
                        f"the picture has the mode {picture.mode}, but must have one of {', '.join(MODES)}; "
                        "convert it to RGB",
                        value=picture.mode,
                    )
                picture.draft("RGB", (side, side))  # decodes a JPEG at a fraction of its size
                colored = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
                if colored.mode == "RGBA":
                    ground = Image.new("RGBA", colored.size, "white")
                    colored = Image.alpha_composite(ground, colored).convert("RGB")
                return np.asarray(colored.resize((side, side), Image.Resampling.BOX))
        except InputError:
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise _too_large("far more", None) from None
        except Exception:  # Pillow raises a dozen unrelated types
            formats = " or ".join(FORMATS)
            raise InputError(f"the {len(content)} bytes are not a whole picture in {formats}; {WANTED}") from None

    def _read_pixels(self, raw: Any) -> Pixels:
        from PIL import Image

        side = self.spec.size
        try:
            array = np.array(raw)  # without a dtype, which would convert strings and booleans
        except (ValueError, OverflowError):
            raise InputError(f"the rows of pixels differ in length; {WANTED}, {side} rows of {side}") from None
        if array.dtype.kind not in "iuf" or array.ndim != 3 or array.shape[2] != CHANNELS or not array.size:
            found = f"has the shape {list(array.shape)}" if array.dtype.kind in "iuf" else f"is {quoted(raw)}"
            raise InputError(f"the picture {found}, but must be [height, width, {CHANNELS}]; {WANTED}")
        _check_size(array.shape[1], array.shape[0])
        if not ((array >= 0) & (array <= BRIGHTEST)).all():  # false for NaN
            place = tuple(np.argwhere(~((array >= 0) & (array <= BRIGHTEST)))[0].tolist())
            raise InputError(
                f"the number at {list(place)} is {array[place]}, but must be from 0 to {BRIGHTEST}; scale the pixels",
                value=array[place].item(),
                limit=BRIGHTEST,
            )
        pixels: Pixels = np.rint(array).astype(np.uint8)
        if pixels.shape[:2] == (side, side):
            return pixels
        return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BOX))


def _decode_base64(text: str) -> bytes:
    encoded = "".join(DATA_URL.sub("", text, count=1).split()) if text.startswith("data:") else "".join(text.split())
    try:
        content = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise InputError(f"the text {quoted(text)} is not base64; {WANTED}", value=text) from None
    if not content:
        raise InputError(f"the picture is empty; {WANTED}", value=text)
    return content


def _check_size(width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise _too_large(f"{width} x {height}", width * height)


def _check_scans(content: bytes) -> None:
    """Refuse a JPEG of many scans, which takes seconds for each 10 KB. Its metadata can have a few such bytes, too."""
    if (scans := content.count(SCAN)) > MOST_SCANS:
        raise TooLong(
            f"the JPEG file has {scans} scans; the limit is {MOST_SCANS}; save it without progressive scans",
            limit=MOST_SCANS,
            value=scans,
        )


def _too_large(pixels: str, value: int | None) -> TooLong:
    message = f"the picture has {pixels} pixels; the limit is {MOST_PIXELS}; send a smaller one"
    return TooLong(message, limit=MOST_PIXELS, value=value)
