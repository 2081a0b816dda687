CREATE TABLE IF NOT EXISTS ecomflow.fact_user_activity (
  event_id            STRING NOT NULL    OPTIONS (description = "The producer's own id of the event, else the Pub/Sub message id; the same in each repeat."),
  user_id             STRING NOT NULL    OPTIONS (description = "The user who acted."),
  activity_type       STRING NOT NULL    OPTIONS (description = "login, logout, view_product, add_to_cart, remove_from_cart or checkout."),
  ip_address          STRING             OPTIONS (description = "IPv4 or IPv6 address of the user, where the producer sent one."),
  user_agent          STRING             OPTIONS (description = "The browser's or app's user agent, where the producer sent one."),
  session_id          STRING NOT NULL    OPTIONS (description = "The session in which the user acted."),
  platform            STRING NOT NULL    OPTIONS (description = "web, mobile or tablet."),
  event_date          DATE NOT NULL      OPTIONS (description = "UTC date of event_timestamp."),
  event_timestamp     TIMESTAMP NOT NULL OPTIONS (description = "When the event happened, as the producer stated it, in UTC."),
  unknown_fields      JSON               OPTIONS (description = "What the event holds beside the fields of its contract, as it came; null where there is nothing."),
  ingestion_timestamp TIMESTAMP DEFAULT CURRENT_TIMESTAMP() NOT NULL OPTIONS (description = "When the pipeline wrote the row (UTC).")
)
PARTITION BY event_date
CLUSTER BY user_id, session_id
OPTIONS (description = "One row for each thing that a user did in the shop.");
