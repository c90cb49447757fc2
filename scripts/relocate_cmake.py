"""Make the CMake files of ROS wheels point to this interpreter's headers.

The wheels were built elsewhere, and their exported targets name include folders of that machine,
which CMake refuses because they do not exist here.
"""

from __future__ import annotations

import re
import sys
import sysconfig
from pathlib import Path

import numpy as np

PYTHON = re.compile(r'/opt/python/cp[0-9]+-cp[0-9]+t?/include/python3\.[0-9]+t?')
NUMPY = re.compile(r'/[^;"\s]*/site-packages/numpy/_?core/include')


def relocate(text: str) -> str:
    """Rewrite the include folders of Python and numpy to those of the running interpreter."""
    text = PYTHON.sub(lambda _: sysconfig.get_paths()['include'], text)
    return NUMPY.sub(lambda _: np.get_include(), text)


def main() -> None:
    """Rewrite every .cmake file below the folder given."""
    changed = 0
    for path in sorted(Path(sys.argv[1]).rglob('*.cmake')):
        old = path.read_text()
        new = relocate(old)
        if new != old:
            path.write_text(new)
            changed += 1
    print(f'{changed} CMake files rewritten')


if __name__ == '__main__':
    main()
