"""Names and texts that somebody made up to be obeyed: by a terminal, a markup parser, a shell, a file system."""

ESCAPES = "\x1b[2J\x1b]0;owned\x07"
RETURN = "\rall clean"
BIDI = "\u202egpj.exe\u2066"
NEWLINE = "\n0 of 4 queries leaked"
MARKUP = "[red]x[bold]"
EVERYTHING = f"a{ESCAPES}{RETURN}{BIDI}{NEWLINE}{MARKUP}\x9b31m\x7f\t-"

# one of these in what was printed, and a terminal obeys; a newline is looked for by counting lines
COMMANDS = [
    *map(chr, (*range(0x09), *range(0x0B, 0x20), *range(0x7F, 0xA0))),
    *"\u202a\u202b\u202c\u202d\u202e\u2066\u2069",
]

# file names that POSIX allows: each is one name below a folder, and none of them is another place
SHARD_NAMES = [
    "plain.parquet",
    f"{EVERYTHING}.parquet",
    "-rf.parquet",
    " space .parquet",
    "..parquet",
    "..evil.parquet",
    "%2e%2e%2Fup.parquet",
    "ѕhard.parquet",  # a Cyrillic s
    "a／b.parquet",  # a full-width slash
    "a#b?c&d=e.parquet",
    "http:::memory::x.parquet",
    "*.parquet",
    "[a-z].parquet",
    "a[0].parquet",
    "{question.__class__}.parquet",
    "$(touch pwned)`touch pwned`;'\"\\.parquet",
    "~.parquet",
    f"{'n' * 247}.parquet",  # 255 bytes: all that a file system gives
    "é" * 120 + ".parquet",
]
