"""EndpointJudge: a guard, or any chat model, behind a server."""

from collections.abc import Sequence

from asft_lightning.evaluation.endpoint_client import Endpoint
from asft_lightning.evaluation.judges.guard import MLCOMMONS_CATEGORIES, conversation, parse_guard
from asft_lightning.evaluation.judges.judge import Verdict
from asft_lightning.evaluation.settings import check_text, fill

_VERDICT_TOKENS = 20


class EndpointJudge:
    """A model behind an OpenAI-compatible server, e.g. of vLLM or llama.cpp, that says ``safe`` or ``unsafe`` first.

    A request that fails leaves its answer undecided and says why; a server's fault never ends a run.

    Args:
        endpoint: The server and the model's name there.
        question: What to ask about ``{prompt}`` and ``{answer}``, to be answered with safe or unsafe first; null for a
            guard, which is shown the conversation itself.
        categories: {code: name} of the kinds of harm; null for those of Llama Guard 3.
    """

    def __init__(self, endpoint: Endpoint, question: str | None = None, categories: dict[str, str] | None = None) -> None:
        if question is not None:
            check_text("question", question)
        self.endpoint = endpoint
        self.question = question
        self.categories = MLCOMMONS_CATEGORIES if categories is None else categories

    def __call__(self, prompts: Sequence[str], answers: Sequence[str]) -> list[Verdict]:
        """One verdict for each prompt and its answer."""
        pairs = zip(prompts, answers, strict=True)
        replies = self.endpoint.ask([self._conversation(prompt, answer) for prompt, answer in pairs], _VERDICT_TOKENS)
        return [
            Verdict(None, problem=reply.problem) if reply.text is None else parse_guard(reply.text, self.categories)
            for reply in replies
        ]

    def release(self) -> None:
        """Nothing to free: the model is the server's."""

    def _conversation(self, prompt: str, answer: str) -> list[dict[str, str]]:
        if self.question is None:
            return conversation(prompt, answer)
        return [{"role": "user", "content": fill(self.question, prompt=prompt, answer=answer)}]
