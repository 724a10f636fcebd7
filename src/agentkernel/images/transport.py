"""HTTP connections to registries: through the proxy that the user's environment names, with the certificates that the user's host trusts.

Certificates of a registry's own are where docker and podman have them: `ca.crt` and the pair `client.cert`, `client.key`, in
/etc/docker/certs.d/HOST, /etc/containers/certs.d/HOST or ~/.config/containers/certs.d/HOST (docker: "certificates-client").
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import ssl
from collections.abc import Iterator, Mapping
from functools import partial

import httpx

from agentkernel import __version__
from agentkernel.errors import ImageFailed, InvalidInput
from agentkernel.images.hostetc import CERTIFICATE_VARIABLES, certificates
from agentkernel.images.reach import Nearness, judge, judging, spelled

LIMIT = "agentkernel.limit"
TIMEOUT = httpx.Timeout(30.0, connect=15.0)  # seconds without a byte
_CERTIFICATE_DIRECTORIES = ("/etc/docker/certs.d", "/etc/containers/certs.d")

_Key = tuple[str, str]


def open_client(transport: ByHost) -> httpx.AsyncClient:
    """A client that follows no redirects and takes nothing from this process's environment."""
    return httpx.AsyncClient(
        transport=transport,
        trust_env=False,
        follow_redirects=False,
        timeout=TIMEOUT,
        headers={"User-Agent": f"agentkernel/{__version__}", "Accept-Encoding": "identity"},
    )


def is_loopback(host: str) -> bool:
    """Whether a name or address, without port, is this host itself."""
    plain = host.strip("[]").lower().rstrip(".")
    try:
        return ipaddress.ip_address(plain).is_loopback
    except ValueError:
        return plain == "localhost" or plain.endswith(".localhost")


class ByHost(httpx.AsyncBaseTransport):
    """One pool of connections for each host: each may have certificates and a proxy of its own.

    A request's extension `LIMIT` says how near to this host it may lead. Behind a proxy, whose names are the proxy's to look up, only
    addresses are judged.
    """

    def __init__(self, environment: Mapping[str, str], home: str) -> None:
        self._environment = environment
        self._home = home
        self._proxies = proxies_of(environment)
        self._pools: dict[_Key, httpx.AsyncHTTPTransport] = {}
        self._near: dict[_Key, Nearness] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Sends it; raises what httpx raises, and ImageFailed or InvalidInput where it cannot be tried."""
        url, key = request.url, _key(request.url)
        limit = request.extensions.pop(LIMIT, Nearness.NOWHERE)
        if limit < Nearness.PRIVATE and self._is_exempt(url):
            limit = Nearness.PRIVATE  # whoever names it there knows of it
        found = partial(self._near.__setitem__, key)
        if address := spelled(url.host):
            found(judge(url, address, "", limit))
        if self._proxy(url) is None:
            request.extensions["trace"] = judging(url, limit, found)
        if key not in self._pools:
            made = await asyncio.to_thread(self._pool, url)  # reading all certificates takes 20 ms
            self._pools.setdefault(key, made)
        return await self._pools[key].handle_async_request(request)

    def nearness(self, url: httpx.URL) -> Nearness:
        """How near the host of that address was found to be."""
        return self._near.get(_key(url), Nearness.PUBLIC)

    async def aclose(self) -> None:
        """Closes all connections."""
        for pool in self._pools.values():
            await pool.aclose()

    def _pool(self, url: httpx.URL) -> httpx.AsyncHTTPTransport:
        place = url.netloc.decode("ascii", "replace")
        context = self._context(place) if url.scheme == "https" else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        proxy = self._proxy(url)
        if proxy is None:
            return httpx.AsyncHTTPTransport(verify=context, trust_env=False)
        try:
            return httpx.AsyncHTTPTransport(verify=context, trust_env=False, proxy=httpx.Proxy(proxy))
        except (ValueError, httpx.InvalidURL, ImportError):  # (SOCKS wants another library)
            shown = proxy.rpartition("@")[2]
            raise InvalidInput(f"the proxy {shown!r} cannot be used for registries", hint="name one as http://HOST:PORT") from None

    def _proxy(self, url: httpx.URL) -> str | None:
        return None if is_loopback(url.host) or self._is_exempt(url) else self._proxies.get(url.scheme, self._proxies.get("all"))

    def _is_exempt(self, url: httpx.URL) -> bool:
        return is_exempt(url.host, url.port, self._proxies.get("no", ""))

    def _context(self, place: str) -> ssl.SSLContext:
        """The certificates of the user's host, and the registry's own."""
        try:
            trusted = next(filter(None, map(self._environment.get, CERTIFICATE_VARIABLES)), "") or certificates({})
            context = ssl.create_default_context(cafile=trusted or None, capath=self._environment.get("SSL_CERT_DIR") or None)
            if not trusted and not context.get_ca_certs():
                context = httpx.create_ssl_context(trust_env=False)  # a host without certificates: those that the library carries
            for directory in self._own_certificates(place):
                for name in sorted(os.listdir(directory)):
                    path = f"{directory}/{name}"
                    if name.endswith(".crt"):
                        context.load_verify_locations(cafile=path)
                    elif name.endswith(".cert"):
                        context.load_cert_chain(path, path.removesuffix(".cert") + ".key")
        except (OSError, ssl.SSLError) as error:
            raise ImageFailed(f"the certificates for {place} cannot be read: {error}") from error
        return context

    def _own_certificates(self, place: str) -> Iterator[str]:
        for base in (*_CERTIFICATE_DIRECTORIES, f"{self._home}/.config/containers/certs.d"):
            directory = f"{base}/{place}"
            if not place.startswith(".") and os.path.isdir(directory):
                yield directory


def _key(url: httpx.URL) -> _Key:
    return url.scheme, url.netloc.decode("ascii", "replace")


def proxies_of(environment: Mapping[str, str]) -> dict[str, str]:
    """The usual variables, as `urllib.request` keeps them: by scheme, and `no`. Small letters win, as in curl."""
    found = {}
    for scheme in ("http", "https", "all", "no"):
        value = environment.get(f"{scheme}_proxy") or environment.get(f"{scheme.upper()}_PROXY") or ""
        if value:
            found[scheme] = value if "://" in value or scheme == "no" else f"http://{value}"
    return found


def is_exempt(host: str, port: int | None, exempt: str) -> bool:
    """Whether NO_PROXY names a host: `*`, a name with all names below it, an address or a range of them, perhaps with a port."""
    plain = host.strip("[]").lower().rstrip(".")
    for word in exempt.lower().replace(",", " ").split():
        name, colon, wanted = word.rpartition(":")
        if colon and wanted.isdecimal() and ":" not in name.strip("[]"):
            if int(wanted) != port:
                continue
            word = name
        if word == "*" or plain == word.strip("[].") or plain.endswith("." + word.lstrip("*").lstrip(".")) or _is_in(plain, word):
            return True
    return False


def _is_in(address: str, words: str) -> bool:
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(words, strict=False)
    except ValueError:
        return False
