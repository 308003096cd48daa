"""`python -m harness`."""

import signal
import sys

try:
    from harness.cli import main
except KeyboardInterrupt:
    # What is imported takes a second, in which a traceback would say nothing.
    print("interrupted; nothing was begun", file=sys.stderr)
    sys.exit(128 + signal.SIGINT)

sys.exit(main())
