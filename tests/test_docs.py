"""What people read outside of the code: links lead somewhere, named files exist, lists are whole."""

from __future__ import annotations

import re
import shlex
import sys
from itertools import combinations, takewhile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest
import typer

from ecomflow.cli import app
from ecomflow.commands.setting_options import SETTING_OPTIONS
from ecomflow.config import DataflowSettings, Settings
from ecomflow.contract import keys
from ecomflow.contract.envelope import EnvelopeSettings
from ecomflow.contract.language import FIELD_TYPES, SCALAR_TYPES
from ecomflow.contract.loading import read_contract
from ecomflow.infra.verdicts import VERDICTS
from ecomflow.sql import questions
from tests.support import ROOT

sys.path.insert(0, str(ROOT / "docs"))
import make_contract_reference as contract_reference
import make_data_model as data_model
import make_differences as differences
import make_settings as settings_page

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
DOCS = ROOT / "docs"
TEXT = "{http://www.w3.org/2000/svg}text"

_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
_LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)|(?:src|srcset)=\"(?P<source>[^\"]+)\"")
# A file or folder of the repository, by its path from the root. Globs and placeholders name none.
_FILE = re.compile(
    r"(?<![\w/.-])(?:ecomflow|tests|benchmarks|docs)/(?:[\w.-]+/)*(?:[\w.-]+\.(?:py|sql|md|json|svg|png))?(?![\w*<{./-])"
)
_MODULE = re.compile(r"python -m ((?:ecomflow|tests|benchmarks)[\w.]*)")


def relative(page: Path) -> str:
    return str(page.relative_to(ROOT))


def links(page: Path) -> list[str]:
    """The targets of the page's links and pictures that are no web addresses."""
    prose = _CODE.sub("", page.read_text(encoding="utf-8"))
    targets = [match["target"] or match["source"] for match in _LINK.finditer(prose)]
    return [target for target in targets if not target.startswith(("http://", "https://", "mailto:"))]


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the page's headings."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_lead_somewhere(page: Path) -> None:
    """Each relative link names a file or folder that exists, and each fragment a heading of that page."""
    broken = []
    for target in links(page):
        path, _, fragment = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        if not linked.exists() or (fragment and fragment not in anchors(linked)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_named_files_exist(page: Path) -> None:
    """A file, folder or module that a page names by its path from the root of the repository is there."""
    text = re.sub(r"https?://\S+", "", page.read_text(encoding="utf-8"))
    modules = [name.replace(".", "/") for name in _MODULE.findall(text)]
    missing = [name for name in _FILE.findall(text) if not (ROOT / name).exists()]
    assert missing + [name for name in modules if not ((ROOT / name).is_dir() or (ROOT / f"{name}.py").exists())] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "cli.md"], ids=relative)
def test_commands_and_options_exist(page: Path) -> None:
    """Each command line of a console block is a command of ecomflow, with options that it has."""
    unknown = [line for line in command_lines(page.read_text(encoding="utf-8")) if not is_command(line)]
    assert unknown == []


