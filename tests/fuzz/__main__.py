"""python -m tests.fuzz: see harness.py."""

import sys
from importlib import import_module
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support"), str(HERE.parent / "programs")]

sys.exit(import_module("harness").main())
