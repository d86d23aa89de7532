"""Transfer: one file over https, resumed and verified before it gets its name, and archives
unpacked without trusting them.
"""

import errno
import hashlib
import lzma
import os
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
    """A file that could not be had as it should be; the message names it and says what to do."""


class Unreachable(FetchError):
    """Nobody answers at an address, try after try."""


def sha256(path):
    """Hex digest of a file."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def accept(part, path, digest=None, size=None):
    """Rename a finished `part` to `path` if size (bytes) and sha256 are as expected; else keep it
    as `<path>.bad` and raise.
    """
    found = (part.stat().st_size, sha256(part))
    for what, expected, got in (("bytes", size, found[0]), ("sha256", digest, found[1])):
        if expected is not None and expected != got:
            bad = path.with_name(path.name + ".bad")
            os.replace(part, bad)
            raise FetchError(
                f"{path}: {what} {got}, expected {expected}; kept as {bad.name}. Delete it and "
                "fetch again; if it "
                "happens again, the public file has changed"
            )
    os.replace(part, path)


def download(url, path, digest=None, size=None, schemes=SCHEMES, session=None, tries=5, pause=1.0):
    """Get `url` into `path`, going on from `<path>.part`; sha256 and size in bytes are verified
    before the rename.

    Gives up after `tries` tries in a row that brought nothing, with `pause` seconds after the
    first, doubled each time. Raises FetchError (`<path>.bad` is kept on a mismatch), Unreachable.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    failed = most = 0
    while failed < tries:
        try:
            _get(url, part, schemes, session or requests)
            return accept(part, path, digest, size)
        except (requests.RequestException, ConnectionError) as error:
            last = error
            status = getattr(getattr(error, "response", None), "status_code", None)
            if status in (401, 403, 404, 410):
                raise FetchError(
                    f"{path.name}: {url} answers {status}; gone or closed; use --mirror"
                ) from None
        have = part.stat().st_size if part.exists() else 0
        # what makes headway may take long
        failed, most = (0, have) if have > most else (failed + 1, most)
        time.sleep(pause * 2 ** max(failed - 1, 0) * (failed < tries))
    raise Unreachable(
        f"{path.name}: no success in {tries} tries at {url} ({last}); run again to go on from "
        f"{part.name}"
    )


def _get(url, part, schemes, session):
    """One request, appended to `part` where the server honours Range, from the start where it does
    not.
    """
    have = part.stat().st_size if part.exists() else 0
    if urlsplit(url).scheme not in schemes:
        raise FetchError(f"{url}: only {', '.join(schemes)} is fetched")
    with session.get(
        url, headers={"Range": f"bytes={have}-"} if have else {}, stream=True, timeout=(10, 60)
    ) as reply:
        for hop in (*reply.history, reply):
            if urlsplit(hop.url).scheme not in schemes:
                raise FetchError(f"{url} leads to {hop.url}: only {', '.join(schemes)} is fetched")
        # nothing is left to send: `part` is whole, or stale; the hash will tell
        if reply.status_code == 416:
            return
        reply.raise_for_status()
        with open(part, "ab" if reply.status_code == 206 else "wb") as f:
            for block in reply.iter_content(1 << 16):
                f.write(block)
        _check_length(reply, part, have)


def _check_length(reply, part, have):
    """A reply cut short must not pass for a whole file where no hash is known."""
    length = reply.headers.get("Content-Length")
    whole = int(length or 0) + have * (reply.status_code == 206)
    if not reply.headers.get("Content-Encoding") and part.stat().st_size < whole:
        raise ConnectionError(f"{part.name} was cut short")


def extract(archive, folder, max_bytes=200 * 2**30, max_ratio=200):
    """Unpack a .zip or .tar(.gz, .bz2, .xz) into `folder`: all of it or, where a member is refused,
    nothing.

    Refused: members that leave the folder, links, devices, more than `max_bytes` in all, and more
    than `max_ratio` times the archive's own size (a bomb). Returns the paths written. Raises
    FetchError naming archive and member.
    """
    archive, folder = Path(archive), Path(folder)
    try:
        with (
            zipfile.ZipFile(archive) if zipfile.is_zipfile(archive) else tarfile.open(archive)
        ) as pack:
            members = _members(pack)
            for name, _, plain in members:
                if (
                    not plain
                    or PurePosixPath(name).is_absolute()
                    or ".." in PurePosixPath(name.replace("\\", "/")).parts
                ):
                    raise FetchError(
                        f"{archive}: member {name!r} is a link or leaves the folder; nothing was "
                        "unpacked"
                    )
            allowed = min(max_bytes, max_ratio * archive.stat().st_size)
            if sum(size for _, size, _ in members) > allowed:
                raise FetchError(
                    f"{archive} would unpack to more than {allowed} bytes; nothing was unpacked"
                )
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


def _members(pack):
    """[(name, size in bytes, is it a plain file)] without the folders."""
    if isinstance(pack, zipfile.ZipFile):
        link = 0o120000  # the file type that zip keeps in the high bits of external_attr
        return [
            (m.filename, m.file_size, m.external_attr >> 16 & 0o170000 != link)
            for m in pack.infolist()
            if not m.is_dir()
        ]
    return [(m.name, m.size, m.isfile()) for m in pack if not m.isdir()]


def _unpack(pack, name, size, folder):
    """Write one member; it may not be longer than it said it was."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    opened = pack.open(name) if isinstance(pack, zipfile.ZipFile) else pack.extractfile(name)
    with opened as source, open(part, "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
        if target.tell() != size:
            raise OSError(f"member {name!r} has {target.tell()} bytes, not {size}")
    os.replace(part, path)
    return path
