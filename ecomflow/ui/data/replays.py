"""A choice of dead letters in; what its replay would do, and, once confirmed, what it did, out.

What is confirmed is the plan that was shown, not the choice anew: nothing is published that nobody has seen.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Literal

import msgspec

from ecomflow.config import Settings, running_endpoints
from ecomflow.deadletters.store import DeadLetterFilter
from ecomflow.errors import EcomflowError, NotFoundError, PipelineError
from ecomflow.ui.data.readings import unexpected

if TYPE_CHECKING:
    from ecomflow.deadletters.replay import ReplayPlan, ReplaySummary

_KEPT = 20

Stage = Literal["planning", "planned", "publishing", "done", "failed"]


class Replay(msgspec.Struct, frozen=True):
    """A replay by its ``id``. ``count``: objects read so far while planning, events published so far while publishing."""

    id: str
    selected: DeadLetterFilter
    stage: Stage
    count: int = 0
    plan: ReplayPlan | None = None
    summary: ReplaySummary | None = None
    error: EcomflowError | None = None


class Replays:
    """The replays of one page. Each runs in a thread of its own, and one publishes at a time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._known: OrderedDict[str, Replay] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, replay_id: str) -> Replay:
        """Raises NotFoundError for one that is not known any more."""
        with self._lock:
            if replay_id in self._known:
                return self._known[replay_id]
        raise NotFoundError("This replay is not known any more.", "Ask for its preview again.")

    def preview(self, selected: DeadLetterFilter) -> Replay:
        """Begin to find out what a replay of ``selected`` would do. Changes nothing."""
        made = Replay(secrets.token_urlsafe(12), selected, "planning")
        with self._lock:
            self._known[made.id] = made
            idle = [key for key, one in self._known.items() if one.stage != "publishing"]
            for key in idle[: max(0, len(self._known) - _KEPT)]:
                del self._known[key]
        self._begin(self._plan, made)
        return made

    def confirm(self, replay_id: str) -> Replay:
        """Begin to publish what the preview showed. Raises NotFoundError, and PipelineError where it can't begin now."""
        with self._lock:
            found = self._known.get(replay_id)
            if found is None:
                raise NotFoundError("This replay is not known any more.", "Ask for its preview again.")
            if any(one.stage == "publishing" for one in self._known.values()):
                raise PipelineError("A replay is under way.", "Wait until it has ended.")
            if found.stage != "planned" or found.plan is None or not found.plan.passing:
                raise PipelineError("There is nothing to replay, or it was replayed already.", "Ask for a preview again.")
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
        except Exception as error:  # noqa: BLE001  # shown on the page: a thread has nobody else to tell
            self._update(replay.id, stage="failed", error=unexpected(error))

    def _plan(self, replay: Replay) -> None:
        from ecomflow.deadletters.replay import plan_replay

        endpoints = running_endpoints(self._settings)
        plan = plan_replay(
            self._settings, endpoints, replay.selected, on_progress=lambda count: self._update(replay.id, count=count)
        )
        self._update(replay.id, stage="planned", plan=plan)

    def _publish(self, replay: Replay) -> None:
        from ecomflow.deadletters.replay import replay as publish_again

        assert replay.plan is not None
        endpoints = running_endpoints(self._settings)
        summary = publish_again(
            self._settings, endpoints, replay.plan, on_progress=lambda count: self._update(replay.id, count=count)
        )
        self._update(replay.id, stage="done", summary=summary)

    def _update(self, replay_id: str, **changes: object) -> None:
        with self._lock:
            if replay_id in self._known:
                self._known[replay_id] = msgspec.structs.replace(self._known[replay_id], **changes)
