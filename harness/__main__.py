"""`python -m harness`."""

import signal
import sys

try:
    from harness.cli import main
except KeyboardInterrupt:
    # What is imported takes a second, in which a traceback would say nothing.
    print("interrupted; nothing was begun", file=sys.stderr)
    sys.exit(128 + signal.SIGINT)
except ModuleNotFoundError as error:
    # A package that is missing; a module of our own is a fault, and keeps its traceback.
    if error.name is None or error.name.split(".")[0] in ("harness", "models"):
        raise
    from harness.errors import USAGE

    print(
        f"error: {sys.executable} has no '{error.name}', which this program needs; in a checkout type  make install  "
        "and then  . .venv/bin/activate  (or  pip install -c constraints.txt -e .)",
        file=sys.stderr,
    )
    sys.exit(USAGE)

sys.exit(main())
