"""One file over https, resumed and verified before it gets its name; archives unpacked safely."""

from __future__ import annotations

import bisect
import errno
import hashlib
import io
import lzma
import os
import re
import shutil
import tarfile
import time
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import requests

SCHEMES = ("https",)


class FetchError(RuntimeError):
    """A file that could not be had as it should be; the message names it and the next step."""


class Unreachable(FetchError):
    """An address did not answer, try after try."""


def sha256(path: str | os.PathLike) -> str:
    """Hex digest of a file."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def accept(part: Path, path: Path, digest: str | None = None, size: int | None = None) -> None:
    """Give a finished file its name, if it is as expected; else keep it as `<path>.bad`.

    Args:
        part: the finished file.
        path: its name.
        digest: sha256 as hex digits, where it is known.
        size: in bytes, where it is known.

    Raises:
        FetchError: size or digest differ.
    """
    found = part.stat().st_size, sha256(part)
    for what, expected, got in (("bytes", size, found[0]), ("sha256", digest, found[1])):
        if expected is not None and expected != got:
            bad = path.with_name(path.name + ".bad")
            os.replace(part, bad)
            raise FetchError(
                f"{path}: {what} {got}, expected {expected}; kept as {bad.name}. Delete it and "
                "fetch again; if it happens again, the public file has changed"
            )
    os.replace(part, path)


def download(
    url: str,
    path: str | os.PathLike,
    digest: str | None = None,
    size: int | None = None,
    schemes: tuple[str, ...] = SCHEMES,
    session: requests.Session | None = None,
    tries: int = 5,
    pause: float = 1.0,
) -> None:
    """Get a file, going on from `<path>.part`; it is verified before it gets its name.

    Args:
        url: address.
        path: where the file goes.
        digest: sha256 as hex digits, where it is known.
        size: in bytes, where it is known.
        schemes: of the addresses that are allowed, also after a redirection.
        session: whose connections are used.
        tries: tries in a row that may bring nothing.
        pause: seconds after the first such try, doubled each time.

    Raises:
        FetchError: the file is gone, closed, or not as expected (then `<path>.bad` is kept).
        Unreachable: all tries brought nothing.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    failed = most = 0
    last = None
    while failed < tries:
        try:
            _get(url, part, schemes, session or requests)
            accept(part, path, digest, size)
            return
        except (requests.RequestException, ConnectionError) as error:
            last = error
        status = getattr(getattr(last, "response", None), "status_code", None)
        if status in (401, 403, 404, 410):
            raise FetchError(
                f"{path.name}: {url} answers {status}; gone or closed; use --mirror"
            ) from None
        have = part.stat().st_size if part.exists() else 0
        if have > most:  # a file that grows may take long
            failed, most = 0, have
        else:
            failed += 1
        if failed < tries:
            time.sleep(pause * 2 ** max(failed - 1, 0))
    raise Unreachable(
        f"{path.name}: no success in {tries} tries at {url} ({last}); run again to go on from "
        f"{part.name}"
    )


def _get(url: str, part: Path, schemes: tuple[str, ...], session: requests.Session) -> None:
    """One request, appended to `part` where the server honours Range, else from the start."""
    have = part.stat().st_size if part.exists() else 0
    if urlsplit(url).scheme not in schemes:
        raise FetchError(f"{url}: only {', '.join(schemes)} is fetched")
    headers = {"Range": f"bytes={have}-"} if have else {}
    with session.get(url, headers=headers, stream=True, timeout=(10, 60)) as reply:
        for hop in (*reply.history, reply):
            if urlsplit(hop.url).scheme not in schemes:
                raise FetchError(f"{url} leads to {hop.url}: only {', '.join(schemes)} is fetched")
        # nothing is left to send: `part` is whole, or stale, which its hash shows
        if reply.status_code == 416:
            return
        reply.raise_for_status()
        with open(part, "ab" if reply.status_code == 206 else "wb") as f:
            for block in reply.iter_content(1 << 16):
                f.write(block)
        _check_length(reply, part, have)


def _check_length(reply: requests.Response, part: Path, have: int) -> None:
    """A reply cut short must not pass for a whole file where no hash is known."""
    whole = int(reply.headers.get("Content-Length") or 0)
    if reply.status_code == 206:
        whole += have
    if not reply.headers.get("Content-Encoding") and part.stat().st_size < whole:
        raise ConnectionError(f"{part.name} was cut short")


