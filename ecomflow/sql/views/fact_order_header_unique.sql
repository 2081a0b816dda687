-- Shows each event's rows once, as last written. Pub/Sub delivers at least once, and a crash between writing and acknowledging
-- writes rows again. The rows of one delivery have one ingestion_timestamp in every table of the event type: the latest delivery
-- is shown, whole, also where an event came again with other content. PARTITION BY includes order_date, although event_id
-- alone identifies the event: a filter on order_date in a query on this view can then be pushed below the window, so that
-- BigQuery reads only the requested partitions.
CREATE OR REPLACE VIEW ecomflow.fact_order_header_unique
OPTIONS (description = "One row for each order event, without its items, each once when a message was delivered twice.")
AS
SELECT *
FROM ecomflow.fact_order_header
WHERE TRUE
QUALIFY ROW_NUMBER() OVER (PARTITION BY order_date, event_id ORDER BY ingestion_timestamp DESC) = 1;
