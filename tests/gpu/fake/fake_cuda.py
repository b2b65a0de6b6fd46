"""A CUDA device that is not there: shapes, formats and devices are computed, numbers are not.

Torch's `FakeTensorMode` refuses what a GPU would (unknown arguments, tensors on different devices) and whatever needs a
number from the device, for which the host would have to wait: `.item()`, `nonzero`, boolean indexing. Here it is told
apart what lies on the host: that is computed as ever. And copies between host and device are looked at, too.
"""

from collections import defaultdict
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_leaves

DEVICE = torch.device("cuda", 0)
ATEN = torch.ops.aten
COPIES = (ATEN._to_copy.default, ATEN.copy_.default)


class Synchronisation(AssertionError):
    """The host would wait for the device."""


class FakeCuda(FakeTensorMode):
    """`strict` raises at every synchronisation; otherwise what comes back from the device is 0."""

    def __init__(self):
        super().__init__(allow_non_fake_inputs=True)
        self.strict = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        there = [x for x in tree_leaves((args, kwargs)) if isinstance(x, FakeTensor)]
        to = torch.device(kwargs.get("device") or "cpu")
        if func is ATEN.is_pinned.default:
            return False
        if func in (ATEN.pin_memory.default, ATEN._pin_memory.default):
            return args[0]
        if torch.is_inference_mode_enabled() and func.namespace == "aten" and func._can_decompose():  # comes here whole
            with self:
                found = func.decompose(*args, **kwargs)
            if found is not NotImplemented:
                return found
        if not there and to.type != "cuda":
            return func(*args, **kwargs)
        if func is ATEN._local_scalar_dense.default and not self.strict:
            return args[0].new_zeros((), device="cpu").dtype.is_floating_point * 0.0 or 0
        if func in COPIES:
            moved = self._copy(func, args, kwargs)
            if moved is not None:
                return moved
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _copy(self, func, args, kwargs):
        source = args[1] if func is ATEN.copy_.default else args[0]
        target = args[0].device if func is ATEN.copy_.default else torch.device(kwargs.get("device") or source.device)
        if source.device.type == target.type:
            return None
        waits = not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
        if self.strict and (waits or target.type == "cpu"):
            raise Synchronisation(f"{func} from {source.device} to {target} of {tuple(source.shape)} waits")
        if target.type == "cpu":
            return torch.zeros(source.shape, dtype=kwargs.get("dtype") or source.dtype)
        return None

    @contextmanager
    def measured(self):
        """Nothing in here may wait for the device."""
        self.strict = True
        try:
            yield
        finally:
            self.strict = False


@torch.no_grad()
def backward(loss, gradient=None):
    """`loss.backward()`, node by node in Python: torch's own engine looks for the device's streams."""
    waiting, seen, stack = defaultdict(int), {loss.grad_fn}, [loss.grad_fn]
    while stack:
        for node, _ in stack.pop().next_functions:
            if node is not None:
                waiting[node] += 1
                if node not in seen:
                    seen.add(node)
                    stack.append(node)
    gradients = {loss.grad_fn: [torch.ones_like(loss) if gradient is None else gradient]}
    ready = [loss.grad_fn]
    while ready:
        node = ready.pop()
        found = _applied(node, gradients.pop(node, None))
        for (following, place), value in zip(node.next_functions, found, strict=False):
            if following is None:
                continue
            if value is not None:
                meta = following._input_metadata
                value = value.sum_to_size(meta[place].shape).to(meta[place].dtype)
                inputs = gradients.setdefault(following, [None] * len(meta))
                inputs[place] = value if inputs[place] is None else inputs[place] + value
            waiting[following] -= 1
            if not waiting[following]:
                ready.append(following)


def _applied(node, gradients):
    if gradients is None:
        return [None] * len(node.next_functions)
    if getattr(node, "materialize_grads", True) and isinstance(node, torch.autograd.function.BackwardCFunction):
        shapes = zip(gradients, node._input_metadata, strict=True)
        gradients = [
            torch.zeros(meta.shape, dtype=meta.dtype, device=meta.device) if value is None else value
            for value, meta in shapes
        ]
    found = node.apply(*gradients) if hasattr(node, "apply") else node(*gradients)
    return found if isinstance(found, tuple) else (found,)


class Recorder:
    """In place of the one that records: what would be replayed is run again."""

    def __init__(self, device):
        pass

    def record(self, step):
        return step


@contextmanager
def fake_cuda():
    """Everything on "cuda" is fake inside, as on a card of compute capability 9.0."""
    replaced = {
        "torch.Tensor.backward": backward,
        "torch.cuda.get_device_capability": lambda *_: (9, 0),
        "torch.cuda.is_bf16_supported": lambda *_, **__: True,
        "torch.amp.autocast_mode.torch.cuda.amp.common.amp_definitely_not_available": lambda: False,
        "minimind.runtime.device": lambda *_: DEVICE,
        "minimind.engine.graphs.Recorder": Recorder,
    }
    with FakeCuda() as mode:
        patches = [patch(name, value) for name, value in replaced.items()]
        for one in patches:
            one.start()
        try:
            yield mode
        finally:
            for one in reversed(patches):
                one.stop()
