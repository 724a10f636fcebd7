"""A real registry on this host's loopback, images made by hand, and a proxy in front of it that does what networks do.

The registry is Debian's `docker-registry` (CNCF distribution); with tokens, they are of a small server of the test's own, which signs them as
the registry wants it.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import tarfile
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

USER, PASSWORD = "ali", "open sesame"
# `htpasswd -B` of the above
_HTPASSWD = "ali:$2b$04$yJvP.ZgOLOke9Qq2ik.vGO..dRXKMxevQ0p9HmiqvJtAvBk7MJTAq\n"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def tar_of(*members: tuple[str, bytes] | tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]) -> bytes:
    """An archive of (name, data) pairs and TarInfos; a name that ends in / is a directory."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for item in members:
            info, data = item if isinstance(item, tuple) else (item, b"")
            if isinstance(info, str):
                name, info = info, tarfile.TarInfo(info.rstrip("/"))
                info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
                info.mode = 0o755
            if info.isreg():
                info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


@dataclass(frozen=True, kw_only=True)
class MadeImage:
    """An image as documents and blobs."""

    manifest: bytes
    blobs: dict[str, bytes]  # by digest: the layers, as they are served, and the configuration
    layers: tuple[str, ...]
    media_type: str = MANIFEST

    @property
    def digest(self) -> str:
        return digest_of(self.manifest)


def make_image(
    *layers: bytes,
    config: dict[str, Any] | None = None,
    architecture: str = "",
    compress: Any = lambda data: gzip.compress(data, mtime=0),
    media_type: str = LAYER,
    **changes: Any,
) -> MadeImage:
    """An image with these tar archives as layers; `changes` go into the manifest."""
    packed = [compress(layer) for layer in layers]
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    configuration = json.dumps(
        {
            "os": "linux",
            "architecture": architecture or machine,
            "config": config or {},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]},
        }
    ).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": digest_of(configuration), "size": len(configuration)},
        "layers": [{"mediaType": media_type, "digest": digest_of(data), "size": len(data)} for data in packed],
        **changes,
    }
    blobs = {digest_of(data): data for data in (*packed, configuration)}
    return MadeImage(manifest=json.dumps(manifest).encode(), blobs=blobs, layers=tuple(map(digest_of, packed)))


def make_index(*images: tuple[MadeImage, str]) -> bytes:
    """An index of images with their platforms."""
    entries = []
    for image, platform in images:
        words = platform.split("/")
        shown = {"os": words[0], "architecture": words[1], **({"variant": words[2]} if len(words) > 2 else {})}
        entries.append({"mediaType": MANIFEST, "digest": image.digest, "size": len(image.manifest), "platform": shown})
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode()


@dataclass(kw_only=True)
class RunningRegistry:
    """A registry that listens."""

    address: str  # 127.0.0.1:41235
    directory: Path
    scheme: str = "http"
    headers: dict[str, str] = field(default_factory=dict)
    context: ssl.SSLContext | None = None

    def push(self, repository: str, tag: str, image: MadeImage) -> str:
        """Pushes an image; returns its digest."""
        for digest, data in image.blobs.items():
            self.push_blob(repository, digest, data)
        self.push_manifest(repository, tag, image.manifest, image.media_type)
        return image.digest

    def push_blob(self, repository: str, digest: str, data: bytes) -> None:
        with self._asked("POST", f"/v2/{repository}/blobs/uploads/") as answer:
            place = answer.headers["Location"]
        address = urllib.parse.urljoin(f"{self.scheme}://{self.address}/", place)
        address += f"{'&' if '?' in address else '?'}digest={urllib.parse.quote(digest)}"
        with self._asked("PUT", address, data, {"Content-Type": "application/octet-stream"}):
            pass

    def push_manifest(self, repository: str, tag: str, data: bytes, media_type: str) -> None:
        with self._asked("PUT", f"/v2/{repository}/manifests/{tag}", data, {"Content-Type": media_type}):
            pass

    def file_of(self, digest: str) -> Path:
        """Where the registry keeps a blob."""
        name = digest.removeprefix("sha256:")
        return self.directory / "data/docker/registry/v2/blobs/sha256" / name[:2] / name / "data"

    def _asked(self, method: str, path: str, data: bytes | None = None, headers: dict[str, str] | None = None) -> Any:
        address = path if "://" in path else f"{self.scheme}://{self.address}{path}"
        request = urllib.request.Request(address, data=data, method=method, headers={**self.headers, **(headers or {})})
        return urllib.request.urlopen(request, timeout=30, context=self.context)


