"""The tree itself: no circle, no name with two meanings, no status word by a literal, one file for each kind of write.

It reads the code as text and never runs it.
"""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from enum import StrEnum
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest
from sqlalchemy import CheckConstraint

import db.models
from accounts.links import LinkKind
from db.base import Base
from pipeline.businesses.plan_limits import AlertKind
from pipeline.businesses.service_rules import ServiceStatus
from pipeline.credits.credit_states import CreditState
from pipeline.events.outcomes import EventState
from pipeline.meter.push_states import PushState
from pipeline.shared.drifts import DriftKind
from pipeline.subscription_changes.change_requests import ChangeKind
from pipeline.subscription_changes.change_states import ChangeState
from pipeline.usage.late_minutes import AdjustmentKind
from pipeline.usage.records import RecordState

REPOSITORY = Path(__file__).parents[2]
FOLDERS = ("accounts", "api", "bench", "db", "ops", "pipeline", "receiver", "sandbox", "schedules", "tasks")
OURS = ("accounts", "api", "ops", "pipeline", "receiver", "tasks")

#: Whose words stand in which column; of ``kind`` of drifts the schema knows no check, since a kind may go.
WORDS: dict[tuple[str, str], type[StrEnum]] = {
    ("webhook_events", "state"): EventState,
    ("usage_records", "state"): RecordState,
    ("meter_pushes", "state"): PushState,
    ("subscription_changes", "state"): ChangeState,
    ("subscription_changes", "kind"): ChangeKind,
    ("credits", "state"): CreditState,
    ("usage_adjustments", "kind"): AdjustmentKind,
    ("usage_alerts", "kind"): AlertKind,
    ("service_transitions", "from_status"): ServiceStatus,
    ("service_transitions", "to_status"): ServiceStatus,
    ("drifts", "kind"): DriftKind,
    ("account_links", "kind"): LinkKind,
}


def sources(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted(path for path in (REPOSITORY / folder).rglob("*.py") if "migrations" not in path.parts)


def name_of(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def test_no_imports_run_in_a_circle():
    graph = grimp.build_graph(*FOLDERS, include_external_packages=False)
    order = TopologicalSorter({module: graph.find_modules_directly_imported_by(module) for module in graph.modules})
    order.prepare()  # raises CycleError, which names the circle


def test_no_two_public_names_of_the_pipeline_are_alike():
    homes = defaultdict(list)
    for path in sources("pipeline"):
        for node in tree(path).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].append(name_of(path))
    assert {name: paths for name, paths in homes.items() if len(paths) > 1} == {}


_IMPORT = re.compile(rf"^ *from ((?:{'|'.join((*FOLDERS, 'tests'))})(?:\.\w+)*) import ([\w, ]+)$", re.MULTILINE)


def test_programs_that_stand_in_a_text_import_what_is_there():
    """No linter reads them, and what moves leaves them behind."""
    gone, seen = [], 0
    for path in sources(*FOLDERS, "tests"):
        texts = [node.value for node in ast.walk(tree(path)) if isinstance(node, ast.Constant)]
        for module, names in (found for text in texts if isinstance(text, str) for found in _IMPORT.findall(text)):
            seen += 1
            home = REPOSITORY.joinpath(*module.split("."))
            file = home / "__init__.py" if home.is_dir() else home.with_suffix(".py")
            for name in names.replace(" ", "").split(","):
                if (home / name).is_dir() or (home / f"{name}.py").is_file():
                    continue
                if not file.is_file() or not re.search(rf"\b{name}\b", file.read_text()):
                    gone.append(f"{name_of(path)}: {module}.{name}")
    assert gone == []
    assert seen > 10


# Words


@pytest.mark.parametrize(("table", "column"), WORDS)
def test_the_schema_allows_exactly_the_words_of_the_enumeration(table, column):
    assert db.models
    checks = [
        str(constraint.sqltext)
        for constraint in Base.metadata.tables[table].constraints
        if isinstance(constraint, CheckConstraint) and constraint.name == f"{table}_{column}_check"
    ]
    if (table, column) == ("drifts", "kind"):
        assert checks == []
    else:
        assert re.findall(r"'([a-z0-9-]+)'", checks[0]) == [word.value for word in WORDS[table, column]]


def _literals(node: ast.AST) -> Iterator[ast.Constant]:
    """The strings that ``node`` is or chooses from: of a set, a tuple, a condition; not those deeper inside."""
    match node:
        case ast.Constant(value=str()):
            yield node
        case ast.Set(elts=parts) | ast.Tuple(elts=parts) | ast.List(elts=parts):
            for part in parts:
                yield from _literals(part)
        case ast.IfExp(body=body, orelse=orelse):
            yield from _literals(body)
            yield from _literals(orelse)


#: Names of arguments and keys whose value is a word of ours.
_WORDED = re.compile(r"(.*_)?(state|status|kind|verdict)")


def _written_or_compared(module: ast.Module) -> Iterator[ast.Constant]:
    """Strings that are compared with something, or handed over as a state, status, kind or verdict."""
    for node in ast.walk(module):
        match node:
            case ast.Compare(left=left, comparators=others):
                for side in (left, *others):
                    yield from _literals(side)
            case ast.MatchValue():
                yield from _literals(node.value)
            case ast.keyword(arg=str() as name, value=value) if _WORDED.fullmatch(name):
                yield from _literals(value)
            case ast.Dict(keys=keys, values=values):
                for key, value in zip(keys, values, strict=True):
                    if isinstance(key, ast.Constant) and _WORDED.fullmatch(str(key.value)):
                        yield from _literals(value)
            case ast.Subscript(value=ast.Name(id="Literal"), slice=words):
                yield from _literals(words)
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=ast.expr() as value)
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
            ) if _WORDED.fullmatch(name):
                yield from _literals(value)
            case ast.arguments(args=plain, kwonlyargs=named, defaults=of_plain, kw_defaults=of_named):
                last = plain[len(plain) - len(of_plain) :]
                for argument, default in zip([*last, *named], [*of_plain, *of_named], strict=True):
                    if default is not None and _WORDED.fullmatch(argument.arg):
                        yield from _literals(default)


