"""What an API key looks like, and that it is masked wherever text leaves the process."""

from __future__ import annotations

import re

import pytest

from hive_ray.control.api_secrets import digest, id_of, mint
from hive_ray.observe.redaction import MASK, mask_bytes, redact_text


def test_a_key_carries_its_id_and_256_bits():
    """Each is new; a key that is rolled keeps its id."""
    first, second = mint(), mint()

    assert first.secret != second.secret and first.id != second.id
    assert re.fullmatch(r"hrk_[a-z2-7]{12}_[0-9A-Za-z]{49}", first.secret)
    assert id_of(first.secret) == first.id
    assert mint(first.id).id == first.id and mint(first.id).secret != first.secret


@pytest.mark.parametrize("at", [4, 15, 17, 40, 59, -1])
def test_a_slip_of_the_pen_is_noticed(at: int):
    secret = mint().secret
    wrong = list(secret)
    wrong[at] = "a" if wrong[at] != "a" else "b"

    assert id_of("".join(wrong)) is None


@pytest.mark.parametrize("text", ["", "hrk_", "hrk_abc", "sk-something", "a.b.c", " "])
def test_what_is_no_key_has_no_id(text: str):
    assert id_of(text) is None


def test_the_hash_depends_on_pepper_and_secret():
    secret = mint().secret

    assert len(digest(b"p", secret)) == 32
    assert len({digest(b"p", secret), digest(b"q", secret), digest(b"p", mint().secret)}) == 3


@pytest.mark.parametrize("place", ["{}", "key={}", '{{"value": "{}"}}', "GET /v1/runs?key={}&x=1", "({})"])
def test_a_key_is_masked_in_logs_and_pages(place: str):
    """Though nobody registered it as a secret."""
    secret = mint().secret
    text = place.format(secret)

    assert secret not in redact_text(text)
    assert mask_bytes(text.encode()) == place.format(MASK).encode()
    assert redact_text("the prefix hrk_ alone stays") == "the prefix hrk_ alone stays"
