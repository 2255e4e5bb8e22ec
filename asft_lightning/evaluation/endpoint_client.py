"""Endpoint: conversations to a server that speaks OpenAI's protocol, and what came back, or why nothing did."""

import asyncio
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

from torch import nn
from tqdm.auto import tqdm

from asft_lightning.errors import ConfigurationError
from asft_lightning.evaluation.settings import check_at_least, shortened
from asft_lightning.runtime.extras import require_extra
from asft_lightning.runtime.undisturbed import undisturbed

Conversation = list[dict[str, Any]]
"""Messages as OpenAI's protocol has them: a role each, and a content, which is text or a list of texts and images."""

_SHORTEST_KEY = 6
"""Characters; a shorter one is a placeholder for a local server, e.g. ``EMPTY``, and may well stand in a reply."""


class Reply(NamedTuple):
    """What the server said.

    Attributes:
        text: Its words; None if there are none.
        problem: Why there are none.
        lost: Whether the server itself failed, rather than refused this conversation.
    """

    text: str | None
    problem: str | None = None
    lost: bool = False


@dataclass(frozen=True)
class Endpoint:
    """A model behind an OpenAI-compatible server, e.g. of vLLM or llama.cpp.

    Args:
        url: Where its API begins, e.g. ``http://localhost:8000/v1``; without user, password and query.
        model: The model's name there.
        api_key_env: Environment variable that holds the key; nothing secret is sent where it is not set.
        concurrency: Requests at a time.
        timeout: Seconds that one request may take, from its first byte to the last of its reply.
        retries: How often a request is made again where the server fails, with growing pauses; one that the server asks for
            is kept up to ten seconds.
        max_tokens: Longest reply in tokens; null for what the question needs.

    Raises:
        ConfigurationError: If a setting cannot be used or the ``openai`` package is absent.
    """

    url: str
    model: str
    api_key_env: str = "OPENAI_API_KEY"
    concurrency: int = 8
    timeout: float = 60
    retries: int = 3
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        """Refuse what could only fail later, and an address with a secret in it: it would stand in every file of a run."""
        if re.search("[@?#]", self.url):
            raise ConfigurationError(
                "an endpoint's url must be an address without user, password, query or fragment, got one with @, ? or #, "
                "not shown since it may hold a key. Put the key into an environment variable, and name that as api_key_env."
            )
        if not _is_url(self.url):
            raise ConfigurationError(
                f"an endpoint's url must be an http:// or https:// address, got {self.url!r}. "
                "Write e.g. http://localhost:8000/v1."
            )
        if not re.fullmatch(r"[A-Za-z_]\w*", self.api_key_env):
            raise ConfigurationError(
                "api_key_env must be the name of an environment variable, got something else, not shown since it may be a "
                "key. Put the key into a variable such as OPENAI_API_KEY and name that."
            )
        check_at_least(1, concurrency=self.concurrency, max_tokens=1 if self.max_tokens is None else self.max_tokens)
        check_at_least(0, retries=self.retries)
        check_at_least(0.001, timeout=self.timeout)
        _openai()

    def ask(
        self,
        conversations: Sequence[Conversation],
        max_tokens: int,
        on_reply: Callable[[int, Reply], None] | None = None,
    ) -> list[Reply]:
        """The greedy replies, in order. A server that fails raises nothing, and leaves every global RNG as it was.

        After as many failures in a row as there are requests at a time, or four, the rest are not made: a server that is
        down would take ``retries`` pauses, or timeouts, for each.

        Args:
            conversations: What is asked; each is fetched when it is its turn, and not kept.
            max_tokens: Longest reply that is needed, where the endpoint's own setting does not say.
            on_reply: Told each reply as it comes, with the place of its conversation; from a thread of its own.
        """
        longest = max_tokens if self.max_tokens is None else self.max_tokens
        from anyio.from_thread import start_blocking_portal  # comes with openai

        # Pauses between retries have a random length, from Python's global generator. A loop in a thread of its own: a
        # notebook's thread has one already.
        with undisturbed(nn.Identity()), start_blocking_portal() as portal:
            done = portal.call(_Asking(self, longest, on_reply).replies, conversations)
        if done and all(reply.lost for reply in done):
            return [reply._replace(problem=f"no request to {self.url} succeeded: {reply.problem}") for reply in done]
        return done


