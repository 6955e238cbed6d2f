"""The table of families (docs/families.csv): each line is measured again, a quarter of them each day.

All of them: pytest tests/attention/test_families.py --turns all. The table is written by
python tests/shared/family_table.py.
"""

from __future__ import annotations

import datetime

import pytest
from family_rows import row
from family_table import SLOW, agree, as_line, case_of, is_green, read
from tried import tried

TABLE = read()


def of_today() -> list[str]:
    names = [name for name in TABLE if name not in SLOW]
    return names[datetime.datetime.now(tz=datetime.UTC).toordinal() % 4 :: 4]


def pytest_generate_tests(metafunc):
    if "family" in metafunc.fixturenames:
        everything = metafunc.config.getoption("--turns") == "all"
        metafunc.parametrize("family", list(TABLE) if everything else of_today())


@pytest.mark.filterwarnings("ignore")
def test_family(family):
    line = as_line(row(family, case_of(family)))
    assert is_green(line), line
    assert agree(line, TABLE[family]), (line, TABLE[family])
    tried("families of models", family)


def test_the_table_is_long_and_green():
    exact = [line for line in TABLE.values() if line["layerwise"] and line["joint"]]
    assert len(exact) >= 90
    assert all(is_green(line) for line in TABLE.values())
