"""The results of pulls in; how many pulls may be outstanding, and how many messages each may request, out.

With one unary pull at a time there is one response per round trip, and Pub/Sub often returns a handful of messages although
thousands wait (https://github.com/googleapis/google-cloud-go/issues/8235). So the number of pulls is raised by one after each
pull that returns fewer messages than requested although messages have been waiting, that is, although all of them are old. A pull
that returns all that it requested, or nothing, shows that fewer pulls are enough.
"""

from __future__ import annotations

# A unary pull returns 1,000 messages at most: https://cloud.google.com/pubsub/quotas#resource_limits
PULL_MESSAGES = 1000
# Measured with a round trip of 50 ms, events per second with 1, 8 and 16 pulls outstanding: 1,800, 13,000 and 15,400 with 100
# messages per pull; 380, 2,800 and 5,000 with 20. Each pull is a thread, which costs nothing while it waits.
MOST_PULLS = 16
# Messages older than this, in seconds, have been waiting. A fast clock causes some small pulls, a slow one some delay.
WAITING_AGE = 0.5
# How many pulls live messages need depends on their rate, which is unknown. With too many, each returns a message or two at the
# cost of a full one. So the number is lowered slowly, by one in a thousand pulls.
_EASING = 0.001
# A pull can't be limited in bytes; it requests as many messages as are usually this part of the bound.
_PULLS_PER_BOUND = 8
_FORGETTING = 0.9


class Pace:
    """The pulls of one subscription, with at most ``messages`` messages and ``size`` bytes unread. Not thread-safe.

    The bound in messages always holds. The bound in bytes holds as long as messages are as large as the recent ones; if they have
    become larger, outstanding pulls may exceed it.
    """

    def __init__(self, messages: int, size: int) -> None:
        self.outstanding = 0
        self._level = 1.0
        self._messages = messages
        self._size = size
        self._asked = 0
        self._message_size = 0.0

    @property
    def wanted(self) -> int:
        """How many pulls should be outstanding if there is room."""
        return round(self._level)

    def ask(self, ready: int, ready_size: int) -> int:
        """How many messages another pull may request, given the outstanding and ``ready`` ones; 0: it must not be sent."""
        if self.outstanding >= self.wanted:
            return 0
        asked = self._share()
        messages, size = ready + self._asked + asked, ready_size + (self._asked + asked) * self._message_size
        fits = messages <= self._messages and size <= self._size
        return asked if fits or not (self.outstanding or ready) else 0

    def begin(self, asked: int) -> None:
        self.outstanding += 1
        self._asked += asked

    def end(self, asked: int, messages: int, size: int, youngest: float) -> None:
        """A pull that requested ``asked`` messages has returned ``messages``, with ``size`` bytes in total.

        ``youngest``: seconds since the last of them was published.
        """
        self.outstanding -= 1
        self._asked -= asked
        if messages:
            self._message_size = max(size / messages, self._message_size * _FORGETTING)
        if not 0 < messages < asked:
            self._level -= 1
        else:
            self._level += 1 if youngest > WAITING_AGE else -_EASING
        self._level = min(float(MOST_PULLS), max(1.0, self._level))

    def fail(self, asked: int) -> None:
        """A pull has failed: the next ones are sent one at a time."""
        self.outstanding -= 1
        self._asked -= asked
        self._level = 1.0

    def _share(self) -> int:
        share = min(PULL_MESSAGES, max(1, self._messages // self.wanted))
        if not self._message_size:
            return share
        return max(1, min(share, int(self._size / max(_PULLS_PER_BOUND, self.wanted) / self._message_size)))