def command_lines(text: str) -> list[str]:
    """The lines of console blocks that run ecomflow, alone, in a pipe or with variables before it."""
    blocks = re.findall(r"^ *```(?:console)?\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    lines = [line.strip().removeprefix("$ ").removeprefix("> ") for block in blocks for line in block.splitlines()]
    parts = [part.strip() for line in lines for part in re.split(r"\||\$\(|\)\"|(?<= )#", line)]
    parts = [re.sub(r"^(?:eval \")?(?:[A-Z_]+=\S+ )*", "", part) for part in parts]
    return [part for part in parts if re.match(r"ecomflow [a-z]", part)]


def is_command(line: str) -> bool:
    """Whether the words before the first option lead to a command, and the command has the options."""
    words = list(takewhile(lambda word: word not in ("--", ">"), shlex.split(line, comments=True)))[1:]
    command: Any = typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
    return not hasattr(command, "commands") and {word for word in words if word.startswith("-") and word != "-"} <= known


def test_an_unknown_option_is_noticed() -> None:
    """Also in a pipe and with a variable before the command; what comes after -- is Beam's."""
    lines = ["$ ECOMFLOW_TOPIC=x ecomflow publish --n 3 | jq . | ecomflow contract check -", "$ ecomflow deploy -- --disk=3"]
    page = "\n".join(["```console", *lines, "```\n"])
    assert command_lines(page) == ["ecomflow publish --n 3", "ecomflow contract check -", "ecomflow deploy -- --disk=3"]
    assert all(map(is_command, command_lines(page)))
    assert [is_command(line) for line in ("ecomflow publish --rounds 3", "ecomflow job", "ecomflow publsh")] == [False] * 3


def test_a_broken_link_is_noticed(tmp_path: Path) -> None:
    """Links in code are no links; those in prose and the sources of pictures are."""
    page = tmp_path / "page.md"
    page.write_text('# A page: `with` code\n[there](#a-page-with-code) `[code](no.md)` <img src="no.svg"> [out](https://x.y/z)\n')
    assert links(page) == ["#a-page-with-code", "no.svg"]
    assert anchors(page) == {"a-page-with-code"}


@pytest.mark.parametrize("folder", [DOCS, DOCS / "adr"], ids=relative)
def test_an_index_lists_its_folder(folder: Path) -> None:
    """Each page of docs/ and docs/adr/ is listed once in the folder's README."""
    listed = [target for target in links(folder / "README.md") if re.fullmatch(r"[\w-]+\.md", target)]
    assert sorted(listed) == sorted(page.name for page in folder.glob("*.md") if page.name != "README.md")


def test_the_readme_fits_two_screens() -> None:
    """A stranger reads it first: at most 120 lines, the rest is one link away."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


@pytest.mark.parametrize(
    ("settings", "part"),
    [(Settings(), 0), (EnvelopeSettings(), 1), (DataflowSettings(), 2)],
    ids=["ecomflow", "envelope", "dataflow"],
)
def test_every_setting_is_documented(settings: msgspec.Struct, part: int) -> None:
    """docs/settings.md has a row for each setting, with its default."""
    parts = re.split(
        r"^(?:The table `\[\w+\]`|## Options)", (DOCS / "settings.md").read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    assert len(parts) == 4
    documented = dict(re.findall(r"^\| `(\w+)` \| `?([^`|]+?)`? \|", parts[part], re.MULTILINE))
    names = [name for name in settings.__struct_fields__ if name not in ("dataflow", "envelope")]
    assert {name: documented.get(name) for name in names} == {name: shown(name, getattr(settings, name)) for name in names}


def test_the_options_are_those_of_the_commands() -> None:
    """docs/settings.md says which command takes which option; where it differs, run python docs/make_settings.py."""
    text = settings_page.TARGET.read_text(encoding="utf-8")
    assert settings_page.page(text) == text


def test_every_setting_has_an_option() -> None:
    """Those of [envelope] have none: producers and every command must agree on it."""
    top = {name for name in Settings.__struct_fields__ if name not in ("dataflow", "envelope")}
    assert set(SETTING_OPTIONS) == top | {f"dataflow.{name}" for name in DataflowSettings.__struct_fields__}
    assert [path for path, names in settings_page.takers().items() if not names] == []


def test_nothing_is_installed_from_an_index() -> None:
    """ecomflow is in none, so every page and remedy names the folder of the source."""
    texts = [*PAGES, *(ROOT / "ecomflow").rglob("*.py")]
    wrong = re.compile(r"(?:pip|pipx|uv tool|uv pip) install (?:--?[\w-]+ )*['\"]?ecomflow")
    assert [relative(path) for path in texts if wrong.search(path.read_text(encoding="utf-8"))] == []


def shown(name: str, default: Any) -> str:
    """A default as the page has it: as in TOML, ``none`` where there is none."""
    if name == "bucket":
        return "<project>-ecomflow"
    if isinstance(default, tuple):
        return ", ".join(default)
    return str(default).lower() if isinstance(default, bool) else str(default or ("none" if default in (None, {}) else default))


def test_the_differences_are_those_of_the_list() -> None:
    """docs/google-cloud.md; where it differs, run python docs/make_differences.py."""
    text = differences.PAGE.read_text(encoding="utf-8")
    assert text == differences.page(text)
    assert differences.table().count("\n") == 2 + len(VERDICTS)


class TestContractLanguage:
    """docs/contract-language.md, made from the tables and the sentences of the loader."""

    def test_the_page_is_that_of_the_loader(self) -> None:
        """Where it differs, run python docs/make_contract_reference.py."""
        assert contract_reference.TARGET.read_text(encoding="utf-8") == contract_reference.reference()

    @pytest.mark.parametrize(
        ("part", "known"),
        [
            ("The file", keys.FILE_KEYS),
            ("Fields", keys.FIELD_KEYS),
            ("Rules", keys.RULE_KEYS),
            ("Tables", keys.TABLE_KEYS),
            ("Columns", keys.COLUMN_KEYS),
        ],
    )
    def test_each_key_has_a_mistake(self, part: str, known: tuple[keys.Key, ...]) -> None:
        """An example on the page, with what the loader says of it."""
        found = {mistake.key for mistake in contract_reference.MISTAKES[part]} - {""}
        assert found == set(keys.names_of(known))

    def test_each_fault_has_a_sentence_of_its_own(self) -> None:
        """So the order on the page is the order in which an event is checked."""
        rows = [line.split(" | ") for line in contract_reference.reference().splitlines() if re.match(r"\| \d \| ", line)]
        errors = [row[3] for row in rows]
        assert len(set(errors)) == len(errors) == len(contract_reference.FAULTS) + 1

    def test_every_type_is_described(self) -> None:
        """In the order of the language; those of values have a column."""
        assert tuple(keys.TYPES) == FIELD_TYPES
        assert tuple(name for name, facts in keys.TYPES.items() if facts.column) == SCALAR_TYPES

    def test_a_type_has_the_keys_that_the_page_says(self) -> None:
        """The loader takes each of them for the types that it is for, and for no other."""
        for key in keys.FIELD_KEYS[1:]:
            for kind in FIELD_TYPES:
                text = f'event = "e"\ntime = "at"\n[fields]\nat = "timestamp"\nf = {{ type = "{kind}", {key.name} = 0 }}\n'
                refused = f"found one of type {kind}" in "\n".join(read_contract(text, "e.toml")[1])
                assert refused == (kind not in key.types)


class TestDecisions:
    """docs/adr: a page a decision."""

    RECORDS = sorted((DOCS / "adr").glob("0*.md"))

    @pytest.mark.parametrize("record", RECORDS, ids=relative)
    def test_each_has_a_number_a_status_and_a_date(self, record: Path) -> None:
        """The title's number is the file's, and the index says the same status."""
        number, title, status = self.head(record)
        assert number == int(record.name[:4])
        row = f"| [{number}. {title}]({record.name}) | {status}"
        assert row in (DOCS / "adr" / "README.md").read_text(encoding="utf-8")

    @pytest.mark.parametrize("record", RECORDS, ids=relative)
    def test_a_record_that_changes_another_is_named_by_it(self, record: Path) -> None:
        """Amended and amending records link to each other, superseded and superseding ones as well."""
        status = re.search(r"^Status: .*", record.read_text(encoding="utf-8"), re.MULTILINE)
        assert status is not None
        for other in re.findall(r"\((\d{4}[\w-]+\.md)\)", status[0]):
            assert record.name in (DOCS / "adr" / other).read_text(encoding="utf-8").partition("**Context.**")[0]

    @staticmethod
    def head(record: Path) -> tuple[int, str, str]:
        pattern = r"# (\d+)\. (.+)\n\nStatus: ((?:Accepted|Superseded by \d+), \d{4}-\d\d-\d\d)\."
        match = re.match(pattern, record.read_text(encoding="utf-8"))
        assert match is not None, f"{record.name}: expected a title and 'Status: Accepted, YYYY-MM-DD.'"
        return int(match[1]), match[2], match[3]


class TestDataModel:
    """docs/data-model.md and its diagram, made from the DDL and the questions."""

    def test_the_page_is_that_of_the_ddl(self) -> None:
        """Where it differs, run python docs/make_data_model.py."""
        text = data_model.PAGE.read_text(encoding="utf-8")
        assert data_model.page(text, data_model.tables(), questions()) == text

    def test_the_diagram_is_that_of_the_ddl(self) -> None:
        """Where it differs, run python docs/make_data_model.py."""
        assert data_model.PICTURE.read_text(encoding="utf-8") == data_model.picture(data_model.tables())

    def test_the_diagram_shows_every_column_once(self) -> None:
        """Each table's box has its columns with their types, optional ones with a question mark."""
        texts = [element.text for element in ElementTree.fromstring(data_model.picture(data_model.tables())).iter(TEXT)]
        for table in data_model.tables().values():
            at = texts.index(table.name)
            found = [text for text in texts[at + 1 :] if text not in {"K", "P", "C"}][: 2 * len(table.columns)]
            expected = [(column.name, column.type if column.required else f"{column.type}?") for column in table.columns]
            assert list(zip(found[::2], found[1::2], strict=True)) == expected

    def test_boxes_do_not_overlap(self) -> None:
        """Also with a table twice as long: the second row moves down."""
        found = data_model.tables()
        header = found["fact_order_header"]
        longer = msgspec.structs.replace(header, columns=header.columns * 2)
        for tables in (found, {**found, header.name: longer}):
            boxes = list(data_model.layout(tables).values())
            for one, other in combinations(boxes, 2):
                assert one.right <= other.x or other.right <= one.x or one.bottom <= other.y or other.bottom <= one.y

    def test_a_relation_names_columns_that_exist(self) -> None:
        """A renamed column is an error, not a line that leads nowhere."""
        found = data_model.tables()
        item = found["fact_order_item"]
        renamed = msgspec.structs.replace(item, columns=tuple(one for one in item.columns if one.name != "line_number"))
        with pytest.raises(ValueError, match="expected a column of fact_order_item, found line_number"):
            data_model.picture({**found, item.name: renamed})

    def test_each_question_is_with_the_tables_that_it_reads(self) -> None:
        """By the views that its SQL names: the tables of its Reads line."""
        for one in questions():
            assert data_model.tables_read(one) == set(re.findall(r"\bfact_\w+", one.reads))
