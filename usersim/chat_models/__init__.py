"""Chat models: assistants, prompted users, judges and teachers, over HTTP or in this process."""
