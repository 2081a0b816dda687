-- Question: How many orders were delivered in each country on one day?
-- Counts: Each order once, however many delivered events it sent; an order that was returned later stays delivered on its day.
-- Parameter: date DATE = today (order_date of the delivered event, UTC)
-- Reads: fact_order_header (partition order_date: one day; cluster shipping_address_country, status)
-- Chart: delivered_orders
SELECT
  shipping_address_country,
  COUNT(DISTINCT order_id) AS delivered_orders
FROM ecomflow.fact_order_header_unique
WHERE order_date = @date AND status = 'delivered'
GROUP BY shipping_address_country
ORDER BY delivered_orders DESC, shipping_address_country;
