import pytest

from edgenode.link.errors import InvalidArgument
from edgenode.link.model.selector import Selector, parse

LABELS = {"zone": "a", "gpu": "yes", "site/floor": "3"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", True),
        ("zone=a", True),
        ("zone=b", False),
        ("zone!=b", True),
        ("zone!=a", False),
        ("missing!=a", True),
        ("zone in (a,b)", True),
        ("zone in ( b , c )", False),
        ("missing in (a)", False),
        ("gpu", True),
        ("missing", False),
        ("!missing", True),
        ("! gpu", False),
        (" zone = a , gpu , !missing,site/floor in (3,4)", True),
        ("in", False),
    ],
)
def test_matches(text: str, expected: bool) -> None:
    selector = parse(text)
    assert selector.matches(LABELS) is expected
    assert (selector.failure(LABELS) == "") is expected


def test_failure_names_the_first_condition_that_does_not_hold() -> None:
    assert parse("gpu,zone in (b,c),missing").failure(LABELS) == "zone in (b,c): label zone is a"
    assert parse("missing").failure(LABELS) == "missing: label missing is missing"


@pytest.mark.parametrize("text", ["", "a=b", "a!=b", "a in (x,y)", "a,!b,c=d"])
def test_written_form_reads_back(text: str) -> None:
    assert str(parse(text)) == text
    assert parse(str(parse(text))) == parse(text)


@pytest.mark.parametrize(
    "text", [",", "a,", ",a", "a==b", "a=", "=b", "a in ()", "a in (b", "a in b", "a b", "a=b c", "!a=b", "ä", "a;b"]
)
def test_malformed(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse(text, "spec.selector")
    assert caught.value.reason == "BAD_SELECTOR"
    assert caught.value.problem.metadata["field"] == "spec.selector"


def test_too_long() -> None:
    with pytest.raises(InvalidArgument, match="1025 characters"):
        parse("a" * 1025)


def test_empty_selects_everything() -> None:
    assert parse("  ") == Selector()
