-- Question: How many orders, items and how much revenue did each product bring?
-- Counts: Each order once, at its latest event; gross: this table has no status, so cancelled and returned orders are in it.
-- Reads: fact_order_item (partition order_date: every day; cluster product_id)
-- Chart: revenue
WITH latest AS (
  SELECT *
  FROM ecomflow.fact_order_item_unique
  WHERE TRUE
  -- All lines of the order's latest event. Lines of one event may have been written at different times, so the event is chosen, not a rank.
  QUALIFY event_id = FIRST_VALUE(event_id) OVER (
    PARTITION BY order_id ORDER BY order_timestamp DESC, ingestion_timestamp DESC, event_id DESC
  )
)
SELECT
  product_id,
  MAX(product_name) AS product_name,
  COUNT(DISTINCT order_id) AS orders,
  SUM(quantity) AS items_sold,
  SUM(total_amount) AS revenue
FROM latest
GROUP BY product_id
ORDER BY revenue DESC, product_id;
