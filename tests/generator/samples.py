"""Contracts of no shop, which say all that the language of contracts can say."""

from __future__ import annotations

# Nothing may be unknown, every rule refuses.
STRICT = """
event = "payment"
time = "paid_at"
unknown_fields = "refuse"
key = ["payment_id"]

[fields]
payment_id = { type = "string", path = "payment.id" }
order_id   = "string"
paid_at    = { type = "timestamp", path = "payment.at", without_offset = "Europe/Berlin" }
net        = { type = "numeric", min = 0, max = 100000 }
tax        = { type = "numeric", min = 0 }
gross      = { type = "numeric", written_as = "string" }
parts      = { type = "integer", min = 1, max = 3 }

[[rules]]
check = "gross == net + tax"

[[rules]]
check = "tax < net * 0.25"

[[tables]]
name = "fact_payment"
"""

EVERYTHING = """
event = "everything"
time = "at"
unknown_fields = "refuse"

[fields]
id        = { type = "integer", written_as = "number or string" }
code      = { type = "string", pattern = "[A-Z]{2}-[0-9]+", min_length = 5, max_length = 8 }
short     = { type = "string", max_length = 3 }
long      = { type = "string", min_length = 60 }
kind      = { type = "string", values = ["none", "one", "two"] }
number    = { type = "string", written_as = "number", min_length = 4 }
reference = { type = "string", written_as = "number or string", optional = true }
currency  = { type = "string", default = "EUR", pattern = "[A-Z]{3}" }
count     = { type = "integer", min = -5, max = 20 }
signed    = { type = "integer", max = -3, written_as = "string" }
amount    = { type = "numeric", min = 0.001, max = 0.002 }
total     = { type = "numeric", written_as = "number or string" }
least     = "integer"
most      = "integer"
is_new    = "boolean"
weight    = { type = "float", min = 0.5, max = 2 }
day       = { type = "date", optional = true }
at        = "timestamp"
shipped   = { type = "timestamp", optional = true, without_offset = "America/New_York", path = "shipping.at" }
address   = { type = "ip_address", path = "shipping.from.ip" }
extra     = { type = "json", optional = true }
raw       = "json"
customer  = { type = "record", of = "customer" }
lines     = { type = "list", of = "line", min_items = 1, max_items = 4 }
tags      = { type = "list", of = "string", optional = true }
prices    = { type = "list", of = "numeric", min_items = 2 }

[records.customer]
customer_id = "string"
email       = { type = "string", fake = "email", personal = true }
since       = { type = "date", optional = true }
home        = { type = "record", of = "home", optional = true }

[records.home]
city = { type = "string", fake = "city" }

[records.line]
product_id = "string"
quantity   = { type = "integer", min = 1 }
price      = { type = "numeric", min = 0, path = "money.amount" }
note       = { type = "string", optional = true }

[[rules]]
name = "total_is_the_sum"
check = "total == sum(lines.quantity * lines.price)"

[[rules]]
check = "sum(prices) >= 1"

[[rules]]
name = "bounds"
check = "least <= most"

[[rules]]
name = "few"
check = "count <= 19"
otherwise = "count"

[[tables]]
name = "fact_everything"

[[tables]]
name = "fact_everything_line"
each = "lines"
columns = [
  "lines",
  { name = "line_total", value = "lines.quantity * lines.price", description = "quantity x price" },
]

[[tables]]
name = "fact_everything_tag"
each = "tags"

[[tables]]
name = "fact_everything_price"
each = "prices"
"""
