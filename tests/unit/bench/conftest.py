"""The bench is a folder of programs, not a package: its modules are found as they find each other."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[3] / "bench"))
