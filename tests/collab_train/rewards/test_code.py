"""Python found in replies: nested fences, helpers in other blocks, lists."""

from __future__ import annotations

import pytest

from collab_train.rewards.code import fenced_blocks, last_code


def test_a_fence_inside_of_a_text_does_not_end_the_block() -> None:
    code = 'def f(x):\n    """Doubles.\n\n    ```\n    f(1)\n    ```\n    """\n    return 2 * x\n'
    assert last_code([f"```python\n{code}```\nDone.\n```bash\nls\n```"], "f") == code


def test_a_block_brings_the_blocks_that_it_needs() -> None:
    blocks = "def half(x): return x / 2\n", "unused = 1\n", "def f(x): return half(x)\n"
    reply = "\n".join(f"```python\n{block}```" for block in blocks)
    assert last_code([reply], "f") == "def half(x): return x / 2\n\ndef f(x): return half(x)\n"


def test_an_earlier_version_of_the_same_function_stays_out() -> None:
    blocks = "def f(x): return 1\n", "def f(x): return 2\n", "print(f(1))\n"
    reply = "\n".join(f"```python\n{block}```" for block in blocks)
    assert last_code([reply], "f") == "def f(x): return 2\n"


@pytest.mark.parametrize(
    "reply",
    [
        "1. Do:\n   ```python\n   def f(x):\n       return x\n   ```",
        "- ```python\n  def f(x):\n      return x\n  ```",
        "~~~python\ndef f(x):\n    return x\n~~~",
        "````python\ndef f(x):\n    return x\n````",
    ],
    ids=["numbered", "bullet", "tildes", "four backticks"],
)
def test_indented_and_other_fences(reply: str) -> None:
    assert last_code([reply], "f") == "def f(x):\n    return x\n"


def test_other_languages_are_told_by_their_name() -> None:
    assert fenced_blocks("```bash\nls\n```\n```js title=x\n1\n```") == [("bash", "ls\n"), ("js", "1\n")]
