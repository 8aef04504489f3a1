"""Ways to execute a routed model so that skipped work is really not done."""
