"""What the publisher of each corpus says about its use; on the datasheet beside the counts. Check before you ship."""

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
"""By kind of source."""