@contextmanager
def running_registry(directory: Path, **more: Any) -> Iterator[RunningRegistry]:
    """A registry with its data in that directory; `more` goes into its configuration (auth, http)."""
    http = {"addr": "127.0.0.1:0", **more.pop("http", {})}
    config = {"version": "0.1", "log": {"level": "info"}, "storage": {"filesystem": {"rootdirectory": str(directory / "data")}}}
    (directory / "config.yml").write_text(json.dumps({**config, "http": http, **more}))  # (JSON is YAML)
    program = shutil.which("docker-registry")
    assert program is not None
    with subprocess.Popen([program, "serve", str(directory / "config.yml")], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as child:
        try:
            assert child.stderr is not None
            said = b""
            for line in child.stderr:
                said += line
                if b"listening on " in line:
                    address = line.split(b"listening on ")[1].split(b'"')[0].split(b",")[0].strip().decode()
                    break
            else:
                raise AssertionError(f"the registry does not start: {said.decode()}")
            reader = threading.Thread(target=child.stderr.read, daemon=True)  # or it stands still once the pipe is full
            reader.start()
            yield RunningRegistry(address=address, directory=directory, scheme="https" if "tls" in http else "http")
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait()


def htpasswd(directory: Path) -> dict[str, Any]:
    """The registry's configuration for name and password."""
    (directory / "htpasswd").write_text(_HTPASSWD)
    return {"auth": {"htpasswd": {"realm": "test", "path": str(directory / "htpasswd")}}}


@dataclass(frozen=True, kw_only=True)
class Authority:
    """A certificate for itself and for names, and its key."""

    key: rsa.RSAPrivateKey
    certificate: x509.Certificate

    def write(self, directory: Path) -> tuple[Path, Path]:
        """Files of the certificate and the key."""
        certificate, key = directory / "server.crt", directory / "server.key"
        certificate.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        key.write_bytes(
            self.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
        )
        return certificate, key


def make_authority(*names: str) -> Authority:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "registry of a test")])
    now = datetime.now(UTC)
    alternatives: list[x509.GeneralName] = [x509.DNSName(each) for each in names]
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([*alternatives, x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return Authority(key=key, certificate=builder.sign(key, hashes.SHA256()))


@dataclass(kw_only=True)
class TokenServer:
    """Gives tokens to whoever knows USER's password, or has the identity token; anonymous ones if it is told so."""

    authority: Authority
    anonymous: bool = False
    lifetime_s: int = 300
    address: str = ""
    asked: list[tuple[str, dict[str, str], str]] = field(default_factory=list)  # method, parameters, header Authorization

    service = "registry of a test"
    issuer = "token server of a test"
    identity_token = "identity-of-ali"

    def configuration(self, directory: Path) -> dict[str, Any]:
        """The registry's configuration for its tokens."""
        bundle, _ = self.authority.write(directory)
        token = {"realm": f"http://{self.address}/token", "service": self.service, "issuer": self.issuer, "rootcertbundle": str(bundle)}
        return {"auth": {"token": token}}

    def token(self, *, actions: Sequence[str], repository: str) -> str:
        """A token as the registry wants it: a JWT, signed by the authority."""
        now = int(datetime.now(UTC).timestamp())
        certificate = self.authority.certificate.public_bytes(serialization.Encoding.DER)
        header = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(certificate).decode()]}
        claims = {
            "iss": self.issuer,
            "sub": USER,
            "aud": self.service,
            "exp": now + self.lifetime_s,
            "nbf": now - 60,
            "iat": now,
            "jti": os.urandom(8).hex(),
            "access": [{"type": "repository", "name": repository, "actions": list(actions)}],
        }
        signed = b".".join(_base64url(json.dumps(part).encode()) for part in (header, claims))
        signature = self.authority.key.sign(signed, padding.PKCS1v15(), hashes.SHA256())
        return (signed + b"." + _base64url(signature)).decode()

    def answer(self, method: str, parameters: dict[str, str], authorization: str) -> tuple[int, dict[str, Any]]:
        """Status and body for a request."""
        self.asked.append((method, parameters, authorization))
        kind, repository, actions = (parameters.get("scope", "") + "::").split(":")[:3]
        known = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        is_known = authorization == f"Basic {known}" or parameters.get("refresh_token") == self.identity_token
        if not is_known and (authorization or not self.anonymous):
            return 401, {"errors": [{"code": "UNAUTHORIZED", "message": "who are you?"}]}
        assert kind == "repository"
        token = self.token(actions=actions.split(","), repository=repository)
        return 200, {"access_token": token} if method == "POST" else {"token": token}


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


@contextmanager
def running_token_server(authority: Authority, **more: Any) -> Iterator[TokenServer]:
    served = TokenServer(authority=authority, **more)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(urllib.parse.urlsplit(self.path).query)

        def do_POST(self) -> None:
            self._answer(self.rfile.read(int(self.headers["Content-Length"])).decode())

        def _answer(self, text: str) -> None:
            status, body = served.answer(self.command, dict(urllib.parse.parse_qsl(text)), self.headers.get("Authorization", ""))
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None: ...

    with listening(Handler) as server:
        served.address = f"127.0.0.1:{server.server_port}"
        yield served


@contextmanager
def listening(handler: type[BaseHTTPRequestHandler]) -> Iterator[ThreadingHTTPServer]:
    """A server of this handler on a port of its own."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            if not isinstance(sys.exception(), ConnectionError):  # clients that go away are what some tests are about
                super().handle_error(request, client_address)

    server = Server(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
