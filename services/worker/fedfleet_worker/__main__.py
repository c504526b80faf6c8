"""Starts a worker: ``fedfleet-worker``, settings from FEDFLEET_ variables; or gives it a
certificate: ``fedfleet-worker enroll``.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch

from fedfleet.env import command_line, misspelt, read
from fedfleet.errors import FedFleetError
from fedfleet.obs.logs import log_context, setup_logging
from fedfleet_worker.config import Secret, WorkerConfig
from fedfleet_worker.identity import enrol_once
from fedfleet_worker.priority import stand_back
from fedfleet_worker.service import serve

logger = logging.getLogger(__name__)


async def serve_until_signal(config: WorkerConfig) -> None:
    """Work until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with ThreadPoolExecutor(
        1, "training", initializer=stand_back, initargs=(config.worker_nice,)
    ) as threads:
        await serve(config, stop, threads)


def run(config: WorkerConfig) -> None:
    """Work until stopped."""
    if config.threads:
        torch.set_num_threads(config.threads)
    with log_context(worker_id=config.name):
        asyncio.run(serve_until_signal(config))


def enroll(config: WorkerConfig, options: argparse.Namespace) -> None:
    """Trade a token for a certificate and say what it is."""
    if options.token:
        config = replace(config, token=Secret(options.token))
    elif options.token_file:
        config = replace(config, token=None, token_file=options.token_file)
    if options.name:
        config = replace(config, worker_id=options.name)
    credentials = asyncio.run(enrol_once(config, replace_held=options.replace))
    sys.stdout.write(f"{credentials.identity.text}: enrolled, in {config.identity_dir}\n")


def parser() -> argparse.ArgumentParser:
    """The command line: settings come from the environment."""
    made = command_line("fedfleet-worker", "Trains on this device's data.", WorkerConfig)
    commands = made.add_subparsers(dest="command", metavar="COMMAND")
    enrolment = commands.add_parser("enroll", help="trade a token for a certificate, then end")
    given = enrolment.add_mutually_exclusive_group()
    given.add_argument(
        "--token",
        help="the token; FEDFLEET_TOKEN and --token-file keep it from other users of the device",
    )
    given.add_argument("--token-file", type=Path, help="file with the token")
    enrolment.add_argument(
        "--name", help="the worker's name that the token is for; else FEDFLEET_WORKER_ID"
    )
    enrolment.add_argument(
        "--replace", action="store_true", help="replace the certificate that is there"
    )
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run; 0 after a graceful stop, 1 after an error in one line on stderr."""
    options = parser().parse_args(argv)
    try:
        config = read(WorkerConfig, os.environ)
        os.environ.pop("FEDFLEET_TOKEN", None)  # children are not to have it
        setup_logging("worker", config.log_level)
        for name, meant in misspelt(WorkerConfig, os.environ):
            logger.warning("setting_unknown", extra={"variable": name, "did_you_mean": meant})
        if options.command == "enroll":
            enroll(config, options)
        else:
            run(config)
    except FedFleetError as error:
        sys.stderr.write(f"fedfleet-worker: {error.code}: {error.message}\n")
        return 1
    except Exception:
        logger.exception("worker_failed")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
