"""What can become of a request and its answer between us and the store, each for the requests that match a pattern."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tests.faults.proxy import Answer, AnswerBroken, ConnectionDropped, Fault, Headers, RequestRefused

_EVER = math.inf
_ENTRY = re.compile(rb"<(Contents|CommonPrefixes|Upload|Part)>.*?</\1>", re.DOTALL)


class Times(Fault):
    """Strikes the first `times` requests that match; `struck` tells how many it was."""

    def __init__(self, pattern: str, times: float = 1) -> None:
        self._pattern, self._times, self._lock = re.compile(pattern), times, threading.Lock()
        self.struck = 0

    def strikes(self, request: str) -> bool:
        with self._lock:
            if self.struck < self._times and self._pattern.search(request):
                self.struck += 1
                return True
        return False


class FailsBefore(Times):
    """The connection is reset before the request was read."""

    def begun(self, request: str) -> None:
        if self.strikes(request):
            raise ConnectionDropped(reset=True)


class GoesAway(Times):
    """From the first such request on the store is gone for all requests: what connects is reset."""

    def begun(self, request: str) -> None:
        if self.strikes(request) or self.struck:
            raise ConnectionDropped(reset=True)


class LosesAnswer(Times):
    """The request takes effect, and its answer is lost."""

    def after(self, request: str) -> None:
        if self.strikes(request):
            raise ConnectionDropped


class ResetInRequest(Times):
    """The connection is reset when half of the request's body has come."""

    def begun(self, request: str) -> None:
        if self.strikes(request):
            raise ConnectionDropped(reset=True, in_the_body=True)


class Answers(Times):
    """The store answers with a status and an S3 error, without doing anything."""

    def __init__(self, pattern: str, status: int, code: str, times: float = 1) -> None:
        super().__init__(pattern, times)
        self._status, self._code = status, code

    def before(self, request: str) -> None:
        if self.strikes(request):
            raise RequestRefused(self._status, self._code)


class AnswerEnds(Times):
    """Half of the answer's body comes, then the connection is closed, or reset."""

    def __init__(self, pattern: str, times: float = 1, *, reset: bool) -> None:
        super().__init__(pattern, times)
        self._reset = reset

    def answered(self, request: str, answer: Answer) -> Answer:
        if len(answer[2]) > 1 and self.strikes(request):
            raise AnswerBroken(answer, reset=self._reset)
        return answer


class WrongHeader(Times):
    """A header of the answer is another one than it should be."""

    def __init__(self, pattern: str, name: str, value: str) -> None:
        super().__init__(pattern)
        self._name, self._value = name, value

    def answered(self, request: str, answer: Answer) -> Answer:
        status, headers, content = answer
        if status >= 300 or all(name.lower() != self._name for name, _ in headers) or not self.strikes(request):
            return answer
        return status, [(name, self._value if name.lower() == self._name else old) for name, old in headers], content


class WrongSize(Times):
    """The answer to a HEAD says half the size; that to a GET has half the body, and says so."""

    def answered(self, request: str, answer: Answer) -> Answer:
        status, headers, content = answer
        size = int(dict(headers)["Content-Length"])
        if status >= 300 or size < 2 or not self.strikes(request):
            return answer
        kept = [(name, value) for name, value in headers if name != "Content-Length"]
        return status, [*kept, ("Content-Length", str(size // 2))], content[: size // 2]


class Pages(Times):
    """A LIST comes in two pages, of which the first comes twice, or the second not at all.

    Later pages are answered here, since the store knows nothing of their tokens.
    """

    def __init__(self, pattern: str, which: tuple[int, ...]) -> None:
        super().__init__(pattern, _EVER)
        self._which = which
        self._pages: dict[str, list[Answer]] = {}

    def instead(self, request: str) -> Answer | None:
        token = re.search(r"continuation-token=page-([0-9]+)-([0-9]+)", request)
        if token is None:
            return None
        return self._pages[token[1]][int(token[2])]

    def answered(self, request: str, answer: Answer) -> Answer:
        status, headers, content = answer
        entries = list(_ENTRY.finditer(content))
        if status != 200 or len(entries) < 2 or not self.strikes(request):
            return answer
        middle, key = len(entries) // 2, str(len(self._pages))
        halves = (entries[middle:], entries[:middle])
        self._pages[key] = pages = []
        for at, which in enumerate(self._which):
            body = content
            for left_out in reversed(halves[which]):
                body = body[: left_out.start()] + body[left_out.end() :]
            more = at + 1 < len(self._which)
            token = f"<NextContinuationToken>page-{key}-{at + 1}</NextContinuationToken>" if more else ""
            body = re.sub(rb"<NextContinuationToken>.*?</NextContinuationToken>", b"", body)
            told = f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}".encode()
            body = re.sub(rb"<IsTruncated>.*?</IsTruncated>", told, body, count=1)
            pages.append((status, _of_length(headers, body), body))
        return pages[0]


def _of_length(headers: Headers, body: bytes) -> Headers:
    return [*((name, value) for name, value in headers if name != "Content-Length"), ("Content-Length", str(len(body)))]


@dataclass(frozen=True)
class Kind:
    """A kind of fault; `of` makes it for a pattern. `lasts`: it does not pass, so that the call cannot succeed.

    `takes` is a pattern of requests to which it can happen.
    """

    of: Callable[[str], Times]
    takes: str = ""
    lasts: bool = False


_A_LIST = r"list-type=2"
_WITH_BODY_BACK = r"^(GET|POST) "

KINDS: dict[str, Kind] = {
    "fails before": Kind(FailsBefore),
    "fails before, 3 times": Kind(lambda pattern: FailsBefore(pattern, 3)),
    "goes away": Kind(GoesAway, lasts=True),
    "loses the answer": Kind(LosesAnswer),
    "loses 2 answers": Kind(lambda pattern: LosesAnswer(pattern, 2)),
    **{
        f"{status}, {told}": Kind(
            partial(Answers, status=status, code=code, times=times),
            lasts=times == _EVER,
        )
        for status, code in ((503, "SlowDown"), (429, "TooManyRequests"), (500, "InternalError"))
        for times, told in ((1, "once"), (3, "3 times"), (_EVER, "for ever"))
    },
    "200 with an error": Kind(lambda pattern: Answers(pattern, 200, "InternalError")),
    "reset in the request": Kind(ResetInRequest, takes=r"^PUT |^POST .*uploadId="),
    "reset in the answer": Kind(lambda pattern: AnswerEnds(pattern, reset=True), takes=_WITH_BODY_BACK),
    "truncates the answer": Kind(lambda pattern: AnswerEnds(pattern, reset=False), takes=_WITH_BODY_BACK),
    "truncates 2 answers": Kind(lambda pattern: AnswerEnds(pattern, 2, reset=False), takes=_WITH_BODY_BACK),
    "wrong ETag": Kind(lambda pattern: WrongHeader(pattern, "etag", f'"{"0" * 32}"')),
    "wrong size": Kind(WrongSize, takes=r"^(GET|HEAD) "),
    "repeats a page": Kind(lambda pattern: Pages(pattern, (0, 0, 1)), takes=_A_LIST),
    "skips a page": Kind(lambda pattern: Pages(pattern, (0,)), takes=_A_LIST),
    "ExpiredToken once": Kind(lambda pattern: Answers(pattern, 403, "ExpiredToken")),
    "AccessDenied once": Kind(lambda pattern: Answers(pattern, 403, "AccessDenied")),
    "ExpiredToken, for ever": Kind(lambda pattern: Answers(pattern, 403, "ExpiredToken", _EVER), lasts=True),
}
