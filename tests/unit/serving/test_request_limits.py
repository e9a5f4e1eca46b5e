"""BentoML's limit of a request's time is out of the way: it would leave a timer behind for each."""

import subprocess
import sys

PROGRAM = """
import asyncio
from bentoml._internal.server.http.traffic import TimeoutMiddleware
import serving.service

async def main():
    loop, timers = asyncio.get_running_loop(), []
    call_later = loop.call_later
    loop.call_later = lambda *arguments, **options: timers.append(arguments) or call_later(*arguments, **options)

    async def app(scope, receive, send):
        await send({"type": "http.response.start"})

    sent = []
    async def send(message):
        sent.append(message)

    await TimeoutMiddleware(app, timeout=60)({"type": "http"}, None, send)
    print(sent == [{"type": "http.response.start"}], timers)

asyncio.run(main())
"""


def test_a_request_leaves_no_timer_behind():
    # In a process of its own: the service's module changes BentoML.
    told = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["True", "[]"]
