"""verify.py: what counts as equal, and a message for what is not."""

import pytest

from advit.cli import main
from advit.errors import ConfigError
from advit.verify import TOLERANCE, compare, public, verify

TABLE = "category,value,text\na,0.5000,x [0.1]\nb,,y\n"


def pair(tmp_path, found, expected=TABLE):
    (tmp_path / "e.csv").write_text(expected)
    (tmp_path / "f.csv").write_text(found)
    return tmp_path / "e.csv", tmp_path / "f.csv"


@pytest.mark.parametrize("exactly", [True, False])
def test_equal_bytes_are_equal(tmp_path, exactly):
    assert compare(*pair(tmp_path, TABLE), exactly) == ""


def test_the_last_digit_counts_only_where_all_versions_agree(tmp_path):
    near = TABLE.replace("0.5000", "0.5001").replace("0.1]", "0.1001]")
    assert compare(*pair(tmp_path, near), exactly=False) == ""
    assert compare(*pair(tmp_path, near), exactly=True) == "column value, row 1: 0.5001 instead of 0.5"


def test_a_larger_difference_counts_everywhere_and_is_named(tmp_path):
    far = TABLE.replace("0.5000", f"{0.5 + 2 * TOLERANCE:.4f}")
    assert "column value, row 1" in compare(*pair(tmp_path, far), exactly=False)
    assert "column value, row 2" in compare(*pair(tmp_path, TABLE.replace("b,,", "b,0.1,")), exactly=False)
    for exactly in (True, False):
        assert "column text differs" in compare(*pair(tmp_path, TABLE.replace(",y", ",z")), exactly)
        assert "column text differs" in compare(*pair(tmp_path, TABLE.replace("0.1]", "0.2]")), exactly)


def test_verdicts_follow_from_numbers_and_builds_are_no_versions(tmp_path):
    one, two = (f"value,verdict\n0.1,{word}\n" for word in ("supported", "undecided"))
    assert compare(*pair(tmp_path, two, one), exactly=False) == "" != compare(*pair(tmp_path, two, one), exactly=True)
    assert public({"torch": "2.13.0+cpu", "x": None}) == {"torch": "2.13.0", "x": None}


def test_names_of_records_are_no_numbers(tmp_path):
    one, two = (f"seed,record\n0,{key}.json\n" for key in "ab")
    assert compare(*pair(tmp_path, two, one), exactly=True) == ""


def test_missing_tables_and_other_shapes(tmp_path):
    assert compare(*pair(tmp_path, TABLE + "c,1,z\n"), exactly=False) == (
        "has 3 rows of category, value, text instead of 2 of category, value, text"
    )
    assert compare(tmp_path / "e.csv", tmp_path / "none.csv", exactly=True) == "was not made"


def test_without_committed_tables_it_says_so(tmp_path, capsys):
    with pytest.raises(ConfigError, match="holds no tables to compare with"):
        next(verify(tmp_path))
    assert main(["verify", "--out", str(tmp_path)]) == 1 and "holds no tables" in capsys.readouterr().err
