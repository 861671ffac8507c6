"""What must never be readable in a log line, and what must stay readable."""

from __future__ import annotations

import base64
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from hive_ray.config import ObserveSettings, Settings
from hive_ray.observe import logging as hive_logging
from hive_ray.observe.redaction import MASK, Redactor, register_secrets

CANARY = 'canary "quoted"/\\path é 77'


@pytest.fixture
def redactor() -> Redactor:
    made = Redactor()
    made.add_values([CANARY])
    return made


@pytest.mark.parametrize(
    "text",
    [
        CANARY,
        json.dumps({"note": f"the value is {CANARY}!"}),
        repr([CANARY]),
        base64.b64encode(CANARY.encode()).decode(),
    ],
)
def test_a_registered_value_is_masked_in_every_spelling(redactor: Redactor, text: str):
    """JSON escapes, reprs and base64 hide a secret from a plain search, not from the redaction."""
    masked = redactor.text(text)

    assert "canary" not in masked and base64.b64encode(CANARY.encode()).decode() not in masked
    assert MASK in masked


@pytest.mark.parametrize(
    "key", ["password", "X-Api-Key", "apiKey", "db_password", "Authorization", "Set-Cookie", "accessToken"]
)
def test_what_stands_under_a_secret_key_is_masked(redactor: Redactor, key: str):
    """Key names are one name in snake, camel and header case."""
    assert redactor.redact({"outer": [{key: "plain"}]}) == {"outer": [{key: MASK}]}


@pytest.mark.parametrize("key", ["max_tokens", "input_tokens", "next_page_token", "keyboard", "tokenizer"])
def test_names_that_only_look_secret_stay_readable(redactor: Redactor, key: str):
    """Token counts and page positions are what people read logs for."""
    assert redactor.redact({key: "plain"}) == {key: "plain"}


@pytest.mark.parametrize(
    "secret",
    [
        "sk-abcdefghijklmnop1234",
        "ghp_abcdefghijklmnopqrstuvwx",
        "AKIAABCDEFGHIJKLMNOP",
        "eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.c2lnbmF0dXJl",
        "xoxb-1234567890-abcdef",
    ],
)
def test_well_known_tokens_are_masked_without_being_registered(redactor: Redactor, secret: str):
    """A token that a tool met by itself was never registered here."""
    assert secret not in redactor.text(f"calling with {secret} now")


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer abc.def-ghi",
        "https://user:hunter2@example.org/x",
        'config {"api_key": "hunter2"}',
        "login failed: password=hunter2, retrying",
    ],
)
def test_assignments_inside_texts_are_masked(redactor: Redactor, text: str):
    """Error messages quote headers, URLs and settings."""
    masked = redactor.text(text)

    assert "hunter2" not in masked and "abc.def" not in masked


def test_configured_key_names_count_too():
    """Operators know their own names for secrets."""
    redactor = Redactor()
    redactor.add_key_names(["pin code"])

    assert redactor.redact({"customer_pin_code": "1234"}) == {"customer_pin_code": MASK}


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(alphabet="abc :=\"'-_/@.tokenpasswordBearer[]", max_size=60),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["token", "a", "api_key"]), inner)
    ),
    max_leaves=8,
)


@given(json_values)
def test_redacting_twice_changes_nothing(value: Any):
    """Two doors may both redact one value."""
    redactor = Redactor()
    redactor.add_values([CANARY, "pass"])
    once = redactor.redact(value)

    assert redactor.redact(once) == once


def test_a_value_without_end_is_cut():
    """Redaction ends on every value, also on one that contains itself."""
    loop: list[Any] = []
    loop.append(loop)

    assert MASK in json.dumps(Redactor().redact(loop))


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    settings = Settings(observe=ObserveSettings(log_level="DEBUG"))
    hive_logging.configure(settings, "test", stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


def test_a_canary_reaches_no_log_line(lines: io.StringIO):
    """Planted in event, fields, arguments, exception and context; both loggers; it never comes out."""
    canary = "canary-4711-value"
    register_secrets([canary])
    with hive_logging.bound(request_id="r1", run_id="u1", note=canary):
        hive_logging.get_logger("ours").warning(f"event {canary}", args={"deep": [canary]}, password="other")
        logging.getLogger("theirs").warning("argument %s", canary, extra={"x": canary})
        try:
            raise ValueError(f"failed with {canary}")
        except ValueError:
            hive_logging.get_logger("ours").exception("it failed")
            logging.getLogger("theirs").exception("it failed")

    written = lines.getvalue()
    assert canary not in written and '"other"' not in written
    records = [json.loads(line) for line in written.splitlines()]
    assert len(records) == 4
    assert all((r["request_id"], r["run_id"], r["component"]) == ("r1", "u1", "test") for r in records)
    assert "ValueError" in records[2]["exception"] and "ValueError" in records[3]["exception"]


def test_an_exception_is_told_without_its_message(lines: io.StringIO):
    """Type and place of it and of its causes; what it says may quote what a run is about."""
    for log in (hive_logging.get_logger("ours"), logging.getLogger("theirs")):
        try:
            try:
                raise KeyError("a customer's name")
            except KeyError as cause:
                raise ValueError("a customer's name") from cause
        except ValueError:
            log.exception("it failed")

    for line in lines.getvalue().splitlines():
        told = json.loads(line)["exception"]
        assert told.index("builtins.KeyError") < told.index("builtins.ValueError")
        assert told.count("redaction_test.py") == 2
        # Of the source only: both lines that raise.
        assert told.count("a customer's name") == told.count("raise ") == 2


def test_facts_beside_a_line_are_told_and_nothing_else(lines: io.StringIO):
    """``extra`` of the standard library's logging: which run it was, but no content."""
    logging.getLogger("theirs").warning("it failed", extra={"run_id": "r1", "body": "a customer's name"})

    told = json.loads(lines.getvalue())
    assert told["run_id"] == "r1" and "body" not in told


def test_exact_values_of_long_secrets_are_masked_in_encoded_json():
    """Short ones and numbers stay: they may stand there by chance, and a mask is no number."""
    made = Redactor()
    made.add_values(["long-enough-secret", "short", "123456789012345"])
    body = {"a": "xlong-enough-secretx", "b": "short", "c": 123456789012345, "password": "kept"}

    assert json.loads(made.mask_bytes(json.dumps(body).encode())) == body | {"a": f"x{MASK}x"}
