CREATE TABLE IF NOT EXISTS ecomflow.fact_order_header (
  event_id                 STRING NOT NULL    OPTIONS (description = "The producer's own id of the event, else the Pub/Sub message id; the same in each repeat."),
  order_id                 STRING NOT NULL    OPTIONS (description = "The order; several events may carry it, one for each change of status."),
  customer_id              STRING NOT NULL    OPTIONS (description = "The customer who ordered."),
  customer_name            STRING             OPTIONS (description = "The customer's name, where the producer sent one."),
  order_date               DATE NOT NULL      OPTIONS (description = "UTC date of order_timestamp."),
  order_timestamp          TIMESTAMP NOT NULL OPTIONS (description = "When the order event happened, as the producer stated it, in UTC."),
  status                   STRING NOT NULL    OPTIONS (description = "pending, processing, shipped, delivered, cancelled or returned."),
  shipping_address_street  STRING NOT NULL    OPTIONS (description = "Street and number of the shipping address."),
  shipping_address_city    STRING NOT NULL    OPTIONS (description = "City of the shipping address."),
  shipping_address_country STRING NOT NULL    OPTIONS (description = "Country of the shipping address."),
  total_amount             NUMERIC NOT NULL   OPTIONS (description = "Total of the order, as the producer stated it."),
  unknown_fields           JSON               OPTIONS (description = "What the event holds beside the fields of its contract, as it came; null where there is nothing."),
  ingestion_timestamp      TIMESTAMP DEFAULT CURRENT_TIMESTAMP() NOT NULL OPTIONS (description = "When the pipeline wrote the row (UTC).")
)
PARTITION BY order_date
CLUSTER BY shipping_address_country, status
OPTIONS (description = "One row for each order event, without its items.");
