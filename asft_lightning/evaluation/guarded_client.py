"""GuardedClient: openai's HTTP client, for servers that need not mean well. Imported only where ``openai`` is there."""

import asyncio
import sys
from typing import Any

from openai import DefaultAsyncHttpxClient, OpenAIError

_SENT = frozenset({"host", "accept", "content-type", "content-length", "connection", "user-agent"})
"""Headers that go out beside the key; what openai adds from OPENAI_ORG_ID and its like is for its own servers."""

_LARGEST_REPLY = 4 * 2**20
"""Bytes; a verdict or a rating has a few thousand."""

_LONGEST_PAUSE = 10.0
"""Seconds that a server may ask to be left alone for before a request is made again."""


class ReplyError(OpenAIError):
    """A reply that was broken off, and why; openai asks no second time for one."""


class GuardedClient(DefaultAsyncHttpxClient):
    """Sends the key and the request, to the server that was named and no other, and takes a reply of bounded time and size.

    Args:
        key: What to send as the bearer's token.
        timeout: Seconds from the first byte sent to the last received.
    """

    def __init__(self, key: str, timeout: float) -> None:
        super().__init__(timeout=timeout)
        self.key = key
        self.seconds = timeout

    async def send(self, request: Any, **settings: Any) -> Any:
        """One request, and its whole reply; types are httpx's, of the version that openai takes.

        Raises:
            httpx.ReadTimeout: If it takes too long.
            ReplyError: If the reply is too large, or is compressed, which nobody asked for.
        """
        for name in set(request.headers) - _SENT:
            del request.headers[name]
        request.headers.update({"Authorization": f"Bearer {self.key}", "Accept-Encoding": "identity"})
        try:
            async with asyncio.timeout(self.seconds):  # httpx has one a read, which a byte now and then never exceeds
                response = await super().send(request, **settings | {"stream": True, "follow_redirects": False})
                try:
                    body = await _body(response)
                finally:
                    await response.aclose()
        except TimeoutError as error:
            httpx = sys.modules[type(request).__module__.partition(".")[0]]  # or httpx2, as openai's version has it
            raise httpx.ReadTimeout(f"no whole reply within {self.seconds:g} s") from error
        headers = _with_short_pause(response.headers, min(_LONGEST_PAUSE, self.seconds))
        return type(response)(response.status_code, headers=headers, content=body, request=request)


async def _body(response: Any) -> bytes:
    if response.headers.get("content-encoding", "identity") != "identity":  # a few bytes of it may be gigabytes
        raise ReplyError("the reply is compressed, though it was asked not to be")
    body = bytearray()
    async for part in response.aiter_raw():
        body += part
        if len(body) > _LARGEST_REPLY:
            raise ReplyError(f"the reply is larger than {_LARGEST_REPLY // 2**20} MiB")
    return bytes(body)


def _with_short_pause(headers: Any, longest: float) -> Any:
    """The reply's headers, with a pause that is no number left out: openai's own grow from half a second."""
    shortened = headers.copy()
    for name, unit in (("retry-after", 1.0), ("retry-after-ms", 1000.0)):
        if name in shortened:
            try:
                shortened[name] = str(min(float(shortened[name]), longest * unit))
            except ValueError:
                del shortened[name]
    return shortened
