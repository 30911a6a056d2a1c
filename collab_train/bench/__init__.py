"""`usersim collab bench`: comparison of assistants on tasks and simulated users that they were not trained with."""
