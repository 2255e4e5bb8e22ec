"""The token that ends an answer: the last that is learnt, and one that generation stops at."""

from typing import NamedTuple

from lightning.pytorch.utilities import rank_zero_warn
from transformers import PreTrainedTokenizerBase

from asft_lightning.chat.spelt_tokens import encode
from asft_lightning.errors import ConfigurationError


class End(NamedTuple):
    """The token that ends an answer: its id, and how it is written."""

    token_id: int
    token: str


def find_end(tokenizer: PreTrainedTokenizerBase, after_answer: str) -> End:
    """The first control token that a template writes after an answer; the tokenizer's end token where it writes none.

    Args:
        tokenizer: The model's.
        after_answer: What the template writes there.

    Raises:
        ConfigurationError: If neither has one.
    """
    added = {token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.content.strip()}
    for token_id in encode(tokenizer, after_answer):
        if token_id in added or token_id == tokenizer.eos_token_id:
            return End(token_id, str(tokenizer.convert_ids_to_tokens(token_id)))
    if tokenizer.eos_token_id is None:
        raise ConfigurationError(
            "an answer must end with a token that generation stops at, and neither the template nor the tokenizer of "
            f"{tokenizer.name_or_path!r} has one. Set eos_token in its tokenizer_config.json."
        )
    rank_zero_warn(
        f"The chat template of {tokenizer.name_or_path!r} writes no token that ends an answer. The tokenizer's, "
        f"{tokenizer.eos_token!r}, is learnt there, or answers would not end."
    )
    return End(tokenizer.eos_token_id, str(tokenizer.eos_token))
