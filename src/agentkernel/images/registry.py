"""A registry as images come from it (OCI distribution specification 1.1; Docker's registry API version 2).

What is asked: manifests by tag or digest, and blobs by digest, from an offset. Who asks is told by a token of the server that the registry
names (distribution's "Token Authentication"), or by name and password. The user's login goes to the registry and to that server alone: not
to where the registry sends its clients for a blob. Everything but a registry on this very host is spoken to by TLS.

Importing this takes as long as httpx does; nothing else of the package imports it.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self

import httpx

from agentkernel.errors import AgentKernelError, ImageFailed, NotFound, Refused
from agentkernel.images import challenges
from agentkernel.images.answers import Unreachable, body, nothing, offset_of, reason, stream, token_of, unreachable
from agentkernel.images.blobs import digest_of
from agentkernel.images.credentials import Login
from agentkernel.images.manifest import ACCEPTED, MAX_DOCUMENT_BYTES, Descriptor
from agentkernel.images.reach import Nearness
from agentkernel.images.reference import DOCKER_HUB, Reference, is_digest
from agentkernel.images.source import Document
from agentkernel.images.transfers import BrokenTransfer, Transfer
from agentkernel.images.transport import LIMIT, ByHost, is_loopback, open_client
from agentkernel.model.image import ImageLimits

HUB_HOST = "registry-1.docker.io"
MAX_REDIRECTS = 5
MAX_TOKEN_BYTES = 64 * 1024
DOCUMENT_TIMEOUT_S = 60.0  # for a manifest with all that is asked before it, however slowly its bytes come
_CLIENT_ID = "agentkernel"
_ACCEPT = {"Accept": ", ".join(ACCEPTED)}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Origin:
    """Who a request's credentials are for."""

    scheme: str
    host: str
    port: int | None

    @classmethod
    def of(cls, url: httpx.URL) -> _Origin:
        return cls(scheme=url.scheme, host=url.host, port=url.port)


