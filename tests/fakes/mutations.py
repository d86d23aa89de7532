"""Files damaged at random, and what the reader may make of each.

A damaged file must be refused, or read with the pixels of the sound one, or warned of. Where it is
none of these, it is a misread: silent, unless the format or its library reports anything. Then it
is an error of the kit.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
import warnings
import zlib
from collections import Counter
from pathlib import Path

import cv2
import numpy as np

from cxrkit.data.images import ImageError, load_image
from tests.fakes import radiograph_files


def overwritten(content: bytes, rng: np.random.Generator) -> bytes:
    """One to six bytes replaced."""
    found = bytearray(content)
    for place in rng.integers(0, len(found), rng.integers(1, 7)):
        found[place] = rng.integers(0, 256)
    return bytes(found)


def flipped(content: bytes, rng: np.random.Generator) -> bytes:
    """One bit turned over."""
    found = bytearray(content)
    found[rng.integers(0, len(found))] ^= 1 << rng.integers(0, 8)
    return bytes(found)


def cut(content: bytes, rng: np.random.Generator) -> bytes:
    """The end lost."""
    return content[: rng.integers(1, len(content))]


def zeroed(content: bytes, rng: np.random.Generator) -> bytes:
    """A block of the disk lost."""
    start, length = rng.integers(0, len(content)), int(rng.integers(8, 512))
    lost = content[start : start + length]
    return content[:start] + bytes(len(lost)) + content[start + length :]


def removed(content: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes left out."""
    start, length = rng.integers(0, len(content)), int(rng.integers(1, 64))
    return content[:start] + content[start + length :]


def doubled(content: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes written twice."""
    start, length = rng.integers(0, len(content)), int(rng.integers(1, 64))
    return content[: start + length] + content[start:]


MUTATIONS = (overwritten, flipped, cut, zeroed, removed, doubled)


def outcome(path: Path, sound: np.ndarray) -> str:
    """What the reader makes of a file: refused, equal, warned or misread."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            image = load_image(path)
        except ImageError as error:
            assert str(path) in str(error), f"{path.name}: an error that does not name its file"
            return "refused"
    if image.pixels.shape == sound.shape and np.array_equal(image.pixels, sound):
        return "equal"
    said = [w for w in caught if str(w.message).startswith(f"{path.name}: ")]
    return "warned" if said and image.warnings else "misread"


def reported(path: Path) -> bool:
    """Whether the format or a library reports damage: a second opinion beside the reader's.

    PNG: the checksums. All: what the libraries under OpenCV (libjpeg, libpng, libtiff) and under
    GDCM print while they decode the file. Plain DICOM and TIFF carry no checksum, and nothing is
    printed about them.
    """
    content = path.read_bytes()
    if content[:8] == b"\x89PNG\r\n\x1a\n" and not _png_is_whole(content):
        return True
    return bool(_printed(path, content))


def _printed(path: Path, content: bytes) -> bytes:
    """What is printed on the standard error while the file is decoded by others."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as heard:
        os.dup2(heard.fileno(), 2)
        try:
            if path.suffix == ".dcm":
                import gdcm

                reader = gdcm.ImageReader()
                reader.SetFileName(str(path))
                if reader.Read():
                    reader.GetImage().GetBuffer()
            else:
                cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        except Exception as error:  # a binding that fails says something too
            os.write(2, str(error).encode())
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        heard.seek(0)
        return heard.read()


def _png_is_whole(content: bytes) -> bool:
    """Walk the chunks of a PNG file and compare their checksums."""
    stream = io.BytesIO(content[8:])
    while True:
        head = stream.read(8)
        if len(head) < 8:
            return False
        body = stream.read(int.from_bytes(head[:4], "big"))
        if stream.read(4) != zlib.crc32(head[4:] + body).to_bytes(4, "big"):
            return False
        if head[4:] == b"IEND":
            return True


def run(folder: Path, grey: np.ndarray, count: int, seed: int = 0) -> dict[str, Counter]:
    """Damage every kind of file in every way.

    Args:
        folder: where the files go; misread ones that were reported stay there.
        grey: picture that is written, uint8 (H, W).
        count: mutations, over all readers together.
        seed: of the mutations.

    Returns:
        Counts of each outcome by the name of the sound file: refused, equal, warned, misread
        (nothing reports anything), quiet (something does, and the kit was silent: an error).
    """
    sound = radiograph_files.every_reader(folder, grey)
    pixels = {name: load_image(path).pixels for name, path in sound.items()}
    content = {name: path.read_bytes() for name, path in sound.items()}
    names, found = list(sound), {name: Counter() for name in sound}
    rng = np.random.default_rng(seed)
    for i in range(count):
        name = names[i % len(names)]
        change = MUTATIONS[i // len(names) % len(MUTATIONS)]
        damaged = change(content[name], rng)
        path = folder / f"damaged-{name}"
        path.write_bytes(damaged)
        kind = outcome(path, pixels[name])
        if kind == "misread" and reported(path):
            kind = "quiet"
            path.rename(folder / f"quiet-{i}-{name}")
        found[name][kind] += 1
    return found


def picture(side: int = 96) -> np.ndarray:
    """A smooth picture with some noise, uint8 (side, side)."""
    rng = np.random.default_rng(5)
    coarse = cv2.resize(rng.uniform(30, 220, (6, 6)), (side, side), interpolation=cv2.INTER_CUBIC)
    return np.clip(coarse + rng.normal(0, 4, (side, side)), 0, 255).astype(np.uint8)
