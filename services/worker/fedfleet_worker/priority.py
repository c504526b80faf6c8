"""Lets training stand back behind the other processes of the device."""

from __future__ import annotations

import os

import psutil


def stand_back(nice: int) -> None:
    """Lower the priority of the calling thread and of those that it starts; 0 changes nothing.

    On Linux each thread has a priority of its own, and torch's threads are started by the one that
    trains: heartbeats stay as prompt as they were. Elsewhere the whole process stands back.
    """
    if nice == 0:
        return
    if hasattr(os, "nice"):
        os.nice(nice)
    else:  # Windows
        psutil.Process().nice(psutil.BELOW_NORMAL_PRIORITY_CLASS)
