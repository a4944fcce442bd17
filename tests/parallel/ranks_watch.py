"""A rank that is killed, stopped, hangs, fails or ends too early, and what the others say."""

from __future__ import annotations

import os
import signal
import time
from typing import Literal

import torch

from kinfold.errors import RankError
from kinfold.parallel import setup_gangs

How = Literal["killed", "stopped", "hanging", "failing", "ending"]
WHO, WHEN = 1, 3
"""The rank that does it, and at which step."""


def go_wrong(how: How, timeout: float) -> tuple[float, str]:
    """Seconds that it took since the others were left alone, and the error of a rank that was."""
    with setup_gangs(device="cpu", timeout=timeout) as gangs:
        began = time.monotonic()
        try:
            with gangs.guarding():
                for step in range(1, WHEN + 2):
                    gangs.at(f"step {step}")
                    if gangs["world"].rank == WHO and step == WHEN:
                        time.sleep(1.0)  # so that its place is known
                        do(how)
                    began = time.monotonic()
                    gangs["world"].all_reduce(torch.ones(3))
        except RankError as error:
            return time.monotonic() - began, str(error)
    return 0.0, "ended"


def do(how: How) -> None:
    if how == "failing":
        raise ValueError("sample 7 is no text")
    if how == "ending":
        raise SystemExit
    if how == "hanging":
        time.sleep(60)
    os.kill(os.getpid(), {"killed": signal.SIGKILL, "stopped": signal.SIGSTOP}[how])
