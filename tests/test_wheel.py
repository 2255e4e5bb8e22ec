"""The wheel: it has every file that the package reads, and a description that PyPI can show."""

import re
import subprocess
import sys
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
from readme_renderer import markdown

ROOT = Path(__file__).parents[1]
NO_DATA = {".py", ".pyc"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    kept = folder / "source"  # what building leaves behind stays out of the working tree
    subprocess.run(["git", "clone", "-q", str(ROOT), str(kept)], check=True)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), str(kept)]
    subprocess.run(build, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


@pytest.mark.slow
def test_every_file_of_the_package_is_in_it(wheel):
    tracked = subprocess.run(["git", "ls-files", "asft_lightning"], cwd=ROOT, check=True, capture_output=True, text=True)
    files = set(tracked.stdout.split())
    assert {Path(file).suffix for file in files} > NO_DATA - {".pyc"}
    assert files <= set(wheel.namelist())


@pytest.mark.slow
def test_its_description_can_be_shown(wheel):
    (name,) = (name for name in wheel.namelist() if name.endswith("METADATA"))
    metadata = message_from_bytes(wheel.read(name))
    assert metadata["Description-Content-Type"] == "text/markdown"
    page = markdown.render(metadata.get_payload(decode=True).decode())
    assert "<h1" in page and "Protect a run" in page and "<img" not in page
    links = re.findall(r'href="([^#"][^"]*)"', page)  # all but the headings' own
    assert links and all(link.startswith("https://") for link in links)  # nothing lies beside it on PyPI
