"""The web server of ``sgformer serve``: one image at a time, nothing loaded from elsewhere."""

import asyncio
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from ..tasks.images import ImageError
from .tryout import MAX_PIXELS, Tryout
from .web_page import MAX_BYTES, page

T = TypeVar("T")

MAX_WAITING = 8  # images and drawings that are computed or wait for it

# The page may load nothing but what this server sends, and no page of others may frame it.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def create_app(tryout: Tryout, *, hosts: Sequence[str] = ("*",)) -> Starlette:
    """The page, and what it asks for, as an ASGI application; errors are ``{"error": "a sentence"}``.

    ========================================== ==========================================================
    ``GET /``                                  the page
    ``POST /images?token_budget=49``         an image's file as the body; what `Tryout.compute` says; none: no budget
    ``GET /images/<id>/<view>/<pair>``       what `Tryout.draw` draws
    ========================================== ==========================================================

    Browsers may call this machine by the names in ``hosts`` alone: else a foreign page whose own name leads here could
    read what the page reads.
    """
    server = _Server(tryout)
    return Starlette(
        routes=[
            Route("/", server.page),
            Route("/images", server.compute, methods=["POST"]),
            Route("/images/{id}/{view}/{pair:int}", server.draw),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)],
        exception_handlers={HTTPException: _answer_error},
    )


class _Server:
    def __init__(self, tryout: Tryout) -> None:
        self.tryout = tryout
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="model")  # one image at a time
        self.num_waiting = 0
        facts = tryout.facts() | {"max_bytes": MAX_BYTES, "max_pixels": MAX_PIXELS}
        self.text = page(tryout.model.name, facts)

    async def page(self, request: Request) -> Response:
        return HTMLResponse(self.text, headers=_HEADERS)

    async def compute(self, request: Request) -> Response:
        # Browsers name the page from which a request comes; another one must not keep this machine busy.
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != request.headers["host"]:
            raise HTTPException(403, "a page of another site may not use this server")
        settings: dict[str, Any] = {}
        for name, read in (("token_budget", _budget), ("score_threshold", float)):
            if name in request.query_params:
                try:
                    settings[name] = read(request.query_params[name])
                except ValueError as error:
                    or_none = ", or none" * (name == "token_budget")
                    raise HTTPException(400, f"{name} must be a number{or_none}") from error
        file = await _body(request)
        return JSONResponse(await self._in_turn(self.tryout.compute, file, **settings), headers=_HEADERS)

    async def draw(self, request: Request) -> Response:
        place = request.path_params
        try:
            jpeg = await self._in_turn(self.tryout.draw, place["id"], place["view"], place["pair"])
        except KeyError as error:
            raise HTTPException(404, "is no longer kept; choose the image again") from error
        return Response(jpeg, media_type="image/jpeg", headers=_HEADERS | {"Cache-Control": "private, max-age=3600"})

    async def _in_turn(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        if self.num_waiting >= MAX_WAITING:
            raise HTTPException(503, "has to wait: the model is busy; try again in a moment")
        self.num_waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self.thread, lambda: function(*args, **kwargs))
        except ImageError as error:
            raise HTTPException(400, error.reason) from error
        except ValueError as error:
            raise HTTPException(400, f"cannot be computed: {error}") from error
        except (RuntimeError, MemoryError) as error:  # such as a GPU whose memory is full
            reason = " ".join(str(error).split()) or type(error).__name__
            print(f"sgformer: an image failed: {reason}", file=sys.stderr, flush=True)
            raise HTTPException(500, f"cannot be computed: {reason}") from error
        finally:
            self.num_waiting -= 1


def _budget(text: str) -> int | None:
    return None if text == "none" else int(text)


async def _body(request: Request) -> bytes:
    """The body, unless it is longer than `MAX_BYTES`; what its length is said to be is looked at first."""
    too_long = HTTPException(413, f"has more than {MAX_BYTES / 2**20:.0f} MB; shrink it")
    if int(request.headers.get("content-length", 0)) > MAX_BYTES:
        raise too_long
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BYTES:
            raise too_long
    return bytes(body)


async def _answer_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, status_code=error.status_code, headers=_HEADERS)
