"""No module imports itself by way of others; imports for type checkers and those inside functions count."""

from __future__ import annotations

from graphlib import TopologicalSorter

import grimp


def test_imports_form_no_circle():
    graph = grimp.build_graph("rxrl", cache_dir=None)
    TopologicalSorter({module: graph.find_modules_directly_imported_by(module) for module in graph.modules}).prepare()
