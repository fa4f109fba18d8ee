"""Tables for terminals."""

from collections.abc import Iterable, Sequence


def format_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Aligns columns, numbers to the right. A column without any text is left out."""
    columns = [column for column in zip(header, *rows, strict=True) if any(column[1:])]
    aligned = []
    for column in columns:
        width = max(map(len, column))
        is_number = all(not cell or cell[:1] in "+-0123456789" for cell in column[1:])
        aligned.append([cell.rjust(width) if is_number else cell.ljust(width) for cell in column])
    return "\n".join("  ".join(cells).rstrip() for cells in zip(*aligned, strict=True))
