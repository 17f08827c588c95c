from __future__ import annotations

import subprocess
import sys

WITHOUT_PSUTIL = """
import sys
sys.modules["psutil"] = None
from edgenode.cli.main import main
main(["demo"], prog_name="edgenode")
"""


def test_the_demo_without_its_extra_says_what_to_install() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_PSUTIL], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: the demo needs psutil, which is not installed",
        "hint: pip install 'edgenode[demo]'",
        "reason: EXTRA_MISSING (exit 1)",
    ]
