"""Tables from records, as Markdown, CSV and LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from advit.evaluation import IMAGE_KEYS, PIXEL_KEYS
from advit.files import write_text

FULL_NAMES = {
    "image_auroc": "image-level AUROC",
    "image_ap": "image-level AP",
    "image_f1max": "image-level F1-max",
    "pixel_auroc": "pixel-level AUROC",
    "pixel_ap": "pixel-level AP",
    "aupro_0.3": "AU-PRO (FPR ≤ 0.3)",
    "aupro_0.05": "AU-PRO (FPR ≤ 0.05)",
}
METRIC_KEYS = (*IMAGE_KEYS, *PIXEL_KEYS)
MAIN_KEYS = ("image_auroc", "pixel_auroc", "aupro_0.3")  # where there is room for three
DECISION_KEYS = ("good", "false_alarms", "anomalous", "found")  # numbers of test images, at the run's threshold
ESCAPES = {"\\": r"\textbackslash{}", **{c: "\\" + c for c in "&%$#_{}"}, "~": r"\textasciitilde{}", "^": r"\^{}"}
SYMBOLS = {"≤": r"$\leq$", "±": r"$\pm$", "σ": r"$\sigma$", "λ": r"$\lambda$", "−": "$-$", "→": r"$\to$"}


@dataclass(frozen=True)
class Table:
    """A table that shows as Markdown in a notebook and as aligned text elsewhere, and can be written to files."""

    frame: pd.DataFrame
    caption: str
    digits: int = 3

    def cells(self) -> list[list[str]]:
        """Every cell as it is printed: numbers rounded, a dash where there is none."""
        return [[cell(value, self.digits) for value in row] for row in self.frame.itertuples(index=False)]

    def markdown(self) -> str:
        """The table as Markdown, without its caption. A bar in a cell is escaped, markup is not rendered."""
        head = [plain(str(c)) for c in self.frame.columns]
        rows = [[plain(c) for c in row] for row in self.cells()]
        rules = ["---:" if pd.api.types.is_numeric_dtype(kind) else "---" for kind in self.frame.dtypes]
        lines = ["| " + " | ".join(head) + " |", "|" + "|".join(rules) + "|"]
        return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"

    def latex(self) -> str:
        """The table as LaTeX, for booktabs."""
        columns = "l" + "r" * (self.frame.shape[1] - 1)
        rows = [list(map(str, self.frame.columns)), *self.cells()]
        lines = [" & ".join(tex(c) for c in row) + r" \\" for row in rows]
        body = [r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"]
        return "\n".join([
            r"\begin{table}", r"\centering", rf"\caption{{{tex(self.caption)}}}", rf"\begin{{tabular}}{{{columns}}}",
            *body, r"\end{tabular}", r"\end{table}",
        ]) + "\n"  # fmt: skip

    def write(self, folder: Path, name: str) -> None:
        """Write ``name.csv`` (four decimals), ``name.md`` and ``name.tex``."""
        write_text(folder / f"{name}.csv", self.frame.to_csv(index=False, float_format="%.4f", lineterminator="\n"))
        write_text(folder / f"{name}.md", f"{self.caption}\n\n{self.markdown()}")
        write_text(folder / f"{name}.tex", self.latex())

    def _repr_markdown_(self) -> str:
        return f"*{plain(self.caption)}*\n\n{self.markdown()}"

    def __repr__(self) -> str:
        rows = [list(map(str, self.frame.columns)), *self.cells()]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([self.caption, *lines])


def cell(value: Any, digits: int) -> str:
    """One value as text."""
    if value is None or (not isinstance(value, str) and pd.isna(value)):
        return "-"
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def plain(text: str) -> str:
    """Text that Markdown and HTML show as it is."""
    for character, code in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("*", "\\*"), ("`", "\\`")):
        text = text.replace(character, code)
    return text.replace("[", "\\[").replace("\n", " ")


def tex(text: str) -> str:
    """Text that LaTeX shows as it is."""
    return "".join(ESCAPES.get(c, SYMBOLS.get(c, c)) for c in text.replace("\n", " "))


def metrics_table(records: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """One row per category and one for the mean of the categories; mean and sd over seeds (sd of n - 1)."""
    keys = list(METRIC_KEYS)
    rows = pd.DataFrame([{"category": r["category"], **{k: r.get(k) for k in keys}} for r in records])
    rows = rows.astype({k: float for k in keys})
    groups = rows.groupby("category", sort=True)
    mean, sd = groups.mean().reset_index(), groups.std().reset_index()
    table = mean.assign(seeds=groups.size().to_numpy()).join(sd[keys].add_suffix("_sd"))
    average = {"category": "mean", "seeds": int(table["seeds"].min()), **mean[keys].mean().to_dict()}
    return pd.concat([table, pd.DataFrame([average])], ignore_index=True)


def with_spread(table: pd.DataFrame, keys: Sequence[str] = METRIC_KEYS) -> pd.DataFrame:
    """:func:`metrics_table` for print: full names, three decimals, ± sd where there are several seeds."""

    def text(row: pd.Series, key: str) -> str:
        if pd.isna(row[key]):
            return "-"
        sd = row.get(f"{key}_sd")
        return f"{row[key]:.3f}" + ("" if sd is None or pd.isna(sd) else f" ± {sd:.3f}")

    columns = {FULL_NAMES[k]: [text(row, k) for _, row in table.iterrows()] for k in keys}
    return pd.DataFrame({"category": table["category"], **columns})


def markdown_table(table: pd.DataFrame) -> str:
    """:func:`metrics_table` as Markdown."""
    return Table(with_spread(table), "").markdown()


def decided(record: dict[str, Any]) -> dict[str, int | None]:
    """The numbers of a record's decisions, None where there was no test image. Test: tests/test_tables.py"""
    return {k: record.get("decisions", {}).get(k) for k in DECISION_KEYS}


def decisions(rows: pd.DataFrame) -> pd.DataFrame:
    """False alarms among defect-free test images, and anomalous ones that are found, for each category and variant.

    Means over seeds. What has no threshold (a floor) is left out.

    Test: tests/test_tables.py
    """
    known = rows[rows["false_alarms"].notna()]
    lines = []
    for (category, variant), part in known.groupby(["category", "variant"], sort=False):
        line = {"category": category, "variant": variant}
        for title, key, every in (("false alarms", "false_alarms", "good"), ("found", "found", "anomalous")):
            said, of = part[key].astype(float).mean(), part[every].astype(float).mean()
            line[title] = f"{said:.{0 if said % 1 == 0 else 1}f} of {of:.0f} ({said / of:.1%})" if of else "-"
        lines.append(line)
    return pd.DataFrame(lines, columns=["category", "variant", "false alarms", "found"])
