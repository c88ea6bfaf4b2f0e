"""Query parameters as the official clients and the documentation write them."""

from urllib.parse import quote

import pytest
from fastapi import Request

from causeway.api.query import Page, choice, flag, page_of, values
from causeway.model.problem import Code, Problem


def request(query: str) -> Request:
    return Request({"type": "http", "query_string": query.encode(), "headers": [], "path": "/"})


LISTS = [
    ("", ()),
    ("a=1", ("1",)),
    ("a=1&a=2", ("1", "2")),
    ("a=1,2", ("1", "2")),
    ("a=1%2C2", ("1", "2")),
    ("a=1,2&a=3", ("1", "2", "3")),
    ("a=,1,,2,", ("1", "2")),
    ("a=&b=1", ()),
    ("a=%20", (" ",)),
]


@pytest.mark.parametrize(("query", "expected"), LISTS)
def test_lists_by_repeated_keys_and_by_comma(query: str, expected: tuple[str, ...]) -> None:
    assert values(request(query), "a") == expected


PAGES = [
    ("", Page(1, 20, False)),
    ("page=", Page(1, 20, True)),
    ("page=3", Page(3, 20, True)),
    ("per_page=5", Page(1, 5, False)),
    ("page=2.0&per_page=10.0", Page(2, 10, True)),
    ("page=007", Page(7, 20, True)),
]


@pytest.mark.parametrize(("query", "expected"), PAGES)
def test_pages(query: str, expected: Page) -> None:
    page = page_of(request(query))
    assert page == expected
    assert page.skip == (expected.number - 1) * expected.per_page


@pytest.mark.parametrize("text", ["0", "-1", "+1", "1e1", "1.5", "0x1", "१", "1_0", " 1", "9" * 12, "1001"])
def test_what_is_no_size_of_a_page_is_named(text: str) -> None:
    with pytest.raises(Problem) as refused:
        page_of(request(f"per_page={quote(text)}"))
    assert refused.value.code is Code.INVALID_VALUE
    assert refused.value.pointer == "per_page"
    assert text in refused.value.message


def test_flags_and_choices() -> None:
    assert [flag(request(f"a={text}"), "a") for text in ("true", "1", "false", "0", "")] == [True, True] + [False] * 3
    assert choice(request("a=x&a=y"), "a", ("x", "y"), "x") == "y", "the last one counts"
    with pytest.raises(Problem, match="one of x, y, not 'z'"):
        choice(request("a=z"), "a", ("x", "y"), "x")
