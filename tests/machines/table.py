#!/usr/bin/env python3
"""Prints the results of the machines as a Markdown table: table.py matrix|cuts FILE."""

import collections
import sys


def matrix(lines):
    """A row for each file system, a column for each kernel; then the warnings of doctor, and all that did not succeed."""
    statuses = collections.defaultdict(dict)
    archives, warnings, failures = set(), [], []
    for kind, *words in lines:
        if kind == "@sum":
            archives.add(words[-1])
        elif kind == "@warning":
            kernel, fs, *message = words
            warnings.append(f"- {kernel}, {fs}, doctor warns: {' '.join(message)}")
        elif kind == "@row":
            kernel, fs, name, status, *message = words
            statuses[fs, kernel][name] = int(status)
            if status != "0":
                failures.append(f"- {kernel}, {fs}, {name}: status {status}: {' '.join(message)}")
    kernels = list(dict.fromkeys(kernel for _, kernel in statuses))
    print("| |", " | ".join(kernels), "|")
    print("|---" * (len(kernels) + 1) + "|")
    for fs in dict.fromkeys(fs for fs, _ in statuses):
        print("|", fs, "|", " | ".join(cell(statuses.get((fs, kernel), {})) for kernel in kernels), "|")
    print(f"\nDifferent archives: {len(archives)} (1 is right)")
    print("\n".join(warnings + failures))


def cell(status):
    """What a file system can do on a kernel."""
    if not status:
        return "not run"
    if not any(status.values()):
        return "all work"
    failed = sum(value != 0 for name, value in status.items() if name != "doctor")
    named = "doctor refuses" if status.get("doctor") else "doctor accepts"
    return f"{named}, {failed} fail"


def cuts(lines):
    """A row for each job and file system: how often it changed the disk, and what was found after the cuts."""
    found = collections.defaultdict(collections.Counter)
    for kind, *words in lines:
        _, fs, job, *verdict = words
        count = found[job, fs]
        if kind in ("@changed", "@failed"):
            count[kind] += 1
        else:
            count["cuts"] += 1
            count["whole"] += verdict[0] in ("a", "b")
            count["succeeds"] += verdict[-1] == "next-run-succeeds"
    print("| command | file system | runs | failed | cuts | old or new | next run succeeds |")
    print("|---|---|---|---|---|---|---|")
    for (job, fs), count in sorted(found.items()):
        cells = [job, fs] + [str(count[key]) for key in ("@changed", "@failed", "cuts", "whole", "succeeds")]
        print("|", " | ".join(cells), "|")


if __name__ == "__main__":
    with open(sys.argv[2], encoding="utf-8", errors="replace") as results:
        {"matrix": matrix, "cuts": cuts}[sys.argv[1]]([line.split() for line in results])
