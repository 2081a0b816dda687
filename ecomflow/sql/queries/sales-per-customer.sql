-- Question: How many orders did each customer place, and what revenue did they bring?
-- Counts: Each order once, at its latest event; gross, and summed over lines, so that it adds up to sales-per-product.
-- Reads: fact_order (partition order_date: every day; cluster customer_id, order_id)
-- Chart: revenue
WITH latest AS (
  SELECT *
  FROM ecomflow.fact_order_unique
  WHERE TRUE
  -- All lines of the order's latest event. Lines of one event may have been written at different times, so the event is chosen, not a rank.
  QUALIFY event_id = FIRST_VALUE(event_id) OVER (
    PARTITION BY order_id ORDER BY order_timestamp DESC, ingestion_timestamp DESC, event_id DESC
  )
)
SELECT
  customer_id,
  -- Any name that the customer gave: MAX passes over the missing ones and always gives the same.
  MAX(customer_name) AS customer_name,
  COUNT(DISTINCT order_id) AS orders,
  SUM(total_amount) AS revenue
FROM latest
GROUP BY customer_id
ORDER BY revenue DESC, customer_id;
