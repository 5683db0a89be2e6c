"""Tables of rays and of samples as sparse matrices that torch multiplies by."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def csr(
    rows: NDArray[np.int64], columns: NDArray[np.int64], values: NDArray[np.float32], size: tuple[int, int]
) -> Tensor:
    """Sums of `values` at (rows, columns) as a matrix of this size; raises RuntimeError for places beyond it."""
    from scipy.sparse import coo_matrix

    matrix = coo_matrix((values, (rows, columns)), shape=size).tocsr()
    starts, places = (torch.from_numpy(part.astype(np.int32)) for part in (matrix.indptr, matrix.indices))
    with warnings.catch_warnings():  # CSR tensors say that they are young
        warnings.filterwarnings("ignore", message="Sparse")
        return torch.sparse_csr_tensor(starts, places, torch.from_numpy(matrix.data), size, check_invariants=True)
