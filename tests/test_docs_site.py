"""The documentation: built strictly, every public name in it, links that lead somewhere, messages that the code raises."""

import ast
import logging
import re
from inspect import ismodule
from pathlib import Path

import pytest
import yaml
from mkdocs.commands.build import build
from mkdocs.config import load_config

import asft_lightning

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Every page, {path: HTML}. Anything that MkDocs warns of ends the build."""
    folder = tmp_path_factory.mktemp("site")
    logging.getLogger("mkdocs").setLevel(logging.WARNING)
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True))
    return {str(page.relative_to(folder)): page.read_text(encoding="utf-8") for page in folder.rglob("*.html")}


def test_every_page_is_built(site):
    sources = [*DOCS.rglob("*.md"), *DOCS.rglob("*.ipynb")]
    assert {str(page.relative_to(DOCS).with_suffix(".html")) for page in sources} == site.keys() - {"404.html"}


def test_every_public_name_is_in_the_reference(site):
    ids = {found for path, page in site.items() if path.startswith("api/") for found in re.findall(r'id="([\w.]+)"', page)}
    ends = {found.rpartition(".")[2] for found in ids}
    rooms = {name for name in asft_lightning.__all__ if ismodule(getattr(asft_lightning, name))}
    assert set(asft_lightning.__all__) - ends - rooms == set()
    assert {f"api/{room}.html" for room in rooms} <= site.keys()


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_of_the_pages_beside_the_site_lead_somewhere(page, site):
    for target in re.findall(r"\]\(([^)]+)\)", (ROOT / page).read_text(encoding="utf-8")):
        path, _, part = target.partition("#")
        if not path.startswith("http"):
            assert (ROOT / path).is_file(), target
        if part:
            assert f'id="{part}"' in site[path.removeprefix("docs/").replace(".md", ".html")], target


def test_files_that_pages_name_outside_the_documentation_are_there():
    for page in DOCS.glob("*.md"):
        for target in re.findall(r"\]\((\.\./[^)#]+)", page.read_text(encoding="utf-8")):
            assert (DOCS / target).is_file(), f"{page.name}: {target}"


def messages(source: str) -> list[str]:
    """All texts of a module, with … for what is filled in."""

    def text(node: ast.AST) -> str:
        match node:
            case ast.JoinedStr():
                return "".join(map(text, node.values))
            case ast.BinOp(op=ast.Add()):
                return text(node.left) + text(node.right)
            case ast.Constant():
                return str(node.value)
        return "…"

    texts = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.JoinedStr | ast.BinOp | ast.Constant)]
    return [re.sub(r"%(s|\.1f)", "…", text(node)).replace("%%", "%") for node in texts]


def test_quoted_messages_are_the_codes_own():
    files = (ROOT / "asft_lightning").rglob("*.py")
    raised = [text for file in files for text in messages(file.read_text(encoding="utf-8"))]
    quoted = re.findall(r"^> (.+)$", (DOCS / "troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(quoted) > 40
    assert [quote for quote in quoted if not any(quote in text for text in raised)] == []


def test_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{citation["version"]}"' in pyproject
    assert f'name = "{citation["authors"][0]["name"]}"' in pyproject
    assert "arXiv:2506.08473" in str(citation["references"])
