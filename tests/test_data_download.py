"""Fetching and unpacking archives, against a server on this machine. No test contacts an official host."""

from __future__ import annotations

import errno
import hashlib
import random
import re
import tarfile
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from archives import Server, link, tar_bytes, zip_bytes

from advit import data_download
from advit.data_download import ARCHIVES, Archive, download, find_archive
from advit.errors import DataError

PICTURE = random.Random(0).randbytes(10_000)
MEMBERS = {
    "bottle/train/good/000.png": PICTURE,
    "bottle/test/bad/000.png": PICTURE[::-1],
    "cable/train/good/000.png": PICTURE[1:],
    "readme.txt": b"made up",
}


@pytest.fixture
def serve(monkeypatch):
    """A function that starts a server for these bytes; proxies of the surroundings are not used."""
    running = []
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    def start(content: bytes, **behaviour) -> Server:
        state = Server(content, **behaviour)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                state.answer(self)

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        running.append(server)
        state.url = f"http://127.0.0.1:{server.server_port}/things.tar.xz"
        return state

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def archive_of(server: Server, content: bytes | None = None, **changes) -> Archive:
    checksum = hashlib.sha256(server.content if content is None else content).hexdigest()
    return replace(
        Archive(
            name="things", title="Things", url=server.url, page="https://example.org/things", checksum=checksum,
            algorithm="sha256", licence="CC0", citation="nobody", folder="things", inside="",
            categories=("bottle", "cable"),
        ),
        **changes,
    )  # fmt: skip


