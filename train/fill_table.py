# SPDX-License-Identifier: MIT
"""Puts tables into a document: replaces what stands between `<!-- NAME -->` and `<!-- end -->`.

    fill_table.py DOCUMENT NAME < OUTPUT     of the output only the tables' lines are taken
"""
import sys


def main():
    path, name = sys.argv[1:]
    lines = sys.stdin.read().splitlines()
    # Tables stay apart by an empty line.
    kept = [x for i, x in enumerate(lines) if x.startswith("|") or (not x and i and lines[i - 1].startswith("|"))]
    if not any(kept):
        sys.exit(f"fill_table: no table for {name}")
    with open(path, encoding="utf-8") as f:
        text = f.read()
    head, mark, rest = text.partition(f"<!-- {name} -->\n")
    _, end, tail = rest.partition("<!-- end -->")
    if not mark or not end:
        sys.exit(f"fill_table: {path} has no place named {name}")
    with open(path, "w", encoding="utf-8") as f:
        f.write(head + mark + "\n" + "\n".join(kept).strip() + "\n\n" + end + tail)


if __name__ == "__main__":
    main()
