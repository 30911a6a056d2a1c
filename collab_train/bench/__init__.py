"""`usersim collab bench`: assistants side by side, on tasks and simulated users that they were not trained with."""
