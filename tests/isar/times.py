#!/usr/bin/env python3
"""Prints how long the tasks of isar builds took, side by side: times.py BUILD_DIR...

The figures are those of bitbake's buildstats: the seconds that passed, and in parentheses the seconds of processor time. Of each task
the last successful run counts; fetches, unpacking and other tasks shorter than five seconds in every build are left out.
"""

import re
import sys
from pathlib import Path

SHORTEST = 5


def tasks(build):
    """(recipe, task): (seconds, processor seconds) of a build directory."""
    found = {}
    for run in sorted((build / 'tmp/buildstats').iterdir()):
        for file in run.glob('*/do_*'):
            text = file.read_text()
            if 'Status: PASSED' in text:
                processor = sum(float(number) for number in re.findall(r'^(?:Child )?rusage ru_[us]time: (.*)', text, re.M))
                found[file.parent.name, file.name] = float(re.search(r'^Elapsed time: (\S+)', text, re.M)[1]), processor
    return found


def main():
    builds = [Path(name) for name in sys.argv[1:]]
    columns = [tasks(build) for build in builds]
    print(f'{"seconds (of a processor)":62}' + ''.join(f'{build.name:>16}' for build in builds))
    for key in sorted(set().union(*columns)):
        if any(column.get(key, (0, 0))[0] >= SHORTEST for column in columns):
            cells = [f'{column[key][0]:.0f} ({column[key][1]:.0f})' if key in column else '-' for column in columns]
            print(f'{" ".join(key):62}' + ''.join(f'{cell:>16}' for cell in cells))
    totals = [tuple(map(sum, zip(*column.values()))) for column in columns]
    print(f'{"all tasks, added up":62}' + ''.join(f'{f"{total[0]:.0f} ({total[1]:.0f})":>16}' for total in totals))


if __name__ == '__main__':
    main()
