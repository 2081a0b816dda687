CREATE TABLE IF NOT EXISTS ecomflow.fact_order_item (
  event_id            STRING NOT NULL    OPTIONS (description = "The producer's own id of the event, or else the Pub/Sub message id; the same for each delivery."),
  order_id            STRING NOT NULL    OPTIONS (description = "The order; several events may carry it, one for each change of status."),
  line_number         INT64 NOT NULL     OPTIONS (description = "The position of the item in the order, from 1; together with event_id it identifies the row."),
  product_id          STRING NOT NULL    OPTIONS (description = "The product sold."),
  product_name        STRING NOT NULL    OPTIONS (description = "The product's name at the time of the order."),
  quantity            INT64 NOT NULL     OPTIONS (description = "Pieces of the product, 1 or more."),
  price               NUMERIC NOT NULL   OPTIONS (description = "Price of one piece, 0 or more."),
  total_amount        NUMERIC NOT NULL   OPTIONS (description = "Total of this line: quantity x price."),
  order_date          DATE NOT NULL      OPTIONS (description = "UTC date of order_timestamp."),
  order_timestamp     TIMESTAMP NOT NULL OPTIONS (description = "When the order event happened, as the producer stated it, in UTC."),
  ingestion_timestamp TIMESTAMP DEFAULT CURRENT_TIMESTAMP() NOT NULL OPTIONS (description = "When the pipeline wrote the row (UTC).")
)
PARTITION BY order_date
CLUSTER BY product_id
OPTIONS (description = "One row for each item of an order event.");
