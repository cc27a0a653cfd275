"""Made-up data: drawn objects on photographs."""