class _Asking:
    """One round of requests: its client, and how many of them have failed in a row."""

    def __init__(self, endpoint: Endpoint, max_tokens: int, on_reply: Callable[[int, Reply], None] | None = None) -> None:
        self.endpoint = endpoint
        self.max_tokens = max_tokens
        self.on_reply = on_reply
        self.key = os.environ.get(endpoint.api_key_env, "").strip()
        self.patience = max(4, endpoint.concurrency)
        self.failures = 0
        self.turns = asyncio.Semaphore(endpoint.concurrency)

    async def replies(self, conversations: Sequence[Conversation]) -> list[Reply]:
        """The server's reply to each conversation, in order."""
        from asft_lightning.evaluation.guarded_client import GuardedClient

        few = len(conversations) <= 2 * self.endpoint.concurrency
        client = _openai().AsyncOpenAI(
            base_url=self.endpoint.url,
            api_key="none",  # it wants one; the guarded client alone has it
            max_retries=self.endpoint.retries,
            http_client=GuardedClient(self.key or "none", self.endpoint.timeout),
        )
        with tqdm(desc="Endpoint", total=len(conversations), leave=False, disable=few) as bar:
            async with client:
                turns = (self._in_turn(client, conversations, place, bar) for place in range(len(conversations)))
                return await asyncio.gather(*turns)

    async def _in_turn(self, client: Any, conversations: Sequence[Conversation], place: int, bar: Any) -> Reply:
        async with self.turns:
            if self.failures >= self.patience:
                return Reply(None, f"not asked after {self.patience} failures in a row", lost=True)
            reply = await self._reply(client, conversations[place])
            self.failures = self.failures + 1 if reply.lost else 0
            if self.on_reply is not None:
                self.on_reply(place, reply)
            bar.update()
            return reply

    async def _reply(self, client: Any, conversation: Conversation) -> Reply:
        openai = _openai()
        settings = {"model": self.endpoint.model, "max_tokens": self.max_tokens, "temperature": 0}
        try:
            completion = await client.chat.completions.create(messages=conversation, **settings)
        except (openai.APIConnectionError, openai.InternalServerError, openai.RateLimitError) as error:
            return Reply(None, self._named(error), lost=True)
        except (openai.OpenAIError, ValueError, RecursionError) as error:  # the latter two for a body that is no JSON
            return Reply(None, self._named(error))
        text = _said(completion)
        if text is None:
            return Reply(None, "the reply is no chat completion")
        return Reply(self._without_key(text, _SHORTEST_KEY))

    def _named(self, error: Exception) -> str:
        """The error's type, status and message, without the key that a server may repeat."""
        status = getattr(error, "status_code", None)
        if status is not None and 300 <= status < 400:
            return f"the server answers with {status}, a redirect, which is not followed: set url to where it leads"
        cause = f" ({type(error.__cause__).__name__})" if error.__cause__ is not None else ""
        body = getattr(error, "body", None)
        message = self._without_key(str((body.get("message") if isinstance(body, dict) else None) or error))
        return f"{type(error).__name__}{f' {status}' if status else ''}{cause}: {shortened(message, 100)}"

    def _without_key(self, text: str, shortest: int = 1) -> str:
        """Without the key, if it is so long, as it is or as Python, JSON and addresses spell it; and fit to be written."""
        key = self.key if len(self.key) >= shortest else ""
        spellings = {key, repr(key)[1:-1], json.dumps(key)[1:-1], quote(key)} - {""}
        for spelling in sorted(spellings, key=len, reverse=True):
            text = text.replace(spelling, "***")
        return text.encode("utf-8", "backslashreplace").decode()  # halves of a character can be written nowhere


def _is_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of the port, or of an address in brackets
        return False


def _said(completion: Any) -> str | None:
    try:
        text = completion.choices[0].message.content
    except (AttributeError, IndexError, KeyError, TypeError):
        return None
    return text if isinstance(text, str) else None


def _openai() -> Any:
    require_extra("openai", "an endpoint")
    import openai  # an optional extra

    return openai