def files_in(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def get(archive: Archive, out: Path, **options) -> Path:
    return download(archive, out, progress=False, **options)


def test_fetches_checks_and_unpacks(serve, tmp_path):
    server = serve(tar_bytes(MEMBERS))
    folder = get(archive_of(server), tmp_path / "new" / "data")
    assert folder == tmp_path / "new" / "data" / "things"
    assert files_in(folder) == MEMBERS
    assert [p.name for p in folder.parent.iterdir()] == ["things"]
    assert server.asked == [None]


def test_zip_with_its_categories_in_a_folder(serve, tmp_path):
    members = {f"Wrapped/{name}": content for name, content in MEMBERS.items()}
    server = serve(zip_bytes(members))
    assert files_in(get(archive_of(server, inside="Wrapped"), tmp_path)) == MEMBERS
    assert [p.name for p in tmp_path.iterdir()] == ["things"]


def test_second_call_contacts_nobody(serve, tmp_path):
    server = serve(tar_bytes(MEMBERS))
    first = get(archive_of(server), tmp_path)
    assert get(archive_of(server), tmp_path) == first
    assert len(server.asked) == 1


def test_resumes_with_the_missing_bytes_only(serve, tmp_path):
    server = serve(tar_bytes(MEMBERS))
    (tmp_path / "things.tar.xz.part").write_bytes(server.content[:1000])
    assert files_in(get(archive_of(server), tmp_path)) == MEMBERS
    assert server.asked == ["bytes=1000-"]
    assert server.sent == len(server.content) - 1000


def test_starts_over_where_the_server_knows_no_ranges(serve, tmp_path):
    server = serve(tar_bytes(MEMBERS), ranges=False)
    (tmp_path / "things.tar.xz.part").write_bytes(b"x" * 1000)
    assert files_in(get(archive_of(server), tmp_path)) == MEMBERS
    assert server.sent == len(server.content)


def test_broken_connection_keeps_what_arrived_and_the_next_call_resumes(serve, tmp_path):
    server = serve(tar_bytes(MEMBERS), cut=700)
    with pytest.raises(DataError, match=r"Run the command again to resume"):
        get(archive_of(server), tmp_path)
    assert (tmp_path / "things.tar.xz.part").read_bytes() == server.content[:700]
    assert not (tmp_path / "things").exists()
    server.cut = None
    assert files_in(get(archive_of(server), tmp_path)) == MEMBERS
    assert server.asked == [None, "bytes=700-"]
    assert server.sent == len(server.content)


def test_whole_part_file_needs_no_more_bytes(serve, tmp_path):
    server = serve(tar_bytes(MEMBERS))
    (tmp_path / "things.tar.xz.part").write_bytes(server.content)
    assert files_in(get(archive_of(server), tmp_path)) == MEMBERS
    assert server.sent == 0


def test_wrong_checksum_unpacks_nothing(serve, tmp_path, monkeypatch):
    server = serve(tar_bytes(MEMBERS))
    monkeypatch.setattr(data_download, "unpack", lambda *_: pytest.fail("unpacked before the checksum was right"))
    with pytest.raises(DataError) as caught:
        get(archive_of(server, content=b"another"), tmp_path)
    assert hashlib.sha256(server.content).hexdigest() in str(caught.value)
    assert hashlib.sha256(b"another").hexdigest() in str(caught.value)
    assert "https://example.org/things" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_file_fetched_by_hand_is_used_and_kept(serve, tmp_path):
    server = serve(tar_bytes(MEMBERS))
    (tmp_path / "things.tar.xz").write_bytes(server.content)
    assert files_in(get(archive_of(server), tmp_path)) == MEMBERS
    assert server.asked == []
    assert (tmp_path / "things.tar.xz").read_bytes() == server.content


def test_wrong_file_fetched_by_hand_is_kept_and_named(serve, tmp_path):
    server = serve(tar_bytes(MEMBERS))
    (tmp_path / "things.tar.xz").write_bytes(b"a web page")
    with pytest.raises(DataError, match=r"things\.tar\.xz is not the archive of Things.*Move it away"):
        get(archive_of(server), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["things.tar.xz"]


def test_another_address_under_the_same_checksum(serve, tmp_path):
    gone, moved = serve(b"", status=404), serve(tar_bytes(MEMBERS))
    archive = archive_of(moved, url=gone.url)
    with pytest.raises(DataError, match=r"answers 404.*--url.*https://example\.org/things.*things\.tar\.xz"):
        get(archive, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert files_in(get(archive, tmp_path, url=moved.url)) == MEMBERS


@pytest.mark.parametrize(
    "member",
    [
        tarfile.TarInfo("../evil"),
        tarfile.TarInfo("bottle/../../evil"),
        tarfile.TarInfo("/tmp/evil-of-advit-tests"),
        tarfile.TarInfo(r"..\evil"),
        tarfile.TarInfo(r"C:\evil"),
        link("bottle/evil", tarfile.SYMTYPE, "/etc/passwd"),
        link("bottle/evil", tarfile.SYMTYPE, "../cable"),
        link("bottle/evil", tarfile.LNKTYPE, "readme.txt"),
        link("bottle/evil", tarfile.CHRTYPE),
        link("bottle/evil", tarfile.FIFOTYPE),
    ],
    ids=lambda m: f"{m.name}-{m.type.decode()}",
)
def test_unsafe_tar_members_are_refused(serve, tmp_path, member):
    server = serve(tar_bytes(MEMBERS, member))
    out = tmp_path / "deep" / "data"
    with pytest.raises(DataError, match=f"member {re.escape(repr(member.name))} .*Do not use this archive"):
        get(archive_of(server), out)
    assert [p.name for p in out.iterdir()] == ["things.tar.xz.part"]
    assert not list(tmp_path.rglob("*evil*"))
    assert not Path("/tmp/evil-of-advit-tests").exists()


@pytest.mark.parametrize("name", ["../evil", "/evil", r"..\evil"])
def test_unsafe_zip_names_are_refused(serve, tmp_path, name):
    server = serve(zip_bytes(MEMBERS | {name: b"x"}))
    with pytest.raises(DataError, match="leads out of the folder"):
        get(archive_of(server), tmp_path / "data")
    assert not list(tmp_path.rglob("*evil*"))
    assert not (tmp_path / "data" / "things").exists()


def test_links_in_a_zip_are_refused(serve, tmp_path):
    server = serve(zip_bytes({"bottle/evil": b"/etc/passwd"}, mode=0o120777))
    with pytest.raises(DataError, match="is a link or a device"):
        get(archive_of(server), tmp_path)
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_interrupted_unpacking_leaves_nothing_and_is_repeated(serve, tmp_path, monkeypatch, stop):
    server = serve(tar_bytes(MEMBERS))
    extract = tarfile.TarFile.extract

    def fails_at_second(self, member, *args, **options):
        if member.name != "bottle/train/good/000.png":
            raise stop
        return extract(self, member, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "extract", fails_at_second)
        with pytest.raises((KeyboardInterrupt, DataError)) as caught:
            get(archive_of(server), tmp_path)
    if isinstance(stop, OSError):
        assert "No space left" in str(caught.value) and "Free some space" in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["things.tar.xz.part"]
    assert files_in(get(archive_of(server), tmp_path)) == MEMBERS
    assert server.sent == len(server.content)


def test_remains_of_a_killed_unpacking_do_not_reach_the_folder(serve, tmp_path):
    server = serve(tar_bytes(MEMBERS))
    (tmp_path / ".things.unpacking" / "bottle").mkdir(parents=True)
    (tmp_path / ".things.unpacking" / "bottle" / "half.png").write_bytes(b"half")
    assert files_in(get(archive_of(server), tmp_path)) == MEMBERS


def test_too_little_space_is_noticed_before_the_transfer(serve, tmp_path, monkeypatch):
    server = serve(tar_bytes(MEMBERS))
    usage = data_download.shutil.disk_usage(tmp_path)._replace(free=len(server.content))
    monkeypatch.setattr(data_download.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match="Free some space"):
        get(archive_of(server), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_unreachable_host(serve, tmp_path):
    server = serve(b"")
    archive = archive_of(server, url="http://127.0.0.1:1/things.tar.xz")
    with pytest.raises(DataError, match=r"cannot be reached.*https://example\.org/things"):
        get(archive, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_no_address(serve, tmp_path):
    with pytest.raises(DataError, match="is no address"):
        get(archive_of(serve(b"")), tmp_path, url="things")


def test_out_that_is_a_file(serve, tmp_path):
    (tmp_path / "data").write_text("in the way")
    with pytest.raises(DataError, match=r"Cannot write .*data.*Choose another --out"):
        get(archive_of(serve(b"")), tmp_path / "data")


def test_incomplete_folder_is_left_alone(serve, tmp_path):
    server = serve(tar_bytes(MEMBERS))
    (tmp_path / "things" / "bottle").mkdir(parents=True)
    with pytest.raises(DataError, match=r"things exists, but lacks cable\. Move it away"):
        get(archive_of(server), tmp_path)
    assert server.asked == []
    (tmp_path / "things" / "bottle").rmdir()
    assert files_in(get(archive_of(server), tmp_path)) == MEMBERS


def test_archive_without_the_categories(serve, tmp_path):
    server = serve(tar_bytes({"bottle/train/good/000.png": PICTURE}))
    with pytest.raises(DataError, match="lacks cable"):
        get(archive_of(server), tmp_path)
    assert not (tmp_path / "things").exists()


def test_something_that_is_no_archive(serve, tmp_path):
    with pytest.raises(DataError, match="cannot be unpacked"):
        get(archive_of(serve(b"no archive at all")), tmp_path)
    assert not (tmp_path / "things").exists()


def test_unknown_name_shows_the_nearest():
    with pytest.raises(DataError, match=r"known: mvtec, btad\. Did you mean 'mvtec'\?"):
        find_archive("mvtech")


def test_official_archives_are_well_formed():
    assert {name: len(a.categories) for name, a in ARCHIVES.items()} == {"mvtec": 15, "btad": 3}
    for name, archive in ARCHIVES.items():
        assert archive.name == name == archive.folder
        assert archive.url.startswith("https://") and archive.page.startswith("https://")
        assert archive.algorithm == "sha256" and re.fullmatch(r"[0-9a-f]{64}", archive.checksum)
        assert archive.filename.endswith((".tar.xz", ".zip"))
        assert "CC BY" in archive.licence
