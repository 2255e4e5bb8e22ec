"""benchmarks/gpu.py on the CPU: what can be checked is, what cannot says why, and a check that fails hides no other."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"

pytestmark = pytest.mark.slow


def run_script(folder, *arguments):
    """The exit status, what is said, and {check: what it found}."""
    file = folder / "found.json"
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--jobs", "1", "--json", str(file), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    return ended.returncode, ended.stdout, json.loads(file.read_text())["checks"]


def test_checks_pass_or_say_why_they_are_left_out(tmp_path):
    status, said, found = run_script(tmp_path, "--only", "bf16-true", "no waiting")
    assert status == 0, said
    assert {name: check["outcome"] for name, check in found.items()} == {"bf16-true": "passed", "no waiting": "left out"}
    assert "no device to wait for" in found["no waiting"]["why"] and "no device to wait for" in said


def test_a_check_that_hangs_or_dies_hides_no_other(tmp_path):
    """A tenth of a second is less than any process takes to begin."""
    status, said, found = run_script(tmp_path, "--timeout", "0.1", "--only", "resume")
    assert status == 1 and "failed" in said and found["resume"]["why"] == "took more than 0.1 s"
    status, said, found = run_script(tmp_path, "--model", str(tmp_path / "absent"), "--only", "32-true", "no waiting")
    assert status == 1 and found["32-true"]["outcome"] == "failed" and found["no waiting"]["outcome"] == "left out"
    assert "absent" in found["32-true"]["why"]
