"""Hidden goals: annotations, teacher and local goal model."""
