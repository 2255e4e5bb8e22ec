"""Run the notebooks of the documentation, and keep what they show: python docs/run_notebooks.py."""

import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

NOTEBOOKS = sorted((Path(__file__).parent / "notebooks").glob("*.ipynb"))


def executed(notebook: Path, folder: Path) -> NotebookNode:
    """A notebook with the outputs of its code, but for progress bars and logs.

    Args:
        notebook: Its file.
        folder: Where it is run, and what it writes stays.
    """
    content = nbformat.read(notebook, as_version=4)
    kept_here = {"metadata": {"path": str(folder)}}
    NotebookClient(content, timeout=300, kernel_name="python3", resources=kept_here, record_timing=False).execute()
    for cell in content.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return content


if __name__ == "__main__":
    for file in NOTEBOOKS:
        with tempfile.TemporaryDirectory() as place:
            nbformat.write(executed(file, Path(place)), file)
