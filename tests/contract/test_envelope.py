# ruff: noqa: E501  # messages stand on a line
"""Where type, id, version and body stand: CloudEvents in both modes, attributes, bodies within a document, and what is refused."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecomflow.contract.codec import Codec
from ecomflow.contract.envelope import CLOUDEVENTS, ECOMFLOW, Envelope, EnvelopeSettings, read_envelope, to_message
from ecomflow.contract.events import Message
from ecomflow.contract.language import Contract
from ecomflow.contract.loading import load_text, mistakes_between
from ecomflow.contract.nesting import MAX_DEPTH
from ecomflow.errors import ConfigError
from tests.support.any_contract import contracts, objects
from tests.support.compiled import SHOP, compiled, only_letter
from tests.support.contract import NOW, Body, encoded, message, number, order, property_test
from tests.support.rebuilding import canonical, encode, rebuilt
from tests.support.two_versions import first, second

CREATED = """
event = "order_created"
type = "com.example/orders.created"
time = "at"
[fields]
at = "timestamp"
id = "string"
amount = { type = "numeric", min = 0 }
email = { type = "string", optional = true, personal = true }
[[tables]]
name = "fact_order_created"
"""
STRUCTURED = {"content-type": "application/cloudevents+json; charset=utf-8"}


def created(changes: tuple[str, str] = ("", "")) -> Contract:
    return load_text(CREATED.replace(*changes), "order_created.toml")


def data(**changes: Any) -> Body:
    return {"at": "2025-12-01T10:15:30Z", "id": "O-1", "amount": number("19.90"), **changes}


def cloud_event(**changes: Any) -> Body:
    return {
        "specversion": "1.0",
        "type": "com.example/orders.created",
        "source": "/shop",
        "id": "E-1",
        "time": "2025-12-01T10:15:30Z",
        "datacontenttype": "application/json",
        "data": data(),
        **changes,
    }


def structured(message_id: str = "M-1", **changes: Any) -> Message:
    return message({key: part for key, part in cloud_event(**changes).items() if part is not ...}, message_id, **STRUCTURED)


def binary(body: Any, message_id: str = "M-1", **changes: str) -> Message:
    attributes = {"ce-specversion": "1.0", "ce-type": "com.example/orders.created", "ce-source": "/shop", "ce-id": "E-2"}
    return Message(encoded(body), {**attributes, "content-type": "application/json", **changes}, message_id, 0)


def codec_of(envelope: Envelope = CLOUDEVENTS, *more: Contract) -> Codec:
    return Codec([created(), *more], envelope)


def rows(messages: list[Message], codec: Codec) -> list[tuple[Any, ...]]:
    """Id of the event, id of the order and unknown fields of each row; nothing is refused."""
    outcome = compiled(messages, codec)
    assert [letter.error for letter in outcome.letters] == []
    return [(row["event_id"], row["id"], row["unknown_fields"]) for row in outcome.rows["fact_order_created"]]


def error(one: Message, codec: Codec) -> str:
    return str(only_letter(compiled([one], codec)).error)


class TestCloudEvents:
    def test_structured(self) -> None:
        """The body is data; whatever else stands beside it is the envelope's."""
        codec = codec_of()
        for _ in range(2):
            assert rows([structured(subject="x", comexampleextension={"a": 1})], codec) == [("E-1", "O-1", None)]

    def test_binary(self) -> None:
        """The body is the whole data, the rest stands in attributes."""
        assert rows([binary(data())], codec_of()) == [("E-2", "O-1", None)]

    def test_both_in_one_batch(self) -> None:
        """In the order of the messages, with what either does not name."""
        messages = [
            structured("M-1", data=data(new=1)),
            binary(data(id="O-2")),
            structured("M-3", id="E-3", data=data(id="O-3")),
            binary(data(id="O-4", new={"a": [1.50]}), **{"ce-id": "E-4"}),
        ]
        codec = codec_of()
        for _ in range(2):
            assert rows(messages, codec) == [
                ("E-1", "O-1", '{"new":1}'),
                ("E-2", "O-2", None),
                ("E-3", "O-3", None),
                ("E-4", "O-4", '{"new":{"a":[1.5]}}'),
            ]

    @pytest.mark.parametrize(
        ("attributes", "is_structured"),
        [
            ({}, True),
            ({"Content-Type": "application/cloudevents+json"}, True),
            ({"content-type": "application/json"}, True),
            ({"content-type": "application/cloudevents+json", "ce-type": "other", "ce-id": "other"}, True),
            ({"ce-type": "com.example/orders.created"}, False),
            ({"ce-type": "com.example/orders.created", "Content-Type": "application/json"}, False),
        ],
    )
    def test_which_mode(self, attributes: dict[str, str], is_structured: bool) -> None:
        """As the content type says; without one of CloudEvents, ce-type says binary."""
        one = message(cloud_event() if is_structured else data(), "M-1", **attributes)
        assert rows([one], codec_of()) == [("E-1" if is_structured else "M-1", "O-1", None)]

    def test_data_in_base64(self) -> None:
        """JSON in base64 is read as if it stood there; what is wrong in it is told of data_base64."""
        codec = codec_of()

        def sent(body: Any) -> Message:
            return structured(data=..., data_base64=base64.b64encode(encoded(body)).decode())

        for _ in range(2):
            assert rows([sent(data(new=1))], codec) == [("E-1", "O-1", '{"new":1}')]
        assert error(sent(data(id=5)), codec) == "$.data_base64.id: expected str, got 5"
        assert error(sent(data(at="1999-01-01T00:00:00Z")), codec).startswith("$.data_base64.at: expected a UTC date from ")
        assert error(sent(b"{"), codec).startswith("$.data_base64: expected a JSON object in UTF-8, got invalid JSON")
        assert (
            error(sent(b"[" * 600), codec)
            == f"$.data_base64: expected at most {MAX_DEPTH} levels of objects and arrays, got more"
        )
        assert error(structured(data=..., data_base64="%"), codec).endswith("base64, got a string that is no base64")
        assert error(structured(data=..., data_base64=7), codec) == "$.data_base64: expected JSON in base64, got 7"

    @pytest.mark.parametrize(
        ("one", "reason", "sentence"),
        [
            (structured(data=data(id="")), "contract_violation", "$.data.id: expected str of length >= 1, got ''"),
            (structured(data=...), "contract_violation", "$.data: required, but missing"),
            (structured(data=None), "contract_violation", "$.data: expected object, got null"),
            (structured(data="{}"), "contract_violation", "$.data: expected object, got '{}'"),
            (
                structured(data=data(amount=-1)),
                "contract_violation",
                "$.data.amount: expected number >= 0 with at most 29 integer and 9 decimal digits, got -1",
            ),
            (
                structured(data=data(at="1999-01-01T00:00:00Z")),
                "out_of_range",
                "$.data.at: expected a UTC date from 2015-12-10 to 2026-12-10, got '1999-01-01T00:00:00Z'",
            ),
            (
                structured(data=data(email=7)),
                "contract_violation",
                "$.data.email: expected str | null, got a number that is personal and not shown",
            ),
            (
                structured(type="other"),
                "unknown_event_type",
                "$.type: expected one of com.example/orders.created, got 'other'",
            ),
            (
                structured(type=...),
                "unknown_event_type",
                "$.type: expected one of com.example/orders.created, but it is missing",
            ),
            (structured(type=7), "unknown_event_type", "$.type: expected one of com.example/orders.created, got 7"),
            (structured(id={"a": 1}), "contract_violation", "$.id: expected str | int | null, got object"),
            (message([cloud_event()], **STRUCTURED), "unknown_event_type", "$: expected an object, got array"),
            (binary(data(id=5)), "contract_violation", "$.id: expected str, got 5"),
            (binary([1]), "contract_violation", "$: expected object, got array"),
            (
                binary(data(), **{"ce-type": "other"}),
                "unknown_event_type",
                "$: expected the attribute ce-type to be one of com.example/orders.created, got 'other'",
            ),
        ],
    )
    def test_what_is_refused(self, one: Message, reason: str, sentence: str) -> None:
        """The path begins where the producer sees it; the dead letter holds the whole message and the producer's id."""
        letter = only_letter(compiled([one], codec_of()))
        assert (letter.reason, letter.error) == (reason, sentence)
        assert (letter.payload.encode(), letter.attributes) == (one.data, one.attributes)
        type_said = "other" if "'other'" in sentence else None
        assert letter.event_type == (type_said if reason == "unknown_event_type" else "order_created")
        id_said = None if "$.id: expected str | int" in sentence or "object, got array" in sentence else "E-1"
        assert letter.event_id == ("E-2" if "ce-id" in one.attributes else id_said)

    def test_what_is_malformed_is_known_by_its_attributes(self) -> None:
        """In binary mode the type is known however the data looks: the dead letter goes to the event's stream."""
        letters = compiled([binary(b"{"), message(b"{", **STRUCTURED)], codec_of()).letters
        assert [(one.reason, one.event_type, one.event_id) for one in letters] == [
            ("malformed_json", "order_created", "E-2"),
            ("malformed_json", None, None),
        ]

    @pytest.mark.parametrize("learned", [False, True])
    def test_bytes_that_are_no_utf8(self, learned: bool) -> None:
        """Wherever they stand, also where no decoder looks; the rest of the batch stays."""
        codec = codec_of()
        if learned:
            assert rows([structured(data=data(new="a"))], codec) == [("E-1", "O-1", '{"new":"a"}')]
        good = structured("M-0", subject="XX", data=data(new="YY"))
        spoilt = [Message(good.data.replace(old, b"\xff"), STRUCTURED, f"M-{n}", 0) for n, old in enumerate((b"XX", b"YY"), 1)]
        outcome = compiled([good, *spoilt, structured("M-3")], codec)
        assert [(one.message_id, one.reason) for one in outcome.letters] == [("M-1", "malformed_json"), ("M-2", "malformed_json")]
        assert outcome.sources["fact_order_created"] == ["M-0", "M-3"]

    def test_what_is_nested_too_deeply(self) -> None:
        """The bound is of the whole document."""
        deep = number("[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1))
        assert rows([binary(data(new=deep))], codec_of())[0][:2] == ("E-2", "O-1")
        letter = only_letter(compiled([structured(data=data(new=deep))], codec_of()))
        assert (letter.reason, letter.event_id) == ("malformed_json", "E-1")

    def test_versions(self) -> None:
        """The extension attribute eventversion, in either mode."""
        codec = Codec([first(), second()], CLOUDEVENTS)
        one = {"at": "2025-12-01T10:15:30Z", "id": "R-1", "amount": 1}
        two = {"at": "2025-12-01T10:15:30Z", "id": "R-2", "currency": "EUR", "note": "n", "lines": []}
        messages = [
            structured("M-1", type="refund", data=one),
            structured("M-2", type="refund", data=two, eventversion=2, id="E-2"),
            binary(two, "M-3", **{"ce-type": "refund", "ce-eventversion": "2", "ce-id": "E-3"}),
        ]
        outcome = compiled(messages, codec)
        assert [(row["event_id"], row["id"], row["currency"]) for row in outcome.rows["fact_refund"]] == [
            ("E-1", "R-1", None),
            ("E-2", "R-2", "EUR"),
            ("E-3", "R-2", "EUR"),
        ]
        assert error(structured(type="refund", eventversion="3"), codec) == "$.eventversion: expected one of 1, 2, got '3'"


class TestOtherPlaces:
    def test_the_type_in_an_attribute(self) -> None:
        """The body has no field of it: one called event_type is kept as any other."""
        codec = codec_of(read_envelope(EnvelopeSettings(type="attribute:eventType")))
        kind = {"eventType": "com.example/orders.created"}
        for _ in range(2):
            messages = [message(data(), "M-1", **kind, event_id="E-1"), message(data(event_type="x"), "M-2", **kind)]
            assert rows(messages, codec) == [("E-1", "O-1", None), ("M-2", "O-1", '{"event_type":"x"}')]
        assert error(message(data()), codec) == (
            "$: expected the attribute eventType to be one of com.example/orders.created, but it is missing"
        )
        assert error(message(data(id=1), **kind), codec) == "$.id: expected str, got 1"

    def test_a_body_within_the_document(self) -> None:
        """With the type in the body, the id beside it; numbers are ids as well."""
        codec = codec_of(read_envelope(EnvelopeSettings(type="$.payload.order.kind", id="$.meta.id", body="$.payload.order")))

        def sent(body: Any, meta: Any, message_id: str = "M-1") -> Message:
            return message({"meta": meta, "payload": {"order": body, "more": 1}}, message_id)

        kind = {"kind": "com.example/orders.created"}
        for _ in range(2):
            messages = [
                sent(data(**kind), {"id": 77}),
                sent(data(**kind, new=1), {}, "M-2"),
                sent(data(**kind), None, "M-3"),
                sent(data(**kind), {"id": ""}, "M-4"),
            ]
            assert rows(messages, codec) == [
                ("77", "O-1", None),
                ("M-2", "O-1", '{"new":1}'),
                ("M-3", "O-1", None),
                ("M-4", "O-1", None),
            ]
        assert error(sent(data(**kind, id=1), {"id": 77}), codec) == "$.payload.order.id: expected str, got 1"
        assert error(sent(data(), {"id": 77}), codec) == (
            "$.payload.order.kind: expected one of com.example/orders.created, but it is missing"
        )
        assert error(message({"payload": []}), codec).startswith("$.payload.order.kind: expected one of ")
        assert error(sent(data(**kind), {"id": 1.5}), codec) == "$.meta.id: expected str | int | null, got 1.5"
        assert only_letter(compiled([sent(data(**kind, id=1), {"id": 77})], codec)).event_id == "77"

    @pytest.mark.parametrize("field", ["", 'path = "topic", '])
    def test_another_key_of_the_body(self, field: str) -> None:
        """A contract may name the type's place as a field, too."""
        contract = created(('id = "string"', f'id = {{ type = "string", {field}optional = true }}'))
        codec = Codec([contract], read_envelope(EnvelopeSettings(type="$.topic")))
        outcome = compiled([message({**data(), "topic": "com.example/orders.created"})], codec)
        assert outcome.letters == []
        assert outcome.rows["fact_order_created"][0]["id"] == ("com.example/orders.created" if field else "O-1")

    def test_the_place_of_an_id_in_the_body(self) -> None:
        """It is no unknown field, and may be one of the contract."""
        codec = codec_of(read_envelope(EnvelopeSettings(id="$.event.id", type="$.event.type")))
        event = {"id": "E-9", "type": "com.example/orders.created"}
        assert rows([message(data(event=event))], codec) == [("E-9", "O-1", None)]
        assert rows([message(data(event={**event, "by": "x"}))], codec) == [("E-9", "O-1", '{"event":{"by":"x"}}')]
        codec = codec_of(read_envelope(EnvelopeSettings(id="$.id")))
        assert rows([message(data(event_type="com.example/orders.created"))], codec) == [("O-1", "O-1", None)]

    def test_unknown_fields_may_be_refused(self) -> None:
        """What the envelope names is known."""
        contract = created(("[fields]", 'unknown_fields = "refuse"\n[fields]'))
        codec = Codec([contract], read_envelope(EnvelopeSettings(type="$.meta.type", id="$.meta.id", version="$.v")))
        body = data(meta={"type": contract.type, "id": "E-1"}, v=1)
        assert compiled([message(body)], codec).rows["fact_order_created"][0]["event_id"] == "E-1"
        assert error(message({**body, "w": 1}), codec) == "$.w: expected no field that the contract does not name, got a number"

    def test_a_type_that_is_no_name(self) -> None:
        """What the envelope says is the type; streams, tables and dead letters have the event's name."""
        codec = Codec([created(), *SHOP])
        outcome = compiled(
            [message(data(event_type="com.example/orders.created")), message(order()), message(data(event_type="order_created"))],
            codec,
        )
        assert (outcome.sources["fact_order_created"], outcome.sources["fact_order_header"]) == (["M-1"], ["M-1"])
        (letter,) = outcome.letters
        assert letter.error == (
            "$.event_type: expected one of com.example/orders.created, order, inventory, user_activity, got 'order_created'"
        )


class TestTypes:
    def test_no_two_events_have_one(self) -> None:
        """Nor may a type be another event's name."""
        other = load_text(CREATED.replace("order_created", "other").replace('type = "com', 'type = "com'), "other.toml")
        assert mistakes_between([created(), other]) == [
            "other.toml: type: com.example/orders.created is already the type of order_created (order_created.toml)"
        ]

    def test_versions_of_an_event_share_it(self) -> None:
        """Else they would be two events."""
        other = created(("time =", "version = 2\ntime =")), created(('type = "com.example/orders.created"', 'type = "x"'))
        assert mistakes_between(other)[0].endswith("found 'com.example/orders.created'; use the same one, or another event")

    @pytest.mark.parametrize("text", ['""', '" x"', '"a\\nb"', '"' + "x" * 201 + '"', "7"])
    def test_no_type(self, text: str) -> None:
        """A sentence."""
        with pytest.raises(ConfigError, match=r"order_created\.toml: type: expected "):
            created(('"com.example/orders.created"', text))


class TestSettings:
    def test_presets(self) -> None:
        """The default is ours."""
        assert (read_envelope(EnvelopeSettings()), read_envelope(EnvelopeSettings("cloudevents"))) == (ECOMFLOW, CLOUDEVENTS)
        assert read_envelope(EnvelopeSettings(body="$", type="$.event_type", id="attribute:event_id")) == ECOMFLOW

    @pytest.mark.parametrize(
        ("given", "sentence"),
        [
            ({"preset": "cloudevent"}, "envelope.preset is 'cloudevent': expected one of ecomflow, cloudevents."),
            (
                {"preset": "cloudevents", "type": "$.t"},
                "envelope.type is set: preset cloudevents says itself where everything stands.",
            ),
            ({"type": "eventType"}, "envelope.type is 'eventType': expected attribute:<name>, or a path such as $.type."),
            ({"type": "$"}, "envelope.type is '$': expected attribute:<name>, or a path such as $.type."),
            ({"id": "attribute:"}, "envelope.id is 'attribute:': expected attribute:<name>, or a path such as $.id."),
            ({"id": "$.a..b"}, "envelope.id is '$.a..b': expected attribute:<name>, or a path such as $.id."),
            (
                {"body": "attribute:x"},
                "envelope.body is 'attribute:x': expected a path such as $.data, or $ for the whole message.",
            ),
            (
                {"type": "$.data", "body": "$.data"},
                "envelope.type is $.data: expected a place of its own, but envelope.body is there too.",
            ),
            (
                {"type": "$.a", "body": "$.a.b"},
                "envelope.type is $.a: expected a place of its own, but envelope.body is within it, at $.a.b.",
            ),
            ({"type": "$.a", "id": "$.a"}, "envelope.type is $.a: expected a place of its own, but envelope.id is there too."),
        ],
    )
    def test_mistakes(self, given: dict[str, str], sentence: str) -> None:
        """Each is a sentence; exit code 2."""
        with pytest.raises(ConfigError) as caught:
            read_envelope(EnvelopeSettings(**given))
        assert (caught.value.message, caught.value.exit_code) == (sentence, 2)


ENVELOPES = [
    ECOMFLOW,
    CLOUDEVENTS,
    CLOUDEVENTS.binary,
    read_envelope(EnvelopeSettings(type="attribute:t", version="attribute:v")),
    read_envelope(EnvelopeSettings(type="$.é.type", id="$.é.id", version="$.é.v", body="$.é.body")),
    read_envelope(EnvelopeSettings(type="$.data.of.type", id="$.id", version="$.data.of.v", body="$.data")),
    read_envelope(EnvelopeSettings(type="$.zz.type", id="$.zz.id", version="$.zz.v")),
    read_envelope(EnvelopeSettings(type="$.t", id="attribute:id")),
]


def reading(envelope: Envelope | None) -> Envelope:
    """Binary messages are read by the preset of both."""
    assert envelope is not None
    return CLOUDEVENTS if envelope == CLOUDEVENTS.binary else envelope


class TestWriter:
    @pytest.mark.slow
    @property_test(150)
    @given(st.data(), st.sampled_from(ENVELOPES))
    def test_what_is_written_is_read(self, draws: st.DataObject, envelope: Envelope) -> None:
        """Any document of any contract in any envelope: nothing is lost, and the id comes back."""
        contract = draws.draw(contracts())
        events = draws.draw(st.lists(objects(contract, contract.fields), min_size=1, max_size=3))
        codec = Codec([contract], reading(envelope))
        messages = [
            Message(*to_message(envelope, "any", f"E-{n}", None, encode({**event, "new": n})), f"M-{n}", 0)
            for n, event in enumerate(events)
        ]
        for _ in range(2):
            outcome = compiled(messages, codec)
            assert [letter.error for letter in outcome.letters] == []
            for index, event in enumerate(events):
                expected = canonical({**event, "event_type": "any", "new": index}, contract.fields, contract)
                assert rebuilt(outcome, contract, f"E-{index}") == expected

    @pytest.mark.parametrize("envelope", ENVELOPES)
    def test_versions(self, envelope: Envelope) -> None:
        """The version comes back, too."""
        codec = Codec([first(), second()], reading(envelope))
        body = encoded({"at": "2025-12-01T10:15:30Z", "id": "R-1", "currency": "EUR", "note": "n", "lines": []})
        outcome = compiled([Message(*to_message(envelope, "refund", "E-1", 2, body), "M-1", 0)], codec)
        assert outcome.letters == []
        (row,) = outcome.rows["fact_refund"]
        assert (row["event_id"], row["currency"], row["unknown_fields"]) == ("E-1", "EUR", None)

    def test_our_own(self) -> None:
        """The type first, the id and the version in attributes."""
        assert to_message(ECOMFLOW, "order", "E-1", 2, b'{"order_id":"O-1"}') == (
            b'{"event_type":"order","order_id":"O-1"}',
            {"event_id": "E-1", "event_version": "2"},
        )
        assert to_message(ECOMFLOW, "order", "E-1", None, b'{"event_type":"x"}') == (
            b'{"event_type":"order"}',
            {"event_id": "E-1"},
        )

    def test_a_cloud_event(self) -> None:
        """With what the specification requires."""
        written, attributes = to_message(CLOUDEVENTS, "a.b", "E-1", None, b'{"x": 1.50}')
        assert attributes == STRUCTURED
        assert written == b'{"specversion":"1.0","source":"/ecomflow","type":"a.b","id":"E-1","data":{"x": 1.50}}'
        assert CLOUDEVENTS.binary is not None
        assert to_message(CLOUDEVENTS.binary, "a.b", "E-1", None, b'{"x": 1.50}') == (
            b'{"x": 1.50}',
            {
                "content-type": "application/json",
                "ce-specversion": "1.0",
                "ce-source": "/ecomflow",
                "ce-type": "a.b",
                "ce-id": "E-1",
            },
        )


class TestIds:
    @pytest.mark.parametrize(
        ("one", "envelope", "expected"),
        [
            (message({}, event_id="E-1"), ECOMFLOW, "E-1"),
            (message({}), ECOMFLOW, None),
            (structured(), CLOUDEVENTS, "E-1"),
            (binary({}), CLOUDEVENTS, "E-2"),
            (structured(id=7), CLOUDEVENTS, "7"),
            (message(b"{"), CLOUDEVENTS, None),
        ],
    )
    def test_of_one_message(self, one: Message, envelope: Envelope, expected: str | None) -> None:
        """For a dead letter that some other step makes."""
        assert codec_of(envelope).event_id_of(one) == expected

    def test_of_one_that_was_replayed(self) -> None:
        """A message that says no id of its own has that of its first delivery, which a replay writes into its attributes."""
        first, own = structured("M-9", id=...), structured("M-3")
        replayed = [Message(one.data, {**one.attributes, "event_id": "M-2"}, one.message_id, 0) for one in (first, own)]
        (part,) = codec_of().decode(replayed, NOW).parts
        assert part.event_ids == ["M-2", "E-1"]
        assert [codec_of().event_id_of(one) for one in replayed] == ["M-2", "E-1"]

    def test_of_an_event_that_the_model_refuses(self) -> None:
        """The producer's own, or none."""
        bad = data(at="1999-01-01T00:00:00Z")
        letters = compiled([structured(data=bad), structured("M-2", data=bad, id=...)], codec_of()).letters
        assert [one.event_id for one in letters] == ["E-1", None]


LOOSE = """
event = "refund"
version = 1
time = "at"
[fields]
at = { type = "timestamp", path = "at" }
[[tables]]
name = "fact_refund"
"""


class TestTheSlowPathAgrees:
    @pytest.mark.slow
    @property_test(150)
    @given(st.data(), st.sampled_from([CLOUDEVENTS, *ENVELOPES[3:]]))
    def test_any_document(self, draws: st.DataObject, envelope: Envelope) -> None:
        """Whatever stands at the places of the envelope: what the fast path takes, the slow one reads as the same event."""
        strange = st.sampled_from(
            [None, "", "refund", "1", "2", 1, 2, 2**70, True, 1.5, [], {}, {"id": "x", "type": "refund", "v": 2}, {"a": "a"}]
        )
        keys = [
            "type",
            "id",
            "eventversion",
            "data",
            "data_base64",
            "t",
            "v",
            "é",
            "zz",
            "of",
            "body",
            "event_version",
            "at",
            "amount",
        ]
        document = draws.draw(st.dictionaries(st.sampled_from(keys), strange | st.dictionaries(st.sampled_from(keys), strange)))
        attributes = draws.draw(
            st.dictionaries(
                st.sampled_from(["t", "v", "ce-type", "ce-id", "event_version"]), st.sampled_from(["", "refund", "1", "2", "3"])
            )
        )
        contract = [load_text(text, "r.toml") for text in (LOOSE, LOOSE.replace("version = 1", "version = 2"))]
        codec = Codec(contract, envelope)
        one = message(json.dumps(document).encode(), "M-1", **attributes)
        outcome = codec.read(one)
        parts = codec.decode([one], NOW).parts
        letters = [letter.error for part in parts for letter in part.refused]
        ids = [event_id for part in parts for event_id in part.event_ids]
        if hasattr(outcome, "error"):
            assert letters == [outcome.error]
        else:
            assert (letters, ids) == ([], [outcome.event_id or "M-1"])
            assert [part.kind.contract.version for part in parts if part.kind] == [outcome.kind.contract.version]
