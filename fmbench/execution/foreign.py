"""Code from outside (models, method files, plug-ins) may raise anything and change any state of the process: neither gets further."""

from __future__ import annotations

import os
import random
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from fmbench.storage.readers import one_line


class ForeignError(ValueError):
    """Code from outside failed; the message is one line, the error itself is the cause."""


@contextmanager
def foreign(what: str = "") -> Iterator[None]:
    """Inside, whatever is raised becomes a :class:`ForeignError` of one line, after ``what`` and a colon where given.

    KeyboardInterrupt alone passes: a model that calls ``sys.exit`` or runs out of memory must not end the run of the others. A
    ForeignError from deeper inside keeps its words.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        said = str(error) if isinstance(error, ForeignError) else one_line(error)
        raise ForeignError(f"{what}: {said}" if what else said) from error


@contextmanager
def isolated() -> Iterator[None]:
    """Afterwards the process is as it was before: what one model sets must not reach the scores of the next.

    Put back are torch's default dtype and device, its number of threads, gradient mode, deterministic algorithms, TF32 and cuDNN settings,
    the global generators of torch (CPU), NumPy and Python, NumPy's error handling, the working directory, the environment variables,
    ``sys.path``, ``sys.argv``, standard streams, and the filters of warnings.
    """
    import numpy as np
    import torch

    backends = torch.backends
    cudnn = backends.cudnn
    dtype, device, threads = torch.get_default_dtype(), torch.get_default_device(), torch.get_num_threads()
    gradients, deterministic = torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled()
    warn_only, precision = torch.is_deterministic_algorithms_warn_only_enabled(), torch.get_float32_matmul_precision()
    flags = {name: getattr(cudnn, name) for name in ("enabled", "benchmark", "deterministic")}
    torch_state, python_state, numpy_state = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    numpy_errors, folder, variables = np.geterr(), os.getcwd(), dict(os.environ)
    path, arguments, streams = list(sys.path), list(sys.argv), (sys.stdin, sys.stdout, sys.stderr)
    try:
        with warnings.catch_warnings():
            yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_default_device(None if device == torch.device("cpu") else device)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        torch.set_grad_enabled(gradients)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        if torch.get_float32_matmul_precision() != precision:
            torch.set_float32_matmul_precision(precision)
        for name, value in flags.items():
            setattr(cudnn, name, value)
        torch.set_rng_state(torch_state)
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        np.seterr(**numpy_errors)
        os.chdir(folder)
        if dict(os.environ) != variables:
            os.environ.clear()
            os.environ.update(variables)
        sys.path[:], sys.argv[:] = path, arguments
        sys.stdin, sys.stdout, sys.stderr = streams