def extract(
    archive: str | os.PathLike,
    folder: str | os.PathLike,
    max_bytes: int = 200 * 2**30,
    max_ratio: float = 200,
) -> list[Path]:
    """Unpack a .zip or .tar(.gz, .bz2, .xz): all of it or, where a member is refused, nothing.

    Of an archive that was split (`name.tar.gz.aa`, `.ab`, ...) the first part is given; the others
    lie beside it.

    Refused are members that leave the folder, links and devices.

    Args:
        archive: the file.
        folder: where its members go.
        max_bytes: of all members.
        max_ratio: of all members to the archive; more is taken for an attack.

    Returns:
        The paths written.

    Raises:
        FetchError: a member is refused, or the archive cannot be unpacked; the message names both.
    """
    archive, folder = Path(archive), Path(folder)
    try:
        with _open_archive(archive) as pack:
            members = _members(pack)
            packed = sum(part.stat().st_size for part in _parts(archive))
            _check_members(archive, members, min(max_bytes, max_ratio * packed))
            return [_unpack(pack, name, size, folder) for name, size, _ in members]
    except FetchError:
        raise
    except RuntimeError as error:
        # zipfile's word for what is encrypted, or packed by a method that it does not know
        raise FetchError(f"{archive}: {error}; unpack it with another program") from error
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        OSError,
    ) as error:
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise FetchError(
                f"{archive}: no room in {folder}; make some, or choose a folder on a larger disk"
            ) from error
        raise FetchError(
            f"{archive}: damaged or no archive ({error}); download it again"
        ) from error


def _parts(archive: Path) -> list[Path]:
    """The files that are one archive: itself, or, of one that `split` made, all parts in order."""
    if not re.fullmatch(r"\.[a-z]{2}", archive.suffix) or ".tar" not in archive.suffixes[:-1]:
        return [archive]
    return sorted(
        path
        for path in archive.parent.iterdir()
        if path.stem == archive.stem and re.fullmatch(r"\.[a-z]{2}", path.suffix)
    )


def _open_archive(archive: Path) -> zipfile.ZipFile | tarfile.TarFile:
    """The archive, opened for reading."""
    parts = _parts(archive)
    if len(parts) > 1:
        return tarfile.open(fileobj=io.BufferedReader(_Joined(parts)))
    return zipfile.ZipFile(archive) if zipfile.is_zipfile(archive) else tarfile.open(archive)


class _Joined(io.RawIOBase):
    """Several files, read one after another as one."""

    def __init__(self, parts: list[Path]) -> None:
        self._parts = parts
        self._starts = [0]
        for part in parts:
            self._starts.append(self._starts[-1] + part.stat().st_size)
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._starts[-1]}
        self._position = origin[whence] + offset
        return self._position

    def readinto(self, buffer: bytearray) -> int:
        at = bisect.bisect_right(self._starts, self._position) - 1
        if at >= len(self._parts):
            return 0
        with open(self._parts[at], "rb") as part:
            part.seek(self._position - self._starts[at])
            count = part.readinto(buffer)
        self._position += count
        return count


Member = tuple[str, int, bool]  # name, size in bytes, is it a plain file


def _members(pack: zipfile.ZipFile | tarfile.TarFile) -> list[Member]:
    """The members of an archive without its folders."""
    if isinstance(pack, tarfile.TarFile):
        return [(m.name, m.size, m.isfile()) for m in pack if not m.isdir()]
    members = []
    for m in pack.infolist():
        kind = m.external_attr >> 16 & 0o170000  # of file, where zip keeps it
        if not m.is_dir():
            members.append((m.filename, m.file_size, kind != 0o120000))  # a link
    return members


def _check_members(archive: Path, members: list[Member], max_bytes: float) -> None:
    """Raise FetchError where a member leaves the folder or all are too large."""
    for name, _, plain in members:
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if not plain or PurePosixPath(name).is_absolute() or ".." in parts:
            raise FetchError(
                f"{archive}: member {name!r} is a link or leaves the folder; nothing was unpacked"
            )
    if sum(size for _, size, _ in members) > max_bytes:
        raise FetchError(
            f"{archive} would unpack to more than {max_bytes} bytes; nothing was unpacked"
        )


def _unpack(pack: zipfile.ZipFile | tarfile.TarFile, name: str, size: int, folder: Path) -> Path:
    """Write one member; it may not be longer than it said it was."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    opened = pack.open(name) if isinstance(pack, zipfile.ZipFile) else pack.extractfile(name)
    if opened is None:
        raise OSError(f"member {name!r} is not a file")
    with opened as source, open(part, "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
        if target.tell() != size:
            raise OSError(f"member {name!r} has {target.tell()} bytes, not {size}")
    os.replace(part, path)
    return path
