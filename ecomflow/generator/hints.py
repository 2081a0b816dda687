"""The hints ``fake`` of contracts in; values of Faker's providers, or what is wrong with the hints, out.

Faker is loaded with the first hint. A provider's values are a pool, the same in every run, so that they come again as those of
real customers do; and Faker, which takes long for each, is asked only so often.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import date, datetime
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any

from ecomflow.contract.language import Contract, Field
from ecomflow.contract.mistakes import nearest
from ecomflow.errors import ConfigError

if TYPE_CHECKING:
    from faker import Generator

_VOCABULARY_SEED = 20251201
_POOL = 300
_TRIES = 100
_REMEDY = "Correct the key fake, or leave it out. Providers: https://faker.readthedocs.io/en/stable/providers.html"


def hint_mistakes(contracts: Iterable[Contract]) -> list[str]:
    """A sentence for each hint of ``contracts`` that is no provider of Faker, or one that needs arguments."""
    hints = [(contract, where, field) for contract in contracts for where, field in _hinted(contract)]
    found = []
    for contract, where, field in hints:
        if problem := _problem(str(field.fake)):
            found.append(f"{contract.file}: {where}.fake: expected a provider of Faker without arguments, {problem}")
    return found


def check_hints(contracts: Iterable[Contract]) -> None:
    """Raise ConfigError with every wrong hint of ``contracts``, a line each."""
    if mistakes := hint_mistakes(contracts):
        raise ConfigError("\n".join(mistakes), _REMEDY)


def hinted_values(field: Field, path: str, fits: Callable[[Any], bool]) -> list[Any]:
    """Values of the provider that ``field`` names, in its type. Raises ConfigError where none ``fits``."""
    ask = _provider(str(field.fake), _VOCABULARY_SEED)
    values = [_converted(ask(), field) for _ in range(_POOL)]
    good = [value for value in values if fits(value)]
    if not good:
        raise _no_value(field, path, values[0])
    return good


def new_values(field: Field, path: str, fits: Callable[[Any], bool], seed: str) -> Callable[[], Any]:
    """Makes values of the provider that ``field`` names, other ones with each call."""
    ask = _provider(str(field.fake), seed)

    def make() -> Any:
        for _ in range(_TRIES):
            value = _converted(ask(), field)
            if fits(value):
                return value
        raise _no_value(field, path, value)

    return make


def _hinted(contract: Contract) -> Iterator[tuple[str, Field]]:
    groups = [("fields", contract.fields), *((f"records.{record.name}", record.fields) for record in contract.records)]
    return ((f"{where}.{field.name}", field) for where, fields in groups for field in fields if field.fake is not None)


def _problem(name: str) -> str | None:
    if name not in _provider_names():
        return f"found '{name}'{nearest(name, _provider_names())}"
    try:
        _provider(name, _VOCABULARY_SEED)()
    except Exception as error:  # noqa: BLE001  # whatever a provider raises without its arguments
        return f"found '{name}', which fails: {(str(error) or type(error).__name__).splitlines()[0]}"
    return None


@cache
def _provider_names() -> tuple[str, ...]:
    public = (name for provider in _generator().get_providers() for name in dir(provider) if not name.startswith("_"))
    return tuple(sorted({name for name in public if callable(getattr(_generator(), name, None))}))


@cache
def _generator() -> Generator:
    from faker import Faker

    return Faker()._factories[0]


def _provider(name: str, seed: object) -> Callable[[], Any]:
    """Asks a generator of its own, so that one provider's values don't depend on another's."""
    from faker import Faker

    generator: Any = Faker()._factories[0]
    generator.seed_instance(f"{seed} {name}")
    found: Callable[[], Any] = getattr(generator, name)
    return found


def _converted(value: Any, field: Field) -> Any:
    """``value`` as JSON has it for the type of ``field``."""
    match field.type:
        case "numeric" if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
            value = Decimal(str(value))
        case "float" if isinstance(value, int | Decimal) and not isinstance(value, bool):
            value = float(value)
        case "timestamp" if isinstance(value, datetime):
            value = value.isoformat() + ("" if value.tzinfo else "Z")
        case "date" if isinstance(value, date):
            value = value.isoformat()[:10]
        case "string" | "ip_address" if not isinstance(value, bytes | list | tuple | set | dict):
            value = str(value)
    if field.type in ("integer", "numeric") and field.written_as == "string":
        return str(value)
    return int(value) if field.type == "string" and field.written_as == "number" and value.isdecimal() else value


def _no_value(field: Field, path: str, value: Any) -> ConfigError:
    return ConfigError(
        f"{path}: expected values of its type and bounds from fake = '{field.fake}', which gives {str(value)[:60]!r}.", _REMEDY
    )
