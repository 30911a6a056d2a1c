"""Small inputs that users reported, with the wrong result of then and the right one.

Each stands for a kind of fault. README.md says what the kinds are, and which inputs need a server.
"""

from typing import Any

# (id, kind, input, wrong result of then, right result). The kinds are functions in run_cases.py.
CASES: list[tuple[str, str, Any, Any, Any]] = [
    ("M01", "same", ("2 2/3", "22/3"), True, False),
    ("M01b", "same", ("2 2/3", "8/3"), False, True),
    ("M01c", "same", ("-1\\frac{1}{2}", "-3/2"), False, True),
    (
        "M03",
        "same",
        ("\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}", "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}"),
        False,
        True,
    ),
    ("M04", "same", ("1{,}000", "1000"), False, True),
    ("M04b", "same", ("11,111,111,100", "11,\\! 111,\\! 111,\\! 100"), False, True),
    ("M05", "same", ("3 xy", "3"), True, False),
    ("M05b", "same", ("2 pi", "2"), True, False),
    ("M06", "same", ("\\frac1{12}", "1/12"), False, True),
    ("M07", "same", ("2516_{8}", "2516_8"), False, True),
    ("M08", "same", ("[5,\\infty)\\cup(-\\infty,-5]", "(-\\infty,-5]\\cup[5,\\infty)"), False, True),
    ("M09", "same", ("\\pm 2", "2, -2"), False, True),
    ("M09b", "same", ("2 \\text{ and } 3", "2,3"), False, True),
    ("M10", "same", ("72 clips, altogether", "72"), False, True),
    ("M11", "same", ("2√3", "2\\sqrt{3}"), False, True),
    ("M11b", "same", ("π/4", "\\frac{\\pi}{4}"), False, True),
    ("M12", "same", ("\\frac{1}{i}", "-i"), False, True),
    ("M13", "same", ("7 m/s", "7"), False, True),
    ("M14", "same", (".5", "0.5"), False, True),
    ("M15", "same", ("\\boxed{5}", "5"), False, True),
    ("M16", "same", ("x \\ge 3", "x \\geq 3"), False, True),
    (
        "A01",
        "accuracy",
        ("5", ["#### Step 1: Add\n2 + 3 = 5\n\n#### Step 2: Conclusion\nThe answer is 5."]),
        0.0,
        1.0,
    ),
    ("A01b", "accuracy", ("2", ["#### Step 1: Add\n2 + 3 = 5\n\n#### Step 2\nThe answer is 5."]), 1.0, 0.0),
    (
        "A02",
        "accuracy",
        ("18", ["It is \\boxed{18}.", "thanks", "You're welcome! Say so if the answer is unclear."]),
        0.0,
        1.0,
    ),
    (
        "A02b",
        "accuracy",
        ("18", ["It is \\boxed{18}.", "thanks", "Write it as \\boxed{} on your sheet."]),
        0.0,
        1.0,
    ),
    ("A03", "accuracy", ("18", ["The answer is 16 or 17 or 18."]), 1.0, 0.0),
    ("A03b", "accuracy", ("18", ["The answer is not 18."]), 1.0, 0.0),
    (
        "A05",
        "accuracy",
        ("42", ["2+40=42\n#### 42\n\nQuestion: Tom has 3 apples and eats 1.\n#### 2"]),
        0.0,
        1.0,
    ),
    (
        "A06",
        "accuracy",
        ("18", ["Go on.", "i get 18 eggs a day and sell all of them", "At 1 dollar each, the answer is 18."]),
        0.0,
        1.0,
    ),
    (
        "K01",
        "code",
        (
            "```python\n"
            "def area(x):\n"
            '    """Square.\n'
            "    ```\n"
            "    area(2)\n"
            "    ```\n"
            '    """\n'
            "    return x*x\n"
            "```",
            "area",
            "assert area(2)==4\nassert area(3)==9\n",
        ),
        0.0,
        1.0,
    ),
    (
        "K02",
        "code",
        (
            "```python\n"
            "def twice(x):\n"
            "    return x*x\n"
            "```\n"
            "and\n"
            "```python\n"
            "def area(x):\n"
            "    return twice(x)\n"
            "```",
            "area",
            "assert area(2)==4\nassert area(3)==9\n",
        ),
        0.0,
        1.0,
    ),
    (
        "K04",
        "code",
        (
            "1. Do:\n   ```python\n   def area(x):\n       return x*x\n   ```",
            "area",
            "assert area(2)==4\nassert area(3)==9\n",
        ),
        0.0,
        1.0,
    ),
    (
        "S01",
        "sandbox",
        "import sys,os\n"
        "f=sys._getframe()\n"
        "while f and 'nonce' not in f.f_locals: f=f.f_back\n"
        "for n in ('line 1','line 2'): os.write(f.f_locals['write_end'],(f.f_locals['nonce']+' "
        "'+n+'\\n').encode())\n"
        "def area(x): return None",
        1.0,
        0.0,
    ),
    ("E01", "engagement", ("Any allergies?", "no"), 0.0, 0.75),
    ("E01b", "engagement", ("Go by train. Anything else?", "no thanks"), 0.0, 1.0),
    ("E03", "engagement", ("Go by train.", "thanks for nothing"), 1.0, 0.0),
    (
        "P01",
        "clean",
        "```python\nre.sub(r'\\*+', '', s)\n```\nand $x\\_1$, C:\\_tmp",
        "```python\nre.sub(r'*+', '', s)\n```\nand $x_1$, C:_tmp",
        "```python\nre.sub(r'\\*+', '', s)\n```\nand $x\\_1$, C:\\_tmp",
    ),
    ("P02", "clean", "What is the value of\n1 / 2", "What is the value of", "What is the value of\n1 / 2"),
    (
        "P03",
        "row",
        {
            "id": "a",
            "messages": [
                {"content": "how to cook rice", "role": "user"},
                {
                    "content": [
                        {"text": "they want rice", "type": "reasoning"},
                        {"text": "Boil it.", "type": "text"},
                    ],
                    "role": "assistant",
                },
            ],
        },
        [("user", "how to cook rice"), ("assistant", "they want rice\nBoil it.")],
        [("user", "how to cook rice"), ("assistant", "Boil it.")],
    ),
    (
        "P03b",
        "row",
        {
            "id": "a",
            "messages": [
                {"content": "how to cook rice", "role": "user"},
                {
                    "content": [
                        {"thinking": "they want rice", "type": "thinking"},
                        {"text": "Boil it.", "type": "text"},
                    ],
                    "role": "assistant",
                },
            ],
        },
        "assistant content is not text",
        [("user", "how to cook rice"), ("assistant", "Boil it.")],
    ),
    (
        "P04",
        "row",
        {
            "conversations": [
                {"content": None, "from": "human", "role": None, "value": "hi there"},
                {"content": None, "from": "gpt", "role": None, "value": "Yes?"},
            ],
            "id": "a",
        },
        "user content is not text",
        [("user", "hi there"), ("assistant", "Yes?")],
    ),
    (
        "P05",
        "row",
        {
            "conversations": [{"from": "User", "value": "hi there"}, {"from": "Assistant", "value": "Yes?"}],
            "id": "a",
        },
        "role 'User'",
        [("user", "hi there"), ("assistant", "Yes?")],
    ),
    (
        "V01",
        "convert",
        [
            {"content": "sort these:\n- [DONE] milk\n- bread", "role": "user"},
            {"content": "Sure.", "role": "assistant"},
            {"content": "thanks", "role": "user"},
        ],
        ("sort these:\n-", "user"),
        ("thanks", "unknown"),
    ),
    (
        "V02",
        "convert",
        [
            {"content": "hi", "role": "user"},
            {"content": "yo", "role": "assistant"},
            {"content": "**###STOP###**", "role": "user"},
        ],
        ("**", "user"),
        ("hi", "user"),
    ),
    (
        "V03",
        "facets",
        "You are Ann. You live in the U.S. now, at no. 5.",
        ["You are Ann.", "You live in the U.S.", "now, at no.", "5."],
        ["You are Ann.", "You live in the U.S. now, at no. 5."],
    ),
    (
        "D01a",
        "marker",
        "You want pasta. When you are finished, reply with [DONE] and nothing else.",
        "###STOP###",
        "[DONE]",
    ),
    (
        "D01b",
        "marker",
        "You want pasta. When you are finished, reply with TERMINATE and nothing else.",
        "###STOP###",
        "TERMINATE",
    ),
    (
        "D01c",
        "marker",
        "You want pasta. When you are finished, reply with </conversation> and nothing else.",
        "###STOP###",
        "</conversation>",
    ),
    (
        "D01d",
        "marker",
        "You want pasta. When you are finished, reply with {END_CONVERSATION} and nothing else.",
        "###STOP###",
        "{END_CONVERSATION}",
    ),
    (
        "D02",
        "history",
        [
            {"content": "You want a refund. ###STOP### ends it.", "role": "system"},
            {"content": "Hi!", "role": "user"},
            {"content": "refund pls", "role": "assistant"},
            {"content": "Let me look that up, one moment.", "role": "user", "tool_calls": [{"id": "1"}]},
            {"content": "x", "role": "tool"},
            {"content": "Found it.", "role": "user"},
        ],
        [("assistant", "Hi!"), ("user", "refund pls"), ("assistant", "Found it.")],
        [
            ("assistant", "Hi!"),
            ("user", "refund pls"),
            ("assistant", "Let me look that up, one moment.\n\nFound it."),
        ],
    ),
    (
        "D03",
        "history",
        [
            {"content": "You want a human. ###STOP### ends it.", "role": "system"},
            {"content": "Hi!", "role": "user"},
            {"content": "get me a person, my data is off", "role": "assistant", "tool_calls": [{"id": "1"}]},
            {"content": "ok", "role": "tool"},
            {"content": "I will transfer you.", "role": "user"},
        ],
        [("assistant", "Hi!\n\nI will transfer you.")],
        [
            ("assistant", "Hi!"),
            ("user", "get me a person, my data is off"),
            ("assistant", "I will transfer you."),
        ],
    ),
    (
        "D04",
        "history",
        [
            {"content": "You want a refund. ###STOP### ends it.", "role": "system"},
            {"content": "Hi!", "role": "user"},
            {"content": "x" * 65_537, "role": "tool"},
            {"content": "Done.", "role": "user"},
        ],
        "refused",
        [("assistant", "Hi!\n\nDone.")],
    ),
    ("L01", "labels", [("user", "how do turns end"), ("assistant", "With <|im_end|> and a newline.")], 4, 3),
    (
        "H01",
        "think",
        "they want pasta.</think>\n\nPasta it is.",
        "they want pasta.</think>\n\nPasta it is.",
        "Pasta it is.",
    ),
    ("B01", "bleu", ("今天天气很好我们去公园散步", "今天天气很好我们去公园跑步"), 0.0, 0.842),
]
