"""Headers of every answer: a browser on the service's pages talks to this service and to nobody else."""

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# BentoML's start page loads a tag manager from another host; nothing may be fetched at run time. Its own scripts and
# styles are partly inline.
HEADERS = {
    "content-security-policy": "default-src 'self' 'unsafe-inline' data:; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


class OwnOriginOnly:
    """ASGI middleware that adds HEADERS to each HTTP answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self.app(scope, receive, send_with_headers)
