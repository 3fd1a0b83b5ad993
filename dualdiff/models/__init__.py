"""Networks as plain modules. They know neither files nor games."""
