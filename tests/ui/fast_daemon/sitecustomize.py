"""Python imports this first in each process of the interface: the daemon looks at backfills every 3 seconds, not every 30."""

import sys

if "dagster._daemon" in sys.orig_argv:
    import dagster._daemon.controller as controller

    controller.DEFAULT_DAEMON_INTERVAL_SECONDS = 3
