"""The day that a chat template writes: one for a whole run, also where that goes on past midnight or on another day."""

from datetime import date, datetime

from asft_lightning.errors import ConfigurationError

_PADDED = "deHIjmMSUVWy"
_LETTERS = _PADDED + "aAbBcCDfFgGhnprRtTuwxXYzZ"


def today() -> str:
    """As ``2025-07-26``."""
    return date.today().isoformat()


def require_day(day: str) -> None:
    """Refuse what names no day.

    Raises:
        ConfigurationError: If it is not as ``2025-07-26``.
    """
    try:
        date.fromisoformat(day)
    except ValueError as error:
        raise ConfigurationError(
            f"template.date must be a day as 2025-07-26, got {day!r}. Set it to null for the day on which the run begins."
        ) from error


def dated(chat_template: str, day: str) -> str:
    """A chat template in which ``strftime_now`` is the first moment of ``day``.

    Transformers gives templates a function of that name, which asks the clock. Here a macro of the template hides it.

    Args:
        chat_template: Jinja.
        day: As ``2025-07-26``.
    """
    if "strftime_now" not in chat_template:
        return chat_template
    moment = datetime.fromisoformat(day)
    written = {f"%{letter}": moment.strftime(f"%{letter}") for letter in _LETTERS}
    written |= {f"%-{letter}": written[f"%{letter}"].strip().lstrip("0") or "0" for letter in _PADDED}
    replaced = "".join(f" | replace({directive!r}, {text!r})" for directive, text in written.items())
    return f"{{% macro strftime_now(format) %}}{{{{ format{replaced} }}}}{{% endmacro %}}\n{chat_template}"
