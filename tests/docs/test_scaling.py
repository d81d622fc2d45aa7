"""docs/scaling.md says what its script works out."""

from __future__ import annotations

import json

from benchmarks.projection import BEGIN, END, PAGE, Size, computed
from benchmarks.scaling import SLOPES, class_of


def test_the_page_holds_what_is_worked_out_of_the_slopes():
    shown = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]

    assert shown == computed(json.loads(SLOPES.read_text(encoding="utf-8")))


def test_twice_as_much_costs_twice_as_much_to_keep():
    slopes = json.loads(SLOPES.read_text(encoding="utf-8"))

    assert "| the recordings, Standard storage | 150,000 |" in computed(slopes, Size(10_000_000, 10 * 10**15, 10))
    assert "| the recordings, Standard storage | 300,000 |" in computed(slopes, Size(20_000_000, 20 * 10**15, 10))


def test_requests_are_of_the_class_that_r2_counts_them_in():
    # https://developers.cloudflare.com/r2/pricing/
    told = {
        "PUT /raw/recordings/a": "A",
        "POST /raw/recordings/a?uploads=": "A",
        "GET /raw?list-type=2&prefix=recordings%2F": "A",
        "GET /raw/recordings/a?uploadId=1": "A",
        "GET /raw/recordings/a": "B",
        "HEAD /raw/recordings/a": "B",
        "DELETE /raw/recordings/a?uploadId=1": None,
    }

    assert {request: class_of(request) for request in told} == told
