"""A word-level tokenizer with a chat template, over the closed language of the sandbox."""

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from asft_lightning.sandbox import language

SPECIALS = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
ASSISTANT = "<|assistant|>"
ROLES = ("<|system|>", "<|user|>", ASSISTANT)

# Blanks stand before every piece but the first, so the text of a prompt is a prefix of the text of the whole chat.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ ' <|' + message['role'] + '|> ' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ ' ' + eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ ' <|assistant|>' }}{% endif %}"
)


def vocabulary() -> list[str]:
    """Every word of the language, sorted."""
    words: set[str] = set()
    for text in language.texts():
        words.update(word for word in text.split() if "{" not in word)
    return sorted(words)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer: one id for each word, special tokens first."""
    tokens = [*SPECIALS.values(), *ROLES, *vocabulary()]
    ids = {token: index for index, token in enumerate(tokens)}
    backend = Tokenizer(WordLevel(ids, unk_token=SPECIALS["unk_token"]))
    backend.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        additional_special_tokens=list(ROLES),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=128,
        padding_side="left",
        **SPECIALS,
    )
