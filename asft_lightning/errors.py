"""What this package raises when the user has to change something: rule, value received, remedy."""


class AsFTError(ValueError):
    """Base of every error that a user can put right; the command line shows it without a traceback."""


class ConfigurationError(AsFTError):
    """A setting, path, hub id or checkpoint that cannot be used."""


class AnchorError(AsFTError):
    """An anchor that cannot be built, read, or would not anchor."""


class UnpenalisedError(AsFTError):
    """Training would change weights that the penalty does not see: the run would be silently unprotected."""


class DataError(AsFTError):
    """Rows, columns, counts or prompts that cannot be used."""


class TrainingError(AsFTError):
    """A run that must not go on, for what it trains would be spoilt."""


class StorageError(AsFTError):
    """A disk that is full, or that must not be written to."""


def error_of_ours(error: BaseException | None) -> AsFTError | None:
    """The error of ours in a chain, if any: jsonargparse wraps what a constructor raises in errors of its own."""
    while error is not None and not isinstance(error, AsFTError):
        error = error.__cause__ or error.__context__
    return error
