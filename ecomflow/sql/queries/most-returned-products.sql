-- Question: Which products are returned the most?
-- Counts: Each return event once; returned_items is their net quantity, so that a negative correction takes back an earlier return.
-- Reads: fact_inventory (partition event_date: every day; cluster product_id, reason)
-- Chart: returns
SELECT
  product_id,
  COUNT(*) AS returns,
  SUM(quantity_change) AS returned_items
FROM ecomflow.fact_inventory_unique
WHERE reason = 'return'
GROUP BY product_id
ORDER BY returns DESC, returned_items DESC, product_id;
