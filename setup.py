"""What PyPI shows is README.md without its pictures and links to files beside it, which would lead nowhere there."""

import re
from pathlib import Path

from setuptools import setup

_BESIDE = r"\[([^]]*)\]\((?!https?:)[^)]*\)"
readme = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
without_pictures = re.sub(rf"!{_BESIDE}\n*", "", readme)

setup(long_description=re.sub(_BESIDE, r"\1", without_pictures), long_description_content_type="text/markdown")
