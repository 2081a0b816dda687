"""Contract files flow in as TOML; contracts flow out, or all mistakes in them at once. Nothing in a file is run.

A file is one version of an event type; ``keys.py`` says what each key means.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal, DecimalException
from functools import cache, lru_cache
from importlib import resources
from pathlib import Path as FilePath
from typing import Any, get_args

from ecomflow.contract.expressions import ExpressionError, parse_check
from ecomflow.contract.keys import (
    FILE_KEYS,
    MAX_COLUMNS,
    MAX_EVENT_NAME,
    MAX_FILE_BYTES,
    MAX_TYPE,
    RESERVED_EVENTS,
    RULE_KEYS,
    TABLE_KEYS,
    names_of,
)
from ecomflow.contract.language import (
    Check,
    Contract,
    Field,
    Operation,
    Otherwise,
    Path,
    Rule,
    Sum,
    UnknownFields,
    all_scalars,
    find,
    paths_in,
    records_of,
    scalar_type,
)
from ecomflow.contract.mistakes import Mistakes, Section, nearest, shown
from ecomflow.contract.reading_fields import check_lists, is_name, read_fields, read_records
from ecomflow.contract.reading_tables import Declared, read_tables, scalar_places
from ecomflow.contract.tables import disagreements, joined_tables, versions_of
from ecomflow.errors import ConfigError, NotFoundError

SHOP = ("order", "inventory", "user_activity")
_EVENT = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9_.-]{{0,{MAX_EVENT_NAME - 1}}}", re.ASCII)
_TYPE = re.compile(rf"\S(.{{0,{MAX_TYPE - 2}}}\S)?")
_REMEDY = "Correct the file. Compare with: ecomflow contract show order --format toml. All keys: docs/contract-language.md."


def load_text(text: str, file: str) -> Contract:
    """The contract in ``text``; ``file`` names it in sentences. Raises ConfigError with all mistakes, a line each."""
    contract, mistakes = read_contract(text, file)
    return _checked([contract], mistakes)[0]


def load_file(path: FilePath) -> Contract:
    """The contract in the file ``path``. Raises NotFoundError, and ConfigError with all mistakes, a line each."""
    contract, mistakes = _read_file(path)
    return _checked([contract], mistakes)[0]


def load_files(paths: Iterable[FilePath]) -> tuple[Contract, ...]:
    """The contracts in ``paths``. Raises NotFoundError, and ConfigError with the mistakes of all files and between them."""
    return _all_of([_read_file(path) for path in paths])


def load_folder(folder: FilePath) -> tuple[Contract, ...]:
    """The contracts in ``folder`` (``*.toml``, by name). Raises NotFoundError, and ConfigError with the mistakes of all files."""
    if not folder.is_dir():
        raise NotFoundError(f"There is no folder {folder} of contracts.", "Correct the setting contracts.")
    return _all_of([_read_file(path) for path in sorted(folder.glob("*.toml"))])


def _all_of(read: Sequence[tuple[Contract | None, list[str]]]) -> tuple[Contract, ...]:
    mistakes = [sentence for _, sentences in read for sentence in sentences]
    good = [contract for contract, _ in read if contract is not None]
    return _checked(good, [*mistakes, *mistakes_between(good)])


def shop_contracts(names: Sequence[str] = SHOP) -> tuple[Contract, ...]:
    """The built-in shop's contracts, in the order of ``names``."""
    return tuple(_shop_contract(name) for name in names)


@cache
def _shop_contract(name: str) -> Contract:
    return load_text(shop_text(name), f"{name}.toml")


def contracts_in_force(folder: FilePath, builtin_events: Sequence[str]) -> tuple[Contract, ...]:
    """The built-in contracts named in ``builtin_events``, and those in ``folder``, if it exists.

    A file in ``folder`` replaces the built-in contract of the same event and version; another version is added to it. Raises
    ConfigError with all mistakes, a line each.
    """
    files = tuple((path, _stamp(path)) for path in sorted(folder.glob("*.toml")))
    return _in_force(folder, tuple(builtin_events), files)


