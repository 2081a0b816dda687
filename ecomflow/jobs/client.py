"""Calls to the Dataflow Jobs API through Google's client, with its errors translated.

Each call is retried while the service is busy, for a limited time, so that every command ends within seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import datetime
from functools import partial
from typing import Any

from google.api_core.exceptions import Conflict, FailedPrecondition
from google.api_core.retry import Retry

from ecomflow.errors import EcomflowError, NotFoundError, PipelineError
from ecomflow.gcp.errors import google_errors, is_missing, is_transient, message_of
from ecomflow.gcp.target import Target

_GOOGLE_PATIENCE_SECONDS = 20.0
_STUB_PATIENCE_SECONDS = 2.0
_PAGE = 1000
_AT_ONCE = 8


class JobsApi:
    """Dataflow's jobs in one region of one project. Every method raises failures as EcomflowError."""

    def __init__(self, target: Target) -> None:
        from google.cloud import dataflow_v1beta3 as dataflow

        self.project, self.region = target.settings.project_id, target.settings.region
        self._types = dataflow
        self._service = target.dataflow_service
        self._place = {"project_id": self.project, "location": self.region}
        patience = _GOOGLE_PATIENCE_SECONDS if target.endpoints.dataflow is None else _STUB_PATIENCE_SECONDS
        retry = Retry(predicate=is_transient, initial=0.25, maximum=4.0, timeout=patience)
        self._options: dict[str, Any] = {"retry": retry, "timeout": patience}
        with self._errors("Dataflow"):
            self._jobs, self._messages, self._metrics = target.dataflow

    def jobs(self, name: str | None = None) -> list[Any]:
        """The summaries of all jobs, or of those named ``name``, in the service's order.

        A summary has only id, name, type, state and times, whichever view is requested, and in particular no labels.
        https://cloud.google.com/dataflow/docs/reference/rest/v1b3/projects.locations.jobs/list
        """
        request = self._types.ListJobsRequest(**self._place, name=name, page_size=_PAGE)
        with self._errors(f"the jobs of {self.project} in {self.region}"):
            found = list(self._jobs.list_jobs(request=request, **self._options))
        return [job for job in found if name is None or job.name == name]

    def described(self, jobs: Sequence[Any]) -> list[Any]:
        """``jobs`` with their labels, which a list does not have: one request each, in parallel."""
        with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
            return list(pool.map(self._described, jobs))

    def _described(self, job: Any) -> Any:
        try:
            return self.job(job.id, "JOB_VIEW_DESCRIPTION")
        except NotFoundError:  # deleted since the listing
            return job

    def job(self, job_id: str, view: str = "JOB_VIEW_ALL") -> Any:
        """A job, with the description of its steps once it runs; ``view`` limits what is returned."""
        request = self._types.GetJobRequest(**self._place, job_id=job_id, view=self._types.JobView[view])
        with self._errors(f"job {job_id}"):
            return self._jobs.get_job(request=request, **self._options)

    def request_state(self, job_id: str, state: str) -> None:
        """Request that the job is drained or cancelled."""
        wanted = self._types.Job(requested_state=self._types.JobState[f"JOB_STATE_{state.upper()}"])
        request = self._types.UpdateJobRequest(**self._place, job_id=job_id, job=wanted)
        with self._errors(f"job {job_id}"):
            self._jobs.update_job(request=request, **self._options)

    def messages(self, job_id: str, level: str, since: datetime | None) -> tuple[list[Any], list[Any]]:
        """The job's messages of ``level`` and above, oldest first, and its autoscaling events; both from ``since`` on."""
        minimum = self._types.JobMessageImportance[f"JOB_MESSAGE_{level.upper()}"]
        request = self._types.ListJobMessagesRequest(
            **self._place, job_id=job_id, minimum_importance=minimum, start_time=since, page_size=_PAGE
        )
        with self._errors(f"job {job_id}"):
            pages = list(self._messages.list_job_messages(request=request, **self._options).pages)
        return [m for page in pages for m in page.job_messages], [e for page in pages for e in page.autoscaling_events]

    def metrics(self, job_id: str) -> list[Any]:
        """Every metric of the job, as last reported."""
        request = self._types.GetJobMetricsRequest(**self._place, job_id=job_id)
        with self._errors(f"job {job_id}"):
            return list(self._metrics.get_job_metrics(request=request, **self._options).metrics)

    def _errors(self, resource: str) -> AbstractContextManager[None]:
        return google_errors(self._service, resource, decide=partial(self._about_a_job, resource))

    def _about_a_job(self, resource: str, cause: Exception) -> EcomflowError | None:
        """Errors that say something about the job: it is not in this region, or its state does not allow the change."""
        if is_missing(cause):
            sentence = f"{resource[0].upper()}{resource[1:]} does not exist in {self.project}, {self.region}."
            return NotFoundError(sentence, "See: ecomflow job list --all. For another region, use --region")
        if isinstance(cause, Conflict | FailedPrecondition) or _is_precondition(cause):
            return PipelineError(f"Dataflow refuses to change {resource}: {message_of(cause)}", "See: ecomflow job status")
        return None


def _is_precondition(error: Exception) -> bool:
    """Over REST a failed precondition is a plain 400; only the body distinguishes it from a malformed request."""
    response = getattr(error, "response", None)
    return response is not None and getattr(response, "status_code", 0) == 400 and "FAILED_PRECONDITION" in response.text
