-- Question: How has each product's stock moved so far, and how much of it was sold?
-- Counts: Each movement once; each order once, at its latest event, gross. Products with movements only or sales only show with 0.
-- Reads: fact_order_item (partition order_date: every day; cluster product_id), fact_inventory (partition event_date: every day; cluster product_id, reason)
-- Chart: stock_movement
WITH movements AS (
  SELECT
    product_id,
    SUM(quantity_change) AS stock_movement
  FROM ecomflow.fact_inventory_unique
  GROUP BY product_id
),
latest AS (
  SELECT *
  FROM ecomflow.fact_order_item_unique
  WHERE TRUE
  -- All lines of the order's latest event. Lines of one event may have been written at different times, so the event is chosen, not a rank.
  QUALIFY event_id = FIRST_VALUE(event_id) OVER (
    PARTITION BY order_id ORDER BY order_timestamp DESC, ingestion_timestamp DESC, event_id DESC
  )
),
sales AS (
  SELECT
    product_id,
    SUM(quantity) AS items_sold,
    SUM(total_amount) AS revenue
  FROM latest
  GROUP BY product_id
)
-- Both sides are one row a product before they meet: joining the facts themselves would multiply movements by sales.
SELECT
  product_id,
  COALESCE(movements.stock_movement, 0) AS stock_movement,
  COALESCE(sales.items_sold, 0) AS items_sold,
  COALESCE(sales.revenue, 0) AS revenue
FROM movements
FULL JOIN sales USING (product_id)
ORDER BY product_id;
