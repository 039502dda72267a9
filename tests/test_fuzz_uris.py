"""A joined URI lies below its root, and a URI is located or refused: nothing names another place."""

import os.path
import posixpath

import fuzz_counts
from hypothesis import example, given, settings
from hypothesis import strategies as st

from finf_core.errors import InputError
from tasks.filesystems import is_local, locate, locate_for_arrow
from tasks.storage import join

PIECES = st.sampled_from(
    [
        *("..", ".", "/", "//", "a", "~", "%2e%2e", "%2F", "．．", "／", "..\\", "\0", "\n", "\ud800", "::", "://"),
        *(
            "file:",
            "memory://",
            "@",
            "#",
            "?",
            "*",
            "[",
            "-",
            " ",
            "?versionId=1",
            "http",
            "s3",
            "local:",
            "filecache::",
        ),
    ]
)
PARTS = st.lists(PIECES, max_size=6).map("".join) | st.text(max_size=8)
ROOTS = ("s3://bucket/store", "s3://bucket", "/data/store", "/data/store/")


@given(root=st.sampled_from(ROOTS), parts=st.lists(PARTS, min_size=1, max_size=3))
@example(root="/data/store", parts=["a", "..", "b"])
@example(root="/data/store", parts=["a/../../b"])
@example(root="/data/store", parts=["::memory://x"])
@example(root="s3://bucket", parts=["../other"])
@settings(max_examples=fuzz_counts.NUM_EXAMPLES)
def test_a_joined_uri_lies_below_its_root_for_every_reader_or_is_refused(root: str, parts: list[str]) -> None:
    fuzz_counts.tried["uris"] += 1
    try:
        uri = join(root, *parts)
    except InputError:
        return
    below = root.rstrip("/") + "/"
    assert uri.startswith(below)
    assert posixpath.normpath(uri.removeprefix("s3:/")) == uri.removeprefix("s3:/")  # nothing to take away
    if root.startswith("s3://"):
        return
    try:
        places = [locate(uri), locate_for_arrow(uri)]
    except InputError:
        return
    filesystem = places[0][0]
    assert is_local(filesystem)
    assert [path for _, path in places] == [uri] * 2
    assert os.path.realpath(uri).startswith(below)


@given(uri=st.lists(PIECES, max_size=8).map("".join) | st.text(max_size=12))
@example(uri="filecache::memory://x")
@example(uri="file:///a/b")
@example(uri="~://")
@example(uri="~no-such-user/x")
@settings(max_examples=fuzz_counts.NUM_EXAMPLES)
def test_any_uri_is_located_or_refused(uri: str) -> None:
    fuzz_counts.tried["uris"] += 1
    if uri.startswith(("s3://", "s3a://")):
        return  # needs a client: tests/test_hostile_names.py
    try:
        filesystem, path = locate(uri)
    except InputError:
        return
    assert not is_local(filesystem) or os.path.isabs(path)