class Registry:
    """The registry of one image, during one pull; `async with`. Implements `images.source.Source`."""

    def __init__(
        self,
        reference: Reference,
        login: Login | None,
        environment: Mapping[str, str],
        home: str,
        least_bytes_per_s: int = ImageLimits().least_bytes_per_s,
    ) -> None:
        self.least_bytes_per_s = least_bytes_per_s
        self._reference = reference
        self._login = login
        self._transport = ByHost(environment, home)
        self._client = open_client(self._transport)
        self._authorization = ""
        self._base: httpx.URL | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def digest(self, asked: str) -> str:
        """The digest that a tag stands for now, if the registry tells it without sending the manifest; else empty."""
        async with self._in_time(), self._answer("HEAD", f"manifests/{asked}", _ACCEPT) as response:
            if response.status_code != 200:
                return ""
            said = response.headers.get("docker-content-digest", "")
            return said if is_digest(said) else ""

    async def document(self, asked: str) -> Document:
        """A manifest or index, by tag or digest.

        Raises:
            NotFound, Refused: the registry does not have it, or not for this login.
            ImageFailed: it cannot be reached, or sends something else.
        """
        async with self._in_time(), self._answer("GET", f"manifests/{asked}", _ACCEPT) as response:
            await self._require_ok(response, (200,))
            data = await body(response, MAX_DOCUMENT_BYTES)
            said = response.headers.get("docker-content-digest", "")
            wanted = asked if is_digest(asked) else said if is_digest(said) else ""
        if wanted and digest_of(data) != wanted:
            raise ImageFailed(f"{self._reference.registry} sent another manifest than {wanted[:19]}", hint="try again")
        return Document(data=data, media_type=response.headers.get("content-type", ""))

    def blob(self, descriptor: Descriptor, offset: int) -> AbstractAsyncContextManager[Transfer]:
        """Begins a transfer, from the offset if the server can do that; see `images.transfers.Fetch`."""
        return self._blob(descriptor, offset)

    @asynccontextmanager
    async def _blob(self, descriptor: Descriptor, offset: int) -> AsyncIterator[Transfer]:
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        try:
            async with self._answer("GET", f"blobs/{descriptor.digest}", headers) as response:
                if response.status_code == 416:  # it has less than what we have of it: once more from the beginning
                    yield Transfer(offset=0, chunks=nothing())
                    return
                is_elsewhere = _Origin.of(response.url) != _Origin.of(await self._address())
                if response.status_code >= 500 or (is_elsewhere and response.status_code >= 400):
                    raise BrokenTransfer(f"{response.url.host} answers {response.status_code}")  # elsewhere: addresses that run out
                if response.status_code == 404:
                    raise ImageFailed(f"{self._reference.registry} does not have {descriptor.digest[:19]} of this image")
                await self._require_ok(response, (200, 206))
                yield Transfer(offset=offset_of(response, offset), chunks=stream(response))
        except Unreachable as error:
            raise BrokenTransfer(error.message) from None

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(DOCUMENT_TIMEOUT_S):
                yield
        except TimeoutError:
            raise Unreachable(f"{self._reference.registry} does not answer in {DOCUMENT_TIMEOUT_S:g} s", hint="try again later") from None

    @asynccontextmanager
    async def _answer(self, method: str, path: str, headers: Mapping[str, str]) -> AsyncIterator[httpx.Response]:
        """The answer to a request, after whatever authorization the registry wants."""
        url = (await self._address()).join(f"/v2/{self._reference.repository}/{path}")
        async with AsyncExitStack() as stack:
            for may_ask in (True, False):
                response = await stack.enter_async_context(self._followed(method, url, headers))
                if response.status_code != 401 or not may_ask or _Origin.of(response.url) != _Origin.of(url):
                    break
                await self._authorize(response)
            yield response

    @asynccontextmanager
    async def _followed(self, method: str, url: httpx.URL, headers: Mapping[str, str]) -> AsyncIterator[httpx.Response]:
        """The answer of whoever the registry sends us to, who gets none of our credentials."""
        home = _Origin.of(url)
        for _ in range(MAX_REDIRECTS + 1):
            secret = {"Authorization": self._authorization} if self._authorization and _Origin.of(url) == home else {}
            async with self._sent(self._request(method, url, headers={**headers, **secret})) as response:
                if response.status_code not in {301, 302, 303, 307, 308}:
                    yield response
                    return
                url = self._permitted(_joined(url, response.headers.get("location", "")))
        raise ImageFailed(f"{self._reference.registry} sends its clients in circles")

    def _request(self, method: str, url: httpx.URL, **more: Any) -> httpx.Request:
        """A request that leads no nearer to this host than the registry is, but to the registry itself, whom the user has named."""
        limit = Nearness.NOWHERE
        if self._base is not None and _Origin.of(url) != _Origin.of(self._base):
            near = self._transport.nearness(self._base)
            limit = near if near <= Nearness.HERE else Nearness.PRIVATE
        return self._client.build_request(method, url, extensions={LIMIT: limit}, **more)

    @asynccontextmanager
    async def _sent(self, request: httpx.Request) -> AsyncIterator[httpx.Response]:
        try:
            response = await self._client.send(request, stream=True)
        except (httpx.TransportError, httpx.InvalidURL, UnicodeError) as error:
            raise unreachable(request.url, error) from error
        try:
            yield response
        finally:
            await response.aclose()

    def _permitted(self, url: httpx.URL) -> httpx.URL:
        """Where a registry may send us: by TLS, or to this host itself if it is there too. What is connected to is judged once more."""
        is_plain = url.scheme == "http" and is_loopback(_host_of(self._reference.registry)) and is_loopback(url.host)
        if not url.host or not (url.scheme == "https" or is_plain):
            shown = f"{url.scheme}://{url.host[:100]}"
            raise ImageFailed(f"{self._reference.registry} sends its clients to {shown}, where they must not go without TLS")
        return url

    async def _address(self) -> httpx.URL:
        """Where the registry is. One on this host may do without TLS, as docker has it; nothing secret is said to find that out."""
        if self._base is None:
            registry = HUB_HOST if self._reference.registry == DOCKER_HUB else self._reference.registry
            is_plain = is_loopback(_host_of(registry)) and await self._speaks_plainly(registry)
            self._base = httpx.URL(f"{'http' if is_plain else 'https'}://{registry}")
        return self._base

    async def _speaks_plainly(self, registry: str) -> bool:
        try:
            async with self._sent(self._request("GET", httpx.URL(f"http://{registry}/v2/"))) as response:
                return response.status_code != 400  # what servers with TLS answer to a request without
        except Unreachable as error:
            if isinstance(error.__cause__, httpx.ConnectError | httpx.TimeoutException):
                raise
            return False

    async def _authorize(self, response: httpx.Response) -> None:
        """Sets what the next request says of who asks; raises Refused where nothing can be said."""
        said = await reason(response)  # (and the connection can be used again)
        offered = {each.scheme: each for each in reversed(challenges.parse(", ".join(response.headers.get_list("www-authenticate"))))}
        if "bearer" in offered:
            self._authorization = f"Bearer {await self._token(offered['bearer'].parameters)}"
        elif "basic" in offered and self._login is not None and self._login.username:
            self._authorization = _basic(self._login)
        else:
            raise _refused(self._reference, self._login, said)

    async def _token(self, parameters: Mapping[str, str]) -> str:
        """A token of the server that the registry names, for reading this one repository."""
        realm = self._permitted(_joined(await self._address(), parameters.get("realm", "")))
        asked = {"service": parameters.get("service", ""), "scope": f"repository:{self._reference.repository}:pull"}
        if self._login is not None and self._login.identity_token:
            form = {"grant_type": "refresh_token", "refresh_token": self._login.identity_token, "client_id": _CLIENT_ID, **asked}
            request = self._request("POST", realm, data=form)
        else:
            headers = {"Authorization": _basic(self._login)} if self._login is not None else {}
            request = self._request("GET", realm.copy_merge_params(asked), headers=headers)
        async with self._sent(request) as response:
            if response.status_code in {400, 401, 403}:
                raise _refused(self._reference, self._login, await reason(response))
            await self._require_ok(response, (200,))
            return token_of(await body(response, MAX_TOKEN_BYTES), realm.host)

    async def _require_ok(self, response: httpx.Response, expected: tuple[int, ...]) -> None:
        status = response.status_code
        if status in expected:
            return
        said = await reason(response)
        if status in {401, 403}:
            raise _refused(self._reference, self._login, said)
        if status == 404:
            raise NotFound(f"there is no image {self._reference.short}{said}", hint="look for a typing error; private ones need a login")
        if status == 429:
            raise ImageFailed(
                f"{self._reference.registry} has had too many requests from here{said}", hint="wait, or log in: `docker login`, or podman's"
            )
        raise ImageFailed(f"{self._reference.registry} answers {status}{said}", hint="try again later")


def _refused(reference: Reference, login: Login | None, said: str) -> AgentKernelError:
    who = "this login" if login is not None else "somebody who is not logged in"
    where = "" if reference.registry == DOCKER_HUB else f" {reference.registry}"
    return Refused(
        f"{reference.registry} does not give {reference.short} to {who}, or has none{said}", hint=f"run `docker login{where}`, or podman's"
    )


def _basic(login: Login) -> str:
    return "Basic " + base64.b64encode(f"{login.username}:{login.password}".encode()).decode()


def _host_of(registry: str) -> str:
    return httpx.URL(f"https://{registry}").host


def _joined(base: httpx.URL, text: str) -> httpx.URL:
    try:
        return base.join(text).copy_with(userinfo=b"", fragment=None)
    except (httpx.InvalidURL, ValueError):
        raise ImageFailed(f"{base.host} sends its clients to {text[:100]!a}, which is no address") from None
