"""What is below a prefix, page by page, where an answer that is no listing is never taken for an empty one.

obstore takes an error that is told with status 200 for a page without keys, which then is the last one, and goes on for
ever where a token comes back. Who is told of too few objects believes that they are gone. So each page must be a
`ListBucketResult` that is whole, and no token may come twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import NoReturn
from urllib.parse import unquote_plus
from xml.etree import ElementTree

from ursa_pipelines.errors import StoreUnavailable
from ursa_pipelines.objects.wire import Wire

_DECLARES_ENTITIES = b"<!DOCTYPE"

Listed = tuple[str, int, str, float]
"""Key, size in bytes, ETag in quotes, and when it was written, in seconds since 1970 UTC."""


@dataclass(frozen=True)
class Page:
    """The objects and, where a delimiter was given, the directories (whole keys, with their `/`) of one answer."""

    objects: list[Listed]
    directories: list[str]


def pages(wire: Wire, prefix: str, *, delimiter: str = "", start_after: str | None = None) -> Iterator[Page]:
    """What is below the prefix, 1,000 to a request. Raises `StoreUnavailable` for what is no listing, or has no end."""
    # Encoded, since XML cannot hold every key.
    query = {"list-type": "2", "prefix": prefix, "encoding-type": "url"}
    query |= {"delimiter": delimiter} if delimiter else {}
    query |= {"start-after": start_after} if start_after else {}
    tokens: set[str] = set()
    while True:
        page, token = _parsed(wire.listing(query), place := wire.place(prefix))
        yield page
        if token is None:
            return
        if token in tokens:
            raise StoreUnavailable("its listing comes to no end: it repeats a page", place=place)
        tokens.add(token)
        query |= {"continuation-token": token}


def _parsed(body: bytes, place: str) -> tuple[Page, str | None]:
    """One page, and the token of the next one, if there is one."""
    if _DECLARES_ENTITIES in body:
        _no_listing(place)
    try:
        root = ElementTree.fromstring(body)  # noqa: S314 - without a document type no entity can be expanded
        name_space, _, name = root.tag.rpartition("}")
        if name != "ListBucketResult":
            _no_listing(place)
        named = f"{name_space}}}" if name_space else ""
        decoded = unquote_plus if root.findtext(f"{named}EncodingType") == "url" else str
        page = Page(
            [
                _listed({child.tag: child.text for child in one}, named, decoded)
                for one in root.iter(f"{named}Contents")
            ],
            [decoded(one.text or "") for one in root.iterfind(f"{named}CommonPrefixes/{named}Prefix")],
        )
        if root.findtext(f"{named}IsTruncated") != "true":
            return page, None
    except (ElementTree.ParseError, KeyError, ValueError, TypeError):
        _no_listing(place)
    return page, root.findtext(f"{named}NextContinuationToken") or _no_listing(place)


def _listed(fields: dict[str, str | None], named: str, decoded: Callable[[str], str]) -> Listed:
    key, etag = decoded(fields[f"{named}Key"] or ""), fields.get(f"{named}ETag")
    if not key:
        raise ValueError("an object without a key")
    written = datetime.fromisoformat(fields[f"{named}LastModified"] or "")
    return key, int(fields[f"{named}Size"] or ""), etag or "", written.timestamp()


def _no_listing(place: str) -> NoReturn:
    raise StoreUnavailable("the answer is no listing, or not a whole one", place=place)