def test_no_status_word_or_kind_of_ours_is_a_literal_in_python():
    words = {word.value for enumeration in WORDS.values() for word in enumeration}
    found = [
        f"{name_of(path)}:{constant.lineno}: {constant.value}"
        for path in sources(*OURS)
        for constant in _written_or_compared(tree(path))
        if constant.value in words
    ]
    assert found == []


# SQL


@cache
def statements() -> list[tuple[str, str]]:
    """Every SQL text of ours: the file, and the text, fragments of f-strings put in a row."""
    found = [(name_of(path), path.read_text()) for path in (REPOSITORY / "receiver").glob("*.sql")]
    for path in sources(*OURS):
        docs = {
            id(node.body[0].value)
            for node in ast.walk(tree(path))
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        inside = {id(part) for node in ast.walk(tree(path)) if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in ast.walk(tree(path)):
            if id(node) in docs | inside:
                continue
            if isinstance(node, ast.JoinedStr):
                text = "".join(str(part.value) if isinstance(part, ast.Constant) else " … " for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = node.value
            else:
                continue
            if re.search(
                r"\b(select|insert into|merge into|update|delete from|truncate)\b|\b(state|kind) (=|<>|in)\b",
                text,
                re.IGNORECASE,
            ):
                found.append((name_of(path), text))
    return found


_COMPARED = re.compile(
    r"(?:(\w+)\.)?(state|kind|from_status|to_status) (?:=|<>|in|not in) \(?((?:'[a-z0-9-]+'(?:, ?)?)+)"
)


def test_every_word_in_sql_is_one_of_its_enumeration():
    """By the table that the alias stands for; a name that no table of the text has may be any of ours or a mirror's."""
    wrong, seen = [], set()
    for file, text in statements():
        tables: dict[str, str] = {}
        for table, alias in re.findall(r"\b(?:from|join|update|into) (\w+)(?: (?:as )?(\w+))?", text):
            tables |= {table: table, alias: table}
        stateful = {table for table in tables.values() if any(table == known for known, _ in WORDS)}
        for alias, column, words in _COMPARED.findall(text):
            table = tables.get(alias) if alias else (min(stateful) if len(stateful) == 1 else None)
            allowed = (
                {word.value for word in WORDS[table, column]}
                if table is not None and (table, column) in WORDS
                else {word.value for (_, of), each in WORDS.items() if of == column for word in each} | FETCHED
            )
            said = set(re.findall(r"'([a-z0-9-]+)'", words))
            seen |= said
            if said - allowed:
                wrong.append(f"{file}: {alias}.{column} {sorted(said - allowed)}")
    assert wrong == []
    assert {"pending", "closing", "unknown", "planned"} <= seen


#: The kinds of what is fetched, in the column ``kind`` of refreshes.
FETCHED = {"call", "customer", "subscription", "invoice", "payment", "price", "meter", "event"}


# Writers


#: Of each table, the kinds of write: the one file that does it, and the columns that it sets (or insert, delete).
WRITERS = {
    "webhook_events": {
        "receive": ("receiver/store.sql", "insert"),
        "fetched events": ("pipeline/events/queue.py", "insert"),
        "state": ("pipeline/events/queue.py", "state reason attempts batch_limit lone_deaths processed_at due_at"),
        "its worker died": (
            "pipeline/events/worker_deaths.py",
            "attempts batch_limit lone_deaths due_at state reason processed_at",
        ),
        "wake what waited": ("pipeline/events/fetch_requests.py", "due_at"),
        "forget": ("pipeline/events/retention.py", "delete"),
    },
    "resent_events": {
        "wish": ("receiver/resent.sql", "insert"),
        "done": ("pipeline/events/queue.py", "delete"),
    },
    "usage_records": {
        "make": ("pipeline/usage/record_creation.py", "insert"),
        "bounds": (
            "pipeline/usage/record_bounds.py",
            "period_start period_end cut provisional subscription_id plan_id included_minutes allowance_month delete",
        ),
        "terms": (
            "pipeline/usage/record_bounds.py",
            "increment_seconds late_policy late_limit_minutes price_id currency tiers trial plan_minutes",
        ),
        "what a month has left": ("pipeline/usage/monthly_allowance.py", "included_minutes"),
        "figures": (
            "pipeline/usage/record_figures.py",
            "calls seconds minutes adjustment_minutes pushed_minutes invoiced_minutes invoice_id settled_at",
        ),
        "state": ("pipeline/closing/period_close.py", "state closed_at statement"),
    },
    "meter_pushes": {
        "plan": ("pipeline/meter/push_planning.py", "insert"),
        "Stripe had them": ("pipeline/meter/forgotten_pushes.py", "insert"),
        "state": (
            "pipeline/meter/push_states.py",
            "state answer attempts doubt due_at first_sent_at last_sent_at server_errors settled_at accepted_at",
        ),
        "asked about": ("pipeline/meter/unknown_pushes.py", "looked_at"),
        "merge of two records": ("pipeline/usage/record_bounds.py", "usage_record_id"),
    },
    "subscription_changes": {
        "plan": ("pipeline/subscription_changes/planning.py", "insert"),
        "state": (
            "pipeline/subscription_changes/change_states.py",
            "state answer attempts due_at server_errors settled_at",
        ),
    },
    "credits": {
        "request": ("pipeline/credits/credit_requests.py", "insert"),
        "state": (
            "pipeline/credits/credit_states.py",
            "state answer attempts due_at server_errors settled_at",
        ),
    },
    "drifts": {"all": ("pipeline/shared/drifts.py", "insert expected actual evidence repair resolved_at note")},
}


def _set_columns(assignments: str) -> set[str]:
    """The columns of ``a = 1, b = f(x, y), (c, d) = (1, 2) where …``, up to the end of the SET."""
    columns, depth, part = set(), 0, ""
    assignments = re.sub(r"\(([\w, ]+)\)\s*=", lambda several: several[1].replace(",", " = 0,") + " =", assignments)
    for word in re.findall(r"[(),]|[^\s(),]+", assignments):
        depth += (word == "(") - (word == ")")
        if depth == 0 and word.lower() in {"from", "where", "returning"}:
            break
        if depth < 0:  # a statement inside a common table expression ends
            break
        if depth == 0 and word == ",":
            columns.add(part)
            part = ""
        elif depth == 0 and not part:
            part = word
    columns.add(part)
    return columns


def _writes_of(text: str) -> set[tuple[str, str]]:
    """Each table that a statement writes, with ``insert``, ``delete`` or the name of a column that is set."""
    flags = re.DOTALL | re.IGNORECASE
    plain = re.sub(r"\b(update|delete from) only\b", r"\1", re.sub(r'"|\bpublic\.', "", text), flags=flags)
    found = {(table, "insert") for table in re.findall(r"\b(?:insert|merge) into (\w+)", plain, flags)}
    found |= {(table, "delete") for table in re.findall(r"\b(?:delete from|truncate) (\w+)", plain, flags)}
    set_in = re.findall(r"\bupdate (\w+)(?: (?:as )?(?!set\b)\w+)?\s+set\s+(.*)", plain, flags)
    set_in += re.findall(r"\binsert into (\w+)\b.*?\bdo update\s+set\s+(.*)", plain, flags)
    return found | {(table, column) for table, assignments in set_in for column in _set_columns(assignments)}


def writes() -> dict[tuple[str, str], set[str]]:
    """Each table and what is done to it, and the files that do it."""
    found = defaultdict(set)
    for file, text in statements():
        for write in _writes_of(text):
            found[write].add(file)
    return found


@pytest.mark.parametrize(
    ("text", "done"),
    [
        ("update drifts set note = 1", {"note"}),
        (
            "update drifts d\nset\n  note = f(1, 2), kind = case when a then 'x' else 'y' end from x where y",
            {"note", "kind"},
        ),
        ("UPDATE only public.drifts AS d SET note = 1", {"note"}),
        ('update "drifts" set (note, kind) = (1, 2)', {"note", "kind"}),
        ("with a as (update drifts set note = 1 returning id) select * from a", {"note"}),
        ("insert into drifts values (1) on conflict (id) do update set note = 1", {"insert", "note"}),
        ("delete from drifts", {"delete"}),
        ("select note from drifts for update", set()),
    ],
)
def test_each_way_to_write_is_seen(text, done):
    assert {what for table, what in _writes_of(text) if table == "drifts"} == done


@pytest.mark.parametrize(
    ("code", "seen"),
    [
        ("row.state == 'closed'", 1),
        ("row.state in {'open', 'closed'}", 2),
        ("f(kind='carried' if late else 'held')", 2),
        ("{'state': 'sent'}", 1),
        ("state = 'sent'", 1),
        ("state: str = 'sent'", 1),
        ("def f(a, state='sent', *, kind='held'): ...", 2),
        ("match x:\n case 'closed': ...", 1),
        ("print('closed')", 0),
    ],
)
def test_each_way_to_use_a_word_is_seen(code, seen):
    assert len(list(_written_or_compared(ast.parse(code)))) == seen


def test_each_kind_of_write_has_one_file():
    done = {(table, file, what) for (table, what), files in writes().items() for file in files if table in WRITERS}
    listed = {
        (table, file, what)
        for table, kinds in WRITERS.items()
        for file, columns in kinds.values()
        for what in columns.split()
    }
    assert done - listed == set(), "a write that no file is listed for"
    assert {entry[:2] for entry in listed} == {entry[:2] for entry in done}, "a file is listed that writes nothing"


def test_rows_are_written_by_statements_that_this_file_can_read():
    """No other way: SQLAlchemy's own constructs and models would pass the test above."""
    models = [name_of(path) for path in sources(*OURS) if re.search(r"\bdb\.models\b", path.read_text())]
    assert models == []
    made = [
        f"{name_of(path)}: {alias.name}"
        for path in sources(*OURS)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sqlalchemy"
        for alias in node.names
        if alias.name in {"insert", "update", "delete", "Table", "orm", "Session"}
    ]
    assert made == []


def test_commands_print_and_ask_no_sql():
    """What they show comes from `pipeline/reading`, where programs find it too."""
    assert [file for file, _ in statements() if file.startswith("ops/commands/")] == []
    asking = [name_of(path) for path in sources("ops/commands") if "exec_driver_sql" in path.read_text()]
    assert asking == []


def test_the_oracle_of_money_imports_nothing_of_ours():
    modules = {
        name.partition(".")[0]
        for node in ast.walk(tree(REPOSITORY / "tests/worlds/oracle.py"))
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else []
        )
    }
    assert modules
    assert not modules & {*FOLDERS, "tests"}