def _stamp(path: FilePath) -> tuple[int, int] | None:
    """What changes with the content of a file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


@lru_cache(maxsize=8)  # a command asks some thirty times
def _in_force(
    folder: FilePath, builtin_events: tuple[str, ...], files: tuple[tuple[FilePath, tuple[int, int] | None], ...]
) -> tuple[Contract, ...]:
    for name in builtin_events:
        if name not in SHOP:
            raise ConfigError(
                f"builtin_events names '{name}': expected some of {', '.join(SHOP)}{nearest(name, SHOP) or '.'}",
                "Correct builtin_events in ecomflow.toml.",
            )
    own = load_folder(folder) if files else ()
    replaced = {(contract.event, contract.version) for contract in own}
    wanted = shop_contracts([name for name in SHOP if name in builtin_events])
    builtin = [contract for contract in wanted if (contract.event, contract.version) not in replaced]
    if not (own or builtin):
        raise ConfigError(
            f"There is no event type: builtin_events is empty, and {folder}/ contains no contract.",
            "Describe one with: ecomflow contract new",
        )
    return _checked([*builtin, *own], mistakes_between([*builtin, *own]))


def contracts_named(event: str, contracts: Sequence[Contract]) -> tuple[Contract, ...]:
    """The contracts of ``event`` among ``contracts``, one a version. Raises ConfigError if there is none."""
    found = tuple(contract for contract in contracts if contract.event == event)
    if not found:
        known = list(dict.fromkeys(contract.event for contract in contracts))
        raise ConfigError(
            f"There is no event type {shown(event)}: expected one of {', '.join(known)}{nearest(event, known) or '.'}",
            "To describe a new one, run: ecomflow contract new",
        )
    return found


def source_of(contract: Contract) -> str:
    """The text of the file of ``contract``. Raises NotFoundError if it is gone."""
    return shop_text(contract.event) if is_builtin(contract) else read_text(FilePath(contract.file))


def is_builtin(contract: Contract) -> bool:
    """Whether it is one of the package, not a user's file."""
    return contract.event in SHOP and contract in shop_contracts([contract.event])


def shop_text(event: str) -> str:
    """The built-in file of ``event``, one of ``SHOP``."""
    return (resources.files(__package__) / "shop" / f"{event}.toml").read_text(encoding="utf-8")


