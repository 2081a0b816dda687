"""Message ordering: which messages of an ordering key may be delivered, and to which consumer.

The messages of an ordering key go to one consumer (a stream, or the batch of one unary pull), in order and without waiting for
acknowledgements, for as long as it holds any of them. An acknowledgement is final once all earlier messages of the key are
acknowledged too: if one of them is returned, it is redelivered with all later ones, as the service does
(https://cloud.google.com/pubsub/docs/ordering).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

from ecomflow.local.pubsub.log import Message
from ecomflow.local.pubsub.stream import Stream


class _Key:
    """An ordering key with messages that are outstanding, or delayed until ``delayed_until``."""

    def __init__(self, holder: Stream) -> None:
        self.holder = holder
        self.delivered: dict[str, Message] = {}  # by ack id, in order, until all up to it are acknowledged
        self.acknowledged: set[str] = set()  # those of ``delivered`` behind one that is not acknowledged
        self.behind: deque[Message] = deque()
        self.delayed_until = 0.0


class OrderingKeys:
    """The ordering keys of one subscription that are in use."""

    def __init__(self) -> None:
        self._keys: dict[str, _Key] = {}

    def next_of(self, consumer: Stream) -> deque[Message] | None:
        """The messages of a key that only ``consumer`` may take; None if there is no such key."""
        while consumer.keys:
            name = next(iter(consumer.keys))
            key = self._keys.get(name)
            if key is not None and key.holder is consumer and key.behind and not key.delayed_until:
                return key.behind
            del consumer.keys[name]
        return None

    def admit(self, message: Message, consumer: Stream) -> bool:
        """Whether ``consumer`` may take ``message``, the next one available; otherwise it is queued behind its key."""
        if not message.key:
            return True
        key = self._keys.get(message.key)
        if key is None:
            self._keys[message.key] = _Key(consumer)
            return True
        if key.holder is consumer and not key.behind and not key.delayed_until:
            return True
        key.behind.append(message)
        self._call_holder(message.key, key)
        return False

    def lease(self, ack_id: str, message: Message) -> None:
        if message.key:
            self._keys[message.key].delivered[ack_id] = message

    def release(self, ack_id: str, message: Message) -> None:
        if key := self._keys.get(message.key):
            key.delivered.pop(ack_id, None)

    def finished_by(self, acknowledged: Mapping[str, Message]) -> dict[str, Message]:
        """The messages, by ack id, whose acknowledgement is final once ``acknowledged`` are acknowledged."""
        finished = {ack_id: message for ack_id, message in acknowledged.items() if not message.key}
        for name in dict.fromkeys(message.key for message in acknowledged.values() if message.key):
            key = self._keys[name]
            for ack_id, message in key.delivered.items():
                if ack_id not in acknowledged and ack_id not in key.acknowledged:
                    break
                finished[ack_id] = message
        return finished

    def acknowledge(self, acknowledged: Mapping[str, Message], finished: Mapping[str, Message]) -> None:
        """Remove the messages ``finished``, and note which others are acknowledged."""
        for ack_id, message in acknowledged.items():
            if message.key:
                self._keys[message.key].acknowledged.add(ack_id)
        for ack_id, message in finished.items():
            if message.key:
                key = self._keys[message.key]
                del key.delivered[ack_id]
                key.acknowledged.remove(ack_id)

    def take_later_than(self, message: Message) -> list[tuple[str, Message]]:
        """Remove and return the delivered messages after ``message`` in its key, acknowledged or not, with their ack ids."""
        key = self._keys[message.key]
        later = [(ack_id, other) for ack_id, other in key.delivered.items() if other.id > message.id]
        for ack_id, _ in later:
            del key.delivered[ack_id]
            key.acknowledged.discard(ack_id)
        return later

    def put_back(self, name: str, messages: Iterable[Message], delayed_until: float = 0.0) -> None:
        """Queue ``messages``, which are no longer leased, before all others of the key ``name``."""
        key = self._keys[name]
        key.behind.extendleft(sorted(messages, key=_message_id, reverse=True))
        key.delayed_until = max(key.delayed_until, delayed_until)

    def end_delay(self, name: str, now: float) -> None:
        if (key := self._keys.get(name)) and key.delayed_until <= now:
            key.delayed_until = 0.0

    def free(self, name: str) -> Iterable[Message]:
        """The messages queued behind the key ``name`` once none of it is outstanding or delayed: any consumer may take them."""
        key = self._keys.get(name)
        if key is None or key.delayed_until:
            return ()
        if key.delivered:
            self._call_holder(name, key)
            return ()
        del self._keys[name]
        return key.behind

    def restart(self, leases: Iterable[tuple[str, Message, Stream | None]]) -> None:
        """Forget everything except the leases: ack ids, messages and the streams that hold them."""
        self._keys.clear()
        for ack_id, message, stream in leases:
            if message.key:
                self._keys.setdefault(message.key, _Key(stream or Stream())).delivered[ack_id] = message

    def _call_holder(self, name: str, key: _Key) -> None:
        if key.behind and not key.delayed_until:
            key.holder.keys[name] = None
            key.holder.wake()


def _message_id(message: Message) -> int:
    return message.id
