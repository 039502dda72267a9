"""Where a row can be seen: its shard as a link, where a browser can follow one, and a command that prints the row."""

import re
import shlex
from collections.abc import Iterable
from itertools import takewhile
from urllib.parse import quote

_FOLLOWED = re.compile(r"(https?|file)://", re.IGNORECASE)
_KEPT = ":/?#[]@!$&'()*+,;=%~"  # what stands unescaped in a URL


def shard_href(shard: str) -> str | None:
    """An address for http(s), file and absolute local paths; `None` for anything else, such as s3:// or javascript:."""
    if _FOLLOWED.match(shard):
        return quote(shard, safe=_KEPT, errors="surrogatepass")
    return "file://" + quote(shard, errors="surrogatepass") if shard.startswith("/") else None


def row_command(shard: str, row: int) -> tuple[str, str, str]:
    """The words of the command that prints a row, the shard quoted for a shell."""
    return "finf row", shlex.quote(shard), str(row)


def common_folder(names: Iterable[str]) -> str:
    """What all names begin with, up to a slash: said once, it need not be repeated."""
    parts = zip(*(name.split("/")[:-1] for name in names), strict=False)
    return "".join(f"{same[0]}/" for same in takewhile(lambda each: len(set(each)) == 1, parts))
