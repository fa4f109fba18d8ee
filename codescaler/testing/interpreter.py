"""Makes Triton's interpreter, which runs kernels on the CPU with numpy, do what a GPU does."""

from typing import Any

import numpy as np


def prepare_interpreter() -> None:
    """Changes the interpreter of this process in two places, once, before the first kernel runs.

    A product is added up without BLAS, which adds up a row in an order that depends on the place of the row. A tensor
    core does not. Integers are added up as integers. A value that was loaded may bound a loop: releases before 3.7 hold
    it as an array of one element, which numpy from 2.5 on does not convert to a number.
    """
    from triton.runtime import interpreter

    patch_tensor = interpreter._patch_lang_tensor

    def multiply(self: Any, a: Any, b: Any, d: Any, *precision: Any) -> Any:
        wide = np.int32 if d.data.dtype.kind == "i" else np.float32
        product = np.einsum("ij,jk->ik", a.data.astype(wide), b.data.astype(wide))
        return interpreter.TensorHandle(product + d.data, d.dtype.scalar)

    def patch_tensor_with_index(tensor: Any, scope: Any) -> None:
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.squeeze()))

    interpreter.InterpreterBuilder.create_dot = multiply
    interpreter._patch_lang_tensor = patch_tensor_with_index
