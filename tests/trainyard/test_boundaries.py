"""The dependency rule of docs/architecture.md, checked on the import graph.

Why: the trainer runs alone, on machines without Airflow; the records must load anywhere; what a
run is and how it starts must be testable without a scheduler; and a task process must start fast,
since its start is overhead that Trainyard itself measures.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "plugins" / "trainyard"


@dataclass(frozen=True)
class Import:
    file: str
    line: int
    module: str
    lazy: bool
    """Inside a function or for type checkers only: it costs nothing at import."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"


def imports(path: Path) -> Iterator[Import]:
    tree = ast.parse(path.read_text())
    name = path.relative_to(ROOT).as_posix()

    def walk(node: ast.AST, lazy: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            inner = lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                inner = True
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(name, child.lineno, alias.name, lazy)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{name}:{child.lineno}: name the module in full"
                yield Import(name, child.lineno, child.module, lazy)
                for alias in child.names:
                    yield Import(name, child.lineno, f"{child.module}.{alias.name}", lazy)
            else:
                yield from walk(child, inner)

    yield from walk(tree, False)


def of(*places: str) -> list[Import]:
    found = []
    for place in places:
        path = ROOT / place
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        assert files, place
        assert all(file.exists() for file in files), place
        found += [item for file in files for item in imports(file)]
    return found


def is_in(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def told(broken: list[Import]) -> str:
    return "\n".join(str(item) for item in broken)


def test_the_trainer_never_imports_airflow_or_trainyard():
    broken = [item for item in of("trainer") if is_in(item.module, "airflow", "trainyard")]
    assert not broken, told(broken)


def test_the_records_need_only_the_standard_library():
    allowed = {*sys.stdlib_module_names, "trainer"}
    broken = [item for item in of("trainer/contract") if item.module.split(".")[0] not in allowed]
    assert not broken, told(broken)


def test_trainyard_knows_the_trainer_by_its_records_and_cache_only():
    """The cache: processes of both sides must follow one protocol of locks (decision 0013)."""
    broken = [
        item
        for item in of("plugins/trainyard", "dags")
        if is_in(item.module, "trainer")
        and item.module != "trainer"
        and not is_in(item.module, "trainer.contract", "trainer.cache")
    ]
    assert not broken, told(broken)


def test_the_cache_needs_the_standard_library_only():
    allowed = {*sys.stdlib_module_names, "trainer"}
    broken = [
        item
        for item in of("trainer/cache", "trainer/stage.py", "trainer/files.py")
        if item.module.split(".")[0] not in allowed
    ]
    assert not broken, told(broken)


AIRFLOW = ("operators", "triggers", "hooks")


def test_only_operators_triggers_and_hooks_import_airflow():
    allowed = tuple(f"plugins/trainyard/{name}/" for name in AIRFLOW)
    broken = [
        item
        for item in of("plugins/trainyard")
        if is_in(item.module, "airflow") and not item.file.startswith(allowed)
    ]
    assert not broken, told(broken)


PURE = ["suites", "presets", "sites", "launch", "paths", "errors", "form", "tables"]
PURE += ["apptainer/site", "apptainer/prefix"]
IO = (
    "socket",
    "subprocess",
    "urllib",
    "http",
    "requests",
    "httpx",
    "sqlite3",
    "shutil",
    "tempfile",
)


@pytest.mark.parametrize("module", PURE)
def test_pure_modules_neither_run_nor_connect_anything(module):
    broken = [
        item for item in of(f"plugins/trainyard/{module}.py") if is_in(item.module, "airflow", *IO)
    ]
    assert not broken, told(broken)


def test_analysis_is_pure():
    broken = [
        item
        for item in of("plugins/trainyard/analysis")
        if is_in(item.module, "airflow", "trainyard.store", "trainyard.settings", *IO, "os")
    ]
    assert not broken, told(broken)


def test_pure_modules_import_only_pure_ones():
    pure = {f"trainyard.{name.replace('/', '.')}" for name in PURE}
    broken = [
        item
        for item in of(*(f"plugins/trainyard/{name}.py" for name in PURE))
        if is_in(item.module, "trainyard")
        and not item.lazy
        and not is_in(item.module, *pure, "trainyard.slurm", "trainyard.docker")
    ]
    assert not broken, told(broken)


def test_only_the_store_speaks_sql():
    broken = [
        item
        for item in of("plugins/trainyard", "dags")
        if is_in(item.module, "sqlite3", "psycopg", "sqlalchemy", "adbc_driver_sqlite")
        and not item.file.startswith("plugins/trainyard/store/")
        # A profiler's SQLite export is a file format: read there, never written.
        and item.file != "plugins/trainyard/profile/readers/columns.py"
    ]
    assert not broken, told(broken)


def test_profiles_are_read_by_readers_written_by_reports_and_pure_between():
    files = ("gzip", "zlib", "pathlib", "os", "csv", "io", "msgspec", "adbc_driver_sqlite", *IO)
    outside = ("readers/", "report/", "cli.py", "__main__.py")
    broken = [
        item
        for item in of("plugins/trainyard/profile")
        if is_in(item.module, "airflow", "trainyard.store", "trainyard.settings", *files)
        and not item.file.removeprefix("plugins/trainyard/profile/").startswith(outside)
    ]
    assert not broken, told(broken)


def test_dags_hold_when_and_in_which_order_and_nothing_else():
    for path in sorted((ROOT / "dags").glob("*.py")):
        tree = ast.parse(path.read_text())
        logic = (ast.FunctionDef, ast.ClassDef, ast.For, ast.While, ast.If, ast.Try, ast.Lambda)
        assert not [node for node in ast.walk(tree) if isinstance(node, logic)], path.name
        outside = [
            item
            for item in imports(path)
            if not is_in(
                item.module, "airflow.sdk", "trainyard.operators", "datetime", "__future__"
            )
        ]
        assert not outside, told(outside)


HEAVY = (
    "pandas", "numpy", "matplotlib", "scipy", "sklearn", "mlflow", "minio", "torch", "jinja2",
    "typst", "psycopg", "urllib3",
)  # fmt: skip


def test_what_a_dag_file_imports_is_light():
    """Followed through the import graph: parsing and every task start pay for each of these."""
    seen: set[str] = set()
    todo = [item for item in of("dags", "plugins/trainyard_plugin.py") if not item.lazy]
    while todo:
        item = todo.pop()
        assert not is_in(item.module, *HEAVY), told([item])
        for path in module_files(item.module):
            if path.as_posix() not in seen:
                seen.add(path.as_posix())
                todo += [found for found in imports(path) if not found.lazy]
    assert any(path.endswith("operators/launch.py") for path in seen), "the graph was followed"


def module_files(module: str) -> list[Path]:
    """Return the files of this repository that importing *module* executes."""
    parts = module.split(".")
    base = {"trainyard": ROOT / "plugins", "trainer": ROOT}.get(parts[0])
    if base is None:
        return []
    found = []
    for depth in range(1, len(parts) + 1):
        place = base.joinpath(*parts[:depth])
        found += [
            path for path in (place / "__init__.py", place.with_suffix(".py")) if path.exists()
        ]
    return found


class TestTheseTestsCanFail:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("import a.b", [("a.b", False)]),
            ("def f():\n    import a", [("a", True)]),
            ("from a import b", [("a", False), ("a.b", False)]),
            ("if TYPE_CHECKING:\n    import a", [("a", True)]),
            ("try:\n    import a\nexcept ImportError:\n    pass", [("a", False)]),
            ("class C:\n    import a", [("a", False)]),
        ],
    )
    def test_every_form_of_import_is_seen(self, monkeypatch, tmp_path, text, expected):
        monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
        (tmp_path / "m.py").write_text(text)
        assert [(item.module, item.lazy) for item in imports(tmp_path / "m.py")] == expected
