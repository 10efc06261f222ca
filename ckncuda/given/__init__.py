"""Arrays and parameters that users give, judged alike whether they come from a file or from Python."""
