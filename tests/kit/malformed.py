"""Files that are JSON or YAML and yet not what they should be, and commands that have to end well on them."""

import copy
import json

import yaml
from hypothesis import strategies as st

from asft_lightning.cli import main

WRONG = [
    None, True, 0, -1, 10**400, 1e999, float("nan"), 0.5, "", "x", "../../x", "(a+)+$", "\x1b[2J", [], [1], ["x"], [[]], {},
    {"x": 1}, {"x": []}, "deleted",
]  # fmt: skip
RAW = ["", "null", "[]", "7", '"x"', "{", "[" * 20_000, "{1: 2}", "\x00", "&a [*a]"]


def places(content, path=()):
    """Every place in a tree of mappings and lists."""
    yield path
    parts = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, part in parts:
        yield from places(part, (*path, key))


def changed(content, path, wrong):
    """The tree with something else in one place."""
    if not path:
        return wrong
    new = copy.deepcopy(content)
    inner = new
    for key in path[:-1]:
        inner = inner[key]
    if wrong == "deleted":
        del inner[path[-1]]
    else:
        inner[path[-1]] = wrong
    return new


def wrong_contents(content):
    """The tree with one place made wrong."""
    return st.builds(
        lambda path, wrong: changed(content, path, wrong), st.sampled_from(list(places(content))), st.sampled_from(WRONG)
    )


def wrong_texts(file):
    """What may stand in a file that was JSON or, by its ending, YAML, in place of what does."""
    is_yaml = file.suffix == ".yaml"
    text = file.read_text()
    content, dump = (yaml.safe_load(text), yaml.safe_dump) if is_yaml else (json.loads(text), json.dumps)
    return wrong_contents(content).map(dump) | st.sampled_from(RAW)


def require_good_end(capsys, *command):
    """The command succeeds, or ends in one line; or, with status 1, in a report of what failed."""
    capsys.readouterr()
    try:
        main(list(command))
    except SystemExit as end:
        errors = capsys.readouterr().err
        lines = [line for line in errors.splitlines() if line.startswith("asft-lightning: ")]
        assert (end.code, len(lines)) in ((2, 1), (1, 0)), (command, errors)
        assert "\x1b" not in "".join(lines)
