"""What pulls bring in; how many may be outstanding, and how many messages each may ask for, out.

One unary pull at a time brings one response per round trip, and Pub/Sub often answers with a handful though thousands wait
(https://github.com/googleapis/google-cloud-go/issues/8235). So one more is outstanding after each pull that brings less than it
asked for although messages have been waiting: all that it brings are older than live ones. One that brings all that it asked for
shows that fewer will do, and so does one that brings nothing.
"""

from __future__ import annotations

# A unary pull returns 1,000 messages at most: https://cloud.google.com/pubsub/quotas#resource_limits
PULL_MESSAGES = 1000
# Measured at a round trip of 50 ms, events a second with 1, 8 and 16 pulls outstanding: 1,800, 13,000 and 15,400 at 100 messages
# a pull; 380, 2,800 and 5,000 at 20. Each is a thread, which costs nothing while it waits.
MOST_PULLS = 16
# Messages older than this, in seconds, have been waiting. A clock that is fast costs some small pulls, a slow one some time.
WAITING_AGE = 0.5
# Live messages need as many pulls as their rate asks for, which nothing tells; of too many, each brings a message or two for the
# price of a whole one. So the number is let down slowly, by one in a thousand pulls.
_EASING = 0.001
# A pull can't be bounded in bytes; it asks for as many messages as usually make this part of the bound.
_PULLS_PER_BOUND = 8
_FORGETTING = 0.9


class Pace:
    """The pulls of one subscription, of which ``messages`` and ``size`` bytes at most are to be held unread. Not thread-safe.

    The bound in messages is kept whatever comes. The bound in bytes is kept while messages are as large as those that came
    lately; where they have grown, pulls that are outstanding may bring more.
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
        """How many pulls are to be outstanding where there is room."""
        return round(self._level)

    def ask(self, ready: int, ready_size: int) -> int:
        """How many messages another pull may ask for beside what is outstanding and ``ready``; 0 where it must not go out."""
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
        """A pull that asked for ``asked`` messages has brought ``messages`` of ``size`` bytes in all.

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
        """A pull has failed: the next ones go out one at a time."""
        self.outstanding -= 1
        self._asked -= asked
        self._level = 1.0

    def _share(self) -> int:
        share = min(PULL_MESSAGES, max(1, self._messages // self.wanted))
        if not self._message_size:
            return share
        return max(1, min(share, int(self._size / max(_PULLS_PER_BOUND, self.wanted) / self._message_size)))
