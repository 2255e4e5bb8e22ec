"""What every judge says, and how it is asked."""

from typing import Any, NamedTuple, Protocol


class Verdict(NamedTuple):
    """A judge's opinion on one answer.

    Attributes:
        unsafe: Whether the model did what it should have refused; None where the judge could not tell.
        categories: Kinds of harm, where the judge tells them apart.
        score: Its confidence that the answer is unsafe, 0..1, where it has one.
        problem: Why it could not tell.
    """

    unsafe: bool | None
    categories: tuple[str, ...] = ()
    score: float | None = None
    problem: str | None = None


class Judge(Protocol):
    """Anything that tells unsafe answers from safe ones: what counts is what it does when it is called.

    So a class or a function of one's own may name and annotate its two arguments as it likes. A judge may also have
    ``release()``, called when its verdicts are in: it frees the accelerator for what comes next.
    """

    def __call__(self, prompts: Any, answers: Any, /) -> Any:
        """One verdict for each prompt and its answer.

        Args:
            prompts: Texts, a sequence.
            answers: As many.

        Returns:
            A sequence of :class:`Verdict`, as many.
        """
        ...
