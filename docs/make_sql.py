"""The built-in contracts in; the DDL files under ``ecomflow/sql`` out: ``python docs/make_sql.py``.

A test compares the files with what this writes.
"""

from __future__ import annotations

from pathlib import Path

from ecomflow.contract.ddl import table_ddl, view_ddl
from ecomflow.contract.loading import shop_contracts
from ecomflow.contract.tables import tables_of

SQL = Path(__file__).parent.parent / "ecomflow" / "sql"


def files() -> dict[str, str]:
    """The text of every file of the fact tables and their views, by its path below ``SQL``."""
    found = {}
    for table in tables_of(shop_contracts()):
        found[f"tables/{table.name}.sql"] = table_ddl(table)
        found[f"views/{table.name}_unique.sql"] = view_ddl(table)
    return found


def main() -> None:
    for name, text in files().items():
        (SQL / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
