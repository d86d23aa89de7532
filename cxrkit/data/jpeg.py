"""What libjpeg says of a JPEG stream; Pillow and OpenCV decode a torn one and keep silent."""

from __future__ import annotations

import contextlib
import os
import struct
import sys
import tempfile
import threading
from collections.abc import Iterator

import cv2
import numpy as np

# A torn scan. Other remarks, such as stray bytes between two segments, leave the picture whole.
TORN = (
    "Corrupt JPEG data",
    "Premature end of JPEG file",
    "Inconsistent progression sequence",
    "Unsupported marker",
)
HARMLESS = "extraneous bytes before marker"
# The process has one standard error and one list of warning filters: one thread at a time listens.
LISTENING = threading.Lock()


def remark(content: bytes) -> str | None:
    """What libjpeg remarks while it decodes a stream.

    `simplejpeg` hands it over. Where that is not installed, OpenCV's libjpeg is listened to, which
    does not work on Windows.

    Args:
        content: a JPEG stream of 8 bits.

    Returns:
        Its words, or None where it decodes in silence.
    """
    try:
        import simplejpeg  # pyright: ignore[reportMissingImports]
    except ImportError:
        return _remark_of_opencv(content)
    try:
        colour = simplejpeg.decode_jpeg_header(content, strict=False)[2]
        wanted = "CMYK" if colour in ("CMYK", "YCCK") else "GRAY"
        simplejpeg.decode_jpeg(content, wanted, fastdct=True, strict=True)
    except ValueError as error:
        return str(error)
    return None


def _remark_of_opencv(content: bytes) -> str | None:
    """The gravest thing that OpenCV's libjpeg prints; an eighth of the size is the quickest."""
    with printed_remarks() as found:
        picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_8)
    if picture is None:
        return "Corrupt JPEG data: OpenCV cannot decode it"
    torn = [words for words in found if is_torn(words)]
    return (*torn, *found, None)[0]


@contextlib.contextmanager
def printed_remarks() -> Iterator[list[str]]:
    """Collect what the libjpeg inside of GDCM prints on the standard error; it tells nobody else.

    What others print meanwhile is passed on.

    Yields:
        A list, which is filled at the end.
    """
    found: list[str] = []
    with LISTENING, tempfile.TemporaryFile() as heard:
        sys.stderr.flush()
        try:
            kept = os.dup(2)
        except OSError:  # a process without a standard error
            yield found
            return
        os.dup2(heard.fileno(), 2)
        try:
            yield found
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            heard.seek(0)
            for line in heard.read().splitlines(keepends=True):
                words = line.decode(errors="replace").strip()
                if words.startswith((*TORN, "Invalid")):
                    found.append(words)
                else:
                    os.write(2, line)


def is_torn(words: str) -> bool:
    """Whether a remark means that the picture is not whole."""
    return words.startswith(TORN) and HARMLESS not in words


def frame_size(content: bytes) -> tuple[int, int] | None:
    """Width and height that a compressed picture states: JPEG, JPEG-LS or JPEG 2000.

    Args:
        content: the stream.

    Returns:
        None where it states none.
    """
    if content[:4] == b"\xff\x4f\xff\x51":  # JPEG 2000: SIZ follows at once
        right, bottom, left, top = struct.unpack(">4I", content[8:24])
        return right - left, bottom - top
    place = 2
    while content[:2] == b"\xff\xd8" and place + 9 <= len(content) and content[place] == 0xFF:
        marker = content[place + 1]
        if marker == 0xFF:  # fill byte
            place += 1
            continue
        starts_frame = 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)
        if starts_frame or marker == 0xF7:
            height, width = struct.unpack(">2H", content[place + 5 : place + 9])
            return width, height
        place += 2 + struct.unpack(">H", content[place + 2 : place + 4])[0]
    return None
