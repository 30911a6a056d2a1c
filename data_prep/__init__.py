"""Raw chat logs to `Conversation` records with goal, persona, split and datasheet."""

import usersim  # noqa: F401 - installs the import hook for renamed modules
