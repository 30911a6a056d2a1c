"""Simulated users: their protocols, the User LM, prompted and uncooperative users, the dialogue loop."""
