"""Official archives: fetch (and resume), check, unpack. Nothing is unpacked before its checksum was found right."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import tarfile
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path, PureWindowsPath
from typing import BinaryIO
from urllib.error import HTTPError

from tqdm.auto import tqdm

from advit.errors import DataError, nearest

TIMEOUT_SECONDS = 60
BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Archive:
    """An official archive of a data set: where it is, what it has to hash to, under which terms it comes.

    ``folder`` is what the data are called below ``--out``, ``inside`` the folder within the archive that holds the
    categories ("" is its top), ``page`` the web page a person can fetch the archive from.
    """

    name: str
    title: str
    url: str
    page: str
    checksum: str
    algorithm: str
    licence: str
    citation: str
    folder: str
    inside: str
    categories: tuple[str, ...]

    @property
    def filename(self) -> str:
        return self.url.rsplit("/", 1)[-1]


MVTEC = Archive(
    name="mvtec",
    title="MVTec AD",
    url="https://www.mydrive.ch/shares/150996/b52ecdcbf521176e9db9c731f2304b27/download/420938113-1629960298/"
    "mvtec_anomaly_detection.tar.xz",
    page="https://www.mvtec.com/company/research/datasets/mvtec-ad/downloads",
    checksum="cf4313b13603bec67abb49ca959488f7eedce2a9f7795ec54446c649ac98cd3d",
    algorithm="sha256",
    licence="CC BY-NC-SA 4.0 (no commercial use), https://creativecommons.org/licenses/by-nc-sa/4.0/",
    citation="Bergmann, Batzner, Fauser, Sattlegger, Steger: The MVTec Anomaly Detection Dataset. "
    "International Journal of Computer Vision 129(4), 1038-1059, 2021",
    folder="mvtec",
    inside="",
    categories=(
        "bottle", "cable", "capsule", "carpet", "grid", "hazelnut", "leather", "metal_nut",
        "pill", "screw", "tile", "toothbrush", "transistor", "wood", "zipper",
    ),
)  # fmt: skip

BTAD = Archive(
    name="btad",
    title="BTAD",
    url="https://avires.dimi.uniud.it/papers/btad/btad.zip",
    page="https://github.com/pankajmishra000/VT-ADL",
    checksum="461c9387e515bfed41ecaae07c50cf6b10def647b36c9e31d239ab2736b10d2a",
    algorithm="sha256",
    licence="CC BY-SA 4.0 according to its authors' repository, CC BY-NC-SA 4.0 according to others: ask the authors "
    "before commercial use",
    citation="Mishra, Verk, Fornasier, Piciarelli, Foresti: VT-ADL: A Vision Transformer Network for Image Anomaly "
    "Detection and Localization. ISIE 2021",
    folder="btad",
    inside="BTech_Dataset_transformed",
    categories=("01", "02", "03"),
)

ARCHIVES = {archive.name: archive for archive in (MVTEC, BTAD)}


def find_archive(name: str) -> Archive:
    """The archive of this name.

    Raises:
        DataError: if there is none; the message lists the names and the nearest one.

    Test: tests/test_data_download.py
    """
    if name not in ARCHIVES:
        known = ", ".join(ARCHIVES)
        raise DataError(f"No archive is called {name!r}; known: {known}.{nearest(name, list(ARCHIVES))}")
    return ARCHIVES[name]


def download(archive: str | Archive, out: Path, *, url: str | None = None, progress: bool = True) -> Path:
    """Fetch an official archive into ``out``, check it, unpack it, and return the folder of its categories.

    An unfinished transfer stays in ``out`` as ``FILENAME.part`` and is resumed by the next call. A file ``FILENAME``
    that a person put into ``out`` is checked and unpacked without any transfer, and kept. The folder appears whole or
    not at all; one that holds every category is returned as it is. Not for two processes at once in one ``out``.

    Args:
        archive: ``"mvtec"``, ``"btad"`` or an :class:`Archive`.
        url: another address of the same archive (official links move); its checksum stays the same.

    Raises:
        DataError: unknown name, server out of reach, disk full, wrong checksum, unsafe or damaged archive, or a folder
            that holds only some of the categories. The message says what to do.

    Test: tests/test_data_download.py
    """
    archive = find_archive(archive) if isinstance(archive, str) else archive
    folder, file = Path(out) / archive.folder, Path(out) / archive.filename
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        if missing := missing_categories(archive, folder):
            raise DataError(f"{folder} exists, but lacks {missing}. Move it away or choose another --out.")
        return folder
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(file.name + ".part")
    given = file.is_file()
    if not given:
        fetch(archive, part, url or archive.url, progress)
    verify(archive, file if given else part, given)
    unpack(archive, file if given else part, folder, progress)
    part.unlink(missing_ok=True)
    return folder


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure of the disk within the block into a DataError."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        todo = "Free some space, or choose" if full else "Choose"
        raise DataError(f"Cannot write {path}: {error.strerror or error}. {todo} another --out.") from error


def missing_categories(archive: Archive, folder: Path) -> str:
    """Categories that the folder lacks, three at most by name, or an empty string."""
    missing = [name for name in archive.categories if not (folder / name).is_dir()]
    return ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")


def by_hand(archive: Archive, out: Path) -> str:
    """What a person can do instead."""
    return f"Or fetch it by hand from {archive.page}, save it as {out / archive.filename} and run the command again."


def fetch(archive: Archive, part: Path, url: str, progress: bool) -> None:
    """Transfer the archive to ``part``, asking only for the bytes that are not there yet.

    A server that ignores the Range header answers 200 instead of 206: then the file starts over. One that answers 416
    has no more bytes than we have: then the checksum decides.

    Test: tests/test_data_download.py
    """
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "advit", "Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    total = None
    try:
        request = urllib.request.Request(url, headers=headers)
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
            have = have if response.headers.get("Content-Range", "").startswith(f"bytes {have}-") else 0
            if length := response.headers.get("Content-Length"):
                total = have + int(length)
                check_space(archive, part.parent, 2 * total - have)
            copy(response, part, have, total, archive.title, progress)
    except HTTPError as error:
        if error.code == 416 and have:
            return
        raise DataError(
            f"{url} answers {error.code} {error.reason}. If the link has moved, pass the new one with --url (the "
            f"checksum stays). {by_hand(archive, part.parent)}"
        ) from error
    except ValueError as error:
        raise DataError(f"--url {url!r} is no address: {error}. Pass one such as https://host/file.") from error
    except (OSError, HTTPException) as error:
        raise DataError(
            f"{url} cannot be reached: {getattr(error, 'reason', None) or error}. Run the command again to resume: "
            f"what has arrived is kept in {part}. {by_hand(archive, part.parent)}"
        ) from error
    if total is not None and (size := part.stat().st_size) < total:
        raise DataError(
            f"The transfer of {archive.title} broke off after {size:,} of {total:,} bytes. Run the command again to "
            f"resume: they are kept in {part}."
        )


def check_space(archive: Archive, out: Path, needed: int) -> None:
    """Raise DataError if the rest of the archive, and about as much again unpacked, will not fit."""
    free = shutil.disk_usage(out).free
    if free < needed:
        raise DataError(
            f"{archive.title} needs about {needed / 1e9:.1f} GB in {out}, where {free / 1e9:.1f} GB are free. "
            f"Free some space, or choose another --out."
        )


def copy(source: BinaryIO, part: Path, have: int, total: int | None, title: str, progress: bool) -> None:
    """Append to ``part`` (start it over if ``have`` is 0), with a bar of bytes."""
    bar = tqdm(desc=title, initial=have, total=total, unit="B", unit_scale=True, disable=not progress)
    if not have:
        with writing(part):
            part.write_bytes(b"")
    with bar:
        while block := source.read(BLOCK_BYTES):
            with writing(part), open(part, "ab") as f:
                f.write(block)
            bar.update(len(block))


def verify(archive: Archive, file: Path, given: bool) -> None:
    """Raise DataError, and remove what was fetched, unless the file has the archive's checksum."""
    with open(file, "rb") as f:
        found = hashlib.file_digest(f, archive.algorithm).hexdigest()
    if found == archive.checksum:
        return
    todo = "Move it away and run the command again to fetch it."
    if not given:
        file.unlink()
        todo = f"It was removed. Run the command again. {by_hand(archive, file.parent)}"
    raise DataError(
        f"{file} is not the archive of {archive.title}: its {archive.algorithm} is {found} instead of "
        f"{archive.checksum}. Nothing was unpacked. {todo}"
    )


