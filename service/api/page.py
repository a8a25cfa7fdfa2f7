"""The page at ``/`` that shows what the loaded models do, and the reference of the routes at ``/docs``.

The files of the page are in ``service/page``: HTML, one style sheet, and JavaScript modules without a build step. They
contain nothing secret, so they are served without an API key: the page asks for the key. ``SEQSERVE_PAGE=off`` removes
all of it.
"""

from collections.abc import Mapping
from pathlib import Path

from service.api import openapi
from service.api.pipeline import RequestContext
from service.api.problems import Headers
from service.api.routes import READ, Docs, Reply, Route
from service.errors import NotFound, shown

FOLDER = Path(__file__).resolve().parent.parent / "page"
MEDIA = {
    ".html": b"text/html; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
}
# Nothing from other hosts, no inline scripts or styles, and no other page may embed this one.
POLICY = b"default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
HEADERS: Headers = [
    (b"content-security-policy", POLICY),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-cache"),  # the modules of two versions would not fit together
]
# Read at import: a few kilobytes. By name, with the media type.
FILES: Mapping[str, tuple[bytes, bytes]] = {
    path.name: (path.read_bytes(), MEDIA[path.suffix]) for path in sorted(FOLDER.iterdir()) if path.suffix in MEDIA
}


def _file(context: RequestContext, name: str) -> Reply:
    if context.worker.settings.page == "off":
        raise NotFound("the page is switched off; set SEQSERVE_PAGE=on to have it", value=context.path)
    if name not in FILES:
        raise NotFound(f"the page has no file {shown(name)}; open / instead", value=name, available=list(FILES))
    body, media = FILES[name]
    return Reply(body=body, media=media, headers=list(HEADERS))


async def _index(context: RequestContext, _: bytes) -> Reply:
    return _file(context, "index.html")


async def _reference(context: RequestContext, _: bytes) -> Reply:
    return _file(context, "docs.html")


async def _part(context: RequestContext, _: bytes) -> Reply:
    return _file(context, context.path_params["file"])


def _docs(summary: str, media: str = "text/html") -> Docs:
    return Docs(group=openapi.PAGES_GROUP, summary=summary, answer=bytes, media=media, errors=(NotFound,))


ROUTES = (
    Route("/", READ, _index, public=True, docs=_docs("Try the models on a page")),
    Route("/docs", READ, _reference, public=True, docs=_docs("Read about the routes on a page")),
    Route("/page/{file}", READ, _part, public=True, docs=_docs("Get a file of the page", "*/*")),
)
