"""Licences of the corpora as stated by their publishers, shown on the datasheet. Check them before release."""

LICENCES = {
    "arena": "prompts CC-BY-4.0, answers CC-BY-NC-4.0",
    "in3": "Apache-2.0",
    "lmsys": "the LMSYS-Chat-1M agreement, accepted at its hub page",
    "mtrag": "Apache-2.0",
    "oasst": "Apache-2.0",
    "prism": "prompts CC-BY-4.0, answers CC-BY-NC-4.0",
    "sharegpt": "none stated",
    "simulatorarena": "MIT",
    "wildchat": "ODC-BY",
}
"""Licence by kind of source."""
