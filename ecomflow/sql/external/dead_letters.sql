-- The dead letters in the bucket, as an external table: nothing is copied, and a query reads every object. Replayed dead letters are under
-- replayed/ and not included. Users need roles/storage.objectViewer on the bucket.
CREATE OR REPLACE EXTERNAL TABLE ecomflow.dead_letters (
  reason STRING,
  error STRING,
  event_type STRING,
  event_id STRING,
  message_id STRING,
  publish_time TIMESTAMP,
  attributes JSON,
  payload STRING,
  payload_encoding STRING,
  failed_at TIMESTAMP,
  pipeline_version STRING,
  ordering_key STRING,
  traceback STRING
)
OPTIONS (
  format = "NEWLINE_DELIMITED_JSON",
  uris = ["gs://BUCKET/dlq/*"],
  ignore_unknown_values = TRUE,
  description = "One row for each refused message, read from the bucket: why it was refused, and the original."
);
