"""`usersim adapt`: from raw chat logs to a measured User LM, in stages that resume."""
