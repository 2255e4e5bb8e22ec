"""Chat templates of the paper's four model families, reduced to what they write; special tokens as theirs."""

from typing import NamedTuple

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
        "<bos>", "<eos>", "<start_of_turn>model\n", "<end_of_turn>\n", takes_system=False,
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
    return tokenizer
