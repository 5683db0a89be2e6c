"""What every page of this package has: a token, a cookie, forms of its own, closed headers, and no other machine."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import socket
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, FileSystemLoader

WEB = Path(__file__).parent / "web"
LONGEST = 20_000  # bytes of a request
PAGES = Environment(loader=FileSystemLoader(WEB), autoescape=True)
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self';"
    " connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
}  # fmt: skip
MOST_STRANGERS = 1000  # that are noted of one start
KINDS = {".css": "text/css", ".js": "text/javascript"}


class Session:
    """Who may look: whoever opened an address with a token (`tokens`: of whom -> token); and forms that this page made.

    `verb` is the command that printed the addresses; it names the cookie, since cookies know no ports.
    """

    def __init__(self, verb: str, tokens: Mapping[str, str]) -> None:
        self.verb, self._tokens, self._secret = verb, dict(tokens), secrets.token_bytes(32)
        self._cookies = {who: self._sign(f"cookie {token}") for who, token in self._tokens.items()}

    def _sign(self, words: str) -> str:
        return hmac.new(self._secret, words.encode(), hashlib.sha256).hexdigest()

    @property
    def cookie(self) -> str:
        return f"fabrica_{self.verb}"

    def opened(self, token: str) -> str | None:
        """What is kept in the cookie of whoever has this token; nothing for another."""
        found = [who for who, own in self._tokens.items() if hmac.compare_digest(token.encode(), own.encode())]
        return self._cookies[found[0]] if found else None

    def who(self, request: Request) -> str:
        """Raises HTTPException 401 for a stranger."""
        given = request.cookies.get(self.cookie, "").encode(errors="replace")
        for who, own in self._cookies.items():
            if hmac.compare_digest(given, own.encode()):
                return who
        raise HTTPException(401, f"Open the address that fabrica {self.verb} printed: it holds the token.")

    def form(self, key: str) -> str:
        return self._sign(f"form {key}")

    def made(self, form: str, key: str) -> bool:
        return hmac.compare_digest(form.encode(), self.form(key).encode())


def framed(session: Session, entered: Callable[[bool], None] = lambda known: None) -> FastAPI:
    """An application with the way in, and files that say nothing of anybody. `entered` is told of everybody who comes
    with a token, and of so many who come with another.
    """
    strangers = count(1)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.middleware("http")(_guarded)
    app.exception_handler(HTTPException)(_told)
    app.exception_handler(ValueError)(_refused)

    @app.get("/enter")
    def enter(t: str = "") -> Response:
        cookie = session.opened(t)
        if cookie is not None or next(strangers) <= MOST_STRANGERS:
            entered(cookie is not None)
        if cookie is None:
            raise HTTPException(401, f"The token is another. Open the address that fabrica {session.verb} printed.")
        answer = RedirectResponse("/", 303)
        answer.set_cookie(session.cookie, cookie, httponly=True, samesite="strict")
        return answer

    for file in sorted(p for p in WEB.iterdir() if p.suffix in KINDS):
        app.add_api_route(f"/{file.name}", _sent(file), methods=["GET"])

    @app.get("/favicon.ico")
    def icon() -> Response:
        return Response(status_code=204)

    return app


def _sent(file: Path) -> Callable[[], Response]:
    return lambda: Response(file.read_text(), media_type=KINDS[file.suffix])


async def _guarded(request: Request, call_next: Callable[[Request], Any]) -> Any:
    host = (request.headers.get("host") or "").rsplit(":", 1)[0]
    if host not in ("127.0.0.1", "localhost"):  # no other site's name leads here
        return Response("This page answers to 127.0.0.1 alone.", 421)
    length = request.headers.get("content-length") or ("0" if request.method == "GET" else "")
    if not request.url.path.startswith("/dicom-web/") and not (length.isdigit() and int(length) <= LONGEST):
        return Response("Too long.", 413)
    answer = await call_next(request)
    answer.headers.update(HEADERS)
    return answer


async def _told(request: Request, error: Exception) -> HTMLResponse:
    assert isinstance(error, HTTPException)
    page = PAGES.get_template("error.html").render(code=error.status_code, words=error.detail)
    return HTMLResponse(page, error.status_code, HEADERS)


async def _refused(request: Request, error: Exception) -> HTMLResponse:
    words = "The stored files are not what was made. Nothing was done."
    return HTMLResponse(PAGES.get_template("error.html").render(code=409, words=words), 409, HEADERS)


def served(app: FastAPI, tokens: Mapping[str, str], port: int, say: Callable[[str], None]) -> None:
    """An application of this page, until it is stopped; says each address. No request is logged: they hold tokens."""
    import uvicorn

    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            free.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            why = error.strerror if isinstance(error, OSError) else "ports are 0 to 65535"
            raise ValueError(f"Port {port} cannot be listened on ({why}). Port 0 takes a free one.") from error
        for who, token in tokens.items():
            to = f"{who}: open" if who else "Open"
            say(f"{to} http://127.0.0.1:{free.getsockname()[1]}/enter?t={token}   (stop with Ctrl-C)")
        free.listen(128)
        config = uvicorn.Config(app, log_level="error", access_log=False, server_header=False)
        uvicorn.Server(config).run(sockets=[free])
