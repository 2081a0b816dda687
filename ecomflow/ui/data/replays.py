"""Replays on the page: a filter of dead letters in; the preview, and after confirmation the result, out.

The confirmation applies to the plan that was shown, and does not evaluate the filter again, so only events that were shown are
published.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import msgspec

from ecomflow.deadletters.store import DeadLetterFilter
from ecomflow.errors import EcomflowError, NotFoundError, PipelineError
from ecomflow.gcp.target import Target
from ecomflow.ui.data.readings import unexpected

if TYPE_CHECKING:
    from ecomflow.deadletters.replay import ReplayPlan, ReplaySummary

_KEPT = 20

Stage = Literal["planning", "planned", "publishing", "done", "failed"]


class Replay(msgspec.Struct, frozen=True):
    """A replay. ``count``: objects read so far while planning, events published so far while publishing."""

    id: str
    selected: DeadLetterFilter
    stage: Stage
    count: int = 0
    plan: ReplayPlan | None = None
    summary: ReplaySummary | None = None
    error: EcomflowError | None = None


class Replays:
    """The replays of one server. Each runs in its own thread, and only one publishes at a time."""

    def __init__(self, target: Callable[[], Target]) -> None:
        self._target = target
        self._known: OrderedDict[str, Replay] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, replay_id: str) -> Replay:
        """Raises NotFoundError for an unknown or forgotten replay."""
        with self._lock:
            if replay_id in self._known:
                return self._known[replay_id]
        raise NotFoundError("This replay no longer exists.", "Request its preview again.")

    def preview(self, selected: DeadLetterFilter) -> Replay:
        """Start the preview of a replay of ``selected``. Changes nothing."""
        made = Replay(secrets.token_urlsafe(12), selected, "planning")
        with self._lock:
            self._known[made.id] = made
            idle = [key for key, one in self._known.items() if one.stage != "publishing"]
            for key in idle[: max(0, len(self._known) - _KEPT)]:
                del self._known[key]
        self._begin(self._plan, made)
        return made

    def confirm(self, replay_id: str) -> Replay:
        """Start publishing what the preview showed. Raises NotFoundError, and PipelineError if it can't start now."""
        with self._lock:
            found = self._known.get(replay_id)
            if found is None:
                raise NotFoundError("This replay no longer exists.", "Request its preview again.")
            if any(one.stage == "publishing" for one in self._known.values()):
                raise PipelineError("Another replay is running.", "Wait until it has ended.")
            if found.stage != "planned" or found.plan is None or not found.plan.passing:
                raise PipelineError("There is nothing to replay, or it was already replayed.", "Request the preview again.")
            started = self._known[replay_id] = msgspec.structs.replace(found, stage="publishing", count=0)
        self._begin(self._publish, started)
        return started

    def _begin(self, work: object, replay: Replay) -> None:
        threading.Thread(target=self._run, args=(work, replay), daemon=True, name="replay").start()

    def _run(self, work: object, replay: Replay) -> None:
        assert callable(work)
        try:
            work(replay)
        except EcomflowError as error:
            self._update(replay.id, stage="failed", error=error)
        except Exception as error:  # noqa: BLE001  # shown on the page: nothing else handles errors of this thread
            self._update(replay.id, stage="failed", error=unexpected(error))

    def _plan(self, replay: Replay) -> None:
        from ecomflow.deadletters.replay import plan_replay

        plan = plan_replay(self._target(), replay.selected, on_progress=lambda count: self._update(replay.id, count=count))
        self._update(replay.id, stage="planned", plan=plan)

    def _publish(self, replay: Replay) -> None:
        from ecomflow.deadletters.replay import replay as publish_again

        assert replay.plan is not None
        summary = publish_again(self._target(), replay.plan, on_progress=lambda count: self._update(replay.id, count=count))
        self._update(replay.id, stage="done", summary=summary)

    def _update(self, replay_id: str, **changes: object) -> None:
        with self._lock:
            if replay_id in self._known:
                self._known[replay_id] = msgspec.structs.replace(self._known[replay_id], **changes)
