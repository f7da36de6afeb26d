"""Which process leads and which one works for it."""

from __future__ import annotations

import os
import signal

WORKER = "KDEXP_WORKER"
"""`<number>:<process number of the leader>`, set for a worker."""


def is_worker() -> bool:
    """Whether this process was started by one that leads."""
    return WORKER in os.environ


def stop_if_orphaned() -> None:
    """Stops a worker whose leader is gone: who kills the command means all of it."""
    leader = os.environ.get(WORKER, "").partition(":")[2]
    if leader and os.getppid() != int(leader):
        os.kill(os.getpid(), signal.SIGTERM)
