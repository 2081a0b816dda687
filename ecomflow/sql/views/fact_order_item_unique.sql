-- Shows each event's rows once, as first written. Pub/Sub delivers at least once, and a crash between writing and acknowledging
-- writes rows again. PARTITION BY includes order_date, although event_id alone identifies the event: a filter on order_date in a query on
-- this view can then be pushed below the window, so that BigQuery reads only the requested partitions.
CREATE OR REPLACE VIEW ecomflow.fact_order_item_unique
OPTIONS (description = "One row for each item of an order event, each once when a message was delivered twice.")
AS
SELECT *
FROM ecomflow.fact_order_item
WHERE TRUE
QUALIFY ROW_NUMBER() OVER (PARTITION BY order_date, event_id, line_number ORDER BY ingestion_timestamp) = 1;
