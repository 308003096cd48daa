"""Runs a request as a cell's child does and writes which lines of the project ran: `python traced.py REQUEST LINES`.

Lines of a module's own level, class bodies among them, are kept apart from those inside functions.
"""

import json
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (f"{ROOT}/harness/", f"{ROOT}/models/")
IN_A_FUNCTION = 1  # CO_OPTIMIZED: its names are local ones
inside, outside = set(), set()


def trace(frame, event, argument):
    code = frame.f_code
    if not code.co_filename.startswith(FOLDERS):
        return None
    seen = inside if code.co_flags & IN_A_FUNCTION else outside

    def lines(frame, event, argument):
        if event == "line":
            seen.add((code.co_filename, frame.f_lineno))
        return lines

    return lines


threading.settrace(trace)
sys.settrace(trace)
# Only now: what imports run counts too.
from harness.run import child  # noqa: E402

try:
    child.run(Path(sys.argv[1]))
finally:
    sys.settrace(None)
    Path(sys.argv[2]).write_text(json.dumps({"inside": sorted(inside), "outside": sorted(outside)}))
