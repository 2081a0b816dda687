"""The contract as data: TOML files flow in; decoder, rules, Arrow columns, DDL and JSON Schema of their event types flow out."""
