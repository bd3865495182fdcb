"""What one server consists of, whoever runs it."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from helpers.serve.answers import Desk
from helpers.serve.keys import KeyFile, KeyStore
from helpers.serve.limits import Admission
from helpers.serve.metrics import Metrics
from helpers.serve.served import Served
from helpers.serve.settings import ServeSettings


class House:
    """The parts of one server.

    Args:
        settings: What is served to whom.
        keys: Who has which key, where that is not in a file.
    """

    def __init__(self, settings: ServeSettings, keys: KeyStore | None = None) -> None:
        self.settings = settings
        self.keys = keys
        if keys is None and settings.keys is not None:
            self.keys = KeyFile(settings.keys, settings.limits)
        self.metrics = Metrics()
        self.admission = Admission(
            settings.n_parallel, settings.queue, settings.limits, limited=self.keys is not None
        )
        self.served = Served(settings)
        self.desk = Desk(self.served.engine, self.admission, self.metrics, settings.request_s)
        self.began = time.time()

    async def drain(self, seconds: float) -> None:
        """Refuse new requests, let the running answers finish, and give up those that do not.

        Args:
            seconds: How long they may go on.
        """
        self.admission.stopping = True
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.admission.in_flight:
                    await asyncio.sleep(0.02)
        self.desk.end_all()
