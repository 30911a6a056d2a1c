"""Raw chat logs to `Conversation` records with goal, persona, split and datasheet."""
