"""Short notices to people, posted to a webhook that takes Slack's format, `{"text": ...}` (Slack, Mattermost, Discord).

It is a plain POST over urllib3 rather than dagster-slack, so that the command and Dagster post in one way, and because
the only thing to know is a URL, which is the secret. That URL is in no log, exception or repr. Whatever becomes of a
notice, an ingest is neither failed by it nor held up for more than about ten seconds.
"""

from __future__ import annotations

import json
import logging
import ssl
import threading
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from urllib.parse import urlsplit

import certifi
import urllib3
from pydantic import ByteSize
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_fixed
from urllib3.connection import HTTPConnection, HTTPSConnection

from ursa_pipelines.errors import UrsaError
from ursa_pipelines.profiles import CredentialSource, Profile

logger = logging.getLogger("ursa.notifications")

LINES, CHARACTERS = 20, 3_000
"""No notice is longer."""

_ATTEMPTS = 2
_BACKOFF_SECONDS = 0.5
_SPARE_SECONDS = 0.5
_RECORDINGS_NAMED = 5
_REASON_CHARACTERS = 240


@dataclass(frozen=True)
class Trouble:
    """A recording and what keeps it from being registered. `reason` holds the remedy."""

    rec_id: str
    reason: str
    error_type: str = ""
    retryable: bool = False


class _Passing(Exception):
    """The webhook may take the notice at the next attempt."""


class _Refused(Exception):
    """The webhook does not take it. Its text never holds the URL."""


def post(profile: Profile, text: str, *, seconds: float = 5.0) -> bool:
    """Posts a notice; True if it was taken, False without a webhook.

    An attempt may take `seconds`, and there are two. A failure is logged as a warning, never raised.
    """
    if profile.notifications.webhook is None:
        return False
    taken: list[bool] = []
    # Neither `op` nor a name server keeps to the time-outs of a connection, hence a thread that can be left behind.
    thread = threading.Thread(target=_deliver, args=(profile, text, seconds, taken), name="notice", daemon=True)
    thread.start()
    thread.join(_ATTEMPTS * seconds + _BACKOFF_SECONDS + _SPARE_SECONDS)
    if thread.is_alive():
        logger.warning("a notice was not sent: there was no answer in time")
    return bool(taken)


def ingest_begins(
    place: str,
    who: str,
    recordings: int,
    size: int,
    *,
    measured: int | None = None,
    sources: Sequence[str] = (),
    rate: str = "",
    until: datetime | None = None,
) -> str:
    """Tells of a large ingest before its bytes are sent. `place` is the profile, `who` user@host, `size` bytes.

    `measured` is how many of the recordings hold these bytes, if not all; `until` when it will have ended.
    """
    part = "" if measured in (None, recordings) else f"the first {measured:,} of them "
    lines = [
        f"*Ingest begins* ({_escaped(place)}): {_counted(recordings, 'recording')}, {part}{_told_size(size)}"
        + (f", from {_escaped(', '.join(sources))}" if sources else ""),
        f"It runs as {_escaped(who.replace('@', ' on '))}.",
    ]
    if rate:
        ending = f", so until about {until:%a %d %b %H:%M}" if until else ""
        lines.append(f"Uploads go at {_escaped(rate)}{ending}.")
    return _bounded(lines)


def ingest_ended(
    place: str, registered: int, failed: Sequence[Trouble], *, waiting: int = 0, unknown: int = 0, runs: int = 1
) -> str:
    """Tells how an ingest ended, its failures grouped by cause. `unknown` are those of runs that broke off."""
    told = [f"{registered:,} registered"]
    told += [f"*{len(failed):,} failed*"] if failed else []
    told += [f"{waiting:,} waiting"] if waiting else []
    told += [f"{unknown:,} not done (a run was cancelled or broke off; launch them again)"] if unknown else []
    in_runs = f" in {runs:,} runs" if runs > 1 else ""
    return _bounded([f"*Ingest ended* ({_escaped(place)}){in_runs}: {', '.join(told)}", *_by_cause(failed)])


def quarantined(place: str, troubles: Sequence[Trouble]) -> str:
    """Tells of recordings that nothing takes up any more until somebody decides."""
    head = f"*Quarantined* ({_escaped(place)}): {_counted(len(troubles), 'recording')}, left alone from now on"
    remedy = "When the cause is mended: `ursa retry REC_ID`; if it is to stay out: `ursa waive REC_ID`."
    return _bounded([head, *_by_cause(troubles)], remedy)


def sources_stale(place: str, unavailable: Mapping[str, str], waiting: Mapping[str, float]) -> str:
    """Tells of sources that cannot be read (name: why), and of recordings that are not registered although they were
    made so long ago (rec_id: hours).
    """
    lines = [f"*Sources* ({_escaped(place)})"]
    for name, why in sorted(unavailable.items()):
        lines.append(f"*{_escaped(name)}* cannot be read: {_escaped(_shortened(why))}")
    if waiting:
        longest = sorted(waiting, key=lambda rec_id: -waiting[rec_id])
        named = [f"{_code(rec_id)} ({waiting[rec_id]:,.0f} h)" for rec_id in longest[:_RECORDINGS_NAMED]]
        told = f"{_counted(len(waiting), 'recording')} not registered so long after"
        lines.append(f"{told}: {_and_more(named, len(waiting))}")
    return _bounded(lines, "The table of the asset `reconciliation` says why." if waiting else "")


