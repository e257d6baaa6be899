"""Make the daemon check backfills every 3 seconds, not every 30. Each process of the interface imports this first."""

import sys

if "dagster._daemon" in sys.orig_argv:
    import dagster._daemon.controller as controller

    controller.DEFAULT_DAEMON_INTERVAL_SECONDS = 3
