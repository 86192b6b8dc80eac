"""Does a client come in only with the right password, said at the right time and in the right form?"""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantproxy.errors import InvalidCredentials, ProtocolError
from tenantproxy.wire.answers import AUTHENTICATION_CLEARTEXT, AUTHENTICATION_SCRAM
from tenantproxy.wire.client_auth import MAX_PASSWORD, MAX_SASL, ClientAuth, Message, Step, Verdict
from tenantproxy.wire.frames import HEADER, PASSWORD, frame
from tenantproxy.wire.scram import ClientExchange, Verifier
from tests.support.fuzzing import IS_TRIED

VERIFIER = Verifier.of_password("pencil", iterations=1)
NOBODYS = Verifier(1, b"salt", bytes(32), bytes(32))


def initial(first: bytes, mechanism: bytes = b"SCRAM-SHA-256") -> bytes:
    return mechanism + b"\0" + struct.pack("!I", len(first)) + first


def scram(verifier: Verifier = VERIFIER) -> ClientAuth:
    return ClientAuth("scram-sha-256", verifier, user=b"billing")


def answered(auth: ClientAuth, password: str = "pencil") -> Step:
    """The end of an exchange with a client that knows this password."""
    client = ClientExchange(password)
    begun = auth.feed(initial(client.first()))
    assert begun.verdict is Verdict.MORE
    end = auth.feed(client.final(begun.send[HEADER + 4 :]))
    client.verify(end.send[HEADER + 4 :])
    return end


def test_the_right_password_is_proven_without_being_said() -> None:
    auth = scram()
    assert auth.challenge == AUTHENTICATION_SCRAM
    end = answered(auth)
    assert end.verdict is Verdict.PROVEN
    assert end.send[:1] == b"R"


@pytest.mark.parametrize("verifier", [VERIFIER, NOBODYS])
def test_a_wrong_password_and_an_unknown_user_get_the_same_answers(verifier: Verifier) -> None:
    auth = scram(verifier)
    client = ClientExchange("pencils")
    begun = auth.feed(initial(client.first()))
    with pytest.raises(InvalidCredentials) as caught:
        auth.feed(client.final(begun.send[HEADER + 4 :]))
    assert str(caught.value) == 'password authentication failed for user "billing"'
    assert caught.value.sqlstate == "28P01"


def test_nothing_is_taken_after_it_is_over() -> None:
    done, failed = scram(), scram()
    answered(done)
    with pytest.raises(ProtocolError):
        failed.feed(b"nonsense")
    for auth in (done, failed):
        with pytest.raises(ProtocolError, match="over"):
            auth.feed(initial(b"n,,n=,r=abc"))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"pencil\0",
        initial(b"n,,n=,r=abc", b"SCRAM-SHA-256-PLUS"),
        initial(b"n,,n=,r=abc", b"PLAIN"),
        b"SCRAM-SHA-256\0\xff\xff\xff\xff",
        b"SCRAM-SHA-256\0\0\0\0\xffn,,n=,r=abc",
        b"SCRAM-SHA-256\0\0\0\0\x01n,,n=,r=abc",
        b"SCRAM-SHA-256\0\0\0",
        initial(b""),
        initial(b"n,,n=,r=" + b"x" * MAX_SASL),
    ],
)
def test_a_malformed_initial_response_is_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        scram().feed(payload)


def test_a_verifier_is_needed() -> None:
    with pytest.raises(ValueError, match="verifier"):
        ClientAuth("scram-sha-256")


# --- cleartext --------------------------------------------------------------------------------------------------------
def test_a_token_is_handed_out_and_not_shown() -> None:
    auth = ClientAuth("cleartext", user=b"jwt")
    assert auth.challenge == AUTHENTICATION_CLEARTEXT
    step = auth.feed(b"e30.e30.x\0")
    assert (step.verdict, step.password) == (Verdict.PASSWORD, "e30.e30.x")
    assert "e30" not in repr(step)
    assert "e30" not in repr(Message(b"e30", 8))


def test_a_cleartext_password_is_handed_out_to_be_held_against_the_verifier() -> None:
    auth = ClientAuth("cleartext", VERIFIER, user=b"app")
    step = auth.feed(b"pencil\0")
    assert (step.verdict, step.password, auth.verifier) == (Verdict.CHECK, "pencil", VERIFIER)
    assert '"app"' in str(auth.refusal())


@pytest.mark.parametrize("payload", [b"\0", b"\xff\0"])
def test_an_empty_password_and_one_that_is_no_text_are_wrong(payload: bytes) -> None:
    with pytest.raises(InvalidCredentials):
        ClientAuth("cleartext").feed(payload)