def _by_cause(troubles: Iterable[Trouble]) -> list[str]:
    def kind(trouble: Trouble) -> tuple[bool, str]:
        return trouble.retryable, trouble.error_type

    groups = [list(group) for _, group in groupby(sorted(troubles, key=kind), kind)]
    # What somebody must act on first, then the commonest.
    groups.sort(key=lambda group: (group[0].retryable, -len(group)))
    lines = []
    for group in groups:
        first = group[0]
        named = _and_more([_code(trouble.rec_id) for trouble in group[:_RECORDINGS_NAMED]], len(group))
        passing = ", tried again by itself" if first.retryable else ""
        lines.append(f"*{_escaped(first.error_type or 'Unknown cause')}* ({len(group):,}{passing}): {named}")
        # A reason begins with the recording, which the line before names.
        lines.append(f"> {_escaped(_shortened(first.reason.removeprefix(f'{first.rec_id}: ')))}")
    return lines


def _and_more(named: Sequence[str], count: int) -> str:
    more = f" and {count - len(named):,} more" if count > len(named) else ""
    return ", ".join(named) + more


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _told_size(size: int) -> str:
    return ByteSize(size).human_readable(decimal=True)


def _code(text: str) -> str:
    return f"`{_escaped(text)}`"


def _shortened(text: str) -> str:
    """Cut in the middle, because the remedy stands at the end."""
    half = _REASON_CHARACTERS // 2
    return text if len(text) <= _REASON_CHARACTERS else f"{text[:half]} … {text[-half:]}"


def _escaped(text: str) -> str:
    """On one line, and unable to mention anybody, to link or to end a code span."""
    one_line = " ".join("".join(one if one.isprintable() else " " for one in text).split())
    replaced = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "`": "'", "@": "@\N{ZERO WIDTH SPACE}"}
    return "".join(replaced.get(one, one) for one in one_line)


def _bounded(lines: Sequence[str], last: str = "") -> str:
    """As many whole lines as a notice may have, and `last` after them in any case."""
    kept: list[str] = []
    room = CHARACTERS - len(last) - 50
    for line in lines:
        room -= len(line) + 1
        if room < 0 or len(kept) == LINES - 2:
            kept.append("… and more: see the runs in Dagster.")
            break
        kept.append(line)
    return "\n".join([*kept, last] if last else kept)


def _deliver(profile: Profile, text: str, seconds: float, taken: list[bool]) -> None:
    try:
        # A source of its own: whoever waits for `op` here keeps no upload waiting for its credential.
        url = CredentialSource(profile).webhook() or ""
        retrying = Retrying(
            retry=retry_if_exception_type(_Passing),
            wait=wait_fixed(_BACKOFF_SECONDS),
            stop=stop_after_attempt(_ATTEMPTS),
            reraise=True,
        )
        retrying(_send, url, json.dumps({"text": text}).encode(), seconds)
        taken.append(True)
    except (UrsaError, _Passing, _Refused) as error:
        logger.warning("a notice was not sent: %s", error)
    except Exception as error:  # noqa: BLE001 - a notice never fails an ingest, and the error's text may hold the URL
        logger.warning("a notice was not sent: %s", type(error).__name__)


def _send(url: str, body: bytes, seconds: float) -> None:
    parts = urlsplit(url)
    # urllib3's pools write the path of every request into the log; a connection by itself does not.
    connection = _connection(url, seconds)
    try:
        path = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        connection.request("POST", path, body=body, headers={"Content-Type": "application/json"}, preload_content=False)
        status = connection.getresponse().status
    except TimeoutError:
        raise _Passing("the webhook did not answer in time") from None
    except (urllib3.exceptions.HTTPError, OSError) as error:
        kind = _Passing if isinstance(error, urllib3.exceptions.TimeoutError) else _Refused
        raise kind(f"the webhook cannot be reached ({type(error).__name__})") from None
    finally:
        connection.close()
    if status >= 500 or status == 429:
        raise _Passing(f"the webhook answered {status}")
    if status >= 300:
        raise _Refused(f"the webhook answered {status}; compare the URL in 1Password with the webhook's own page")


def _connection(url: str, seconds: float) -> HTTPConnection:
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme != "https":
        return HTTPConnection(host, parts.port, timeout=seconds)
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    proxy = urllib.request.getproxies().get("https")
    if not proxy or urllib.request.proxy_bypass(host):
        return HTTPSConnection(host, parts.port, timeout=seconds, ssl_context=context)
    through = urlsplit(proxy)
    tunnelled = HTTPSConnection(through.hostname or "", through.port, timeout=seconds, ssl_context=context)
    tunnelled.set_tunnel(host, parts.port or 443)
    return tunnelled
