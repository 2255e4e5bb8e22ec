"""Chat templates that would take for ever, or gigabytes: each one here is live, and ends in one line."""

import sys

import pytest
from kit import tiny
from kit.chat_templates import FAMILIES, SMALL
from kit.commands import said, write_config

from asft_lightning import ConfigurationError, Pretrained
from asft_lightning.weights.template_safety import require_bounded

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are limited there")

LOOP = "".join(f"{{% for {name} in range(99999) %}}" for name in "ijk") + "{% endfor %}" * 3
GROWING = "{% set ns = namespace(s='x') %}{% for _ in SOME %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}"
HOSTILE = {
    "loops": LOOP,
    "loops over what it is told": "{% for a in messages %}" * 20 + "{% endfor %}" * 20,
    "loops in a macro": f"{{% macro write() %}}{LOOP}{{% endmacro %}}{{{{ write() }}}}",
    "computes": "{{ 10 ** (10 ** 9) }}",
    "repeats": "{{ 'x' * 10 ** 10 }}",
    "pads": "{{ '%9999999999d' % 1 }}",
    "doubles": GROWING.replace("SOME", "range(60)"),
    "doubles with every turn": GROWING.replace("SOME", "messages"),
    "after a turn that it refuses": "{% if messages[0].role == 'system' %}{{ 'x' * 10 ** 10 }}{% endif %}{{ 1 / 0 }}",
}
REFUSED = "a chat template must write a short conversation within 2 s and 1 GiB, and that of "


@pytest.mark.slow
@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE)
def test_refused_where_it_is_loaded(tmp_path, source):
    folder = tiny.save_tiny(tmp_path / "aligned", 1)
    tiny.tiny_tokenizer(source).save_pretrained(folder)
    with pytest.raises(ConfigurationError, match=REFUSED):
        Pretrained(str(folder)).load_tokenizer()


@pytest.mark.parametrize("command", ["fit", "test", "describe"])
def test_one_line(tmp_path, capsys, command):
    config = write_config(tmp_path)
    tiny.tiny_tokenizer(HOSTILE["repeats"]).save_pretrained(tmp_path / "aligned")

    assert f"{REFUSED}{tmp_path / 'aligned'} does not" in said(capsys, command, "--config", config)


@pytest.mark.parametrize("source", [*(family.template for family in FAMILIES.values()), *SMALL.values()])
def test_sound_ones_pass_also_where_they_refuse_turns(capfd, source):
    require_bounded(tiny.tiny_tokenizer(source), "here")

    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "problem", ["{{ 1 / 0 }}", "{{ range(10 ** 9) }}", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"]
)
def test_what_a_template_raises_is_one_line(tmp_path, capsys, problem):
    """It ends by itself, in an error that is none of Jinja's."""
    config = write_config(tmp_path)
    tiny.tiny_tokenizer(problem).save_pretrained(tmp_path / "aligned")

    assert f"the chat template of '{tmp_path / 'aligned'}' refuses these turns (" in said(capsys, "fit", "--config", config)
