"""End a process of multiprocessing with the one that started it."""

from __future__ import annotations

import os
import threading
from multiprocessing.process import parent_process


def end_with_parent() -> None:
    """End this process as soon as its parent has ended, also by SIGKILL.

    A killed parent cannot end its worker. The worker would wait for work and keep its memory for ever.
    """
    parent = parent_process()
    assert parent

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
