"""Chat templates for the tests' tiny checkpoint: with marks of what the assistant says, without, and a strict one."""

import json
import shutil
from pathlib import Path

MARKED = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>\n"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}{{ eos_token }}{% endgeneration %}"
    "{% else %}{{ message['content'] }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
UNMARKED = MARKED.replace("{% generation %}", "").replace("{% endgeneration %}", "")
STRICT = "{% if messages[0]['role'] != 'user' %}{{ raise_exception('a user speaks first') }}{% endif %}" + MARKED


def with_template(checkpoint: Path, folder: Path, template: str) -> Path:
    """A copy of a checkpoint whose tokenizer has this chat template, and reads special tokens in a text as such."""
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"split_special_tokens": False}))
    (folder / "chat_template.jinja").write_text(template)
    return folder
