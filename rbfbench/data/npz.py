"""Images and labels from an npz file; nothing in the file can run code."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rbfbench.data.checks import checked, one_line
from rbfbench.data.images import Images
from rbfbench.errors import DataError

Arrays = tuple[NDArray[Any], NDArray[Any]]


def load_npz(name: str, path: Path) -> Images:
    """Images of `npz:FILE`, which holds x_test and y_test, or x and y.

    Args:
        name: What the user asked for.
        path: The file.

    Raises:
        DataError: Missing, corrupt or pickled file, other keys, or arrays that `checked` refuses.
    """
    x, y = read_pair(path, ("x_test", "y_test"), ("x", "y"))
    return checked(name, f"all images of {path.name}", x, y)


def read_pair(path: Path, *choices: tuple[str, str]) -> Arrays:
    """Two arrays of an npz file, unchecked.

    Args:
        path: The file.
        choices: Names of the two arrays; the first pair that the file holds is read, and nothing else.

    Raises:
        DataError: Missing, corrupt or pickled file, or none of the pairs in it.
    """
    what = f"cannot read {path}"
    if not path.is_file():
        raise DataError(what, "it is no file" if path.exists() else "there is no such file", "check the path")
    # np.load would take a file that is no zip for a single array or a pickle
    if not zipfile.is_zipfile(path):
        raise DataError(what, "it is not a complete npz file", "write it with numpy.savez")
    wanted = " or ".join(" and ".join(pair) for pair in choices)
    try:
        with np.load(path, allow_pickle=False) as file:
            found = file.files
            pair = next((pair for pair in choices if set(pair) <= set(found)), None)
            arrays = pair and (file[pair[0]], file[pair[1]])
    except Exception as error:  # zip, zlib, header parser and allocator each have errors of their own
        # numpy's own message advises to allow pickles
        why = "it holds pickled objects, which could run code" if "allow_pickle" in str(error) else one_line(error)
        raise DataError(what, why, "write it again with numpy.savez from plain number arrays") from error
    if not arrays:
        raise DataError(
            what, f"it holds {one_line(', '.join(map(repr, found)) or 'nothing')}", f"name the arrays {wanted}"
        )
    if not all(isinstance(array, np.ndarray) for array in arrays):  # numpy hands out foreign members as bytes
        raise DataError(what, "it holds something else than arrays", "write it with numpy.savez")
    return arrays
