"""The pipeline's life after its start: seen, ended, replaced. On Dataflow (``service``, ``update``) or here (``local``)."""