def read_text(path: FilePath) -> str:
    """The text of the contract file ``path``. Raises NotFoundError, and ConfigError if it can't be read."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFoundError(f"There is no contract {path}.", "Name an existing file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} can't be read: {error}.", "Name a contract file.") from error


def other_contracts(folder: FilePath, builtin_events: Sequence[str], event: str) -> tuple[Contract, ...]:
    """The contracts in force of other event types than ``event``; files with mistakes are left out."""
    paths = sorted(folder.glob("*.toml")) if folder.is_dir() else []
    own = [contract for contract, _ in map(_read_file, paths) if contract is not None]
    replaced = {contract.event for contract in own}
    builtin = shop_contracts([name for name in SHOP if name in builtin_events and name not in replaced])
    return tuple(contract for contract in (*builtin, *own) if contract.event != event)


def check_no_other_file(folder: FilePath, event: str, path: FilePath) -> None:
    """Raises ConfigError where a file of ``folder`` other than ``path`` describes ``event``."""
    for other in sorted(folder.glob("*.toml")) if folder.is_dir() else []:
        found, _ = _read_file(other)
        if other != path and found is not None and found.event == event:
            raise ConfigError(f"{other} describes {event} already.", f"Edit that file, or rename it to {path.name}.")


def read_contract(text: str, file: str) -> tuple[Contract | None, list[str]]:
    """The contract in ``text`` and no mistakes; or None and every mistake, a sentence each. Raises nothing."""
    mistakes = Mistakes(file)
    try:
        values = tomllib.loads(text, parse_float=_number)
    except (tomllib.TOMLDecodeError, ValueError) as error:
        mistakes.say("", f"not valid TOML: {str(error).splitlines()[0]}")
        return None, mistakes.sentences
    except RecursionError:
        mistakes.say("", "not valid TOML: nested too deeply")
        return None, mistakes.sentences
    contract = _contract(Section(mistakes, "", values))
    return (None if mistakes.sentences else contract), mistakes.sentences


def mistakes_between(contracts: Iterable[Contract]) -> list[str]:
    """What keeps ``contracts`` from being used together: one version of an event twice, versions whose tables differ, one type or
    one table of two events.
    """
    contracts = tuple(contracts)
    found = [sentence for versions in versions_of(contracts).values() for sentence in _mistakes_of_versions(versions)]
    owners: dict[str, Contract] = {}
    types: dict[str, Contract] = {}
    for contract in contracts:
        same = types.setdefault(contract.type, contract)
        if same.event != contract.event:
            found.append(f"{contract.file}: type: {contract.type} is already the type of {same.event} ({same.file})")
        for table in contract.tables:
            owner = owners.setdefault(table.name.lower(), contract)
            if owner.event != contract.event:
                found.append(f"{contract.file}: tables: {table.name} is already a table of {owner.event} ({owner.file})")
    for name, contract in owners.items():
        shown_table = name.removesuffix("_unique")
        owner = owners.get(shown_table, contract)
        if owner.file != contract.file:
            found.append(f"{contract.file}: tables: {name} is the view of {shown_table}, a table of {owner.event} ({owner.file})")
    return found


def _mistakes_of_versions(versions: tuple[Contract, ...]) -> Iterator[str]:
    """Of the versions of one event, the lowest first."""
    for index, contract in enumerate(versions):
        lower = [one for one in versions[:index] if one.version < contract.version]
        if index and len(lower) < index:
            yield f"{contract.file}: event: {versions[index - 1].file} already has version {contract.version} of {contract.event}"
        yield from next(filter(None, (list(disagreements(one, contract)) for one in lower)), [])
    for table in joined_tables(versions):
        if len(table.columns) > MAX_COLUMNS:
            sentence = f"expected at most {MAX_COLUMNS} columns of all versions together, found {len(table.columns)}"
            yield f"{versions[-1].file}: tables.{table.name}: {sentence}"


def _checked(contracts: Sequence[Contract | None], mistakes: list[str]) -> tuple[Contract, ...]:
    if mistakes:
        raise ConfigError("\n".join(mistakes), _REMEDY)
    return tuple(contract for contract in contracts if contract is not None)


def _read_file(path: FilePath) -> tuple[Contract | None, list[str]]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise NotFoundError(f"There is no contract {path}.", "Name an existing file.") from None
    except OSError as error:
        return None, [f"{path}: expected a file that can be read, found: {error.strerror}"]
    if len(data) > MAX_FILE_BYTES:
        return None, [f"{path}: expected at most {MAX_FILE_BYTES // 2**20} MiB, found {len(data)} bytes"]
    try:
        return read_contract(data.decode("utf-8"), str(path))
    except UnicodeDecodeError as error:
        return None, [f"{path}: expected UTF-8, found the byte {data[error.start]:#04x} at {error.start}"]


def _number(text: str) -> Decimal | float:
    try:
        number = Decimal(text)
    except DecimalException:
        return float(text)
    return number if number.is_finite() else float(text)


def _contract(root: Section) -> Contract:
    root.known_keys(names_of(FILE_KEYS))
    raw_records = root.values.get("records", {})
    by_name = raw_records if isinstance(raw_records, dict) else {}
    fields = read_fields(root.mistakes, "fields", root.values.get("fields"), by_name)
    records = read_records(root.mistakes, raw_records)
    if not root.mistakes.sentences:  # what follows looks through records and lists
        check_lists(root.mistakes, fields, records)
    time = _time(root, fields)
    prefix = root.text("time_prefix") or "event"
    if not is_name(prefix):
        root.wrong("time_prefix", "a name of letters, digits and _")
    unknown: Any = root.one_of("unknown_fields", get_args(UnknownFields)) or "keep"
    declared = Declared(fields, records_of(records), time, prefix, unknown == "keep")
    is_sound = not root.mistakes.sentences
    contract = Contract(
        event=_event(root),
        type=_type(root),
        version=root.whole("version", 1) or 1,
        description=root.text("description") or "",
        time=time,
        time_prefix=prefix,
        unknown_fields=unknown,
        key=_key(root, fields),
        fields=fields,
        records=records,
        rules=_rules(root, declared) if is_sound else (),
        tables=read_tables(root.mistakes, root.sections("tables"), declared) if is_sound else _names_only(root),
        file=root.mistakes.file,
    )
    if not root.mistakes.sentences:
        _check_all_held(root.mistakes, contract)
    return contract


def _names_only(root: Section) -> tuple[Any, ...]:
    """Tables are not read while fields have mistakes: each of those would be reported again for each column."""
    for section in root.sections("tables"):
        section.known_keys(names_of(TABLE_KEYS))
    return ()


def _event(root: Section) -> str:
    event = root.text("event", "the value of event_type")
    if event is None:
        if "event" not in root.values:
            root.mistakes.say("", "expected event, the value of event_type, found none")
        return ""
    if not _EVENT.fullmatch(event):
        root.wrong("event", f"1 to {MAX_EVENT_NAME} letters, digits, _, - and ., not beginning with - or .")
    elif event in RESERVED_EVENTS:
        root.wrong("event", "another name: this one is the stream of messages without a known type")
    return event


def _type(root: Section) -> str:
    text = root.text("type", "the value that says the type of the event")
    if text is not None and not (_TYPE.fullmatch(text) and text.isprintable()):
        root.wrong("type", f"1 to {MAX_TYPE} printable characters, without blanks at either end")
    event = root.values.get("event")
    return text or (event if isinstance(event, str) else "")


def _time(root: Section, fields: tuple[Field, ...]) -> str:
    timestamps = [field.name for field in fields if field.type == "timestamp"]
    if "time" not in root.values:
        root.mistakes.say("", f"expected time, the name of a timestamp field{_or_these(timestamps)}, found none")
        return ""
    name = root.text("time", "the name of a timestamp field")
    field = next((one for one in fields if one.name == name), None)
    if name is None or not fields:
        return ""
    if field is None:
        root.wrong("time", "the name of a timestamp field", shown(name) + nearest(name, timestamps))
    elif field.type != "timestamp":
        root.wrong("time", "the name of a timestamp field", f"{name}, which is {field.type}")
    elif field.optional:
        root.wrong("time", "a field that is not optional, because its date partitions the tables", f"{name}, which is optional")
    return name


def _or_these(names: list[str]) -> str:
    return f" ({', '.join(names)})" if names else ""


def _key(root: Section, fields: tuple[Field, ...]) -> tuple[str, ...]:
    names = root.texts("key")
    known = {field.name: field for field in fields}
    for name in names:
        if name not in known:
            root.wrong("key", "names of fields", shown(name) + nearest(name, known))
        elif known[name].type in ("record", "list", "json", "float") or known[name].optional:
            root.wrong("key", "fields that are not optional and can be compared", name)
    return names


def _rules(root: Section, declared: Declared) -> tuple[Rule, ...]:
    found: list[Rule] = []
    for section in root.sections("rules"):
        section.known_keys(names_of(RULE_KEYS))
        check = _check(section, declared)
        otherwise: Any = section.one_of("otherwise", get_args(Otherwise)) or "refuse"
        name = section.text("name") or f"rule_{len(found) + 1}"
        if not is_name(name):
            section.wrong("name", "a name of letters, digits and _")
        if name in [rule.name for rule in found]:
            section.mistakes.say(section.at("name"), f"two rules are called {name}")
        if check is not None:
            found.append(Rule(name, check, otherwise))
    return tuple(found)


def _check(section: Section, declared: Declared) -> Check | None:
    text = section.text("check", "a comparison, such as amount <= 100")
    if text is None:
        if "check" not in section.values:
            section.mistakes.say(section.where, "a rule needs a check, such as amount <= 100")
        return None
    try:
        check = parse_check(text)
    except ExpressionError as error:
        section.mistakes.say(section.at("check"), str(error))
        return None
    before = len(section.mistakes.sentences)
    for side in (check.left, check.right):
        _check_operands(section, declared, side, within_sum=False)
    return check if len(section.mistakes.sentences) == before else None


def _check_operands(section: Section, declared: Declared, expression: Any, within_sum: bool) -> None:
    """Only numbers; fields of a list only in a sum, and a sum over one list."""
    match expression:
        case Path():
            _check_operand(section, declared, expression, within_sum)
        case Operation():
            _check_operands(section, declared, expression.left, within_sum)
            _check_operands(section, declared, expression.right, within_sum)
        case Sum():
            _check_sum(section, declared, expression, within_sum)
        case _ if isinstance(expression.value, str):
            section.wrong("check", "numbers", f"the string {shown(expression.value)}")


def _check_operand(section: Section, declared: Declared, path: Path, within_sum: bool) -> None:
    text = ".".join(path.names)
    place = find(path.names, declared.fields, declared.records)
    if place is None:
        known = [".".join(one.names) for one in scalar_places(declared.fields, declared.records)]
        section.wrong("check", "fields of the event", repr(text) + nearest(text, known))
    elif scalar_type(place) not in ("integer", "numeric"):
        kind = place.fields[-1].type
        section.wrong("check", "integer and numeric fields, which are exact", f"{text}, which is {kind}")
    elif place.list_index is not None and not within_sum:
        section.wrong("check", f"sum(...) around fields of the list {place.names[place.list_index]}", text)


def _check_sum(section: Section, declared: Declared, expression: Sum, within_sum: bool) -> None:
    if within_sum:
        section.wrong("check", "no sum within a sum", "one")
        return
    _check_operands(section, declared, expression.of, within_sum=True)
    places = [find(path.names, declared.fields, declared.records) for path in paths_in(expression.of)]
    lists = {place.names[: place.list_index + 1] if place.list_index is not None else () for place in places if place}
    if len(lists) != 1 or () in lists:
        section.wrong(
            "check", "a sum over the fields of one list", f"a sum over {len(lists - {()})} lists and fields of the event"
        )


def _check_all_held(mistakes: Mistakes, contract: Contract) -> None:
    """Every field is in a column: otherwise its values would be lost."""
    records = records_of(contract.records)
    held = {
        path.names for table in contract.tables for column in table.columns if column.value for path in paths_in(column.value)
    }
    held.add((contract.time,))
    for place in all_scalars(contract.fields, records):
        if place.names not in held:
            where = f"fields.{'.'.join(place.names)}"
            mistakes.say(where, "no table has a column for it: add it to the columns of a table, or remove it")
