-- Each event's rows once, the first that was written: Pub/Sub delivers at least once, and a crash between writing and acknowledging
-- writes rows again. order_date stands in PARTITION BY though event_id alone would identify the event: a filter on order_date of a query
-- over this view can then pass the window, so that BigQuery reads only the partitions that it asks for.
CREATE OR REPLACE VIEW ecomflow.fact_order_header_unique
OPTIONS (description = "One row for each order event, without its items, each once when a message was delivered twice.")
AS
SELECT *
FROM ecomflow.fact_order_header
WHERE TRUE
QUALIFY ROW_NUMBER() OVER (PARTITION BY order_date, event_id ORDER BY ingestion_timestamp) = 1;
