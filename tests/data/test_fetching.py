"""Fetch: a local server that misbehaves in the ways of real ones, preparation against slow oracles,
archives that attack.
"""

import errno
import hashlib
import http.server
import io
import re
import shutil
import tarfile
import threading
import zipfile
from urllib.parse import unquote

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from cxrkit.cli import main
from cxrkit.data import downloads, fetching, manifests, schema

BODY = np.random.default_rng(0).bytes(300_000)
DIGEST = hashlib.sha256(BODY).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.files`; the first part of a path chooses the fault."""

    def do_GET(self):
        fault, _, name = unquote(self.path).strip("/").partition("/")
        body, seen = self.server.files.get(name), self.server.seen
        seen.append((self.path, self.headers.get("Range")))
        if body is None:
            return self.answer(404, b"")
        if fault == "fails-once" and len(seen) == 1:
            return self.answer(500, b"")
        if fault == "redirects":
            return self.answer(302, b"", Location="http://127.0.0.1:9/elsewhere")
        honours = self.headers.get("Range") and fault not in ("no-range", "stuck")
        start = int(re.search(r"\d+", self.headers["Range"]).group()) if honours else 0
        if start >= len(body) and start:
            return self.answer(416, b"")
        cut = body[start : start + 100_000] if fault in ("cut", "stuck") else body[start:]
        self.answer(206 if start else 200, cut, length=len(body) - start)

    def answer(self, status, body, length=None, **headers):
        self.send_response(status)
        for key, value in {
            "Content-Length": str(len(body) if length is None else length),
            **headers,
        }.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    """http://127.0.0.1:port with `files` (name -> bytes) and `seen` ([(path, Range)])."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.files, httpd.seen, httpd.url = (
            {"film": BODY},
            [],
            f"http://127.0.0.1:{httpd.server_port}",
        )
        threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True).start()
        yield httpd
        httpd.shutdown()


def get(server, fault, path, digest=DIGEST, size=300_000, **options):
    downloads.download(
        f"{server.url}/{fault}/film", path, digest, size, schemes=("http",), pause=0.01, **options
    )


@pytest.mark.parametrize("fault, requests", [("ok", 1), ("fails-once", 2), ("cut", 5)])
def test_download_survives(server, tmp_path, fault, requests):
    get(server, fault, tmp_path / "film", tries=2)  # a reply cut short is headway, not a failure
    assert (tmp_path / "film").read_bytes() == BODY and len(server.seen) == requests
    assert [p.name for p in tmp_path.iterdir()] == ["film"]
    if fault == "cut":
        assert [r for _, r in server.seen] == [None] + [f"bytes={65536 * i}-" for i in range(1, 5)]


@pytest.mark.parametrize("fault, sent", [("ok", "bytes=1234-"), ("no-range", "bytes=1234-")])
def test_download_goes_on_from_part(server, tmp_path, fault, sent):
    (tmp_path / "film.part").write_bytes(BODY[:1234])
    get(server, fault, tmp_path / "film")
    assert (tmp_path / "film").read_bytes() == BODY and [r for _, r in server.seen] == [sent]


def test_a_whole_part_is_only_verified(server, tmp_path):
    (tmp_path / "film.part").write_bytes(BODY)
    get(server, "ok", tmp_path / "film")
    assert (tmp_path / "film").read_bytes() == BODY


@pytest.mark.parametrize("wrong", [{"digest": "0" * 64}, {"size": 5}])
def test_a_mismatch_is_kept_as_bad_and_named(server, tmp_path, wrong):
    with pytest.raises(downloads.FetchError, match="film: .* expected .* kept as film.bad"):
        get(server, "ok", tmp_path / "film", **wrong)
    assert [p.name for p in tmp_path.iterdir()] == ["film.bad"] and len(server.seen) == 1


def test_a_cut_reply_without_a_hash_never_passes(server, tmp_path):
    with pytest.raises(
        downloads.Unreachable, match="no success in 2 tries .* run again to go on from film.part"
    ):
        get(server, "stuck", tmp_path / "film", digest=None, size=None, tries=2)
    assert (
        0 < (tmp_path / "film.part").stat().st_size <= 100_000 and not (tmp_path / "film").exists()
    )


def test_a_missing_file_is_not_tried_again(server, tmp_path):
    with pytest.raises(downloads.FetchError, match="answers 404; gone or closed; use --mirror"):
        downloads.download(
            f"{server.url}/ok/nothing", tmp_path / "x", schemes=("http",), pause=0.01
        )
    assert len(server.seen) == 1


def test_only_https_and_no_redirect_out_of_it(server, tmp_path):
    for url in (f"{server.url}/ok/film", "file:///etc/hostname", "ftp://example.org/x"):
        with pytest.raises(downloads.FetchError, match="only https is fetched"):
            downloads.download(url, tmp_path / "x")
    assert server.seen == [] and not list(tmp_path.iterdir())
    with pytest.raises(downloads.FetchError):
        get(server, "redirects", tmp_path / "film", tries=1)


# a whole dataset


def png(pixels):
    return cv2.imencode(".png", pixels)[1].tobytes()


def digest(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def tiny(server, tmp_path, monkeypatch):
    """A dataset of two films (one to be made smaller, one untouched with a mask on its square),
    served locally.
    """
    rng = np.random.default_rng(1)
    large, small = (
        np.uint8(rng.integers(0, 255, (900, 1300))),
        np.uint8(rng.integers(0, 255, (50, 80))),
    )
    mask = np.zeros((10, 10), np.uint8)
    mask[2:5, 2:5] = 255
    server.files = {
        "r/c/f/a b.png": png(large),
        "r/c/f/b.png": png(small),
        "r/c/m/7.png": png(mask),
    }
    home = tmp_path / "manifests"
    home.mkdir()
    spec = {
        "name": "tiny",
        "title": "t",
        "about": "a",
        "obtain": "o",
        "licence": "l",
        "licence_class": "permissive",
        "citation": [],
        "provides": [],
        "address": "https://films.example/ok/{repo}/{commit}/{path}",
        "masks": {"source": "m", "place": "square"},
        "sources": {
            "f": {"repo": "r", "commit": "c", "folder": "f"},
            "m": {"repo": "r", "commit": "c", "folder": "m"},
        },
    }
    (home / "tiny.json").write_text(schema.Manifest(**spec).model_dump_json())
    head = (
        "path,source_path,sha256,sha256_source,bytes,prepared,group_id,split,mask_id,mask_sha256\n"
    )
    rows = [
        "images/a.jpg,a "
        f"b.png,{'0' * 64},{digest(server.files['r/c/f/a b.png'])},1000,640,g1,train,,\n",
        f"images/b.png,,{digest(png(small))},,{len(png(small))},,g2,train,7,{'1' * 64}\n",
    ]
    (home / "tiny.csv").write_text(head + "".join(rows))
    for module in (manifests, schema):
        monkeypatch.setattr(module, "manifest_dir", lambda: home)
    # a manifest may only lead to https, which the server of these tests does not speak
    public = fetching._address
    monkeypatch.setattr(
        fetching, "_address", lambda *of: public(*of).replace("https://films.example", server.url)
    )
    return server


def run(tmp_path, said, **options):
    return fetching.fetch(
        "tiny", tmp_path / "data", say=said.append, schemes=("http",), pause=0.01, jobs=1, **options
    )


def test_fetch_prepares_verifies_and_does_nothing_twice(tiny, tmp_path):
    said = []
    assert run(tmp_path, said) == []
    assert said[0].startswith(
        "tiny: 2 films and 1 masks to get, 0.0 MB in 1 films; 1 larger originals and 1 masks are "
        "of unk"
    )
    folder = tmp_path / "data" / "tiny"
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.*")) == [
        "images/a.jpg",
        "images/b.png",
        "masks/b.png",
        "prepared.json",
    ]
    # 900 * 640 / 1300 = 443.08
    assert cv2.imread(str(folder / "images/a.jpg"), -1).shape == (443, 640)
    mask = cv2.imread(str(folder / "masks/b.png"), -1)
    assert mask.shape == (50, 80) and (mask[:, :15] == 127).all() and (mask[:, 65:] == 127).all()
    # 3x3 of 10x10 at 5x, from column 15
    assert (mask[10:25, 25:40] == 255).all() and (mask[:, 15:65] == 255).sum() == 225
    problems, _ = fetching.verify("tiny", tmp_path / "data")
    assert problems == []
    before = len(tiny.seen)
    assert run(tmp_path, said) == [] and len(tiny.seen) == before and "0 films" in said[1]
    (folder / "images/a.jpg").write_bytes(b"broken")
    (folder / "images/b.png").unlink()
    problems, _ = fetching.verify("tiny", tmp_path / "data")
    assert (
        len(problems) == 2
        and "a.jpg: sha256 differs" in problems[0]
        and "b.png: missing" in problems[1]
    )


def test_fetch_names_the_file_that_failed(tiny, tmp_path):
    tiny.files["r/c/f/a b.png"] = png(np.zeros((40, 40), np.uint8))
    failures = run(tmp_path, [])
    assert len(failures) == 1 and "a.jpg.source: sha256" in failures[0]
    folder = tmp_path / "data" / "tiny" / "images"
    assert sorted(p.name for p in folder.iterdir()) == ["a.jpg.source.bad", "b.png"]


def test_fetch_stops_where_nobody_answers(tiny, tmp_path, monkeypatch):
    def dead(*args, **kwargs):
        raise downloads.Unreachable("no answer")

    monkeypatch.setattr(fetching, "download", dead)
    assert "not tried, since the network does not answer" in run(tmp_path, [])[1]


def test_a_full_disk_is_said_before(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("usage", (), {"free": 10})())
    with pytest.raises(downloads.FetchError, match="needed, 0 MB free; set CXRKIT_DATA elsewhere"):
        run(tmp_path, [])
    assert tiny.seen == []


def test_prepare_is_the_area_average():
    film = cv2.resize(
        np.random.default_rng(0).uniform(60, 190, (24, 32)),
        (1280, 960),
        interpolation=cv2.INTER_LINEAR,
    )
    # stripes of one pixel, which only an average removes
    film = np.uint8(film + 30 * (-1.0) ** np.arange(1280))
    small = cv2.imdecode(np.frombuffer(fetching.prepare(png(film), "640"), np.uint8), -1)
    slow = film.reshape(480, 2, 640, 2).mean((1, 3))
    assert small.shape == (480, 640) and np.abs(small - slow).max() < 6  # JPEG at q90
    assert (
        cv2.imdecode(np.frombuffer(fetching.prepare(png(film), "grey"), np.uint8), -1).shape
        == film.shape
    )
    with pytest.raises(downloads.FetchError, match="not an image"):
        fetching.prepare(b"<html>", "640")
    with pytest.raises(downloads.FetchError, match="not a mask"):
        fetching.prepare_mask(png(film), (100, 100), "film")


def test_addresses_are_pinned_and_quoted():
    table = fetching.plan("nih_cxr14")
    commit = schema.load("nih_cxr14").sources["muhammedtalo"].commit
    start = (
        f"https://raw.githubusercontent.com/muhammedtalo/COVID-19/{commit}/X-Ray%20Image%20DataSet/"
    )
    assert table["url"].str.startswith(start).all()
    for name in ("cohen", "cxnet", "hannover", "kermany", "kermany_224", "nih_cxr14_64px"):
        table = fetching.plan(name)
        assert table["url"].is_unique and table["digest"].str.fullmatch("[0-9a-f]{64}").all()
        assert (table["mask"].isna() == table["mask_url"].isna()).all() and table["prepared"].isin(
            list(fetching.PREPARE)
        ).all()
    with pytest.raises(
        ValueError, match="chexpert cannot be fetched film by film. How to obtain it: Register"
    ):
        fetching.plan("chexpert")


# archives


def tar(path, *members):
    """members: (name, bytes or link target as str)."""
    with tarfile.open(path, "w:gz") as pack:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                pack.addfile(info)
            else:
                info.size = len(content)
                pack.addfile(info, io.BytesIO(content))
    return path


def zipped(path, *members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as pack:
        for name, content in members:
            info = zipfile.ZipInfo(name)
            if isinstance(content, str):
                info.external_attr = 0o120777 << 16
            pack.writestr(info, content, zipfile.ZIP_DEFLATED)
    return path


@pytest.mark.parametrize("make", [tar, zipped])
def test_archives(tmp_path, make):
    good = make(tmp_path / "good", ("images/a.png", BODY), ("b.txt", b"x" * 50))
    written = downloads.extract(good, tmp_path / "out")
    assert [p.read_bytes() for p in written] == [BODY, b"x" * 50]
    for evil in [("../b", b"x"), ("/tmp/cxrkit-evil", b"x"), ("a/../../b", b"x"), ("link", "/etc")]:
        with pytest.raises(
            downloads.FetchError, match="is a link or leaves the folder; nothing was unpacked"
        ):
            downloads.extract(make(tmp_path / "evil", ("fine.txt", b"x"), evil), tmp_path / "none")
    bomb = make(tmp_path / "bomb", ("zeros", bytes(3_000_000)))
    with pytest.raises(downloads.FetchError, match="would unpack to more than"):
        downloads.extract(bomb, tmp_path / "none")
    with pytest.raises(downloads.FetchError, match="would unpack to more than 1000 bytes"):
        downloads.extract(good, tmp_path / "none", max_bytes=1000)
    assert not (tmp_path / "none").exists()


def packed(method, spoil):
    """Bytes of a zip of one member, `a`, after spoil(bytearray, where the data of the member
    begin).
    """
    kept = io.BytesIO()
    with zipfile.ZipFile(kept, "w") as pack:
        pack.writestr("a", BODY * 20, method)
    data = bytearray(kept.getvalue())
    spoil(data, 31)  # a local header of 30 bytes, and a name of one
    return data


def noise(data, start):
    data[start + 4 : start + 40] = b"\xff" * 36


def encrypted(data, start):
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1


def test_damaged_archives(tmp_path):
    whole = tar(tmp_path / "good", ("a", BODY)).read_bytes()
    spoilt = {
        f"{name}.zip": packed(method, noise)
        for name, method in (
            ("stored", zipfile.ZIP_STORED),
            ("deflated", zipfile.ZIP_DEFLATED),
            ("bzip2", zipfile.ZIP_BZIP2),
            ("lzma", zipfile.ZIP_LZMA),
        )
    }
    for name, data in {
        "cut.tar.gz": whole[: len(whole) // 2],
        "page.zip": b"<html>" * 100,
        **spoilt,
    }.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(downloads.FetchError, match=f"{name}: damaged or no archive"):
            downloads.extract(tmp_path / name, tmp_path / "none")
        assert not (tmp_path / "none" / "a").exists()


def test_an_archive_that_fills_the_disk_is_not_called_damaged(tmp_path, monkeypatch):
    def full(source, target, length):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    archive = tar(tmp_path / "good", ("a", BODY))
    with pytest.raises(downloads.FetchError, match=f"{archive}: no room in {tmp_path / 'out'}"):
        downloads.extract(archive, tmp_path / "out")


def test_an_encrypted_archive_is_refused_by_name(tmp_path):
    (tmp_path / "secret.zip").write_bytes(packed(zipfile.ZIP_DEFLATED, encrypted))
    with pytest.raises(
        downloads.FetchError,
        match="secret.zip: File 'a' is encrypted.*; unpack it with another program",
    ):
        downloads.extract(tmp_path / "secret.zip", tmp_path / "none")


# the commands, on the real films


def cli(*arguments):
    return CliRunner().invoke(main, ["data", *map(str, arguments)])


def test_commands(mirror, tmp_path):
    result = cli("fetch", "hannover", "--mirror", mirror, "--root", tmp_path)
    assert result.exit_code == 0 and "243 films and 77 masks to get, 51.8 MB" in result.output
    result = cli("verify", "hannover", "--root", tmp_path)
    assert result.exit_code == 0 and "hannover: 0 problems" in result.output
    film = next((tmp_path / "hannover" / "images").iterdir())
    film.write_bytes(film.read_bytes()[:-1])
    result = cli("verify", "hannover", "--root", tmp_path)
    assert result.exit_code == 1 and film.name in result.output
    result = cli("fetch", "hannover", "--mirror", mirror, "--root", tmp_path)
    assert result.exit_code == 0 and "1 films and" in result.output


def test_a_mirror_with_a_changed_film_is_refused(mirror, tmp_path):
    copy = tmp_path / "mirror" / "kermany"
    shutil.copytree(mirror / "kermany", copy)
    film = next((copy / "images").iterdir())
    film.chmod(0o644)
    film.write_bytes(b"x" + film.read_bytes()[1:])
    result = cli("fetch", "kermany", "--mirror", tmp_path / "mirror", "--root", tmp_path / "data")
    assert result.exit_code == 1 and film.name in result.output
    assert (tmp_path / "data" / "kermany" / "images" / (film.name + ".bad")).exists()
    assert not (tmp_path / "data" / "kermany" / "images" / film.name).exists()


def test_counts_of_chexpert_are_reported_against_paper_and_release(tmp_path):
    from tests.data.test_manifests import chexpert

    chexpert(tmp_path)
    result = cli("verify", "chexpert", "--root", tmp_path)
    assert result.exit_code == 1 and "chexpert: films: 7 found, 223414 expected" in result.output
    assert re.search(r"view=AP +3 +161590 +161427 +-163", result.output)


def hospital(folder, rows):
    (folder / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.PNG", "m.png"):
        (folder / name).write_bytes(b"x")
    (folder / "empty.png").touch()
    (folder / "films.csv").write_text("path,patient_id,lung_mask\n" + rows)
    return folder


def test_verify_finds_listed_images_that_are_not_there(tmp_path):
    folder = hospital(
        tmp_path / "h",
        "a.png,p,m.png\nb.png,q,lost.png\nempty.png,r,\nsub,s,\nvirtual://alder/3?seed=0,t,\n"
        "images.npy#3,u,\n",
    )
    result = cli("verify", "local", "--root", folder)
    assert result.exit_code == 1 and "local: 5 problems" in result.output
    lines = [line.split("films.csv, ")[1] for line in result.stderr.splitlines()]
    b_png, images = folder / "sub" / "b.PNG", folder / "images.npy#3"
    assert lines == [
        f"row 3, column path: {folder / 'b.png'}: no such file; there is {b_png}",
        f"row 4, column path: {folder / 'empty.png'}: an empty file",
        f"row 5, column path: {folder / 'sub'}: a folder, no image",
        f"row 7, column path: {images}: no such file",
        f"row 3, column lung_mask: {folder / 'lost.png'}: no such file",
    ]
    (folder / "films.csv").write_text("path,patient_id\na.png,p\n")
    result = cli("verify", "local", "--root", folder)
    assert result.exit_code == 0 and "local: 0 problems" in result.output


def test_verify_counts_what_it_does_not_list(tmp_path):
    folder = hospital(tmp_path / "h", "".join(f"{i}.dcm,p{i},\n" for i in range(30)))
    problems, _ = fetching.verify("local", folder)
    assert len(problems) == 21 and problems[20] == "column path: and 10 more of 30 files, 30 in all"


def test_verify_says_all_wrong_cells(tmp_path):
    folder = hospital(tmp_path / "h", "a.png,,\na.png,p,\n")
    result = cli("verify", "local", "--root", folder)
    assert result.exit_code == 1 and "row 2, column patient_id: blank" in result.stderr
    assert "row 3, column path" in result.stderr and "listed twice" in result.stderr


def test_leakage_command(tmp_path):
    rng = np.random.default_rng(0)
    film = np.uint8(
        cv2.resize(
            rng.random((30, 30), np.float32) * 255, (300, 300), interpolation=cv2.INTER_LINEAR
        )
    )
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), film)
    cv2.imwrite(str(tmp_path / "c.png"), film[::-1])
    head = "path,patient_id,view,site,split\na.png,p,PA,S,train\n"
    (tmp_path / "films.csv").write_text(head + "b.png,q,PA,S,test\nc.png,q,PA,S,val\n")
    result = cli("leakage", "local", "--root", tmp_path)
    assert result.exit_code == 1 and "patient: local:q in test, val (2 images)" in result.output
    assert (
        "near-duplicate" in result.output and "train, test (0 of 256 bits differ)" in result.output
    )
    (tmp_path / "films.csv").write_text(head + "c.png,q,PA,S,val\n")
    assert cli("leakage", "local", "--root", tmp_path).exit_code == 0
