"""Small pictures as files, and a file that claims more pixels than it has."""

import base64
import io
import zlib

import numpy as np
from PIL import Image


def picture_file(seed: int = 0, *, side: int = 16, form: str = "PNG", mode: str = "RGB") -> bytes:
    """Return a picture of four random colors, as a file."""
    colors = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(colors.repeat(side // 2, 0).repeat(side // 2, 1)).convert(mode).save(file, form)
    return file.getvalue()


def png_header(width: int, height: int) -> bytes:
    """Return a PNG file of a few bytes that claims this size."""
    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    parts = [(b"IHDR", size + b"\x08\x02\x00\x00\x00"), (b"IDAT", zlib.compress(b""))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def encoded(file: bytes) -> str:
    """Return a file in base64."""
    return base64.b64encode(file).decode()