def unpack(archive: Archive, file: Path, folder: Path, progress: bool) -> None:
    """Unpack into a hidden folder beside ``folder``, which it becomes by a rename once all is there.

    Test: tests/test_data_download.py
    """
    temporary = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(temporary, ignore_errors=True)
    bar = tqdm(desc="Unpacking", total=file.stat().st_size, unit="B", unit_scale=True, disable=not progress)
    try:
        with writing(folder), bar, open(file, "rb") as f:
            temporary.mkdir()
            extract = extract_zip if zipfile.is_zipfile(f) else extract_tar
            f.seek(0)
            for _ in extract(f, temporary):
                bar.update(max(0, f.tell() - bar.n))
            if missing := missing_categories(archive, temporary / archive.inside):
                raise DataError(f"{file} lacks {missing}. {by_hand(archive, file.parent)}")
            if folder.exists():
                folder.rmdir()
            os.rename(temporary / archive.inside, folder)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise DataError(f"{file} cannot be unpacked: {error}. Remove it and run the command again.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def extract_tar(f: BinaryIO, into: Path) -> Iterator[None]:
    """Extract one member per step; reads the archive once."""
    safest = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # Python 3.11.4 and newer
    with tarfile.open(fileobj=f) as tar:
        for member in tar:
            refuse_unsafe(member.name, plain=member.isfile() or member.isdir())
            tar.extract(member, into, **safest)
            yield


def extract_zip(f: BinaryIO, into: Path) -> Iterator[None]:
    """Extract one member per step."""
    with zipfile.ZipFile(f) as archive:
        for member in archive.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            refuse_unsafe(member.filename, plain=kind in (0, stat.S_IFREG, stat.S_IFDIR))
            archive.extract(member, into)
            yield


def refuse_unsafe(name: str, plain: bool) -> None:
    """Raise DataError for a member that is a link or device, or whose name leaves the folder on any system."""
    path = PureWindowsPath(name)  # knows both separators
    if not plain or path.anchor or ".." in path.parts:
        what = "leads out of the folder" if plain else "is a link or a device"
        raise DataError(f"The archive's member {name!r} {what}: nothing was unpacked. Do not use this archive.")
