"""docs/supported-models.md is what small models of every family do."""

import re
from pathlib import Path

import pytest
from kit.activations import prompts
from kit.families import FAMILIES, Protections

from asft_lightning.commands.protect import _targets

PAGE = Path(__file__).parents[1] / "docs" / "supported-models.md"
WHYS = {
    "experts": "a ParamWrapper on a",
    "tokens in one row": "layers that see every token at its place",
    "state space": "incompatible with Mamba-based models",
}
"""{reason as the page has it: what the error says}."""


def what_holds(protections: Protections, targets: list[str] | str) -> str:
    """A cell of the table: what of gram, activation and answers holds the model, and why the others do not."""
    whys = {}
    for name in ("gram", "activation", "answers"):
        try:
            assert protections.holds(name, targets)
        except ValueError as refused:
            (whys[name],) = [why for why, message in WHYS.items() if message in str(refused)]
    if not whys:
        return "all"
    held = [name for name in ("gram", "activation", "answers") if name not in whys]
    return f"{', '.join(held) or 'none'} ({', '.join(dict.fromkeys(whys.values()))})"


@pytest.mark.parametrize("family", FAMILIES)
def test_line_of_the_table(tmp_path, family):
    protections = Protections(family, tmp_path, prompts(tmp_path, 3))
    default = _targets(protections.model)
    shown = default if isinstance(default, str) else ", ".join(default)
    cells = [f"`{family}`", FAMILIES[family][0], shown]
    expected = " | ".join([*cells, what_holds(protections, default), what_holds(protections, "all-linear")])
    assert f"| {expected} |" in PAGE.read_text(encoding="utf-8")


def test_table_has_no_other_line():
    assert re.findall(r"^\| `(\w+)` \| (?!models)", PAGE.read_text(encoding="utf-8"), re.MULTILINE) == list(FAMILIES)


@pytest.mark.parametrize("family", ["mamba", "deepseek_v3", "opt"])
def test_layers_that_the_page_names_instead(tmp_path, family):
    (named,) = re.findall(rf"`--targets '\[([\w, ]+)\]'` for `{family}`", PAGE.read_text(encoding="utf-8"))
    assert what_holds(Protections(family, tmp_path, prompts(tmp_path, 3)), named.split(", ")) == "all"
