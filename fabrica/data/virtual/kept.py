"""What was made lately, within a budget of memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """The last things made, as many as `most_bytes` hold, and always the last one; `size` tells the bytes of one."""

    def __init__(self, most_bytes: int, size: Callable[[T], int]) -> None:
        self.most_bytes, self._size = most_bytes, size
        self._made: OrderedDict[Hashable, T] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        found = self._made.pop(key, None)
        made = make() if found is None else found
        self._made[key] = made
        while len(self._made) > 1 and sum(map(self._size, self._made.values())) > self.most_bytes:
            self._made.popitem(last=False)
        return made
