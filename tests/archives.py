"""Archives made in memory, and a server on this machine that sends them, for tests/test_data_download.py."""

from __future__ import annotations

import io
import re
import tarfile
import zipfile
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler


@dataclass
class Server:
    """What the server on this machine holds, how it behaves, and what it was asked and sent."""

    content: bytes
    ranges: bool = True
    status: int | None = None
    cut: int | None = None  # bytes after which the connection breaks
    url: str = ""
    asked: list[str | None] = field(default_factory=list)
    sent: int = 0

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        asked = request.headers.get("Range")
        self.asked.append(asked)
        start = int(re.fullmatch(r"bytes=(\d+)-", asked).group(1)) if asked and self.ranges else 0
        if self.status or (start and start >= len(self.content)):
            request.send_error(self.status or 416)
            return
        body = self.content[start:]
        request.send_response(206 if asked and self.ranges else 200)
        if asked and self.ranges:
            request.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        body = body[: self.cut]
        request.wfile.write(body)
        self.sent += len(body)


def tar_bytes(members: dict[str, bytes], *extra: tarfile.TarInfo) -> bytes:
    """A .tar.xz of these files, then of these members without content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for info in extra:
            tar.addfile(info)
    return buffer.getvalue()


def zip_bytes(members: dict[str, bytes], mode: int = 0o100644) -> bytes:
    """A .zip of these files, each with this Unix mode."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, content)
    return buffer.getvalue()


def link(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    """A tar member without content: a link to ``target``, or a device."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info
