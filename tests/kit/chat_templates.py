"""Chat templates: of the paper's four model families, and many small ones that differ in one thing each."""

from contextlib import contextmanager
from datetime import date
from typing import NamedTuple

import pytest

from kit.tiny import tiny_tokenizer


class Family(NamedTuple):
    template: str
    bos: str
    eos: str
    open: str
    """What stands right before an answer."""
    end: str
    """What is learnt after an answer."""
    takes_system: bool = True
    specials: tuple[str, ...] = ()
    """Further special tokens."""


FAMILIES = {
    "llama-2-7b-chat": Family(
        "{% if messages[0].role == 'system' %}{% set s = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}"
        "{% set messages = messages[1:] %}{% else %}{% set s = '' %}{% endif %}"
        "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + (s if loop.first else '') "
        "+ m.content.strip() + ' [/INST]' }}{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}"
        "{% endfor %}",
        "<s>", "</s>", " [/INST]", " </s>",
    ),
    "llama-3-8b-instruct": Family(
        "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' "
        "+ m.content | trim + '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
        "<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>",
    ),
    "gemma-2-9b-it": Family(
        "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        "{% for m in messages %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' "
        "+ m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
        "<bos>", "<eos>", "<start_of_turn>model\n", "<end_of_turn>", takes_system=False,
        specials=("<start_of_turn>", "<end_of_turn>"),
    ),
    "qwen-2-7b-instruct": Family(
        "{% if messages[0].role != 'system' %}"
        "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        "", "<|im_end|>", "<|im_start|>assistant\n", "<|im_end|>",
    ),
}  # fmt: skip


def family_tokenizer(family):
    tokenizer = tiny_tokenizer(family.template)
    tokenizer.add_special_tokens({"eos_token": family.eos} | ({"bos_token": family.bos} if family.bos else {}))
    tokenizer.add_tokens(list(family.specials), special_tokens=True)
    return tokenizer


def small_template(
    system="written", content="{{ m.content }}", end="<|end|>\n", closing="", opens="", finished="", before=""
):
    """A chat template in which one thing may be other than usual.

    Args:
        system: ``written``; ``dropped``, without a word; ``refused``.
        content: How a text is written.
        end: What follows every text.
        closing: What follows the last turn alone, unless the prompt is open.
        opens: What an open prompt begins of the answer.
        finished: What the last answer, when it is finished, has before its text.
        before: What the conversation begins with.
    """
    refusal = "{{ raise_exception('no system turns') }}" if system == "refused" else ""
    skipped = "" if system == "written" else f"{{% if m.role == 'system' %}}{refusal}{{% continue %}}{{% endif %}}"
    answer = f"{{% if m.role == 'assistant' and loop.last %}}{finished}{{% endif %}}"
    return (
        f"{before}{{% for m in messages %}}{skipped}<|{{{{ m.role }}}}|>{answer}{content}{end}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}<|assistant|>{opens}{{% else %}}{closing}{{% endif %}}"
    )


_THOUGHT = "<think>\n\n</think>\n\n"
SMALL = {
    "plain": small_template(),
    "no system turn": small_template(system="dropped"),
    "system turn refused": small_template(system="refused"),
    "trims": small_template(content="{{ m.content | trim }}"),
    "parts alone": small_template(content="{% for p in m.content %}{{ p.text }}{% endfor %}"),
    "parts alone, no system turn": small_template("dropped", "{% for p in m.content %}{{ p.text }}{% endfor %}"),
    "no end": small_template(end="\n"),
    "end of plain text": small_template(end="[end]\n"),
    "end after the last turn alone": small_template(end="\n", closing="</s>"),
    "two ends": small_template(closing="</s>"),
    "another end after the last turn": small_template(
        end="{{ '<|return|>' if loop.last and m.role == 'assistant' else '<|end|>' }}"
    ),
    "opens a thought": small_template(opens="<think>\n"),
    "opens a thought that is finished": small_template(opens="<think>\n", finished=_THOUGHT),
    "opens an empty thought": small_template(opens=_THOUGHT),
    "finishes an empty thought": small_template(finished=_THOUGHT),
    "thought that can be switched off": small_template(
        opens="{% if enable_thinking is defined and not enable_thinking %}" + _THOUGHT + "{% endif %}", finished=_THOUGHT
    ),
    "dated": small_template(before="Today is {{ strftime_now('%d %B %Y') }}.\n"),
}
"""{what is peculiar: a chat template that writes all turns as they are}."""

LOSSY = {
    "prompts": small_template(content="{% if m.role != 'user' %}{{ m.content }}{% endif %}"),
    "answers": small_template(content="{% if m.role != 'assistant' %}{{ m.content }}{% endif %}"),
    "earlier turns": "{% set messages = messages[-1:] %}" + small_template(),
    "ends of texts": small_template(content="{{ m.content[:4] }}"),
    "case": small_template(content="{{ m.content | upper }}"),
    "thoughts": small_template(content="{{ m.content.split('</think>')[-1] }}"),
}
"""{what is left out or changed: a chat template that does so}."""


def small_tokenizer(template):
    """With ``<|end|>`` and ``<|return|>`` as special tokens; the tokenizer's own end token is another, ``</s>``."""
    tokenizer = tiny_tokenizer(template)
    tokenizer.add_tokens(["<|end|>", "<|return|>"], special_tokens=True)
    return tokenizer


class LeapDay(date):
    @classmethod
    def today(cls):
        return cls(2024, 2, 29)


@contextmanager
def on_leap_day():
    """What happens in here happens on 29 February 2024."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("asft_lightning.chat.dates.date", LeapDay)
        yield
