"""What the site does with links that leave the documentation: there, files of the repository are named and not linked."""

import re
from typing import Any

_LEAVING = re.compile(r"\[([^\]]+)\]\(\.\./(?!\.\.)[^)]*\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Take the links from Markdown that lead out of ``docs/``, where the site has no page."""
    return _LEAVING.sub(r"\1", markdown) if "/" not in page.file.src_uri else markdown
