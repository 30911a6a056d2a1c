"""ISO 639 codes of languages that corpora state by name."""

from __future__ import annotations

import re
from typing import Any

CODE = re.compile(r"([a-z]{2,3})(?:[-_].*)?")
UNNAMED = ("", "unknown", "und", "nolang", "none", "other")
PAIRS = """
    afrikaans:af albanian:sq arabic:ar armenian:hy azerbaijani:az basque:eu belarusian:be bengali:bn bokmal:nb
    bosnian:bs bulgarian:bg burmese:my catalan:ca chinese:zh croatian:hr czech:cs danish:da dutch:nl english:en
    esperanto:eo estonian:et finnish:fi french:fr galician:gl ganda:lg georgian:ka german:de greek:el gujarati:gu
    hebrew:he hindi:hi hungarian:hu icelandic:is indonesian:id irish:ga italian:it japanese:ja javanese:jv
    kannada:kn kazakh:kk khmer:km korean:ko kurdish:ku kyrgyz:ky lao:lo latin:la latvian:lv lithuanian:lt
    macedonian:mk malay:ms malayalam:ml maltese:mt maori:mi marathi:mr mongolian:mn nepali:ne norwegian:no
    nynorsk:nn pashto:ps persian:fa polish:pl portuguese:pt punjabi:pa romanian:ro russian:ru serbian:sr shona:sn
    sinhala:si slovak:sk slovene:sl slovenian:sl somali:so sotho:st spanish:es sundanese:su swahili:sw swedish:sv
    tagalog:tl tajik:tg tamil:ta tatar:tt telugu:te thai:th tsonga:ts tswana:tn turkish:tr ukrainian:uk urdu:ur
    uzbek:uz vietnamese:vi welsh:cy xhosa:xh yiddish:yi yoruba:yo zulu:zu
"""
LANGUAGES = dict(pair.split(":") for pair in PAIRS.split())
"""Name → ISO 639-1 code."""


def language_code(named: Any) -> str | None:
    """Returns the ISO 639 code of a language name or code; `other` if unknown, None if not stated."""
    name = named.strip().lower() if isinstance(named, str) else ""
    if name in UNNAMED:
        return None
    if name in LANGUAGES:
        return LANGUAGES[name]
    code = CODE.fullmatch(name)
    return code[1] if code else "other"