@pytest.mark.parametrize("payload", [b"", b"pencil", b"pencil\0\0", b"pen\0cil\0", b"x" * MAX_PASSWORD + b"\0"])
def test_a_password_that_does_not_end_where_it_should_is_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        ClientAuth("cleartext").feed(payload)


# --- messages ---------------------------------------------------------------------------------------------------------
def test_a_message_is_read_and_what_stands_behind_it_is_left() -> None:
    message = frame(PASSWORD, b"token\0")
    read = ClientAuth("cleartext").read(bytearray(message) + b"Q\0\0")
    assert read == Message(b"token\0", len(message))


@pytest.mark.parametrize("length", [0, 3, MAX_SASL + 5, 65_536, 2**31 - 1, 2**31, 2**32 - 1])
def test_an_impossible_length_is_refused_before_anything_more_is_read(length: int) -> None:
    with pytest.raises(ProtocolError, match="impossible length"):
        scram().read(b"p" + struct.pack("!I", length))


@pytest.mark.parametrize("kind", [b"Q", b"P", b"X", b"\0", b"\xff"])
def test_any_other_message_is_refused_by_its_first_byte(kind: bytes) -> None:
    with pytest.raises(ProtocolError, match="expected a password"):
        scram().read(kind)


def test_a_token_may_be_as_long_as_tokens_are() -> None:
    auth = ClientAuth("cleartext")
    read = auth.read(frame(PASSWORD, b"x" * (MAX_PASSWORD - 1) + b"\0"))
    assert read is not None
    assert len(auth.feed(read.payload).password) == MAX_PASSWORD - 1


@IS_TRIED
@given(st.binary(max_size=30), st.integers(0, 40))
def test_a_message_means_the_same_however_it_is_cut(payload: bytes, cut: int) -> None:
    message = frame(PASSWORD, payload)
    if cut < len(message):
        assert scram().read(message[:cut]) is None
    assert scram().read(message) == Message(payload, len(message))


@IS_TRIED
@given(st.binary(max_size=60))
def test_any_bytes_are_refused_by_a_documented_error(payload: bytes) -> None:
    for sent in (payload, initial(payload), initial(b"n,," + payload)):
        for auth in (scram(), ClientAuth("cleartext", VERIFIER)):
            try:
                auth.feed(sent)
                auth.feed(payload)
            except (ProtocolError, InvalidCredentials):
                pass
    try:
        scram().read(payload)
    except ProtocolError:
        pass


HASH = b"h" * 32


@pytest.mark.parametrize("binding", [HASH, b""])
def test_a_login_is_bound_to_the_certificate_where_both_sides_can(binding: bytes) -> None:
    auth = ClientAuth("scram-sha-256", VERIFIER, user=b"billing", binding=HASH)
    assert auth.challenge[HEADER + 4 :] == b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"
    client = ClientExchange("pencil", binding=binding)
    mechanism = b"SCRAM-SHA-256-PLUS" if binding else b"SCRAM-SHA-256"
    begun = auth.feed(initial(client.first(), mechanism))
    assert auth.feed(client.final(begun.send[HEADER + 4 :])).verdict is Verdict.PROVEN


def test_a_login_that_is_bound_to_another_certificate_is_refused() -> None:
    """A man in the middle shows the client one, and passes on what it says to us."""
    auth = ClientAuth("scram-sha-256", VERIFIER, user=b"billing", binding=HASH)
    client = ClientExchange("pencil", binding=b"x" * 32)
    begun = auth.feed(initial(client.first(), b"SCRAM-SHA-256-PLUS"))
    with pytest.raises(ProtocolError, match="channel binding"):
        auth.feed(client.final(begun.send[HEADER + 4 :]))


@pytest.mark.parametrize(
    ("binding", "mechanism", "first"),
    [
        (HASH, b"SCRAM-SHA-256", b"y,,n=,r=abcdefgh"),  # it did not see the offer: a downgrade
        (HASH, b"SCRAM-SHA-256", b"p=tls-server-end-point,,n=,r=abcdefgh"),
        (HASH, b"SCRAM-SHA-256-PLUS", b"n,,n=,r=abcdefgh"),
        (HASH, b"SCRAM-SHA-256-PLUS", b"p=tls-unique,,n=,r=abcdefgh"),
        (b"", b"SCRAM-SHA-256-PLUS", b"p=tls-server-end-point,,n=,r=abcdefgh"),
    ],
)
def test_what_a_client_says_of_the_channel_must_fit_what_was_offered(
    binding: bytes, mechanism: bytes, first: bytes
) -> None:
    auth = ClientAuth("scram-sha-256", VERIFIER, user=b"billing", binding=binding)
    with pytest.raises(ProtocolError):
        auth.feed(initial(first, mechanism))
