"""Machine code kept on disk: of which modules, and that it can never be of a source that has changed."""

from __future__ import annotations

import ast

from fraud_pipelines.models.machine_code import COMPILED
from fraud_pipelines.settings import PROJECT_ROOT


def compiled_functions(source: str) -> list[ast.FunctionDef]:
    return [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef)
        and any(ast.unparse(one).split("(")[0] in ("compiled", "njit", "numba.njit") for one in node.decorator_list)
    ]


def test_a_bento_gets_the_machine_code_of_every_module_that_has_some():
    sources = {path: path.read_text() for path in (PROJECT_ROOT / "fraud_pipelines").rglob("*.py")}
    found = {path for path, source in sources.items() if compiled_functions(source)}
    assert {path.relative_to(PROJECT_ROOT).with_suffix("").as_posix().replace("/", ".") for path in found} == {
        module.__name__ for module, _ in COMPILED
    }


def test_compiled_code_uses_nothing_of_other_files_of_ours():
    """A constant of another file would be the old one in machine code that is kept: that file is not looked at."""
    for module, _ in COMPILED:
        source = (PROJECT_ROOT / (module.__name__.replace(".", "/") + ".py")).read_text()
        imports = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import | ast.ImportFrom)]
        ours = {
            alias.asname or alias.name.split(".")[0]
            for node in imports
            for alias in node.names
            if (node.module if isinstance(node, ast.ImportFrom) else alias.name).startswith("fraud_pipelines")
        }
        for function in compiled_functions(source):
            used = {node.id for part in function.body for node in ast.walk(part) if isinstance(node, ast.Name)}
            assert not used & ours, (module.__name__, function.name)
