CREATE TABLE IF NOT EXISTS ecomflow.fact_inventory (
  event_id            STRING NOT NULL    OPTIONS (description = "The producer's own id of the event, else the Pub/Sub message id; the same in each repeat."),
  inventory_id        STRING NOT NULL    OPTIONS (description = "The stock record that moved."),
  product_id          STRING NOT NULL    OPTIONS (description = "The product whose stock moved."),
  warehouse_id        STRING NOT NULL    OPTIONS (description = "The warehouse that holds the stock."),
  quantity_change     INT64 NOT NULL     OPTIONS (description = "Pieces put in; negative: pieces taken out."),
  reason              STRING NOT NULL    OPTIONS (description = "restock, sale, return or damage."),
  event_date          DATE NOT NULL      OPTIONS (description = "UTC date of event_timestamp."),
  event_timestamp     TIMESTAMP NOT NULL OPTIONS (description = "When the event happened, as the producer stated it, in UTC."),
  unknown_fields      JSON               OPTIONS (description = "What the event holds beside the fields of its contract, as it came; null where there is nothing."),
  ingestion_timestamp TIMESTAMP DEFAULT CURRENT_TIMESTAMP() NOT NULL OPTIONS (description = "When the pipeline wrote the row (UTC).")
)
PARTITION BY event_date
CLUSTER BY product_id, reason
OPTIONS (description = "One row for each movement of stock.");
